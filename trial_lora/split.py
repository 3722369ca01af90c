"""Scratch: projection with K split over programs; the last of a row block adds up."""
import sys, torch, triton
import triton.language as tl
from backends.torch_cuda.codes import coded, project as plain_project, empty_codes
from backends.torch_cuda.kernels import rows as R, tails as T
from backends.torch_cuda.kernels.rows import Forms
sys.argv = ["micro"]
exec(open("trial_lora/micro.py").read().split("with torch.inference_mode()")[0])

@triton.jit(do_not_specialize=["num_rows"])
def _split(codes, scales, down, gains, scratch, counters, num_rows, own, tail, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANKS: tl.constexpr, PARTS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    ranks, cols = tl.arange(0, RANKS), tl.arange(0, COLUMNS)
    is_row, is_rank = rows < num_rows, ranks < tail
    codes += rows.to(tl.int64)[:, None] * width
    span = tl.cdiv(tl.cdiv(own, COLUMNS), PARTS) * COLUMNS
    sums = tl.zeros((ROWS, RANKS), tl.float32)
    for start in range(part * span, min(part * span + span, own), COLUMNS):
        is_col = start + cols < own
        x = tl.load(codes + (start + cols)[None, :], is_row[:, None] & is_col[None, :], 0.0)
        a = tl.load(down + ranks[None, :] * own + (start + cols)[:, None], is_rank[None, :] & is_col[:, None], 0.0)
        sums = tl.dot(x.to(tl.float16), a, sums)
    places = rows[:, None] * RANKS + ranks[None, :]
    size = num_rows * RANKS
    tl.store(scratch + part * size + places, sums, is_row[:, None])
    tl.debug_barrier()
    if tl.atomic_add(counters + tl.program_id(0), 1, sem="acq_rel") == PARTS - 1:
        sums = tl.zeros((ROWS, RANKS), tl.float32)
        for other in range(PARTS):
            sums += tl.load(scratch + other * size + places, is_row[:, None], 0.0, cache_modifier=".cg")
        tl.store(counters + tl.program_id(0), 0)
        sums *= tl.load(gains + ranks, is_rank, 0.0)[None, :]
        over = tl.maximum(tl.max(tl.abs(sums), 1) / 448.0, 1.0)
        shrink = tl.exp2(-tl.ceil(tl.log2(over)))
        tails = (sums * shrink[:, None]).to(codes.dtype.element_ty)
        tl.store(codes + (own + ranks)[None, :], tails, is_row[:, None] & is_rank[None, :])
        if tl.max(over, 0) > 1.0:
            for start in range(0, own, COLUMNS):
                mask = is_row[:, None] & (start + cols < own)[None, :]
                x = tl.load(codes + (start + cols)[None, :], mask, 0.0).to(tl.float32)
                tl.store(codes + (start + cols)[None, :], (x * shrink[:, None]).to(codes.dtype.element_ty), mask)
            tl.store(scales + rows, tl.load(scales + rows, is_row, 0.0) / shrink, is_row)

with torch.inference_mode():
    for m, k, r in [(4608, 3072, 16), (4608, 15360, 16), (512, 3072, 16), (4608, 15360, 64)]:
        x = torch.randn(1, m, k, device=dev, dtype=torch.bfloat16)
        down = torch.randn(r, k, device=dev).half(); gains = torch.full((r,), 1e-3, device=dev)
        counters = torch.zeros(4096, device=dev, dtype=torch.int32)
        def make(): return R.activated(x, None, Forms(False, True, r))
        graphs = {"none": graph_of(make, 10)}
        want = make(); T.project(want.codes, want.scales, down, gains)
        def old():
            rows = make(); T.project(rows.codes, rows.scales, down, gains)
        graphs["old"] = graph_of(old, 10)
        for br, bc, w, st, parts in [(32, 256, 4, 3, 2), (32, 256, 4, 3, 4), (32, 128, 4, 4, 4), (64, 128, 4, 4, 4), (64, 128, 4, 4, 8), (64, 256, 4, 3, 6), (64, 128, 4, 3, 12)]:
            scratch = torch.empty(parts * m * max(16, r), device=dev)
            KEEP.append((scratch, counters, down, gains, x))
            def call(br=br, bc=bc, w=w, st=st, parts=parts, scratch=scratch):
                rows = make(); c = rows.codes
                _split[(triton.cdiv(m, br), parts)](c, rows.scales, down, gains, scratch, counters, m, k, r, c.stride(-2), br, bc, max(16, r), parts, num_warps=w, num_stages=st)
                return rows
            try:
                got = call()
                same = (got.codes.view(torch.uint8) == want.codes.view(torch.uint8)).float().mean()
                graphs[f"{br}/{bc}/{w}/{st}/{parts}[{same:.5f}]"] = graph_of(call, 10)
            except Exception as e:
                print("fail", br, bc, w, st, parts, str(e)[:100])
        show(f"M={m} K={k} R={r}", us(graphs, 10), "none")

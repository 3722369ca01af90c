"""Scratch: what columns cost a product, variants of the projection, of GELU + codes and of norms."""
import importlib.util, sys, itertools, time, pathlib
import torch, triton
from backends.torch_cuda.codes import coded, multiplied
from backends.torch_cuda.kernels import rows as R, tails as T
from backends.torch_cuda.kernels.rows import Forms
dev = "cuda"
torch.manual_seed(0)

HEAT = None
def graph_of(call, n):
    call(); torch.cuda.synchronize()
    g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g):
        for _ in range(n): call()
    return g

def us(graphs, n, rounds=3, reps=4):
    """microseconds of one call in each graph, best of interleaved rounds"""
    best = {k: 1e9 for k in graphs}
    import random
    order = list(graphs.items())
    for r in range(rounds):
        random.Random(r).shuffle(order)
        for k, g in order:
            HEAT.replay() if HEAT else None
            g.replay()
            a, b = torch.cuda.Event(True), torch.cuda.Event(True)
            a.record()
            for _ in range(reps): g.replay()
            b.record(); torch.cuda.synchronize()
            best[k] = min(best[k], a.elapsed_time(b) * 1e3 / reps / n)
    return best

def variant(name, module, *changes):
    src = pathlib.Path(module.__file__).read_text()
    for a, b in changes:
        assert a in src, (name, a)
        src = src.replace(a, b)
    path = pathlib.Path(f"/tmp/{name}.py"); path.write_text(src)
    spec = importlib.util.spec_from_file_location(name, path); m = importlib.util.module_from_spec(spec)
    sys.modules[name] = m; spec.loader.exec_module(m)
    return m

def show(title, found, base=None):
    print(title, " ".join(f"{k}={v:.1f}" + (f"(+{v - found[base]:.1f})" if base and k != base else "") for k, v in found.items()), flush=True)

KEEP = []
def wide(m, k, stride):
    x = torch.zeros(m, stride, device=dev, dtype=torch.uint8)
    c, s = coded(torch.randn(m, k, device=dev))
    x[:, :k] = c.view(torch.uint8)
    return x.view(torch.float8_e4m3fn)[:, :k], s

def products():
    print("== products us by columns more / row stride more")
    for m, n, k in [(4608, 21504, 3072), (4608, 3072, 15360), (4096, 9216, 3072), (4096, 3072, 3072), (4096, 12288, 3072), (4096, 3072, 12288), (512, 9216, 3072), (512, 3072, 12288)]:
        graphs = {}
        for t, p in ((0, 0), (16, 16), (16, 128), (64, 64), (64, 128), (128, 128), (256, 256), (0, 128)):
            c, s = wide(m, k + t, k + p); w, ws = wide(n, k + t, k + p)
            b = torch.zeros(n, device=dev, dtype=torch.bfloat16)
            KEEP.append((c, s, w, ws, b))
            try:
                graphs[f"{t}/{p}"] = graph_of(lambda c=c, s=s, w=w, ws=ws, b=b: multiplied(c, s, w, ws, b, torch.bfloat16), 10)
            except Exception as e:
                print("fail", t, p, str(e)[:200])
        show(f"{m}x{n}x{k}", us(graphs, 10), "0/0")
        KEEP.clear()

def projections():
    print("== projection us, on top of what makes the codes")
    for m, k, r in [(4608, 3072, 16), (4608, 15360, 16), (512, 3072, 16), (4608, 3072, 64), (4608, 15360, 64)]:
        x = torch.randn(1, m, k, device=dev, dtype=torch.bfloat16); KEEP.append(x)
        down = torch.randn(r, k, device=dev).half(); gains = torch.full((r,), 1e-3, device=dev); KEEP.append((down, gains))
        def make():
            return R.activated(x, None, Forms(False, True, r))
        graphs = {"none": graph_of(make, 10)}
        for br, bc, w, st in [(16, 256, 4, 4), (32, 128, 4, 5), (32, 256, 4, 3), (32, 256, 8, 4), (64, 128, 4, 4), (64, 256, 8, 3)]:
            T._BLOCK_ROWS, T._BLOCK_COLUMNS = br, bc
            def call(br=br, bc=bc, w=w, st=st):
                rows = make(); codes = rows.codes
                width = codes.shape[-1]
                T._project[(triton.cdiv(m, br),)](codes, rows.scales, down, gains, m, k, r, width, br, bc, max(16, r), num_warps=w, num_stages=st)
            try:
                graphs[f"{br}/{bc}/{w}/{st}"] = graph_of(call, 10)
            except Exception as e:
                print("fail", br, bc, w, st, str(e)[:80])
        show(f"M={m} K={k} R={r}", us(graphs, 10), "none")

F16 = '''
@triton.jit
def _gelu16(n):
    return tl.inline_asm_elementwise("""{
        .reg .b32 s, t, u, h, c0, c1, one, half;
        mov.b32 c0, 0x3A623A62;
        mov.b32 c1, 0x29B929B9;
        mov.b32 one, 0x3C003C00;
        mov.b32 half, 0x38003800;
        mul.rn.f16x2 s, $1, $1;
        fma.rn.f16x2 t, s, c1, one;
        mul.rn.f16x2 u, $1, c0;
        mul.rn.f16x2 u, u, t;
        tanh.approx.f16x2 u, u;
        mul.rn.f16x2 h, $1, half;
        fma.rn.f16x2 $0, h, u, h;
    }""", "=r,r", [n], tl.float16, True, 2)


@triton.jit
def _gelu('''

def gelus():
    import numpy as np
    assert np.float16(0.7978845608).view(np.uint16) == 0x3A62 and np.float16(0.044715).view(np.uint16) == 0x29B9, (hex(np.float16(0.7978845608).view(np.uint16)), hex(np.float16(0.044715).view(np.uint16)))
    print("== GELU and codes us, behind the product before")
    back = ("    row = tl.program_id(0).to(tl.int64)\n    batch, place = row // length, row % length\n    plain += row", "    row = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)\n    batch, place = row // length, row % length\n    plain += row")
    first = ("    tl.load(pointer + cols, mask, 0.0)", "    tl.load(pointer + cols, mask, 0.0, eviction_policy='evict_first')")
    first = ("return tl.load(pointer + cols, mask, 0.0).to(tl.float32)", "return tl.load(pointer + cols, mask, 0.0, eviction_policy='evict_first').to(tl.float32)")
    half = [("\n@triton.jit\ndef _gelu(", F16),
            ("n3, n4 = _gelu(_loaded(b, cols3, mask3), IS_ROUGH), _gelu(_loaded(b, cols4, mask4), IS_ROUGH)", "n3, n4 = _gelu16(_loaded(b, cols3, mask3).to(tl.float16)), _gelu16(_loaded(b, cols4, mask4).to(tl.float16))"),
            ("largest = tl.maximum(tl.max(tl.abs(n3), 0), tl.max(tl.abs(n4), 0))\n        if HAS_PLAIN", "largest = tl.maximum(tl.max(tl.abs(n3), 0), tl.max(tl.abs(n4), 0)).to(tl.float32)\n        if HAS_PLAIN"),
            ("n3 * (1.0 / s)", "n3.to(tl.float32) * (1.0 / s)"), ("n4 * (1.0 / s)", "n4.to(tl.float32) * (1.0 / s)")]
    old = [("""        u = n * (0.7978845608028654 + 0.035677408136300125 * n * n)
""", """        u = 0.7978845608028654 * n * (1.0 + 0.044715 * n * n)
"""), ("        half = 0.5 * n\n        return half + half * tanh", "        return 0.5 * n * (1.0 + tanh)")]
    def regs(n): return ("num_warps=_warps(sum(dims)),", f"num_warps=_warps(sum(dims)), maxnreg={n},")
    def warps(n): return ("return 8 if dim > 8192 else 4", f"return {n}")
    kinds = {"now": [], "old": old, "evict": [first], "w4": [warps(4)], "w16": [warps(16)], "r64": [regs(64)], "r96 w4": [warps(4), regs(120)], "half": half, "half w4": [*half, warps(4)], "half evict r48": [*half, first, regs(48)]}
    for m, a_dim, b_dim in [(4608, 3072, 12288), (4096, 0, 12288)]:
        hs = [torch.randn(1, m, b_dim + (9216 if a_dim else 0), device=dev, dtype=torch.bfloat16) for _ in range(3)]
        a = torch.randn(1, m, a_dim, device=dev, dtype=torch.bfloat16) if a_dim else None
        KEEP.append((hs, a))
        graphs = {}
        for name, changes in kinds.items():
            mod = variant(f"rows_{name.replace(' ', '_')}", R, *changes)
            def call(mod=mod):
                for h in hs:
                    mod.activated(a, h[..., 9216 if a_dim else 0:], mod.Forms(False, True))
            try:
                graphs[name] = graph_of(call, 5)
            except Exception as e:
                print("fail", name, str(e)[:200])
        show(f"M={m} {a_dim}+{b_dim}, three", us(graphs, 5, rounds=4), "now")

def norms():
    print("== norms us, behind a gated add")
    for m in (4608, 4096, 512):
        x, y = (torch.randn(1, m, 3072, device=dev, dtype=torch.bfloat16) for _ in range(2))
        g, sh, sc = (torch.randn(1, 1, 3072, device=dev, dtype=torch.bfloat16) for _ in range(3))
        graphs = {"add": graph_of(lambda: R.gated_add(x, g, y), 10)}
        for w in (1, 2, 4, 8):
            mod = variant(f"rows_n{w}", R, ("return 8 if dim > 8192 else 4", f"return {w}"))
            graphs[f"add, norm w{w}"] = graph_of(lambda mod=mod: mod.modulated(R.gated_add(x, g, y), sh, sc, 1e-6, mod.Forms(False, True)), 10)
            graphs[f"both w{w}"] = graph_of(lambda mod=mod: mod.gated_modulated(x, g, y, sh, sc, 1e-6, mod.Forms(False, True)), 10)
        for b, w in ((512, 4), (1024, 8), (3072, 4), (1024, 2)):
            if b == 3072: continue
            mod = variant(f"rows_g{b}_{w}", R, ("block = min(1024, triton.next_power_of_2(dim))", f"block = {b}"), ("_batch_stride(gate, batch), block, num_warps=4", f"_batch_stride(gate, batch), block, num_warps={w}"))
            graphs[f"add b{b} w{w}"] = graph_of(lambda mod=mod: mod.gated_add(x, g, y), 10)
        show(f"M={m}", us(graphs, 10), "add")

with torch.inference_mode():
    for name in sys.argv[1:]:
        t = time.time()
        try:
            globals()[name]()
        except Exception as e:
            import traceback; traceback.print_exc()
        print(f"-- {name} took {time.time() - t:.1f} s", flush=True)

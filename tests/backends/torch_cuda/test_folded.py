"""LoRAs inside an eight-bit product: the same as beside it but for rounding, and gone to the bit after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backends.torch_cuda.adapters import TorchAdapters
from backends.torch_cuda.codes import ARRIVALS, LARGEST, coded, in_two_parts, multiplied, project
from backends.torch_cuda.eight_bit import EightBitLinear, EightBitWeight, computes_in_eight_bits
from backends.torch_cuda.folded import MOST_COLUMNS, MOST_SPLIT
from backends.torch_cuda.ops import TorchOps
from backends.torch_cuda.packed import PackedWeight
from flux_core.plan import Component
from flux_core.weights.lora.patches import Axis, Delta, Kronecker, LowRank, Magnitude, Patch
from tests.support.fused import DEVICE, HAS_GPU, mend_interpreter, triton_only

OUT, IN = 48, 64
NAN = 0x7F  # as a code
HAS_EIGHT_BITS = not HAS_GPU or computes_in_eight_bits(DEVICE)
eight_bits = pytest.mark.skipif(
    not HAS_EIGHT_BITS, reason="NOT TESTED HERE: this GPU does not multiply eight-bit floats"
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def low_rank(rank: int, seed: int = 2, size: float = 0.1, rows: int = OUT, columns: int = IN) -> LowRank:
    up, down = draw(rows, rank, seed=seed), draw(rank, columns, seed=seed + 1)
    return LowRank((size * up).numpy(), down.numpy(), 0.5)


def patch(delta: Delta, layer: str = "a", rows: tuple[int, int] = (0, OUT), **more: Any) -> Patch:
    return Patch(Component.TRANSFORMER, layer, rows, IN, delta, **more)


class Model:
    """Two eight-bit leaves with what LoRAs are hung on with; counts what recordings are told of."""

    def __init__(self, columns: int = IN) -> None:
        def leaf(seed: int) -> EightBitLinear:
            bias = nn.Parameter(draw(OUT, seed=seed + 1), requires_grad=False)
            return EightBitLinear(EightBitWeight.made_of(draw(OUT, columns, seed=seed)), bias)

        self.a, self.b = leaf(20), leaf(30)
        self.changes = 0
        self.adapters = TorchAdapters(
            {"a": self.a, "b": self.b}, torch.device("cpu"), torch.float32, self._changed
        )
        self.x = draw(1, 5, columns, seed=9)

    def added(self, before: Tensor) -> Tensor:
        """What LoRAs add to a's output."""
        return self.a(self.x) - before

    def _changed(self) -> None:
        self.changes += 1


def exact(lora: LowRank, x: Tensor, strength: float) -> Tensor:
    return strength * lora.scale * x @ torch.from_numpy(lora.up @ lora.down).T


def share(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(
    ("rank", "tail"),
    [(1, 128), (4, 128), (16, 128), (20, 128), (MOST_SPLIT, 128), (MOST_SPLIT + 1, 128), (129, 256)],
)
@pytest.mark.parametrize("strength", [1.0, -0.3, 0.01])
def test_a_lora_in_the_product_is_the_one_beside_it_but_for_rounding(
    rank: int, tail: int, strength: float
) -> None:
    model, lora = Model(), low_rank(rank)
    before = model.a(model.x)
    model.adapters.attach("lora", [patch(lora)], strength)
    assert model.a.tail == tail
    assert not model.a.beside
    assert share(model.added(before), exact(lora, model.x, strength)) < 0.08


def test_a_lora_is_heard_beside_codes_that_a_file_has_without_scales() -> None:
    codes = (0.02 * draw(OUT, IN)).to(torch.float8_e4m3fn).view(torch.uint8)
    linear = EightBitLinear(EightBitWeight.made_of(PackedWeight("F8_E4M3", (OUT, IN), codes, {})), None)
    adapters = TorchAdapters({"a": linear}, torch.device("cpu"), torch.float32)
    x, lora = draw(1, 5, IN, seed=9), low_rank(4, size=0.002)
    before = linear(x)
    adapters.attach("lora", [patch(lora)], 1.0)
    assert linear.tail == 128
    assert share(linear(x) - before, exact(lora, x, 1.0)) < 0.08


def test_the_weight_is_what_it_was_while_loras_lie_beside_it_and_after() -> None:
    model = Model()
    weight = model.a.weight_in(torch.float32).clone()
    codes, before = model.a.get_buffer("weight.codes").clone(), model.a(model.x)
    model.adapters.attach("one", [patch(low_rank(4))], 1.0)
    assert torch.equal(model.a.weight_in(torch.float32), weight)
    assert torch.equal(model.a.get_buffer("weight.codes"), codes)
    model.adapters.detach("one")
    assert torch.equal(model.a.get_buffer("weight.codes"), codes)
    assert model.a.get_buffer("weight.codes").is_contiguous()
    assert torch.equal(model.a(model.x), before)


def test_several_loras_add_up_and_one_that_goes_leaves_the_other_to_the_bit() -> None:
    model, loras = Model(), (low_rank(4, seed=2), low_rank(20, seed=5, rows=16))
    patches = [patch(loras[0])], [patch(loras[1], rows=(8, 24))]
    before = model.a(model.x)
    model.adapters.attach("one", patches[0], 1.0)
    with_one = model.a(model.x)
    model.adapters.attach("two", patches[1], 0.7)
    wanted = exact(loras[0], model.x, 1.0)
    wanted[..., 8:24] += exact(loras[1], model.x, 0.7)
    assert model.a.tail == 128
    assert share(model.added(before), wanted) < 0.06
    model.adapters.detach("two")
    assert torch.equal(model.a(model.x), with_one)


def test_a_lora_that_leaves_no_room_for_two_codes_a_rank_goes_again_to_the_bit() -> None:
    model, loras = Model(), (low_rank(MOST_SPLIT, seed=2), low_rank(1, seed=5))
    before = model.a(model.x)
    model.adapters.attach("one", [patch(loras[0])], 1.0)
    assert parts_of_down(model.a) == 1
    with_one = model.a(model.x)
    model.adapters.attach("two", [patch(loras[1])], 0.7)
    assert parts_of_down(model.a) == 2
    assert model.a.tail == 128
    wanted = exact(loras[0], model.x, 1.0) + exact(loras[1], model.x, 0.7)
    assert share(model.added(before), wanted) < 0.06
    model.adapters.detach("two")
    assert parts_of_down(model.a) == 1
    assert torch.equal(model.a(model.x), with_one)


def parts_of_down(leaf: EightBitLinear) -> int:
    return len(leaf.get_buffer("_folded.down"))


def test_a_lora_on_one_layer_leaves_others_alone() -> None:
    model = Model()
    before = model.b(model.x)
    model.adapters.attach("one", [patch(low_rank(4))], 1.0)
    assert model.b.tail == 0
    assert torch.equal(model.b(model.x), before)


def test_another_strength_writes_numbers_and_changes_nothing_that_was_recorded() -> None:
    model, other = Model(), Model()
    model.adapters.attach("one", [patch(low_rank(4))], 1.0)
    changes, tensors = model.changes, [each.data_ptr() for each in model.a.buffers()]
    model.adapters.weigh("one", -0.4)
    assert model.changes == changes
    assert [each.data_ptr() for each in model.a.buffers()] == tensors
    other.adapters.attach("one", [patch(low_rank(4))], -0.4)
    assert torch.equal(model.a(model.x), other.a(model.x))


def test_what_is_many_times_larger_than_the_weight_stays_beside_the_product() -> None:
    model, lora = Model(), low_rank(4)
    before = model.a(model.x)
    model.adapters.attach("one", [patch(lora)], 1e4)
    assert model.a.tail == 0
    assert share(model.added(before), exact(lora, model.x, 1e4)) < 1e-5
    changes = model.changes
    model.adapters.weigh("one", 1.0)
    assert model.a.tail == 128
    assert model.changes > changes
    model.adapters.weigh("one", 1e4)
    assert model.a.tail == 0
    assert share(model.added(before), exact(lora, model.x, 1e4)) < 1e-5


@pytest.mark.parametrize(
    "more",
    [
        patch(Kronecker(draw(6, 8).numpy(), (0.3 * draw(8, 8)).numpy())),
        patch(low_rank(4), magnitude=Magnitude(np.ones(OUT, np.float32), Axis.ROWS)),
        patch(LowRank(draw(OUT, 2).numpy(), draw(2, IN).numpy(), 1.0, draw(OUT).numpy())),
    ],
    ids=["LoKr", "DoRA", "bias"],
)
def test_what_is_no_plain_low_rank_matrix_stays_beside_the_product(more: Patch) -> None:
    model, alone = Model(), Model()
    alone.adapters.attach("more", [more], 1.0)
    assert alone.a.tail == 0
    before = model.a(model.x)
    model.adapters.attach("one", [patch(low_rank(4))], 1.0)
    with_one = model.added(before)
    model.adapters.attach("more", [more], 1.0)
    assert model.a.tail == 128
    assert len(model.a.beside) == 1
    assert torch.allclose(model.added(before), with_one + alone.added(before), atol=1e-4)


def test_loras_that_find_no_room_stay_beside_the_product() -> None:
    model, loras = Model(), (low_rank(MOST_COLUMNS - 8, seed=2), low_rank(16, seed=4), low_rank(8, seed=6))
    before = model.a(model.x)
    model.adapters.attach("all", [patch(each) for each in loras], 0.2)
    assert model.a.tail == MOST_COLUMNS
    assert len(model.a.beside) == 1
    assert share(model.added(before), sum(exact(each, model.x, 0.2) for each in loras)) < 0.06  # pyright: ignore


def test_a_matrix_of_zeros_adds_zeros() -> None:
    model, lora = Model(), low_rank(4)
    before = model.a(model.x)
    lora.up[:, 0], lora.down[1], lora.up[:, 2], lora.down[2], lora.up[:, 3] = 0, 0, 0, 0, 0
    model.adapters.attach("one", [patch(lora)], 1.0)
    assert model.a.tail == 128
    assert torch.equal(model.a(model.x), before)


def test_an_input_with_columns_behind_it_has_the_same_values_in_smaller_codes() -> None:
    x = draw(7, IN)
    codes, scales = coded(x, 16)
    alone = coded(x)
    assert torch.equal(scales, 16 * alone[1])
    assert codes.shape == (7, IN + 16)
    assert codes.stride(0) % 128 == 0
    assert share(codes[:, :IN].float() * scales, alone[0].float() * alone[1]) < 1e-4


def test_two_parts_of_codes_are_as_near_as_bfloat16() -> None:
    x = LARGEST * draw(16, IN).clamp(-4, 4) / 4
    parts = in_two_parts(x)
    assert parts.dtype is torch.float8_e4m3fn
    assert share(parts.float().sum(0), x) <= share(x.bfloat16().float(), x)


def down_in_parts(down: Tensor) -> Tensor:
    """[T, K] as a weight's LoRAs have it."""
    return down.to(torch.float8_e4m3fn)[None] if len(down) <= MOST_SPLIT else in_two_parts(down)


def heard(codes: Tensor, own: int, ranks: int) -> Tensor:
    """What codes behind an input's say: [..., T], of one or two for each rank."""
    return codes[..., own:].float().unflatten(-1, (-1, ranks)).sum(-2)


@pytest.mark.parametrize("ranks", [16, MOST_SPLIT])
def test_two_codes_say_nearly_exactly_what_one_part_of_down_makes(ranks: int) -> None:
    down, gains = down_in_parts(draw(ranks, IN, seed=1)), 0.1 * draw(ranks, seed=2)
    codes, scales = coded(draw(7, IN), 128)
    codes.view(torch.uint8)[:, IN:] = NAN
    wanted = codes[:, :IN].float() @ down[0].float().T * gains
    project(codes, scales, down, gains)
    taken = IN + 2 * ranks
    assert share(heard(codes[:, :taken], IN, ranks), wanted) < 0.002
    assert not codes[:, taken:].float().any()
    assert share(codes[:, IN : IN + ranks].float(), wanted) > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_down", [1, 2])
def test_a_row_whose_columns_would_not_fit_becomes_smaller_as_a_whole(
    dtype: torch.dtype, num_down: int
) -> None:
    x, down, gains = draw(7, IN), draw(16, IN), torch.full((16,), 0.1)
    x[2] = down[3]  # as far along one rank as a row can be
    codes, scales = coded(x.to(dtype), 32 // num_down)
    alone = codes[:, :IN].clone(), scales.clone()
    gains[3] = 24.0
    parts = in_two_parts(down)[:num_down]
    project(codes, scales, parts, gains)
    shrink = alone[1] / scales
    assert shrink[2] < 1
    assert shrink.min() >= 2**-8
    assert (shrink.log2() == shrink.log2().round()).all()
    assert (codes.float().abs() <= LARGEST).all()
    values = alone[0].float() * alone[1]
    assert share(codes[:, :IN].float() * scales, values) < 1e-3
    found = heard(codes, IN, 16) * scales
    assert share(found, values @ down.T * gains) < 0.03
    assert share(found, values @ parts.float().sum(0).T * gains) < (0.002 if num_down == 1 else 0.03)


KERNEL_SIZES = [
    (1, 272, 16),
    (7, 80, 16),
    (37, 272, 48),
    (129, 784, 64),
    (66, 1040, 96),
    (5, 1040, MOST_COLUMNS),
]
if not HAS_GPU:  # of so few codes, one that a GPU rounds the other way is more than a hundredth
    KERNEL_SIZES += [(1, 64, 16), (5, 16, 16)]


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from backends.torch_cuda.fused import FusedOps

    mend_interpreter(monkeypatch)
    with torch.inference_mode():
        yield FusedOps()


@triton_only
@eight_bits
@pytest.mark.parametrize(("rows", "own", "ranks"), KERNEL_SIZES)
@pytest.mark.parametrize("gain", [0.1, 48.0], ids=["all fit", "too large"])
def test_the_kernel_writes_the_same_codes(fused: Any, rows: int, own: int, ranks: int, gain: float) -> None:
    compare_with_the_kernel(fused.project, rows, own, ranks, gain)


SHAPE_SIZES = [
    ("SLIM", 70, 272, 16),
    ("SLIM", 37, 1040, 32),
    ("SLIM", 129, 1552, 64),
    ("SMALL", 37, 272, 48),
    ("SMALL", 70, 1552, 64),
    ("BROAD", 130, 528, 80),
    ("BROAD", 129, 1552, 128),
    ("LOW", 37, 528, 80),
    ("LOW", 40, 1552, 128),
    ("LARGE", 130, 528, 144),
    ("LARGE", 129, 1552, MOST_COLUMNS),
    ("FLAT", 37, 528, 192),
    ("FLAT", 40, 1552, MOST_COLUMNS),
]


@triton_only
@eight_bits
@pytest.mark.parametrize(("shape", "rows", "own", "ranks"), SHAPE_SIZES)
@pytest.mark.parametrize("gain", [0.1, 48.0], ids=["all fit", "too large"])
@pytest.mark.usefixtures("fused")
def test_tiles_of_any_shape_make_the_same_codes(
    shape: str, rows: int, own: int, ranks: int, gain: float
) -> None:
    from backends.torch_cuda.kernels import tails

    compare_with_the_kernel(partial(tails.project_in, getattr(tails, shape)), rows, own, ranks, gain)


@triton_only
@eight_bits
@pytest.mark.usefixtures("fused")
def test_more_blocks_than_can_be_counted_are_one_part_each() -> None:
    from backends.torch_cuda.kernels import tails

    # The interpreter is quicker with tiles that a GPU would not have.
    shape = tails.SMALL if HAS_GPU else tails.SLIM._replace(rows=16, columns=512)
    rows = shape.rows * ARRIVALS + 1
    compare_with_the_kernel(partial(tails.project_in, shape), rows, 1040, 16, 0.1)


def compare_with_the_kernel(
    projects: Callable[..., None], rows: int, own: int, ranks: int, gain: float
) -> None:
    down, gains = down_in_parts(draw(ranks, own, seed=1)).to(DEVICE), gain * draw(ranks, seed=2).to(DEVICE)
    taken = own + 2 * ranks // len(down)
    codes, scales = (each.to(DEVICE) for each in coded(draw(1, rows, own), -(-(taken - own) // 128) * 128))
    codes.view(torch.uint8)[..., own:] = NAN
    wanted, before = (codes.clone(), scales.clone()), scales.clone()
    project(*wanted, down, gains)
    arrivals = torch.zeros(ARRIVALS, dtype=torch.int32, device=DEVICE)
    projects(codes, scales, down, gains, arrivals)
    assert not arrivals.any()
    assert torch.equal(scales, wanted[1])
    assert bool((scales > before).any()) == (gain > 1)
    same = codes.view(torch.uint8) == wanted[0].view(torch.uint8)
    assert same[..., :own].all()
    # Sums are in another order, and in fewer bits on a GPU: there a sum's second code may be the next one.
    assert same[..., : own + ranks].float().mean() > (0.99 if HAS_GPU else 0.999)
    if len(down) == 1:
        said = (heard(each[..., :taken], own, ranks) for each in (codes, wanted[0]))
        assert share(*said) < (5e-3 if HAS_GPU else 1e-4)
    weight, weight_scales = (torch.ones((16, size), device=DEVICE) for size in (codes.shape[-1], 1))
    for each in (codes, wanted[0]):
        assert not each.view(torch.uint8)[..., taken:].any()
        product = multiplied(each, scales, weight.to(each.dtype), weight_scales, None, torch.bfloat16)
        assert product.isfinite().all()


@triton_only
def test_tiles_fit_into_shared_memory_and_blocks_can_be_counted() -> None:
    from backends.torch_cuda.kernels import tails

    for ranks in (16, 32, 64, 128, 256):
        parts = 1 if ranks <= MOST_SPLIT else 2
        for rows, own in ((512, 3072), (512, 12288), (4608, 3072), (4608, 15360)):
            shape = tails.shape_for(rows, own, ranks)
            padded = max(64, ranks) if shape.is_turned else ranks
            assert shape.stages * (shape.rows + parts * padded) * shape.columns <= 227 * 1024
            assert shape.programs <= 2 * ARRIVALS


@triton_only
@eight_bits
def test_fused_operations_leave_room_for_loras(fused: Any) -> None:
    dim, dtype = 64, torch.bfloat16 if HAS_GPU else torch.float32
    plain = TorchOps()

    def leaf(name: str, in_dim: int, out_dim: int) -> EightBitLinear:
        weight = EightBitWeight.made_of((in_dim**-0.5 * draw(out_dim, in_dim)).to(DEVICE, dtype))
        linear = EightBitLinear(weight, None, fused)
        lora = low_rank(20, size=0.1 * in_dim**-0.5, rows=out_dim, columns=in_dim)
        adapters = TorchAdapters({name: linear}, DEVICE, dtype)
        adapters.attach("one", [Patch(Component.TRANSFORMER, name, (0, out_dim), in_dim, lora)], 1.0)
        assert linear.tail == 128
        return linear

    x, y = (draw(1, 7, dim, seed=seed).to(DEVICE, dtype) for seed in (1, 2))
    gate, shift, scale = (draw(1, 1, dim, seed=seed).to(DEVICE, dtype) for seed in (3, 4, 5))
    up, down, linear1, linear2 = (
        leaf("a", in_dim, out_dim)
        for in_dim, out_dim in ((dim, 4 * dim), (4 * dim, dim), (dim, 7 * dim), (5 * dim, dim))
    )

    def attend(qkv: Tensor) -> Tensor:
        q, k, v = qkv.split(dim, dim=2)
        return q * k + v

    calls = (
        ("modulated_linear", (x, shift, scale, 1e-6, up)),
        ("gated_mlp", (x, gate, y, shift, scale, 1e-6, up, down)),
        ("parallel_mlp", (x, shift, scale, 1e-6, linear1, linear2, attend)),
    )
    for name, inputs in calls:
        found, wanted = (getattr(ops, name)(*inputs) for ops in (fused, plain))
        found, wanted = (each[-1] if isinstance(each, tuple) else each for each in (found, wanted))
        assert share(found.float(), wanted.float()) < (4e-2 if HAS_GPU else 4e-3), name


if HAS_GPU and HAS_EIGHT_BITS:  # needs a CUDA device; elsewhere there is nothing to capture

    def test_a_captured_product_sees_a_new_strength(fused: Any) -> None:
        linear = EightBitLinear(EightBitWeight.made_of(draw(OUT, IN).to(DEVICE)), None, fused)
        adapters = TorchAdapters({"a": linear}, DEVICE, torch.bfloat16)
        adapters.attach("one", [patch(low_rank(4))], 1.0)
        x = draw(1, 5, IN).to(DEVICE, torch.bfloat16)
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            linear(x)  # libraries choose their kernels before the capture
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = linear(x)
        for strength in (0.0, -1.0, 2.5):
            adapters.weigh("one", strength)
            graph.replay()
            assert torch.equal(out, linear(x))

"""What stays on a device and what lies where when: any sizes, any room, any order of use."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.torch_cuda.offload.schedule import (
    Belt,
    Bucket,
    buckets_of,
    matrix_bytes,
    streamed,
    total_bytes,
)
from flux_core.catalog import DEV
from flux_core.models.modulation import once_a_walk
from flux_core.models.t5 import T5Encoder
from flux_core.models.transformer import Transformer
from flux_core.weights.expected import expected_shapes
from flux_core.weights.tensors import TensorInfo

SIZES = st.lists(st.integers(1, 100), min_size=1, max_size=60)


def buckets_with(sizes: list[int], once: int = 0) -> list[Bucket]:
    return [Bucket((f"block.{i}.a",), size, i < once) for i, size in enumerate(sizes)]


def going(sizes: list[int], room: int, slots: int, once: int = 0) -> list[Bucket]:
    return streamed(buckets_with(sizes, once), room, slots)


@given(SIZES, st.integers(-50, 5000), st.integers(1, 3), st.integers(0, 60))
def test_what_stays_fits_beside_the_slots_or_nothing_that_repeats_stays(
    sizes: list[int], room: int, slots: int, once: int
) -> None:
    buckets = buckets_with(sizes, once)
    gone = streamed(buckets, room, slots)
    stays = [bucket for bucket in buckets if bucket not in gone]
    room_of_slots = slots * max((bucket.size_bytes for bucket in gone), default=0)
    if any(not bucket.is_once for bucket in stays) or not gone:
        assert total_bytes(stays) + room_of_slots <= room or not stays
    if gone:
        assert [bucket.is_once for bucket in gone] == sorted((b.is_once for b in gone), reverse=True)
        assert not any(bucket.is_once for bucket in stays)


@given(SIZES, st.integers(0, 5000), st.integers(1, 3))
def test_nothing_goes_that_could_have_stayed(sizes: list[int], room: int, slots: int) -> None:
    gone = going(sizes, room, slots)
    if gone:
        left = room - slots * max(sizes) - (sum(sizes) - total_bytes(gone))
        assert left < 0 or all(bucket.size_bytes > left for bucket in gone)


@given(st.integers(1, 80), st.integers(1, 20), st.floats(0.05, 0.95))
def test_what_goes_is_spread_evenly(count: int, size: int, share: float) -> None:
    """Between two buckets that go lie as many that stay as between any others, give or take two."""
    gone = going([size] * count, int(share * size * count) + 2 * size, 2)
    places = [int(bucket.layers[0].split(".")[1]) for bucket in gone]
    gaps = [after - before for before, after in zip(places, places[1:], strict=False)]
    assert not gaps or max(gaps) - min(gaps) <= 2


@given(st.integers(1, 30), st.integers(1, 4), st.data())
def test_any_order_of_use_is_right(count: int, slots: int, data: st.DataObject) -> None:
    belt, lies = Belt(count, slots), dict[int, int]()
    for bucket in data.draw(st.lists(st.integers(0, count - 1), max_size=40)):
        fetches = belt.use(bucket)
        assert len({fetch.slot for fetch in fetches}) == len(fetches)
        kept = {slot: held for slot, held in lies.items() if held == bucket}
        lies |= {fetch.slot: fetch.bucket for fetch in fetches}
        assert all(lies[slot] == held for slot, held in kept.items())  # nothing in use is overwritten
        assert lies[belt.slot_of(bucket)] == bucket


@given(st.integers(2, 30), st.integers(2, 4))
def test_in_the_usual_order_nothing_is_fetched_only_when_it_is_needed(count: int, slots: int) -> None:
    belt = Belt(count, slots)
    belt.use(0)
    for bucket in [*range(1, count), *range(count)]:
        assert all(fetch.bucket != bucket for fetch in belt.use(bucket))


@given(st.integers(3, 30), st.integers(2, 4))
def test_a_bucket_is_fetched_once_for_each_use(count: int, slots: int) -> None:
    belt = Belt(count, slots)
    for bucket in range(count):
        belt.use(bucket)
    fetched = [fetch.bucket for bucket in range(count) for fetch in belt.use(bucket)]
    assert len(fetched) == (count if slots < count else 0)


def test_the_buckets_of_flux_are_its_blocks_and_its_modulations_come_first() -> None:
    shapes = expected_shapes(lambda ops, make: Transformer(ops, make, DEV.transformer))
    sizes = sizes_of(shapes)
    buckets = buckets_of(sizes, once_a_walk(sizes))
    once = [bucket for bucket in buckets if bucket.is_once]
    assert (len(once), len(buckets) - len(once)) == (57, 57)
    assert buckets[:57] == once
    assert total_bytes(once) == 2 * (12 * 19 + 3 * 38) * 3072 * 3072
    assert buckets[57].layers == tuple(
        f"double_blocks.0.{name}"
        for name in ("img_attn.qkv", "img_attn.proj", "txt_attn.qkv", "txt_attn.proj",
                     "img_mlp.0", "img_mlp.2", "txt_mlp.0", "txt_mlp.2")
    )  # fmt: skip
    assert {bucket.size_bytes for bucket in buckets[57:]} == {452_984_832, 226_492_416}


def test_the_modulations_go_first_and_a_card_that_holds_the_blocks_keeps_them() -> None:
    shapes = expected_shapes(lambda ops, make: Transformer(ops, make, DEV.transformer))
    sizes = sizes_of(shapes)
    buckets = buckets_of(sizes, once_a_walk(sizes))
    gone = streamed(buckets, 18 * 10**9)
    assert gone == [bucket for bucket in buckets if bucket.is_once]
    assert any(not bucket.is_once for bucket in streamed(buckets, 17 * 10**9))
    assert streamed(buckets, 24 * 10**9) == []


def test_a_controlnets_modulations_are_used_at_every_step() -> None:
    layers = ["double_blocks.0.img_mod.lin", "double_blocks.0.img_mlp.0"]
    assert once_a_walk(layers) == []
    assert once_a_walk([*layers, "final_layer.adaLN_modulation.1"]) == layers[:1]


def test_words_come_block_by_block_and_their_table_stays() -> None:
    shapes = expected_shapes(lambda ops, make: T5Encoder(ops, make, DEV.t5))
    buckets = buckets_of(sizes_of(shapes), ())
    assert len(buckets) == 24
    assert not any("shared" in layer for bucket in buckets for layer in bucket.layers)


def test_codes_weigh_what_they_take_and_eight_bits_have_a_scale_for_each_row() -> None:
    names = {
        "a.weight": TensorInfo("BF16", (4, 64)),
        "b.weight": TensorInfo("Q8_0", (4, 64)),
        "c.weight": TensorInfo("F32", (4, 64)),
        "c.bias": TensorInfo("F32", (4,)),
    }
    found = matrix_bytes(names, 2, lambda layer, shape: layer == "c")
    assert found == {"a": 512, "b": 4 * 2 * 34, "c": 4 * 64 + 4 * 4}


def test_a_part_without_blocks_stays_however_little_room_there_is() -> None:
    assert streamed([], -1) == []
    assert buckets_of({"shared": 5}, ()) == []


def sizes_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    names = {name: TensorInfo("BF16", shape) for name, shape in shapes.items()}
    return matrix_bytes(names, 2, lambda layer, shape: False)

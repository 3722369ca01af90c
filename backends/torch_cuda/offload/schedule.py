"""What of a part's weights stays on the device, and which of the others lies where when: arithmetic alone.

The matrices of one block are a bucket. As many buckets as fit stay; the others go through a few slots, each
brought there while the one before it is being used. What stays is spread evenly between what comes and goes,
so that there is something to compute all the time that something is copied.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from flux_core.models.modulation import once_a_walk
from flux_core.weights.quant.schemes import SCHEMES
from flux_core.weights.tensors import TensorInfo

NUM_SLOTS = 2
"""One is used while the other is filled; a third would take the place of what could stay."""

_BLOCK = re.compile(r"(.*?\.\d+)\.")
_COMPANIONS = 1.25  # codes with what lies beside them, over codes alone, at most


@dataclass(frozen=True, slots=True)
class Bucket:
    """The matrices of a block, which come and go together.

    Attributes:
        layers: Their names.
        size_bytes: On the device.
        is_once: Whether it is used once, before all others, and never again.
    """

    layers: tuple[str, ...]
    size_bytes: int
    is_once: bool = False


class Division(NamedTuple):
    """Buckets that stay on a device, and those that do not; each in the order of use."""

    staying: list[Bucket]
    going: list[Bucket]


def divided(
    names: Mapping[str, TensorInfo],
    free_bytes: int,
    itemsize: int,
    is_eight_bit: Callable[[str, tuple[int, ...]], bool] = lambda layer, shape: False,
) -> Division:
    """Which buckets of a part stay on a device, and which do not: none where all of it fits.

    Args:
        names: The part's tensors, in the order of making.
        free_bytes: On the device, for weights.
        itemsize: Bytes of a value that is not quantised.
        is_eight_bit: Whether the weight of a layer and shape is kept in eight bits with a scale for each row.
    """
    sizes = matrix_bytes(names, itemsize, is_eight_bit)
    buckets = buckets_of(sizes, once_a_walk(sizes))
    others = [info for name, info in names.items() if name.removesuffix(".weight") not in sizes]
    staying = (
        sum(tensor_bytes(info, itemsize) for info in others) + sum(sizes.values()) - total_bytes(buckets)
    )
    going = streamed(buckets, free_bytes - staying)
    return Division([bucket for bucket in buckets if bucket not in going], going)


def buckets_of(sizes: Mapping[str, int], once: Collection[str]) -> list[Bucket]:
    """Groups the matrices of a part by block, in the order in which its blocks are made and used.

    Args:
        sizes: Bytes of each layer's weight, in the order of making.
        once: Layers that are called once before all others.

    Returns:
        Those of no block are in no bucket.
    """
    found: list[Bucket] = []
    last: tuple[str, bool] | None = None
    for layer, size in sizes.items():
        block = _BLOCK.match(layer)
        key = None if block is None else (block[1], layer in once)
        if key is None:
            last = None
            continue
        if key == last:
            bucket = found.pop()
            found.append(Bucket((*bucket.layers, layer), bucket.size_bytes + size, bucket.is_once))
        else:
            found.append(Bucket((layer,), size, key[1]))
        last = key
    return found


def matrix_bytes(
    names: Mapping[str, TensorInfo], itemsize: int, is_eight_bit: Callable[[str, tuple[int, ...]], bool]
) -> dict[str, int]:
    """What the weight of each layer of two axes takes on the device; arguments as of `divided`."""
    found: dict[str, int] = {}
    for name, info in names.items():
        layer, _, kind = name.rpartition(".")
        if kind != "weight" or len(info.shape) != 2:
            continue
        if is_eight_bit(layer, info.shape):
            found[layer] = prod(info.shape) + 4 * info.shape[0]
        else:
            found[layer] = tensor_bytes(info, itemsize)
    return found


def tensor_bytes(info: TensorInfo, itemsize: int) -> int:
    """What a tensor takes on the device: its codes where it is quantised, about."""
    scheme = SCHEMES.get(info.dtype)
    if scheme is None:
        return prod(info.shape) * itemsize
    size = prod(info.shape[:-1]) * scheme.row_bytes(info.shape[-1])
    return int(size * _COMPANIONS) if scheme.companions else size


def streamed(buckets: Sequence[Bucket], room_bytes: int, num_slots: int = NUM_SLOTS) -> list[Bucket]:
    """The buckets that do not stay, in the order of use: those used once, then every few of the others.

    Args:
        buckets: In the order of use.
        room_bytes: For those that stay and for the slots; with less than the slots take nothing stays.
        num_slots: Each as large as the largest bucket that may lie in it.
    """
    if not buckets or total_bytes(buckets) <= room_bytes:
        return []
    once = [bucket for bucket in buckets if bucket.is_once]
    others = [bucket for bucket in buckets if not bucket.is_once]
    slots = num_slots * max((bucket.size_bytes for bucket in once), default=0)
    if total_bytes(others) + slots <= room_bytes:
        return once
    slots = num_slots * max(bucket.size_bytes for bucket in buckets)
    return once + _spread(others, room_bytes - slots)


def _spread(buckets: Sequence[Bucket], room_bytes: int) -> list[Bucket]:
    """Of buckets larger than the room, those that must go: of every stretch of them the same share."""
    total = total_bytes(buckets)
    excess = total - max(room_bytes, 0)
    going: list[int] = []
    passed = gone = 0
    # From the end, so that the first that goes comes late: there is something to compute while it is copied.
    for number, bucket in reversed([*enumerate(buckets)]):
        passed += bucket.size_bytes
        if gone * total < excess * passed:
            going.append(number)
            gone += bucket.size_bytes
    left = gone - excess
    for number in list(going):
        if buckets[number].size_bytes <= left:
            going.remove(number)
            left -= buckets[number].size_bytes
    return [buckets[number] for number in sorted(going)]


class Fetch(NamedTuple):
    """A bucket that is to be brought into a slot."""

    bucket: int
    slot: int


class Belt:
    """Which bucket lies in which slot while they are used in turn.

    Any order of use is right; one bucket after the other, and then again from the first, is quick.

    Args:
        num_buckets: They are numbered in the order of use.
        num_slots: For them.
    """

    def __init__(self, num_buckets: int, num_slots: int) -> None:
        self._num_buckets = num_buckets
        self._held: list[int | None] = [None] * num_slots

    def clear(self) -> None:
        """Forgets what lies in the slots."""
        self._held = [None] * len(self._held)

    def use(self, bucket: int, is_last_round: bool = False) -> list[Fetch]:
        """Begins to use a bucket, and with that ends the use of the one before.

        Args:
            bucket: Its number.
            is_last_round: Whether none comes after the last one.

        Returns:
            What must be brought, in this order: the bucket itself if it is not there, and those that follow.
        """
        wanted = self._ahead(bucket, is_last_round)
        free = [slot for slot, held in enumerate(self._held) if held not in wanted]
        fetches: list[Fetch] = []
        for each in wanted:
            if each not in self._held:
                slot = free.pop(0)
                self._held[slot] = each
                fetches.append(Fetch(each, slot))
        return fetches

    def slot_of(self, bucket: int) -> int:
        """Where a bucket lies; ValueError if it lies nowhere."""
        return self._held.index(bucket)

    def _ahead(self, bucket: int, is_last_round: bool) -> list[int]:
        """The bucket and those that follow it, as many as there are slots."""
        wanted = [bucket]
        while len(wanted) < len(self._held):
            following = wanted[-1] + 1
            if following == self._num_buckets and not is_last_round:
                following = 0
            if following >= self._num_buckets or following in wanted:
                break
            wanted.append(following)
        return wanted


def total_bytes(buckets: Iterable[Bucket]) -> int:
    return sum(bucket.size_bytes for bucket in buckets)

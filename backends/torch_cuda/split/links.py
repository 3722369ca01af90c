"""What ranks give each other: by NCCL where each has a CUDA device of its own, else by gloo.

They meet through a file in a private folder, and listen on the loopback interface only. Arrays travel as
bytes, so every dtype does. Devices that reach each other's memory pass rows there (direct.py).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from importlib.util import find_spec
from itertools import permutations, starmap
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

_PATIENCE = timedelta(minutes=10)
"""For another rank: it may load a model from a slow disk meanwhile."""

_DIRECT_NEEDS = "triton", "cuda", "cuda.bindings"
"""Packages that torch for CUDA brings on Linux."""

_SETTINGS = {
    "NCCL_SOCKET_IFNAME": "lo",
    "NCCL_NET": "Socket",  # or it looks for network cards, which one machine does not need
    "NCCL_NVLS_ENABLE": "0",  # multicast needs rights that containers do not have
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",  # else torch ends this process when another one died
    "TORCH_NCCL_ENABLE_MONITORING": "0",
}


Way = Literal["direct", "nccl", "gloo"]


class Passage(NamedTuple):
    """Rows that every rank gives to every other.

    Attributes:
        name: Of where they land. Between two of one name, all ranks take part in one of another name.
        counts: How many, by giver and taker; what a rank would give itself counts for nothing.
        begins: The row of a taker's landing at which what it takes begins, in order of the givers; by taker.
    """

    name: str
    counts: Sequence[Sequence[int]]
    begins: Sequence[int]

    def taken(self, rank: int) -> list[int]:
        """How many rows a rank takes, by giver."""
        return [0 if giver == rank else counts[rank] for giver, counts in enumerate(self.counts)]

    def place(self, giver: int, taker: int) -> int:
        """The row of the taker's landing at which the giver's rows begin."""
        return self.begins[taker] + sum(self.taken(taker)[:giver])


class Links:
    """One rank's end.

    Args:
        file: Where the ranks meet; of this group alone.
        rank, size: Which of how many.
        device: Of this rank.
        way: As `way_between` says.

    Attributes:
        is_recordable: Whether CUDA graphs may hold what passes here.
    """

    def __init__(self, file: Path, rank: int, size: int, device: torch.device, way: Way) -> None:
        self.rank = rank
        self.size = size
        self.device = device
        store = dist.FileStore(str(file), size)  # pyright: ignore[reportPrivateImportUsage]
        store.set_timeout(_PATIENCE)
        self.is_recordable = way != "gloo"
        self._group = (_gloo if way == "gloo" else _nccl)(store, rank, size)

    def meet(self) -> None:
        """Connects everybody with everybody, which takes a while the first time."""
        with torch.inference_mode():
            ones = torch.ones((self.size - 1, 1), dtype=torch.uint8, device=self.device)
            self.broadcast(ones)
            self.exchange(ones, torch.empty_like(ones), [1] * self.size, [1] * self.size)()
            if self.device.type == "cuda":
                torch.cuda.current_stream(self.device).synchronize()

    def broadcast(self, x: Tensor) -> None:
        """Rank 0's contiguous values into everybody's."""
        options = dist.BroadcastOptions()
        options.rootRank = 0
        options.asyncOp = False
        work = self._group.broadcast([_bytes(x)], options)
        if work is not None:
            work.wait()

    def exchange(
        self, given: Tensor, taken: Tensor, given_rows: Sequence[int], taken_rows: Sequence[int]
    ) -> Callable[[], None]:
        """Begins to give rows to every other rank and to take rows from them, beside what comes next.

        Args:
            given: Contiguous; for each other rank, in order, its rows one behind the other.
            taken: Contiguous; is filled likewise.
            given_rows: How many, by rank; what stands at this rank counts for nothing.
            taken_rows: Likewise.

        Returns:
            To be called before `taken` is read or `given` written: what comes then comes after the exchange.
        """
        taken_rows, given_rows = self._of_others(taken_rows), self._of_others(given_rows)
        return self._group.alltoall_base(
            _bytes(taken), _bytes(given), taken_rows, given_rows, dist.AllToAllOptions()
        ).wait

    def landing(self, name: str, rows: Sequence[int], shape: Sequence[int], like: Tensor) -> Tensor:
        """An array [rows[rank], *shape] that others may give to, until it is asked for again.

        Args:
            name: Of the passages that end there.
            rows: How many each rank asks for, which it does at the same time.
            shape: Of a row.
            like: Has its dtype.
        """
        return like.new_empty((rows[self.rank], *shape))

    def give(
        self, passage: Passage, given: Tensor, landing: Tensor, is_awaited: bool = False
    ) -> Callable[[], None]:
        """As `exchange`, of rows for each other rank in order, into the landings of the passage's name.

        Args:
            passage: What passes.
            given: Contiguous.
            landing: Of this rank.
            is_awaited: Whether nothing is computed beside.
        """
        taken = passage.taken(self.rank)
        begin = passage.begins[self.rank]
        return self.exchange(given, landing[begin : begin + sum(taken)], passage.counts[self.rank], taken)

    def joined(
        self, name: str, rows: Tensor, counts: Sequence[int], is_awaited: bool = False
    ) -> Callable[[], Tensor]:
        """Begins to give every rank its rows, and to take what all of them have for this one.

        Args:
            name: As Passage has it.
            rows: [L, C] contiguous; this rank's own first, then every other rank's in order.
            counts: Rows of each rank.
            is_awaited: As for `give`.

        Returns:
            Gives [L_r, N * C], side by side in order of the ranks, until the name is asked for again.
        """
        own, num = counts[self.rank], self.size
        asked = [(num - 1) * count for count in counts]
        others = self.landing(name, asked, rows.shape[1:], rows)
        passage = Passage(name, [counts] * num, [0] * num)
        arrive = self.give(passage, rows[own:], others, is_awaited)

        def take() -> Tensor:
            arrive()
            parts = list(others.unflatten(0, (num - 1, own)))
            parts.insert(self.rank, rows[:own])
            return torch.cat(parts, dim=1)

        return take

    def gathered(self, x: Tensor, rows: Sequence[int]) -> Tensor:
        """Rows [L_r, ...] of all ranks one behind the other, on rank 0; elsewhere the rank's own."""
        if self.rank:
            self.exchange(x, x[:0], [len(x)] + [0] * (self.size - 1), [0] * self.size)()
            return x
        out = x.new_empty((sum(rows), *x.shape[1:]))
        out[: len(x)] = x
        self.exchange(x[:0], out[len(x) :], [0] * self.size, rows)()
        return out

    def abort(self) -> None:
        """Lets whoever waits for another rank go on, with values that mean nothing."""
        self._group.abort()

    def _of_others(self, rows: Sequence[int]) -> list[int]:
        return [0 if rank == self.rank else count for rank, count in enumerate(rows)]


def way_between(devices: Sequence[str]) -> Way:
    """How ranks on these devices speak to each other.

    NCCL wants a device for each. Directly they do where each writes into the others' memory, flags included.
    """
    if not all(device.startswith("cuda:") for device in devices) or len(set(devices)) < len(devices):
        return "gloo"
    numbers = [torch.device(device).index for device in devices]
    is_complete = all(find_spec(name) is not None for name in _DIRECT_NEEDS)
    return "direct" if is_complete and all(starmap(_reaches, permutations(numbers, 2))) else "nccl"


def _reaches(device: int, other: int) -> bool:
    """Whether a device writes into another's memory, and atomically: not so between most PCIe slots."""
    try:
        cuda: Any = importlib.import_module("cuda.bindings.runtime")
    except ImportError:  # there, but not for this driver
        return False
    code, is_atomic = cuda.cudaDeviceGetP2PAttribute(
        cuda.cudaDeviceP2PAttr.cudaDevP2PAttrNativeAtomicSupported, device, other
    )
    return int(code) == 0 and bool(is_atomic) and torch.cuda.can_device_access_peer(device, other)


def prepare_environment() -> None:
    """What the library reads when it is first used; a person's own settings stay."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


def _nccl(store: Any, rank: int, size: int) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = _PATIENCE  # noqa: SLF001 # it has no other name
    options.is_high_priority_stream = True  # what others wait for comes before what runs beside it
    return dist.ProcessGroupNCCL(store, rank, size, options)


def _gloo(store: Any, rank: int, size: int) -> Any:
    kind: Any = dist.ProcessGroupGloo
    options = kind._Options()  # noqa: SLF001 # it has no other name
    options._devices = [kind.create_device(hostname="127.0.0.1")]
    options._timeout = _PATIENCE
    return kind(store, rank, size, options)


def _bytes(x: Tensor) -> Tensor:
    """The same memory as rows of bytes."""
    return x.view(len(x), -1).view(torch.uint8) if x.numel() else x.new_empty((0, 1), dtype=torch.uint8)

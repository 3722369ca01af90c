"""One torch device as a flux_core backend: weights from checkpoint bytes, arrays in and out.

The CPU computes in float32 and CUDA in bfloat16 unless told otherwise. Weights go from the file to the
device leaf by leaf, so loading never holds a second copy of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.torch_cuda.adapters import TorchAdapters
from backends.torch_cuda.eight_bit import (
    block_matrices_in_eight_bits,
    computes_in_eight_bits,
    lies_in_eight_bits,
)
from backends.torch_cuda.fetch import Ahead, TorchFetcher
from backends.torch_cuda.graphs import Graphs
from backends.torch_cuda.leaves import LinearMaker, TorchLeaves, plain_linear
from backends.torch_cuda.memory import free_and_total_bytes
from backends.torch_cuda.offload.arena import Arena
from backends.torch_cuda.offload.schedule import Division, divided, total_bytes
from backends.torch_cuda.offload.stream import Stream, StreamedWeight
from backends.torch_cuda.ops import TorchOps
from backends.torch_cuda.packed import BITS, PackedWeight
from backends.torch_cuda.processor import ProcessorOps
from backends.torch_cuda.split.ops import split
from flux_core.errors import Corrupt
from flux_core.ops import Ops
from flux_core.request import Precision
from flux_core.weights.quant.schemes import SCHEMES, decode
from flux_core.weights.tensors import RawTensor, RenamedSource, TensorInfo, TensorSource

DTYPE_OF_NAME: dict[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
}

_MOST_PINNED_BYTES = 2**24
"""Of an array; torch keeps pinned memory for the next one."""

KEPT_DECODED_BYTES = 2**30
"""On a processor a component whose quantised weights decode to no more than this decodes them once."""


class TorchBackend:
    """flux_core.ops.Backend on torch.

    Args:
        device: "cpu", "cuda" or "cuda:1".
        free_bytes: What the device has free when it is called; by default a GPU is asked, and of a processor
            nobody wants to know, because weights lie in its memory either way.
        is_split: Whether its attention may go over several devices.

    Attributes:
        has_fp8: Whether Precision.FP8 is computed in eight-bit floats. Set it where the hardware does not
            multiply them to get what it would give, slowly.
        has_fp8_attention: Whether its attention is, too; likewise.
        graphs: What it has recorded.
    """

    def __init__(
        self, device: str = "cpu", free_bytes: Callable[[], int] | None = None, is_split: bool = False
    ) -> None:
        self.device = torch.device(device)
        if free_bytes is None and self.device.type == "cuda":
            free_bytes = self._free_bytes_of_gpu
        if self.device.type == "cuda":
            # Who asks for float32 wants its digits; by default convolutions would have ten bits.
            torch.backends.cudnn.allow_tf32 = False
        self._free_bytes = free_bytes
        self.name = f"torch-{self.device.type}"
        self.is_queued = self.device.type == "cuda"
        self.graphs = Graphs(self.device)
        ops = best_ops(self.device)
        self.ops: Ops = split(ops) if is_split else self.graphs.pausing(ops)
        self.has_fp8 = computes_in_eight_bits(self.device)
        self.has_fp8_attention = attends_in_eight_bits(self.device)

    def session(self) -> AbstractContextManager[None]:
        """Inference mode: no gradients are recorded. Valid for the thread that enters it."""
        return torch.inference_mode()

    def leaves(
        self,
        tensors: TensorSource,
        precision: Precision,
        working_bytes: int | None = None,
        is_brief: bool = False,
    ) -> TorchLeaves:
        dtype, names = self._dtype(precision), tensors.names()
        staying, going = self._divided(names, precision, working_bytes)
        moving = [bucket for bucket in going if not (bucket.is_once or is_brief)]
        late = {layer for bucket in going if bucket not in moving for layer in bucket.layers}

        def is_late(name: str) -> bool:
            return name.removesuffix(".weight") in late

        source = Ahead(_some(tensors, [name for name in names if not is_late(name)]))
        fetcher = TorchFetcher(self.device, after=source.after)
        read_late = self._late_reader(_some(tensors, filter(is_late, names)), dtype)
        kept = dtype if not going and self._keeps_decoded(tensors, dtype) else None

        def packed(name: str) -> PackedWeight | None:
            if is_late(name):
                return StreamedWeight(names[name].shape, partial(read_late, name))
            raw = source.read(name)
            return PackedWeight.of(raw, fetcher.codes(raw), kept) if raw.is_quantised else None

        make_linear = self.linear_maker(precision) or plain_linear
        if going and not is_brief:
            make_linear = Arena(self.device, staying).holding(make_linear)
        if moving:
            stream = Stream(self.device, moving)
            self.graphs.streams.add(stream)
            make_linear = stream.holding(make_linear)
        leaves = TorchLeaves(
            lambda name: _weight(source.read(name), fetcher, dtype),
            self.device,
            dtype,
            get_packed=packed,
            make_linear=make_linear,
            norms_feed_codes=self.norms_feed_codes(precision),
        )
        leaves.streamed_bytes = total_bytes(bucket for bucket in going if not bucket.is_once)
        return leaves

    def streamed_bytes(self, leaves: TorchLeaves) -> int:
        return leaves.streamed_bytes

    def linear_maker(self, precision: Precision) -> LinearMaker | None:
        """Makes the linear leaves of a precision; None for plain ones."""
        if precision is not Precision.FP8 or not self.has_fp8:
            return None
        return block_matrices_in_eight_bits(self.ops if isinstance(self.ops, TorchOps) else None)

    def norms_feed_codes(self, precision: Precision) -> bool:
        """Whether a precision's heads are attended in eight bits."""
        return precision is Precision.FP8 and self.has_fp8_attention

    def adapters(self, leaves: TorchLeaves, precision: Precision) -> TorchAdapters:
        return TorchAdapters(leaves.modules, self.device, self._dtype(precision), self.graphs.forget)

    def from_numpy(self, x: NDArray[Any]) -> Tensor:
        if self.device.type != "cuda" or x.nbytes > _MOST_PINNED_BYTES:
            return torch.from_numpy(np.array(x)).to(self.device)
        dtype = torch.from_numpy(np.empty(0, x.dtype)).dtype
        host = torch.empty(x.shape, dtype=dtype, pin_memory=True)  # any other waits for the queue
        host.numpy()[...] = x  # torch would wake many threads for it
        return host.to(self.device, non_blocking=True)

    def cast(self, x: Tensor, precision: Precision) -> Tensor:
        return x.to(self._dtype(precision))

    def to_numpy(self, x: Tensor) -> NDArray[np.float32]:
        return x.detach().float().cpu().numpy()

    def bring(self, x: Tensor) -> Callable[[], NDArray[np.float32]]:
        if not self.is_queued:
            return partial(self.to_numpy, x)
        host = torch.empty(x.shape, dtype=torch.float32, pin_memory=True)
        host.copy_(x.detach(), non_blocking=True)
        there = torch.cuda.Event()
        there.record(torch.cuda.current_stream(self.device))

        def wait() -> NDArray[np.float32]:
            there.synchronize()
            return host.numpy()

        return wait

    def to_bytes(self, image: Tensor) -> NDArray[np.uint8]:
        values = image.detach().float().clamp(-1.0, 1.0).mul_(0.5).add_(0.5).mul_(255.0).round_()
        return values.to(torch.uint8).cpu().numpy()

    def evaluate(self, *arrays: Tensor) -> None:
        pass  # a processor has done it, a GPU will

    def wait(self, *arrays: Tensor) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _divided(
        self, names: Mapping[str, TensorInfo], precision: Precision, working_bytes: int | None
    ) -> Division:
        """Which weights of a part fit beside what it computes, and which do not."""
        if working_bytes is None or self._free_bytes is None:
            return Division([], [])
        is_coded = precision is Precision.FP8 and self.has_fp8
        return divided(
            names,
            self._free_bytes() - working_bytes,
            self._dtype(precision).itemsize,
            lambda *layer: is_coded and lies_in_eight_bits(*layer),
        )

    def _late_reader(self, tensors: TensorSource, dtype: torch.dtype) -> Callable[[str], Tensor]:
        """Reads weights from their file whenever they are used, which is in the order of the file."""
        source = Ahead(tensors)
        fetcher = TorchFetcher(self.device, after=source.after)

        def read(name: str) -> Tensor:
            if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                raise RuntimeError(f"{name} comes from its file, which a recording cannot bring")
            raw = source.read(name)
            if raw.is_quantised:
                return PackedWeight.of(raw, fetcher.codes(raw))(dtype)
            return _weight(raw, fetcher, dtype)

        return read

    def _free_bytes_of_gpu(self) -> int:
        return free_and_total_bytes(self.device)[0]

    def _keeps_decoded(self, tensors: TensorSource, dtype: torch.dtype) -> bool:
        """Whether decoding at every call would cost time and save little memory."""
        values = sum(prod(info.shape) for info in tensors.names().values() if info.dtype in SCHEMES)
        return self.device.type == "cpu" and values * dtype.itemsize <= KEPT_DECODED_BYTES

    def _dtype(self, precision: Precision) -> torch.dtype:
        """Of activations, and of weights that are not quantised."""
        if precision in (Precision.AUTO, Precision.FP8):
            return torch.bfloat16 if self.device.type == "cuda" else torch.float32
        return torch.bfloat16 if precision is Precision.BF16 else torch.float32


def best_ops(device: torch.device) -> TorchOps:
    """The operations for a device: fused ones on a GPU where triton is there and can compile for it."""
    if device.type == "cpu":
        return ProcessorOps()
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0) and find_spec("triton"):
        from backends.torch_cuda.fused import FusedOps  # imports triton, which nothing else needs

        return FusedOps()
    return TorchOps()


def attends_in_eight_bits(device: torch.device) -> bool:
    """Whether there is a kernel that attends in eight bits on a device."""
    if not computes_in_eight_bits(device) or not find_spec("triton"):
        return False
    from backends.torch_cuda.kernels.coded_attention import computes_on  # imports triton

    return computes_on(device)


def _some(tensors: TensorSource, names: Iterable[str]) -> TensorSource:
    """Only these tensors, so that no other one is read ahead."""
    return RenamedSource(tensors, {name: name for name in names})


def _weight(raw: RawTensor, fetcher: TorchFetcher, dtype: torch.dtype) -> Tensor:
    # A copy even on the CPU: results depend on alignment in the last bit, and a mapped file's tensors
    # lie where its header's length put them.
    if raw.dtype in DTYPE_OF_NAME:
        weight = fetcher.plain(raw, DTYPE_OF_NAME[raw.dtype], dtype)
    else:
        weight = tensor_of(raw).to(fetcher.device, dtype)
    if weight.ndim == 4:  # what convolutions over [B, H, W, C] want
        return weight.contiguous(memory_format=torch.channels_last)
    return weight


def tensor_of(raw: RawTensor) -> Tensor:
    """A torch view of a checkpoint tensor's bytes; float32 values where it is quantised.

    Raises:
        Corrupt: The dtype is neither a plain floating one nor a scheme.
    """
    data = raw.data
    if raw.is_quantised:
        companions = {key: torch.from_numpy(np.array(value)) for key, value in raw.companions.items()}
        rows = torch.from_numpy(data).reshape(raw.num_rows, -1)
        return decode(raw.dtype, rows, companions, BITS).reshape(raw.shape)
    if raw.dtype not in DTYPE_OF_NAME:
        raise Corrupt(
            f"Tensor {raw.name!r} is stored as {raw.dtype}, which is no form of weights known here.",
            "Get the file in bfloat16, or in a quantised form that `flowbrush models inspect` knows.",
        )
    dtype = DTYPE_OF_NAME[raw.dtype]
    if data.ctypes.data % dtype.itemsize:  # some writers do not pad the header
        data = data.copy()
    return torch.from_numpy(data).view(dtype).reshape(raw.shape)

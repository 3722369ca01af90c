"""One torch device as a flux_core backend: weights from checkpoint bytes, arrays in and out.

The CPU computes in float32 and CUDA in bfloat16 unless told otherwise. Weights go from the file to the
device leaf by leaf, so loading never holds a second copy of a model.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.util import find_spec
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.torch_cuda.adapters import TorchAdapters
from backends.torch_cuda.eight_bit import block_matrices_in_eight_bits, coded, computes_in_eight_bits
from backends.torch_cuda.fetch import Ahead, TorchFetcher
from backends.torch_cuda.graphs import Graphs
from backends.torch_cuda.leaves import LinearMaker, TorchLeaves
from backends.torch_cuda.ops import TorchOps
from backends.torch_cuda.packed import BITS, PackedWeight
from backends.torch_cuda.processor import ProcessorOps
from backends.torch_cuda.split.ops import split
from flux_core.errors import Corrupt
from flux_core.ops import Ops
from flux_core.request import Precision
from flux_core.weights.quant.schemes import SCHEMES, decode
from flux_core.weights.tensors import RawTensor, TensorSource

DTYPE_OF_NAME: dict[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
}


KEPT_DECODED_BYTES = 2**30
"""On a processor a component whose quantised weights decode to no more than this decodes them once."""


class TorchBackend:
    """flux_core.ops.Backend on torch.

    Args:
        device: "cpu", "cuda" or "cuda:1".
        is_split: Whether its attention may go over several devices.

    Attributes:
        has_fp8: Whether Precision.FP8 is computed in eight-bit floats. Set it where the hardware does not
            multiply them to get what it would give, slowly.
        graphs: What it has recorded.
    """

    def __init__(self, device: str = "cpu", is_split: bool = False) -> None:
        self.device = torch.device(device)
        self.name = f"torch-{self.device.type}"
        ops = best_ops(self.device)
        self.ops: Ops = split(ops) if is_split else ops
        self.has_fp8 = computes_in_eight_bits(self.device)
        self.graphs = Graphs(self.device)

    def session(self) -> AbstractContextManager[None]:
        """Inference mode: no gradients are recorded. Valid for the thread that enters it."""
        return torch.inference_mode()

    def leaves(self, tensors: TensorSource, precision: Precision) -> TorchLeaves:
        dtype = self._dtype(precision)

        source = Ahead(tensors)
        fetcher = TorchFetcher(self.device, after=source.after)
        kept = dtype if self._keeps_decoded(tensors, dtype) else None

        def packed(name: str) -> PackedWeight | None:
            raw = source.read(name)
            return PackedWeight.of(raw, fetcher.codes(raw), kept) if raw.is_quantised else None

        return TorchLeaves(
            lambda name: _weight(source.read(name), fetcher, dtype),
            self.device,
            dtype,
            get_packed=packed,
            make_linear=self.linear_maker(precision),
        )

    def linear_maker(self, precision: Precision) -> LinearMaker | None:
        """Makes the linear leaves of a precision; None for plain ones."""
        if precision is not Precision.FP8 or not self.has_fp8:
            return None
        return block_matrices_in_eight_bits(self.ops.code if isinstance(self.ops, TorchOps) else coded)

    def adapters(self, leaves: TorchLeaves, precision: Precision) -> TorchAdapters:
        return TorchAdapters(leaves.modules, self.device, self._dtype(precision), self.graphs.forget)

    def from_numpy(self, x: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.array(x)).to(self.device)

    def cast(self, x: Tensor, precision: Precision) -> Tensor:
        return x.to(self._dtype(precision))

    def to_numpy(self, x: Tensor) -> NDArray[np.float32]:
        return x.detach().float().cpu().numpy()

    def evaluate(self, *arrays: Tensor) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

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

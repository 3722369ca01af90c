"""Random quantised tensors of every scheme, with scales that keep values near a tenth."""

from __future__ import annotations

from collections.abc import Mapping

import gguf
import gguf.quants
import numpy as np

from flux_core.weights.quant.schemes import SCHEMES
from flux_core.weights.tensors import RawTensor, TensorInfo
from tests.support.numerics import to_bf16

HALVES = {
    "Q8_0": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
"""Where the float16 numbers of a GGUF block lie, in bytes; its other bytes may be anything."""
GGUF_TYPES = tuple(HALVES)


def random_tensor(
    scheme: str, name: str = "layer.weight", seed: int = 0, shape: tuple[int, int] = (8, 512)
) -> RawTensor:
    """Random codes; the NaN codes of the eight-bit floats are left out."""
    rng = np.random.default_rng(seed)
    rows, columns = shape
    codes = rng.integers(0, 256, (rows, SCHEMES[scheme].row_bytes(columns)), dtype=np.uint8)
    if scheme.startswith("F8"):
        codes = codes & 0xBB
    blocks = codes.reshape(rows, -1, SCHEMES[scheme].block_bytes)
    for at in HALVES.get(scheme, ()):
        scales = rng.uniform(0.001, 0.01, (*blocks.shape[:2], 1)).astype("<f2")
        blocks[:, :, at : at + 2] = scales.view(np.uint8)
    return RawTensor(name, scheme, shape, codes.reshape(-1), random_companions(scheme, shape, rng))


def random_companions(scheme: str, shape: tuple[int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Scales near 1/20, codes of scales near one."""
    rows, columns = shape
    if scheme == "NVFP4":
        return {
            "scale": rng.integers(0x28, 0x48, (rows, columns // 16), dtype=np.uint8),
            "tensor_scale": np.full((rows, 1), 0.03, np.float32),
        }
    block = SCHEMES[scheme].block
    count = 1 if block == 1 else columns // block
    scales = {
        name: rng.uniform(0.02, 0.08, (rows, count)).astype(np.float32) for name in SCHEMES[scheme].companions
    }
    if scheme.startswith("MLX"):  # as MLX stores them, with codes about zero
        top = 2 ** int(scheme[3]) - 1
        scales["scales"] = to_bf16(scales["scales"] / top)
        scales["biases"] = to_bf16(-scales["scales"] * top / 2)
    return scales


class OneSource:
    """A TensorSource of given tensors."""

    metadata: Mapping[str, str] = {}

    def __init__(self, *tensors: RawTensor) -> None:
        self.tensors = {tensor.name: tensor for tensor in tensors}

    def names(self) -> Mapping[str, TensorInfo]:
        return {name: TensorInfo(t.dtype, t.shape) for name, t in self.tensors.items()}

    def read(self, name: str) -> RawTensor:
        return self.tensors[name]


def in_gguf_type(scheme: str, plain: RawTensor) -> RawTensor:
    """A float32 matrix in a GGUF type, by gguf's own quantiser.

    The K types have none in Python; they get random blocks whose values are spread as widely.
    """
    rows, columns = plain.shape
    if not scheme.endswith("_K"):
        codes = gguf.quants.quantize(plain.to_numpy(), gguf.GGMLQuantizationType[scheme])
        return RawTensor(plain.name, scheme, plain.shape, codes.reshape(-1))
    raw = random_tensor(scheme, plain.name, shape=(rows, columns))
    gain = float(plain.to_numpy().std() / raw.to_numpy().std())
    blocks = raw.data.reshape(rows, -1, SCHEMES[scheme].block_bytes)
    for at in HALVES[scheme]:
        halves = np.ascontiguousarray(blocks[:, :, at : at + 2]).view("<f2")
        blocks[:, :, at : at + 2] = (halves * np.float16(gain)).astype("<f2").view(np.uint8)
    return raw

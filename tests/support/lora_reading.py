"""Reading LoRA files in tests: the model they are for, short ways to read them, and two small files."""

from __future__ import annotations

import numpy as np

from flux_core.weights.lora.patches import Patch
from flux_core.weights.lora.read import Lora, read_lora
from flux_core.weights.tensors import TensorInfo
from tests.support import lora_files
from tests.support.lora_files import PEFT, Arrays, Draw, MemorySource

SPEC = lora_files.small_spec()
DIM = SPEC.transformer.hidden_size

MODULE = "transformer.transformer_blocks.0.attn.to_k"
"""A module that has as many inputs as outputs."""


def read(file: Arrays, metadata: dict[str, str] | None = None, spec=SPEC) -> Lora:
    return read_lora(MemorySource(file, metadata), spec, "style.safetensors")


def patches(file: Arrays, metadata: dict[str, str] | None = None, spec=SPEC) -> list[Patch]:
    return list(read(file, metadata, spec).patches())


def only(file: Arrays, metadata: dict[str, str] | None = None, spec=SPEC) -> Patch:
    (found,) = patches(file, metadata, spec)
    return found


def pair(module: str = MODULE, rank: int = 4) -> Arrays:
    return Draw().pair(module, DIM, DIM, rank, PEFT)


def lokr(*names: str, alpha: float | None = 2.0) -> Arrays:
    shapes = {"w1": (6, 8), "w1_a": (6, 2), "w1_b": (2, 8), "w2": (8, 6), "w2_a": (8, 4), "w2_b": (4, 6)}
    module = "lycoris_transformer_blocks_0_attn_to_k"
    file = {f"{module}.lokr_{name}": Draw(i).array(*shapes[name]) for i, name in enumerate(names)}
    return file if alpha is None else file | {f"{module}.alpha": np.array(alpha, np.float32)}


class HeaderOnly(MemorySource):
    """A file of which nothing but the header may be read."""

    def __init__(self, arrays: Arrays) -> None:
        super().__init__({})
        self.infos = {name: TensorInfo("F32", array.shape) for name, array in arrays.items()}

    def read(self, name: str):
        raise AssertionError(f"{name} was read")

"""LoRA files as their tools write them, and what they must do to a model, by the textbook.

The second half shares no code with the project: `merged` gives every weight of a model with patches in
it, in float64, from the formulas of the papers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flux_core.catalog import TINY, ClipTextConfig, ModelSpec, T5Config, TransformerConfig
from flux_core.plan import Component
from flux_core.weights.lora.layers import layers_of
from flux_core.weights.lora.patches import Axis, Difference, Hadamard, Kronecker, LowRank, NormChange, Patch
from flux_core.weights.tensors import RawTensor, TensorInfo

Arrays = dict[str, np.ndarray]


def small_spec(in_channels: int = 64, has_guidance: bool = True) -> ModelSpec:
    """A model of random small sizes in which no two different lengths are equal."""
    from dataclasses import replace

    return replace(
        TINY,
        model=f"small{in_channels}",
        title="Small FLUX",
        transformer=TransformerConfig(
            in_channels=in_channels,
            hidden_size=48,
            num_heads=3,
            depth=2,
            depth_single=3,
            mlp_hidden=192,
            context_in_dim=20,
            vec_in_dim=12,
            axes_dim=(4, 6, 6),
            has_guidance=has_guidance,
        ),
        t5=T5Config(vocab_size=60, d_model=32, num_heads=4, d_kv=6, d_ff=40, num_layers=2),
        clip=ClipTextConfig(vocab_size=60, hidden_size=36, num_heads=4, mlp_hidden=64, num_layers=2),
    )


class MemorySource:
    """A TensorSource over arrays of any dtype that NumPy has."""

    def __init__(self, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
        self.arrays = {
            name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()
        }
        self.metadata = dict(metadata or {})
        self.infos = {name: TensorInfo(_KINDS[a.dtype.str], a.shape) for name, a in arrays.items()}

    def names(self) -> Mapping[str, TensorInfo]:
        return self.infos

    def read(self, name: str) -> RawTensor:
        array = self.arrays[name]
        return RawTensor(name, _KINDS[array.dtype.str], array.shape, array.reshape(-1).view(np.uint8))


_KINDS = {"<f4": "F32", "<f2": "F16", "<f8": "F64", "<i8": "I64", "<i4": "I32"}


@dataclass
class Draw:
    """Random tensors of LoRAs: of the order of a tenth of a weight."""

    seed: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def array(self, *shape: int) -> np.ndarray:
        return (0.3 * self.rng.standard_normal(shape)).astype(np.float32)

    def pair(self, module: str, rows: int, columns: int, rank: int, names: tuple[str, str]) -> Arrays:
        """The two matrices under `module` + names (down, up)."""
        return {module + names[0]: self.array(rank, columns), module + names[1]: self.array(rows, rank)}


KOHYA = (".lora_down.weight", ".lora_up.weight")
PEFT = (".lora_A.weight", ".lora_B.weight")
XLABS = (".down.weight", ".up.weight")


def matrices(spec: ModelSpec, component: Component = Component.TRANSFORMER) -> dict[str, tuple[int, int]]:
    """Layer -> (rows, columns) of every matrix."""
    return {layer.name: (layer.rows, layer.columns) for layer in layers_of(spec)[component] if layer.columns}


def norms(spec: ModelSpec) -> dict[str, int]:
    return {layer.name: layer.rows for layer in layers_of(spec)[Component.TRANSFORMER] if not layer.columns}


def kohya(
    spec: ModelSpec, layers: Iterable[str], rank: int = 4, alpha: float | None = 2.0, seed: int = 0
) -> Arrays:
    """sd-scripts: BFL's names with underscores, an alpha for each."""
    draw, sizes, file = Draw(seed), matrices(spec), {}
    for layer in layers:
        module = "lora_unet_" + layer.replace(".", "_")
        file |= draw.pair(module, *sizes[layer], rank, KOHYA)
        if alpha is not None:
            file[module + ".alpha"] = np.array(alpha, np.float32)
    return file


def control(spec: ModelSpec, channels: int = 128, rank: int = 8, seed: int = 0) -> Arrays:
    """Canny-dev-lora's layout: every matrix, with a bias, and every norm; no prefix and no alpha."""
    draw, file = Draw(seed), {}
    for layer, (rows, columns) in matrices(spec).items():
        inputs = channels if layer == "img_in" else columns
        file |= draw.pair(layer, rows, inputs, min(rank, rows, inputs), PEFT)
        file[f"{layer}.lora_B.bias"] = draw.array(rows)
    return file | {f"{norm}.scale": 1 + draw.array(dim) for norm, dim in norms(spec).items()}


def xlabs(spec: ModelSpec, rank: int = 4, seed: int = 0) -> Arrays:
    """XLabs' attention processors."""
    draw, dim, file = Draw(seed), spec.transformer.hidden_size, {}
    for i in range(spec.transformer.depth):
        for stream in (1, 2):
            at = f"double_blocks.{i}.processor"
            file |= draw.pair(f"{at}.qkv_lora{stream}", 3 * dim, dim, rank, XLABS)
            file |= draw.pair(f"{at}.proj_lora{stream}", dim, dim, rank, XLABS)
    for i in range(spec.transformer.depth_single):
        at = f"single_blocks.{i}.processor"
        file |= draw.pair(f"{at}.qkv_lora", 3 * dim, dim, rank, XLABS)
        file |= draw.pair(f"{at}.proj_lora", dim, dim + spec.transformer.mlp_hidden, rank, XLABS)
    return file


# What patches mean


def delta_of(patch: Patch) -> np.ndarray:
    """[rows, columns] float64."""
    match patch.delta:
        case LowRank(up, down, scale):
            return scale * up.astype(np.float64) @ down
        case Hadamard(w1_a, w1_b, w2_a, w2_b, scale):
            return scale * (w1_a.astype(np.float64) @ w1_b) * (w2_a.astype(np.float64) @ w2_b)
        case Kronecker(w1, w2_a, w2_b, scale):
            w2 = w2_a if w2_b is None else w2_a.astype(np.float64) @ w2_b
            a, b, c, d = (*w1.shape, *w2.shape)
            return scale * np.einsum("ij,kl->ikjl", w1.astype(np.float64), w2).reshape(a * c, b * d)
        case Difference(weight):
            size = (patch.rows[1] - patch.rows[0], patch.columns)
            return np.zeros(size) if weight is None else weight.astype(np.float64)
    raise TypeError(patch.delta)


def changed(weight: np.ndarray, patch: Patch, strength: float) -> np.ndarray:
    """W + s * (W' - W) for a whole layer."""
    first, last = patch.rows
    out = weight.astype(np.float64)
    if patch.columns > out.shape[1]:
        out = np.pad(out, ((0, 0), (0, patch.columns - out.shape[1])))
    base = out[first:last, : patch.columns].copy()
    new = base + delta_of(patch)
    if patch.magnitude is not None:
        axis = 1 if patch.magnitude.axis is Axis.ROWS else 0
        values = np.expand_dims(patch.magnitude.values.astype(np.float64), axis)
        new = values * new / np.sqrt((new**2).sum(axis, keepdims=True))
    out[first:last, : patch.columns] += strength * (new - base)
    return out


def merged(weights: Arrays, uses: Iterable[tuple[Iterable[Patch], float]]) -> Arrays:
    """Every weight with the patches in it; DoRA's lengths are those of the untouched base."""
    out = {name: array.astype(np.float64) for name, array in weights.items()}
    for patches, strength in uses:
        for patch in patches:
            if isinstance(patch.delta, NormChange):
                key = next(k for k in (f"{patch.layer}.scale", f"{patch.layer}.weight") if k in out)
                for name, values in ((key, patch.delta.weight), (f"{patch.layer}.bias", patch.delta.bias)):
                    if values is not None:
                        old = 0 if patch.delta.is_replacement else out[name]
                        out[name] = old + values * (1.0 if patch.delta.is_replacement else strength)
                continue
            key, base = f"{patch.layer}.weight", weights[f"{patch.layer}.weight"]
            new = changed(base, patch, strength)
            wide = np.pad(base.astype(np.float64), ((0, 0), (0, new.shape[1] - base.shape[1])))
            before = np.pad(out[key], ((0, 0), (0, max(0, new.shape[1] - out[key].shape[1]))))
            more = np.pad(new - wide, ((0, 0), (0, before.shape[1] - new.shape[1])))
            out[key] = before + more
            bias = getattr(patch.delta, "bias", None)
            if bias is not None:
                out[f"{patch.layer}.bias"][slice(*patch.rows)] += strength * bias.astype(np.float64)
    return out


class ExactSource:
    """A TensorSource whose values stay float64 for the oracle, which asks for nothing else."""

    metadata: Mapping[str, str] = {}

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays

    def read(self, name: str) -> Any:
        return _Exact(self.arrays[name])


@dataclass
class _Exact:
    array: np.ndarray

    def to_numpy(self) -> np.ndarray:
        return self.array


Build = Callable[[Any, Any], Any]

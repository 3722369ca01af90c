"""How exact fp8 and bfloat16 are: layers, blocks and a step of random weights, against float32.

An error is the norm of the difference over the norm of what it should be. The peer's bfloat16 is measured
with the same weights and inputs, so that it says how much of an error is bfloat16's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from backends.torch_cuda import diffusers_peer
from backends.torch_cuda.backend import best_ops, tensor_of
from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Figure, give_back
from backends.torch_cuda.bench.floor import Gemm, gemms
from backends.torch_cuda.bench.studio import Choosing
from backends.torch_cuda.bench.weights import RandomSource, model_shapes
from backends.torch_cuda.eight_bit import coded, multiplied
from flux_core.catalog import ModelSpec
from flux_core.conditioning.packing import position_ids, rotary_table
from flux_core.models.modulation import cut
from flux_core.models.transformer import Transformer
from flux_core.request import Precision
from flux_core.weights.diffusers_keys import pieces_of, stacked_rows_of, transformer_recipes
from flux_core.weights.tensors import RawTensor, TensorSource

OUTLIERS = 20.0, 50.0
"""How many times as large as the others some channels are: the range of what goes into FLUX.1's MLPs."""
NUM_OUTLIERS = 8
_PRECISIONS = Precision.FP32, Precision.BF16, Precision.FP8

Outputs = dict[str, Tensor]
"""What -> values in float64 or float32 on the host."""


def quality(bench: Bench) -> None:
    """Layers, blocks and a step of random weights."""
    for gemm in gemms(bench):
        if gemm.rows != bench.sizes.txt_tokens:  # the text's products differ in nothing but how many rows
            _tell_layer(bench, gemm)
    spec = bench.sizes.spec
    shapes = model_shapes(spec)[spec.files.transformer]
    tell_model(bench, "quality", spec, RandomSource(shapes), bench.sizes.latent_side)


def _tell_layer(bench: Bench, gemm: Gemm) -> None:
    """One product in eight bits, for an input of equal channels and one with a few large ones."""
    make = torch.Generator(bench.device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=bench.device, generator=make)

    weight = (normal(gemm.columns, gemm.inner) * gemm.inner**-0.5).bfloat16()
    large = torch.ones(gemm.inner, device=bench.device)
    large[:: -(-gemm.inner // NUM_OUTLIERS)] = torch.linspace(*OUTLIERS, NUM_OUTLIERS, device=bench.device)
    ops: Any = best_ops(bench.device)
    for title, scale in (("even input", torch.ones_like(large)), ("a few large channels", large)):
        x = (normal(1, gemm.rows, gemm.inner) * scale).bfloat16()
        exact = functional.linear(x.float(), weight.float())
        half = functional.linear(x, weight)
        with torch.inference_mode():
            (codes, scales), (weight_codes, weight_scales) = ops.code(x), coded(weight)
            found = multiplied(codes, scales, weight_codes, weight_scales, None, torch.bfloat16)
        name = gemm.name.removesuffix(", image")
        bench.results.add(
            Figure("quality", f"{name}, {title}, fp8", "%", 100 * error(found, exact),
                   note=f"of the product; bf16 {100 * error(half, exact):.2f} %")
        )  # fmt: skip


def error(found: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm of what it should be."""
    exact = exact.double()
    return float((found.double().to(exact.device) - exact).norm() / exact.norm())


@dataclass(frozen=True, slots=True)
class Told:
    """What one evaluation is given, in float32 on the host; picture and words as wide as the model's.

    Attributes:
        img: [1, L_img, C].
        txt: [1, L_txt, context_in_dim].
        vec: [1, vec_in_dim].
        side: Of the picture in latents.
    """

    img: Tensor
    txt: Tensor
    vec: Tensor
    side: int

    @classmethod
    def drawn(cls, spec: ModelSpec, side: int) -> Told:
        """At random, rounded to bfloat16 so that every precision gets the same."""
        make, config = torch.Generator().manual_seed(0), spec.transformer

        def normal(*shape: int) -> Tensor:
            return torch.randn(1, *shape, generator=make).bfloat16().float()

        return cls(
            normal(side * side // 4, config.in_channels),
            normal(spec.t5_tokens, config.context_in_dim),
            normal(config.vec_in_dim)[0:1],
            side,
        )


SIGMA, GUIDANCE = 0.5, 4.0
"""Whose thousandfold bfloat16 holds: of the usual 3.5 the peer's bfloat16 makes 3.504, which is no error of
layers and with random weights larger than all of theirs (46 % of a step)."""


def tell_model(bench: Bench, piece: str, spec: ModelSpec, source: TensorSource, side: int) -> None:
    """Blocks and a step of one model in each precision, and the peer's step.

    Args:
        bench: The run.
        piece: That the figures belong to.
        spec: The model.
        source: Its transformer, under the single file's names.
        side: Of a square picture, in latents.
    """
    told = Told.drawn(spec, side)
    theirs = _peer_outputs(bench, spec, source, told) if bench.has_peer else {}
    give_back(bench.device)
    ours: dict[Precision, Outputs] = {}
    for precision in _PRECISIONS:
        ours[precision] = _outputs(bench, spec, source, told, precision)
        give_back(bench.device)
    exact = ours[Precision.FP32]
    for what, values in exact.items():
        for precision in (Precision.BF16, Precision.FP8):
            found = 100 * error(ours[precision][what], values)
            bench.results.add(
                Figure(piece, f"{what}, {precision.value}", "%", found, note="against our fp32")
            )
    if not theirs:
        return
    for precision, outputs in ours.items():
        found = error(outputs["step"], theirs["exact"])
        bench.results.add(
            Figure(piece, f"step, {precision.value}, against the peer's exact step", "%",
                   100 * found, 100 * error(theirs["bf16"], theirs["exact"]), "diffusers, bf16")
        )  # fmt: skip


def _outputs(
    bench: Bench, spec: ModelSpec, source: TensorSource, told: Told, precision: Precision
) -> Outputs:
    """What the first, the middle and the last block of each kind add, and a step's velocity."""
    backend, config = Choosing(str(bench.device)), spec.transformer
    found: Outputs = {}
    with backend.session():
        model = Transformer(backend.ops, backend.leaves(source, precision), config)
        img, txt, vec = (
            backend.cast(each.to(bench.device), precision) for each in (told.img, told.txt, told.vec)
        )
        sigma, guidance = (torch.full((1,), value, device=bench.device) for value in (SIGMA, GUIDANCE))
        rows = model.modulations(vec, sigma, guidance if config.has_guidance else None)
        ids = position_ids(spec.t5_tokens, told.side, told.side)
        pe = backend.from_numpy(rotary_table(ids, config.axes_dim, config.theta))
        mods = cut(backend.ops, rows, config)
        streams = model.img_in(img), model.txt_in(txt)
        joined = torch.cat(streams[::-1], 1)
        for i in _ends(config.depth):
            after = model.double_blocks[i](*streams, mods.double[i], pe)
            found[f"double block {i}"] = _host(after[0].float() - streams[0].float())
        for i in _ends(config.depth_single):
            after = model.single_blocks[i](joined, mods.single[i], pe)
            found[f"single block {i}"] = _host(after.float() - joined.float())
        found["step"] = _host(model.modulated(img, txt, rows, pe))
    return found


def _peer_outputs(bench: Bench, spec: ModelSpec, source: TensorSource, told: Told) -> Outputs:
    """The peer's step in bfloat16, and exact: in float64 on a processor, in float32 on a GPU."""
    exact = torch.float64 if bench.device.type == "cpu" else torch.float32
    found: Outputs = {}
    for name, dtype in (("bf16", torch.bfloat16), ("exact", exact)):
        torch.set_default_dtype(dtype)
        try:
            with bench.device:
                model = diffusers_peer.transformer(spec.transformer).eval()
        finally:
            torch.set_default_dtype(torch.float32)
        _fill(model, spec, source)
        with torch.inference_mode():
            found[name] = _host(model(**_peer_arguments(bench, spec, told, dtype))[0])
        del model
        give_back(bench.device)
    return found


def _fill(model: Any, spec: ModelSpec, source: TensorSource) -> None:
    """Weights of the single file into diffusers' model, tensor by tensor: two copies of all would not fit."""
    recipes, state = transformer_recipes(spec.transformer), model.state_dict()
    recipes = {name: recipe for name, recipe in recipes.items() if name in source.names()}
    lengths = {name: source.names()[name].shape[0] for name in recipes}
    pieces = pieces_of(recipes, lengths, stacked_rows_of(spec.transformer))
    missing = set(state) ^ set(pieces)
    if missing:
        raise ValueError(f"the peer has other tensors: {sorted(missing)[:3]}")
    read: dict[str, Tensor] = {}
    for name, piece in pieces.items():
        if piece.name not in read:
            read = {piece.name: _values(source.read(piece.name))}
        part = read[piece.name][piece.start : piece.stop]
        state[name].copy_(part.roll(len(part) // 2, 0) if piece.is_swapped else part)


def _values(raw: RawTensor) -> Tensor:
    """A tensor that nobody else holds; float32 where it was quantised."""
    return tensor_of(replace(raw, data=np.array(raw.data)))


def _peer_arguments(bench: Bench, spec: ModelSpec, told: Told, dtype: torch.dtype) -> Mapping[str, Any]:
    ids = torch.from_numpy(position_ids(spec.t5_tokens, told.side, told.side)).to(bench.device, dtype)

    def full(value: float) -> Tensor:
        return torch.full((1,), value, device=bench.device, dtype=dtype)

    return {
        "hidden_states": told.img.to(bench.device, dtype),
        "encoder_hidden_states": told.txt.to(bench.device, dtype),
        "pooled_projections": told.vec.to(bench.device, dtype),
        "timestep": full(SIGMA),
        "txt_ids": ids[: spec.t5_tokens],
        "img_ids": ids[spec.t5_tokens :],
        "guidance": full(GUIDANCE) if spec.transformer.has_guidance else None,
        "return_dict": False,
    }


def _ends(depth: int) -> list[int]:
    return sorted({0, depth // 2, depth - 1})


def _host(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float64 if x.dtype == torch.float64 else torch.float32)

"""Every operation, every leaf and every model: torch and MLX against NumPy in float64.

A backend is judged by its distance to the oracle, never to the other backend; in bfloat16 the oracle
gets the same rounded inputs and weights, so the distance is the arithmetic's alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from flux_core.catalog import (
    AutoencoderConfig,
    ClipTextConfig,
    ClipVisionConfig,
    ControlNetConfig,
    IpAdapterConfig,
    ReduxConfig,
    SiglipConfig,
    T5Config,
    Taef1Config,
    TransformerConfig,
)
from flux_core.conditioning.packing import pack, position_ids, rotary_table, unpack
from flux_core.models.autoencoder import Decoder, Encoder
from flux_core.models.clip import ClipText
from flux_core.models.clip_vision import ClipVision
from flux_core.models.controlnet import ControlNet
from flux_core.models.ip_adapter import IpAdapter
from flux_core.models.redux import Redux
from flux_core.models.siglip import SiglipVision
from flux_core.models.t5 import T5Encoder, relative_buckets
from flux_core.models.taef1 import Taef1Decoder, Taef1Encoder
from flux_core.models.transformer import Transformer
from flux_core.ops import HeadStream, Modulated, Sum
from flux_core.request import Precision
from flux_core.weights.expected import Recorder
from tests.support.numerics import BACKENDS, ArraySource, distance, make_backend, random_weights, to_bf16
from tests.support.oracle import OracleBackend


@dataclass(frozen=True)
class Case:
    """What to run: make(ops, leaves) -> callable; its inputs; and how near it must come.

    `exact` inputs stay float32 in every precision (angles, noise levels).
    """

    name: str
    make: Callable[[Any, Any], Callable[..., Any]]
    inputs: tuple[np.ndarray, ...]
    exact: tuple[np.ndarray, ...] = ()
    f32: float = 5e-7
    bf16: float = 1.2e-2


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def integers(*shape: int, below: int) -> np.ndarray:
    return np.random.default_rng(list(shape)).integers(0, below, shape, dtype=np.int32)


def op(name: str, *args: Any, **kwargs: Any) -> Callable[[Any, Any], Callable[..., Any]]:
    """The operation `name`, called with the arrays first and these arguments after."""
    return lambda ops, _: lambda *arrays: getattr(ops, name)(*arrays, *args, **kwargs)


def leaf(kind: str, *args: Any, **kwargs: Any) -> Callable[[Any, Any], Callable[..., Any]]:
    return lambda _, leaves: getattr(leaves, kind)("leaf", *args, **kwargs)


X = normal(2, 5, 24)
PE = rotary_table(position_ids(3, 4, 6), (4, 2, 6), 10_000.0)  # [9, 6, 2]
HEADS = tuple(normal(2, 3, 9, 12, seed=i) for i in range(3))


def norm_and_rotate(ops: Any, leaves: Any) -> Callable[..., Any]:
    q_norm = leaves.rms_norm("q", 12, 1e-6, key="scale")
    k_norm = leaves.rms_norm("k", 12, 1e-6, key="scale")
    return lambda q, k, pe: ops.concat(list(ops.qk_norm_rope(q, k, q_norm, k_norm, pe)), axis=0)


def modulated(*widths: int) -> Callable[[Any, Any], Callable[..., Any]]:
    """modulated_linear where one width is given, else gated_mlp, both results in one array."""

    def make(ops: Any, leaves: Any) -> Callable[..., Any]:
        up = leaves.linear("up", 24, widths[0])
        if len(widths) == 1:
            return lambda x, shift, scale: ops.modulated_linear(x, shift, scale, 1e-6, up)
        down = leaves.linear("down", *widths)

        def run(x: Any, gate: Any, y: Any, shift: Any, scale: Any) -> Any:
            return ops.concat(list(ops.gated_mlp(x, gate, y, shift, scale, 1e-6, up, down)), axis=2)

        return run

    return make


def beside_attention(ops: Any, leaves: Any) -> Callable[..., Any]:
    linear1, linear2 = leaves.linear("linear1", 24, 3 * 24 + 40), leaves.linear("linear2", 24 + 40, 24)

    def attend(qkv: Any) -> Any:
        q, k, v = ops.split(qkv, [24, 24, 24], axis=2)
        return q * k + v

    return lambda x, shift, scale: ops.parallel_mlp(x, shift, scale, 1e-6, linear1, linear2, attend)


def two_streams(ops: Any, leaves: Any) -> Callable[..., Any]:
    """modulated_linears of a sum and of an array, all results in one array."""
    linears = [leaves.linear(name, 24, 24) for name in ("first", "second")]

    def run(x: Any, gate: Any, y: Any, other: Any, shift: Any, scale: Any) -> Any:
        pairs = zip((Sum(x, gate, y), other), linears, strict=True)
        streams = [Modulated(each, shift, scale, linear) for each, linear in pairs]
        return ops.concat([part for pair in ops.modulated_linears(streams, 1e-6) for part in pair], axis=1)

    return run


def beside_attention_after_a_sum(ops: Any, leaves: Any) -> Callable[..., Any]:
    linear1, linear2 = leaves.linear("linear1", 24, 3 * 24 + 40), leaves.linear("linear2", 24 + 40, 24)

    def run(x: Any, gate: Any, y: Any, shift: Any, scale: Any) -> Any:
        def attend(qkv: Any) -> Any:
            return ops.split(qkv, [24, 48], axis=2)[0]

        return ops.concat(
            list(ops.gated_parallel_mlp(x, gate, y, shift, scale, 1e-6, linear1, linear2, attend)), axis=2
        )

    return run


def joint_heads(ops: Any, leaves: Any) -> Callable[..., Any]:
    norms = [leaves.rms_norm(name, 12, 1e-6, key="scale") for name in ("q1", "k1", "q2", "k2")]

    def run(first: Any, second: Any, pe: Any) -> Any:
        streams = [HeadStream(first, *norms[:2]), HeadStream(second, *norms[2:])]
        return ops.concat(list(ops.joint_heads(streams, 2, pe)), axis=1)

    return run


def joint_attention(ops: Any, leaves: Any) -> Callable[..., Any]:
    norms = [leaves.rms_norm(name, 12, 1e-6, key="scale") for name in ("q1", "k1", "q2", "k2")]

    def run(first: Any, second: Any, pe: Any) -> Any:
        streams = [HeadStream(first, *norms[:2]), HeadStream(second, *norms[2:])]
        return ops.joint_attention(streams, 2, pe, scale=12**-0.5)

    return run


MODULATION = normal(2, 1, 24), normal(2, 1, 24, seed=1)
OPS = (
    Case("concat", lambda ops, _: lambda a, b: ops.concat([a, b], axis=1), (X, normal(2, 3, 24))),
    Case("split", lambda ops, _: lambda x: ops.split(x, [4, 12, 8], axis=2)[1], (X,)),
    Case("transpose", op("transpose", (2, 0, 1)), (X,)),
    Case("take_rows", op("take_rows"), (X, np.array([4, 1], np.int32))),
    Case("upsample_nearest", op("upsample_nearest"), (normal(2, 3, 4, 5),)),
    Case("cast_like", op("cast_like"), (X, X)),
    Case("silu", op("silu"), (4 * X,)),
    Case("relu", op("relu"), (4 * X,)),
    Case("tanh", op("tanh"), (4 * X,)),
    Case("gelu_tanh", op("gelu_tanh"), (4 * X,)),
    Case("quick_gelu", op("quick_gelu"), (4 * X,)),
    Case("gelu_gate", op("gelu_gate"), (4 * X, normal(2, 5, 24, seed=1))),
    # float32 cannot hold 1000 s more exactly than this: the reference code shares the error
    Case(
        "sinusoid of sigmas",
        op("sinusoid", 256),
        (),
        (np.array([0, 0.25, 1 / 3, 1], np.float32),),
        1e-4,
        1e-4,
    ),
    Case("sinusoid of guidance", op("sinusoid", 256), (), (np.array([1, 3.5, 4.5], np.float32),), 4e-4, 4e-4),
    Case("modulated_norm", op("modulated_norm", 1e-6), (3 + X, normal(2, 1, 24), normal(2, 1, 24, seed=1))),
    Case("modulated_norm of tiny values", op("modulated_norm", 1e-6), (1e-3 * X, X[:, :1], X[:, 1:2])),
    Case("qk_norm_rope", norm_and_rotate, HEADS[:2], (PE,)),
    Case("qk_norm_rope of tiny values", norm_and_rotate, (1e-3 * HEADS[0], 1e-2 * HEADS[1]), (PE,)),
    Case("attention", op("attention", scale=12**-0.5), HEADS),
    Case("attention unscaled", op("attention", scale=1.0), HEADS, bf16=2.5e-2),
    Case(
        "attention to others",
        op("attention", scale=12**-0.5),
        (HEADS[0], normal(2, 3, 4, 12), normal(2, 3, 4, 12, seed=1)),
    ),
    Case("attention causal", op("attention", scale=12**-0.5, is_causal=True), HEADS),
    Case(
        "attention with bias",
        lambda ops, _: lambda q, k, v, bias: ops.attention(q, k, v, scale=1.0, bias=bias),
        (*HEADS, normal(1, 3, 9, 9)),
        bf16=2.5e-2,
    ),
    Case("gated_add", lambda ops, _: ops.gated_add, (X, normal(2, 1, 24), normal(2, 5, 24, seed=1))),
    Case("modulated_linear", modulated(10), (3 + X, *MODULATION)),
    Case(
        "gated_mlp", modulated(40, 24), (X, normal(2, 1, 24, seed=2), normal(2, 5, 24, seed=3), *MODULATION)
    ),
    Case("parallel_mlp", beside_attention, (3 + X, *MODULATION)),
    Case(
        "gated_parallel_mlp",
        beside_attention_after_a_sum,
        (X, normal(2, 1, 24, seed=2), normal(2, 5, 24, seed=3), *MODULATION),
    ),
    Case(
        "modulated_linears",
        two_streams,
        (X, normal(2, 1, 24, seed=2), normal(2, 5, 24, seed=3), normal(2, 3, 24), *MODULATION),
    ),
    Case("joint_heads", joint_heads, (normal(2, 3, 72), normal(2, 6, 72)), (PE,)),
    Case("joint_attention", joint_attention, (normal(2, 3, 72), normal(2, 6, 72)), (PE,)),
    Case("pack", lambda ops, _: lambda x: pack(ops, x), (normal(2, 4, 6, 16),)),
    Case("unpack", lambda ops, _: lambda x: unpack(ops, x, 4, 6), (normal(2, 6, 64),)),
)


def add_parameter(_: Any, leaves: Any) -> Callable[..., Any]:
    parameter = leaves.parameter("leaf", (1, 5, 24))
    return lambda x: x + parameter()


PICTURE = normal(2, 6, 8, 12)
LEAVES = (
    Case("linear", leaf("linear", 24, 10), (X,)),
    Case("linear without bias", leaf("linear", 24, 10, bias=False), (X,)),
    Case("conv2d 3x3", leaf("conv2d", 12, 7, 3, padding=(1, 1)), (PICTURE,)),
    Case("conv2d 1x1", leaf("conv2d", 12, 7, 1), (PICTURE,)),
    Case("conv2d down", leaf("conv2d", 12, 7, 3, stride=2, padding=(0, 1)), (PICTURE,)),
    Case("conv2d without bias", leaf("conv2d", 12, 7, 3, padding=(1, 1), bias=False), (PICTURE,)),
    Case("conv2d half as large", leaf("conv2d", 12, 7, 3, stride=2, padding=(1, 1)), (PICTURE,)),
    Case("conv2d of patches", leaf("conv2d", 12, 7, 3, stride=3), (normal(2, 8, 10, 12),)),
    Case("parameter", add_parameter, (X,)),
    Case("rms_norm", leaf("rms_norm", 24, 1e-6), (X,)),
    Case("rms_norm of tiny values", leaf("rms_norm", 24, 1e-6, key="scale"), (1e-3 * X,)),
    Case("layer_norm", leaf("layer_norm", 24, 1e-5), (2 + X,)),
    Case("group_norm", leaf("group_norm", 4, 12, 1e-6), (1 + PICTURE,)),
    Case("embedding", leaf("embedding", 30, 8), (integers(2, 5, below=30),)),
)

TRANSFORMER = TransformerConfig(
    in_channels=64,
    hidden_size=32,
    num_heads=2,
    depth=2,
    depth_single=2,
    mlp_hidden=48,
    context_in_dim=20,
    vec_in_dim=12,
    axes_dim=(4, 6, 6),
)
PLAIN_TRANSFORMER = TransformerConfig(
    hidden_size=32, num_heads=2, depth=1, depth_single=1, mlp_hidden=48, context_in_dim=20, vec_in_dim=12,
    axes_dim=(4, 6, 6), has_guidance=False,
)  # fmt: skip
AUTOENCODER = AutoencoderConfig(channels=8, channel_multipliers=(1, 2, 2), num_res_blocks=1, norm_groups=4)
T5 = T5Config(vocab_size=50, d_model=24, num_heads=3, d_kv=8, d_ff=40, num_layers=2)
CLIP = ClipTextConfig(
    vocab_size=50, hidden_size=24, num_heads=3, mlp_hidden=48, num_layers=2, max_positions=9
)
TOKENS = (normal(2, 6, 64), normal(2, 3, 20), normal(2, 12))
LOW = np.array([0.01, 0.003], np.float32)
SIGMA, GUIDANCE = np.array([1.0, 0.3], np.float32), np.array([3.5, 1.0], np.float32)


def transformer(config: TransformerConfig) -> Callable[[Any, Any], Callable[..., Any]]:
    def make(ops: Any, leaves: Any) -> Callable[..., Any]:
        model = Transformer(ops, leaves, config)
        if config.has_guidance:
            return model
        return lambda img, txt, vec, sigma, pe: model(img, txt, vec, sigma, None, pe)

    return make


def steered_transformer(ops: Any, leaves: Any) -> Callable[..., Any]:
    """A transformer with a ControlNet of either kind and an IP-Adapter."""
    model = Transformer(ops, leaves, TRANSFORMER)
    latent = ControlNet(ops, leaves, LATENT_CONTROL, "latent.")
    pixel = ControlNet(ops, leaves, PIXEL_CONTROL, "pixel.")
    adapter = IpAdapter(ops, leaves, IP_ADAPTER)

    def run(*inputs: Any) -> Any:
        img, txt, vec, mode, control, pixels, image_vec, sigma, guidance, pe = inputs
        rest = (txt, vec, sigma, guidance, pe)
        residuals = [
            latent(img, control, *rest, scale=0.6, mode=mode),
            pixel(img, pixels, *rest, scale=0.3),
        ]
        return model(img, *rest, residuals=residuals, image_prompts=[adapter(image_vec, [0.5, 1.5])])

    return run


def siglip(ops: Any, leaves: Any) -> Callable[..., Any]:
    model = SiglipVision(ops, leaves, SIGLIP)

    def run(image: Any) -> Any:
        states = model(image)
        return ops.concat([states, model.pool(states)[:, None, :]], axis=1)

    return run


BLOCKS = TransformerConfig(
    hidden_size=32, num_heads=2, depth=1, depth_single=2, mlp_hidden=48, context_in_dim=20, vec_in_dim=12,
    axes_dim=(4, 6, 6),
)  # fmt: skip
LATENT_CONTROL = ControlNetConfig(BLOCKS, condition_channels=68, num_modes=5)
PIXEL_CONTROL = ControlNetConfig(replace(BLOCKS, depth_single=0), is_pixel_hint=True)
IP_ADAPTER = IpAdapterConfig(
    num_tokens=3, image_dim=10, context_in_dim=20, hidden_size=32, num_heads=2, depth=2
)
SIGLIP = SiglipConfig(24, 3, 40, num_layers=2, image_px=17, patch_px=5, has_head=True)
CLIP_VISION = ClipVisionConfig(24, 3, 40, num_layers=2, image_px=15, patch_px=5, projection_dim=10)
TAEF1 = Taef1Config(width=8, latent_channels=16, num_blocks=1)

ROPE = rotary_table(position_ids(3, 4, 6), (4, 6, 6), 10_000.0)
MODELS = (
    # at high noise the sinusoid's error, above, is all the error there is
    Case("transformer", transformer(TRANSFORMER), TOKENS, (SIGMA, GUIDANCE, ROPE), 4e-5, 4e-2),
    Case("transformer at low noise", transformer(TRANSFORMER), TOKENS, (LOW, LOW, ROPE), 2e-6, 4e-2),
    Case("transformer without guidance", transformer(PLAIN_TRANSFORMER), TOKENS, (SIGMA, ROPE), 2e-5, 4e-2),
    Case(
        "encoder", lambda ops, make: Encoder(ops, make, AUTOENCODER), (normal(1, 16, 24, 3),), (), 2e-5, 4e-2
    ),
    Case(
        "decoder", lambda ops, make: Decoder(ops, make, AUTOENCODER), (normal(1, 4, 6, 16),), (), 2e-5, 4e-2
    ),
    Case(
        "t5",
        lambda ops, make: T5Encoder(ops, make, T5),
        (integers(2, 7, below=50), relative_buckets(7, T5)),
        (),
        2e-6,
        6e-2,
    ),
    Case(
        "clip",
        lambda ops, make: ClipText(ops, make, CLIP),
        (integers(2, 9, below=50), np.arange(9, dtype=np.int32), np.array([8, 3], np.int32)),
        (),
        2e-6,
        6e-2,
    ),
    Case("siglip", siglip, (normal(2, 17, 17, 3),), (), 2e-6, 6e-2),
    Case("redux", lambda ops, make: Redux(ops, make, ReduxConfig(24, 20)), (X,), (), 2e-6, 4e-2),
    Case(
        "clip vision",
        lambda ops, make: ClipVision(ops, make, CLIP_VISION),
        (normal(2, 15, 15, 3),),
        (),
        2e-6,
        6e-2,
    ),
    Case(
        "taef1 encoder", lambda ops, make: Taef1Encoder(ops, make, TAEF1), (normal(1, 16, 24, 3),), (), 2e-6
    ),
    Case("taef1 decoder", lambda ops, make: Taef1Decoder(ops, make, TAEF1), (normal(1, 2, 3, 16),), (), 2e-6),
    Case(
        "transformer with two ControlNets and an IP-Adapter",
        steered_transformer,
        (
            *TOKENS,
            np.array([4, 0], np.int32),
            normal(2, 6, 68),
            normal(2, 32, 48, 3),
            normal(2, 10),
        ),
        (LOW, LOW, ROPE),
        2e-6,
        4e-2,
    ),
)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16], ids=str)
@pytest.mark.parametrize("backend_name", BACKENDS)
@pytest.mark.parametrize("case", [*OPS, *LEAVES, *MODELS], ids=lambda case: case.name)
def test_stays_near_the_oracle(case: Case, backend_name: str, precision: Precision) -> None:
    is_rounded = precision is Precision.BF16
    weights = random_weights(_asked_for(case))
    rounded = {name: to_bf16(w) for name, w in weights.items()} if is_rounded else weights
    inputs = tuple(to_bf16(x) if is_rounded and x.dtype.kind == "f" else x for x in case.inputs)

    true = _run(OracleBackend(), case, ArraySource(rounded), inputs, precision)
    found = _run(make_backend(backend_name), case, ArraySource(rounded), inputs, precision)

    error = distance(found, true)
    assert error <= (case.bf16 if is_rounded else case.f32), f"{case.name}: {error:.2e}"


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16], ids=str)
@pytest.mark.parametrize("backend_name", BACKENDS)
@pytest.mark.parametrize("case", MODELS, ids=lambda case: case.name)
def test_a_model_answers_in_the_precision_it_was_given(
    case: Case, backend_name: str, precision: Precision
) -> None:
    backend = make_backend(backend_name)
    weights = ArraySource(random_weights(_asked_for(case)))
    with backend.session():
        model = case.make(backend.ops, backend.leaves(weights, precision))
        out = model(*_arguments(backend, case, case.inputs, precision))
    assert str(out.dtype).endswith("bfloat16" if precision is Precision.BF16 else "float32")


def _asked_for(case: Case) -> dict[str, tuple[int, ...]]:
    recorder = Recorder()
    case.make(OracleBackend().ops, recorder)
    return recorder.shapes


def _run(backend: Any, case: Case, weights: ArraySource, inputs: Any, precision: Precision) -> np.ndarray:
    with backend.session():
        run = case.make(backend.ops, backend.leaves(weights, precision))
        out = run(*_arguments(backend, case, inputs, precision))
        backend.evaluate(out)
        return backend.to_numpy(out)


def _arguments(backend: Any, case: Case, inputs: Any, precision: Precision) -> list[Any]:
    arrays = [backend.from_numpy(x) for x in inputs]
    cast = [
        backend.cast(a, precision) if x.dtype.kind == "f" else a for a, x in zip(arrays, inputs, strict=True)
    ]
    return cast + [backend.from_numpy(x) for x in case.exact]

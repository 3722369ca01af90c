"""ControlNets and the IP-Adapter steer our transformer as diffusers' steer diffusers'.

Random small configurations in float32. The control model's own file goes through our loader, its
residuals or prompts into our transformer, and the velocity is compared with the peer's whole chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from flux_core.catalog import IpAdapterConfig, TransformerConfig
from flux_core.conditioning.packing import position_ids, rotary_table
from flux_core.models.controlnet import ControlNet
from flux_core.models.transformer import Residuals, Transformer
from flux_core.request import Precision
from flux_core.weights import extra_components as extra
from flux_core.weights.diffusers_keys import ConvertedSource, transformer_recipes
from flux_core.weights.tensors import TensorSource
from tests.support.numerics import BACKENDS, ArraySource, make_backend, to_bf16
from tests.support.oracle import OracleBackend
from tests.support.peers import TOLERANCE, bfloat16_distances, gap, normal, randomised, saved

pytestmark = pytest.mark.filterwarnings(
    "ignore:`FluxPosEmbed` is deprecated:FutureWarning"  # diffusers' ControlNet warns of its own import
)
GAIN = 0.15
CONFIG = TransformerConfig(
    hidden_size=48, num_heads=3, depth=5, depth_single=7, mlp_hidden=192, context_in_dim=20, vec_in_dim=12,
    axes_dim=(4, 6, 6),
)  # fmt: skip
# four tokens in the file, which the loader must see for itself
IP_ADAPTER = IpAdapterConfig(
    num_tokens=16, image_dim=768, context_in_dim=20, hidden_size=48, num_heads=3, depth=5
)
IDS = position_ids(5, 8, 12)
PE = rotary_table(IDS, CONFIG.axes_dim, CONFIG.theta)
IMG, TXT, VEC = GAIN * normal(2, 24, 64), GAIN * normal(2, 5, 20), normal(2, 12)
SIGMA, GUIDANCE = np.array([1.0, 0.37], np.float32), np.array([3.5, 1.0], np.float32)
MODE = np.array([4, 1], np.int32)
COMMON: dict[str, Any] = {
    "attention_head_dim": 16,
    "num_attention_heads": 3,
    "joint_attention_dim": 20,
    "pooled_projection_dim": 12,
    "axes_dims_rope": CONFIG.axes_dim,
}


@dataclass(frozen=True)
class Kind:
    """A kind of ControlNet.

    What the peer is made with, the channels of its control tokens, and whether it takes pixels.
    """

    title: str
    options: dict[str, Any]
    channels: int = 64
    has_guidance: bool = True

    @property
    def is_pixel_hint(self) -> bool:
        return "conditioning_embedding_channels" in self.options

    @property
    def has_modes(self) -> bool:
        return "num_mode" in self.options

    @property
    def control(self) -> np.ndarray:
        """[B, H, W, 3] pixels or [B, L, C] tokens."""
        return normal(2, 64, 96, 3) if self.is_pixel_hint else GAIN * normal(2, 24, self.channels)


KINDS = (
    Kind("canny", {"num_layers": 2, "num_single_layers": 3}),
    Kind("union", {"num_layers": 2, "num_single_layers": 3, "num_mode": 7}),
    Kind("union pro 2", {"num_layers": 3, "num_single_layers": 0}),
    Kind("inpainting", {"num_layers": 2, "num_single_layers": 0}, channels=68),
    Kind("without guidance", {"num_layers": 1, "num_single_layers": 4}, has_guidance=False),
    Kind(
        "xlabs",
        {
            "num_layers": 2,
            "num_single_layers": 0,
            "conditioning_embedding_channels": 16,
            "patch_size": 2,
        },
    ),
)
UNION, XLABS = KINDS[1], KINDS[-1]


def peer_control(kind: Kind, seed: int = 1) -> Any:
    from diffusers import FluxControlNetModel

    peer = FluxControlNetModel(guidance_embeds=kind.has_guidance, **COMMON, **kind.options)
    if kind.channels != 64:  # the published inpainting nets widen this one layer
        peer.controlnet_x_embedder = nn.Linear(kind.channels, CONFIG.hidden_size)
    randomised(peer, gain=0.25, seed=seed)
    if kind.is_pixel_hint:
        with torch.no_grad():  # eight small convolutions in a row would leave nothing of the picture
            for weight in peer.input_hint_block.parameters():
                weight.mul_(6 if weight.ndim == 4 else 1)
    return peer


def peer_transformer() -> Any:
    from diffusers import FluxTransformer2DModel

    peer = FluxTransformer2DModel(
        in_channels=64, num_layers=CONFIG.depth, num_single_layers=CONFIG.depth_single, guidance_embeds=True,
        **COMMON,
    )  # fmt: skip
    return randomised(peer, gain=GAIN)


def shared_inputs(has_guidance: bool = True) -> dict[str, Any]:
    return {
        "hidden_states": torch.tensor(IMG),
        "encoder_hidden_states": torch.tensor(TXT),
        "pooled_projections": torch.tensor(VEC),
        "timestep": torch.tensor(SIGMA),
        "img_ids": torch.tensor(IDS[5:], dtype=torch.float32),
        "txt_ids": torch.tensor(IDS[:5], dtype=torch.float32),
        "guidance": torch.tensor(GUIDANCE) if has_guidance else None,
        "return_dict": False,
    }


def peer_residuals(peer: Any, kind: Kind, scale: float, contrast: float = 1.0) -> tuple[Any, Any]:
    control = contrast * torch.tensor(kind.control)
    return peer(
        controlnet_cond=control.permute(0, 3, 1, 2) if kind.is_pixel_hint else control,
        controlnet_mode=torch.tensor(MODE, dtype=torch.long)[:, None] if kind.has_modes else None,
        conditioning_scale=scale,
        **shared_inputs(kind.has_guidance),
    )


def our_residuals(backend: Any, model: ControlNet, kind: Kind, scale: float) -> Residuals:
    give = backend.from_numpy
    return model(
        give(IMG),
        give(kind.control),
        *map(give, (TXT, VEC, SIGMA)),
        give(GUIDANCE),
        give(PE),
        scale=scale,
        mode=give(MODE) if kind.has_modes else None,
    )


def our_velocity(backend: Any, source: TensorSource, **steered: Any) -> np.ndarray:
    model = Transformer(backend.ops, backend.leaves(source, Precision.FP32), CONFIG)
    inputs = map(backend.from_numpy, (IMG, TXT, VEC, SIGMA, GUIDANCE, PE))
    return backend.to_numpy(model(*inputs, **steered))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.title)
def test_a_controlnet_and_the_transformer_it_steers_equal_diffusers(tmp_path: Path, kind: Kind) -> None:
    control, transformer = peer_control(kind), peer_transformer()
    with torch.no_grad():
        double, single = peer_residuals(control, kind, scale=0.7)
        expected = transformer(
            controlnet_block_samples=double,
            controlnet_single_block_samples=single,
            controlnet_blocks_repeat=kind.is_pixel_hint,
            **shared_inputs(),
        )[0]
        unsteered = transformer(**shared_inputs())[0]
        blind, _ = peer_residuals(control, kind, scale=0.7, contrast=0.0)
    assert float((expected - unsteered).abs().max()) > 0.05  # it does steer
    assert float((double[0] - blind[0]).abs().max()) > 0.05  # by the control picture, too

    weights = ConvertedSource(saved(transformer, tmp_path), transformer_recipes(CONFIG))
    (tmp_path / "control").mkdir()
    file = saved(control, tmp_path / "control")

    def steered(backend: Any) -> list[np.ndarray]:
        """Our residuals and the velocity that they lead to."""
        with backend.session():
            model = extra.load_controlnet(file, backend, Precision.FP32, CONFIG)
            found = our_residuals(backend, model, kind, scale=0.7)
            velocity = our_velocity(backend, weights, residuals=[found])
            return [*map(backend.to_numpy, (*found.double, *found.single)), velocity]

    peers = [*(double or ()), *(single or ()), expected]
    truth = steered(OracleBackend())
    for name in BACKENDS:
        for ours, theirs, true in zip(steered(make_backend(name)), peers, truth, strict=True):
            # Rounding grows on the way here; whoever differs from the peer is at least nearer to the truth.
            is_nearer = np.abs(ours - true).max() <= np.abs(theirs.numpy() - true).max()
            assert gap(ours, theirs) < TOLERANCE or is_nearer, name


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.title)
def test_in_bfloat16_a_controlnet_is_about_as_near_to_the_truth_as_diffusers(
    tmp_path: Path, kind: Kind
) -> None:
    rounded = {name: to_bf16(x) for name, x in (("img", IMG), ("txt", TXT), ("vec", VEC))}
    control = to_bf16(kind.control)
    exact = np.array([1.0, 0.5], np.float32)  # noise and guidance that diffusers does not round away

    def answer(backend: Any, source: TensorSource) -> Any:
        def give(x: np.ndarray) -> Any:
            return backend.cast(backend.from_numpy(x), Precision.BF16)

        model = extra.load_controlnet(source, backend, Precision.BF16, CONFIG)
        rest = [backend.from_numpy(x) for x in (exact, exact, PE)]
        img, txt, vec = (give(x) for x in rounded.values())
        mode = backend.from_numpy(MODE) if kind.has_modes else None
        out = model(img, give(control), txt, vec, *rest, mode=mode)
        return backend.ops.concat([*out.double, *out.single], axis=1)

    def peer_answer(peer: Any) -> torch.Tensor:
        inputs = shared_inputs(kind.has_guidance)
        names = {"img": "hidden_states", "txt": "encoder_hidden_states", "vec": "pooled_projections"}
        inputs |= {names[name]: torch.tensor(x).bfloat16() for name, x in rounded.items()}
        inputs["timestep"] = torch.tensor(exact)
        inputs["guidance"] = torch.tensor(exact) if kind.has_guidance else None
        picture = torch.tensor(control).bfloat16()
        double, single = peer(
            controlnet_cond=picture.permute(0, 3, 1, 2) if kind.is_pixel_hint else picture,
            controlnet_mode=torch.tensor(MODE, dtype=torch.long)[:, None] if kind.has_modes else None,
            **inputs,
        )
        return torch.cat([*double, *(single or ())], dim=1)

    found = bfloat16_distances(peer_control(kind), tmp_path, answer, peer_answer)
    # Torch measured 0.97 to 1.02 of diffusers' distance; MLX 0.93 to 1.05, and 1.32 with XLabs' convolutions.
    assert found["torch"] < 1.05 * found["peer"], found
    assert found["mlx"] < 1.5 * found["peer"], found


def test_several_controlnets_add_up_as_in_diffusers(tmp_path: Path) -> None:
    kinds, transformer = (UNION, replace(UNION, options={**UNION.options})), peer_transformer()
    peers = [peer_control(kind, seed) for seed, kind in enumerate(kinds)]
    with torch.no_grad():
        outs = [
            peer_residuals(peer, kind, scale)
            for peer, kind, scale in zip(peers, kinds, (0.7, 0.4), strict=True)
        ]
        double, single = ([a + b for a, b in zip(*parts, strict=True)] for parts in zip(*outs, strict=True))
        expected = transformer(
            controlnet_block_samples=double, controlnet_single_block_samples=single, **shared_inputs()
        )[0]
    weights = ConvertedSource(saved(transformer, tmp_path), transformer_recipes(CONFIG))
    files: list[TensorSource] = []
    for i, peer in enumerate(peers):
        (tmp_path / str(i)).mkdir()
        files.append(saved(peer, tmp_path / str(i)))
    for name in BACKENDS:
        backend = make_backend(name)
        with backend.session():
            residuals = [
                our_residuals(
                    backend, extra.load_controlnet(file, backend, Precision.FP32, CONFIG), kind, scale
                )
                for file, kind, scale in zip(files, kinds, (0.7, 0.4), strict=True)
            ]
            assert gap(our_velocity(backend, weights, residuals=residuals), expected) < TOLERANCE


def test_a_file_of_xlabs_is_the_same_controlnet_as_diffusers_copy_of_it(tmp_path: Path) -> None:
    """XLabs' names are written out here one by one, so that our map is not proven by itself."""
    peer = peer_control(XLABS)
    theirs = {name: p.detach().numpy() for name, p in peer.state_dict().items()}
    plain = {
        "img_in": "x_embedder",
        "txt_in": "context_embedder",
        "pos_embed_input": "controlnet_x_embedder",
        "input_hint_block.0": "input_hint_block.conv_in",
        "input_hint_block.14": "input_hint_block.conv_out",
        "controlnet_blocks.0": "controlnet_blocks.0",
        "controlnet_blocks.1": "controlnet_blocks.1",
    }
    plain |= {f"input_hint_block.{2 + 2 * i}": f"input_hint_block.blocks.{i}" for i in range(6)}
    for ours, name in (("time_in", "timestep"), ("guidance_in", "guidance"), ("vector_in", "text")):
        plain[f"{ours}.in_layer"] = f"time_text_embed.{name}_embedder.linear_1"
        plain[f"{ours}.out_layer"] = f"time_text_embed.{name}_embedder.linear_2"
    weights: dict[str, np.ndarray] = {}
    for i in range(2):
        ours, block = f"double_blocks.{i}", f"transformer_blocks.{i}"
        plain |= {
            f"{ours}.img_mod.lin": f"{block}.norm1.linear",
            f"{ours}.txt_mod.lin": f"{block}.norm1_context.linear",
            f"{ours}.img_attn.proj": f"{block}.attn.to_out.0",
            f"{ours}.txt_attn.proj": f"{block}.attn.to_add_out",
            f"{ours}.img_mlp.0": f"{block}.ff.net.0.proj",
            f"{ours}.img_mlp.2": f"{block}.ff.net.2",
            f"{ours}.txt_mlp.0": f"{block}.ff_context.net.0.proj",
            f"{ours}.txt_mlp.2": f"{block}.ff_context.net.2",
        }
        for key in ("weight", "bias"):
            parts = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
            for stream, names in zip(("img", "txt"), parts, strict=True):
                stacked = [theirs[f"{block}.attn.{part}.{key}"] for part in names]
                weights[f"{ours}.{stream}_attn.qkv.{key}"] = np.concatenate(stacked)
        weights[f"{ours}.img_attn.norm.query_norm.scale"] = theirs[f"{block}.attn.norm_q.weight"]
        weights[f"{ours}.img_attn.norm.key_norm.scale"] = theirs[f"{block}.attn.norm_k.weight"]
        weights[f"{ours}.txt_attn.norm.query_norm.scale"] = theirs[f"{block}.attn.norm_added_q.weight"]
        weights[f"{ours}.txt_attn.norm.key_norm.scale"] = theirs[f"{block}.attn.norm_added_k.weight"]
    for ours, name in plain.items():
        weights |= {f"{ours}.{key}": theirs[f"{name}.{key}"] for key in ("weight", "bias")}
    save_file(weights, tmp_path / "xlabs.safetensors")

    backend = make_backend("torch")
    with backend.session():
        answers = [
            our_residuals(backend, extra.load_controlnet(file, backend, Precision.FP32, CONFIG), XLABS, 1.0)
            for file in (tmp_path / "xlabs.safetensors", saved(peer, tmp_path))
        ]
    assert all(answer.is_repeated and len(answer.double) == 2 and not answer.single for answer in answers)
    for one, other in zip(answers[0].double, answers[1].double, strict=True):
        assert np.array_equal(backend.to_numpy(one), backend.to_numpy(other))


def test_a_union_needs_a_mode(tmp_path: Path) -> None:
    backend = make_backend("torch")
    with backend.session():
        model = extra.load_controlnet(saved(peer_control(UNION), tmp_path), backend, Precision.FP32, CONFIG)
        with pytest.raises(ValueError, match="needs a mode"):
            our_residuals(backend, model, replace(UNION, options={}), 1.0)


@pytest.mark.parametrize(
    ("count", "depth", "is_repeated", "chosen"),
    [
        (6, 19, False, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4]),
        (5, 19, False, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4]),
        (2, 5, True, [0, 1, 0, 1, 0]),
        (0, 3, False, [None, None, None]),
    ],
)
def test_few_residuals_serve_many_blocks(
    count: int, depth: int, is_repeated: bool, chosen: Sequence[int | None]
) -> None:
    residuals = Residuals(double=range(count), single=range(count), is_repeated=is_repeated)
    assert [residuals.after_double(i, depth) for i in range(depth)] == list(chosen)
    assert [residuals.after_single(i, depth) for i in range(depth)] == list(chosen)


def ip_adapter_weights() -> dict[str, np.ndarray]:
    """A file as XLabs publishes it, for CONFIG: four tokens of 20 from a vector of 10."""
    shapes: dict[str, tuple[int, ...]] = {
        "ip_adapter_proj_model.proj.weight": (80, 10),
        "ip_adapter_proj_model.proj.bias": (80,),
        "ip_adapter_proj_model.norm.weight": (20,),
        "ip_adapter_proj_model.norm.bias": (20,),
    }
    for i in range(CONFIG.depth):
        for letter in "kv":
            name = f"double_blocks.{i}.processor.ip_adapter_double_stream_{letter}_proj"
            shapes |= {f"{name}.weight": (48, 20), f"{name}.bias": (48,)}
    rng = np.random.default_rng(3)
    gains = {name: 0.01 if ".proj." in name else 0.4 for name in shapes}  # so that the norm's eps is seen
    return {name: (gains[name] * rng.standard_normal(s)).astype(np.float32) for name, s in shapes.items()}


@pytest.mark.parametrize("has_short_names", [False, True], ids=["xlabs' names", "diffusers' names"])
def test_the_ip_adapter_equals_diffusers(tmp_path: Path, has_short_names: bool) -> None:
    weights = ip_adapter_weights()
    short = {name: np.array(w) for name, w in weights.items() if name.startswith("ip_adapter_proj_model.")}
    projector = {name.removeprefix("ip_adapter_proj_model."): torch.tensor(w) for name, w in short.items()}
    attention: dict[str, torch.Tensor] = {}
    for i in range(CONFIG.depth):
        for letter in "kv":
            for key in ("weight", "bias"):
                name = f"double_blocks.{i}.processor.ip_adapter_double_stream_{letter}_proj.{key}"
                attention[f"{i}.to_{letter}_ip.{key}"] = torch.tensor(weights[name])
    transformer = peer_transformer()
    source = ConvertedSource(saved(transformer, tmp_path), transformer_recipes(CONFIG))
    transformer._load_ip_adapter_weights(
        [{"image_proj": projector, "ip_adapter": attention}], low_cpu_mem_usage=False
    )
    scales = [0.9, 0.0, 1.4, 0.5, 0.7]
    for processor, scale in zip(transformer.attn_processors.values(), scales, strict=False):
        processor.scale = [scale]
    image_vec = normal(2, 10)
    with torch.no_grad():
        expected = transformer(
            **shared_inputs(),
            joint_attention_kwargs={"ip_adapter_image_embeds": [torch.tensor(image_vec)[:, None]]},
        )[0]

    if has_short_names:
        named = {f"image_proj.{name}": w for name, w in projector.items()}
        named |= {f"ip_adapter.{name}": w for name, w in attention.items()}
        file = ArraySource({name: w.numpy() for name, w in named.items()})
    else:
        file = ArraySource(weights)
    for name in BACKENDS:
        backend = make_backend(name)
        with backend.session():
            adapter = extra.load_ip_adapter(file, backend, Precision.FP32, IP_ADAPTER)
            prompts = adapter(backend.from_numpy(image_vec), scales)
            found = our_velocity(backend, source, image_prompts=[prompts])
            plain = our_velocity(backend, source)
            assert np.abs(found - plain).max() > 0.05  # it does steer
            none = our_velocity(backend, source, image_prompts=[adapter(backend.from_numpy(image_vec), 0.0)])
        assert gap(found, expected) < TOLERANCE, name
        assert np.array_equal(none, plain)

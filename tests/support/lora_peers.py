"""Peers on small random weights, and our own model on the same with LoRAs on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from flux_core.conditioning.packing import position_ids, rotary_table
from flux_core.models.transformer import Transformer
from flux_core.plan import Component
from flux_core.request import Precision
from flux_core.weights.diffusers_keys import ConvertedSource, transformer_recipes
from flux_core.weights.lora.read import Lora, read_lora
from flux_core.weights.safetensors_file import SafetensorsFile
from flux_core.weights.tensors import TensorSource
from tests.support import lora_files
from tests.support.numerics import BACKENDS, make_backend

TOLERANCE = 2e-5
SPEC = lora_files.small_spec()
CONFIG = SPEC.transformer
IDS = position_ids(5, 8, 12)
Use = tuple[Lora, float]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(list(shape)).standard_normal(shape, dtype=np.float32)


def quieted(model: Any, seed: int = 0) -> Any:
    """The peer with every parameter drawn, small enough that outputs stay of the order of one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim > 1:
                p.copy_(noise * (0.3 if "embed" in name or "shared" in name else 0.3 * p.shape[1] ** -0.5))
            else:
                p.copy_(0.05 * noise if name.endswith("bias") else 1 + 0.1 * noise)
    return model.eval()


def flux_peer(channels: int = 64) -> Any:
    from diffusers import FluxTransformer2DModel

    return quieted(
        FluxTransformer2DModel(
            in_channels=channels,
            out_channels=64,
            num_layers=CONFIG.depth,
            num_single_layers=CONFIG.depth_single,
            attention_head_dim=CONFIG.hidden_size // CONFIG.num_heads,
            num_attention_heads=CONFIG.num_heads,
            joint_attention_dim=CONFIG.context_in_dim,
            pooled_projection_dim=CONFIG.vec_in_dim,
            guidance_embeds=True,
            axes_dims_rope=CONFIG.axes_dim,
        )
    )


def pipeline(peer: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    return FluxPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), transformer=peer, **nothing)


def saved(weights: Any, path: Path, metadata: dict[str, str] | None = None) -> TensorSource:
    """Tensors of a peer or arrays, written and opened again."""
    tensors = {name: torch.as_tensor(value).detach().clone().contiguous() for name, value in weights.items()}
    save_file(tensors, path, metadata)
    return SafetensorsFile(path)


def lora_of(file: Any, folder: Path, spec: Any = SPEC, name: str = "style.safetensors") -> Lora:
    return read_lora(saved(file, folder / name), spec, name)


def inputs(channels: int = 64) -> dict[str, np.ndarray]:
    return {
        "img": 0.3 * normal(2, 24, channels),
        "txt": 0.3 * normal(2, 5, CONFIG.context_in_dim),
        "vec": normal(2, CONFIG.vec_in_dim),
        "sigma": np.array([0.01, 0.003], np.float32),  # low: the sinusoid of high ones has errors of its own
        "guidance": np.array([0.02, 0.005], np.float32),
    }


def of_peer(peer: Any, channels: int = 64) -> np.ndarray:
    given = {name: torch.tensor(value) for name, value in inputs(channels).items()}
    with torch.no_grad():
        out = peer(
            hidden_states=given["img"],
            encoder_hidden_states=given["txt"],
            pooled_projections=given["vec"],
            timestep=given["sigma"],
            img_ids=torch.tensor(IDS[5:], dtype=torch.float32),
            txt_ids=torch.tensor(IDS[:5], dtype=torch.float32),
            guidance=given["guidance"],
            return_dict=False,
        )[0]
    return out.numpy()


def ours(
    backend_name: str, base: TensorSource, uses: list[Use], channels: int = 64, spec: Any = SPEC
) -> np.ndarray:
    """The base with LoRAs on it, from the peer's plain weights."""
    backend = make_backend(backend_name)
    source = ConvertedSource(base, transformer_recipes(spec.transformer))
    with backend.session():
        leaves = backend.leaves(source, Precision.FP32)
        model = Transformer(backend.ops, leaves, spec.transformer)
        adapters = backend.adapters(leaves, Precision.FP32)
        for number, (lora, strength) in enumerate(uses):
            adapters.attach(str(number), lora.patches(Component.TRANSFORMER), strength)
        given = [backend.from_numpy(value) for value in inputs(channels).values()]
        pe = backend.from_numpy(rotary_table(IDS, CONFIG.axes_dim, CONFIG.theta))
        return backend.to_numpy(model(*given, pe))


def check(
    base: TensorSource, uses: list[Use], expected: np.ndarray, channels: int = 64, spec: Any = SPEC
) -> None:
    """Both backends near the peer, and the LoRA big enough to matter."""
    plain = ours("torch", base, [], 64, spec) if channels == spec.transformer.in_channels else None
    if plain is not None:
        assert np.abs(plain - expected).max() > 0.02
    gaps = {name: np.abs(ours(name, base, uses, channels, spec) - expected).max() for name in BACKENDS}
    assert max(gaps.values()) < TOLERANCE * max(1.0, np.abs(expected).max()), gaps


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """peft and diffusers warn about harmless things; here warnings are errors."""
    import warnings

    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.set_verbosity(before)

"""Diffusers' pipelines on the weights of the random family, and what our engine walked.

Each peer is built from the files that our engine reads. Encoders of words are not built: the peers are given
the states that ours computed, because other tests compare encoders.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from backends.torch_cuda import diffusers_peer
from backends.torch_cuda.diffusers_peer import Weights, filled
from flux_core.catalog import ControlNetConfig, ModelSpec
from flux_core.pipeline import FluxEngine
from flux_core.weights.diffusers_keys import controlnet_recipes
from tests.support import family_random as family
from tests.support.engine_runs import run


@dataclass
class Walked:
    """What our engine did in one run.

    Attributes:
        tokens: [1, L, 64], where the walk ended.
        words, vec: What the transformer read, text of the prompt and of pictures.
        no_words, no_vec: Of the negative prompt, or None.
    """

    tokens: np.ndarray
    words: torch.Tensor
    vec: torch.Tensor
    no_words: torch.Tensor | None
    no_vec: torch.Tensor | None


def walk(engine: FluxEngine, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> Walked:
    """Runs a request and keeps the latents before they are decoded."""
    from flux_core.pipeline import engine as module

    kept: list[Walked] = []
    walk_all = module.walk_all

    def spy(backend: Any, job: Any, conditions: Any, *others: Any) -> Any:
        found = walk_all(backend, job, conditions, *others)
        told, untold = conditions.words, conditions.no_words
        arrays = [told.txt, told.vec, *((untold.txt, untold.vec) if untold else ())]
        on_host = [torch.tensor(backend.to_numpy(array)) for array in arrays]
        words, vec, no_words, no_vec = (*on_host, None, None)[:4]
        kept.append(Walked(backend.to_numpy(found[0]), words, vec, no_words, no_vec))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(module, "walk_all", spy)
        run(engine, **{"precision": "fp32", "seed": 3, **fields})
    return kept[0]


def picture(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array)


class Peers:
    """Diffusers' models and pipelines for one written family.

    Args:
        base: Where `write_family` wrote it.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self._transformers: dict[str, Any] = {}

    @cached_property
    def autoencoder(self) -> Any:
        weights = load_file(self.base / family.SHARED / "ae.safetensors")
        return diffusers_peer.filled_autoencoder(family.DEV.autoencoder, weights)

    def transformer(self, spec: ModelSpec, weights: Weights | None = None) -> Any:
        if weights is not None:
            return diffusers_peer.filled_transformer(spec.transformer, weights)
        if spec.model not in self._transformers:
            ours = load_file(self.base / spec.model / spec.files.transformer)
            self._transformers[spec.model] = self.transformer(spec, ours)
        return self._transformers[spec.model]

    def controlnet(self, config: ControlNetConfig) -> Any:
        from diffusers import FluxControlNetModel

        sizes = config.transformer
        hint = {"conditioning_embedding_channels": 16, "patch_size": 2} if config.is_pixel_hint else {}
        net = FluxControlNetModel(
            num_layers=sizes.depth,
            num_single_layers=sizes.depth_single,
            attention_head_dim=sizes.hidden_size // sizes.num_heads,
            num_attention_heads=sizes.num_heads,
            joint_attention_dim=sizes.context_in_dim,
            pooled_projection_dim=sizes.vec_in_dim,
            guidance_embeds=sizes.has_guidance,
            axes_dims_rope=sizes.axes_dim,
            num_mode=config.num_modes or None,
            **hint,
        )
        theirs = family.controlnet_as_diffusers(config)
        recipes = controlnet_recipes(config)
        return filled(net, {name: array for name, array in theirs.items() if name not in recipes})

    def pipeline(self, kind: str, spec: ModelSpec, weights: Weights | None = None, **parts: Any) -> Any:
        """A pipeline of this class name, with the schedule that the model's row says."""
        import diffusers

        words = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
        transformer = self.transformer(spec, weights)
        pipe = getattr(diffusers, kind)(
            scheduler=diffusers_peer.scheduler(spec),
            vae=self.autoencoder,
            transformer=transformer,
            **words,
            **parts,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def ip_adapter(self, pipe: Any, scale: float) -> None:
        """Hangs the IP-Adapter on a pipeline, which gets a transformer of its own for it."""
        pipe.transformer = copy.deepcopy(pipe.transformer)
        file = load_file(self.base / "micro-ip-adapter" / "part.safetensors")
        projector: dict[str, torch.Tensor] = {}
        attention: dict[str, torch.Tensor] = {}
        for name, array in file.items():
            if name.startswith("ip_adapter_proj_model."):
                projector[name.removeprefix("ip_adapter_proj_model.")] = torch.tensor(array)
            else:
                _, block, _, stream, key = name.split(".")
                letter = "k" if "_k_" in stream else "v"
                attention[f"{block}.to_{letter}_ip.{key}"] = torch.tensor(array)
        given = [{"image_proj": projector, "ip_adapter": attention}]
        pipe.transformer._load_ip_adapter_weights(given, low_cpu_mem_usage=False)
        pipe.set_ip_adapter_scale(scale)

    def clip_vision(self) -> dict[str, Any]:
        """The encoder and the preprocessor that an IP-Adapter's pipeline takes."""
        from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

        config = family.CLIP_VISION
        tower = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=config.hidden_size,
                intermediate_size=config.mlp_hidden,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                image_size=config.image_px,
                patch_size=config.patch_px,
                projection_dim=config.projection_dim,
            )
        )
        weights = load_file(self.base / "micro-clip-vision" / "part.safetensors")
        side = config.image_px
        prepare = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        return {"image_encoder": filled(tower, weights), "feature_extractor": prepare}

    def redux(self) -> Any:
        """The prior that makes words of pictures."""
        from diffusers import FluxPriorReduxPipeline
        from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
        from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

        config = family.SIGLIP
        tower = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=config.hidden_size,
                intermediate_size=config.mlp_hidden,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                image_size=config.image_px,
                patch_size=config.patch_px,
                vision_use_head=False,
            )
        )
        adapter = ReduxImageEncoder(redux_dim=config.hidden_size, txt_in_features=32)
        side = {"height": config.image_px, "width": config.image_px}
        return FluxPriorReduxPipeline(
            image_encoder=filled(tower, load_file(self.base / "micro-siglip" / "part.safetensors")),
            feature_extractor=SiglipImageProcessor(size=side),
            image_embedder=filled(adapter, load_file(self.base / "micro-redux" / "part.safetensors")),
        )

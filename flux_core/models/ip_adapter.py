"""The XLabs IP-Adapter, once for every backend: a picture as a prompt.

The picture's CLIP vector becomes a few tokens; in every double block the image stream attends to them
with keys and values of their own. Those do not change over the steps, so they are made once a job and
handed to the transformer. Key names are the published file's.

Source: XLabs-AI/x-flux layers.py; diffusers FluxIPAdapterAttnProcessor; Ye et al. 2023 (IP-Adapter).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flux_core.catalog import IpAdapterConfig
from flux_core.models.transformer import ImagePrompt
from flux_core.ops import LeafFactory, Ops
from flux_core.weights.tensors import TensorInfo

LAYER_NORM_EPS = 1e-5


class IpAdapter:
    """A CLIP image vector to what every double block attends to."""

    def __init__(self, ops: Ops, make: LeafFactory, config: IpAdapterConfig, name: str = "") -> None:
        context, dim = config.context_in_dim, config.hidden_size
        self.ops = ops
        self.config = config
        self.proj = make.linear(
            f"{name}ip_adapter_proj_model.proj", config.image_dim, config.num_tokens * context
        )
        self.norm = make.layer_norm(f"{name}ip_adapter_proj_model.norm", context, LAYER_NORM_EPS)
        self.projections: list[tuple[Any, Any]] = []
        for i in range(config.depth):
            block = f"{name}double_blocks.{i}.processor.ip_adapter_double_stream"
            self.projections.append(
                (make.linear(f"{block}_k_proj", context, dim), make.linear(f"{block}_v_proj", context, dim))
            )

    def __call__(self, image_vec: Any, scale: float | Sequence[float] = 1.0) -> list[ImagePrompt]:
        """One prompt for every double block.

        Args:
            image_vec: [B, image_dim] projected CLIP vector (flux_core.models.clip_vision).
            scale: Strength, one for all blocks or one each.
        """
        ops, config = self.ops, self.config
        batch = int(image_vec.shape[0])
        scales = [scale] * config.depth if isinstance(scale, (int, float)) else scale
        tokens = self.norm(self.proj(image_vec).reshape(batch, config.num_tokens, config.context_in_dim))
        head_dim = config.hidden_size // config.num_heads
        shape = (batch, config.num_tokens, config.num_heads, head_dim)
        prompts: list[ImagePrompt] = []
        for (k_proj, v_proj), strength in zip(self.projections, scales, strict=True):
            k, v = (
                ops.transpose(f(tokens).reshape(*shape), (0, 2, 1, 3))  # [B, H, N, D/H]
                for f in (k_proj, v_proj)
            )
            prompts.append(ImagePrompt(k, v, strength))
        return prompts


def ip_adapter_config(
    names: Mapping[str, TensorInfo], like: IpAdapterConfig | None = None
) -> IpAdapterConfig:
    """The configuration that a file's shapes tell.

    Args:
        names: By the model's names (flux_core.weights.synonyms.ip_adapter_name).
        like: Gives the widths, heads and depth of the transformer it will steer.

    Raises:
        KeyError: The projection of the picture is missing.
        ValueError: It makes no token.
    """
    like = like or IpAdapterConfig()
    shape = names["ip_adapter_proj_model.proj.weight"].shape
    return replace(like, num_tokens=shape[0] // like.context_in_dim, image_dim=shape[1])

"""FLUX.1 at full size with random weights, made on the device: what speed is measured on.

Speed depends on shapes alone, so no published weights are needed; 11.9 B values take a second to draw.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.leaves import LinearMaker, TorchLeaves
from flux_core.catalog import TransformerConfig
from flux_core.conditioning.packing import position_ids, rotary_table
from flux_core.models.transformer import Transformer
from flux_core.request import Precision

TEXT_TOKENS = 512


class StepInputs(NamedTuple):
    """One evaluation's inputs, in the order `Transformer` takes them."""

    img: Tensor  # [B, L_img, C_in]
    txt: Tensor  # [B, L_txt, context_in_dim]
    vec: Tensor  # [B, vec_in_dim]
    sigma: Tensor  # [B]
    guidance: Tensor | None  # [B]
    pe: Tensor  # [L, head_dim/2, 2]


class RandomLeaves(TorchLeaves):
    """Leaves whose weights are drawn on the device as they are asked for, for use without gradients."""

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype = torch.bfloat16,
        make_linear: LinearMaker | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(None, device, dtype, make_linear=make_linear)
        self._generator = torch.Generator(device).manual_seed(seed)

    def _parameter(self, name: str, shape: tuple[int, ...], deviation: float | None) -> torch.nn.Parameter:
        drawn = torch.randn(shape, device=self._device, dtype=self._dtype, generator=self._generator)
        if deviation is None:  # of norms, which are near 1
            drawn.mul_(0.02).add_(1.0)
        else:
            drawn.mul_(deviation or 0.02)
        return torch.nn.Parameter(drawn, requires_grad=False)


def random_transformer(
    backend: TorchBackend,
    config: TransformerConfig,
    dtype: torch.dtype = torch.bfloat16,
    precision: Precision = Precision.BF16,
) -> tuple[Transformer, TorchLeaves]:
    """A transformer of random weights on the backend's device, and its leaves."""
    leaves = RandomLeaves(backend.device, dtype, backend.linear_maker(precision))
    with backend.session():
        return Transformer(backend.ops, leaves, config), leaves


def random_step(
    backend: TorchBackend,
    config: TransformerConfig,
    height_px: int = 1024,
    width_px: int = 1024,
    text_tokens: int = TEXT_TOKENS,
    dtype: torch.dtype = torch.bfloat16,
    batch: int = 1,
) -> StepInputs:
    """Inputs of one evaluation, drawn on the backend's device."""
    device = backend.device
    generator = torch.Generator(device).manual_seed(1)
    rows, columns = height_px // 16, width_px // 16

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype, generator=generator)

    ids = position_ids(text_tokens, 2 * rows, 2 * columns)
    return StepInputs(
        draw(batch, rows * columns, config.in_channels),
        draw(batch, text_tokens, config.context_in_dim),
        draw(batch, config.vec_in_dim),
        torch.full((batch,), 0.5, device=device),
        torch.full((batch,), 3.5, device=device) if config.has_guidance else None,
        backend.from_numpy(rotary_table(ids, config.axes_dim, float(config.theta))),
    )

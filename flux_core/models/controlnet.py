"""ControlNets for FLUX.1, once for every backend: a shortened transformer that steers the whole one.

Two families exist. Those in diffusers' form (InstantX, Shakker, ...) see the control picture as latents
and may choose a mode; those of XLabs see its pixels. Both answer with residuals for the image stream.
Key names are BFL's for what the transformer has, too, and the files' own for the rest.

Source: diffusers FluxControlNetModel; XLabs-AI/x-flux controlnet.py (architecture and key names).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flux_core.catalog import ControlNetConfig, TransformerConfig
from flux_core.conditioning.packing import pack
from flux_core.models.modulation import Modulator, cut
from flux_core.models.transformer import DoubleBlock, Residuals, SingleBlock
from flux_core.ops import LeafFactory, Ops
from flux_core.weights.tensors import TensorInfo, count_blocks

HINT_CHANNELS = 16
HINT_STRIDES = (1, 1, 2, 1, 2, 1, 2, 1)  # of the convolutions at 0, 2, 4, ... 14


class ControlNet:
    """Control picture, latents and words to residuals.

    Args:
        ops: The backend's operations.
        make: Gives leaves by checkpoint name.
        config: Sizes.
        name: Prefix of every key, with its dot; "" for the published files.
    """

    def __init__(self, ops: Ops, make: LeafFactory, config: ControlNetConfig, name: str = "") -> None:
        blocks = config.transformer
        dim = blocks.hidden_size
        self.ops = ops
        self.config = config
        self.img_in = make.linear(f"{name}img_in", blocks.in_channels, dim)
        self.txt_in = make.linear(f"{name}txt_in", blocks.context_in_dim, dim)
        self.modulator = Modulator(ops, make, name, blocks, has_final=False)
        self.hint = HintBlock(ops, make, f"{name}input_hint_block") if config.is_pixel_hint else None
        self.control_in = (
            make.linear(f"{name}pos_embed_input", 4 * HINT_CHANNELS, dim)
            if config.is_pixel_hint
            else make.linear(f"{name}controlnet_x_embedder", config.condition_channels, dim)
        )
        self.mode_embedder = (
            make.embedding(f"{name}controlnet_mode_embedder", config.num_modes, dim)
            if config.num_modes
            else None
        )
        self.double_blocks = [
            DoubleBlock(ops, make, f"{name}double_blocks.{i}", blocks) for i in range(blocks.depth)
        ]
        self.single_blocks = [
            SingleBlock(ops, make, f"{name}single_blocks.{i}", blocks) for i in range(blocks.depth_single)
        ]
        self.double_out = [make.linear(f"{name}controlnet_blocks.{i}", dim, dim) for i in range(blocks.depth)]
        self.single_out = [
            make.linear(f"{name}controlnet_single_blocks.{i}", dim, dim) for i in range(blocks.depth_single)
        ]

    def __call__(
        self,
        img: Any,
        control: Any,
        txt: Any,
        vec: Any,
        sigma: Any,
        guidance: Any | None,
        pe: Any,
        *,
        scale: float = 1.0,
        mode: Any | None = None,
    ) -> Residuals:
        """One evaluation; all but `control`, `scale` and `mode` is what the transformer gets.

        Args:
            img: [B, L_img, 64] packed noisy latents, without conditioning channels.
            control: [B, L_img, condition_channels] packed latents of the control picture; for XLabs its
                pixels [B, H, W, 3] in [-1, 1].
            txt: [B, L_txt, context_in_dim] T5 states.
            vec: [B, vec_in_dim] CLIP pooled state.
            sigma: [B] noise level in [0, 1].
            guidance: [B] raw distilled guidance; not read by a ControlNet without guidance_in.
            pe: [L_txt + L_img, head_dim/2, 2] float32 rotary table, text first.
            scale: Strength; 1 as trained.
            mode: [B] integers, the kind of control picture; a union needs it, others do not read it.

        Returns:
            Residuals for the transformer.

        Raises:
            ValueError: A union was given no mode, or guidance is missing.
        """
        ops = self.ops
        mods = cut(ops, self.modulator(vec, sigma, guidance), self.config.transformer)
        img = self.img_in(img) + self.control_in(self._tokens(control))  # [B, L_img, D]
        txt = self.txt_in(txt)  # [B, L_txt, D]
        if self.mode_embedder is not None:
            if mode is None:
                raise ValueError("this ControlNet is a union and needs a mode")
            # The mode is one more text token, and like all of them at position zero.
            txt = ops.concat([self.mode_embedder(mode)[:, None, :], txt], axis=1)
            pe = ops.concat([pe[:1], pe], axis=0)
        txt_len = int(txt.shape[1])

        double: list[Any] = []
        for block, mod, out in zip(self.double_blocks, mods.double, self.double_out, strict=True):
            img, txt = block(img, txt, mod, pe)
            double.append(out(img) * scale)
        single: list[Any] = []
        z = ops.concat([txt, img], axis=1)  # [B, L, D]
        for block, mod, out in zip(self.single_blocks, mods.single, self.single_out, strict=True):
            z = block(z, mod, pe)
            single.append(out(z[:, txt_len:]) * scale)
        return Residuals(double, single, is_repeated=self.config.is_pixel_hint)

    def _tokens(self, control: Any) -> Any:
        return control if self.hint is None else pack(self.ops, self.hint(control))


class HintBlock:
    """Eight 3x3 convolutions with SiLU between, from pixels to the size of latents."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str) -> None:
        self.ops = ops
        self.convs = [
            make.conv2d(
                f"{name}.{2 * i}", HINT_CHANNELS if i else 3, HINT_CHANNELS, 3, stride=stride, padding=(1, 1)
            )
            for i, stride in enumerate(HINT_STRIDES)
        ]

    def __call__(self, pixels: Any) -> Any:
        """[B, H, W, 3] in [-1, 1], sides multiples of 16 -> [B, H/8, W/8, 16]."""
        first, *others = self.convs
        x = first(pixels)
        for conv in others:
            x = conv(self.ops.silu(x))
        return x


def controlnet_config(
    names: Mapping[str, TensorInfo], like: TransformerConfig | None = None
) -> ControlNetConfig:
    """The configuration that a file's names and shapes tell, in BFL's or in diffusers' spelling.

    Args:
        names: Of the file.
        like: The transformer it will steer. Widths are its own, whatever the file says, because anything
            else could not be added to its stream.

    Raises:
        KeyError: A tensor that every ControlNet has is missing.
    """
    like = like or TransformerConfig()
    is_bfl = "img_in.weight" in names
    prefixes = ("double_blocks.", "single_blocks.") if is_bfl else _DIFFUSERS_BLOCKS
    embedder = "pos_embed_input" if "pos_embed_input.weight" in names else "controlnet_x_embedder"
    table = names.get("controlnet_mode_embedder.weight")
    return ControlNetConfig(
        transformer=replace(
            like,
            in_channels=like.out_channels,  # noisy latents alone, even for Fill
            depth=count_blocks(names, prefixes[0]),
            depth_single=count_blocks(names, prefixes[1]),
            has_guidance=any("guidance_in." in name or "guidance_embedder." in name for name in names),
        ),
        condition_channels=names[f"{embedder}.weight"].shape[1],
        num_modes=table.shape[0] if table else 0,
        is_pixel_hint=any(name.startswith("input_hint_block.") for name in names),
    )


_DIFFUSERS_BLOCKS = ("transformer_blocks.", "single_transformer_blocks.")

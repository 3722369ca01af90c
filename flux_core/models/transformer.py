"""The FLUX.1 rectified-flow transformer, once for every backend.

Two streams (img, txt) meet in the attention of the double blocks, are joined for the single blocks,
and the image part leaves as a velocity. Names are the checkpoint's own, so no key map is needed.

Source: black-forest-labs/flux model.py and modules/layers.py (architecture and key names).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from flux_core.catalog import TransformerConfig
from flux_core.models.modulation import DoubleModulation, Modulation, Modulations, Modulator, cut
from flux_core.ops import HeadStream, LeafFactory, Modulated, Ops, Sum, added_up, split_heads

LAYER_NORM_EPS = 1e-6
QK_NORM_EPS = 1e-6
BLOCK_MATRIX = re.compile(
    r"double_blocks\.\d+\.(?:img|txt)_(?:attn\.(?:qkv|proj)|mlp\.[02])|single_blocks\.\d+\.linear[12]"
)
"""Layers that work on every token: the matrices of attention and MLP; not modulation and embeddings."""


class Residuals(NamedTuple):
    """What one ControlNet adds to the image stream, already scaled; each [B, L_img, D].

    Fewer residuals than blocks are stretched over the blocks in runs of equal length, or repeated in turn.
    L_img are the tokens of the picture; reference pictures behind it are not steered.
    """

    double: Sequence[Any] = ()
    single: Sequence[Any] = ()
    is_repeated: bool = False

    def after_double(self, block: int, depth: int) -> Any | None:
        """What is added after this double block of `depth`; None if nothing is."""
        return self._after(self.double, block, depth)

    def after_single(self, block: int, depth: int) -> Any | None:
        """What is added after this single block of `depth`; None if nothing is."""
        return self._after(self.single, block, depth)

    def _after(self, residuals: Sequence[Any], block: int, depth: int) -> Any | None:
        count = len(residuals)
        if not count:
            return None
        if self.is_repeated:
            return residuals[block % count]
        run = -(-depth // count)  # blocks that share a residual, rounded up
        return residuals[block // run]


class ImagePrompt(NamedTuple):
    """What one double block attends to beside text and image; k and v are [B, H, N, D/H]."""

    k: Any
    v: Any
    scale: float


class Given(NamedTuple):
    """What every block of one evaluation is told, as `Transformer` takes it."""

    mods: Modulations
    pe: Any
    residuals: Sequence[Residuals]
    image_prompts: Sequence[Sequence[ImagePrompt]]
    bias: Any | None


class Transformer:
    """Predicts the velocity noise - data of packed latents.

    Args:
        ops: The backend's operations.
        make: Gives leaves by checkpoint name.
        config: Sizes.
        name: Prefix of every key, with its dot; "" for the published files.

    Attributes:
        modulator: Makes the modulations; may be set to None when all that will be needed are made.
    """

    def __init__(self, ops: Ops, make: LeafFactory, config: TransformerConfig, name: str = "") -> None:
        self.ops = ops
        self.config = config
        dim = config.hidden_size
        self.img_in = make.linear(f"{name}img_in", config.in_channels, dim)
        self.txt_in = make.linear(f"{name}txt_in", config.context_in_dim, dim)
        self.modulator: Modulator | None = Modulator(ops, make, name, config)
        self.double_blocks = [
            DoubleBlock(ops, make, f"{name}double_blocks.{i}", config) for i in range(config.depth)
        ]
        self.single_blocks = [
            SingleBlock(ops, make, f"{name}single_blocks.{i}", config) for i in range(config.depth_single)
        ]
        self.final_layer = FinalLayer(ops, make, f"{name}final_layer", config)

    def __call__(
        self,
        img: Any,
        txt: Any,
        vec: Any,
        sigma: Any,
        guidance: Any | None,
        pe: Any,
        *,
        residuals: Sequence[Residuals] = (),
        image_prompts: Sequence[Sequence[ImagePrompt]] = (),
        bias: Any | None = None,
    ) -> Any:
        """One evaluation.

        Args:
            img: [B, L_img, C_in] packed latents, with any conditioning channels.
            txt: [B, L_txt, context_in_dim] T5 states.
            vec: [B, vec_in_dim] CLIP pooled state.
            sigma: [B] noise level in [0, 1].
            guidance: [B] distilled guidance, raw (3.5, not 3500); None without guidance_in.
            pe: [L_txt + L_img, head_dim/2, 2] float32 rotary table, text first.
            residuals: Of each ControlNet (flux_core.models.controlnet).
            image_prompts: Of each IP-Adapter, one for every double block (flux_core.models.ip_adapter).
            bias: [1, 1, L, L], added to every attention's logits, text first; None adds nothing.

        Returns:
            [B, L_img, out_channels] velocity.
        """
        rows = self.modulations(vec, sigma, guidance)
        return self.modulated(img, txt, rows, pe, residuals=residuals, image_prompts=image_prompts, bias=bias)

    def modulations(self, vec: Any, sigma: Any, guidance: Any | None) -> Any:
        """What noise level, guidance and pooled text do to all blocks; B may be the steps of a walk.

        Args:
            vec: [B or 1, vec_in_dim].
            sigma: [B].
            guidance: [B or 1], or None.

        Returns:
            [B, M, D]; the rows of some entries are what `modulated` takes for them.

        Raises:
            ValueError: The modulator was freed, or guidance is missing.
        """
        if self.modulator is None:
            raise ValueError("the weights of the modulation were freed")
        return self.modulator(vec, sigma, guidance)

    def modulated(
        self,
        img: Any,
        txt: Any,
        rows: Any,
        pe: Any,
        *,
        residuals: Sequence[Residuals] = (),
        image_prompts: Sequence[Sequence[ImagePrompt]] = (),
        bias: Any | None = None,
    ) -> Any:
        """One evaluation with modulations [B, M, D] that were made before; all else as when called."""
        given = Given(cut(self.ops, rows, self.config), pe, residuals, image_prompts, bias)
        _, img, txt = self._begun(img, txt, given)
        return self._finished(self._rest(img, txt, given), given)

    def begun(
        self,
        img: Any,
        txt: Any,
        rows: Any,
        pe: Any,
        *,
        residuals: Sequence[Residuals] = (),
        image_prompts: Sequence[Sequence[ImagePrompt]] = (),
        bias: Any | None = None,
    ) -> tuple[Any, Any, Any]:
        """The first double block of an evaluation, for who decides behind it whether to go on.

        Takes what `modulated` takes.

        Returns:
            The image stream [B, L_img, D] before the block and after it, and the text stream after it.
        """
        given = Given(cut(self.ops, rows, self.config), pe, residuals, image_prompts, bias)
        return self._begun(img, txt, given)

    def rest(
        self,
        img: Any,
        txt: Any,
        rows: Any,
        pe: Any,
        *,
        residuals: Sequence[Residuals] = (),
        image_prompts: Sequence[Sequence[ImagePrompt]] = (),
        bias: Any | None = None,
    ) -> Any:
        """All other blocks on the streams that left the first; gives the image stream [B, L_img, D]."""
        given = Given(cut(self.ops, rows, self.config), pe, residuals, image_prompts, bias)
        return self._rest(img, txt, given)

    def finished(self, img: Any, rows: Any) -> Any:
        """The velocity [B, L_img, out_channels] of an image stream behind all blocks."""
        return self._finished(img, Given(cut(self.ops, rows, self.config), None, (), (), None))

    def _begun(self, img: Any, txt: Any, given: Given) -> tuple[Any, Any, Any]:
        img = self.img_in(img)  # [B, L_img, D]
        return img, *self._double(0, img, self.txt_in(txt), given)

    def _finished(self, img: Any, given: Given) -> Any:
        shift, scale = given.mods.final
        return self.final_layer(img, shift, scale)

    def _double(self, i: int, img: Any, txt: Any, given: Given) -> tuple[Any, Any]:
        """Double block i with what is added after it."""
        prompts = [prompts[i] for prompts in given.image_prompts]
        img, txt = self.double_blocks[i](img, txt, given.mods.double[i], given.pe, prompts, given.bias)
        for control in given.residuals:
            added = control.after_double(i, self.config.depth)
            img = img if added is None else _steered(self.ops, img, added, 0)
        return img, txt

    def _rest(self, img: Any, txt: Any, given: Given) -> Any:
        """The image stream after every block but the first, [B, L_img, D]."""
        ops = self.ops
        txt_len = int(txt.shape[1])
        img, txt = _late(ops, img), _late(ops, txt)
        for i in range(1, self.config.depth):
            img, txt = self._double(i, img, txt, given)
        z = _late(ops, ops.concat([added_up(ops, txt), added_up(ops, img)], axis=1))  # [B, L, D]
        for i, block in enumerate(self.single_blocks):
            z = block(z, given.mods.single[i], given.pe, given.bias)
            for control in given.residuals:
                added = control.after_single(i, self.config.depth_single)
                z = z if added is None else _steered(ops, z, added, txt_len)
        return added_up(ops, _tokens_from(z, txt_len))


def _late(ops: Ops, x: Any) -> Any:
    """x [B, L, D] as the blocks best take it: what comes out of them is a Sum where x is one."""
    return Sum(x) if ops.adds_late else x


def _tokens_from(x: Any, start: int) -> Any:
    """The tokens of x [B, L, D], or of a Sum, from `start` on."""
    if not isinstance(x, Sum):
        return x[:, start:]
    return Sum(x.x[:, start:], x.gate, None if x.y is None else x.y[:, start:])


def _steered(ops: Ops, x: Any, added: Any, start: int) -> Any:
    """x [B, L, D] with `added` [B, N, D] on its tokens from `start` on; those before and behind stay."""
    if isinstance(x, Sum):
        return Sum(_steered(ops, added_up(ops, x), added, start))
    end = start + int(added.shape[1])
    parts = [x[:, :start], x[:, start:end] + added, x[:, end:]]
    parts = [part for part in parts if part.shape[1]]
    return parts[0] if len(parts) == 1 else ops.concat(parts, axis=1)


class DoubleBlock:
    """Separate weights for image and text, one attention over both."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, config: TransformerConfig) -> None:
        self.ops = ops
        self.num_heads = config.num_heads
        self.img_attn = SelfAttention(make, f"{name}.img_attn", config)
        self.txt_attn = SelfAttention(make, f"{name}.txt_attn", config)
        self.img_mlp = Mlp(make, f"{name}.img_mlp", config)
        self.txt_mlp = Mlp(make, f"{name}.txt_mlp", config)

    def __call__(
        self,
        img: Any,
        txt: Any,
        mod: DoubleModulation,
        pe: Any,
        image_prompts: Sequence[ImagePrompt] = (),
        bias: Any | None = None,
    ) -> tuple[Any, Any]:
        """img [B, L_img, D], txt [B, L_txt, D] -> both streams, updated; Sums where they were Sums."""
        ops, scale, is_late = self.ops, self.img_attn.scale, isinstance(img, Sum)
        (txt, txt_qkv), (img, img_qkv) = ops.modulated_linears(
            [_modulated(txt, mod.txt1, self.txt_attn.qkv), _modulated(img, mod.img1, self.img_attn.qkv)],
            LAYER_NORM_EPS,
        )
        txt_len = int(txt.shape[1])
        streams = [self.txt_attn.stream(txt_qkv), self.img_attn.stream(img_qkv)]
        attn = ops.joint_attention(streams, self.num_heads, pe, scale=scale, bias=bias)  # [B, L, D]

        img = self._updated(img, mod.img1, mod.img2, self.img_attn, attn[:, txt_len:], self.img_mlp)
        txt = self._updated(txt, mod.txt1, mod.txt2, self.txt_attn, attn[:, :txt_len], self.txt_mlp)
        if image_prompts:
            img_q = split_heads(ops, img_qkv, self.num_heads)[0]
            img_q = self.img_attn.norm.query_norm(img_q)  # not rotated: a prompt has no place
            for prompt in image_prompts:
                seen = ops.attention(img_q, prompt.k, prompt.v, scale=scale)
                img = Sum(added_up(ops, img) + seen * prompt.scale)
        return (img, txt) if is_late else (added_up(ops, img), added_up(ops, txt))

    def _updated(
        self, x: Any, mod1: Modulation, mod2: Modulation, own: SelfAttention, attn: Any, mlp: Mlp
    ) -> Sum:
        """A stream [B, L, D] with its share of the attention added, then its MLP."""
        ops = self.ops
        x, y = ops.gated_mlp(
            x, mod1.gate, own.proj(attn), mod2.shift, mod2.scale, LAYER_NORM_EPS, mlp.up, mlp.down
        )
        return Sum(x, mod2.gate, y)


class SingleBlock:
    """Attention and MLP side by side on the joined stream (ViT-22B, Dehghani et al. 2023)."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, config: TransformerConfig) -> None:
        dim = config.hidden_size
        self.ops = ops
        self.num_heads = config.num_heads
        self.scale = (dim // config.num_heads) ** -0.5
        self.linear1 = make.linear(f"{name}.linear1", dim, 3 * dim + config.mlp_hidden)
        self.linear2 = make.linear(f"{name}.linear2", dim + config.mlp_hidden, dim)
        self.norm = QKNorm(make, f"{name}.norm", dim // config.num_heads)

    def __call__(self, z: Any, mod: Modulation, pe: Any, bias: Any | None = None) -> Any:
        """z [B, L, D] -> z, updated; a Sum where it was one."""
        ops = self.ops

        def attend(qkv: Any) -> Any:
            stream = HeadStream(qkv, self.norm.query_norm, self.norm.key_norm)
            return ops.joint_attention([stream], self.num_heads, pe, scale=self.scale, bias=bias)  # [B, L, D]

        then = mod.shift, mod.scale, LAYER_NORM_EPS, self.linear1, self.linear2, attend
        x, gate, y = z if isinstance(z, Sum) else Sum(z)
        if y is None:
            y = ops.parallel_mlp(x, *then)
        else:
            x, y = ops.gated_parallel_mlp(x, gate, y, *then)
        out = Sum(x, mod.gate, y)
        return out if isinstance(z, Sum) else added_up(ops, out)


class FinalLayer:
    """Modulated norm and projection back to latent channels."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, config: TransformerConfig) -> None:
        self.ops = ops
        self.linear = make.linear(f"{name}.linear", config.hidden_size, config.out_channels)

    def __call__(self, img: Any, shift: Any, scale: Any) -> Any:
        """img [B, L, D], shift and scale [B, 1, D] -> [B, L, out_channels]."""
        return self.ops.modulated_linear(img, shift, scale, LAYER_NORM_EPS, self.linear)


class SelfAttention:
    """One stream's share of the joint attention: its leaves."""

    def __init__(self, make: LeafFactory, name: str, config: TransformerConfig) -> None:
        dim = config.hidden_size
        head_dim = dim // config.num_heads
        self.scale = head_dim**-0.5
        self.qkv = make.linear(f"{name}.qkv", dim, 3 * dim)
        self.norm = QKNorm(make, f"{name}.norm", head_dim)
        self.proj = make.linear(f"{name}.proj", dim, dim)

    def stream(self, qkv: Any) -> HeadStream:
        """What the stream brings to the attention, from its projection [B, L, 3*D]."""
        return HeadStream(qkv, self.norm.query_norm, self.norm.key_norm)


class QKNorm:
    """The two RMS norms of queries and keys, over the head dimension."""

    def __init__(self, make: LeafFactory, name: str, head_dim: int) -> None:
        self.query_norm = make.rms_norm(f"{name}.query_norm", head_dim, QK_NORM_EPS, key="scale")
        self.key_norm = make.rms_norm(f"{name}.key_norm", head_dim, QK_NORM_EPS, key="scale")


class Mlp:
    """Linear, GELU (tanh), Linear: its leaves; the file counts the GELU as 1."""

    def __init__(self, make: LeafFactory, name: str, config: TransformerConfig) -> None:
        self.up = make.linear(f"{name}.0", config.hidden_size, config.mlp_hidden)
        self.down = make.linear(f"{name}.2", config.mlp_hidden, config.hidden_size)


def _modulated(x: Any, mod: Modulation, linear: Any) -> Modulated:
    return Modulated(x, mod.shift, mod.scale, linear)

"""The FLUX.1 rectified-flow transformer, once for every backend.

Two streams (img, txt) meet in the attention of the double blocks, are joined for the single blocks,
and the image part leaves as a velocity. Names are the checkpoint's own, so no key map is needed.

Source: black-forest-labs/flux model.py and modules/layers.py (architecture and key names); the
modulation is adaLN-Zero of Peebles & Xie 2022.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from flux_core.catalog import TransformerConfig
from flux_core.ops import LeafFactory, Ops
from flux_core.sampling.step_cache import BlockCache

LAYER_NORM_EPS = 1e-6
QK_NORM_EPS = 1e-6
TIME_EMBEDDING_DIM = 256


class Modulation(NamedTuple):
    """What one adaLN gives a sub-layer; each [B, 1, D]."""

    shift: Any
    scale: Any
    gate: Any


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
    """What every block of one evaluation is told, as `Transformer` takes it; vec is the condition [B, D]."""

    vec: Any
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
    """

    def __init__(self, ops: Ops, make: LeafFactory, config: TransformerConfig, name: str = "") -> None:
        self.ops = ops
        self.config = config
        dim = config.hidden_size
        self.img_in = make.linear(f"{name}img_in", config.in_channels, dim)
        self.txt_in = make.linear(f"{name}txt_in", config.context_in_dim, dim)
        self.condition = Condition(ops, make, name, config)
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
        cache: BlockCache | None = None,
        heard: Hashable = None,
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
            cache: May spare all blocks but the first; None computes them all.
            heard: Which ControlNets and IP-Adapters these are; the cache takes over nothing across a change.

        Returns:
            [B, L_img, out_channels] velocity.
        """
        vec = self.condition(vec, sigma, guidance)  # [B, D]
        img = self.img_in(img)  # [B, L_img, D]
        txt = self.txt_in(txt)  # [B, L_txt, D]
        given = Given(vec, pe, residuals, image_prompts, bias)
        first_img, first_txt = self._double(0, img, txt, given)

        def rest() -> Any:
            return self._rest(first_img, first_txt, given)

        told = heard, len(residuals), len(image_prompts)
        out = rest() if cache is None else cache.through(img, first_img, told, rest)
        return self.final_layer(out, vec)

    def _double(self, i: int, img: Any, txt: Any, given: Given) -> tuple[Any, Any]:
        """Double block i with what is added after it."""
        prompts = [prompts[i] for prompts in given.image_prompts]
        img, txt = self.double_blocks[i](img, txt, given.vec, given.pe, prompts, given.bias)
        for control in given.residuals:
            added = control.after_double(i, self.config.depth)
            img = img if added is None else _steered(self.ops, img, added, 0)
        return img, txt

    def _rest(self, img: Any, txt: Any, given: Given) -> Any:
        """The image stream after every block but the first, [B, L_img, D]."""
        ops = self.ops
        txt_len = int(txt.shape[1])
        for i in range(1, self.config.depth):
            img, txt = self._double(i, img, txt, given)
        z = ops.concat([txt, img], axis=1)  # [B, L, D]
        for i, block in enumerate(self.single_blocks):
            z = block(z, given.vec, given.pe, given.bias)
            for control in given.residuals:
                added = control.after_single(i, self.config.depth_single)
                z = z if added is None else _steered(ops, z, added, txt_len)
        return z[:, txt_len:]


def _steered(ops: Ops, x: Any, added: Any, start: int) -> Any:
    """x [B, L, D] with `added` [B, N, D] on its tokens from `start` on; those before and behind stay."""
    end = start + int(added.shape[1])
    parts = [x[:, :start], x[:, start:end] + added, x[:, end:]]
    parts = [part for part in parts if part.shape[1]]
    return parts[0] if len(parts) == 1 else ops.concat(parts, axis=1)


class Condition:
    """Noise level, guidance and pooled text as one vector, which modulates every block."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, config: TransformerConfig) -> None:
        dim = config.hidden_size
        self.ops = ops
        self.time_in = MlpEmbedder(ops, make, f"{name}time_in", TIME_EMBEDDING_DIM, dim)
        self.vector_in = MlpEmbedder(ops, make, f"{name}vector_in", config.vec_in_dim, dim)
        self.guidance_in = (
            MlpEmbedder(ops, make, f"{name}guidance_in", TIME_EMBEDDING_DIM, dim)
            if config.has_guidance
            else None
        )

    def __call__(self, vec: Any, sigma: Any, guidance: Any | None) -> Any:
        """vec [B, vec_in_dim], sigma [B], guidance [B] or None -> [B, D]."""
        ops = self.ops
        out = self.time_in(ops.cast_like(ops.sinusoid(sigma, TIME_EMBEDDING_DIM), vec))
        if self.guidance_in is not None:
            if guidance is None:
                raise ValueError("this model was distilled with guidance and needs a guidance value")
            out = out + self.guidance_in(ops.cast_like(ops.sinusoid(guidance, TIME_EMBEDDING_DIM), vec))
        return out + self.vector_in(vec)  # last, as BFL adds it: the order decides how bfloat16 rounds


class DoubleBlock:
    """Separate weights for image and text, one attention over both."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, config: TransformerConfig) -> None:
        self.ops = ops
        self.img_mod = AdaLN(ops, make, f"{name}.img_mod", config.hidden_size, count=2)
        self.txt_mod = AdaLN(ops, make, f"{name}.txt_mod", config.hidden_size, count=2)
        self.img_attn = SelfAttention(ops, make, f"{name}.img_attn", config)
        self.txt_attn = SelfAttention(ops, make, f"{name}.txt_attn", config)
        self.img_mlp = Mlp(ops, make, f"{name}.img_mlp", config)
        self.txt_mlp = Mlp(ops, make, f"{name}.txt_mlp", config)

    def __call__(
        self,
        img: Any,
        txt: Any,
        vec: Any,
        pe: Any,
        image_prompts: Sequence[ImagePrompt] = (),
        bias: Any | None = None,
    ) -> tuple[Any, Any]:
        """img [B, L_img, D], txt [B, L_txt, D], vec [B, D] -> both streams, updated."""
        ops = self.ops
        img_mod1, img_mod2 = self.img_mod(vec)
        txt_mod1, txt_mod2 = self.txt_mod(vec)
        txt_len = int(txt.shape[1])

        img_h = ops.modulated_norm(img, img_mod1.shift, img_mod1.scale, LAYER_NORM_EPS)
        txt_h = ops.modulated_norm(txt, txt_mod1.shift, txt_mod1.scale, LAYER_NORM_EPS)
        img_qkv = self.img_attn.heads(img_h)
        img_q, img_k, img_v = self.img_attn.rotated(img_qkv, pe[txt_len:])
        txt_q, txt_k, txt_v = self.txt_attn.rotated(self.txt_attn.heads(txt_h), pe[:txt_len])
        attn = ops.attention(
            ops.concat([txt_q, img_q], axis=2),
            ops.concat([txt_k, img_k], axis=2),
            ops.concat([txt_v, img_v], axis=2),
            scale=self.img_attn.scale,
            bias=bias,
        )  # [B, L, D]

        img = ops.gated_add(img, img_mod1.gate, self.img_attn.proj(attn[:, txt_len:]))
        txt = ops.gated_add(txt, txt_mod1.gate, self.txt_attn.proj(attn[:, :txt_len]))
        img_h = ops.modulated_norm(img, img_mod2.shift, img_mod2.scale, LAYER_NORM_EPS)
        txt_h = ops.modulated_norm(txt, txt_mod2.shift, txt_mod2.scale, LAYER_NORM_EPS)
        img = ops.gated_add(img, img_mod2.gate, self.img_mlp(img_h))
        txt = ops.gated_add(txt, txt_mod2.gate, self.txt_mlp(txt_h))
        if image_prompts:
            img_q = self.img_attn.norm.query_norm(img_qkv[0])  # not rotated: a prompt has no place
            for prompt in image_prompts:
                seen = ops.attention(img_q, prompt.k, prompt.v, scale=self.img_attn.scale)
                img = img + seen * prompt.scale
        return img, txt


class SingleBlock:
    """Attention and MLP side by side on the joined stream (ViT-22B, Dehghani et al. 2023)."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, config: TransformerConfig) -> None:
        self.ops = ops
        self.dim = config.hidden_size
        self.mlp_dim = config.mlp_hidden
        self.num_heads = config.num_heads
        self.scale = (self.dim // self.num_heads) ** -0.5
        self.modulation = AdaLN(ops, make, f"{name}.modulation", self.dim, count=1)
        self.linear1 = make.linear(f"{name}.linear1", self.dim, 3 * self.dim + self.mlp_dim)
        self.linear2 = make.linear(f"{name}.linear2", self.dim + self.mlp_dim, self.dim)
        self.norm = QKNorm(make, f"{name}.norm", self.dim // self.num_heads)

    def __call__(self, z: Any, vec: Any, pe: Any, bias: Any | None = None) -> Any:
        """z [B, L, D], vec [B, D] -> z, updated."""
        ops = self.ops
        (mod,) = self.modulation(vec)
        h = ops.modulated_norm(z, mod.shift, mod.scale, LAYER_NORM_EPS)
        qkv, mlp = ops.split(self.linear1(h), [3 * self.dim, self.mlp_dim], axis=2)
        q, k, v = split_heads(ops, qkv, self.num_heads)  # each [B, H, L, D/H]
        q, k = ops.qk_norm_rope(q, k, self.norm.query_norm, self.norm.key_norm, pe)
        attn = ops.attention(q, k, v, scale=self.scale, bias=bias)  # [B, L, D]
        return ops.gated_add(z, mod.gate, self.linear2(ops.concat([attn, ops.gelu_tanh(mlp)], axis=2)))


class FinalLayer:
    """Modulated norm and projection back to latent channels. The file stores (shift, scale)."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, config: TransformerConfig) -> None:
        self.ops = ops
        self.dim = config.hidden_size
        self.linear = make.linear(f"{name}.linear", self.dim, config.out_channels)
        self.modulation = make.linear(f"{name}.adaLN_modulation.1", self.dim, 2 * self.dim)

    def __call__(self, img: Any, vec: Any) -> Any:
        """img [B, L, D], vec [B, D] -> [B, L, out_channels]."""
        ops = self.ops
        mod = self.modulation(ops.silu(vec))[:, None, :]
        shift, scale = ops.split(mod, [self.dim, self.dim], axis=2)
        return self.linear(ops.modulated_norm(img, shift, scale, LAYER_NORM_EPS))


class AdaLN:
    """Linear(SiLU(vec)) cut into `count` modulations, each shift, scale, gate in this order."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, dim: int, count: int) -> None:
        self.ops = ops
        self.dim = dim
        self.count = count
        self.lin = make.linear(f"{name}.lin", dim, 3 * count * dim)

    def __call__(self, vec: Any) -> list[Modulation]:
        """vec: [B, D]."""
        out = self.lin(self.ops.silu(vec))[:, None, :]  # [B, 1, 3 * count * D]
        parts = self.ops.split(out, [self.dim] * (3 * self.count), axis=2)
        return [Modulation(*parts[3 * i : 3 * i + 3]) for i in range(self.count)]


class SelfAttention:
    """One stream's share of the joint attention."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, config: TransformerConfig) -> None:
        dim = config.hidden_size
        head_dim = dim // config.num_heads
        self.ops = ops
        self.num_heads = config.num_heads
        self.scale = head_dim**-0.5
        self.qkv = make.linear(f"{name}.qkv", dim, 3 * dim)
        self.norm = QKNorm(make, f"{name}.norm", head_dim)
        self.proj = make.linear(f"{name}.proj", dim, dim)

    def heads(self, x: Any) -> list[Any]:
        """x [B, L, D] -> q, k and v as projected, each [B, H, L, D/H]."""
        return split_heads(self.ops, self.qkv(x), self.num_heads)

    def rotated(self, qkv: Sequence[Any], pe: Any) -> tuple[Any, Any, Any]:
        """Of `heads` -> q and k normed and rotated, and v."""
        q, k, v = qkv
        q, k = self.ops.qk_norm_rope(q, k, self.norm.query_norm, self.norm.key_norm, pe)
        return q, k, v


class QKNorm:
    """The two RMS norms of queries and keys, over the head dimension."""

    def __init__(self, make: LeafFactory, name: str, head_dim: int) -> None:
        self.query_norm = make.rms_norm(f"{name}.query_norm", head_dim, QK_NORM_EPS, key="scale")
        self.key_norm = make.rms_norm(f"{name}.key_norm", head_dim, QK_NORM_EPS, key="scale")


class Mlp:
    """Linear, GELU (tanh), Linear; the file counts the GELU as 1."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, config: TransformerConfig) -> None:
        self.ops = ops
        self.up = make.linear(f"{name}.0", config.hidden_size, config.mlp_hidden)
        self.down = make.linear(f"{name}.2", config.mlp_hidden, config.hidden_size)

    def __call__(self, x: Any) -> Any:
        return self.down(self.ops.gelu_tanh(self.up(x)))


class MlpEmbedder:
    """Linear, SiLU, Linear on a vector."""

    def __init__(self, ops: Ops, make: LeafFactory, name: str, in_dim: int, dim: int) -> None:
        self.ops = ops
        self.in_layer = make.linear(f"{name}.in_layer", in_dim, dim)
        self.out_layer = make.linear(f"{name}.out_layer", dim, dim)

    def __call__(self, x: Any) -> Any:
        return self.out_layer(self.ops.silu(self.in_layer(x)))


def split_heads(ops: Ops, qkv: Any, num_heads: int) -> list[Any]:
    """qkv [B, L, 3*D] in rows [q|k|v], head-major -> q, k, v, each [B, H, L, D/H]."""
    batch, length, width = qkv.shape
    dim = width // 3
    parts = ops.split(qkv, [dim, dim, dim], axis=2)
    return [
        ops.transpose(part.reshape(batch, length, num_heads, dim // num_heads), (0, 2, 1, 3))
        for part in parts
    ]

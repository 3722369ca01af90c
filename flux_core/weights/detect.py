"""What a file of weights is, told from its tensors' names and shapes alone.

The answer names the kind, the spelling, the number of blocks and the rows of the catalog that fit. Where
tensors cannot tell (dev, Krea and Kontext are alike, so are Canny and Depth) the answer is a question with
its candidates, which a hash, a repository or a file's name may settle. Files of other families are refused
by name. Nothing is read: any mapping of names to shapes will do.

Source: research on the published files' layouts (BFL, diffusers, ComfyUI, kohya key conventions).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from flux_core import catalog
from flux_core.catalog import ClipVisionConfig, ModelSpec, ReduxConfig, SiglipConfig, Taef1Config
from flux_core.errors import RequestInvalid
from flux_core.weights import detect_lora
from flux_core.weights.header import shown
from flux_core.weights.layout import Names, storage_of, strip_prefix
from flux_core.weights.lora.unread import refusal, unread_modules
from flux_core.weights.refused import refuse_foreign
from flux_core.weights.settle import settle
from flux_core.weights.tensors import TensorInfo
from flux_core.weights.which import FileKind

_CHECKPOINT_PARTS = {
    "vae.": FileKind.AUTOENCODER,
    "first_stage_model.": FileKind.AUTOENCODER,
    "text_encoders.clip_l.": FileKind.CLIP,
    "text_encoders.t5xxl.": FileKind.T5,
}
"""Prefix in an all-in-one file -> the part behind it."""

_TAEF1 = re.compile(r"(?:taesd_)?(?P<half>encoder|decoder)\.(?P<layers>layers\.)?\d+\.conv\.0\.weight$")
_MAP_CHANNELS = 128  # of img_in where a map is read beside the latents
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "")
_TEXT_PREFIXES = ("text_encoders.clip_l.transformer.", "text_encoders.t5xxl.transformer.", "")


@dataclass(frozen=True, slots=True)
class Detected:
    """What a file is.

    Attributes:
        kind: Of its main part.
        title: For a person, without an article: "FLUX.1 transformer, dev family".
        naming: Whose spelling the names have.
        storage: How the weights are stored: "bfloat16", "ComfyUI scaled fp8", "bitsandbytes NF4", ...
        parts: Everything it holds; more than one in an all-in-one file.
        num_double, num_single: Blocks counted; 0 where the kind has none.
        allowed: Rows of the catalog that its tensors allow.
        candidates: Those that are left after its hash, repository and name were asked: none, the one it
            is, or those of the question.
        settled_by: What narrowed several candidates to one: "its sha256", "its repository", "its name".
        notes: Sentences about what is unusual.
    """

    kind: FileKind
    title: str
    naming: str
    storage: str = ""
    parts: tuple[FileKind, ...] = ()
    num_double: int = 0
    num_single: int = 0
    allowed: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    settled_by: str = ""
    notes: tuple[str, ...] = ()

    @property
    def row(self) -> str | None:
        """The row of the catalog it is; None if there is none or the question is open."""
        return self.candidates[0] if len(self.candidates) == 1 else None

    @property
    def is_guess(self) -> bool:
        """Whether the row is only one that it resembles."""
        return self.kind is FileKind.CONTROLNET and not self.settled_by

    @property
    def question(self) -> str | None:
        """What a person has to say, if the tensors do not."""
        if len(self.candidates) < 2:
            return None
        titles = [catalog.find_row(model).title for model in self.candidates]
        listed = f"{', '.join(titles[:-1])} or {titles[-1]}"
        return f"Its tensors do not say whether it is {listed}."


def detect(
    names: Mapping[str, TensorInfo],
    what: str,
    metadata: Mapping[str, str] | None = None,
    repository: str = "",
    sha256: str = "",
) -> Detected:
    """Says what a file or a sharded folder is.

    Args:
        names: Every tensor with its shape: logical where the reader knows it (GGUF), else as stored.
        what: The file's path or name; also a hint where tensors cannot tell.
        metadata: The header's free text.
        repository: Where it came from, if known: "black-forest-labs/FLUX.1-dev".
        sha256: Of the file, if known.

    Raises:
        RequestInvalid: It belongs to another family, or to nothing that is known; one sentence.
    """
    tensors = Names(names, metadata or {})
    refuse_foreign(tensors, what)
    found = _detect(tensors, what)
    found = replace(found, storage=storage_of(tensors), parts=found.parts or (found.kind,))
    is_sure = found.kind is not FileKind.CONTROLNET  # anybody's may have the blocks of a published one
    left, settled_by = settle(found.candidates, what, repository, sha256, is_sure=is_sure)
    return replace(found, allowed=found.candidates, candidates=left, settled_by=settled_by)


def _detect(tensors: Names, what: str) -> Detected:
    if lora := detect_lora.detect_lora(tensors):
        candidates = _control_loras(tensors) if lora.is_control else ()
        return Detected(FileKind.LORA, lora.title, lora.naming, candidates=candidates, notes=lora.notes)
    if kinds := dict.fromkeys(unread_modules(tensors).values()):
        raise refusal(what, kinds)
    for test in (_redux, _ip_adapter, _controlnet, _transformer, _t5, _clip, _vision, _taef1, _autoencoder):
        if found := test(tensors):
            return found
    sample = ", ".join(shown(name) for name in list(tensors)[:3]) or "nothing at all"
    raise RequestInvalid(
        f"{what} holds no part of FLUX.1 that Flowbrush knows; it begins with {sample}.",
        "Choose a file of FLUX.1, or report what this one is.",
    )


# Transformers


def _transformer(tensors: Names) -> Detected | None:
    prefix, own = strip_prefix(tensors, _PREFIXES, ("double_blocks.", "transformer_blocks."))
    num_double = own.count_blocks("double_blocks.") or own.count_blocks("transformer_blocks.")
    num_single = own.count_blocks("single_blocks.") or own.count_blocks("single_transformer_blocks.")
    is_bfl = own.has_prefix("double_blocks.")
    entrance = "img_in" if is_bfl else "x_embedder"
    shape = own.matrix(f"{entrance}.weight")
    if not num_double or shape is None:
        return None
    has_guidance = own.has_prefix("guidance_in.") or own.has_prefix("time_text_embed.guidance_embedder.")
    hidden, columns = shape
    candidates = tuple(
        spec.model
        for spec in catalog.MODELS.values()
        if not spec.lora and _sizes(spec) == (hidden, columns, has_guidance, num_double, num_single)
    )
    others = [part for start, part in _CHECKPOINT_PARTS.items() if tensors.has_prefix(start)]
    parts = (FileKind.TRANSFORMER, *dict.fromkeys(others))
    return Detected(
        FileKind.ALL_IN_ONE if others else FileKind.TRANSFORMER,
        f"{'all-in-one FLUX.1 file' if others else 'FLUX.1 transformer'}, {_family(columns, has_guidance)}",
        _transformer_naming(tensors, own, prefix, is_bfl),
        parts=parts,
        num_double=num_double,
        num_single=num_single,
        candidates=candidates,
        notes=() if candidates else (_misfit(hidden, columns, num_double, num_single),),
    )


def _sizes(spec: ModelSpec) -> tuple[int, int, bool, int, int]:
    config = spec.transformer
    return config.hidden_size, config.in_channels, config.has_guidance, config.depth, config.depth_single


def _family(columns: int, has_guidance: bool) -> str:
    if not has_guidance:
        return "schnell family (no guidance)"
    known = {64: "dev family", 128: "Canny and Depth family (128 inputs)", 384: "Fill family (384 inputs)"}
    return known.get(columns, f"unknown family ({columns} inputs)")


def _transformer_naming(tensors: Names, own: Names, prefix: str, is_bfl: bool) -> str:
    if own.has_suffix(".qweight") and own.has_suffix(".wscales"):
        return "Nunchaku"
    if own.has_prefix("transformer_blocks.0.ff.linear1.") or "mflux_version" in tensors.metadata:
        return "MLX (mflux)"
    name = "BFL" if is_bfl else "diffusers"
    return f"{name} behind {prefix!r}" if prefix else name


def _misfit(hidden: int, columns: int, num_double: int, num_single: int) -> str:
    if hidden == 3072 and (num_double, num_single) != (19, 38):
        return (
            f"It has {num_double} double and {num_single} single blocks where FLUX.1 has 19 and 38: "
            "a pruned model that is not in the catalog."
        )
    size = f"{hidden} wide with {columns} inputs and {num_double} + {num_single} blocks"
    return f"No model of the catalog is {size}."


# What is added to a transformer


def _control_loras(tensors: Names) -> tuple[str, ...]:
    """The rows that a LoRA in the control LoRAs' layout may be: those of its width that read its channels."""
    down, up = (tensors.matrix(f"img_in.lora_{side}.weight") for side in "AB")
    if down is None or up is None:
        return ()
    hidden, columns = up[0], down[1]
    models = [row for row in catalog.MODELS.values() if row.lora and row.transformer.hidden_size == hidden]
    parts = [
        row.model
        for row in catalog.PARTS.values()
        if row.kind is catalog.Kind.LORA
        and catalog.find(row.works_with[0]).transformer.hidden_size == hidden
        and columns == _MAP_CHANNELS
    ]
    return *parts, *(
        row.model for row in models if columns == (row.lora_channels or row.transformer.in_channels)
    )


def _redux(tensors: Names) -> Detected | None:
    if not {"redux_up.weight", "redux_down.weight"} <= tensors.keys():
        return None
    shape = tensors.matrix("redux_up.weight")
    candidates = tuple(
        row.model
        for row in catalog.PARTS.values()
        if isinstance(row.config, ReduxConfig)
        and shape == (3 * row.config.context_in_dim, row.config.image_dim)
    )
    return Detected(FileKind.REDUX, "FLUX.1 Redux adapter", "BFL", candidates=candidates)


def _ip_adapter(tensors: Names) -> Detected | None:
    if not any("ip_adapter_double_stream_k_proj" in name for name in tensors):
        return None
    shape = tensors.matrix("ip_adapter_proj_model.proj.weight")
    tokens = shape[0] // 4096 if shape else 0
    row = {4: "xlabs-ip-adapter", 16: "xlabs-ip-adapter-v2"}.get(tokens)
    return Detected(
        FileKind.IP_ADAPTER,
        f"FLUX.1 IP-Adapter with {tokens} tokens a picture",
        "XLabs",
        num_double=tensors.count_blocks("double_blocks."),
        candidates=(row,) if row else (),
    )


def _controlnet(tensors: Names) -> Detected | None:
    is_xlabs = tensors.has_prefix("input_hint_block.")
    if not (is_xlabs or tensors.has_prefix("controlnet_x_embedder.")):
        return None
    blocks = "double_blocks." if tensors.has_prefix("double_blocks.") else "transformer_blocks."
    num_double = tensors.count_blocks(blocks)
    num_single = tensors.count_blocks("single_transformer_blocks.") or tensors.count_blocks("single_blocks.")
    has_modes = "controlnet_mode_embedder.weight" in tensors
    structure = (is_xlabs, has_modes, num_double, num_single)
    return Detected(
        FileKind.CONTROLNET,
        "FLUX.1 ControlNet" + (" with modes (union)" if has_modes else ""),
        "XLabs" if is_xlabs else "diffusers" if blocks == "transformer_blocks." else "BFL",
        num_double=num_double,
        num_single=num_single,
        candidates=_CONTROLNETS.get(structure, ()),
    )


_CONTROLNETS = {
    (True, False, 2, 0): ("xlabs-canny-v3", "xlabs-depth-v3", "xlabs-hed-v3"),
    (False, False, 5, 0): ("instantx-canny",),
    (False, True, 5, 10): ("instantx-union", "shakker-union-pro"),
    (False, False, 6, 0): ("shakker-union-pro-2",),
}
"""(XLabs?, modes?, double, single) -> rows. The counts of the union nets follow from their files' sizes."""


# Encoders

_T5_NAMINGS = {"encoder.block.": "transformers", "t5_blocks.": "MLX (mflux)", "enc.blk.": "llama.cpp"}
"""Prefix of a block -> whose spelling it is."""


def _t5(tensors: Names) -> Detected | None:
    _, own = strip_prefix(tensors, _TEXT_PREFIXES, _T5_NAMINGS)
    blocks = next((prefix for prefix in _T5_NAMINGS if own.has_prefix(prefix)), None)
    if blocks is None:
        return None
    embeddings = ("shared.weight", "encoder.embed_tokens.weight", "token_embd.weight")
    shape = next((found for name in embeddings if (found := own.matrix(name)) is not None), None)
    num_blocks = own.count_blocks(blocks)
    if not num_blocks or shape is None:
        return None
    vocabulary, width = shape
    sizes = {(s.t5.d_model, s.t5.num_layers, s.t5.vocab_size): s.model for s in catalog.MODELS.values()}
    fits = (width, num_blocks, vocabulary) in sizes
    is_xxl = (width, num_blocks) == (4096, 24)
    return Detected(
        FileKind.T5,
        f"T5 v1.1 {'XXL ' if is_xxl else ''}text encoder",
        _T5_NAMINGS[blocks],
        candidates=("t5-xxl",) if is_xxl and fits else (),
        notes=() if fits else (f"It is {width} wide with {num_blocks} blocks; FLUX.1 needs T5 v1.1 XXL.",),
    )


def _clip(tensors: Names) -> Detected | None:
    _, own = strip_prefix(tensors, (*_TEXT_PREFIXES, "text_model."), ("text_model.", "embeddings.token_"))
    inner = own.without("text_model.")
    width = inner.matrix("embeddings.token_embedding.weight")
    num_layers = inner.count_blocks("encoder.layers.")
    if width is None or not num_layers:
        return None
    fits = (width[1], num_layers) == (768, 12)
    is_whole = tensors.has_prefix("vision_model.")
    return Detected(
        FileKind.CLIP,
        f"{'whole CLIP' if is_whole else 'CLIP text encoder'}{' ViT-L' if fits else ''}",
        "transformers",
        parts=(FileKind.CLIP, FileKind.CLIP_VISION) if is_whole else (),
        candidates=("clip-l",) if fits else (),
        notes=() if fits else (f"It is {width[1]} wide with {num_layers} layers; FLUX.1 needs CLIP ViT-L.",),
    )


def _vision(tensors: Names) -> Detected | None:
    inner = tensors.without("vision_model.")
    shape = inner.logical_shape("embeddings.patch_embedding.weight")
    num_layers = inner.count_blocks("encoder.layers.")
    if not shape or not num_layers:
        return None
    is_clip = "embeddings.class_embedding" in inner
    kind = FileKind.CLIP_VISION if is_clip else FileKind.SIGLIP
    wanted = ClipVisionConfig if is_clip else SiglipConfig
    row = next(
        (
            row.model
            for row in catalog.PARTS.values()
            if isinstance(row.config, wanted)
            and (row.config.hidden_size, row.config.num_layers) == (shape[0], num_layers)
        ),
        None,
    )
    name = "CLIP picture encoder" if is_clip else "SigLIP picture encoder"
    notes = () if row else (f"It is {shape[0]} wide with {num_layers} layers, which FLUX.1 does not use.",)
    return Detected(kind, name, "transformers", candidates=(row,) if row else (), notes=notes)


# Autoencoders


def _taef1(tensors: Names) -> Detected | None:
    matches = [match for name in tensors if (match := _TAEF1.match(name))]
    if not matches:
        return None
    halves = {match["half"] for match in matches}
    is_whole = halves == {"encoder", "decoder"}
    widths = {tensors[match.string].shape[0] for match in matches}
    candidates = tuple(
        row.model
        for row in catalog.PARTS.values()
        if isinstance(row.config, Taef1Config) and widths == {row.config.width}
    )
    return Detected(
        FileKind.TAEF1,
        "TAEF1 small autoencoder",
        "diffusers" if matches[0]["layers"] else "madebyollin",
        candidates=candidates if is_whole else (),
        notes=() if is_whole else (f"It holds the {halves.pop()} only.",),
    )


def _autoencoder(tensors: Names) -> Detected | None:
    _, own = strip_prefix(tensors, ("first_stage_model.", "vae.", ""), ("decoder.conv_in.",))
    conv = "decoder.conv_in.conv2d.weight" if own.has_part(".conv2d.") else "decoder.conv_in.weight"
    shape = own.logical_shape(conv)
    if shape is None or len(shape) != 4:
        return None
    is_mlx = own.has_part(".conv2d.")
    is_bfl = own.has_prefix("decoder.mid.")
    return Detected(
        FileKind.AUTOENCODER,
        "FLUX.1 autoencoder",
        "MLX (mflux)" if is_mlx else "BFL" if is_bfl else "diffusers",
        candidates=("ae",) if shape[0] == 512 else (),
        notes=() if shape[0] == 512 else (f"It is {shape[0]} wide where FLUX.1's is 512.",),
    )


def num_parameters(names: Mapping[str, TensorInfo]) -> int:
    """How many weights the file holds, counted before quantisation packed them."""
    return Names(names, {}).num_parameters()


def describe(found: Detected) -> Iterable[str]:
    """One sentence what it is, then what is unusual and what has to be asked."""
    blocks = (
        f" with {found.num_double} double and {found.num_single} single blocks" if found.num_double else ""
    )
    parts = f" ({', '.join(part.value for part in found.parts)})" if len(found.parts) > 1 else ""
    title = found.title[0].upper() + found.title[1:]
    yield f"{title}{parts}{blocks}, {found.naming} names, {found.storage}."
    if found.row is not None and found.is_guess:
        yield f"Its blocks are those of {catalog.find_row(found.row).title}, as anybody's may be."
    elif found.row is not None:
        by = f", by {found.settled_by}" if found.settled_by else ""
        yield f"In the catalog: {catalog.find_row(found.row).title}{by}."
    yield from found.notes
    if found.question is not None:
        yield found.question


__all__ = ["Detected", "FileKind", "describe", "detect", "num_parameters"]

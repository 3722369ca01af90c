"""How a picture was made, inside its file, and back.

A PNG carries the recipe twice: as the `parameters` text that other tools read, and as the request
itself under `flowbrush`, from which the picture can be made again. JPEG and WebP carry the same in
EXIF and XMP. Every format says in XMP, by the IPTC's word for it, that a model had a hand in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, unescape

from PIL import Image

from flux_core.errors import RequestInvalid
from flux_core.imaging import codec
from flux_core.request import Decoder, GenerationRequest, Solver, StepCache, Task, parse_request

PARAMETERS_KEY = "parameters"
REQUEST_KEY = "flowbrush"
_PNG_XMP_KEY = "XML:com.adobe.xmp"
_NAMESPACE = "https://flowbrush.org/ns/1.0/"
_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_EXIF_SOFTWARE, _EXIF_IFD, _EXIF_USER_COMMENT = 0x0131, 0x8769, 0x9286
_MAX_TEXT_CHARS = 1_000_000
_MAX_BLOCK_BYTES = 65_000  # of an EXIF or XMP block in a JPEG
_PAINT_OVER = (Task.TRANSFORM, Task.FILL, Task.UPSCALE)  # what uses `strength`
_OVER_PICTURE = (*_PAINT_OVER, Task.EDIT)  # their result shows a person's picture
_SAMPLERS = {
    Solver.EULER: "Euler",
    Solver.HEUN: "Heun",
    Solver.DPMPP_2M: "DPM++ 2M",
    Solver.UNIPC: "UniPC",
}
_XMP_REQUEST = re.compile(r"<flowbrush:request>([^<]{1,1000000})</flowbrush:request>")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is written into an exported picture.

    Attributes:
        request: What made it, with steps and guidance filled in; None if there is no single request.
        is_composite: Whether a person's picture is part of it; a picture that was only followed, as by
            a control map or a likeness, is not.
    """

    request: GenerationRequest | None
    is_composite: bool

    @classmethod
    def of(cls, request: GenerationRequest) -> Recipe:
        """The recipe of a picture that this request alone has made."""
        return cls(request, is_composite=request.task in _OVER_PICTURE)


def encode(
    pixels: codec.Pixels,
    format: codec.Format,
    recipe: Recipe | None,
    *,
    quality: int = 92,
    icc: bytes | None = None,
) -> bytes:
    """Encodes a picture with its recipe; None strips: nothing but the pixels and the colour profile.

    A JPEG has room for 64 KB of it. Of a longer recipe (regions with pages of words) it says only that a
    model had a hand in it; a PNG or WebP keeps all.

    Raises:
        RequestInvalid: As codec.encode does.
    """
    if recipe is None:
        return codec.encode(pixels, format, quality=quality, icc=icc)
    if format == "jpeg" and max(len(exif_block(recipe)), len(xmp_packet(recipe).encode())) > _MAX_BLOCK_BYTES:
        recipe = Recipe(None, recipe.is_composite)
    return codec.encode(
        pixels,
        format,
        quality=quality,
        text=png_texts(recipe),
        exif=exif_block(recipe),
        xmp=xmp_packet(recipe).encode(),
        icc=icc,
    )


def png_texts(recipe: Recipe) -> dict[str, str]:
    """The texts of a PNG, by keyword."""
    texts: dict[str, str] = {}
    if recipe.request is not None:
        texts[PARAMETERS_KEY] = parameters(recipe.request)
        texts[REQUEST_KEY] = recipe.request.model_dump_json(exclude_none=True)
        texts[_PNG_XMP_KEY] = xmp_packet(Recipe(None, recipe.is_composite))  # the request once is enough
    else:
        texts[_PNG_XMP_KEY] = xmp_packet(recipe)
    return texts


def parameters(request: GenerationRequest) -> str:
    """The recipe as one text that other tools read: the prompt, what is unwanted, a line of settings."""
    settings: dict[str, object] = {"Steps": request.num_steps, "Sampler": _SAMPLERS[request.solver]}
    settings["Distilled CFG Scale"] = request.guidance
    settings["CFG scale"] = f"{request.true_guidance:g}"
    settings["Seed"] = request.seed
    settings["Size"] = f"{request.width_px}x{request.height_px}"
    settings["Model"] = request.model
    if request.task in _PAINT_OVER:
        settings["Denoising strength"] = request.strength
    settings.update(_more_settings(request))
    line = ", ".join(f"{name}: {value}" for name, value in settings.items() if value is not None)
    loras = "".join(
        f" <lora:{use.name.removesuffix('.safetensors')}:{use.strength:g}>" for use in request.loras
    )
    unwanted = f"Negative prompt: {request.negative_prompt}\n" if request.negative_prompt else ""
    return f"{request.prompt}{loras}\n{unwanted}{line}"


def _more_settings(request: GenerationRequest) -> dict[str, object]:
    """What only some requests have; other tools show the words as they stand."""
    found: dict[str, object] = {}
    if request.task not in (Task.GENERATE, Task.TRANSFORM, Task.FILL):
        found["Task"] = request.task.value
    for number, use in enumerate(request.controls):
        strength = "" if use.strength is None else f" {use.strength:g}"
        found[f"Control {number}"] = f"{use.kind.value} {use.model or request.model}{strength}"
    for number, picture in enumerate(request.pictures):
        found[f"Picture {number}"] = f"{picture.adapter or 'Redux'} {picture.strength:g}"
    if request.regions:
        found["Regions"] = len(request.regions)
    if request.references:
        found["References"] = len(request.references)
    if request.upscaler:
        found["Hires upscaler"] = request.upscaler
    if request.step_cache is not StepCache.OFF:
        found["Step cache"] = request.step_cache.value
    if request.decoder is not Decoder.FULL:
        found["VAE"] = "TAEF1"
    return found


def xmp_packet(recipe: Recipe) -> str:
    """XMP with the IPTC source type and, if there is one, the request."""
    kind = "compositeWithTrainedAlgorithmicMedia" if recipe.is_composite else "trainedAlgorithmicMedia"
    request = ""
    if recipe.request is not None:
        text = escape(recipe.request.model_dump_json(exclude_none=True))
        request = f"<flowbrush:request>{text}</flowbrush:request>"
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f' xmlns:flowbrush="{_NAMESPACE}" xmp:CreatorTool="Flowbrush"'
        f' Iptc4xmpExt:DigitalSourceType="{_SOURCE_TYPE}{kind}">{request}</rdf:Description>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def exif_block(recipe: Recipe) -> bytes:
    """EXIF for JPEG and WebP: the program, and the `parameters` text as the user comment."""
    exif = Image.Exif()
    exif[_EXIF_SOFTWARE] = "Flowbrush"
    if recipe.request is not None:
        comment = b"UNICODE\0" + parameters(recipe.request).encode("utf-16-be")
        exif.get_ifd(_EXIF_IFD)[_EXIF_USER_COMMENT] = comment
    return exif.tobytes()


def read_request(data: bytes) -> GenerationRequest | None:
    """The request that a picture says it was made by; None if it has none that can be trusted.

    The file may come from anywhere: whatever is damaged, too long or not a request counts as none.
    """
    info = codec.read_info(data)
    text = info.get(REQUEST_KEY)
    if text is None:
        packet = info.get("xmp") or info.get(_PNG_XMP_KEY)
        text = _request_in_xmp(packet)
    if not isinstance(text, str) or len(text) > _MAX_TEXT_CHARS:
        return None
    try:
        return parse_request(str(text))
    except RequestInvalid:
        return None


def _request_in_xmp(packet: Any) -> str | None:
    if isinstance(packet, bytes):
        packet = packet.decode("utf-8", errors="replace")
    if not isinstance(packet, str) or len(packet) > _MAX_TEXT_CHARS:
        return None
    found = _XMP_REQUEST.search(packet)
    return unescape(found[1]) if found else None

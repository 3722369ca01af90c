"""The rows of the helpers that look at pictures, and which of them answers a look.

A helper is a whole folder as transformers saves it: safetensors, config.json and the files of its picture
and text processors. Rows of one kind of look stand in the order in which they are taken, the best first.
Only repositories whose layout transformers reads without their own code are here, and only their
safetensors. So Florence-2 is the community's copy in that layout, the 336 pixel CLIP, which OpenAI published
as a pickle, somebody's conversion, and Phi-3 Vision has no row: its successor Phi-4 multimodal lies in that
layout in a branch of its repository only, and is read from a folder of the person's own.

The last two rows are small ones that come with Flowbrush, trained on the bundled family's own kind of
pictures: so scores and depth maps need no download, and what a person gets is taken before them.

Source: the repositories' file lists. No sha256 is known for certain; the hub's is checked at a download.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flux_core.catalog.spec import Kind, PartSpec, RemoteFile
from flux_core.errors import ModelMissing, RequestInvalid
from flux_core.looking import Look, LookKind

_WEIGHTS = "model.safetensors"
_PICTURES = "preprocessor_config.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_CLIP_FILES = ("config.json", _PICTURES, *_TOKENIZER)
_WORDS_AND_PLACES = (LookKind.CAPTION, LookKind.GROUND, LookKind.SEGMENT_PHRASE)
_SIMILARITY = (LookKind.SCORE, LookKind.EMBED)


def _helper(
    model: str, title: str, licence: str, repository: str, files: tuple[str, ...], kinds: tuple[LookKind, ...]
) -> PartSpec:
    return PartSpec(
        model=model,
        title=title,
        licence=licence,
        kind=Kind.VISION,
        repository=repository,
        downloads=tuple(map(RemoteFile, files)),
        meant_for=tuple(kind.value for kind in kinds),
    )


_FLORENCE_FILES = (_WEIGHTS, "config.json", "generation_config.json", _PICTURES, *_TOKENIZER)

FLORENCE_LARGE = _helper(
    "florence-2-large",
    "Florence-2 large",
    "MIT",
    "florence-community/Florence-2-large",
    _FLORENCE_FILES,
    _WORDS_AND_PLACES,
)

FLORENCE_BASE = _helper(
    "florence-2-base",
    "Florence-2 base",
    "MIT",
    "florence-community/Florence-2-base",
    _FLORENCE_FILES,
    _WORDS_AND_PLACES,
)

LLAVA = _helper(
    "llava-1.5-7b",
    "LLaVA 1.5 7B",
    "LLAMA 2 Community License",
    "llava-hf/llava-1.5-7b-hf",
    (
        *(f"model-0000{part}-of-00003.safetensors" for part in (1, 2, 3)),
        "model.safetensors.index.json",
        "config.json",
        "generation_config.json",
        _PICTURES,
        *_TOKENIZER,
    ),
    (LookKind.DESCRIBE,),
)

CLIP_336 = PartSpec(
    model="clip-l-336",
    title="CLIP ViT-L/14 at 336 px",
    licence="MIT",
    kind=Kind.VISION,
    repository="openai/clip-vit-large-patch14-336",
    downloads=(
        RemoteFile(
            "pytorch_model.safetensors",
            place=_WEIGHTS,
            repository="jeromeku/clip-vit-large-patch14-336_safe",
        ),
        *map(RemoteFile, _CLIP_FILES),
    ),
    meant_for=tuple(kind.value for kind in _SIMILARITY),
)

CLIP_224 = _helper(
    "clip-l-224",
    "CLIP ViT-L/14 at 224 px",
    "MIT",
    "openai/clip-vit-large-patch14",
    (_WEIGHTS, *_CLIP_FILES),
    _SIMILARITY,
)


def _sam(model: str, title: str, repository: str) -> PartSpec:
    files = (_WEIGHTS, "config.json", _PICTURES)
    return _helper(model, title, "Apache-2.0", repository, files, (LookKind.SEGMENT_POINTS,))


SAM_LARGE = _sam("sam2.1-large", "Segment Anything 2.1 large", "facebook/sam2.1-hiera-large")
SAM_TINY = _sam("sam2.1-tiny", "Segment Anything 2.1 tiny", "facebook/sam2.1-hiera-tiny")


def _depth(model: str, title: str, licence: str, repository: str) -> PartSpec:
    files = (_WEIGHTS, "config.json", _PICTURES)
    return _helper(model, title, licence, repository, files, (LookKind.DEPTH,))


DEPTH_LARGE = _depth(
    "depth-anything-v2-large",
    "Depth Anything V2 large",
    "CC-BY-NC-4.0",
    "depth-anything/Depth-Anything-V2-Large-hf",
)
DEPTH_SMALL = _depth(
    "depth-anything-v2-small",
    "Depth Anything V2 small",
    "Apache-2.0",
    "depth-anything/Depth-Anything-V2-Small-hf",
)
DEPTH_PRO = _depth("depth-pro", "Depth Pro", "Apple Machine Learning Research Model", "apple/DepthPro-hf")


def _bundled(model: str, title: str, kinds: tuple[LookKind, ...]) -> PartSpec:
    meant_for = tuple(kind.value for kind in kinds)
    return PartSpec(model=model, title=title, licence="Apache-2.0", kind=Kind.VISION, meant_for=meant_for)


TINY_CLIP = _bundled("tiny-clip", "Tiny CLIP (bundled)", _SIMILARITY)
TINY_DEPTH = _bundled("tiny-depth", "Tiny depth estimator (bundled)", (LookKind.DEPTH,))

ALL = (
    FLORENCE_LARGE,
    FLORENCE_BASE,
    LLAVA,
    CLIP_336,
    CLIP_224,
    SAM_LARGE,
    SAM_TINY,
    DEPTH_LARGE,
    DEPTH_SMALL,
    DEPTH_PRO,
    TINY_CLIP,
    TINY_DEPTH,
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The helper that answers a look.

    Attributes:
        model: Its id.
        title: For people.
        folder: Where its files are.
    """

    model: str
    title: str
    folder: Path


def choose(look: Look, find_folder: Callable[[str], Path | None]) -> Chosen:
    """The helper that a look names, or the first of the catalog that is here and can do it.

    A name that is no row of the catalog may be a folder of the person's own; what it can do is then for the
    engine to find out.

    Args:
        look: What is asked.
        find_folder: Id -> the folder on this machine; None if it is not here.

    Raises:
        RequestInvalid: The helper named cannot do this.
        ModelMissing: It is not on this machine, or none that can.
    """
    able = [row for row in ALL if look.kind.value in row.meant_for]
    if not look.model:
        for row in able:
            folder = find_folder(row.model)
            if folder is not None:
                return Chosen(row.model, row.title, folder)
        raise ModelMissing(
            f"No helper for {words(look.kind)} is on this machine.",
            f"Get one with `flowbrush models get {able[0].model}`.",
        )
    row = next((row for row in ALL if row.model == look.model), None)
    if row is not None and row not in able:
        can = ", ".join(words(LookKind(kind)) for kind in row.meant_for)
        names = ", ".join(each.model for each in able)
        raise RequestInvalid(
            f"{row.title} cannot do {words(look.kind)}; it can do {can}.", f"Choose {names}."
        )
    folder = find_folder(look.model)
    if folder is None and row is None:
        known = ", ".join(each.model for each in able)
        raise RequestInvalid(f"There is no helper called {look.model[:40]!r}.", f"Choose one of: {known}.")
    if folder is None:
        raise ModelMissing(
            f"{look.model if row is None else row.title} is not on this machine.", how_to_get(look.model)
        )
    return Chosen(look.model, row.title if row is not None else look.model, folder)


def folder_of_helper(model: str, models_dirs: tuple[Path, ...]) -> Path | None:
    """The folder of a helper, a row's or a person's own: the first that holds a config.json and weights."""
    for base in models_dirs:
        folder = base / model
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            return folder
    return None


def is_bundled(model: str) -> bool:
    """Whether an id is that of a helper that comes with Flowbrush."""
    return any(row.model == model and row.is_bundled for row in ALL)


def how_to_get(model: str) -> str:
    """What to do where a helper is missing or damaged, as a sentence."""
    if is_bundled(model):
        return "It comes with Flowbrush: install Flowbrush again."
    return f"Get it with `flowbrush models get {model}`."


def words(kind: LookKind) -> str:
    """A kind of look in a person's words, as the object of "do"."""
    return _WORDS[kind]


_WORDS = {
    LookKind.CAPTION: "captions",
    LookKind.DESCRIBE: "descriptions",
    LookKind.GROUND: "boxes of phrases",
    LookKind.SEGMENT_PHRASE: "masks of phrases",
    LookKind.SEGMENT_POINTS: "masks of clicks",
    LookKind.DEPTH: "depth maps",
    LookKind.SCORE: "prompt scores",
    LookKind.EMBED: "embeddings",
}

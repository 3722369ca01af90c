"""The library transformers, behind one door: imported when asked for, reading folders of this machine only.

Weights are safetensors or nothing, code that comes with a folder is never run, and nothing here reaches a
network. Whatever the library raises about a folder leaves as one typed error.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch

from flux_core.catalog.helpers import how_to_get, is_bundled
from flux_core.errors import Corrupt, FluxError, ModelMissing, RequestInvalid

MAX_CONFIG_BYTES = 4 * 2**20
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}

_NOT_NATIVE = {
    "phi3_v": (
        "Phi-3 Vision needs code that comes with its files, which is never run.",
        "Its successor Phi-4 multimodal is a class of transformers (phi4_multimodal); or use llava-1.5-7b.",
    ),
    "phi4mm": (
        "This Phi-4 multimodal is in the layout that needs code of its own, which is never run.",
        "Use its conversion for transformers, whose config.json says phi4_multimodal.",
    ),
    "florence2 with code": (
        "This Florence-2 is in Microsoft's layout, which needs code of its own, and that is never run.",
        "Get the same model in transformers' layout: `flowbrush models get florence-2-large`.",
    ),
}


def transformers() -> Any:
    """The library.

    Raises:
        ModelMissing: It is not installed.
    """
    check_installed()
    library: Any = importlib.import_module("transformers")
    library.utils.logging.disable_progress_bar()
    library.utils.logging.set_verbosity_error()
    return library


def check_installed() -> None:
    """Raises ModelMissing if the library is not installed; imports nothing."""
    if importlib.util.find_spec("transformers") is None:
        raise ModelMissing(
            "Looking at pictures needs the library transformers, which is not installed.",
            "Install it with `pip install flowbrush[vision]`.",
        )


def read_config(folder: Path, title: str) -> dict[str, Any]:
    """The folder's config.json, after checking that its model needs no code of its own.

    Args:
        folder: Of the helper.
        title: What to call the helper in an error.

    Raises:
        Corrupt: It is not there or no configuration.
        RequestInvalid: The model is one that transformers has no class for.
    """
    config = _read_json(folder / "config.json", title)
    kind = config.get("model_type")
    key = f"{kind} with code" if "auto_map" in config else str(kind)
    refused = _NOT_NATIVE.get(key) or _NOT_NATIVE.get(str(kind))
    if refused is not None:
        raise RequestInvalid(*refused)
    if not any(folder.glob("*.safetensors")):
        raise Corrupt(
            f"{title} has no weights in safetensors in {folder}.",
            "Other forms are not read, because they can run code; get it again.",
        )
    return config


def read_settings(folder: Path, name: str, title: str) -> dict[str, Any]:
    """A JSON file of the folder; empty if it is not there. Raises Corrupt if it is no JSON object."""
    return _read_json(folder / name, title) if (folder / name).is_file() else {}


def load_model(kind: Any, folder: Path, title: str, device: torch.device, dtype: torch.dtype) -> Any:
    """A model of a class of the library, ready to run on the device.

    Args:
        kind: The class.
        folder: Of the helper.
        title: What to call the helper in an error.
        device: Where its weights go.
        dtype: In what they are held.

    Raises:
        Corrupt: Weights are missing, do not fit the configuration, or are damaged.
    """
    with explained(folder, title):
        model, facts = kind.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **_LOCAL
        )
    lacking = sorted({*facts["missing_keys"], *(key for key, *_ in facts["mismatched_keys"])})
    if lacking:
        raise Corrupt(
            f"{title} lacks {len(lacking)} of its tensors, the first is {lacking[0]}.", _get_again(folder)
        )
    return model.to(device).eval()


def load_processor(kind: Any, folder: Path, title: str, **settings: Any) -> Any:
    """A tokenizer or picture processor of a class of the library; raises Corrupt as load_model does."""
    with explained(folder, title):
        return kind.from_pretrained(folder, **_LOCAL, **settings)


@contextmanager
def explained(folder: Path, title: str) -> Generator[None]:
    """Turns what the library says of a folder into Corrupt; memory and our own errors pass."""
    try:
        yield
    except (FluxError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as err:  # a damaged file makes the library raise almost anything
        words = " ".join(str(err).split()) or type(err).__name__
        raise Corrupt(f"{title} cannot be loaded: {words[:200]}.", _get_again(folder)) from err


def forget(device: torch.device) -> None:
    """Gives the memory of what nobody refers to any more back."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def writing_dtype(device: torch.device) -> torch.dtype:
    """Of models that write: bfloat16 on CUDA. Those that measure stay in float32, where a cosine, a depth
    or a coordinate has more than bfloat16's three digits.
    """
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _get_again(folder: Path) -> str:
    if is_bundled(folder.name):
        return how_to_get(folder.name)
    return f"Get it again: delete {folder} and run `flowbrush models get {folder.name}`."


def _read_json(path: Path, title: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise Corrupt(f"{title}: {path.name} is too large to be true.", _get_again(path.parent))
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as err:
        raise Corrupt(f"{title}: {path.name} cannot be read.", _get_again(path.parent)) from err
    if not isinstance(found, dict):
        raise Corrupt(f"{title}: {path.name} is no configuration.", _get_again(path.parent))
    return cast("dict[str, Any]", found)

"""The small JSON notes that quantised files carry beside their tensors, read without trusting them.

Writers put them into uint8 tensors or into the header's metadata; either way they are short, and
anything long or odd is refused before it is parsed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from flux_core.errors import Corrupt
from flux_core.weights.header import shown
from flux_core.weights.tensors import TensorSource

MAX_TENSOR_BYTES = 65_536
MAX_METADATA_CHARS = 2**20
AGAIN = "Download or export the file again."


def tensor_note(source: TensorSource, name: str) -> dict[str, Any]:
    """The JSON object in a uint8 tensor.

    Raises:
        Corrupt: It is no such thing.
    """
    info = source.names()[name]
    if info.dtype != "U8" or len(info.shape) != 1 or info.shape[0] > MAX_TENSOR_BYTES:
        raise Corrupt(f"Tensor {shown(name)} should be a short note in bytes and is not.", AGAIN)
    return _parsed(source.read(name).data.tobytes(), f"tensor {shown(name)}")


def metadata_note(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    """The JSON object under a key of a header's metadata; empty where there is none.

    Raises:
        Corrupt: It is not an object, or far too long.
    """
    text = metadata.get(key, "{}")
    if len(text) > MAX_METADATA_CHARS:
        raise Corrupt(f"The file's metadata {shown(key)} has {len(text)} characters.", AGAIN)
    return _parsed(text.encode(errors="replace"), f"metadata {shown(key)}")


def _parsed(text: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Corrupt(f"The file's {what} is not a JSON object.", AGAIN)
    return cast("dict[str, Any]", value)

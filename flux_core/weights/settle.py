"""Which of several rows a file is, where its tensors are alike: by hash, by repository, by name.

A hash is certain and a repository nearly so; a name is what people go by, and its words are read with
care: "flux1-kontext-dev" is Kontext although it says dev, "flux1-dev" is dev because it says nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePath

from flux_core import catalog

_GENERIC = {"dev", "flux", "lora", "controlnet", "pro", "v"}
_WORDS = {
    "flux1-dev": {"dev"},
    "flux1-krea-dev": {"krea"},
    "flux1-kontext-dev": {"kontext"},
    "flux1-canny-dev": {"canny"},
    "flux1-depth-dev": {"depth"},
    "flux1-canny-dev-lora": {"canny"},
    "flux1-depth-dev-lora": {"depth"},
    "xlabs-canny-v3": {"canny", "v", "3"},
    "xlabs-depth-v3": {"depth", "v", "3"},
    "xlabs-hed-v3": {"hed", "v", "3"},
    "instantx-canny": {"instantx", "canny"},
    "instantx-union": {"instantx", "union"},
    "shakker-union-pro": {"union", "pro"},
    "shakker-union-pro-2": {"union", "pro", "2"},
}
"""Row -> words that a file's name has when it is this one."""

_CACHE_FOLDER = re.compile(r"^models--([^/\\]+?)--([^/\\]+)$")


def settle(
    candidates: tuple[str, ...],
    what: str,
    repository: str = "",
    sha256: str = "",
    *,
    is_sure: bool = True,
) -> tuple[tuple[str, ...], str]:
    """Narrows candidates.

    Args:
        candidates: Rows that the tensors allow.
        what: The file's path or name.
        repository: "owner/name", if known.
        sha256: If known.
        is_sure: Whether a single candidate needs no confirmation.

    Returns:
        The rows that remain, and what told ("" if nothing did, or nothing had to).
    """
    if not candidates or (len(candidates) == 1 and is_sure):
        return candidates, ""
    repository = repository or repository_of(what)
    tests: tuple[tuple[str, Callable[[str], bool]], ...] = (
        ("its sha256", lambda model: bool(sha256) and sha256 in _hashes(model)),
        ("its repository", lambda model: bool(repository) and _is_from(model, repository)),
        ("its name", lambda model: model in _named(candidates, PurePath(what).name)),
    )
    for reason, fits in tests:
        left = tuple(model for model in candidates if fits(model))
        if len(left) == 1:
            return left, reason
    return candidates, ""


def repository_of(path: str) -> str:
    """The repository ("owner/name") of a path inside a Hugging Face cache; "" for any other path."""
    for part in PurePath(path).parts:
        if match := _CACHE_FOLDER.match(part):
            return f"{match[1]}/{match[2]}"
    return ""


def _hashes(model: str) -> set[str]:
    return {file.sha256 for file in catalog.find_row(model).downloads if file.sha256}


def _is_from(model: str, repository: str) -> bool:
    return catalog.find_row(model).repository.lower() == repository.lower()


def _named(candidates: tuple[str, ...], name: str) -> set[str]:
    """The candidates that a name speaks of: those with words of their own first, then the plain ones."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = set(re.findall(r"[a-z]+|\d+", spaced.lower()))
    matching = {model for model in candidates if _WORDS.get(model, {model}) <= words}
    special = {model for model in matching if not _WORDS.get(model, set[str]()) <= _GENERIC}
    return special or matching

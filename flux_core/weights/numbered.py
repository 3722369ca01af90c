"""Shards that are one set by their names alone, where no index binds them together.

Two ways to number are in use: `model-00001-of-00003.safetensors` by transformers and diffusers, which says
how many there are, and `0.safetensors`, `1.safetensors` by mflux, which does not. Everything that asks
whether files belong together asks here: opening, finding, importing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flux_core.errors import Corrupt

MAX_SHARDS = 1000
INDEX_ENDING = ".safetensors.index.json"
_SHOWN = 3
_ENDING = ".safetensors"
_OF = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors", re.DOTALL)
_PLAIN = re.compile(r"(0|[1-9]\d{0,2})\.safetensors")


@dataclass(frozen=True, slots=True)
class NumberedSet:
    """Files of one folder that are one.

    Attributes:
        stem: What stands before the number; "" for mflux's.
        count: How many there should be.
        numbers: Of those that are there.
    """

    stem: str
    count: int
    numbers: frozenset[int]

    @property
    def title(self) -> str:
        """How the set is called in a message."""
        return f"{self.stem}-*-of-{self.count:05}{_ENDING}" if self.stem else f"0{_ENDING} and so on"

    @property
    def whole(self) -> str:
        """The name that a single file with everything would have, and before it the index's."""
        return f"{self.stem or 'model'}{_ENDING}"

    @property
    def present(self) -> tuple[str, ...]:
        """Names of the members that are there, in their order."""
        return tuple(self._name(number) for number in sorted(self.numbers))

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the members that are not."""
        first = 1 if self.stem else 0
        everything = range(first, first + self.count)
        return tuple(self._name(number) for number in everything if number not in self.numbers)

    def check(self, folder: Path) -> None:
        """Raises Corrupt, which names what is missing, unless every member is there."""
        if self.missing:
            raise lacking(folder, self.missing, self.count)

    def _name(self, number: int) -> str:
        return f"{self.stem}-{number:05}-of-{self.count:05}{_ENDING}" if self.stem else f"{number}{_ENDING}"


def numbered_sets(names: Iterable[str]) -> list[NumberedSet]:
    """The sets among the names of one folder's files, in a stable order.

    Plain numbers are a set only if they begin with 0: people name their files by numbers, too.
    """
    groups: dict[tuple[str, int], set[int]] = {}
    plain: set[int] = set()
    for name in names:
        match = _OF.fullmatch(name)
        if match is not None and 0 < int(match["number"]) <= int(match["count"]) <= MAX_SHARDS:
            groups.setdefault((match["stem"], int(match["count"])), set()).add(int(match["number"]))
        elif match := _PLAIN.fullmatch(name):
            plain.add(int(match[1]))
    found = [NumberedSet(*key, frozenset(groups[key])) for key in sorted(groups)]
    return [*found, NumberedSet("", max(plain) + 1, frozenset(plain))] if 0 in plain else found


def set_around(path: Path) -> NumberedSet | None:
    """The set that a file belongs to, or whose whole it would be; None for any other file."""
    is_member = _OF.fullmatch(path.name) or _PLAIN.fullmatch(path.name)
    if is_member is None and (path.suffix != _ENDING or path.exists()):
        return None
    try:
        beside = [entry.name for entry in os.scandir(path.parent)]
    except OSError:
        return None
    around = (one for one in numbered_sets(beside) if path.name in (one.whole, *one.present))
    return next(around, None)


def index_of(path: Path) -> Path | None:
    """The index that binds a file to others: it is one, or a shard's, or stands where a whole would."""
    if path.name.endswith(INDEX_ENDING):
        return path
    around = set_around(path)
    index = path.with_name((around.whole if around is not None else path.name) + ".index.json")
    return index if (around is not None or not path.exists()) and index.exists() else None


def lacking(folder: Path, missing: Iterable[str], count: int) -> Corrupt:
    """The error for a set of `count` shards of which some are not there."""
    names = list(missing)
    listed = ", ".join(names[:_SHOWN]) + (" and more" if len(names) > _SHOWN else "")
    return Corrupt(f"{folder} lacks {len(names)} of {count} shards: {listed}.", "Get the missing files.")

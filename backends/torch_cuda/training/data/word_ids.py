"""Token ids of everything a caption can hold, word by word, and how many words fit.

Both tokenizers split at spaces first, so the ids of a caption are the ids of its space-separated parts
joined. The table beside this file is made and checked by data.tokenizers; workers need only it.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

from flux_core.errors import Internal

TEXT_TOKENS = 32
WORDS_FILE = Path(__file__).with_name("words.json")


class Words:
    """The table, for both text encoders."""

    def __init__(self, path: Path = WORDS_FILE) -> None:
        table = json.loads(path.read_text())
        self._clip: dict[str, list[int]] = table["clip"]
        self._t5: dict[str, list[int]] = table["t5"]
        self.clip_start: int = table["clip_start"]
        self.clip_end: int = table["clip_end"]
        self.t5_end: int = table["t5_end"]

    def encode(self, text: str, length: int = TEXT_TOKENS) -> tuple[list[int], list[int], int]:
        """T5 ids and CLIP ids, each padded to `length`, and the index of CLIP's first end of text.

        Raises:
            Internal: A word is not in the table, or the text does not fit.
        """
        t5: list[int] = []
        clip = [self.clip_start]
        try:
            for part in text.split():
                t5 += self._t5[part]
                clip += self._clip[part]
        except KeyError as error:
            raise Internal(f"The word table does not know {error}.", "Build the tokenizers again.") from error
        end = len(clip)
        if len(t5) + 1 > length or end + 1 > length:
            raise Internal(f"The caption {text!r} needs more than {length} tokens.")
        t5 += [self.t5_end] + [0] * (length - len(t5) - 1)
        clip += [self.clip_end] * (length - end)
        return t5, clip, end

    def fits(self, text: str, length: int = TEXT_TOKENS) -> bool:
        """Whether both encoders can hold the text; a word that is not in the table counts as one token."""
        parts = text.split()
        t5 = sum(len(self._t5.get(part, (0,))) for part in parts)
        clip = sum(len(self._clip.get(part, (0,))) for part in parts)
        return t5 + 1 <= length and clip + 2 <= length


@functools.cache
def committed() -> Words:
    """The table beside this file."""
    return Words()

"""A cursor over JSON text from a stranger, for the few narrow grammars that weights files have.

A general parser makes twenty bytes of every byte of "[],[],", so a hostile header would cost far more
than its size. A grammar that knows what may come next refuses the first thing that may not.
"""

from __future__ import annotations

import json
import re
from typing import cast

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][-+]?[0-9]{1,3})?")
_WORD = re.compile(r"true|false|null")
_DECODER = json.JSONDecoder()


class JsonCursor:
    """Reads forward; every mistake is a ValueError with one phrase, without the file's name.

    Args:
        text: The whole text.
        what: What it is called in a message.
    """

    def __init__(self, text: str, what: str = "it") -> None:
        self.text = text
        self.what = what
        self.at = 0

    def object_keys(self, where: str) -> JsonKeys:
        """The keys of the object that begins here; read each key's value before the next key."""
        return JsonKeys(self, where)

    def end(self) -> None:
        """Makes sure that only white space is left."""
        if self.peek():
            raise ValueError(f"{self.what} is not valid JSON (text after the end)")

    def scalar(self, where: str) -> str:
        """A text, or a number, true, false or null as it is written."""
        if self.peek() == '"':
            return self.string(where)
        match = _NUMBER.match(self.text, self.at) or _WORD.match(self.text, self.at)
        if match is None:
            raise ValueError(f"{self.what} is not valid JSON (text or number expected in {where})")
        self.at = match.end()
        return match.group()

    def string(self, where: str) -> str:
        if self.peek() != '"':
            raise ValueError(f"{self.what} is not valid JSON (text expected in {where})")
        try:
            value, self.at = _DECODER.raw_decode(self.text, self.at)
        except ValueError:
            raise ValueError(f"{self.what} is not valid JSON (broken text in {where})") from None
        return cast("str", value)

    def peek(self) -> str:
        """The next character that is not white space, "" at the end."""
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.text[self.at : self.at + 1]

    def take(self, allowed: str, where: str) -> str:
        char = self.peek()
        if not char or char not in allowed:
            raise ValueError(f"{self.what} is not valid JSON ({' or '.join(allowed)} expected in {where})")
        self.at += 1
        return char


class JsonKeys:
    """Iterates over an object's keys; the caller reads each value before the next key."""

    def __init__(self, scanner: JsonCursor, where: str) -> None:
        self.scanner = scanner
        self.where = where
        self.is_first = True

    def __iter__(self) -> JsonKeys:
        return self

    def __next__(self) -> str:
        scanner = self.scanner
        if self.is_first:
            scanner.take("{", self.where)
            if scanner.peek() == "}":
                scanner.at += 1
                raise StopIteration
            self.is_first = False
        elif scanner.take(",}", self.where) == "}":
            raise StopIteration
        key = scanner.string(self.where)
        scanner.take(":", self.where)
        return key


def shown(name: str) -> str:
    """A name from a file, quoted and cut for a message."""
    return repr(name if len(name) <= 120 else f"{name[:117]}...")

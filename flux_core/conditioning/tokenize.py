"""Prompts to token ids, padded to the length a model was trained with.

The files are the published ones; the rules (what CLIP lower-cases, which id pads, that the end survives
truncation) are part of the model's meaning and stand here. Only the `tokenizers` library is needed.

Source: transformers tokenization_clip.py and tokenization_t5.py; checked against both.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from flux_core.errors import Corrupt, ModelMissing

CLIP_BEGIN = "<|startoftext|>"
CLIP_END = "<|endoftext|>"
T5_PAD = "<pad>"
T5_END = "</s>"
_VOCAB, _MERGES, _WHOLE = "vocab.json", "merges.txt", "tokenizer.json"
_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_MOST_KEPT = 4
"""Those of two models."""
_T = TypeVar("_T", "ClipTokenizer", "T5Tokenizer")


class Tokenizers:
    """Those that were read already: published ones take 0.2 s."""

    def __init__(self) -> None:
        self._read = lru_cache(_MOST_KEPT)(_read)

    def get(self, kind: type[_T], folder: Path, length: int) -> _T:
        """The tokenizer of a kind in a folder, read anew where its files have changed.

        Args:
            kind: Which one; raises what its constructor raises.
            folder: Holds its files.
            length: Tokens of every result.
        """
        return self._read(kind, folder, length, _stamps(folder))


class ClipTokens(NamedTuple):
    """One prompt for CLIP.

    Attributes:
        ids: [1, length] int32.
        end: [1] int32, index of the first end-of-text token, whose state is the pooled one.
    """

    ids: NDArray[np.int32]
    end: NDArray[np.int32]


class ClipTokenizer:
    """CLIP's byte-level BPE: begin, words, end, then more ends as padding.

    Args:
        folder: Holds vocab.json and merges.txt, or tokenizer.json.
        length: Tokens of every result, begin and end included; 77 for the published models.

    Attributes:
        vocab_size: One more than the largest id it can give.

    Raises:
        ModelMissing: The files are not there.
        Corrupt: They are damaged, or lack the begin or end token.
    """

    def __init__(self, folder: Path, length: int) -> None:
        self.length = length
        self._folder = folder
        self._tokenizer = _read_clip(folder)
        self._begin = _id_of(self._tokenizer, CLIP_BEGIN, folder)
        self._end = _id_of(self._tokenizer, CLIP_END, folder)
        self.vocab_size = _vocab_size(self._tokenizer)

    def __call__(self, prompt: str) -> ClipTokens:
        """Any text, also none; what does not fit is cut, the end token stays."""
        words = _encode(self._tokenizer, prompt, self._folder)[: self.length - 2]
        ids = [self._begin, *words, self._end]
        padded = ids + [self._end] * (self.length - len(ids))
        return ClipTokens(
            np.array([padded], dtype=np.int32), np.array([ids.index(self._end)], dtype=np.int32)
        )


class T5Tokenizer:
    """T5's SentencePiece unigrams: words, end, then padding.

    Args:
        folder: Holds tokenizer.json.
        length: Tokens of every result, the end included; it changes the picture, because padding attends.

    Attributes:
        vocab_size: One more than the largest id it can give.

    Raises:
        ModelMissing: The file is not there.
        Corrupt: It is damaged, or lacks the end or padding token.
    """

    def __init__(self, folder: Path, length: int) -> None:
        self.length = length
        self._folder = folder
        self._tokenizer = _read_json(folder)
        self._end = _id_of(self._tokenizer, T5_END, folder)
        self._pad = _id_of(self._tokenizer, T5_PAD, folder)
        self.vocab_size = _vocab_size(self._tokenizer)

    def __call__(self, prompt: str) -> NDArray[np.int32]:
        """Any text, also none -> [1, length] int32; what does not fit is cut, the end token stays."""
        ids = [*_encode(self._tokenizer, prompt, self._folder)[: self.length - 1], self._end]
        return np.array([ids + [self._pad] * (self.length - len(ids))], dtype=np.int32)


def _read(kind: type[Any], folder: Path, length: int, stamps: tuple[tuple[str, int, int], ...]) -> Any:
    return kind(folder, length)


def _stamps(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What tells whether a folder's files have changed."""
    files = [path for name in (_VOCAB, _MERGES, _WHOLE) if (path := folder / name).is_file()]
    return tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files)


def _read_clip(folder: Path) -> Tokenizer:
    vocab, merges = folder / _VOCAB, folder / _MERGES
    if not (vocab.is_file() and merges.is_file()):
        return _read_json(folder)
    try:
        model = BPE.from_file(  # pyright: ignore[reportUnknownMemberType]
            str(vocab),
            str(merges),
            unk_token=CLIP_END,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
        )
    except Exception as err:  # the library raises bare Exception
        raise _corrupt(folder, err) from None
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    known = [token for token in (CLIP_BEGIN, CLIP_END) if tokenizer.token_to_id(token) is not None]
    tokenizer.add_special_tokens(known)  # pyright: ignore[reportUnknownMemberType]
    return tokenizer


def _read_json(folder: Path) -> Tokenizer:
    path = folder / _WHOLE
    if not path.is_file():
        raise ModelMissing(
            f"There is no tokenizer in {folder}.", "Put the model's tokenizer files there, or get it again."
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as err:  # the library raises bare Exception
        raise _corrupt(path, err) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _encode(tokenizer: Tokenizer, prompt: str, folder: Path) -> list[int]:
    text = prompt.encode("utf-8", "replace").decode()  # a lone surrogate is no text
    try:
        return tokenizer.encode(text, add_special_tokens=False).ids
    except Exception as err:  # the library raises bare Exception, for example without an unknown token
        raise _corrupt(folder, err) from None


def _id_of(tokenizer: Tokenizer, token: str, folder: Path) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise Corrupt(f"The tokenizer in {folder} does not know {token}.", "Get the model's own tokenizer.")
    return found


def _vocab_size(tokenizer: Tokenizer) -> int:
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())


def _corrupt(path: Path, err: Exception) -> Corrupt:
    reason = str(err)
    shown = reason if len(reason) <= 120 else f"{reason[:117]}..."
    return Corrupt(f"The tokenizer in {path} is damaged: {shown}.", "Get the model's tokenizer again.")

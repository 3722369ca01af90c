"""Makes the small tokenizers of the tiny family in the file layouts of the big one.

CLIP's is a byte-level BPE (vocab.json, merges.txt), T5's a SentencePiece Unigram (spiece.model and the
same model as tokenizer.json); both know the captions' words whole, common prompt words, and can spell
anything else. The word table that training uses comes from the finished files, so they cannot differ;
new objects need only a new table, and weights that know the old words stay good.

Sources: openai/clip simple_tokenizer.py (byte alphabet, splitting pattern); google/sentencepiece
sentencepiece_model.proto (field numbers).
"""

from __future__ import annotations

import argparse
import io
import json
import logging
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from backends.torch_cuda.training.data import edits, pairs
from backends.torch_cuda.training.data.captions import caption, words
from backends.torch_cuda.training.data.pack import Pack
from backends.torch_cuda.training.data.scenes import Sampler
from backends.torch_cuda.training.data.word_ids import WORDS_FILE

VOCABULARY = 2048
COMMON_WORDS = Path(__file__).with_name("common_words.txt")
CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"
_CLIP_SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_ENDINGS = ("s", "es", "ed", "ing", "er", "y", "ly", "ish", "like")
_CLIP_LENGTH = 77
_T5_LENGTH = 512
_CAPTION_WEIGHT = 1000  # a caption's word against a common one: it must end as one token

log = logging.getLogger(__name__)


def write_clip(folder: Path) -> None:
    """Writes vocab.json, merges.txt and the two configuration files of CLIP's tokenizer."""
    counts = Counter({word: 1 for word in _common_words()})
    for text in words():
        counts.update({part: _CAPTION_WEIGHT for part in _clip_parts(text)})
    letters = sorted(_byte_letters().values(), key=lambda letter: (ord(letter) > 255, ord(letter)))
    merges = _learn_merges(counts, VOCABULARY - 2 * len(letters) - 2)
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, CLIP_START, CLIP_END])}
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": CLIP_START, "eos_token": CLIP_END, "pad_token": CLIP_END, "unk_token": CLIP_END}
    _write_json(folder / "special_tokens_map.json", special)
    about = {
        **special,
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": _CLIP_LENGTH,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    _write_json(folder / "tokenizer_config.json", about)


def write_t5(folder: Path, captions: list[str]) -> None:
    """Writes spiece.model, the same model as tokenizer.json, and the two configuration files of T5's."""
    import sentencepiece  # needed to train, not to use

    corpus = [*captions, *(word for word in _common_words() for _ in range(8))]
    corpus += [word + ending for word in _common_words() for ending in _ENDINGS]
    corpus += [word for word in words() for _ in range(400)]
    model, seeds = io.BytesIO(), folder / "seeds.tsv"
    folder.mkdir(parents=True, exist_ok=True)
    seeds.write_text("".join(f"{piece}\t{count}\n" for piece, count in _seed_pieces()), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        model_type="unigram",
        vocab_size=VOCABULARY,
        hard_vocab_limit=False,  # pieces that nothing needs are dropped; the embedding keeps spare rows
        normalization_rule_name="nmt_nfkc_cf",
        required_chars="".join(chr(code) for code in range(33, 127) if not chr(code).isupper()),
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=1,
        seed_sentencepieces_file=str(seeds),
    )
    seeds.unlink()
    (folder / "spiece.model").write_bytes(model.getvalue())
    _t5_from_model(model.getvalue()).save(str(folder / "tokenizer.json"))
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    _write_json(folder / "special_tokens_map.json", special)
    about = {
        **special,
        "tokenizer_class": "T5Tokenizer",
        "model_max_length": _T5_LENGTH,
        "extra_ids": 0,
        "additional_special_tokens": [],
    }
    _write_json(folder / "tokenizer_config.json", about)


def open_clip(folder: Path) -> Tokenizer:
    """CLIP's tokenizer from its files; adds the start and end of text."""
    vocabulary: dict[str, int] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    merges = [(pair[0], pair[1]) for pair in (line.split(" ") for line in lines if line)]
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary, merges, unk_token=CLIP_END, end_of_word_suffix="</w>", continuing_subword_prefix=""
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        (CLIP_END, vocabulary[CLIP_END]), (CLIP_START, vocabulary[CLIP_START]), False, False
    )
    return tokenizer


def word_table(clip: Tokenizer, t5: Tokenizer) -> dict[str, Any]:
    """Ids of every caption word, alone and before a comma or a full stop, without special tokens."""
    known = dict.fromkeys([*words(), *edits.words(), *pairs.words()])
    parts = [word + mark for word in known for mark in ("", ",", ".")]
    return {
        "clip_start": clip.token_to_id(CLIP_START),
        "clip_end": clip.token_to_id(CLIP_END),
        "t5_end": t5.token_to_id("</s>"),
        "clip": {part: clip.encode(part, add_special_tokens=False).ids for part in parts},
        "t5": {part: t5.encode(part, add_special_tokens=False).ids for part in parts},
    }


def _seed_pieces() -> list[tuple[str, int]]:
    """Candidates for the Unigram model: every word, and every part that several words share."""
    found: Counter[str] = Counter()
    for word in [*_common_words(), *words()]:
        spelt = f"▁{word.lower()}"
        found.update(
            spelt[at:end] for at in range(len(spelt)) for end in range(at + 2, min(at + 7, len(spelt) + 1))
        )
        found[spelt] += 50
    return [(piece, count * len(piece)) for piece, count in found.most_common() if count > 2]


def _t5_from_model(model: bytes) -> Tokenizer:
    """The Unigram tokenizer that transformers makes of a SentencePiece model."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.get_piece_size())]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Precompiled(_field(_field(model, 3), 2))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return tokenizer


def _field(message: bytes, wanted: int) -> bytes:
    """The last length-delimited field `wanted` of a protobuf message."""
    at, found = 0, b""
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 2:
            size, at = _varint(message, at)
            if tag >> 3 == wanted:
                found = message[at : at + size]
            at += size
        elif tag & 7 == 0:
            _, at = _varint(message, at)
        else:
            at += 4 if tag & 7 == 5 else 8
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _learn_merges(counts: Counter[str], number: int) -> list[tuple[str, str]]:
    """Byte-pair merges of lower-case words, most frequent pair first, ties in alphabetical order."""
    letters = _byte_letters()
    spelt: dict[str, list[str]] = {}
    for word in counts:
        symbols = [letters[byte] for byte in word.encode("utf-8")]
        spelt[word] = [*symbols[:-1], symbols[-1] + "</w>"]
    merges: list[tuple[str, str]] = []
    while len(merges) < number:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in spelt.items():
            for pair in zip(symbols, symbols[1:], strict=False):
                pairs[pair] += counts[word]
        if not pairs:
            raise ValueError(f"the word list only gives {len(merges)} of {number} merges")
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, symbols in spelt.items():
            if best[0] in symbols:
                spelt[word] = _merged(symbols, best)
    return merges


def _merged(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    at = 0
    while at < len(symbols):
        if tuple(symbols[at : at + 2]) == pair:
            out.append(pair[0] + pair[1])
            at += 2
        else:
            out.append(symbols[at])
            at += 1
    return out


def _byte_letters() -> dict[int, str]:
    """CLIP's and GPT-2's printable stand-in for every byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {**{byte: chr(byte) for byte in printable}, **{b: chr(256 + i) for i, b in enumerate(hidden)}}


def _clip_parts(text: str) -> list[str]:
    split = pre_tokenizers.Split(Regex(_CLIP_SPLIT), behavior="removed", invert=True)
    return [part for part, _ in split.pre_tokenize_str(text.lower())]


def _common_words() -> list[str]:
    return list(dict.fromkeys(COMMON_WORDS.read_text(encoding="utf-8").split()))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the tiny family's tokenizers and the word table.")
    parser.add_argument("--pack", type=Path, help="file that data.pack made; without it the tokenizers stay")
    parser.add_argument("--into", type=Path, required=True, help="the model's folder")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.pack is not None:
        sampler, rng = Sampler(Pack.load(arguments.pack)), Random(20)
        captions = [caption(sampler.scene(rng), rng) for _ in range(20_000)]
        write_clip(arguments.into / "tokenizer")
        write_t5(arguments.into / "tokenizer_2", captions)
    clip = open_clip(arguments.into / "tokenizer")
    t5 = Tokenizer.from_file(str(arguments.into / "tokenizer_2" / "tokenizer.json"))
    WORDS_FILE.write_text(json.dumps(word_table(clip, t5), ensure_ascii=False) + "\n", encoding="utf-8")
    log.info("vocabularies %d and %d", clip.get_vocab_size(), t5.get_vocab_size())


if __name__ == "__main__":
    main()

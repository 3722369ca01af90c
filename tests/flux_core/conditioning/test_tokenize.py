"""Prompts become the ids that transformers gives, whatever a person types."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from flux_core.conditioning.tokenize import ClipTokenizer, T5Tokenizer, Tokenizers
from flux_core.errors import Corrupt, ModelMissing

TINY = Path(__file__).parents[3] / "resources" / "models" / "tiny"
LENGTH = 32
PROMPTS = [
    "a red apple on a blue background",
    "",
    "   ",
    "  A  CAT\n\tsitting's here  ",
    "名前 ünïcödé é 👩\u200d🚀",
    "a\u0301 ﬁ ½ İ ß",
    "x" * 500,
    "many words " * 100,
    "<|endoftext|> in the middle <|startoftext|>",
    "a </s> b<pad>c <unk>",
    "it's 123 4.5!! don't",
    "\x00 \u200b \ufeff",
]


@cache
def clip_pair() -> tuple[ClipTokenizer, Any]:
    from transformers import CLIPTokenizer

    return ClipTokenizer(TINY / "tokenizer", LENGTH), CLIPTokenizer.from_pretrained(TINY / "tokenizer")


@cache
def t5_pair() -> tuple[T5Tokenizer, Any]:
    from transformers import T5TokenizerFast

    return T5Tokenizer(TINY / "tokenizer_2", LENGTH), T5TokenizerFast.from_pretrained(TINY / "tokenizer_2")


def padded(peer: Any, prompt: str) -> np.ndarray:
    return peer(
        prompt, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="np"
    ).input_ids


@pytest.mark.parametrize("prompt", PROMPTS, ids=ascii)
def test_clip_equals_transformers(prompt: str) -> None:
    ours, peer = clip_pair()
    ids, end = ours(prompt)
    assert ids.dtype == np.int32
    assert np.array_equal(ids, padded(peer, prompt))
    assert end.tolist() == [int((ids[0] == peer.eos_token_id).argmax())]


@pytest.mark.parametrize("prompt", PROMPTS, ids=ascii)
def test_t5_equals_transformers(prompt: str) -> None:
    ours, peer = t5_pair()
    ids = ours(prompt)
    assert ids.dtype == np.int32
    assert np.array_equal(ids, padded(peer, prompt))


@settings(max_examples=150, deadline=None)
@given(prompt=st.text(max_size=120))
def test_any_text_equals_transformers(prompt: str) -> None:
    for ours, peer in (clip_pair(), t5_pair()):
        found = ours(prompt)
        assert np.array_equal(found if isinstance(found, np.ndarray) else found.ids, padded(peer, prompt))


@pytest.mark.parametrize("length", [2, 3, 32, 77])
def test_the_end_survives_truncation(length: int) -> None:
    clip, t5 = ClipTokenizer(TINY / "tokenizer", length), T5Tokenizer(TINY / "tokenizer_2", length)
    ids, end = clip("word " * 200)
    assert ids.shape == (1, length)
    assert end.tolist() == [length - 1]
    assert t5("word " * 200)[0, -1] == 1


def test_a_lone_surrogate_is_tolerated() -> None:
    assert ClipTokenizer(TINY / "tokenizer", LENGTH)("a \ud800 b").ids.shape == (1, LENGTH)
    assert T5Tokenizer(TINY / "tokenizer_2", LENGTH)("a \ud800 b").shape == (1, LENGTH)


@pytest.mark.parametrize(("kind", "name"), [(ClipTokenizer, "tokenizer"), (T5Tokenizer, "tokenizer_2")])
def test_a_tokenizer_is_read_once_and_again_when_its_files_have_changed(
    kind: type[Any], name: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(TINY / name, tmp_path / name))
    get = Tokenizers().get
    first = get(kind, folder, LENGTH)
    assert get(kind, folder, LENGTH) is first
    assert get(kind, folder, 5).length == 5
    for file in folder.glob("*.json"):
        file.write_text(file.read_text("utf-8") + "\n", "utf-8")
    assert get(kind, folder, LENGTH) is not first
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(ModelMissing, match="no tokenizer"):
        get(kind, folder, LENGTH)


def test_a_freshly_trained_clip_vocabulary_equals_transformers(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        end_of_word_suffix="</w>",
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog", *PROMPTS], trainer)
    tokenizer.model.save(str(tmp_path))
    vocab = json.loads((tmp_path / "vocab.json").read_text("utf-8"))
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocab[token] = len(vocab)
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), "utf-8")

    ours, peer = ClipTokenizer(tmp_path, LENGTH), CLIPTokenizer.from_pretrained(tmp_path)
    assert ours.vocab_size == len(vocab)
    for prompt in PROMPTS:
        assert np.array_equal(ours(prompt).ids, padded(peer, prompt)), prompt


def test_clip_from_tokenizer_json_equals_clip_from_its_two_files(tmp_path: Path) -> None:
    ours, peer = clip_pair()
    peer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    whole = ClipTokenizer(tmp_path, LENGTH)
    for prompt in PROMPTS:
        assert np.array_equal(whole(prompt).ids, ours(prompt).ids)
        assert np.array_equal(whole(prompt).end, ours(prompt).end)


@pytest.mark.parametrize("make", [ClipTokenizer, T5Tokenizer])
def test_a_missing_tokenizer_is_missing(tmp_path: Path, make: Any) -> None:
    with pytest.raises(ModelMissing, match="There is no tokenizer in"):
        make(tmp_path, LENGTH)


@pytest.mark.parametrize("make", [ClipTokenizer, T5Tokenizer])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {"type": "Unigram"}}', "\x00" * 100])
def test_a_damaged_tokenizer_is_corrupt(tmp_path: Path, make: Any, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(Corrupt, match="is damaged") as caught:
        make(tmp_path, LENGTH)
    assert len(caught.value.message) < 300 + len(str(tmp_path))


def test_a_tokenizer_that_cannot_read_a_prompt_is_corrupt(tmp_path: Path) -> None:
    vocab = [["<pad>", 0.0], ["</s>", 0.0], ["a", -1.0]]
    content = {"version": "1.0", "model": {"type": "Unigram", "unk_id": None, "vocab": vocab}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(Corrupt, match="is damaged.*unknown token"):
        T5Tokenizer(tmp_path, LENGTH)("b")


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
def test_damaged_clip_files_are_corrupt(tmp_path: Path, file: str) -> None:
    shutil.copytree(TINY / "tokenizer", tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_text("#version: 0.2\nzz qq not in it")
    with pytest.raises(Corrupt, match="is damaged"):
        ClipTokenizer(tmp_path, LENGTH)


def test_a_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(Corrupt, match=r"does not know <\|startoftext\|>"):
        ClipTokenizer(TINY / "tokenizer_2", LENGTH)

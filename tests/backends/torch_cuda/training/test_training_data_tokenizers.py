"""The committed tokenizers: the layouts that other libraries read, and the word table made from them."""

from pathlib import Path
from random import Random

import pytest
from tokenizers import Tokenizer
from transformers import CLIPTokenizer, T5TokenizerFast

from backends.torch_cuda.training.data.captions import caption
from backends.torch_cuda.training.data.scenes import Sampler
from backends.torch_cuda.training.data.tokenizers import VOCABULARY, open_clip, word_table
from backends.torch_cuda.training.data.word_ids import TEXT_TOKENS, Words
from tests.support.training_pack import disc_pack

FOLDER = Path(__file__).parents[4] / "resources" / "models" / "tiny"
STRANGE = (
    *("A Red Apple, on a BLUE background!", "xylophone zebrafish crème brûlée", "  two   spaces ", ""),
    *("it's a café — ok? 12.5% off", "a\tphoto\nof a cat", "\u732b on \U0001f4a1", "<|endoftext|> </s>"),
)


@pytest.fixture(scope="module")
def captions() -> list[str]:
    sampler, rng = Sampler(disc_pack()), Random(8)
    return [caption(sampler.scene(rng), rng) for _ in range(1500)]


@pytest.fixture(scope="module")
def clip() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")


@pytest.fixture(scope="module")
def t5() -> T5TokenizerFast:
    return T5TokenizerFast.from_pretrained(FOLDER / "tokenizer_2")


def test_our_clip_reader_agrees_with_transformers(clip: CLIPTokenizer, captions: list[str]) -> None:
    ours = open_clip(FOLDER / "tokenizer")
    for text in [*captions[:300], *STRANGE[:-1]]:
        assert ours.encode(text).ids == clip(text).input_ids, text


def test_the_t5_file_agrees_with_transformers(t5: T5TokenizerFast, captions: list[str]) -> None:
    ours = Tokenizer.from_file(str(FOLDER / "tokenizer_2" / "tokenizer.json"))
    for text in [*captions[:300], *STRANGE]:
        assert ours.encode(text).ids == t5(text).input_ids, text


def test_special_tokens_are_where_flux_expects_them(clip: CLIPTokenizer, t5: T5TokenizerFast) -> None:
    assert len(clip) == VOCABULARY
    assert len(t5) <= VOCABULARY
    assert clip.eos_token_id == clip.pad_token_id == VOCABULARY - 1
    assert clip.bos_token_id == VOCABULARY - 2
    assert (t5.pad_token_id, t5.eos_token_id, t5.unk_token_id) == (0, 1, 2)
    assert clip("cat").input_ids[0] == clip.bos_token_id
    assert t5("cat").input_ids[-1] == t5.eos_token_id
    assert t5("a red apple").input_ids == t5("A RED  Apple").input_ids


def test_the_word_table_gives_the_ids_of_the_tokenizers(
    clip: CLIPTokenizer, t5: T5TokenizerFast, captions: list[str]
) -> None:
    words = Words()
    whole = {"padding": "max_length", "max_length": TEXT_TOKENS}
    for text in captions:
        t5_ids, clip_ids, end = words.encode(text)
        assert t5_ids == t5(text, **whole).input_ids, text
        assert clip_ids == clip(text, **whole).input_ids, text
        assert clip_ids.index(clip.eos_token_id) == end


def test_the_committed_word_table_is_the_one_the_tokenizers_make(tmp_path: Path) -> None:
    t5 = Tokenizer.from_file(str(FOLDER / "tokenizer_2" / "tokenizer.json"))
    table = word_table(open_clip(FOLDER / "tokenizer"), t5)
    words = Words()
    assert (table["clip"], table["t5"]) == (words._clip, words._t5)


def test_caption_words_are_whole_tokens(t5: T5TokenizerFast, clip: CLIPTokenizer) -> None:
    for word in ("apple", "background", "illustration", "umbrella", "checkered", "turquoise", "snowmen"):
        assert len(t5(word).input_ids) == 2, word
        assert len(clip(word).input_ids) == 3, word


def test_unknown_words_are_spelt_and_not_lost(t5: T5TokenizerFast, clip: CLIPTokenizer) -> None:
    for word in ("quokka", "zeppelin-42", "don't"):
        assert t5.unk_token_id not in t5(word).input_ids, word
        assert clip.decode(clip(word, add_special_tokens=False).input_ids).replace(" ", "") == word

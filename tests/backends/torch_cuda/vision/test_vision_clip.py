"""CLIP's scores are its own logits, whoever else is asked about; embeddings find the same picture again."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPTokenizer

from flux_core.looking import Embed, Score
from tests.support.vision_folders import clip, pixels

PROMPT = "a red cat, a blue dog"
PICTURES = (pixels(40, 60), pixels(30, 30, 1), pixels(64, 28, 2))


def test_a_score_is_the_models_own_logit_without_its_scale(tmp_path: Path, have, ask) -> None:
    model = have("clip-l-336", clip)
    found = ask(Score(prompt=PROMPT), *PICTURES).findings
    tokens = CLIPTokenizer.from_pretrained(tmp_path / "clip-l-336")(
        [PROMPT, "a red cat", "a blue dog"], padding=True, return_tensors="pt"
    )
    images = [Image.fromarray(picture[..., :3]) for picture in PICTURES]
    values = CLIPImageProcessorPil.from_pretrained(tmp_path / "clip-l-336")(images, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**tokens, **values).logits_per_image / model.logit_scale.exp()
    ours = [[each.similarity, *(p.similarity for p in each.phrases)] for each in found]
    assert np.abs(np.array(ours) - logits.numpy()).max() < 1e-6
    assert [p.phrase for p in found[0].phrases] == ["a red cat", "a blue dog"]


def test_the_best_picture_has_rank_one_and_equal_pictures_share_theirs(have, ask) -> None:
    have("clip-l-336", clip)
    found = ask(Score(prompt=PROMPT), *PICTURES, PICTURES[0]).findings
    best = max(found, key=lambda each: each.similarity)
    assert best.rank == 1
    assert found[0].rank == found[3].rank
    assert sorted(each.rank for each in found) in ([1, 1, 3, 4], [1, 2, 2, 4], [1, 2, 3, 3])


def test_phrases_of_the_asker_are_taken_instead_of_the_prompts(have, ask) -> None:
    have("clip-l-336", clip)
    found = ask(Score(prompt=PROMPT, phrases=("the sea",)), PICTURES[0]).findings
    assert [p.phrase for p in found[0].phrases] == ["the sea"]


def test_a_prompt_longer_than_clip_reads_is_said_to_be_cut(have, ask) -> None:
    have("clip-l-336", clip)
    long, short = "cat " * 200, "cat"
    assert ask(Score(prompt=long), PICTURES[0]).findings[0].is_prompt_cut
    assert not ask(Score(prompt=short), PICTURES[0]).findings[0].is_prompt_cut


def test_an_embedding_has_length_one_and_is_the_pictures_alone(have, ask) -> None:
    have("clip-l-336", clip)
    together = ask(Embed(), *PICTURES).findings
    alone = ask(Embed(), PICTURES[1]).findings[0]
    assert [each.picture for each in together] == [0, 1, 2]
    assert together[1].values == pytest.approx(alone.values, abs=1e-6)
    assert together[0].values != pytest.approx(alone.values, abs=1e-3)
    assert math.fsum(value * value for value in alone.values) == pytest.approx(1.0, abs=1e-5)


def test_a_transparent_picture_is_seen_on_white(have, ask) -> None:
    have("clip-l-336", clip)
    clear = PICTURES[0].copy()
    clear[..., 3] = 0
    white = np.full_like(clear, 255)
    first, second = ask(Embed(), clear, white).findings
    assert first.values == second.values

"""Helpers that write say what transformers' own classes say, and can be stopped between two tokens."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    Florence2Processor,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from flux_core.errors import Cancelled
from flux_core.looking import Caption, CaptionLength, Describe, Ground, SegmentPhrase
from flux_core.messages import Stage
from tests.support.vision_folders import florence2, llava, pixels

HEIGHT, WIDTH = 40, 60
PICTURE = pixels(HEIGHT, WIDTH)
IMAGE = Image.fromarray(PICTURE[..., :3])


def _florence(model, folder: Path, text: str, task: str):
    """What the peer answers to words as they stand in its processor."""
    parsers = {"pure_text": {}, "phrase_grounding": {}, "polygons": {}}
    processor = Florence2Processor(
        CLIPImageProcessorPil.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        post_processor_config=parsers,
    )
    inputs = processor(text=text, images=IMAGE, return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=63, num_beams=3, do_sample=False)
    written = processor.batch_decode(ids, skip_special_tokens=False)[0]
    return processor.post_process_generation(written, task=task, image_size=(WIDTH, HEIGHT))[task]


@pytest.mark.parametrize(
    ("length", "task"),
    [
        (CaptionLength.SHORT, "<CAPTION>"),
        (CaptionLength.MEDIUM, "<DETAILED_CAPTION>"),
        (CaptionLength.LONG, "<MORE_DETAILED_CAPTION>"),
    ],
)
def test_a_caption_is_florences_at_each_length(
    tmp_path: Path, have, ask, length: CaptionLength, task: str
) -> None:
    folder = tmp_path / "florence-2-large"
    model = have(folder.name, florence2)
    found = ask(Caption(length=length), PICTURE).findings
    assert found[0].text == _florence(model, folder, task, task)
    assert len(found[0].text) > 20


def test_every_phrase_is_grounded_by_itself_inside_of_the_picture(tmp_path: Path, have, ask) -> None:
    folder = tmp_path / "florence-2-large"
    model = have(folder.name, florence2)
    found = ask(Ground(phrases=("a cat", "the sea")), PICTURE).findings[0]
    task = "<CAPTION_TO_PHRASE_GROUNDING>"
    theirs = [
        (p, box) for p in ("a cat", "the sea") for box in _florence(model, folder, task + p, task)["bboxes"]
    ]
    assert {each.label for each in found.boxes} == {"a cat", "the sea"}
    expected = []
    for phrase, (x0, y0, x1, y1) in theirs:
        left, right, top, bottom = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
        if left < right and top < bottom:  # a random model also gives boxes without an area
            expected.append((phrase, left, top, right, bottom))
    assert expected
    ours = [(e.label, e.box.left_px, e.box.top_px, e.box.right_px, e.box.bottom_px) for e in found.boxes]
    assert ours == expected


def test_a_phrase_gives_a_mask_of_florences_polygons(tmp_path: Path, have, ask) -> None:
    folder = tmp_path / "florence-2-large"
    model = have(folder.name, florence2)
    looked = ask(SegmentPhrase(phrase="a cat"), PICTURE)
    task = "<REFERRING_EXPRESSION_SEGMENTATION>"
    canvas = Image.new("L", (WIDTH, HEIGHT))
    for instance in _florence(model, folder, task + "a cat", task)["polygons"]:
        for flat in instance:
            if len(flat) >= 6:
                corners = list(zip(flat[0::2], flat[1::2], strict=True))
                ImageDraw.Draw(canvas).polygon(corners, fill=255, outline=255)
    (mask,) = looked.pictures
    assert np.array_equal(mask, np.array(canvas))
    assert 0 < np.count_nonzero(mask) < mask.size
    found = looked.findings[0]
    assert (found.image, found.label) == (0, "a cat")
    rows, columns = np.nonzero(mask)
    assert (found.box.left_px, found.box.right_px) == (columns.min(), columns.max() + 1)
    assert (found.box.top_px, found.box.bottom_px) == (rows.min(), rows.max() + 1)


def test_a_phrase_cannot_write_the_models_own_tokens(have, ask) -> None:
    have("florence-2-large", florence2)
    ask(SegmentPhrase(phrase="<image><OCR> <loc_1>"), PICTURE)


def test_an_answer_is_llavas(tmp_path: Path, have, ask) -> None:
    folder = tmp_path / "llava-1.5-7b"
    model = have(folder.name, llava)
    found = ask(Describe(question="How many <image> cats?", max_tokens=12), PICTURE).findings[0]
    processor = LlavaProcessor(
        CLIPImageProcessorPil.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    text = "USER: <image>\nHow many   cats? ASSISTANT:"
    inputs = processor(text=text, images=IMAGE, return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    new = ids[0, inputs["input_ids"].shape[1] :]
    assert found.text == processor.decode(new, skip_special_tokens=True).strip()
    assert found.text
    assert found.is_cut == (len(new) == 12)


def test_a_picture_can_be_described_without_a_question(have, ask) -> None:
    have("llava-1.5-7b", llava)
    without = ask(Describe(max_tokens=8), PICTURE).findings
    asked = ask(Describe(question="Describe this picture in detail.", max_tokens=8), PICTURE).findings
    assert without == asked


def test_writing_can_be_cancelled_between_two_tokens_and_leaves_nothing(have, ask) -> None:
    have("llava-1.5-7b", llava)
    before = _llavas()
    said = []

    def is_cancelled() -> bool:
        return len([each for each in said if each.stage is not Stage.LOADING]) >= 4

    with pytest.raises(Cancelled):
        ask(Describe(max_tokens=500), PICTURE, said=said, is_cancelled=is_cancelled)
    assert 4 <= len([each for each in said if each.stage is not Stage.LOADING]) <= 5
    assert _llavas() == before


def _llavas() -> list[object]:
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is LlavaForConditionalGeneration]


def test_progress_rises_and_never_falls(have, ask) -> None:
    have("llava-1.5-7b", llava)
    said = []
    ask(Describe(max_tokens=10), PICTURE, said=said)
    fractions = [each.fraction for each in said]
    assert fractions == sorted(fractions)
    assert said[0].stage is Stage.LOADING
    assert len(set(fractions)) > 5

"""Florence-2: captions of three lengths, boxes of phrases, and the mask of a phrase.

Each is a question in fixed words, and places are answered as one of a thousand steps over the width or the
height. Phrases are asked one by one, because the answer to a list of them leaves open which it means.

Source: Xiao et al. 2023; transformers Florence2Processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from backends.torch_cuda.vision import library
from backends.torch_cuda.vision.pictures import Pixels, as_image, box_around, box_within, from_polygons
from backends.torch_cuda.vision.registry import Looked, Source
from backends.torch_cuda.vision.writing import generate
from flux_core.looking import (
    BoxesFound,
    Caption,
    CaptionLength,
    FoundBox,
    Ground,
    Look,
    MaskFound,
    SegmentPhrase,
    TextFound,
)

MAX_TOKENS = 1024
NUM_BEAMS = 3  # as its authors run it

_CAPTIONS = {
    CaptionLength.SHORT: "<CAPTION>",
    CaptionLength.MEDIUM: "<DETAILED_CAPTION>",
    CaptionLength.LONG: "<MORE_DETAILED_CAPTION>",
}
_GROUND = "<CAPTION_TO_PHRASE_GROUNDING>"
_SEGMENT = "<REFERRING_EXPRESSION_SEGMENTATION>"
_PARSERS: dict[str, dict[str, object]] = {"pure_text": {}, "phrase_grounding": {}, "polygons": {}}


class Florence2:
    """A registry.Helper."""

    def __init__(self, source: Source, model: Any, processor: Any) -> None:
        self._source = source
        self._model = model
        self._processor = processor
        positions: int = model.config.text_config.max_position_embeddings
        self._max_tokens = min(MAX_TOKENS, positions - 1)

    def look(self, look: Look, images: Sequence[Pixels], on_progress: Callable[[float], None]) -> Looked:
        image = images[0]
        if isinstance(look, Caption):
            text = self._ask(_CAPTIONS[look.length], "", image, on_progress)
            return Looked((TextFound(model=self._source.model, text=text),))
        if isinstance(look, Ground):
            return self._ground(look.phrases, image, on_progress)
        if isinstance(look, SegmentPhrase):
            return self._segment(look.phrase, image, on_progress)
        raise AssertionError(f"the registry does not send {look.kind} here")

    def _ground(self, phrases: Sequence[str], image: Pixels, on_progress: Callable[[float], None]) -> Looked:
        height, width = image.shape[:2]
        boxes: list[FoundBox] = []
        for number, phrase in enumerate(phrases):

            def on_part(done: float, begin: int = number) -> None:
                on_progress((begin + done) / len(phrases))

            found = self._ask(_GROUND, phrase, image, on_part)
            within = (box_within(edges, width, height) for edges in found["bboxes"])
            boxes.extend(FoundBox(box=box, label=phrase) for box in within if box is not None)
        return Looked((BoxesFound(model=self._source.model, boxes=tuple(boxes)),))

    def _segment(self, phrase: str, image: Pixels, on_progress: Callable[[float], None]) -> Looked:
        height, width = image.shape[:2]
        found = self._ask(_SEGMENT, phrase, image, on_progress)
        polygons = [polygon for instance in found["polygons"] for polygon in instance]
        mask = from_polygons(polygons, width, height)
        finding = MaskFound(model=self._source.model, image=0, label=phrase, box=box_around(mask))
        return Looked((finding,), (mask,))

    def _ask(self, task: str, words: str, image: Pixels, on_progress: Callable[[float], None]) -> Any:
        """What the library reads out of the answer: a text, or boxes or polygons in pixels."""
        text = task + _plain(words)
        inputs = self._processor(text=text, images=as_image(image), return_tensors="pt")
        inputs = inputs.to(self._source.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        ids = generate(self._model, dict(inputs), self._max_tokens, on_progress, num_beams=NUM_BEAMS)
        written = self._processor.batch_decode(ids, skip_special_tokens=False)[0].replace("<pad>", "")
        height, width = image.shape[:2]
        return self._processor.post_process_generation(text=written, task=task, image_size=(width, height))[
            task
        ]


def load(source: Source) -> Florence2:
    """Reads a Florence-2."""
    tf = library.transformers()
    folder, title = source.folder, source.title
    tokenizer = library.load_processor(tf.AutoTokenizer, folder, title)
    pictures = library.load_processor(tf.CLIPImageProcessorPil, folder, title)
    settings = library.read_settings(folder, "processor_config.json", title)
    with library.explained(folder, title):
        processor = tf.Florence2Processor(
            image_processor=pictures,
            tokenizer=tokenizer,
            num_additional_image_tokens=settings.get("num_additional_image_tokens", 0),
            post_processor_config={**_PARSERS, **settings.get("post_processor_config", {})},
        )
    kind = tf.Florence2ForConditionalGeneration
    dtype = library.writing_dtype(source.device)
    return Florence2(source, library.load_model(kind, folder, title, source.device, dtype), processor)


def _plain(words: str) -> str:
    """A phrase without the brackets in which the model's own tokens stand."""
    return words.replace("<", " ").replace(">", " ")

"""LLaVA 1.5: an answer to a question about a picture.

The question stands in the words that its authors trained it with; how many tokens the picture takes follows
from the model's own configuration, so that folders without a processor_config.json work, too.

Source: Liu et al. 2023; the prompt of the published model's card.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from backends.torch_cuda.vision import library
from backends.torch_cuda.vision.pictures import Pixels, as_image
from backends.torch_cuda.vision.registry import Looked, Source
from backends.torch_cuda.vision.writing import answer, generate
from flux_core.looking import Describe, Look

DEFAULT_QUESTION = "Describe this picture in detail."


class Llava:
    """A registry.Helper."""

    def __init__(self, source: Source, model: Any, processor: Any) -> None:
        self._source = source
        self._model = model
        self._processor = processor

    def look(self, look: Look, images: Sequence[Pixels], on_progress: Callable[[float], None]) -> Looked:
        if not isinstance(look, Describe):
            raise AssertionError(f"the registry does not send {look.kind} here")
        image_token = self._processor.image_token
        question = (look.question.strip() or DEFAULT_QUESTION).replace(image_token, " ")
        text = f"USER: {image_token}\n{question} ASSISTANT:"
        inputs = self._processor(text=text, images=as_image(images[0]), return_tensors="pt")
        inputs = inputs.to(self._source.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        ids = generate(self._model, dict(inputs), look.max_tokens, on_progress)
        new = ids[0, inputs["input_ids"].shape[1] :]
        return Looked((answer(self._source.model, self._model, self._processor, new, look.max_tokens),))


def load(source: Source) -> Llava:
    """Reads a LLaVA."""
    tf = library.transformers()
    folder, title = source.folder, source.title
    tokenizer = library.load_processor(tf.AutoTokenizer, folder, title)
    pictures = library.load_processor(tf.CLIPImageProcessorPil, folder, title)
    dtype = library.writing_dtype(source.device)
    kind = tf.LlavaForConditionalGeneration
    model = library.load_model(kind, folder, title, source.device, dtype)
    with library.explained(folder, title):
        processor = tf.LlavaProcessor(
            image_processor=pictures,
            tokenizer=tokenizer,
            patch_size=model.config.vision_config.patch_size,
            vision_feature_select_strategy=model.config.vision_feature_select_strategy,
            num_additional_image_tokens=1,  # CLIP's class token
        )
    return Llava(source, model, processor)

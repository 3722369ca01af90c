"""CLIP: how alike pictures and texts are, and which pictures are alike.

Prompt, phrases and pictures each become a unit vector; a score is the cosine of two. The network's own
scale and softmax are left out, because they depend on what else is asked about.

Source: Radford et al. 2021; transformers CLIPModel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from backends.torch_cuda.vision import library
from backends.torch_cuda.vision.pictures import Pixels, as_image
from backends.torch_cuda.vision.registry import Looked, Source
from flux_core.errors import Internal
from flux_core.looking import EmbeddingFound, Look, PhraseScore, Score, ScoreFound
from flux_core.scoring import ranks, split_phrases


class Clip:
    """A registry.Helper."""

    def __init__(self, source: Source, model: Any, tokenizer: Any, processor: Any) -> None:
        self._source = source
        self._model = model
        self._tokenizer = tokenizer
        self._processor = processor
        self._length: int = model.config.text_config.max_position_embeddings

    def look(self, look: Look, images: Sequence[Pixels], on_progress: Callable[[float], None]) -> Looked:
        steps = len(images) + 1
        pictures: list[Tensor] = []
        for number, image in enumerate(images):
            pictures.append(self._picture(image))
            on_progress((number + 1) / steps)
        if isinstance(look, Score):
            return self._score(look, torch.cat(pictures))
        findings = [
            EmbeddingFound(model=self._source.model, picture=number, values=tuple(vector[0].tolist()))
            for number, vector in enumerate(pictures)
        ]
        return Looked(tuple(findings))

    def _score(self, look: Score, pictures: Tensor) -> Looked:
        phrases = look.phrases or split_phrases(look.prompt)
        texts, is_cut = self._texts([look.prompt, *phrases])
        cosines = (pictures @ texts.T).tolist()  # [pictures, 1 + phrases]
        places = ranks([row[0] for row in cosines])
        return Looked(
            tuple(
                ScoreFound(
                    model=self._source.model,
                    picture=number,
                    similarity=row[0],
                    rank=place,
                    phrases=tuple(
                        PhraseScore(phrase=phrase, similarity=value)
                        for phrase, value in zip(phrases, row[1:], strict=True)
                    ),
                    is_prompt_cut=is_cut,
                )
                for number, (row, place) in enumerate(zip(cosines, places, strict=True))
            )
        )

    def _picture(self, image: Pixels) -> Tensor:
        """[1, D] of length 1."""
        inputs = self._processor(images=as_image(image), return_tensors="pt")
        return _unit(self._model.get_image_features(pixel_values=inputs.pixel_values.to(self._source.device)))

    def _texts(self, texts: list[str]) -> tuple[Tensor, bool]:
        """[texts, D] of length 1, and whether the first one was longer than CLIP reads."""
        is_cut = len(self._tokenizer(texts[0]).input_ids) > self._length
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._length, return_tensors="pt"
        ).to(self._source.device)
        features = self._model.get_text_features(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        )
        return _unit(features), is_cut


def load(source: Source) -> Clip:
    """Reads a CLIP with both of its halves."""
    tf = library.transformers()
    folder, title = source.folder, source.title
    tokenizer = library.load_processor(tf.AutoTokenizer, folder, title)
    processor = library.load_processor(tf.CLIPImageProcessorPil, folder, title)
    model = library.load_model(tf.CLIPModel, folder, title, source.device, torch.float32)
    return Clip(source, model, tokenizer, processor)


def _unit(features: Any) -> Tensor:
    vectors = features if isinstance(features, Tensor) else features.pooler_output
    if not isinstance(vectors, Tensor):
        raise Internal("CLIP gave no vector.", "Report this with the version of transformers.")
    return vectors / vectors.norm(dim=-1, keepdim=True)

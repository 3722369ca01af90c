"""From prompts and pictures to be like to what the transformer reads as words.

Encoded prompts and pictures are remembered by what made them (encoders, text or picture, length, LoRAs), so
the next job with the same words loads no text encoder at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_core.catalog import ClipVisionConfig, SiglipConfig
from flux_core.conditioning.pixels import on_white
from flux_core.conditioning.tokenize import ClipTokenizer, T5Tokenizer, Tokenizers
from flux_core.errors import Corrupt
from flux_core.messages import Stage
from flux_core.models.t5 import relative_buckets
from flux_core.models.transformer import ImagePrompt
from flux_core.pipeline.job import Job
from flux_core.pipeline.workbench import Workbench
from flux_core.plan import Component, PartKey
from flux_core.request import PictureUse

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

CLIP_MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
CLIP_DEVIATION = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)


class Words:
    """Encodes for one engine.

    Args:
        bench: Its parts and its memory.
    """

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._tokenizers = Tokenizers()

    def is_known(self, job: Job, key: PartKey) -> bool:
        """Whether everything that a text encoder would do for a job is remembered."""
        if key.component is Component.CLIP:
            return all(self._bench.knows(self._clip_key(job, prompt)) for prompt in _clip_prompts(job))
        if key.component is Component.T5:
            return all(self._bench.knows(self._t5_key(job, prompt)) for prompt in _t5_prompts(job))
        return False

    def pooled(self, job: Job, prompt: str) -> Any:
        """CLIP's vector of a prompt, [1, D]."""
        return self._bench.remember(self._clip_key(job, prompt), lambda: self._encode_clip(job, prompt))

    def states(self, job: Job, prompt: str) -> Any:
        """T5's states of a prompt, [1, L, D]; zeros where T5 is left out."""
        if not job.request.is_clip_only:
            return self._bench.remember(self._t5_key(job, prompt), lambda: self._encode_t5(job, prompt))
        shape = 1, job.t5_tokens, job.spec.transformer.context_in_dim
        backend = self._bench.backend
        return backend.cast(backend.from_numpy(np.zeros(shape, np.float32)), job.precision)

    def redux_tokens(self, job: Job, use: PictureUse, rgba: Bytes) -> Any:
        """A picture as text tokens, [1, N, D]."""
        name = use.adapter or job.spec.redux
        stamps = tuple(
            job.companion(PartKey(each, name)).stamp for each in (Component.SIGLIP, Component.REDUX)
        )
        key = "redux", self._bench.parts.identity, stamps, use.image
        return self._bench.remember(key, lambda: self._see(job, name, rgba))

    def image_prompts(self, job: Job, use: PictureUse, rgba: Bytes) -> list[ImagePrompt]:
        """A picture as an IP-Adapter shows it to every double block."""
        config = job.companion(PartKey(Component.CLIP_VISION, use.adapter)).config
        assert isinstance(config, ClipVisionConfig)
        backend = self._bench.backend
        with (
            self._bench.part(job, Component.CLIP_VISION, use.adapter) as tower,
            job.report.stage(Stage.ENCODING),
        ):
            image = backend.from_numpy(clip_picture(rgba, config.image_px))
            vec = tower(backend.cast(image, job.precision))
            backend.evaluate(vec)
        with (
            self._bench.part(job, Component.IP_ADAPTER, use.adapter) as adapter,
            job.report.stage(Stage.ENCODING),
        ):
            prompts = adapter(vec, use.strength)
            backend.evaluate(*(array for prompt in prompts for array in (prompt.k, prompt.v)))
        return prompts

    def _see(self, job: Job, name: str, rgba: Bytes) -> Any:
        backend = self._bench.backend
        config = job.companion(PartKey(Component.SIGLIP, name)).config
        assert isinstance(config, SiglipConfig)
        with self._bench.part(job, Component.SIGLIP, name) as tower, job.report.stage(Stage.ENCODING):
            image = backend.from_numpy(siglip_picture(rgba, config.image_px))
            states = tower(backend.cast(image, job.precision))
            backend.evaluate(states)
        with self._bench.part(job, Component.REDUX, name) as redux, job.report.stage(Stage.ENCODING):
            tokens = redux(states)
            backend.evaluate(tokens)
        return tokens

    def _clip_key(self, job: Job, prompt: str) -> Any:
        return "clip", self._bench.parts.identity, prompt, _lora_key(job, Component.CLIP)

    def _t5_key(self, job: Job, prompt: str) -> Any:
        return "t5", self._bench.parts.identity, prompt, job.t5_tokens, _lora_key(job, Component.T5)

    def _encode_clip(self, job: Job, prompt: str) -> Any:
        backend, spec = self._bench.backend, job.spec
        with self._bench.part(job, Component.CLIP) as clip, job.report.stage(Stage.ENCODING):
            folder = job.folder / spec.files.clip_tokenizer
            tokenizer = self._tokenizers.get(ClipTokenizer, folder, spec.clip_tokens)
            _check_vocabulary(tokenizer.vocab_size, spec.clip.vocab_size, folder)
            ids, end = tokenizer(prompt)
            positions = backend.from_numpy(np.arange(spec.clip_tokens, dtype=np.int32))
            encode = self._bench.ready(job, Component.CLIP, clip.__call__)
            vec = encode(backend.from_numpy(ids), positions, backend.from_numpy(end))
            backend.evaluate(vec)
            return vec

    def _encode_t5(self, job: Job, prompt: str) -> Any:
        backend, spec = self._bench.backend, job.spec
        with self._bench.part(job, Component.T5) as t5, job.report.stage(Stage.ENCODING):
            folder = job.folder / spec.files.t5_tokenizer
            tokenizer = self._tokenizers.get(T5Tokenizer, folder, job.t5_tokens)
            _check_vocabulary(tokenizer.vocab_size, spec.t5.vocab_size, folder)
            ids = backend.from_numpy(tokenizer(prompt))
            encode = self._bench.ready(job, Component.T5, t5.__call__)
            txt = encode(ids, backend.from_numpy(relative_buckets(job.t5_tokens, spec.t5)))
            backend.evaluate(txt)
            return txt


def clip_prompt(job: Job) -> str:
    """What CLIP reads for the whole picture."""
    return job.request.prompt if job.request.clip_prompt is None else job.request.clip_prompt


def siglip_picture(rgba: Bytes, side_px: int) -> Floats:
    """[H, W, 4] -> [1, side, side, 3] in [-1, 1]: straight to a square, bicubic, as SigLIP was trained."""
    image = on_white(rgba).resize((side_px, side_px), Image.Resampling.BICUBIC)
    return (np.asarray(image, np.float32) / 127.5 - 1.0)[None]


def clip_picture(rgba: Bytes, side_px: int) -> Floats:
    """[H, W, 4] -> [1, side, side, 3]: the short side to `side`, the middle square, CLIP's constants."""
    image = on_white(rgba)
    factor = side_px / min(image.size)
    width, height = (max(side_px, int(side * factor)) for side in image.size)
    left, top = (width - side_px) // 2, (height - side_px) // 2
    # Only the square is resampled: of a picture one pixel high the whole would be gigabytes.
    across, down = image.width / width, image.height / height
    box = left * across, top * down, (left + side_px) * across, (top + side_px) * down
    middle = image.resize((side_px, side_px), Image.Resampling.BICUBIC, box=box)
    square = np.asarray(middle, np.float32) / 255.0
    return ((square - CLIP_MEAN) / CLIP_DEVIATION)[None]


def _clip_prompts(job: Job) -> set[str]:
    prompts = {clip_prompt(job)}
    return prompts | {job.request.negative_prompt} if job.contrast != 1.0 else prompts


def _t5_prompts(job: Job) -> set[str]:
    prompts = {job.request.prompt, *(region.prompt for region in job.request.regions)}
    return prompts | {job.request.negative_prompt} if job.contrast != 1.0 else prompts


def _lora_key(job: Job, component: Component) -> tuple[tuple[str, float], ...]:
    """Which LoRAs hang on a text encoder, with which strengths."""
    return tuple((lora.key, lora.strength) for lora in job.loras if lora.touches(component))


def _check_vocabulary(tokens: int, rows: int, folder: Path) -> None:
    """Raises if a tokenizer knows tokens that its encoder has no embedding for."""
    if tokens > rows:
        raise Corrupt(
            f"The tokenizer in {folder} knows {tokens} tokens, and its text encoder only {rows}.",
            "Get the model's own tokenizer files.",
        )

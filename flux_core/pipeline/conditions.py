"""What the transformer is told at every step: words, channels, references, what steers it, and what stays.

Everything here is constant over the walk and made once a job. Each condition has one place: channels beside
the latents (Fill, Canny, Depth), tokens behind them (Kontext), tokens among the words (Redux), residuals
(ControlNets), attention beside the text's (IP-Adapters), a bias on attention (regions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.catalog import ControlNetConfig
from flux_core.companions import UNION_MODES
from flux_core.conditioning import fill, pixels, regions
from flux_core.conditioning.inputs import Source, make_source
from flux_core.conditioning.packing import pack, position_ids, rotary_table
from flux_core.conditioning.regions import Segment
from flux_core.imaging import tiles
from flux_core.messages import Stage
from flux_core.models.autoencoder import SCALE_FACTOR
from flux_core.models.transformer import ImagePrompt
from flux_core.pipeline.helpers import Helpers
from flux_core.pipeline.job import TILE_PX, Job, Span
from flux_core.pipeline.words import Words, clip_prompt
from flux_core.pipeline.workbench import Workbench
from flux_core.plan import Component, PartKey
from flux_core.request import ControlKind, ControlUse, PictureUse

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture as an IP-Adapter shows it, and when."""

    prompts: Sequence[ImagePrompt]
    span: Span


@dataclass(frozen=True, slots=True)
class Branch:
    """One evaluation's words, as device arrays.

    Attributes:
        txt: [1, L_txt, D] states of the prompt, of pictures to be like, then of regions.
        plain_tokens: How many of them a ControlNet reads: all but the regions.
        vec: [1, D] pooled state.
        bias: [1, 1, L, L], or None.
        shown: What IP-Adapters show.
    """

    txt: Any
    plain_tokens: int
    vec: Any
    bias: Any | None
    shown: tuple[Shown, ...]


@dataclass(frozen=True, slots=True)
class Steering:
    """A control map for one ControlNet.

    Attributes:
        name: Of the ControlNet.
        condition: Its map as a device array: packed latents [1, L, 64], or pixels [1, H, W, 3].
        is_pixels: Which of both.
        mode: [1], the row of a union's table, or None.
        strength: How strictly it is followed.
        span: When it is heard.
    """

    name: str
    condition: Any
    is_pixels: bool
    mode: Any | None
    strength: float
    span: Span


@dataclass(frozen=True, slots=True)
class Conditions:
    """All of it.

    Attributes:
        words: Of the prompt.
        no_words: Of the negative prompt, where a step takes two evaluations; else None.
        channels: [1, L, C], what the model's own inputs see beside the latents, or None.
        references: [1, L_ref, 64], tokens behind the picture's, or None.
        reference_sizes: Height and width of each reference, in latents.
        steering: What ControlNets follow.
        start: [1, L, 64] float32 tokens that the walk starts from, or None.
        freedom: [1, L, 64] on the host: how free each value of the walk is, or None.
    """

    words: Branch
    no_words: Branch | None
    channels: Any | None
    references: Any | None
    reference_sizes: tuple[tuple[int, int], ...]
    steering: tuple[Steering, ...]
    start: Any | None
    freedom: Floats | None


class ConditionMaker:
    """Makes the conditions of jobs for one engine.

    Args:
        bench: Its parts.
        words: What encodes words.
        helpers: What makes maps and enlarges.
    """

    def __init__(self, bench: Workbench, words: Words, helpers: Helpers) -> None:
        self._bench = bench
        self._words = words
        self._helpers = helpers

    def make(self, job: Job) -> Conditions:
        """Encodes everything that a job tells the model."""
        words = self._branch(job)
        no_words = self._negative(job) if job.contrast != 1.0 else None
        maps = self._maps(job)
        source = self._source(job)
        channels = self._channels(job, source, maps)
        references, sizes = self._references(job)
        steering = tuple(self._steering(job, use, rgba) for use, rgba in maps if use is not job.own_control)
        start, freedom = self._start(job, source)
        return Conditions(words, no_words, channels, references, sizes, steering, start, freedom)

    # Words

    def _branch(self, job: Job) -> Branch:
        request, words = job.request, self._words
        vec = words.pooled(job, clip_prompt(job))
        states = [words.states(job, request.prompt)]
        segments = [Segment(job.t5_tokens)]
        shown: list[Shown] = []
        for use, rgba in zip(request.pictures, job.inputs.pictures, strict=True):
            if use.strength == 0.0:
                continue
            if self._is_ip_adapter(job, use):
                shown.append(Shown(words.image_prompts(job, use, rgba), Span(use.start, use.end)))
            else:
                states.append(words.redux_tokens(job, use, rgba))
                segments.append(Segment(int(states[-1].shape[1]), use.strength))
        plain_tokens = sum(segment.length for segment in segments)
        for region, grid in zip(request.regions, job.inputs.regions, strict=True):
            states.append(words.states(job, region.prompt))
            cover = regions.token_cover(grid)
            segments.append(Segment(job.t5_tokens, region.strength, cover))
        others = sum(height * width // 4 for height, width in _reference_sizes(job))
        bias = regions.attention_bias(segments, job.seen_tokens, others, request.region_base)
        backend = self._bench.backend
        txt = states[0] if len(states) == 1 else backend.ops.concat(states, axis=1)
        # In the model's own precision now, or every attention would make its own copy.
        on_device = None if bias is None else backend.cast(backend.from_numpy(bias), job.precision)
        return Branch(txt, plain_tokens, vec, on_device, tuple(shown))

    def _negative(self, job: Job) -> Branch:
        """The negative words, and to IP-Adapters a black picture: what diffusers and XLabs contrast with."""
        request, words = job.request, self._words
        black = np.zeros((request.height_px, request.width_px, 4), np.uint8)
        black[..., 3] = 255
        shown = tuple(
            Shown(words.image_prompts(job, use, black), Span(use.start, use.end))
            for use in request.pictures
            if use.strength != 0.0 and self._is_ip_adapter(job, use)
        )
        txt = words.states(job, request.negative_prompt)
        return Branch(txt, job.t5_tokens, words.pooled(job, request.negative_prompt), None, shown)

    @staticmethod
    def _is_ip_adapter(job: Job, use: PictureUse) -> bool:
        return PartKey(Component.IP_ADAPTER, use.adapter) in job.plan.keys

    # Pictures

    def _source(self, job: Job) -> Source | None:
        """What the walk starts from, enlarged first where that is the task."""
        small, request = job.inputs.small, job.request
        if small is None:
            return job.inputs.source
        if request.upscaler:
            with job.report.stage(Stage.ENCODING):
                small = self._helpers.enlarge(small, request.upscaler, job.report)
        return make_source(pixels.resized(small, request.width_px, request.height_px))

    def _maps(self, job: Job) -> list[tuple[ControlUse, Floats]]:
        """Each control's map [1, H', W', 3] in [-1, 1], made where the request leaves that to us."""
        made: list[tuple[ControlUse, Floats]] = []
        for control in job.inputs.controls:
            rgba = control.rgba
            if not control.use.is_map:
                with job.report.stage(Stage.ENCODING):
                    rgba = self._make_map(job, control.use.kind, rgba)
            made.append((control.use, pixels.image_to_model(rgba)))
        return made

    def _make_map(self, job: Job, kind: ControlKind, rgba: Bytes) -> Bytes:
        return self._helpers.control_map(kind, rgba, job.report)

    def _start(self, job: Job, source: Source | None) -> tuple[Any | None, Floats | None]:
        """The source picture as tokens, and how free each of their values is; both [1, L, 64]."""
        if source is None:
            return None, None
        backend = self._bench.backend
        tokens = backend.to_numpy(self._encoded(job, source.image))
        start = backend.from_numpy(tokens)
        if source.freedom is None or job.spec.is_fill:  # a Fill model was taught what to keep
            return start, None
        channels = job.spec.autoencoder.latent_channels
        grid = backend.from_numpy(source.freedom.repeat(channels, axis=-1))
        freedom = backend.to_numpy(pack(backend.ops, grid))
        reach = 1.0 - job.first_step / job.num_steps  # the strength that the walk really has
        return start, freedom * np.float32(reach)

    def _channels(self, job: Job, source: Source | None, maps: list[tuple[ControlUse, Floats]]) -> Any | None:
        """What the model's own inputs see beside its latents, in the model's precision."""
        backend = self._bench.backend
        if job.spec.is_fill and source is not None and source.mask is not None:
            kept = self._encoded(job, fill.without_masked(source.image, source.mask))
            mask = backend.cast(backend.from_numpy(fill.mask_tokens(source.mask)), job.precision)
            return backend.ops.concat([kept, mask], axis=2)
        for use, image in maps:
            if use is job.own_control:
                return self._encoded(job, image)
        return None

    def _references(self, job: Job) -> tuple[Any | None, tuple[tuple[int, int], ...]]:
        """Every reference picture as tokens, one behind the other."""
        tokens = [self._encoded(job, image) for image in job.inputs.references]
        if not tokens:
            return None, ()
        return self._bench.backend.ops.concat(tokens, axis=1), _reference_sizes(job)

    def _steering(self, job: Job, use: ControlUse, image: Floats) -> Steering:
        backend = self._bench.backend
        config = job.companion(PartKey(Component.CONTROLNET, use.model)).config
        assert isinstance(config, ControlNetConfig)
        if config.is_pixel_hint:
            condition = backend.cast(backend.from_numpy(image), job.precision)
        else:
            condition = self._encoded(job, image)
        mode = backend.from_numpy(np.array([UNION_MODES[use.kind]], np.int32)) if config.num_modes else None
        usual = job.usual_strength(use)
        strength = usual if use.strength is None else use.strength
        span = Span(use.start, use.end)
        return Steering(use.model, condition, config.is_pixel_hint, mode, strength, span)

    def _encoded(self, job: Job, image: Floats) -> Any:
        """[1, H', W', 3] in [-1, 1] -> packed latents [1, L, 64] in the model's precision."""
        backend = self._bench.backend
        with self._bench.part(job, Component.VAE_ENCODER) as encoder, job.report.stage(Stage.ENCODING):
            latents = self._latents(job, encoder, image)
            tokens = pack(backend.ops, latents)
            backend.evaluate(tokens)
        return tokens

    def _latents(self, job: Job, encoder: Any, image: Floats) -> Any:
        """[1, H', W', 3] -> [1, h, w, C]; a large picture tile by tile."""
        backend = self._bench.backend

        def encode(part: Floats) -> Any:
            return encoder(backend.cast(backend.from_numpy(part), job.precision))

        if not job.is_tiled:
            return encode(image)
        window, overlap = (SCALE_FACTOR * side for side in tiles.autoencoder_window(TILE_PX))
        latents = tiles.tiled_apply(
            lambda part: backend.to_numpy(encode(part)),
            image,
            window,
            overlap,
            Fraction(1, SCALE_FACTOR),
            job.check_tile,
        )
        return backend.cast(backend.from_numpy(latents), job.precision)


def rotary(
    job: Job, text_tokens: int, size: tuple[int, int], references: Sequence[tuple[int, int]]
) -> Floats:
    """The rotary table of text, a picture (or window) of `size` in latents, and references."""
    sizes = job.spec.transformer
    return rotary_table(position_ids(text_tokens, *size, references), sizes.axes_dim, sizes.theta)


def _reference_sizes(job: Job) -> tuple[tuple[int, int], ...]:
    return tuple(
        (image.shape[1] // SCALE_FACTOR, image.shape[2] // SCALE_FACTOR) for image in job.inputs.references
    )

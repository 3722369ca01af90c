"""A request with everything it leaves open filled in: which files, which precision, how many steps.

Whatever can be wrong with a request is found here, before a weight is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flux_core import catalog
from flux_core.catalog import PARTS, ModelSpec, SiglipConfig
from flux_core.companions import Companion, find_companions, is_lora
from flux_core.conditioning import pixels
from flux_core.conditioning.inputs import Inputs, read_inputs
from flux_core.conditioning.regions import MAX_TOKENS
from flux_core.errors import Corrupt, Internal, ModelMissing, RequestInvalid
from flux_core.models.autoencoder import SCALE_FACTOR
from flux_core.pipeline.obeyed import check_obeyed, guidance_warning
from flux_core.plan import Component, PartKey, Plan, make_plan
from flux_core.reporting import Report
from flux_core.request import SIZE_MULTIPLE_PX, ControlUse, GenerationRequest, Precision, StepCache, Task
from flux_core.sampling.schedule import sigmas, start_step
from flux_core.sampling.step_cache import is_worth_it
from flux_core.weights.lora.library import ChosenLora, choose_control_lora, choose_loras, choose_own_lora

_T5_PARTS = frozenset({"t5", "t5_tokenizer"})
_BYTES_PER_VALUE = {Precision.FP32: 4, Precision.BF16: 2, Precision.FP8: 2}
_SEEDS = 2**63

_STREAMS = 13
"""Arrays as wide as the transformer that a block holds at once: both streams, queries, keys, values, sums."""

_SHARE_BESIDE_CONTROLNETS = 4
"""One part in so many of the transformer has room beside ControlNets; the others may come and go."""

_SEEN_TOKENS = 729
"""Of a picture among the words, at most."""

_WORKSPACE_BYTES = 2**29
"""What libraries take for themselves, what decoding of quantised weights needs for a moment, and gaps."""

WHOLE_PX = 2048 * 2048
"""Pixels up to which the autoencoder sees a picture whole; its activations take about 1 kB each."""

TILE_PX = 1024
"""Side of its tiles beyond that."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the steps that are walked, as shares of them.

    A job that starts from a picture walks only the last steps of a run, and shares are of those, so that what
    ends at 0.5 is heard in half of them, whatever the strength. Source: diffusers' controlnet_keep.
    """

    start: float
    end: float

    def holds(self, step: int, num_steps: int) -> bool:
        """Whether a step (an index) lies in it as a whole."""
        return step / num_steps >= self.start and (step + 1) / num_steps <= self.end

    def is_empty(self, num_steps: int) -> bool:
        """Whether no step lies in it as a whole."""
        return not any(self.holds(step, num_steps) for step in range(num_steps))


@dataclass(frozen=True, slots=True)
class Job:
    """A request, ready to be carried out.

    Attributes:
        request: As it came, but without T5 where that is not on this machine.
        spec: The model's row, with where its files are.
        folder: The model's own folder.
        precision: Never AUTO, and FP8 only where the device computes in it.
        plan: The parts it needs.
        inputs: Its pictures.
        own_control: What goes through the model's own input channels, if anything does.
        loras: What hangs on the model, the control LoRA last.
        companions: The parts beside the model.
        warnings: Sentences for the person.
        report: Speaks for it.
    """

    request: GenerationRequest
    spec: ModelSpec
    folder: Path
    precision: Precision
    plan: Plan
    inputs: Inputs
    own_control: ControlUse | None
    loras: tuple[ChosenLora, ...]
    companions: tuple[Companion, ...]
    warnings: tuple[str, ...]
    report: Report

    @property
    def resident_bytes(self) -> int:
        """Weights in memory when every part is kept for the next job, with the LoRAs on them."""
        return self.plan.resident_bytes + sum(lora.size_bytes for lora in self.loras)

    def beside_bytes(self, component: Component) -> int:
        """What must stay free on the device beside a part's weights, about.

        That is what the transformer computes and its LoRAs, which is more than other parts need, and beside a
        ControlNet, which is loaded before it and stays, a share of the transformer.
        """
        pictures = sum(image.shape[1] * image.shape[2] for image in self.inputs.references)
        tokens = self.t5_tokens * (1 + len(self.request.regions)) + self.seen_tokens
        tokens += pictures // SIZE_MULTIPLE_PX**2 + _SEEN_TOKENS * len(self.request.pictures)
        loras = sum(lora.size_bytes for lora in self.loras)
        needed = working_bytes(self.spec, tokens, self.precision) + loras
        if component is not Component.CONTROLNET:
            return needed
        own = sum(step.weight_bytes for step in self.plan.steps if step.component is Component.TRANSFORMER)
        return needed + own // _SHARE_BESIDE_CONTROLNETS

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width in latents, both even."""
        height, width = pixels.padded_px(self.request.height_px), pixels.padded_px(self.request.width_px)
        return height // SCALE_FACTOR, width // SCALE_FACTOR

    @property
    def seen_size(self) -> tuple[int, int]:
        """Height and width in latents of what the transformer sees at once: the picture, or a window."""
        height, width = self.latent_size
        if not self.is_windowed:
            return height, width
        side = self.spec.working_side_px // SCALE_FACTOR
        return min(height, side), min(width, side)

    @property
    def seen_tokens(self) -> int:
        """Image tokens that the transformer sees at once."""
        height, width = self.seen_size
        return height * width // 4

    @property
    def num_steps(self) -> int:
        """Steps of a whole run; a job with a strength below 1 walks only the last of them."""
        return self.request.num_steps or self.spec.num_steps

    @property
    def t5_tokens(self) -> int:
        return self.request.t5_tokens or self.spec.t5_tokens

    @property
    def guidance(self) -> float:
        """How strongly the picture follows the prompt."""
        return self.spec.guidance if self.request.guidance is None else self.request.guidance

    @property
    def contrast(self) -> float:
        """Weight of the difference between with and without the prompt; 1 takes one evaluation a step.

        Models that were not distilled need it for their guidance (Ho & Salimans 2022); others only when
        there are negative words, beside the guidance that was distilled into them.
        """
        if self.request.true_guidance != 1.0:
            return self.request.true_guidance
        return 1.0 if self.spec.is_guidance_distilled else self.guidance

    @property
    def has_start(self) -> bool:
        """Whether the walk starts from a picture."""
        return self.inputs.source is not None or self.inputs.small is not None

    @property
    def first_step(self) -> int:
        return start_step(self.num_steps, self.request.strength) if self.has_start else 0

    @property
    def levels(self) -> list[float]:
        """The noise levels of a whole run, falling from 1 to 0.

        A job of windows takes those of one window, because each is a picture of that size to the model.
        """
        return [float(level) for level in sigmas(self.num_steps, self.seen_tokens, self.spec.has_time_shift)]

    @property
    def is_windowed(self) -> bool:
        """Whether the transformer sees the picture window by window."""
        return self.request.task is Task.UPSCALE

    @property
    def is_tiled(self) -> bool:
        """Whether the autoencoder sees the picture tile by tile."""
        return self.request.width_px * self.request.height_px > WHOLE_PX

    def check_tile(self, done: int, total: int) -> None:
        """Asks for a cancel between tiles."""
        self.report.check()

    @property
    def has_step_cache(self) -> bool:
        """Whether steps may take over what earlier ones computed."""
        steps = self.num_steps - self.first_step
        return self.request.step_cache is not StepCache.OFF and is_worth_it(steps, self.spec)

    def seed(self, index: int) -> int:
        """The seed of picture number `index`; it stays a seed that a request may have."""
        return (self.request.seed + index) % _SEEDS

    @staticmethod
    def usual_strength(use: ControlUse) -> float:
        """The strength that a control's authors use."""
        row = PARTS.get(use.model)
        return row.strength if row is not None else 1.0

    def companion(self, key: PartKey) -> Companion:
        return next(companion for companion in self.companions if companion.key == key)

    def check_finite(self, values: Floats, when: str) -> None:
        """Raises if the model has given values that are not numbers."""
        if np.isfinite(values).all():
            return
        message = f"{self.spec.title} gave values that are not numbers {when}."
        if self.loras:
            raise RequestInvalid(message, "Leave its LoRAs out, or lower their strengths.")
        if self.precision is Precision.FP32:
            raise Corrupt(message, "Its files are probably damaged: get them again.")
        raise Internal(
            message, "Try again with precision fp32; if that fails too, get the model's files again."
        )


def working_bytes(spec: ModelSpec, tokens: int, precision: Precision) -> int:
    """What the transformer needs beside its weights for so many tokens of text and pictures, about."""
    config = spec.transformer
    values = tokens * (_STREAMS * config.hidden_size + 2 * config.mlp_hidden)
    return values * _BYTES_PER_VALUE[precision] + _WORKSPACE_BYTES


def prepare(
    request: GenerationRequest,
    read_blob: Callable[[str], bytes],
    models_dirs: tuple[Path, ...],
    auto_precision: Precision,
    report: Report,
    has_fp8: bool = False,
) -> Job:
    """Fills in what a request leaves open, and checks all of it.

    Args:
        request: As it came.
        read_blob: sha256 -> bytes of a picture.
        models_dirs: Where models are looked for, first match wins.
        auto_precision: What Precision.AUTO means on the device.
        report: Speaks for the job.
        has_fp8: Whether the device computes in Precision.FP8.

    Raises:
        RequestInvalid: It cannot be carried out with this model.
        ModelMissing: Something that it needs is not on this machine.
        Corrupt: A file or a picture is damaged.
        Cancelled: The job is no longer wanted.
    """
    report.check()
    spec = catalog.find(request.model)
    catalog.check_task(spec, request.task)
    _check_words(request, spec)
    request = _followed(request, spec)
    followers = [use for use in request.controls if use.model and is_lora(use, models_dirs)]
    _check_controls(request, spec, len(followers))
    loras = choose_own_lora(spec, models_dirs) + choose_loras(request.loras, spec, models_dirs)
    control_loras = tuple(choose_control_lora(use, spec, models_dirs) for use in followers)
    if {lora.key for lora in loras} & {lora.key for lora in control_loras}:
        raise RequestInvalid(
            f"{control_loras[0].name} is named as a LoRA and as a control.", "Name it as the control alone."
        )
    loras += control_loras
    companions = find_companions(request, spec, models_dirs)
    check_obeyed(request, followers, [companion.key for companion in companions])
    inputs = read_inputs(request, spec, read_blob)
    spec, folder, warnings = _locate(request, spec, models_dirs)
    if warnings:
        request = request.model_copy(update={"is_clip_only": True})
    warnings += filter(None, [guidance_warning(request, spec)])
    warnings += [lora.warning for lora in loras if lora.warning is not None]
    precision = request.precision
    if precision is Precision.FP8 and not has_fp8:
        warnings.append(f"This device does not multiply eight-bit floats: it computed in {auto_precision}.")
    if precision is Precision.AUTO or (precision is Precision.FP8 and not has_fp8):
        precision = auto_precision
    found = {companion.key: companion.config for companion in companions}
    plan = make_plan(request, spec, _BYTES_PER_VALUE[precision], found)
    own = next((use for use in request.controls if not use.model or use in followers), None)
    job = Job(request, spec, folder, precision, plan, inputs, own, loras, companions, (), report)
    if request.step_cache is not StepCache.OFF and not job.has_step_cache:
        warnings.append(f"Step caching was left off: {job.num_steps - job.first_step} steps are too few.")
    warnings += _unheard(job)
    _check_bias(job)
    return replace(job, warnings=tuple(warnings))


def _followed(request: GenerationRequest, spec: ModelSpec) -> GenerationRequest:
    """The request with the model's own control LoRAs named for the maps that name nobody."""
    if spec.control_kind is not None or not spec.control_loras:
        return request
    controls = [
        use if use.model else use.model_copy(update={"model": catalog.follower(spec, use.kind)})
        for use in request.controls
    ]
    return request.model_copy(update={"controls": controls})


def _check_bias(job: Job) -> None:
    """Refuses regions, and pictures that count more or less, where who hears whom would fill the memory."""
    request = job.request
    eyes = {each.key.name: each.config for each in job.companions if each.key.component is Component.SIGLIP}
    seen = [(use, eyes.get(use.adapter or job.spec.redux)) for use in request.pictures if use.strength]
    redux = [(use, config.num_patches) for use, config in seen if isinstance(config, SiglipConfig)]
    if not request.regions and all(use.strength == 1.0 for use, _ in redux):
        return
    words = job.t5_tokens * (1 + len(request.regions)) + sum(count for _, count in redux)
    others = sum(image.shape[1] * image.shape[2] // SIZE_MULTIPLE_PX**2 for image in job.inputs.references)
    tokens = words + job.seen_tokens + others
    if tokens > MAX_TOKENS:
        what = "Regions" if request.regions else "Pictures that count more or less than others"
        raise RequestInvalid(
            f"{what} take a table of {tokens} x {tokens} numbers at {request.width_px} x {request.height_px} "
            "pixels, which is too large.",
            "Paint it smaller and enlarge it then, or leave them out.",
        )


def _unheard(job: Job) -> list[str]:
    """Tells of what begins and ends within one step, which is then heard in none."""
    steps = job.num_steps - job.first_step
    uses = [*job.request.controls, *job.request.pictures]
    return [
        f"The {'control' if isinstance(use, ControlUse) else 'picture'} from {use.start:g} to {use.end:g} "
        f"was not heard: no step of {steps} lies in that part."
        for use in uses
        if Span(use.start, use.end).is_empty(steps)
    ]


def _locate(
    request: GenerationRequest, spec: ModelSpec, models_dirs: tuple[Path, ...]
) -> tuple[ModelSpec, Path, list[str]]:
    """Where the model is; without T5 if everything else is here, which the person is told."""
    if request.is_clip_only:
        return *catalog.locate(spec, models_dirs, _T5_PARTS), []
    try:
        return *catalog.locate(spec, models_dirs), []
    except ModelMissing:
        missing = catalog.missing_parts(spec, models_dirs)
        if request.regions or "t5" not in missing or not missing <= _T5_PARTS:
            raise
    located, folder = catalog.locate(spec, models_dirs, _T5_PARTS)
    sentence = "T5 is not on this machine, so only CLIP has read the prompt and it is followed roughly"
    return located, folder, [f"{sentence}: run `flowbrush models get t5-xxl`."]


def _check_words(request: GenerationRequest, spec: ModelSpec) -> None:
    if request.t5_tokens is not None and spec.t5_tokens < 256:
        raise RequestInvalid(
            f"{spec.title} was made for prompts of {spec.t5_tokens} tokens.",
            "Leave the length of prompts out.",
        )
    if request.regions and request.is_clip_only:
        raise RequestInvalid("Regions need T5, which this request leaves out.", "Let T5 read the prompts.")
    if request.regions and request.task is Task.UPSCALE:
        raise RequestInvalid("An upscale cannot have regions.", "Leave the regions out.")


def _check_controls(request: GenerationRequest, spec: ModelSpec, num_loras: int) -> None:
    """Whether the model can follow what it is asked to follow itself, or by a control LoRA."""
    own = [use for use in request.controls if not use.model]
    if own and spec.control_kind is None:
        raise RequestInvalid(
            f"{spec.title} follows no {own[0].kind.value} map by itself.",
            "Name a ControlNet or a control LoRA, or choose FLUX.1 Canny or Depth.",
        )
    if own and own[0].kind is not spec.control_kind:
        raise RequestInvalid(
            f"{spec.title} does not follow {own[0].kind.value} maps.", f"Give it a {spec.control_kind} map."
        )
    if spec.control_kind is not None and not own:
        raise RequestInvalid(
            f"{spec.title} needs a {spec.control_kind.value} map.", "Give it one, or choose another model."
        )
    if num_loras > 1 or (num_loras and spec.transformer.in_channels != spec.transformer.out_channels):
        raise RequestInvalid(
            "Only one map can go through the model's own inputs.", "Use one control LoRA, on FLUX.1 dev."
        )
    if num_loras and request.task is Task.EDIT:
        raise RequestInvalid(
            "A control LoRA cannot follow a map in an edit, whose references it was not made for.",
            "Name a ControlNet instead, or choose another task.",
        )

"""A request, carried out: text, source picture, noise, the walk, and pixels, on any backend.

The engine is the same for every device; a backend gives it arrays, operations and weights. Parts stay
loaded between jobs when they all fit into memory, else each one is freed as soon as its stage is over.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flux_core import catalog, machine
from flux_core.catalog import ModelSpec
from flux_core.conditioning import pixels
from flux_core.conditioning.packing import pack, position_ids, rotary_table, unpack
from flux_core.conditioning.source import Source, read_source
from flux_core.conditioning.tokenize import ClipTokenizer, T5Tokenizer
from flux_core.engine import EngineImage, EngineResult
from flux_core.errors import Cancelled, Corrupt, Internal, OutOfMemory, RequestInvalid
from flux_core.imaging import codec
from flux_core.messages import Device, Preview, Progress, Stage
from flux_core.models.autoencoder import SCALE_FACTOR
from flux_core.models.t5 import relative_buckets
from flux_core.ops import Backend
from flux_core.parts import Identity, Parts
from flux_core.plan import Component, Plan, make_plan
from flux_core.reporting import Report
from flux_core.request import GenerationRequest, Precision
from flux_core.sampling import preview
from flux_core.sampling.known import KnownRegion, noised
from flux_core.sampling.noise import seeded_noise
from flux_core.sampling.schedule import sigmas, start_step
from flux_core.sampling.solvers import walk
from flux_core.sampling.steps import Velocity
from flux_core.weights.lora.library import ChosenLora, choose_loras

MAX_CACHED_TEXTS = 32
_SEEDS = 2**63
_BYTES_PER_VALUE = {Precision.FP32: 4, Precision.BF16: 2}

Floats = NDArray[np.float32]
TextKey = tuple[Identity, str, tuple[tuple[str, float], ...]]
"""Which encoders, which prompt, and which LoRAs with which strengths on the encoders."""


class Text(NamedTuple):
    """An encoded prompt: T5 states [1, L_txt, D] and CLIP's pooled state [1, D]."""

    txt: Any
    vec: Any


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the model is told at every step, as device arrays.

    Attributes:
        text: Of the prompt.
        no_text: Of the empty prompt, where guidance takes a second evaluation a step; else None.
        picture: [1, L, 64] float32 tokens of the source picture, or None.
        freedom: [1, L, 64] on the host, or None.
    """

    text: Text
    no_text: Text | None
    picture: Any | None
    freedom: Floats | None


@dataclass(frozen=True, slots=True)
class Job:
    """A request with everything it leaves open filled in."""

    request: GenerationRequest
    spec: ModelSpec
    folder: Path
    precision: Precision
    plan: Plan
    source: Source | None
    loras: tuple[ChosenLora, ...]
    report: Report

    @property
    def resident_bytes(self) -> int:
        """Weights in memory when every part is kept for the next job, with the LoRAs on them."""
        return self.plan.resident_bytes + sum(lora.size_bytes for lora in self.loras)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the person."""
        return tuple(lora.warning for lora in self.loras if lora.warning is not None)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width in latents, both even."""
        height, width = pixels.padded_px(self.request.height_px), pixels.padded_px(self.request.width_px)
        return height // SCALE_FACTOR, width // SCALE_FACTOR

    @property
    def num_steps(self) -> int:
        """Steps of a whole run; a job with a strength below 1 walks only the last of them."""
        return self.request.num_steps or self.spec.num_steps

    @property
    def guidance(self) -> float:
        """How strongly the picture follows the prompt."""
        return self.spec.guidance if self.request.guidance is None else self.request.guidance

    @property
    def is_evaluated_twice(self) -> bool:
        """Whether a step takes the difference between with and without the prompt, as teachers do."""
        return not self.spec.is_guidance_distilled and self.guidance != 1.0

    @property
    def first_step(self) -> int:
        return 0 if self.source is None else start_step(self.num_steps, self.request.strength)


class FluxEngine:
    """flux_core.engine.Engine on a backend. One thread owns it.

    Args:
        name: As the service calls it.
        backend: The device's operations.
        models_dirs: Where models are looked for, first match wins.
        list_devices: The devices it computes on, with the memory that is free now.
        auto_precision: What Precision.AUTO means on this device.
        memory_budget_bytes: Weights that may stay in memory between jobs.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        models_dirs: tuple[Path, ...],
        list_devices: Callable[[], tuple[Device, ...]],
        auto_precision: Precision,
        memory_budget_bytes: int,
    ) -> None:
        self.name = name
        self._backend = backend
        self._models_dirs = models_dirs
        self._list_devices = list_devices
        self._auto_precision = auto_precision
        self._budget_bytes = memory_budget_bytes
        self._parts = Parts(backend)
        self._texts: OrderedDict[TextKey, Text] = OrderedDict()
        self._preview_map: tuple[Identity, Floats] | None = None

    def devices(self) -> tuple[Device, ...]:
        return self._list_devices()

    def run(
        self,
        request: GenerationRequest,
        read_blob: Callable[[str], bytes],
        say: Callable[[Progress | Preview], None],
        is_cancelled: Callable[[], bool],
    ) -> EngineResult:
        report = Report(say, is_cancelled)
        try:
            job = self._prepare(request, read_blob, report)
        except MemoryError as err:
            self.release()
            raise out_of_memory(request) from err
        try:
            with self._backend.session():
                return self._carry_out(job)
        except (RequestInvalid, Cancelled):
            raise
        except MemoryError as err:
            self.release()
            raise out_of_memory(request) from err
        except Exception:
            self.release()  # what was loaded or attached is in doubt
            raise

    def release(self) -> None:
        """Forgets every weight and every encoded text."""
        self._parts.free_all()
        self._texts.clear()
        self._preview_map = None

    # Before anything is loaded

    def _prepare(self, request: GenerationRequest, read_blob: Callable[[str], bytes], report: Report) -> Job:
        report.check()
        spec = catalog.find(request.model)
        catalog.check_task(spec, request.task)
        loras = choose_loras(request.loras, spec, self._models_dirs)
        source = read_source(request, read_blob)
        spec, folder = catalog.locate(spec, self._models_dirs)
        precision = self._auto_precision if request.precision is Precision.AUTO else request.precision
        plan = make_plan(request, spec, _BYTES_PER_VALUE[precision])
        return Job(request, spec, folder, precision, plan, source, loras, report)

    # Parts

    def _carry_out(self, job: Job) -> EngineResult:
        self._parts.choose(job.spec, job.folder, job.precision, job.loras)
        if self._is_resident(job):
            self._load_all(job)
        text = self._encode_text(job, job.request.prompt)
        no_text = self._encode_text(job, "") if job.is_evaluated_twice else None
        picture, freedom = self._encode_source(job)
        matrix = self._latent_rgb(job)
        conditions = Conditions(text, no_text, picture, freedom)
        walked = self._walk_all(job, conditions, matrix)
        images = self._decode_all(job, walked)
        return EngineResult(images, dict(job.report.seconds), machine.peak_memory_bytes(), job.warnings)

    def _is_resident(self, job: Job) -> bool:
        return job.resident_bytes <= self._budget_bytes

    def _load_all(self, job: Job) -> None:
        prompts = {job.request.prompt, ""} if job.is_evaluated_twice else {job.request.prompt}
        is_encoded = all(self._text_key(job, prompt) in self._texts for prompt in prompts)
        skipped = {Component.CLIP, Component.T5} if is_encoded else set[Component]()
        wanted = [
            part for part in job.plan.components if part not in skipped and not self._parts.is_ready(part)
        ]
        for count, part in enumerate(wanted):
            with job.report.stage(Stage.LOADING):
                self._parts.get(part)
                job.report.progress(Stage.LOADING, (count + 1) / len(wanted))

    @contextmanager
    def _part(self, job: Job, component: Component) -> Generator[Any]:
        """A part while it is used; freed afterwards unless everything fits."""
        if not self._parts.is_ready(component):
            with job.report.stage(Stage.LOADING):
                self._parts.get(component)
        try:
            yield self._parts.get(component)
        finally:
            if not self._is_resident(job):
                self._parts.free(component)

    # Stages

    def _encode_text(self, job: Job, prompt: str) -> Text:
        """A prompt, encoded now or by an earlier job."""
        key = self._text_key(job, prompt)
        if key not in self._texts:
            vec = self._encode_clip(job, prompt)
            self._texts[key] = Text(self._encode_t5(job, prompt), vec)
            if len(self._texts) > MAX_CACHED_TEXTS:
                self._texts.popitem(last=False)
        self._texts.move_to_end(key)
        return self._texts[key]

    def _text_key(self, job: Job, prompt: str) -> TextKey:
        loras = [lora for lora in job.loras if lora.touches(Component.CLIP, Component.T5)]
        return self._parts.identity, prompt, tuple((lora.key, lora.strength) for lora in loras)

    def _encode_clip(self, job: Job, prompt: str) -> Any:
        backend, spec = self._backend, job.spec
        with self._part(job, Component.CLIP) as clip, job.report.stage(Stage.ENCODING):
            folder = job.folder / spec.files.clip_tokenizer
            tokenizer = ClipTokenizer(folder, spec.clip_tokens)
            _check_vocabulary(tokenizer.vocab_size, spec.clip.vocab_size, folder)
            ids, end = tokenizer(prompt)
            positions = backend.from_numpy(np.arange(spec.clip_tokens, dtype=np.int32))
            vec = clip(backend.from_numpy(ids), positions, backend.from_numpy(end))
            backend.evaluate(vec)
            return vec

    def _encode_t5(self, job: Job, prompt: str) -> Any:
        backend, spec = self._backend, job.spec
        with self._part(job, Component.T5) as t5, job.report.stage(Stage.ENCODING):
            folder = job.folder / spec.files.t5_tokenizer
            tokenizer = T5Tokenizer(folder, spec.t5_tokens)
            _check_vocabulary(tokenizer.vocab_size, spec.t5.vocab_size, folder)
            ids = backend.from_numpy(tokenizer(prompt))
            txt = t5(ids, backend.from_numpy(relative_buckets(spec.t5_tokens, spec.t5)))
            backend.evaluate(txt)
            return txt

    def _encode_source(self, job: Job) -> tuple[Any | None, Floats | None]:
        """The source picture as tokens, and how free each of their values is; both [1, L, 64]."""
        if job.source is None:
            return None, None
        backend = self._backend
        with self._part(job, Component.VAE_ENCODER) as encoder, job.report.stage(Stage.ENCODING):
            image = backend.cast(backend.from_numpy(job.source.image), job.precision)
            tokens = backend.to_numpy(pack(backend.ops, encoder(image)))
        if job.source.freedom is None:
            return backend.from_numpy(tokens), None
        channels = job.spec.autoencoder.latent_channels
        grid = backend.from_numpy(job.source.freedom.repeat(channels, axis=-1))
        freedom = backend.to_numpy(pack(backend.ops, grid))
        reach = 1.0 - job.first_step / job.num_steps  # the strength that the walk really has
        return backend.from_numpy(tokens), freedom * np.float32(reach)

    def _walk_all(self, job: Job, conditions: Conditions, matrix: Floats | None) -> list[Any]:
        """Every picture's final tokens [1, L, 64] float32."""
        with self._part(job, Component.TRANSFORMER) as transformer, job.report.stage(Stage.DENOISING):
            velocity = self._velocity(job, transformer, conditions)
            return [
                self._walk(job, conditions, velocity, index, matrix)
                for index in range(job.request.num_images)
            ]

    def _velocity(self, job: Job, transformer: Any, conditions: Conditions) -> Velocity:
        """The model as a function of state and noise level; everything constant is made once."""
        backend, spec = self._backend, job.spec
        ids = position_ids(spec.t5_tokens, *job.latent_size)
        pe = backend.from_numpy(rotary_table(ids, spec.transformer.axes_dim, spec.transformer.theta))
        told = job.guidance if spec.is_guidance_distilled else 1.0
        guidance = backend.from_numpy(np.full(1, told, np.float32)) if spec.transformer.has_guidance else None

        def evaluated(x: Any, sigma: float, text: Text) -> Any:
            level = backend.from_numpy(np.full(1, sigma, np.float32))
            img = backend.cast(x, job.precision)
            return backend.ops.cast_like(transformer(img, text.txt, text.vec, level, guidance, pe), x)

        def velocity(x: Any, sigma: float) -> Any:
            v = evaluated(x, sigma, conditions.text)
            if conditions.no_text is None:
                return v
            without = evaluated(x, sigma, conditions.no_text)
            return without + (v - without) * job.guidance

        return velocity

    def _walk(
        self, job: Job, conditions: Conditions, velocity: Velocity, index: int, matrix: Floats | None
    ) -> Any:
        """Walks picture number `index`."""
        backend, report, first = self._backend, job.report, job.first_step
        height, width = job.latent_size
        channels = job.spec.autoencoder.latent_channels
        grid = backend.from_numpy(seeded_noise(seed_of(job, index), height, width, channels))
        noise = pack(backend.ops, grid)
        tokens = height * width // 4
        levels = [float(s) for s in sigmas(job.num_steps, tokens, job.spec.has_time_shift)]
        x, known = noise, None
        if conditions.picture is not None:
            x = noised(conditions.picture, noise, levels[first])
            if conditions.freedom is not None:
                known = KnownRegion(backend, conditions.picture, noise, conditions.freedom, job.num_steps)
        steps = job.num_steps - first
        total = steps * job.request.num_images

        def on_step(step: int, x: Any, denoised: Callable[[], Any]) -> None:
            check_finite(backend.to_numpy(x), job, f"after step {step + 1} of {job.num_steps}")
            done = index * steps + step - first + 1
            report.progress(Stage.DENOISING, done / total, done, total)
            if matrix is not None:
                preview_of = functools.partial(self._preview, job, matrix=matrix)
                report.preview(done, lambda: preview_of(denoised()))
            report.check()

        return walk(job.request.solver, backend, velocity, x, levels, first, known, on_step)

    def _decode_all(self, job: Job, walked: list[Any]) -> tuple[EngineImage, ...]:
        report, request = job.report, job.request
        images: list[EngineImage] = []
        with self._part(job, Component.VAE_DECODER) as decoder:
            for index, tokens in enumerate(walked):
                with report.stage(Stage.DECODING):
                    latents = unpack(self._backend.ops, tokens, *job.latent_size)
                    image = self._decode(decoder, latents, job.precision)
                    check_finite(image, job, "when a picture was decoded")
                    cut = pixels.model_to_image(image, request.width_px, request.height_px)
                    png = codec.encode_png(cut)
                    images.append(EngineImage(png, request.width_px, request.height_px, seed_of(job, index)))
                    report.progress(Stage.DECODING, (index + 1) / len(walked))
        return tuple(images)

    def _decode(self, decoder: Any, latents: Any, precision: Precision) -> Floats:
        """Latents [1, h, w, C] -> image [1, 8h, 8w, 3] on the host."""
        return self._backend.to_numpy(decoder(self._backend.cast(latents, precision)))

    # Previews

    def _preview(self, job: Job, tokens: Any, matrix: Floats) -> str:
        latents = self._backend.to_numpy(unpack(self._backend.ops, tokens, *job.latent_size))[0]
        height, width = -(-job.request.height_px // SCALE_FACTOR), -(-job.request.width_px // SCALE_FACTOR)
        return preview.to_webp_base64(latents[:height, :width], matrix)

    def _latent_rgb(self, job: Job) -> Floats | None:
        """The autoencoder's preview map; None if there is none and its decoder is not loaded yet."""
        if self._preview_map is not None and self._preview_map[0] == self._parts.identity:
            return self._preview_map[1]
        channels = job.spec.autoencoder.latent_channels
        matrix = preview.read(job.folder, channels)
        if matrix is None and self._parts.has(Component.VAE_DECODER):
            decoder = self._parts.get(Component.VAE_DECODER)

            def decode(latents: Floats) -> Floats:
                image = self._decode(decoder, self._backend.from_numpy(latents), job.precision)
                check_finite(image, job, "when a picture was decoded")
                return image

            matrix = preview.fit_from_decoder(decode, channels)
        if matrix is not None:
            self._preview_map = self._parts.identity, matrix
        return matrix


def seed_of(job: Job, index: int) -> int:
    """The seed of picture number `index`; it stays a seed that a request may have."""
    return (job.request.seed + index) % _SEEDS


def check_finite(values: Floats, job: Job, when: str) -> None:
    """Raises if the model has given values that are not numbers."""
    if np.isfinite(values).all():
        return
    message = f"{job.spec.title} gave values that are not numbers {when}."
    if job.loras:
        raise RequestInvalid(message, "Leave its LoRAs out, or lower their strengths.")
    if job.precision is Precision.FP32:
        raise Corrupt(message, "Its files are probably damaged: get them again.")
    raise Internal(message, "Try again with precision fp32; if that fails too, get the model's files again.")


def out_of_memory(request: GenerationRequest) -> OutOfMemory:
    """What the person reads when a job does not fit."""
    size = f"{request.width_px} x {request.height_px}"
    return OutOfMemory(
        f"There is not enough memory for {size} pixels with the model {request.model!r}.",
        "Choose a smaller size, precision bf16 or a smaller model, or close other programs.",
    )


def _check_vocabulary(tokens: int, rows: int, folder: Path) -> None:
    """Raises if a tokenizer knows tokens that its encoder has no embedding for."""
    if tokens > rows:
        raise Corrupt(
            f"The tokenizer in {folder} knows {tokens} tokens, and its text encoder only {rows}.",
            "Get the model's own tokenizer files.",
        )

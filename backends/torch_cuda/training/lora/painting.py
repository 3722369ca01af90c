"""Words and pictures as the model takes them, and paintings on the way, by the code that paints all else.

Text encoders and the autoencoder's encoder are loaded, asked once and freed before the transformer is there:
at FLUX.1's size that is what lets it fit. What they gave is kept on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.training.lora.base import Base
from backends.torch_cuda.training.lora.pictures import Example
from flux_core.conditioning.inputs import read_inputs
from flux_core.conditioning.packing import pack
from flux_core.models.transformer import Transformer
from flux_core.parts import Parts
from flux_core.pipeline.conditions import Branch, Conditions
from flux_core.pipeline.job import Job
from flux_core.pipeline.pictures import Pictures
from flux_core.pipeline.walk import walk_all
from flux_core.pipeline.words import Words
from flux_core.pipeline.workbench import Workbench
from flux_core.plan import Component, PartKey, make_plan
from flux_core.reporting import Report
from flux_core.request import GenerationRequest, Precision

_EVERYTHING = 2**62  # bytes: parts stay until they are freed here

Counted = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """A prompt: T5's states [1, L, D], CLIP's pooled state [1, D]; on the host, in the model's precision."""

    txt: Tensor
    vec: Tensor


class Studio:
    """A base model's parts but for the transformer, and jobs for them.

    Args:
        base: The model.
        backend: Where it runs.
        precision: Of text encoders and paintings, never AUTO; pictures to learn from are encoded in float32.
        is_stopped: Asked now and then; a painting is left then.
    """

    def __init__(
        self, base: Base, backend: TorchBackend, precision: Precision, is_stopped: Callable[[], bool]
    ) -> None:
        self._base = base
        self._backend = backend
        self._precision = precision
        self._report = Report(lambda message: None, is_stopped)
        self._bench = Workbench(backend, _EVERYTHING)
        self._bench.parts.choose(base.spec, base.folder, precision)

    @torch.no_grad()
    def words(self, prompts: Iterable[str], on_progress: Counted) -> dict[str, Told]:
        """Every prompt as the transformer reads it."""
        words, job = Words(self._bench), self._job("", 64, 64, 0)
        different = list(dict.fromkeys(prompts))
        found: list[dict[str, Tensor]] = []
        total = 2 * len(different)
        for encode, component in ((words.states, Component.T5), (words.pooled, Component.CLIP)):
            told: dict[str, Tensor] = {}
            for prompt in different:
                on_progress(len(found) * len(different) + len(told), total)
                told[prompt] = encode(job, prompt).cpu()
            found.append(told)
            self._free(component)
        on_progress(total, total)
        return {prompt: Told(found[0][prompt], found[1][prompt]) for prompt in different}

    @torch.no_grad()
    def latents(self, examples: Sequence[Example], on_progress: Counted) -> list[Tensor]:
        """Each picture as packed latents [1, L, 64] float32 on the host."""
        backend = self._backend
        parts = Parts(backend)
        parts.choose(self._base.spec, self._base.folder, Precision.FP32)
        encoder = parts.get(PartKey(Component.VAE_ENCODER))
        found: list[Tensor] = []
        for count, example in enumerate(examples):
            on_progress(count, len(examples))
            image = example.pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)
            found.append(pack(backend.ops, encoder(backend.from_numpy(image[None]))).cpu())
        on_progress(len(examples), len(examples))
        del encoder
        parts.free_all()
        self._give_back()
        return found

    def paint(
        self, transformer: Transformer, told: dict[str, Told], prompt: str, side_px: int, seed: int
    ) -> bytes:
        """A square picture as PNG, at the model's own steps and guidance."""
        job = self._job(prompt, side_px, side_px, seed)
        with self._backend.session():
            no_words = self._branch(told[""]) if job.contrast != 1.0 else None
            conditions = Conditions(
                self._branch(told[prompt]), no_words, None, None, (), (), start=None, freedom=None
            )
            walked = walk_all(self._backend, job, conditions, transformer, {}, None)
            return Pictures(self._bench).decode_all(job, walked)[0].png

    def prompts_of(self, samples: Sequence[str]) -> tuple[str, ...]:
        """What must be encoded to paint these."""
        needs_none = samples and self._job("", 64, 64, 0).contrast != 1.0
        return (*samples, "") if needs_none else tuple(samples)

    def _branch(self, told: Told) -> Branch:
        device = self._backend.device
        return Branch(told.txt.to(device), int(told.txt.shape[1]), told.vec.to(device), None, ())

    def _job(self, prompt: str, width_px: int, height_px: int, seed: int) -> Job:
        spec = self._base.spec
        request = GenerationRequest(prompt=prompt, width_px=width_px, height_px=height_px, seed=seed)
        plan = make_plan(request, spec, 4 if self._precision is Precision.FP32 else 2)
        inputs = read_inputs(request, spec, lambda name: b"")
        return Job(
            request, spec, self._base.folder, self._precision, plan, inputs, None, (), (), (), self._report
        )

    def _free(self, component: Component) -> None:
        self._bench.parts.free(PartKey(component))
        self._give_back()

    def _give_back(self) -> None:
        """Has torch return what it keeps for itself, before something large is loaded."""
        if self._backend.device.type == "cuda":
            torch.cuda.empty_cache()

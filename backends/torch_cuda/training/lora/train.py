"""The training itself: flow matching of a LoRA on a base that stays as it is, saved and painted on the way.

The transformer learns the velocity noise - data at logit-normal noise levels, as FLUX.1 did. A model with
distilled guidance is told 1 while it learns: there the guided velocity that it was distilled to is the
velocity of the data itself, so the LoRA learns the pictures and leaves guidance alone (at 3.5 it would learn
to undo it). Paintings take the model's own guidance.

Source: Esser et al. 2024 (flow matching); Meng et al. 2023 (a guidance weight as an input); sd-scripts'
flux_train_network.py takes 1 as well.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.training import checkpoint
from backends.torch_cuda.training.lora.base import Base, is_large
from backends.torch_cuda.training.lora.batches import Batches, noise_of
from backends.torch_cuda.training.lora.painting import Studio, Told
from backends.torch_cuda.training.lora.pictures import Example, stamp_of
from backends.torch_cuda.training.lora.places import Places
from backends.torch_cuda.training.lora.weights import ArtistLora, metadata_of, write_tensors
from backends.torch_cuda.training.network import adamw, checkpoint_calls, set_rate
from backends.torch_cuda.training.stepper import Stepper
from flux_core import machine
from flux_core.conditioning.packing import position_ids, rotary_table
from flux_core.errors import Cancelled, Corrupt, RequestInvalid
from flux_core.lora_training import Advance, Decay, Ended, LoraTraining, Wrote
from flux_core.models.autoencoder import SCALE_FACTOR
from flux_core.models.transformer import Transformer
from flux_core.request import Precision
from flux_core.storage import write_atomically
from flux_core.weights.components import transformer_source

GUIDANCE = 1.0  # while it learns
_BETA2 = 0.99  # of AdamW: short trainings have no time for a longer memory
_WARM_UP = 100  # steps at most, and a twentieth of all
_MEAN_OF = 50  # steps that the running mean of the loss and of the speed remembers

Size = tuple[int, int]


class Learner:
    """A transformer with a LoRA on it, and one step of learning.

    Args:
        training: With nothing left open.
        base: What it is trained on.
        backend: Where it runs.
        precision: Of the base, never AUTO.
        latents: Of each picture, [1, L, 64] on the host.
        sizes: Of each picture, height and width in pixels.
        told: Of each picture.
        is_checkpointed: Whether blocks are computed again on the way back.
    """

    def __init__(
        self,
        training: LoraTraining,
        base: Base,
        backend: TorchBackend,
        precision: Precision,
        latents: Sequence[Tensor],
        sizes: Sequence[Size],
        told: Sequence[Told],
        is_checkpointed: bool,
    ) -> None:
        self._training = training
        self._spec = base.spec
        self._device = backend.device
        self._dtype = torch.float32 if precision is Precision.FP32 else torch.bfloat16
        self._latents, self._sizes, self._told = latents, sizes, told
        self._tables: dict[Size, Tensor] = {}
        leaves = backend.leaves(transformer_source(base.spec, base.folder), precision)
        self.transformer = Transformer(backend.ops, leaves, base.spec.transformer)
        if is_checkpointed:
            checkpoint_calls(self.transformer, "double_blocks")
            checkpoint_calls(self.transformer, "single_blocks")
        self.lora = ArtistLora(leaves.modules, training.rank, backend.device, training.seed)
        self.batches = Batches(sizes, training.batch_size or 1, training.seed)
        self._rate = training.learning_rate or 0.0
        self.optimiser = adamw(self.lora.parameters, self._rate, _BETA2)
        parameters = list(self.lora.parameters.values())
        self._step_once = Stepper(self._loss, parameters, self.optimiser, is_graphed=False)
        self.step = 0

    def learn(self) -> float:
        """Takes the next step; returns its loss, which may be no number."""
        training = self._training
        chosen = self.batches.at(self.step)
        z = torch.cat([self._latents[i] for i in chosen])
        noise, levels = noise_of(
            training.seed, self.step, (z.shape[0], z.shape[1], z.shape[2]), self._spec.has_time_shift
        )
        txt = torch.cat([self._told[i].txt for i in chosen])
        vec = torch.cat([self._told[i].vec for i in chosen])
        inputs = (z, torch.from_numpy(noise), torch.from_numpy(levels), txt, vec)
        set_rate(self.optimiser, self._rate * rate_at(self.step, training.num_steps or 1, training.decay))
        loss, _ = self._step_once(self._sizes[chosen[0]], *(each.to(self._device) for each in inputs))
        self.step += 1
        return float(loss)

    def _loss(self, size: Size, z: Tensor, noise: Tensor, sigma: Tensor, txt: Tensor, vec: Tensor) -> Tensor:
        """z, noise [B, L, 64] float32, sigma [B] float32, txt [B, L_txt, D], vec [B, D]."""
        s = sigma[:, None, None]
        x = (1 - s) * z + s * noise
        guidance = torch.full_like(sigma, GUIDANCE) if self._spec.transformer.has_guidance else None
        v = self.transformer(x.to(self._dtype), txt, vec, sigma, guidance, self._rotary(size))
        return (v.float() - (noise - z)).pow(2).mean()

    def _rotary(self, size: Size) -> Tensor:
        if size not in self._tables:
            config = self._spec.transformer
            height, width = (side // SCALE_FACTOR for side in size)
            ids = position_ids(self._spec.t5_tokens, height, width)
            table = rotary_table(ids, config.axes_dim, config.theta)
            self._tables[size] = torch.from_numpy(table).to(self._device)
        return self._tables[size]

    def save(self, path: Path) -> None:
        """Writes everything that the next step depends on."""
        tensors = self.lora.state("lora/") | checkpoint.optimiser_tensors(self.optimiser, "optimiser/")
        write_tensors(path, tensors | {"step": torch.tensor(self.step)}, {})

    def load(self, path: Path) -> None:
        """Goes on from what `save` wrote.

        Raises:
            Corrupt: The file is damaged.
        """
        try:
            tensors, _ = checkpoint.load(path, self._device)
            self.lora.load(tensors, "lora/")
            checkpoint.load_optimiser(self.optimiser, tensors, "optimiser/")
            self.step = int(tensors["step"])
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as err:
            raise Corrupt(
                f"The state of this training cannot be read: {path}.", "Train under another name."
            ) from err


def rate_at(step: int, num_steps: int, decay: Decay) -> float:
    """Share of the learning rate at a step: up in a straight line, then down along a cosine, or level."""
    warm_up = min(_WARM_UP, max(1, num_steps // 20))
    risen = min(1.0, (step + 1) / warm_up)
    return risen if decay is Decay.FLAT else risen * 0.5 * (1.0 + math.cos(math.pi * step / num_steps))


def train(
    training: LoraTraining,
    base: Base,
    examples: Sequence[Example],
    places: Places,
    backend: TorchBackend,
    precision: Precision,
    say: Callable[[Advance | Wrote], None],
    is_stopped: Callable[[], bool],
) -> Ended:
    """Trains until all steps are done or somebody stops it; what was learned is saved in both cases.

    Args:
        training: With nothing left open; `is_resumed` goes on from the state in `places`.
        base: What is trained on.
        examples: The pictures.
        places: Where it writes; the folders exist.
        backend: Where it runs.
        precision: Of the base, never AUTO.
        say: Takes progress.
        is_stopped: Asked at every step.

    Raises:
        Cancelled: It was stopped before it began to learn.
        RequestInvalid: The loss is no number any more.
        Corrupt: A file of the model or of the state is damaged.
        StorageFull: The disk is full.
    """

    def counted(stage: str) -> Callable[[int, int], None]:
        def count(done: int, total: int) -> None:
            if is_stopped():
                raise Cancelled("The training was stopped before it began to learn.")
            say(Advance(stage=stage, done=done, total=total))

        return count

    studio = Studio(base, backend, precision, is_stopped)
    prompts = [*(each.caption for each in examples), *studio.prompts_of(training.samples)]
    told = studio.words(prompts, counted("Encoding words"))
    latents = studio.latents(examples, counted("Encoding pictures"))
    say(Advance(stage="Loading the model", done=0, total=1))
    learner = Learner(
        training,
        base,
        backend,
        precision,
        latents,
        [each.size for each in examples],
        [told[each.caption] for each in examples],
        is_large(base.spec),
    )
    if training.is_resumed:
        learner.load(places.state)
    places.begin(training, stamp_of(tuple(examples)))
    run = _Run(training, base, len(examples), places, learner, studio, told, say)
    return run.through(is_stopped)


class _Run:
    """The steps of one run of a training, with what happens between them."""

    def __init__(
        self,
        training: LoraTraining,
        base: Base,
        num_pictures: int,
        places: Places,
        learner: Learner,
        studio: Studio,
        told: dict[str, Told],
        say: Callable[[Advance | Wrote], None],
    ) -> None:
        self._training = training
        self._spec = base.spec
        self._num_pictures = num_pictures
        self._places = places
        self._learner = learner
        self._studio = studio
        self._told = told
        self._say = say
        self._saved_at = -1

    def through(self, is_stopped: Callable[[], bool]) -> Ended:
        training, learner = self._training, self._learner
        num_steps, sample_every = training.num_steps or 1, training.sample_every or 1
        started = time.monotonic()
        losses: list[float] = []
        speed = _Mean()
        try:
            if learner.step == 0:
                self._paint()
            while learner.step < num_steps and not is_stopped():
                began = time.monotonic()
                losses.append(self._checked(learner.learn()))
                speed.add(time.monotonic() - began)
                self._advance(losses, speed, num_steps)
                if learner.step % training.save_every == 0:
                    self._save()
                if learner.step % sample_every == 0 or learner.step == num_steps:
                    self._paint()
        except Cancelled:
            pass  # in the middle of a painting
        if learner.step != self._saved_at:
            self._save()
        last = losses[-max(1, num_steps // 10) :]
        return Ended(
            path=str(self._places.output),
            step=learner.step,
            num_steps=num_steps,
            loss=sum(last) / len(last) if last else None,
            train_s=time.monotonic() - started,
            peak_memory_bytes=machine.peak_memory_bytes(),
            training=training,
        )

    def _checked(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise RequestInvalid(
                f"After step {self._learner.step} the loss is no number any more.",
                "Train again under another name with a lower learning rate (--lr).",
            )
        return loss

    def _advance(self, losses: list[float], speed: _Mean, num_steps: int) -> None:
        recent = losses[-_MEAN_OF:]
        left = num_steps - self._learner.step
        self._say(
            Advance(
                stage="Training",
                done=self._learner.step,
                total=num_steps,
                loss=sum(recent) / len(recent),
                steps_per_s=1.0 / max(speed.value, 1e-9),
                left_s=left * speed.value,
            )
        )

    def _save(self) -> None:
        places, step = self._places, self._learner.step
        self._learner.save(places.state)
        metadata = metadata_of(self._training, self._spec, step, self._num_pictures)
        self._learner.lora.write(places.output, metadata)
        self._saved_at = step
        self._say(Wrote(what="lora", path=str(places.output), step=step))

    def _paint(self) -> None:
        training, step = self._training, self._learner.step
        for number, prompt in enumerate(training.samples, 1):
            png = self._studio.paint(
                self._learner.transformer, self._told, prompt, training.size_px or 1, training.seed
            )
            path = self._places.sample(step, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, png)
            self._say(Wrote(what="sample", path=str(path), step=step))


class _Mean:
    """A running mean that forgets; the plain one while there are few values."""

    def __init__(self) -> None:
        self.value = 0.0
        self._count = 0

    def add(self, value: float) -> None:
        self._count = min(self._count + 1, _MEAN_OF)
        self.value += (value - self.value) / self._count

"""The stages of the bundled family's members, each one method of a run; see run.py for the command.

All start from the base that ships. Each leaves a checkpoint in the work folder and its file in `out`/export
on the way, so a run may be cut anywhere and goes on, and what it had can be fetched.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backends.torch_cuda.training import assemble, autoencoder, checkpoint, export, flow
from backends.torch_cuda.training.clock import Stage
from backends.torch_cuda.training.data import feed
from backends.torch_cuda.training.distil import Texts
from backends.torch_cuda.training.members import (
    clip,
    estimator,
    evaluate,
    few_steps,
    lessons,
    phrases,
    pictures,
    tools,
)
from backends.torch_cuda.training.members.lessons import Lesson, Member, Pool
from backends.torch_cuda.training.members.lowrank import LowRank
from backends.torch_cuda.training.members.plan import MemberPlan
from backends.torch_cuda.training.network import use_channels_last
from backends.torch_cuda.training.scenes import SceneSource, captions_of
from backends.torch_cuda.training.stages import BUNDLED, Run
from flux_core.catalog import TINY, AutoencoderConfig, ModelSpec
from flux_core.conditioning.packing import unpack

_LOG = logging.getLogger("training")
Size = tuple[int, int]
FILES = {"redux": ("redux", "siglip")}
"""Stage -> stems of the files it writes, where they are not its name."""


class MemberRun(Run):
    """One process's share of the members' training.

    Args:
        numbers: Seconds and sizes.
        pack: Data pack.
        work: Checkpoints.
        out: Sheets, figures, exported weights.
        deadline_s: Seconds from now at which everything must be written; stages shrink for it.
        spec: Sizes of the base.
        bundled: Folder of the base.
        num_workers: Processes that sample, for each kind of material.
        start: Folder of models whose members a stage goes on from, where it has no checkpoint of its own.
    """

    def __init__(
        self,
        numbers: MemberPlan,
        pack: Path,
        work: Path,
        out: Path,
        deadline_s: float,
        spec: ModelSpec = TINY,
        bundled: Path = BUNDLED,
        num_workers: int = 1,
        start: Path | None = None,
    ) -> None:
        super().__init__(numbers.base, pack, work, out, deadline_s, spec, bundled, num_workers)
        self.numbers = numbers
        self.plan = dataclasses.replace(numbers.base, judge_s=numbers.judge_s)
        self.left: tuple[str, ...] = ()
        self.start = start
        self.tables = flow.Conditioner(spec, self.device)

    # --- stages ---------------------------------------------------------------------------------
    def fill(self) -> None:
        """Fill: repaints a hole as the prompt says, or as what surrounds it."""
        self._tool(lessons.FILL, self.numbers.fill)

    def kontext(self) -> None:
        """Kontext: changes a picture as an instruction says."""
        self._tool(lessons.KONTEXT, self.numbers.kontext)

    def canny(self) -> None:
        """A control LoRA that follows edges."""
        self._tool(lessons.CANNY, self.numbers.canny)

    def depth(self) -> None:
        """A control LoRA that follows depth."""
        self._tool(lessons.DEPTH, self.numbers.depth)

    def schnell(self) -> None:
        """Four steps in place of many."""
        numbers = self.numbers.schnell
        teacher, nets = self.bundled_nets(), self.bundled_nets()
        change = LowRank(nets.transformer, numbers.rank)
        self._compile(teacher, nets)
        texts = Texts(teacher, self.tables, self.captions, self.empty(), numbers, self.source.amp)
        made: dict[Size, few_steps.Stretches] = {}

        def stretches(step: int) -> few_steps.Stretches:
            size_px = numbers.sizes_px[step % len(numbers.sizes_px)]
            if size_px not in made:
                count = numbers.small_count if max(size_px) <= 128 else numbers.large_count
                size = size_px[0] // 8, size_px[1] // 8
                made[size_px] = few_steps.Stretches(
                    teacher, nets, self.tables, texts, size, count, numbers, self.source.amp
                )
            return made[size_px]

        def train(stage: Stage, state: flow.RunState) -> None:
            few_steps.train(
                nets, self.tables, stretches, numbers, stage, self.source.amp, state,
                list(change.parameters.values()), self.numbers.is_graphed,
            )  # fmt: skip

        self._trained("schnell", change.parameters, numbers.lr, train)

    def redux(self) -> None:
        """A picture tower and its adapter."""
        numbers = self.numbers.redux
        nets = self.bundled_nets()
        for parameter in nets.parameters.values():
            parameter.requires_grad_(False)
        self._compile(nets)
        eye = pictures.build_eye(numbers, self.spec.transformer.context_in_dim, self.device)
        head = nn.Linear(self.spec.transformer.context_in_dim, sum(feed.LABELS.values())).to(self.device)
        latents = self.latents_of()
        source = SceneSource(
            self.pack, self.device, self.num_workers, 6000, make=feed.plainly_captioned, like=self.source
        )

        def make(count: int) -> list[Tensor]:
            arrays = source.arrays(count)
            images, small = (source.composer(arrays, (px, px)) for px in (numbers.side_px, numbers.image_px))
            seen = ((pictures.shown(small, numbers.image_px) + 1) * 127.5).round().byte()
            beside = torch.cat([seen.flatten(1), (arrays["label"].long() + 1).byte()], dim=1)
            return Lesson(latents(images), beside, captions_of(arrays)).columns

        pool = Pool(make, numbers.pool, numbers.pool_chunk)
        pixels = numbers.image_px**2 * 3

        def draw(step: int) -> Any:
            if step % numbers.renew_every == numbers.renew_every - 1:
                pool.renew()
            z, beside, *text = pool.draw(numbers.batch_size)
            image = beside[:, :pixels].unflatten(1, (numbers.image_px, numbers.image_px, 3))
            return z, image, beside[:, pixels:].long() - 1, lessons.Captions(*text)

        parameters = {**eye.parameters, **{f"head.{name}": p for name, p in head.named_parameters()}}

        def train(stage: Stage, state: flow.RunState) -> None:
            pictures.train_redux(
                eye, nets, self.tables, draw, self.empty(), feed.LABELS, numbers, stage, self.source.amp,
                state, head, self.numbers.is_graphed,
            )  # fmt: skip

        try:
            self._trained("redux", parameters, numbers.lr, train)
        finally:
            source.close()

    def fast(self) -> None:
        """A small autoencoder in TAEF1's layout."""
        numbers = self.numbers.fast
        nets = pictures.build_fast(numbers, self.device)
        latents = self.latents_of()

        def draw(step: int) -> tuple[Tensor, Tensor]:
            side_px = numbers.side_px if step % 4 else 2 * numbers.side_px
            count = numbers.batch_size if step % 4 else max(1, numbers.batch_size // 4)
            images = self.source.crops(count, side_px, photo_share=0.15)
            return images, unpack(self.ae().encoder.model.ops, latents(images), side_px // 8, side_px // 8)

        def train(stage: Stage, state: flow.RunState) -> None:
            pictures.train_fast(nets, draw, self.eye(), numbers, stage, self.source.amp, state)

        self._trained("fast", nets.parameters, numbers.lr, train)

    def clip(self) -> None:
        """A CLIP whose scores of phrases mean something for pictures of this family."""
        numbers = self.numbers.clip
        net, head = clip.build(numbers, self.device), clip.naming_head(numbers, self.device)
        source = SceneSource(
            self.pack, self.device, self.num_workers, 6000, make=phrases.told, like=self.source
        )
        turn = itertools.cycle(numbers.sizes_px)

        def make(count: int) -> list[Tensor]:
            arrays = source.arrays(count)
            seen = pictures.shown(source.composer(arrays, next(turn)), numbers.image_px)
            images = ((seen + 1) * 127.5).round().byte()
            return [images, *(arrays[name] for name in ("said", "claim", "is_loose", "label"))]

        try:
            pool = Pool(make, numbers.pool, numbers.pool_chunk)

            def draw(step: int) -> clip.Batch:
                if step % numbers.renew_every == numbers.renew_every - 1:
                    pool.renew()
                return clip.Batch(*pool.draw(numbers.batch_size))

            parameters = dict(net.named_parameters())
            parameters |= {f"head.{name}": p for name, p in head.named_parameters()}
            self._trained(
                "clip", parameters, numbers.lr,
                lambda stage, state: clip.train(net, head, draw, numbers, stage, self.source.amp, state),
            )  # fmt: skip
        finally:
            source.close()

    def estimator(self) -> None:
        """A depth estimator of the family's own pictures."""
        numbers = self.numbers.estimator
        net = estimator.build(numbers, self.device)
        use_channels_last(net.parameters())

        def make(size_px: Size, count: int) -> list[Tensor]:
            shown = lessons.show_depth(self.source, self.source.arrays(count), size_px)
            return [(image * 255).round().byte() for image in (shown.truth, shown.seen[..., 0])]

        sizes = dict.fromkeys(numbers.sizes_px)
        pools = {
            size_px: Pool(functools.partial(make, size_px), numbers.pool, numbers.pool_chunk)
            for size_px in sizes
        }

        def draw(step: int) -> tuple[Tensor, Tensor]:
            pool = pools[numbers.sizes_px[step % len(numbers.sizes_px)]]
            if step % numbers.renew_every == 0:
                pool.renew()
            image, depth = pool.draw(numbers.batch_size)
            return image, depth

        self._trained(
            "estimator", dict(net.named_parameters()), numbers.lr,
            lambda stage, state: estimator.train(net, draw, numbers, stage, self.source.amp, state),
        )  # fmt: skip

    def export(self) -> None:
        """Writes the newest averaged weights of every member that there is, again."""
        for name in evaluate.MEMBERS:
            if (self.work / f"{name}.safetensors").exists():
                self._export(name, self.mean(name))

    def evaluate(self) -> None:
        """Figures and sheets of every member that there is; see members.evaluate."""
        for name, measure in evaluate.MEMBERS.items():
            if not (self.work / f"{name}.safetensors").exists() or self.left_s < evaluate.SECONDS_A_MEMBER:
                continue
            figures = measure(self)
            _LOG.info("%s: %s", name, figures)
            path = self.out / "figures.json"
            known = json.loads(path.read_text()) if path.exists() else {}
            path.write_text(json.dumps(known | {name: figures}, indent=1))

    def warm(self) -> None:
        """Compiles the shapes of fill, kontext and canny ahead, in a process of its own."""
        from backends.torch_cuda.training.members import warm  # it needs this class

        warm.compile_all(self)

    # --- what stages share ------------------------------------------------------------------------
    def ae(self) -> autoencoder.AutoencoderNets:
        """The autoencoder that ships, eager."""
        if self._ae is None:
            self._ae = self._bundled_autoencoder()
        return self._ae

    def config(self) -> AutoencoderConfig:
        """Its numbers."""
        return self.spec.autoencoder

    def changed(self, name: str) -> flow.FlowNets:
        """The base with a member's averaged change attached, eager."""
        nets = self.bundled_nets()
        channels = lessons.ALL[name].channels if name in lessons.ALL else None
        change = LowRank(nets.transformer, getattr(self.numbers, name).rank, channels)
        change.load(self.mean(name))
        return nets

    def mean(self, name: str) -> dict[str, Tensor]:
        """A member's averaged weights by the names of its file."""
        tensors, _ = checkpoint.load(self.work / f"{name}.safetensors", self.device)
        return {key[5:]: value for key, value in tensors.items() if key.startswith("mean/")}

    def latents_of(self) -> lessons.Latents:
        """Pictures -> latents of the base."""
        return lessons.Latents(self.ae(), self.config(), self.source.amp)

    def material(self, member: Member) -> SceneSource:
        """What samples for a member; close it if it is not the run's own source."""
        if member.make is None:
            return self.source
        return SceneSource(self.pack, self.device, self.num_workers, 5000, make=member.make, like=self.source)

    def _tool(self, member: Member, numbers: tools.ToolTraining) -> None:
        nets = self.bundled_nets()
        change = LowRank(nets.transformer, numbers.rank, member.channels)
        self._compile(nets)
        source, latents = self.material(member), self.latents_of()
        pools: dict[Size, Pool] = {}

        def make(size_px: Size) -> Pool:
            is_small = max(size_px) <= 128
            capacity = numbers.pool_small if is_small or size_px[0] != size_px[1] else numbers.pool_large
            return Pool(
                lambda count: lessons.lesson(member, source, source.arrays(count), size_px, latents).columns,
                capacity,
                numbers.pool_chunk,
            )

        def draw(step: int) -> tuple[Size, list[Tensor]]:
            size_px = numbers.sizes_px[step % len(numbers.sizes_px)]
            if size_px not in pools:
                pools[size_px] = make(size_px)
            if step and step % numbers.renew_every == numbers.sizes_px.index(size_px):
                pools[size_px].renew()
            count = numbers.batch_small if max(size_px) <= 128 else numbers.batch_large
            return (size_px[0] // 8, size_px[1] // 8), pools[size_px].draw(count)

        def train(stage: Stage, state: flow.RunState) -> None:
            tools.train(
                member, nets, self.tables, draw, self.empty(), numbers, stage, self.source.amp, state,
                list(change.parameters.values()), self.numbers.is_graphed,
            )  # fmt: skip

        try:
            for size_px in dict.fromkeys(numbers.sizes_px):
                pools[size_px] = make(size_px)
            self._trained(member.name, change.parameters, numbers.lr, train)
        finally:
            if source is not self.source:
                source.close()

    def _trained(
        self,
        name: str,
        parameters: dict[str, nn.Parameter],
        lr: float,
        train: Callable[[Stage, flow.RunState], None],
    ) -> None:
        """Trains what a stage trains for as long as its share of the time, from where it stopped."""
        path = self.work / f"{name}.safetensors"
        used_s, first = 0.0, 0
        if self.start is not None and not path.exists():
            self._start_from(self.start, name, parameters)
        state = flow.RunState(parameters, lr)
        if path.exists():
            tensors, facts = checkpoint.load(path, self.device)
            with torch.no_grad():
                for key, parameter in parameters.items():
                    parameter.copy_(tensors[f"live/{key}"])
            state.average.mean = [tensors[f"mean/{key}"] for key in parameters]
            checkpoint.load_optimiser(state.optimiser, tensors, "optimiser/")
            used_s, first = facts["used_s"], facts["step"]
        share_s = self.numbers.share(name, self.left or (name,), self.left_s)
        total_s = min(self.numbers.seconds(name), used_s + share_s)
        if used_s >= total_s:
            _LOG.info("no time is left for %s: it has had %.0f s", name, used_s)
            return

        def save(stage: Stage) -> None:
            mean = dict(zip(parameters, state.average.mean, strict=True))
            tensors = {f"live/{key}": p for key, p in parameters.items()}
            tensors |= {f"mean/{key}": p for key, p in mean.items()}
            tensors |= checkpoint.optimiser_tensors(state.optimiser, "optimiser/")
            checkpoint.save(path, tensors, {"used_s": stage.used_s, "step": stage.step})
            self._export(name, mean)

        end = self._end - self.numbers.evaluate_s
        stage = Stage(
            name,
            total_s,
            used_s,
            first,
            end,
            log_every=200,
            save=save,
            save_every_s=self.numbers.save_every_s,
        )
        train(stage, state)
        _LOG.info("%s: %d steps in %.0f s", name, stage.step, stage.used_s)

    @torch.no_grad()
    def _start_from(self, models_dir: Path, name: str, parameters: dict[str, nn.Parameter]) -> None:
        """Sets what a member's shipped files hold; heads that were thrown away stay fresh."""
        for row, file in assemble.member_files():
            path = models_dir / row.model / file
            if path.stem in FILES.get(name, (name,)) and path.is_file():
                _LOG.info("%s goes on from %s", name, row.model)
                for key, value in export.read(path, self.device).items():
                    parameters[key].copy_(value)

    def _export(self, name: str, mean: dict[str, Tensor]) -> None:
        """The member's files in bfloat16, in the layouts that are published."""
        folder = self.out / "export"
        if name == "clip":
            clip.write(folder / "clip", self.numbers.clip, mean, BUNDLED / self.spec.files.clip_tokenizer)
            return
        if name == "estimator":
            estimator.write(folder / "depth-estimator", self.numbers.estimator, mean)
            return
        half = {key: p.detach().to(torch.bfloat16).contiguous() for key, p in mean.items()}
        half = {key: p for key, p in half.items() if not key.startswith("head.")}
        files = {name: half}
        if name == "redux":
            files = {
                "redux": {key: p for key, p in half.items() if key.startswith("redux_")},
                "siglip": {key: p for key, p in half.items() if not key.startswith("redux_")},
            }
        for stem, state in files.items():
            checkpoint.save(folder / f"{stem}.safetensors", state)

    def _compile(self, *each: flow.FlowNets) -> None:
        if self.is_compiled:
            for nets in each:
                flow.compile_transformer(nets)

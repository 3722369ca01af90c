"""The stages of the training, each one method of a run; see run.py for the command.

Each stage leaves a checkpoint in the work folder and starts from what is there, so a run may be cut
anywhere and goes on.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from backends.torch_cuda.training import (
    autoencoder,
    checkpoint,
    distil,
    evaluate,
    export,
    flow,
    judge,
    mend,
    text,
    warm,
)
from backends.torch_cuda.training.clock import Stage
from backends.torch_cuda.training.data import feed, pairs, word_ids
from backends.torch_cuda.training.data.captions import held_out_captions
from backends.torch_cuda.training.data.scenes import Sampler
from backends.torch_cuda.training.network import use_channels_last
from backends.torch_cuda.training.plan import Plan
from backends.torch_cuda.training.pools import Batches
from backends.torch_cuda.training.scenes import (
    Captions,
    Scenes,
    SceneSource,
    captions_of,
    to_device,
)
from flux_core.catalog import TINY, AutoencoderConfig, ModelSpec
from flux_core.conditioning.packing import pack

_LOG = logging.getLogger("training")
BUNDLED = Path(__file__).parents[3] / "resources" / "models" / "tiny"


class Run:
    """One process's share of the training.

    Args:
        plan: Seconds and sizes.
        pack: Data pack.
        work: Checkpoints.
        out: Sheets, figures, exported weights.
        deadline_s: Seconds from now at which everything must be written; stages end early for it.
        spec: Sizes of the model.
        bundled: Folder of the model whose autoencoder the stage adopt takes.
        num_workers: Processes that sample scenes.
    """

    def __init__(
        self,
        plan: Plan,
        pack: Path,
        work: Path,
        out: Path,
        deadline_s: float,
        spec: ModelSpec = TINY,
        bundled: Path = BUNDLED,
        num_workers: int = 1,
    ) -> None:
        self.plan = plan
        self.work = work
        self.out = out
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.is_compiled = self.device.type == "cuda"
        self._end = time.monotonic() + deadline_s
        seed = 1000 + int(time.time()) % 1000
        self.source = SceneSource(pack, self.device, num_workers=num_workers, seed=seed)
        self.words = word_ids.committed()
        self.spec = spec
        self.bundled = bundled
        self.pack = pack
        self.num_workers = num_workers
        self._judge: judge.Judge | None = None
        self._sentences: text.Sentences | None = None
        self._ae: autoencoder.AutoencoderNets | None = None

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self._end - time.monotonic()

    # --- stages ---------------------------------------------------------------------------------
    def warm(self) -> None:
        """Compiles what flow and distil need; for a process that runs beside the first stages."""
        warm.compile_flow(self.spec, self.plan, self.source, self.empty(), self.sentences())

    def warm_autoencoder(self) -> None:
        """Compiles what the autoencoder stage needs."""
        warm.compile_autoencoder(self.spec, self.plan, self.source)

    def judge(self) -> None:
        """Trains the judge and reports its accuracy on true scenes."""
        eye = judge.Judge(feed.LABELS).to(self.device)
        use_channels_last(eye.parameters())
        optimiser = torch.optim.AdamW(eye.parameters(), lr=2e-3, weight_decay=0.02, fused=self.is_compiled)
        stage = Stage("judge", self.plan.judge_s, deadline=self._end, log_every=100)
        for step in stage.steps():
            for group in optimiser.param_groups:
                group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * max(0.02, 1.0 - stage.fraction)
            scenes = self.source.scenes(self.plan.batch_large, (128, 128))
            x = judge.prepare(scenes.images)
            x = x + torch.randn_like(x) * 0.06 * torch.rand(len(x), 1, 1, 1, device=self.device)
            with self.source.amp():
                logits = eye(x.contiguous(memory_format=torch.channels_last))
            loss = judge.loss(logits, scenes.labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            stage.log(step, loss=loss)
        checkpoint.save(self.work / "judge.safetensors", eye.state_dict())
        self._judge = eye
        truth = self.held_out()
        _LOG.info("judge on truth: %s", evaluate.score(eye, truth.images, truth, self.source.amp))

    def autoencoder(self) -> None:
        """Trains the autoencoder; leaves its weights and the statistics of its latents."""
        nets = autoencoder.build(self.spec.autoencoder, self.device, self.is_compiled)
        stage = Stage("autoencoder", self.plan.autoencoder_s, deadline=self._end, log_every=200)
        autoencoder.train(nets, self.source, self.eye(), self.plan.autoencoder, stage)
        self._ae = autoencoder.build(self.spec.autoencoder, self.device, is_compiled=False)
        self._ae.load(nets.state())
        truth = self.held_out()
        z = autoencoder.encode(self._ae, truth.images, self.source.amp, chunk=32)
        again = autoencoder.decode(self._ae, z, self.source.amp, chunk=32)
        facts = autoencoder.statistics(z, truth.images)
        facts["psnr_db"] = round(autoencoder.psnr(again, truth.images), 2)
        facts["photo_psnr_db"] = round(self._photo_psnr(), 2)
        facts["is_adopted"] = False
        checkpoint.save(self.work / "ae.safetensors", nets.state(), facts)
        shown = {key: facts[key] for key in ("shift", "scale", "psnr_db", "photo_psnr_db")}
        _LOG.info(
            "autoencoder: %s judge on it: %s",
            shown,
            evaluate.score(self.eye(), again, truth, self.source.amp),
        )
        pairs = torch.stack([truth.images[:24], again[:24]], dim=1).flatten(0, 1)
        evaluate.save_sheet(pairs, self.out / "autoencoder.jpg")

    def adopt(self) -> None:
        """Takes the autoencoder that ships instead of training one: its latents keep their meaning."""
        config = self.spec.autoencoder
        nets = self._bundled_autoencoder()
        facts = {
            "shift": config.shift,
            "scale": config.scale,
            "latent_to_rgb": json.loads((self.bundled / "latent_rgb.json").read_text()),
            "is_adopted": True,
        }
        checkpoint.save(self.work / "ae.safetensors", nets.state(), facts)
        self._ae = nets
        images = self.held_out().images
        again = autoencoder.decode(
            nets, autoencoder.encode(nets, images, self.source.amp, 32), self.source.amp, 32
        )
        _LOG.info("adopted autoencoder: %.2f dB on held-out scenes", autoencoder.psnr(again, images))

    def mend(self) -> None:
        """Mends the border that the decoder that ships draws; leaves it in `out`/mended."""
        stage = Stage("mend", self.plan.mend_s, deadline=self._end, log_every=100)
        file = self.out / "mended" / "ae.0.safetensors"
        mend.mend(
            self._bundled_autoencoder(), self.source, self.held_out().images, self.plan.mend, stage, file
        )

    def base(self) -> None:
        """Takes the transformer and the text encoders that ship as the start of text and flow."""
        checkpoint.save(self.work / "base.safetensors", self.bundled_nets().state())

    def text(self) -> None:
        """Head start for the text encoders; leaves a set of flow nets, fresh but for what `base` took."""
        nets = flow.build(self.spec, self.device)
        base = self.work / "base.safetensors"
        is_fresh = not base.exists()
        if not is_fresh:
            nets.load(checkpoint.load(base, self.device)[0])
        stage = Stage("text", self.plan.text_s, deadline=self._end, log_every=100)
        tables, said = flow.Conditioner(self.spec, self.device), self.sentences()
        said.train(nets, tables, stage, self.source.amp, is_fresh)
        state = nets.state() | {name: p.detach() for name, p in said.parameters.items()}
        checkpoint.save(self.work / "flow_start.safetensors", state)

    def flow(self) -> None:
        """Flow matching; may stop at the deadline and go on in another run."""
        nets, said = flow.build(self.spec, self.device), self.sentences()
        saved = self.work / "flow.safetensors"
        used_s, first = 0.0, 0
        if not saved.exists():
            tensors, _ = checkpoint.load(self.work / "flow_start.safetensors", self.device)
            nets.load(tensors)
            said.load(tensors)
        state = flow.RunState(nets.parameters | said.parameters, self.plan.flow.lr)
        if saved.exists():
            used_s, first = self._resume(saved, state)
        if self.is_compiled:
            flow.compile_nets(nets)
        after_s = self.plan.after_flow_s
        total_s = min(self.plan.flow_s, used_s + self.left_s - after_s - self.plan.start_s)
        if used_s >= total_s:
            return
        batches = Batches(self.plan, self.latents)
        batches.prepare(self.plan.small_until <= used_s / total_s)
        stage = Stage(
            "flow", total_s, used_s, first, self._end - after_s, log_every=500,
            save=lambda stage: self._keep(saved, state, stage), save_every_s=120.0,
        )  # fmt: skip
        tables = flow.Conditioner(self.spec, self.device)
        flow.train(
            nets,
            tables,
            lambda step: batches.draw(step, stage.fraction),
            self.empty(),
            self.plan.flow,
            stage,
            self.source.amp,
            state,
            said,
            self.plan.is_graphed,
        )

    def distil(self) -> None:
        """Guidance distillation from the averaged flow nets."""
        try:
            self._distil(self.plan.is_graphed)
            return
        except RuntimeError:
            if not (self.plan.is_graphed and self.device.type == "cuda"):
                raise
            _LOG.exception("distil failed as captured graphs; once more without")
        self._distil(is_graphed=False)

    def _distil(self, is_graphed: bool) -> None:
        after_s = self.plan.after_distil_s
        total_s = min(self.plan.distil_s, self.left_s - after_s - self.plan.start_s)
        if total_s <= 0:
            _LOG.info("no time is left for distil: %.0f s until the deadline", self.left_s)
            return
        teacher = self._averaged()
        nets = self._averaged()
        state = flow.RunState(nets.transformer.parameters, self.plan.distil.lr)
        if self.is_compiled:
            flow.compile_transformer(nets)
            flow.compile_transformer(teacher)
        stage = Stage(
            "distil", total_s, deadline=self._end - after_s, log_every=100,
            save=lambda _: self._keep_distilled(nets, state), save_every_s=40.0,
        )  # fmt: skip
        tables = flow.Conditioner(self.spec, self.device)
        numbers = self.plan.distil
        rounds = distil.Rounds(teacher, tables, self.empty(), self.captions, numbers, self.source.amp)
        distil.train(nets, tables, rounds, numbers, stage, self.source.amp, state, is_graphed)

    def export(self) -> None:
        """Writes the model's files in bfloat16, in the true layouts, to `out`/export."""
        nets, is_distilled = self._newest()
        facts = self._facts() | {"is_guidance_distilled": is_distilled}
        ae = None if facts["is_adopted"] else self.ae().state()
        export.write(self.out / "export", nets.state(), ae, facts)

    def evaluate(self) -> None:
        """Figures on held-out captions and sheets, of the newest nets and of the base that they came from."""
        newest, is_distilled = self._newest()
        truth = self.held_out()
        pictures = evaluate.Pictures(
            self.ae(), self.config(), flow.Conditioner(self.spec, self.device), self.empty(), self.source.amp
        )
        figures: dict[str, dict[str, float]] = {}
        for setting in evaluate.SETTINGS:
            is_base = setting.is_base or not is_distilled
            if self.left_s < evaluate.SECONDS_A_SETTING or (setting.is_base and not is_distilled):
                continue
            nets = self._averaged() if is_base else newest
            images = pictures.draw(nets, truth.captions, setting, is_guided_twice=is_base)
            figures[setting.name] = evaluate.score(self.eye(), images, truth, self.source.amp)
            _LOG.info("%s %s", setting.name, figures[setting.name])
            evaluate.save_sheet(images[:64], self.out / f"{setting.name}.jpg")
            facts = {"is_guidance_distilled": is_distilled, "figures": figures}
            (self.out / "figures.json").write_text(json.dumps(facts, indent=1))
            if setting is evaluate.SETTINGS[0] and self.left_s > evaluate.SECONDS_A_SETTING:
                self._sheets(pictures, newest, is_guided_twice=is_base)

    def _sheets(self, pictures: evaluate.Pictures, nets: flow.FlowNets, is_guided_twice: bool) -> None:
        """One picture of every object, with the names that the judge misses; and prompts of all kinds."""
        setting = evaluate.SETTINGS[0]
        prompts = evaluate.object_prompts(self.source.pack)
        images = pictures.draw(nets, self.encode(prompts), setting, is_guided_twice)
        evaluate.save_sheet(images, self.out / "objects.jpg", columns=10)
        missed = evaluate.missed_objects(self.eye(), images, self.source.pack.names, self.source.amp)
        _LOG.info("objects that the judge sees: all of %d but %s", len(prompts), ", ".join(missed) or "none")
        images = pictures.draw(nets, self.encode(evaluate.SHEET_PROMPTS * 2), setting, is_guided_twice)
        evaluate.save_sheet(images, self.out / "prompts.jpg")

    # --- what stages share ------------------------------------------------------------------------
    def eye(self) -> judge.Judge:
        """The judge, from this run or from its checkpoint."""
        if self._judge is None:
            self._judge = judge.Judge(feed.LABELS).to(self.device)
            self._judge.load_state_dict(checkpoint.load(self.work / "judge.safetensors", self.device)[0])
        return self._judge.eval()

    def ae(self) -> autoencoder.AutoencoderNets:
        """The autoencoder, eager, from this run or from its checkpoint."""
        if self._ae is None:
            self._ae = autoencoder.build(self.spec.autoencoder, self.device, is_compiled=False)
            self._ae.load(checkpoint.load(self.work / "ae.safetensors", self.device)[0])
        return self._ae

    def config(self) -> AutoencoderConfig:
        """The autoencoder's numbers with the measured shift and scale."""
        facts = self._facts()
        return dataclasses.replace(self.spec.autoencoder, shift=facts["shift"], scale=facts["scale"])

    def latents(self, count: int, size_px: tuple[int, int]) -> tuple[Tensor, Captions]:
        """Normalised, packed latents of new scenes."""
        scenes = self.source.scenes(count, size_px)
        config = self.config()
        z = (autoencoder.encode(self.ae(), scenes.images, self.source.amp) - config.shift) * config.scale
        return pack(self.ae().encoder.model.ops, z), scenes.captions

    def captions(self, count: int) -> Captions:
        """Captions of new scenes."""
        return captions_of(self.source.arrays(count))

    def encode(self, prompts: Sequence[str]) -> Captions:
        """Prompts as token ids on the device."""
        t5, clip, end = zip(*(self.words.encode(prompt) for prompt in prompts), strict=True)
        return Captions(*(torch.tensor(column, device=self.device) for column in (t5, clip, end)))

    def empty(self) -> Captions:
        """The empty prompt."""
        return self.encode([""])

    def held_out(self) -> Scenes:
        """Fixed scenes that training does not see (their seed is their own), drawn at 256 px."""
        return self.source.draw(self.held_out_arrays(), (256, 256))

    def held_out_arrays(self) -> dict[str, Tensor]:
        """Their descriptions."""
        sampler = Sampler(self.source.pack)
        scenes, captions = zip(*held_out_captions(sampler, self.plan.held_out), strict=True)
        arrays = feed.arrays(sampler, list(scenes), list(captions), self.words)
        return to_device(arrays, self.device)

    def _photo_psnr(self) -> float:
        crops = torch.stack([self.source.photo_crop(256) for _ in range(max(1, self.plan.held_out // 8))])
        z = autoencoder.encode(self.ae(), crops, self.source.amp, chunk=32)
        return autoencoder.psnr(autoencoder.decode(self.ae(), z, self.source.amp, chunk=32), crops)

    def sentences(self) -> text.Sentences:
        """What captions and instructions say, with fresh heads."""
        if self._sentences is None:
            asked = SceneSource(
                self.pack, self.device, self.num_workers, 9000, make=pairs.instructions, like=self.source
            )
            try:
                self._sentences = text.Sentences(
                    self.source, asked, self.plan.sentences, self.spec.t5.d_model, self.spec.clip.hidden_size
                )
            finally:
                asked.close()
        return self._sentences

    def bundled_nets(self) -> flow.FlowNets:
        """A copy of the base that ships."""
        nets, files = flow.build(self.spec, self.device), self.spec.files
        for net, place in (
            (nets.transformer, files.transformer),
            (nets.t5, files.t5),
            (nets.clip, files.clip),
        ):
            net.load(load_file(self.bundled / place, device=str(self.device)))
        return nets

    def _bundled_autoencoder(self) -> autoencoder.AutoencoderNets:
        nets = autoencoder.build(self.spec.autoencoder, self.device, is_compiled=False)
        nets.load(load_file(self.bundled / self.spec.files.autoencoder, device=str(self.device)))
        return nets

    def _facts(self) -> dict[str, Any]:
        return json.loads((self.work / "ae.json").read_text())

    def _newest(self) -> tuple[flow.FlowNets, bool]:
        """The distilled nets where there are some, else the averaged ones of flow; and whether distilled."""
        path = self.work / "distilled.safetensors"
        if not path.exists():
            return self._averaged(), False
        nets = flow.build(self.spec, self.device)
        nets.load(checkpoint.load(path, self.device)[0])
        return nets, True

    def _keep(self, path: Path, state: flow.RunState, stage: Stage) -> None:
        mean = dict(zip(state.parameters, state.average.mean, strict=True))
        tensors = {f"live/{name}": p for name, p in state.parameters.items()}
        tensors |= {f"mean/{name}": p for name, p in mean.items()}
        tensors |= checkpoint.optimiser_tensors(state.optimiser, "optimiser/")
        checkpoint.save(path, tensors, {"used_s": stage.used_s, "step": stage.step})
        facts = self._facts() | {"is_guidance_distilled": False, "step": stage.step}
        ae = None if facts["is_adopted"] else self.ae().state()
        export.write(self.out / "insurance", mean, ae, facts)
        _LOG.info("flow stands at step %d, %.0f of %.0f s", stage.step, stage.used_s, stage.total_s)

    def _keep_distilled(self, nets: flow.FlowNets, state: flow.RunState) -> None:
        state.average.swap()
        checkpoint.save(self.work / "distilled.safetensors", nets.state())
        state.average.swap()

    @torch.no_grad()
    def _resume(self, path: Path, state: flow.RunState) -> tuple[float, int]:
        tensors, facts = checkpoint.load(path, self.device)
        for name, parameter in state.parameters.items():
            parameter.copy_(tensors[f"live/{name}"])
        state.average.mean = [tensors[f"mean/{name}"] for name in state.parameters]
        checkpoint.load_optimiser(state.optimiser, tensors, "optimiser/")
        return facts["used_s"], facts["step"]

    def _averaged(self) -> flow.FlowNets:
        nets = flow.build(self.spec, self.device)
        tensors, _ = checkpoint.load(self.work / "flow.safetensors", self.device)
        nets.load({name: tensors[f"mean/{name}"] for name in nets.parameters})
        return nets

"""Trains the bundled model, stage by stage: `python -m backends.torch_cuda.training.run --help`.

Stages: judge, autoencoder, text, flow, distil, evaluate, export. Each leaves a checkpoint in the work
folder and starts from what is there, so a run may be cut anywhere and goes on; a deadline ends a run
in time on a machine that is lent by the minute. The stage warm only compiles; run it beside the others.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from backends.torch_cuda.training import autoencoder, checkpoint, distil, evaluate, flow, judge, text, warm
from backends.torch_cuda.training.clock import Stage
from backends.torch_cuda.training.data import feed, word_ids
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
STAGES = ("warm", "judge", "autoencoder", "text", "flow", "distil", "evaluate", "export")


class Run:
    """One process's share of the training.

    Args:
        plan: Seconds and sizes.
        pack: Data pack.
        work: Checkpoints.
        out: Sheets, figures, exported weights.
        deadline_s: Seconds from now at which stages stop early; leave time to save and export.
        spec: Sizes of the model.
    """

    def __init__(
        self, plan: Plan, pack: Path, work: Path, out: Path, deadline_s: float, spec: ModelSpec = TINY
    ) -> None:
        self.plan = plan
        self.work = work
        self.out = out
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.is_compiled = self.device.type == "cuda"
        self._end = time.monotonic() + deadline_s
        workers = 13 if self.device.type == "cuda" else 1
        self.source = SceneSource(pack, self.device, num_workers=workers, seed=1000 + int(time.time()) % 1000)
        self.words = word_ids.committed()
        self.spec = spec
        self._judge: judge.Judge | None = None
        self._ae: autoencoder.AutoencoderNets | None = None

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self._end - time.monotonic()

    # --- stages ---------------------------------------------------------------------------------
    def warm(self) -> None:
        """Compiles what the later stages need; for a process that runs beside them."""
        warm.compile_ahead(self.spec, self.plan, self.source, self.empty())

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
        checkpoint.save(self.work / "ae.safetensors", nets.state(), facts)
        shown = {key: facts[key] for key in ("shift", "scale", "psnr_db", "photo_psnr_db")}
        _LOG.info(
            "autoencoder: %s judge on it: %s",
            shown,
            evaluate.score(self.eye(), again, truth, self.source.amp),
        )
        pairs = torch.stack([truth.images[:24], again[:24]], dim=1).flatten(0, 1)
        evaluate.save_sheet(pairs, self.out / "autoencoder.jpg")

    def text(self) -> None:
        """Head start for the text encoders; leaves a complete fresh set of flow nets."""
        nets = flow.build(self.spec, self.device)
        stage = Stage("text", self.plan.text_s, deadline=self._end, log_every=100)
        tables = flow.Conditioner(self.spec, self.device)
        text.train(nets, tables, self.source, feed.LABELS, stage, self.source.amp)
        checkpoint.save(self.work / "flow_start.safetensors", nets.state())

    def flow(self) -> None:
        """Flow matching; may stop at the deadline and go on in another run."""
        nets = flow.build(self.spec, self.device)
        state = flow.RunState(nets.parameters, self.plan.flow.lr)
        saved = self.work / "flow.safetensors"
        used_s, first = 0.0, 0
        if saved.exists():
            used_s, first = self._resume(saved, nets, state)
        else:
            tensors, _ = checkpoint.load(self.work / "flow_start.safetensors", self.device)
            nets.load(tensors)
            state = flow.RunState(nets.parameters, self.plan.flow.lr)
        if used_s >= self.plan.flow_s:
            return
        if self.is_compiled:
            flow.compile_nets(nets)
        batches = Batches(self.plan, self.latents)
        stage = Stage(
            "flow", self.plan.flow_s, used_s, first, self._end, log_every=500,
            save=lambda stage: self._keep(saved, nets, state, stage),
        )  # fmt: skip
        batches.prepare(self.plan.small_until <= stage.fraction)
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
            self.plan.is_graphed,
        )

    def distil(self) -> None:
        """Guidance distillation from the averaged flow nets."""
        teacher = self._averaged()
        nets = self._averaged()
        state = flow.RunState(nets.transformer.parameters, self.plan.distil.lr)
        if self.is_compiled:
            flow.compile_nets(nets)
            flow.compile_nets(teacher)
        stage = Stage(
            "distil", self.plan.distil_s, deadline=self._end, log_every=100,
            save=lambda _: self._keep_distilled(nets, state),
        )  # fmt: skip
        tables = flow.Conditioner(self.spec, self.device)
        rounds = distil.Rounds(
            teacher, tables, self.empty(), self.captions, self.plan.distil, self.source.amp
        )
        distil.train(
            nets, tables, rounds, self.plan.distil, stage, self.source.amp, state, self.plan.is_graphed
        )

    def evaluate(self) -> None:
        """Figures on held-out captions and sheets, of the newest nets there are."""
        distilled = self.work / "distilled.safetensors"
        is_distilled = distilled.exists()
        nets = flow.build(self.spec, self.device)
        if is_distilled:
            nets.load(checkpoint.load(distilled, self.device)[0])
        else:
            nets = self._averaged()
        tables = flow.Conditioner(self.spec, self.device)
        truth = self.held_out()
        empty = None if is_distilled else self.empty()
        figures: dict[str, dict[str, float]] = {}
        for num_steps, guidance, side in (
            (20, 3.5, 256),
            (20, 2.0, 256),
            (20, 5.0, 256),
            (8, 3.5, 256),
            (20, 3.5, 128),
        ):
            images = evaluate.draw(
                nets, self.ae(), self.config(), tables, truth.captions, self.source.amp,
                num_steps=num_steps, guidance=guidance, side_px=side, empty=empty,
            )  # fmt: skip
            name = f"{side}px_{num_steps}steps_g{guidance}"
            figures[name] = evaluate.score(self.eye(), images, truth, self.source.amp)
            _LOG.info("%s %s", name, figures[name])
            if (num_steps, guidance) == (20, 3.5):
                evaluate.save_sheet(images[:64], self.out / f"held_out_{side}.jpg")
        captions = self.encode(evaluate.SHEET_PROMPTS * 2)
        images = evaluate.draw(
            nets,
            self.ae(),
            self.config(),
            tables,
            captions,
            self.source.amp,
            num_steps=20,
            guidance=3.5,
            empty=empty,
        )
        evaluate.save_sheet(images, self.out / "prompts.jpg")
        (self.out / "figures.json").write_text(
            json.dumps({"distilled": is_distilled, "figures": figures}, indent=1)
        )

    def export(self) -> None:
        """Writes the bundled model's files in bfloat16, in the true layouts."""
        nets = flow.build(self.spec, self.device)
        distilled = self.work / "distilled.safetensors"
        nets = self._averaged() if not distilled.exists() else nets
        if distilled.exists():
            nets.load(checkpoint.load(distilled, self.device)[0])
        parts = {
            "transformer": nets.transformer.state(),
            "text_encoder_2": nets.t5.state(),
            "text_encoder": nets.clip.state(),
            "ae": self.ae().state(),
        }
        for name, state in parts.items():
            half = {key: value.to(torch.bfloat16).contiguous() for key, value in state.items()}
            for index, shard in enumerate(_shards(half, 14 << 20)):
                checkpoint.save(self.out / f"{name}.{index}.safetensors", shard)
        facts = json.loads((self.work / "ae.json").read_text())
        (self.out / "ae.json").write_text(json.dumps(facts))

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
        facts = json.loads((self.work / "ae.json").read_text())
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
        sampler = Sampler(self.source.pack)
        scenes, captions = zip(*held_out_captions(sampler, self.plan.held_out), strict=True)
        arrays = feed.arrays(sampler, list(scenes), list(captions), self.words)
        return self.source.draw(to_device(arrays, self.device), (256, 256))

    def _photo_psnr(self) -> float:
        crops = torch.stack([self.source._photo_crop(256) for _ in range(max(1, self.plan.held_out // 8))])
        z = autoencoder.encode(self.ae(), crops, self.source.amp, chunk=32)
        return autoencoder.psnr(autoencoder.decode(self.ae(), z, self.source.amp, chunk=32), crops)

    def _keep(self, path: Path, nets: flow.FlowNets, state: flow.RunState, stage: Stage) -> None:
        names = list(nets.parameters)
        tensors = {f"live/{name}": p for name, p in nets.parameters.items()}
        tensors |= {f"mean/{name}": p for name, p in zip(names, state.average.mean, strict=True)}
        tensors |= checkpoint.optimiser_tensors(state.optimiser, "optimiser/")
        checkpoint.save(path, tensors, {"used_s": stage.used_s, "step": stage.step})
        _LOG.info("flow stands at step %d, %.0f of %.0f s", stage.step, stage.used_s, stage.total_s)

    def _keep_distilled(self, nets: flow.FlowNets, state: flow.RunState) -> None:
        state.average.swap()
        checkpoint.save(self.work / "distilled.safetensors", nets.state())
        state.average.swap()

    def _resume(self, path: Path, nets: flow.FlowNets, state: flow.RunState) -> tuple[float, int]:
        tensors, facts = checkpoint.load(path, self.device)
        nets.load({name: tensors[f"live/{name}"] for name in nets.parameters})
        state.average.mean = [tensors[f"mean/{name}"] for name in nets.parameters]
        checkpoint.load_optimiser(state.optimiser, tensors, "optimiser/")
        return facts["used_s"], facts["step"]

    def _averaged(self) -> flow.FlowNets:
        nets = flow.build(self.spec, self.device)
        tensors, _ = checkpoint.load(self.work / "flow.safetensors", self.device)
        nets.load({name: tensors[f"mean/{name}"] for name in nets.parameters})
        return nets


def _shards(state: dict[str, Tensor], limit_bytes: int) -> list[dict[str, Tensor]]:
    """Tensors in order, in groups of at most `limit_bytes`, for transports that limit a file's size."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        length = tensor.numel() * tensor.element_size()
        if shards[-1] and size + length > limit_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += length
    return shards


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", default=",".join(STAGES[1:]), help="comma-separated, in order")
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plan", type=Path, help="JSON with fields of Plan to replace")
    parser.add_argument("--deadline-s", type=float, default=1e9)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(relativeCreated)8d %(message)s",
        handlers=[logging.StreamHandler(), logging.FileHandler(arguments.out / "log.txt")],
    )
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch._dynamo.config.recompile_limit = 64
    run = Run(Plan.read(arguments.plan), arguments.pack, arguments.work, arguments.out, arguments.deadline_s)
    try:
        for name in arguments.stages.split(","):
            if name not in STAGES:
                raise SystemExit(f"There is no stage {name!r}. Choose from {', '.join(STAGES)}.")
            _LOG.info("--- %s (%.0f s left)", name, run.left_s)
            getattr(run, name)()
    finally:
        run.source.close()


if __name__ == "__main__":
    main()

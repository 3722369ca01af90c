"""A picture that several processes compute is the picture of one, and a process that dies costs one job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from backends.torch_cuda.bench.weights import write_lora
from backends.torch_cuda.engine import TorchEngine
from backends.torch_cuda.ops import nothing
from backends.torch_cuda.split.direct import DirectLinks
from backends.torch_cuda.split.links import Links, Passage, way_between
from backends.torch_cuda.split.ops import Exchange
from backends.torch_cuda.split.shares import Shares
from flux_core import catalog
from flux_core.errors import EngineDied
from flux_core.messages import Preview, Progress, Stage
from flux_core.models.transformer import ImagePrompt, Residuals
from flux_core.pipeline.conditions import Conditions
from flux_core.pipeline.job import Job
from flux_core.plan import Component, PartKey
from flux_core.request import LoraUse, Precision, StepCache, Task
from tests.support.engine_runs import Run, run, scene
from tests.support.tiny_random import MICRO, write_models_dir

SPEC = replace(
    MICRO,
    model="six",
    tasks=(Task.GENERATE, Task.EDIT),
    num_steps=12,
    transformer=replace(MICRO.transformer, hidden_size=96, num_heads=6),
)
"""Six heads, for two ranks and for three."""


class Kept(TorchEngine):
    """An engine that keeps what its last walk came to."""

    walked: Tensor

    def _walk(self, job: Job, conditions: Conditions) -> list[Any]:
        found = super()._walk(job, conditions)
        self.walked = found[0]
        return found

    @property
    def team(self) -> Any:
        assert self._team is not None
        return self._team

    def compute_in_eight_bits(self) -> None:
        backend: Any = self._backend
        backend.has_fp8 = self._has_fp8 = True  # what the hardware would give, slowly


two_gpus = pytest.mark.skipif(
    torch.cuda.device_count() < 2 or way_between(["cuda:0", "cuda:1"]) != "direct",
    reason="NOT TESTED HERE: needs two CUDA devices that reach each other",
)


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = write_models_dir(tmp_path_factory.mktemp("models"), SPEC)
    write_models_dir(base, MICRO)
    write_lora(base / "loras" / "some.safetensors", SPEC, rank=2)
    return base


@pytest.fixture(scope="module")
def alone(models_dir: Path) -> Kept:
    engine = Kept("cpu", (models_dir,))
    engine.compute_in_eight_bits()
    return engine


@pytest.fixture(scope="module")
def ranks(models_dir: Path) -> Generator[dict[int, Kept]]:
    """Engines by their number of ranks, started at the same time."""
    engines = {count: Kept("cpu", (models_dir,), others=("cpu",) * (count - 1)) for count in (2, 3)}
    for engine in engines.values():
        engine.compute_in_eight_bits()
    yield engines
    for engine in engines.values():
        engine.close()


@pytest.fixture(params=[2, 3])
def together(request: pytest.FixtureRequest, ranks: dict[int, Kept]) -> Kept:
    return ranks[request.param]


@pytest.fixture(autouse=True)
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    for spec in (SPEC, MICRO):
        monkeypatch.setitem(catalog.MODELS, spec.model, spec)


def distance(one: Tensor, other: Tensor) -> float:
    """Of what two walks came to, relative."""
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("tokens", [(8, 8), (33, 15), (512, 4095)])
def test_every_token_is_computed_by_one_rank(ranks: int, tokens: tuple[int, int]) -> None:
    shares = Shares(*tokens, ranks)
    pe = torch.arange(sum(tokens))
    parts = [shares.rows_of(rank, pe) for rank in range(ranks)]
    assert sorted(torch.cat(parts).tolist()) == pe.tolist()
    assert [len(part) for part in parts] == shares.counts
    assert max(shares.counts) - min(shares.counts) <= 2
    image = torch.arange(tokens[1])
    assert torch.equal(shares.merged(torch.cat([image[shares.of(rank)] for rank in range(ranks)])), image)


class Noted(Links):
    """A rank's end that only notes what it is to give."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.device = rank, size, torch.device("cpu")

    def give(
        self, passage: Passage, given: Tensor, landing: Tensor, is_awaited: bool = False
    ) -> Callable[[], None]:
        self.noted = passage, given, landing
        return lambda: None


def pass_on(ends: list[Noted]) -> None:
    """Writes what each rank gives to where the others expect it, as devices do that reach each other."""
    for giver in ends:
        passage, rows, _ = giver.noted
        for taker in ends:
            if taker is not giver:
                count, place = passage.counts[giver.rank][taker.rank], passage.place(giver.rank, taker.rank)
                taker.noted[2][place : place + count] = rows[:count]
                rows = rows[count:]
        assert len(rows) == 0


@pytest.mark.parametrize("counts", [[3, 3], [4, 3], [5, 4, 4], [1, 2, 3, 4]])
def test_rows_land_where_the_ranks_that_need_them_look_for_them(counts: list[int]) -> None:
    ranks = range(len(counts))
    ends = [Noted(rank, len(counts)) for rank in ranks]
    exchanges = [Exchange(end, counts, 2 * len(counts)) for end in ends]
    others = {rank: [other for other in ranks if other != rank] for rank in ranks}
    token = [torch.arange(count) + 10 * rank for rank, count in enumerate(counts)]
    packed = []
    for rank, exchange in enumerate(exchanges):
        rows = exchange.empty(torch.empty(0), 1)
        # For each rank in order what its heads need, the rank's own last; 1000 * taker + token.
        order = [*others[rank], rank]
        rows[: len(order) * counts[rank]] = torch.cat([1000 * to + token[rank] for to in order])[
            :, None, None, None
        ]
        packed.append(exchange.sent(rows, is_awaited=True))
    pass_on(ends)
    for rank, exchange in enumerate(exchanges):
        wanted = 1000 * rank + torch.cat([token[each] for each in (rank, *others[rank])])
        for part in exchange.received(packed[rank]):
            assert part[0, :, :, 0].tolist() == [wanted.tolist()] * 2
    for rank, exchange in enumerate(exchanges):
        out = 1000 * rank + torch.cat([token[each] for each in (rank, *others[rank])])
        exchange.returned(out[None, :, None].float(), nothing)
    pass_on(ends)
    for rank in ranks:
        wanted = torch.cat([1000 * other + token[rank] for other in others[rank]])
        assert ends[rank].noted[2].flatten().tolist() == wanted.tolist()


class Beside(DirectLinks):
    """A rank's end whose rooms are the processor's, and which writes at once."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.device = rank, size, torch.device("cpu")
        self._rooms: dict[str, Any] = {}

    def reach(self, rooms: list[Tensor]) -> None:
        others = {rank: room for rank, room in enumerate(rooms) if rank != self.rank}
        self._rooms["answers"] = [
            SimpleNamespace(own=rooms[self.rank], others=others, size=len(rooms[self.rank]))
        ]

    def _moved(
        self, name: str, moves: Any, is_awaited: bool, own: tuple[Tensor, Tensor] | None = None
    ) -> Callable[[], None]:
        for rows, there in [*moves, own]:
            there.copy_(rows)
        return lambda: None


@pytest.mark.parametrize("counts", [[3, 3], [4, 3], [5, 4, 4], [1, 2, 3, 4]])
def test_answers_land_side_by_side_in_order_of_the_ranks(counts: list[int]) -> None:
    num = len(counts)
    ends = [Beside(rank, num) for rank in range(num)]
    rooms = [torch.zeros(max(counts) * num * 2 * 4, dtype=torch.uint8) for _ in ends]
    taken: list[Callable[[], Tensor]] = []
    for giver, end in enumerate(ends):
        end.reach(rooms)
        order = [giver, *(rank for rank in range(num) if rank != giver)]
        # 100 * who wants it + 10 * its token + who gives it, in two columns.
        rows = [[100 * to + 10 * token + giver] * 2 for to in order for token in range(counts[to])]
        taken.append(end.joined("answers", torch.tensor(rows, dtype=torch.float32), counts))
    for rank, take in enumerate(taken):
        wanted = [
            [100.0 * rank + 10 * token + giver for giver in range(num) for _ in range(2)]
            for token in range(counts[rank])
        ]
        assert take().tolist() == wanted


@two_gpus
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP8])
def test_two_gpus_come_to_what_one_comes_to(models_dir: Path, precision: Precision) -> None:
    """By copies from memory to memory, recorded ones too, and after landings have grown."""
    alone, pair = Kept("cuda:0", (models_dir,)), Kept("cuda:0", (models_dir,), others=("cuda:1",))
    with closing(pair):
        for side_px in (96, 1024, 96):
            for engine in (alone, pair):
                paint(engine, width_px=side_px, precision=precision, num_steps=4)
            assert pair.team.was_split
            assert isinstance(pair.team.crew.links, DirectLinks)
            assert distance(pair.walked, alone.walked) < (2e-2 if precision is Precision.FP8 else 1e-5)


@two_gpus
def test_a_rank_on_a_gpu_that_is_killed_costs_one_job(models_dir: Path) -> None:
    alone, pair = Kept("cuda:0", (models_dir,)), Kept("cuda:0", (models_dir,), others=("cuda:1",))
    with closing(pair):
        paint(pair, precision=Precision.FP32)

        def kill(message: Progress | Preview) -> None:
            if isinstance(message, Progress) and message.stage is Stage.DENOISING and message.step == 2:
                os.kill(pair.team.crew.pids[0], signal.SIGKILL)

        with pytest.raises(EngineDied, match="was ended by SIGKILL"):
            paint(pair, on_message=kill, precision=Precision.FP32, num_steps=12)  # the third is on its way
        for engine in (alone, pair):
            paint(engine, precision=Precision.FP32)
        assert pair.team.was_split
        assert distance(pair.walked, alone.walked) < 1e-5


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"width_px": 80, "height_px": 144},  # 45 tokens
        {"task": Task.EDIT, "image": scene(80, 64)},
        {"loras": (LoraUse(name="some", strength=0.5),)},
        {"precision": Precision.FP8},
        {"num_steps": 12, "step_cache": StepCache.FAST},
    ],
    ids=["plain", "odd", "with a reference", "with a LoRA", "in eight bits", "with a step cache"],
)
def test_ranks_come_to_what_one_comes_to(alone: Kept, together: Kept, fields: dict[str, Any]) -> None:
    # A code of eight bits may be the next one where a sum is rounded otherwise, which few draws have.
    seeds = (3, 4, 5) if fields.get("precision") is Precision.FP8 else (3,)
    distances: list[float] = []
    for seed in seeds:
        for engine in (alone, together):
            paint(engine, **fields, seed=seed)
        assert together.team.was_split
        distances.append(distance(together.walked, alone.walked))
    assert median(distances) < 1e-5


def test_what_steers_the_model_is_split_with_it(together: Kept) -> None:
    paint(together)
    model = together._bench.parts.get(PartKey(Component.TRANSFORMER))
    config, picture, references, words = SPEC.transformer, 45, 6, 25
    make = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=make)

    tokens, head_dim = words + picture + references, config.hidden_size // config.num_heads
    rows = model.modulations(draw(1, config.vec_in_dim), torch.tensor([0.5]), torch.tensor([3.5]))
    given = (
        draw(1, picture + references, config.in_channels),
        draw(1, words, config.context_in_dim),
        rows,
        draw(tokens, head_dim // 2, 2),
    )
    double, single = draw(2, 1, picture, config.hidden_size)
    k, v = draw(2, 1, config.num_heads, 3, head_dim)
    told: dict[str, Any] = {
        "residuals": [Residuals([double], [single])],
        "image_prompts": [[ImagePrompt(k, v, 0.5)]],
        "bias": draw(1, 1, tokens, tokens),
    }
    with torch.inference_mode():
        found, wanted = together.team.ready(model.modulated)(*given, **told), model.modulated(*given, **told)
        plain = model.modulated(*given)
    assert distance(found, wanted) < 1e-5 < distance(plain, wanted)


def test_a_handful_of_tokens_is_computed_alone(alone: Kept, ranks: dict[int, Kept]) -> None:
    for engine in (alone, ranks[3]):
        paint(engine, width_px=64, height_px=64)
    assert not ranks[3].team.was_split
    assert torch.equal(ranks[3].walked, alone.walked)


def test_heads_that_cannot_be_dealt_are_computed_alone(alone: Kept, ranks: dict[int, Kept]) -> None:
    for engine in (alone, ranks[3]):
        paint(engine, model=MICRO.model)
    assert not ranks[3].team.was_split
    assert torch.equal(ranks[3].walked, alone.walked)


def test_a_rank_that_is_killed_costs_one_job_and_is_there_for_the_next(
    alone: Kept, ranks: dict[int, Kept]
) -> None:
    pair = ranks[2]

    def kill(message: Progress | Preview) -> None:
        if isinstance(message, Progress) and message.stage is Stage.DENOISING and message.step == 1:
            os.kill(pair.team.crew.pids[0], signal.SIGKILL)

    with pytest.raises(EngineDied, match="cpu was ended by SIGKILL"):
        paint(pair, on_message=kill)
    for engine in (alone, pair):
        paint(engine)
    assert pair.team.was_split
    assert distance(pair.walked, alone.walked) < 1e-5


def test_a_rank_that_is_lost_before_the_walk_is_told_and_done_without(
    alone: Kept, ranks: dict[int, Kept]
) -> None:
    pair, killed = ranks[2], list[int]()

    def kill(message: Progress | Preview) -> None:
        if isinstance(message, Progress) and message.stage is Stage.LOADING and not killed:
            killed.append(pair.team.crew.pids[0])
            os.kill(killed[0], signal.SIGKILL)

    for engine in (alone, pair):
        engine.release()
    paint(alone)
    result = paint(pair, on_message=kill).result
    assert any("alone" in warning for warning in result.warnings)
    assert torch.equal(pair.walked, alone.walked)


def test_no_rank_outlives_the_engine_s_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "backends.torch_cuda.split", "--device", "cpu", "--rank", "1"]
    command += ["--size", "2", "--way", "gloo", "--meet", str(tmp_path / "ranks")]
    code = (
        "import subprocess, sys; pipe = subprocess.PIPE\n"
        f"follower = subprocess.Popen({command!r}, stdin=pipe, stdout=pipe)\n"
        "print(follower.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    follower = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    follower.wait(30.0)


def paint(engine: Kept, **fields: Any) -> Run:
    return run(engine, **{"model": SPEC.model, "seed": 3, "width_px": 96, "height_px": 80, **fields})

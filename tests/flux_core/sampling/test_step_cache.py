"""Steps that take over earlier results: when, how often, and what that does to the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.torch_cuda.backend import TorchBackend
from flux_core.catalog import SCHNELL, TINY, TransformerConfig
from flux_core.conditioning.packing import pack, position_ids, rotary_table, unpack
from flux_core.conditioning.tokenize import ClipTokenizer, T5Tokenizer
from flux_core.models.t5 import relative_buckets
from flux_core.models.transformer import ImagePrompt, Residuals, Transformer
from flux_core.pipeline.workbench import as_it_is
from flux_core.request import Precision, Solver, StepCache
from flux_core.sampling.noise import seeded_noise
from flux_core.sampling.schedule import sigmas
from flux_core.sampling.solvers import evaluations_of, walk
from flux_core.sampling.step_cache import PRESETS, BlockCache, Preset, Sparing, is_worth_it
from flux_core.weights import components
from flux_core.weights.expected import expected_shapes
from tests.support.engine_runs import psnr_db
from tests.support.numerics import BACKENDS, ArraySource, make_backend, random_weights
from tests.support.oracle import OracleBackend

BUNDLED = Path(__file__).parents[3] / "resources" / "models" / "tiny"
CONFIG = TransformerConfig(
    hidden_size=32, num_heads=2, depth=3, depth_single=3, mlp_hidden=64, context_in_dim=20, vec_in_dim=12,
    axes_dim=(4, 6, 6),
)  # fmt: skip
TXT_LEN, IMG_LEN = 5, 24
ALWAYS = 1e9
STEPS = 12


class Micro:
    """A small random transformer on one backend, and everything it can be told."""

    def __init__(self, backend_name: str) -> None:
        self.backend: Any = OracleBackend() if backend_name == "oracle" else make_backend(backend_name)
        source = ArraySource(
            random_weights(expected_shapes(lambda ops, make: Transformer(ops, make, CONFIG)))
        )
        self.transformer = Transformer(self.backend.ops, self.backend.leaves(source, Precision.FP32), CONFIG)
        self.spared = Sparing(self.transformer, as_it_is).evaluated
        random = np.random.default_rng(1)

        def normal(*shape: int) -> Any:
            return self.backend.from_numpy(0.3 * random.standard_normal(shape).astype(np.float32))

        self.start = normal(1, IMG_LEN, 64)
        self.txt, self.vec = normal(1, TXT_LEN, 20), normal(1, 12)
        ids = position_ids(TXT_LEN, 8, 12)
        self.pe = self.backend.from_numpy(rotary_table(ids, CONFIG.axes_dim, CONFIG.theta))
        self.control = Residuals([normal(1, IMG_LEN, 32) for _ in range(3)], [normal(1, IMG_LEN, 32)])
        self.prompt = [
            ImagePrompt(normal(1, 2, 4, 16), normal(1, 2, 4, 16), 0.5) for _ in range(CONFIG.depth)
        ]
        length = TXT_LEN + IMG_LEN
        self.bias = normal(1, 1, length, length)

    def cache(self, threshold: float, max_run: int = 3, solver: Solver = Solver.EULER) -> BlockCache:
        return BlockCache(self.backend, Preset(threshold, max_run), solver, STEPS)

    def __call__(self, x: Any, sigma: float, cache: BlockCache | None = None, **told: Any) -> Any:
        level, guidance = (self.backend.from_numpy(np.full(1, v, np.float32)) for v in (sigma, 3.5))
        if cache is None:
            return self.transformer(x, self.txt, self.vec, level, guidance, self.pe, **told)
        rows = self.transformer.modulations(self.vec, level, guidance)
        return self.spared(x, self.txt, rows, self.pe, cache=cache, heard=None, **told)

    def walk(self, cache: BlockCache | None, solver: Solver = Solver.EULER) -> tuple[np.ndarray, list[int]]:
        """Where a walk ends, and the numbers of the evaluations that were taken over."""
        taken: list[int] = []

        def velocity(x: Any, sigma: float) -> Any:
            before = 0 if cache is None else cache.hits
            v = self(x, sigma, cache)
            if cache is not None and cache.hits > before:
                taken.append(cache.evaluations - 1)
            return v

        levels = sigmas(STEPS, 256, has_time_shift=True).tolist()
        with self.backend.session():
            out = walk(solver, self.backend, velocity, self.start, levels)
            return self.backend.to_numpy(out), taken


@pytest.fixture(params=BACKENDS)
def micro(request: pytest.FixtureRequest) -> Micro:
    return Micro(request.param)


def test_a_threshold_of_zero_is_the_walk_without_a_cache_to_the_last_bit(micro: Micro) -> None:
    whole, _ = micro.walk(None)
    cached, taken = micro.walk(micro.cache(0.0))
    assert taken == []
    assert np.array_equal(whole, cached)


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        (Solver.EULER, [1, 2, 3, 5, 6, 7, 9, 10]),
        (Solver.DPMPP_2M, [1, 2, 3, 5, 6, 7, 9, 10]),
        (Solver.HEUN, [2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16, 18, 19, 20]),
    ],
)
def test_without_a_threshold_all_is_taken_over_but_both_ends_and_every_fourth(
    micro: Micro, solver: Solver, expected: list[int]
) -> None:
    cache = micro.cache(ALWAYS, 3, solver)
    _, taken = micro.walk(cache, solver)
    assert taken == expected
    assert cache.hits == len(expected)
    assert cache.evaluations == evaluations_of(solver, STEPS)


def test_torch_mlx_and_the_oracle_decide_alike() -> None:
    """The effect of a random first block changes by half to all of itself from step to step."""
    runs = {name: Micro(name) for name in (*BACKENDS, "oracle")}
    decided = [[run.walk(run.cache(threshold))[1] for threshold in (0.7, 0.8)] for run in runs.values()]
    assert decided[0] == decided[1] == decided[2]
    few, many = decided[0]
    assert 0 < len(few) < len(many) < STEPS - 4


def test_all_that_a_model_can_be_told_is_still_in_what_is_taken_over(micro: Micro) -> None:
    """Asked the same again, it answers the same, with ControlNets, image prompts and regions."""
    told = {"residuals": [micro.control], "image_prompts": [micro.prompt], "bias": micro.bias}
    with micro.backend.session():
        cache = micro.cache(ALWAYS)
        first, again = (micro.backend.to_numpy(micro(micro.start, 0.5, cache, **told)) for _ in range(2))
        plain = micro.backend.to_numpy(micro(micro.start, 0.5))
    assert cache.hits == 1
    assert np.allclose(first, again, atol=1e-5)
    assert not np.allclose(first, plain, atol=1e-2)


def test_each_part_of_a_cached_evaluation_is_made_ready_once(micro: Micro) -> None:
    names: list[str] = []

    def ready(method: Any) -> Any:
        names.append(method.__name__)
        return method

    micro.spared = Sparing(micro.transformer, ready).evaluated
    whole, _ = micro.walk(None)
    cached, _ = micro.walk(micro.cache(0.0))
    assert names == ["begun", "rest", "finished"]
    assert np.array_equal(whole, cached)


@pytest.mark.parametrize("who", ["control", "prompt"])
def test_a_voice_that_begins_or_ends_is_heard_at_once(micro: Micro, who: str) -> None:
    told = {"residuals": [micro.control]} if who == "control" else {"image_prompts": [micro.prompt]}
    with micro.backend.session():
        cache = micro.cache(ALWAYS)
        for spoken in ({}, told, {}):
            cached = micro.backend.to_numpy(micro(micro.start, 0.5, cache, **spoken))
            assert np.array_equal(cached, micro.backend.to_numpy(micro(micro.start, 0.5, **spoken)))
    assert cache.hits == 0


def test_two_branches_do_not_disturb_each_other(micro: Micro) -> None:
    with micro.backend.session():
        caches = micro.cache(ALWAYS), micro.cache(ALWAYS)
        answers = [
            micro.backend.to_numpy(micro(x, 0.5, cache))
            for _ in range(2)
            for x, cache in zip((micro.start, micro.start * -1.0), caches, strict=True)
        ]
    assert [cache.hits for cache in caches] == [1, 1]
    assert np.allclose(answers[0], answers[2], atol=1e-5)
    assert np.allclose(answers[1], answers[3], atol=1e-5)


def test_a_cache_with_a_leader_takes_over_when_that_one_does(micro: Micro) -> None:
    with micro.backend.session():
        leader = micro.cache(0.6)
        follower = BlockCache(micro.backend, Preset(0.0, 3), Solver.EULER, STEPS, leader=leader)
        decided: list[tuple[bool, bool]] = []
        for sigma in sigmas(STEPS, 256, has_time_shift=True)[:-1]:
            for cache in (leader, follower):
                micro(micro.start, float(sigma), cache)
            decided.append((leader.is_hit, follower.is_hit))
    assert {True, False} == {led for led, _ in decided}
    assert all(led == followed for led, followed in decided)


@pytest.mark.parametrize(("target_tokens", "hits"), [(None, 1), (4, 0)])
def test_reference_pictures_that_stand_still_do_not_hide_that_the_picture_moves(
    target_tokens: int | None, hits: int
) -> None:
    """A fifth of the picture's effect changes, which is a fiftieth of that of all tokens."""
    cache = BlockCache(OracleBackend(), Preset(0.1, 3), Solver.EULER, STEPS, target_tokens)
    before = np.zeros((1, 40, 8))
    after = np.ones((1, 40, 8))
    moved = after.copy()
    moved[:, :4] *= 1.2
    for effect in (after, moved):
        cache.through(before, effect, (), lambda: before)
    assert cache.hits == hits


def test_what_is_not_a_number_is_never_taken_over() -> None:
    cache = BlockCache(OracleBackend(), Preset(ALWAYS, 3), Solver.EULER, STEPS)
    after = np.full((1, 4, 8), np.nan)
    for _ in range(3):
        cache.through(np.zeros((1, 4, 8)), after, (), lambda: after)
    assert cache.hits == 0


def test_models_of_few_steps_and_walks_of_few_steps_take_nothing_over() -> None:
    assert is_worth_it(20, TINY)
    assert is_worth_it(10, TINY)
    assert not is_worth_it(9, TINY)
    assert not is_worth_it(50, SCHNELL)
    assert not is_worth_it(50, replace(TINY, num_steps=8))


def test_fast_takes_over_at_least_what_careful_does() -> None:
    careful, fast = PRESETS[StepCache.CAREFUL], PRESETS[StepCache.FAST]
    assert 0 < careful.threshold < fast.threshold
    assert careful.max_run <= fast.max_run
    assert StepCache.OFF not in PRESETS


# The bundled model


class Painter:
    """The bundled model's own two evaluations a step, 128 px wide, on torch."""

    SIDE = 16  # latents

    def __init__(self) -> None:
        self.backend = TorchBackend("cpu")
        where = TINY, BUNDLED, self.backend, Precision.FP32
        with self.backend.session():
            self.transformer = components.load_transformer(*where)
            self.clip, self.t5 = components.load_clip(*where), components.load_t5(*where)
            self.decoder = components.load_decoder(*where)
            self.texts = [self.encode(prompt) for prompt in ("a red apple on a blue background", "")]
            ids = position_ids(TINY.t5_tokens, self.SIDE, self.SIDE)
            table = rotary_table(ids, TINY.transformer.axes_dim, TINY.transformer.theta)
            self.pe = self.backend.from_numpy(table)

    def encode(self, prompt: str) -> tuple[Any, Any]:
        to_device = self.backend.from_numpy
        ids, end = ClipTokenizer(BUNDLED / TINY.files.clip_tokenizer, TINY.clip_tokens)(prompt)
        positions = np.arange(TINY.clip_tokens, dtype=np.int32)
        vec = self.clip(to_device(ids), to_device(positions), to_device(end))
        tokens = T5Tokenizer(BUNDLED / TINY.files.t5_tokenizer, TINY.t5_tokens)(prompt)
        buckets = relative_buckets(TINY.t5_tokens, TINY.t5)
        return self.t5(to_device(tokens), to_device(buckets)), vec

    def paint(self, preset: Preset | None, steps: int = 20) -> tuple[np.ndarray, list[int]]:
        """The picture, and the hits with and without the prompt."""
        backend = self.backend
        made: list[BlockCache] = []
        if preset is not None:
            made.append(BlockCache(backend, preset, Solver.EULER, steps))
            made.append(BlockCache(backend, preset, Solver.EULER, steps, leader=made[0]))
        evaluate = Sparing(self.transformer, as_it_is).evaluated if made else self.transformer.modulated
        caches: list[dict[str, Any]] = [{"cache": each, "heard": None} for each in made] or [{}, {}]
        guidance = backend.from_numpy(np.ones(1, np.float32)) if TINY.transformer.has_guidance else None

        def velocity(x: Any, sigma: float) -> Any:
            level = backend.from_numpy(np.full(1, sigma, np.float32))
            told, untold = (
                evaluate(x, text, self.transformer.modulations(vec, level, guidance), self.pe, **cached)
                for (text, vec), cached in zip(self.texts, caches, strict=True)
            )
            return untold + (told - untold) * TINY.guidance

        with backend.session():
            noise = backend.from_numpy(seeded_noise(7, self.SIDE, self.SIDE, 16))
            levels = sigmas(steps, self.SIDE**2 // 4, TINY.has_time_shift).tolist()
            x = walk(Solver.EULER, backend, velocity, pack(backend.ops, noise), levels)
            image = backend.to_numpy(self.decoder(unpack(backend.ops, x, self.SIDE, self.SIDE)))[0]
        return np.clip((image + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8), [cache.hits for cache in made]


def test_the_bundled_model_paints_nearly_the_same_picture_with_fewer_blocks() -> None:
    painter = Painter()
    whole, _ = painter.paint(None)
    careful, careful_hits = painter.paint(PRESETS[StepCache.CAREFUL])
    fast, fast_hits = painter.paint(PRESETS[StepCache.FAST])
    assert 0 < careful_hits[0] < fast_hits[0]
    assert careful_hits[0] == careful_hits[1]
    assert psnr_db(careful, whole) > 35
    assert psnr_db(careful, whole) > psnr_db(fast, whole) > 25

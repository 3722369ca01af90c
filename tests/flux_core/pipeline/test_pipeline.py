"""Whole requests on a random model, on every real engine."""

from __future__ import annotations

import base64
import dataclasses

import numpy as np
import pytest

from flux_core import catalog
from flux_core.errors import Cancelled, Corrupt, RequestInvalid
from flux_core.imaging import codec
from flux_core.messages import Preview, Progress, Stage
from flux_core.pipeline import FluxEngine
from flux_core.request import Task
from tests.support.engine_runs import psnr_db, run, scene
from tests.support.tiny_random import MICRO

PICTURE = scene(64, 64)


def round_trip(engine: FluxEngine, picture: np.ndarray) -> np.ndarray:
    """What the autoencoder alone makes of a picture: a mask too weak for one step of three frees nothing."""
    mask = np.full(picture.shape[:2], 1, dtype=np.uint8)
    return run(engine, task=Task.FILL, image=picture, mask=mask).pixels


def test_the_same_request_gives_the_same_bytes(engine: FluxEngine) -> None:
    first, second = (run(engine, prompt="a red apple", seed=7).result.images[0].png for _ in range(2))
    assert first == second


def test_another_seed_or_prompt_gives_another_picture(engine: FluxEngine) -> None:
    base = run(engine, prompt="a red apple", seed=7).pixels
    assert not np.array_equal(base, run(engine, prompt="a red apple", seed=8).pixels)
    assert not np.array_equal(base, run(engine, prompt="a blue boat", seed=7).pixels)


def test_guidance_reaches_the_model(engine: FluxEngine) -> None:
    assert not np.array_equal(run(engine, guidance=1.0).pixels, run(engine, guidance=6.0).pixels)


def test_without_distillation_guidance_is_the_difference_that_the_prompt_makes(
    engine: FluxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_one = run(engine, prompt="a red apple", guidance=1.0).pixels
    teacher = dataclasses.replace(MICRO, is_guidance_distilled=False)
    monkeypatch.setitem(catalog.MODELS, MICRO.model, teacher)
    assert np.array_equal(run(engine, prompt="a red apple", guidance=1.0).pixels, told_one)
    assert not np.array_equal(run(engine, prompt="a red apple", guidance=6.0).pixels, told_one)
    empty = [run(engine, prompt="", guidance=g).pixels for g in (1.0, 6.0)]
    assert psnr_db(*empty) > 60  # there is no difference to follow


def test_picture_k_of_a_batch_is_the_picture_of_seed_plus_k(engine: FluxEngine) -> None:
    batch = run(engine, prompt="a cat", seed=3, num_images=3).result.images
    assert [image.seed for image in batch] == [3, 4, 5]
    for image in batch:
        assert image.png == run(engine, prompt="a cat", seed=image.seed).result.images[0].png


def test_the_seed_after_the_last_is_the_first(engine: FluxEngine) -> None:
    assert [image.seed for image in run(engine, seed=2**63 - 1, num_images=2).result.images] == [2**63 - 1, 0]


@pytest.mark.parametrize(("width", "height"), [(64, 64), (100, 70), (65, 127), (80, 64)])
@pytest.mark.parametrize("task", [task for task in MICRO.tasks if task not in (Task.CONTROL, Task.VARY)])
def test_every_size_comes_out_exact(engine: FluxEngine, task: Task, width: int, height: int) -> None:
    inputs = {}
    if task is not Task.GENERATE:
        inputs["image"] = scene(width, height)
    if task is Task.FILL:
        inputs["mask"] = np.full((height, width), 255, np.uint8)
    result = run(engine, task=task, width_px=width, height_px=height, num_steps=1, **inputs).result
    image = result.images[0]
    assert (image.width_px, image.height_px) == (width, height)
    assert codec.decode(image.png).shape == (height, width, 4)


# Progress and previews


@pytest.mark.parametrize("num_images", [1, 2])
def test_progress_never_falls_and_ends_at_one(engine: FluxEngine, num_images: int) -> None:
    done = run(engine, num_images=num_images, prompt=f"progress {num_images}")
    fractions = [message.fraction for message in done.progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    steps = [m.step for m in done.progress if m.stage is Stage.DENOISING and m.step]
    assert steps == list(range(1, 3 * num_images + 1))
    assert {m.num_steps for m in done.progress if m.step} == {3 * num_images}


def test_steps_are_counted_from_where_the_walk_starts(engine: FluxEngine) -> None:
    done = run(engine, task=Task.TRANSFORM, image=PICTURE, strength=0.5, num_steps=8)
    assert [m.step for m in done.progress if m.step] == [1, 2, 3, 4]
    assert {m.num_steps for m in done.progress if m.step} == {4}


def test_the_first_step_shows_a_preview(engine: FluxEngine) -> None:
    done = run(engine, width_px=100, height_px=70)
    assert done.previews[0].step == 1
    assert codec.decode(base64.b64decode(done.previews[0].webp_base64)).shape == (9, 13, 4)


def test_the_result_tells_time_by_stage_and_memory(engine: FluxEngine) -> None:
    result = run(engine, prompt="a new prompt").result
    assert set(result.seconds) >= {"encoding", "denoising", "decoding"}
    assert all(seconds >= 0 for seconds in result.seconds.values())
    assert result.peak_memory_bytes > 50_000_000


def test_a_prompt_that_was_read_before_is_not_encoded_again(engine: FluxEngine) -> None:
    run(engine, prompt="said twice")
    again = run(engine, prompt="said twice", seed=5)
    assert Stage.ENCODING not in {message.stage for message in again.progress}


@pytest.mark.parametrize("prompt", ["", "a" * 10_000, "red apple " * 1000, "🍎 苹果 ﷽ \u0000\u200b\n"])
def test_any_prompt_is_painted(engine: FluxEngine, prompt: str) -> None:
    assert run(engine, prompt=prompt, num_steps=1).pixels.shape == (64, 64, 3)


# Image to image


def test_little_strength_leaves_the_picture_and_full_strength_forgets_it(engine: FluxEngine) -> None:
    kept = round_trip(engine, PICTURE)

    def transformed(strength: float) -> np.ndarray:
        fields = {"task": Task.TRANSFORM, "strength": strength, "num_steps": 50, "seed": 1}
        return run(engine, image=PICTURE, **fields).pixels

    distances = [psnr_db(transformed(strength), kept) for strength in (0.02, 0.3, 0.7)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > distances[1] + 8  # a random decoder makes a lot of a little noise


def test_full_strength_is_text_to_image(engine: FluxEngine) -> None:
    transformed = run(engine, task=Task.TRANSFORM, image=PICTURE, strength=1.0, seed=4)
    assert transformed.result.images[0].png == run(engine, seed=4).result.images[0].png


# Fill


def half_mask(value: int = 255) -> np.ndarray:
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, 32:] = value
    return mask


def test_fill_changes_the_mask_and_leaves_what_is_far_from_it(engine: FluxEngine) -> None:
    kept = round_trip(engine, PICTURE)
    filled = run(engine, task=Task.FILL, image=PICTURE, mask=half_mask(), seed=2).pixels
    far, inside = (slice(None), slice(0, 8)), (slice(None), slice(40, 64))
    assert psnr_db(filled[far], kept[far]) > psnr_db(filled[inside], kept[inside]) + 5


def test_a_full_mask_is_text_to_image(engine: FluxEngine) -> None:
    mask = np.full((64, 64), 255, np.uint8)
    filled = run(engine, task=Task.FILL, image=PICTURE, mask=mask, seed=4)
    assert filled.result.images[0].png == run(engine, seed=4).result.images[0].png


def test_a_grey_mask_changes_less_than_a_white_one(engine: FluxEngine) -> None:
    kept = round_trip(engine, PICTURE)
    right = (slice(None), slice(40, 64))
    results = [
        run(engine, task=Task.FILL, image=PICTURE, mask=half_mask(grey), num_steps=8, seed=2).pixels
        for grey in (40, 128, 255)
    ]
    distances = [psnr_db(result[right], kept[right]) for result in results]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > distances[2] + 2


def test_fill_with_little_strength_still_changes_the_mask(engine: FluxEngine) -> None:
    kept = round_trip(engine, PICTURE)
    fields = {"task": Task.FILL, "image": PICTURE, "mask": half_mask(), "num_steps": 8, "seed": 2}
    weak = run(engine, strength=0.02, **fields).pixels
    strong = run(engine, strength=1.0, **fields).pixels
    right = (slice(None), slice(40, 64))
    assert not np.array_equal(weak[right], kept[right])
    assert psnr_db(weak[right], kept[right]) > psnr_db(strong[right], kept[right])


def test_one_pixel_and_the_border_can_be_filled(engine: FluxEngine) -> None:
    for row, column in [(0, 0), (63, 63), (31, 0), (20, 40)]:
        mask = np.zeros((64, 64), dtype=np.uint8)
        mask[row, column] = 255
        assert run(engine, task=Task.FILL, image=PICTURE, mask=mask, num_steps=2).pixels.shape == (64, 64, 3)


# Cancel


@pytest.mark.parametrize("stage", [Stage.ENCODING, Stage.DENOISING, Stage.DECODING])
def test_a_cancel_is_obeyed_at_once_in_every_stage(engine: FluxEngine, stage: Stage) -> None:
    stop: list[bool] = []
    after: list[Progress | Preview] = []

    def on_message(message: Progress | Preview) -> None:
        if stop:
            after.append(message)
        if isinstance(message, Progress) and message.stage is stage:
            stop.append(True)

    with pytest.raises(Cancelled):
        run(
            engine,
            task=Task.TRANSFORM,
            image=PICTURE,
            num_images=2,
            prompt=f"cancel in {stage}",
            is_cancelled=lambda: bool(stop),
            on_message=on_message,
        )
    assert len(after) <= 2  # the step that was under way


def test_a_cancelled_job_says_nothing_and_the_next_one_runs(engine: FluxEngine) -> None:
    with pytest.raises(Cancelled):
        run(engine, is_cancelled=lambda: True, on_message=lambda message: pytest.fail("spoke"))
    assert run(engine, num_steps=1).result.images


# Requests that cannot be carried out


def test_a_picture_of_another_size_is_refused(engine: FluxEngine) -> None:
    with pytest.raises(RequestInvalid, match="80 x 64.*64 x 64"):
        run(engine, task=Task.TRANSFORM, image=scene(80, 64))


def test_a_mask_of_another_size_is_refused(engine: FluxEngine) -> None:
    with pytest.raises(RequestInvalid, match="mask is 32 x 16"):
        run(engine, task=Task.FILL, image=PICTURE, mask=np.full((16, 32), 255, np.uint8))


def test_an_empty_mask_is_refused(engine: FluxEngine) -> None:
    with pytest.raises(RequestInvalid, match="empty"):
        run(engine, task=Task.FILL, image=PICTURE, mask=np.zeros((64, 64), np.uint8))


def test_a_damaged_picture_is_refused(engine: FluxEngine) -> None:
    with pytest.raises(Corrupt, match="picture"):
        run(engine, task=Task.TRANSFORM, image=codec.encode_png(PICTURE)[:-300])


def test_an_unknown_model_is_refused(engine: FluxEngine) -> None:
    with pytest.raises(RequestInvalid, match="no-such-model"):
        run(engine, model="no-such-model")

"""Every task on the family: what a person asks for reaches the picture, and nothing else does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.imaging import codec
from flux_core.models.controlnet import ControlNet
from flux_core.models.transformer import Transformer
from flux_core.pipeline import FluxEngine
from flux_core.pipeline.windows import windows_of
from tests.support import family_random as family
from tests.support.engine_runs import psnr_db, run, scene
from tests.support.family_peers import walk

MakeEngine = Callable[[Path], FluxEngine]
PICTURE = scene(64, 64)
MAP = np.ascontiguousarray(PICTURE[::-1, :, ::-1])
SMALL = np.ascontiguousarray(PICTURE[::2, ::2])
WHITE = np.full((64, 64), 255, np.uint8)


FAINT_DB = 60.0  # a fifth of a grey level; what reaches nothing changes nothing at all


def half(value: int = 255, left: bool = False) -> np.ndarray:
    """A mask whose right (or left) half is `value`, its edge that of tokens."""
    mask = np.zeros((64, 64), np.uint8)
    mask[:, slice(0, 32) if left else slice(32, 64)] = value
    return mask


def use(model: str, kind: str, image: np.ndarray = MAP, **fields: Any) -> dict[str, Any]:
    return {"model": model, "kind": kind, "image": image, **fields}


def paint(engine: FluxEngine, **fields: Any) -> np.ndarray:
    """The picture in full precision, so that only conditions make a difference, and decoded fast."""
    usual = {"model": family.DEV.model, "prompt": "a red apple", "precision": "fp32", "decoder": "fast"}
    return run(engine, **{**usual, "seed": 2, **fields}).pixels


def warnings(engine: FluxEngine, **fields: Any) -> tuple[str, ...]:
    return run(engine, **{"model": family.DEV.model, "num_steps": 1, **fields}).result.warnings


# Conditions: for each, what is changed about a request that has everything else


REQUESTS: dict[str, dict[str, Any]] = {
    "text to image": {},
    "schnell": {"model": family.SCHNELL.model},
    "negative": {"negative_prompt": "blue", "true_guidance": 3.0},
    "transform": {"task": "transform", "image": PICTURE, "strength": 0.6},
    "fill": {"task": "fill", "image": PICTURE, "mask": half()},
    "fill model": {"model": family.FILL.model, "task": "fill", "image": PICTURE, "mask": half()},
    "canny": {"model": family.CANNY.model, "task": "control", "controls": [use("", "canny")]},
    "depth": {"model": family.DEPTH.model, "task": "control", "controls": [use("", "depth")]},
    "control LoRA": {"task": "control", "controls": [use("canny-control", "canny")]},
    "edit": {
        "model": family.KONTEXT.model, "task": "edit", "image": PICTURE, "references": [MAP[:, :32], SMALL],
    },
    "ControlNet": {"task": "control", "controls": [use("plain", "canny"), use("union", "pose", PICTURE)]},
    "XLabs": {"task": "control", "controls": [use("xlabs", "soft_edge")]},
    "Redux": {"task": "vary", "pictures": [{"image": PICTURE, "strength": 0.7}, {"image": MAP}]},
    "IP-Adapter": {"task": "vary", "pictures": [{"image": PICTURE, "adapter": "micro-ip-adapter"}]},
    "regions": {
        "regions": [{"prompt": "a cat", "mask": half()}, {"prompt": "a dog", "mask": half(left=True)}],
    },
    "upscale": {"task": "upscale", "image": PICTURE, "width_px": 128, "height_px": 128, "strength": 0.5},
}  # fmt: skip

CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "the prompt": ("text to image", {"prompt": "a blue boat"}),
    "what CLIP reads": ("text to image", {"clip_prompt": "a blue boat"}),
    "guidance": ("text to image", {"guidance": 8.0}),
    "the negative prompt": ("negative", {"negative_prompt": "green"}),
    "true guidance": ("negative", {"true_guidance": 1.5}),
    "leaving T5 out": ("text to image", {"is_clip_only": True}),
    "a LoRA": ("text to image", {"loras": [{"name": "style", "strength": 1.0}]}),
    "the source of a transform": ("transform", {"image": MAP}),
    "the strength of a transform": ("transform", {"strength": 0.3}),
    "the mask of a transform": ("transform", {"mask": half(128)}),
    "the source of a fill": ("fill", {"image": MAP}),
    "the mask of a fill": ("fill", {"mask": half(left=True)}),
    "the source of a fill model": ("fill model", {"image": MAP}),
    "the mask of a fill model": ("fill model", {"mask": half(left=True)}),
    "the map of canny": ("canny", {"controls": [use("", "canny", PICTURE)]}),
    "the map of depth": ("depth", {"controls": [use("", "depth", PICTURE)]}),
    "the map of a control LoRA": ("control LoRA", {"controls": [use("canny-control", "canny", PICTURE)]}),
    "the strength of a control LoRA": (
        "control LoRA", {"controls": [use("canny-control", "canny", strength=0.5)]},
    ),
    "the picture that is edited": ("edit", {"image": MAP}),
    "the first reference": ("edit", {"references": [SMALL, SMALL]}),
    "the second reference": ("edit", {"references": [MAP[:, :32]]}),
    "the order of references": ("edit", {"references": [SMALL, MAP[:, :32]]}),
    "the first ControlNet": ("ControlNet", {"controls": [use("union", "pose", PICTURE)]}),
    "the second ControlNet": ("ControlNet", {"controls": [use("plain", "canny")]}),
    "the mode of a union": (
        "ControlNet", {"controls": [use("plain", "canny"), use("union", "blur", PICTURE)]},
    ),
    "the strength of a ControlNet": (
        "ControlNet", {"controls": [use("plain", "canny", strength=0.3), use("union", "pose", PICTURE)]},
    ),
    "when a ControlNet ends": (
        "ControlNet", {"controls": [use("plain", "canny", end=0.5), use("union", "pose", PICTURE)]},
    ),
    "the pixels of XLabs": ("XLabs", {"controls": [use("xlabs", "soft_edge", PICTURE)]}),
    "the first picture of Redux": ("Redux", {"pictures": [{"image": MAP}]}),
    "the second picture of Redux": ("Redux", {"pictures": [{"image": PICTURE, "strength": 0.7}]}),
    "the strength of Redux": ("Redux", {"pictures": [{"image": PICTURE, "strength": 0.2}, {"image": MAP}]}),
    "the picture of an IP-Adapter": (
        "IP-Adapter", {"pictures": [{"image": MAP, "adapter": "micro-ip-adapter"}]},
    ),
    "when an IP-Adapter begins": (
        "IP-Adapter", {"pictures": [{"image": PICTURE, "adapter": "micro-ip-adapter", "start": 0.5}]},
    ),
    "the words of a region": (
        "regions",
        {"regions": [{"prompt": "a boat", "mask": half()}, {"prompt": "a dog", "mask": half(left=True)}]},
    ),
    "the place of a region": ("regions", {"regions": [{"prompt": "a cat", "mask": half()}]}),
    "the strength of a region": (
        "regions",
        {"regions": [{"prompt": "a cat", "mask": half(), "strength": 0.2},
                     {"prompt": "a dog", "mask": half(left=True)}]},
    ),
    "the base of regions": ("regions", {"region_base": 0.9}),
    "the words over regions": ("regions", {"prompt": "a blue boat"}),
    "the picture of an upscale": ("upscale", {"image": MAP}),
}  # fmt: skip


@pytest.fixture(scope="session")
def painted(any_engine: FluxEngine) -> Callable[[str], np.ndarray]:
    """The picture of one of REQUESTS, painted once."""
    known: dict[str, np.ndarray] = {}

    def get(title: str) -> np.ndarray:
        if title not in known:
            known[title] = paint(any_engine, **REQUESTS[title])
        return known[title]

    return get


@pytest.mark.parametrize("change", CHANGES)
def test_everything_that_can_be_said_changes_the_picture(
    any_engine: FluxEngine, painted: Callable[[str], np.ndarray], change: str
) -> None:
    title, fields = CHANGES[change]
    changed = paint(any_engine, **{**REQUESTS[title], **fields})
    assert psnr_db(changed, painted(title)) < FAINT_DB


@pytest.mark.parametrize("title", REQUESTS)
def test_torch_and_mlx_paint_the_same_in_both_precisions_and_again(
    both: tuple[FluxEngine, FluxEngine], title: str
) -> None:
    """In float32 nearly to the byte; in bfloat16 as near as eight bits of precision let them be."""
    fields = REQUESTS[title]
    torch, mlx = (paint(engine, **fields) for engine in both)
    assert psnr_db(torch, mlx) > 55
    assert np.array_equal(paint(both[1], **fields), mlx)
    assert psnr_db(paint(both[0], precision="bf16", **fields), torch) > 35


# Strengths and spans at their ends


def ip_adapter(**fields: Any) -> dict[str, Any]:
    return {"image": PICTURE, "adapter": "micro-ip-adapter", **fields}


NOTHING: dict[str, dict[str, Any]] = {
    "a ControlNet of strength 0": {"task": "control", "controls": [use("plain", "canny", strength=0.0)]},
    "XLabs of strength 0": {"task": "control", "controls": [use("xlabs", "soft_edge", strength=0.0)]},
    "an IP-Adapter of strength 0": {"task": "vary", "pictures": [ip_adapter(strength=0.0)]},
    "Redux of strength 0": {"task": "vary", "pictures": [{"image": PICTURE, "strength": 0.0}]},
    "a LoRA of strength 0": {"loras": [{"name": "style", "strength": 0.0}]},
    "a ControlNet heard between two steps": {
        "task": "control", "controls": [use("plain", "canny", start=0.4, end=0.6)],
    },
    "an IP-Adapter heard between two steps": {"task": "vary", "pictures": [ip_adapter(start=0.4, end=0.6)]},
    "a transform of strength 1": {"task": "transform", "image": PICTURE, "strength": 1.0},
    "a fill of all": {"task": "fill", "image": PICTURE, "mask": WHITE},
}  # fmt: skip


@pytest.mark.parametrize("title", NOTHING)
def test_what_does_not_count_leaves_text_to_image(
    any_engine: FluxEngine, painted: Callable[[str], np.ndarray], title: str
) -> None:
    assert psnr_db(paint(any_engine, **NOTHING[title]), painted("text to image")) > 60


def test_a_control_lora_of_strength_0_does_not_see_its_map(any_engine: FluxEngine) -> None:
    """Its norms stand in for the model's at any strength, as its authors meant."""
    blind = [
        paint(any_engine, task="control", controls=[use("canny-control", "canny", image, strength=0.0)])
        for image in (PICTURE, MAP)
    ]
    assert psnr_db(*blind) > 60


@pytest.mark.parametrize(
    ("whole", "parts"),
    [
        (use("plain", "canny"), [use("plain", "canny", end=1 / 3), use("plain", "canny", start=1 / 3)]),
        (ip_adapter(), [ip_adapter(end=1 / 3), ip_adapter(start=1 / 3)]),
    ],
    ids=["ControlNet", "IP-Adapter"],
)
def test_two_spans_that_meet_are_one(
    any_engine: FluxEngine, whole: dict[str, Any], parts: list[dict[str, Any]]
) -> None:
    task, field = ("vary", "pictures") if "adapter" in whole else ("control", "controls")
    pictures = [paint(any_engine, task=task, **{field: uses}) for uses in ([whole], parts)]
    assert psnr_db(*pictures) > 60


def test_the_authors_strength_is_what_a_control_has_by_itself(any_engine: FluxEngine) -> None:
    def with_net(**fields: Any) -> np.ndarray:
        return paint(any_engine, task="control", controls=[use("micro-depth-net", "depth", **fields)])

    def with_lora(**fields: Any) -> np.ndarray:
        return paint(any_engine, task="control", controls=[use("micro-canny-lora", "canny", **fields)])

    assert np.array_equal(with_net(), with_net(strength=0.7))
    assert not np.array_equal(with_net(), with_net(strength=1.0))
    assert np.array_equal(with_lora(), with_lora(strength=0.85))


def test_a_control_picture_of_other_proportions_is_cut_in_the_middle_and_never_stretched(
    any_engine: FluxEngine,
) -> None:
    wide = np.ascontiguousarray(scene(128, 64))
    cut, given = (
        paint(any_engine, num_steps=1, task="control", controls=[use("plain", "canny", image)])
        for image in (wide, wide[:, 32:96])
    )
    assert np.array_equal(cut, given)


def test_a_controlnet_reads_the_words_of_the_whole_and_of_pictures_but_not_of_regions(
    any_engine: FluxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in it tells whose words are for which place."""
    lengths: list[tuple[int, int]] = []
    call = ControlNet.__call__

    def spy(self: ControlNet, img: Any, control: Any, txt: Any, *args: Any, **kwargs: Any) -> Any:
        lengths.append((int(img.shape[1]), int(txt.shape[1])))
        return call(self, img, control, txt, *args, **kwargs)

    monkeypatch.setattr(ControlNet, "__call__", spy)
    fields: dict[str, Any] = {"controls": [use("plain", "canny")], "num_steps": 1, "task": "control"}
    paint(any_engine, regions=REQUESTS["regions"]["regions"], pictures=[{"image": MAP}], **fields)
    assert lengths == [(16, family.DEV.t5_tokens + family.SIGLIP.num_patches)]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The image tokens of every evaluation, [L, C], as they come."""
    tokens: list[np.ndarray] = []
    call = Transformer.modulated

    def spy(self: Transformer, img: Any, *args: Any, **kwargs: Any) -> Any:
        tokens.append(np.array(img)[0])
        return call(self, img, *args, **kwargs)

    monkeypatch.setattr(Transformer, "modulated", spy)
    return tokens


def test_a_reference_of_another_size_comes_at_the_models_own_area_in_its_own_proportions(
    any_engine: FluxEngine, seen: list[np.ndarray]
) -> None:
    """128 x 64 pixels at the area of 64 x 64 are 91 x 45, so 6 x 3 tokens beside the picture's 16."""
    fields: dict[str, Any] = {"model": family.KONTEXT.model, "task": "edit", "num_steps": 1}
    paint(any_engine, image=scene(128, 64), **fields)
    paint(any_engine, image=PICTURE, references=[scene(128, 64), PICTURE], **fields)
    assert [len(tokens) for tokens in seen] == [16 + 18, 16 + 16 + 18 + 16]


def test_references_follow_the_picture_that_is_edited_in_their_order(
    any_engine: FluxEngine, seen: list[np.ndarray]
) -> None:
    fields: dict[str, Any] = {"model": family.KONTEXT.model, "task": "edit", "num_steps": 1}
    paint(any_engine, image=PICTURE, references=[MAP, SMALL], **fields)
    for image in (PICTURE, MAP, SMALL):
        paint(any_engine, image=image, **fields)
    together, *alone = (tokens[16:] for tokens in seen)
    assert np.array_equal(together, np.concatenate(alone))


# Places


def test_outside_of_a_transforms_mask_nothing_changes(
    any_engine: FluxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the latents, because a decoder with random weights looks far."""
    fields: dict[str, Any] = {
        "model": family.DEV.model,
        "task": "transform",
        "image": PICTURE,
        "num_steps": 5,
    }
    faint = np.full((64, 64), 1, np.uint8)  # too weak for one step of five
    kept, masked, whole = (
        walk(any_engine, monkeypatch, strength=0.8, **fields, **mask).tokens.reshape(4, 4, 64)
        for mask in ({"mask": faint}, {"mask": half()}, {})
    )
    assert np.array_equal(masked[:, :2], kept[:, :2])
    assert np.abs(masked[:, 2:] - kept[:, 2:]).mean() > 0.1
    assert np.abs(whole[:, :2] - kept[:, :2]).mean() > 0.1


def test_each_place_of_a_transform_changes_as_much_as_its_mask_says(any_engine: FluxEngine) -> None:
    fields: dict[str, Any] = {"task": "transform", "image": PICTURE, "num_steps": 8}
    kept = paint(any_engine, mask=np.full((64, 64), 1, np.uint8), **fields)
    right = (slice(None), slice(40, 64))
    distances = [
        psnr_db(paint(any_engine, mask=half(grey), **fields)[right], kept[right]) for grey in (40, 130, 255)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > distances[2] + 2


def test_a_place_has_the_strength_times_its_mask(any_engine: FluxEngine) -> None:
    """A quarter said in three ways: of the whole, of every place, and half of a half."""
    fields: dict[str, Any] = {"task": "transform", "image": PICTURE, "num_steps": 8}
    whole = paint(any_engine, strength=0.25, **fields)
    for strength, grey in ((1.0, 64), (0.5, 128)):
        places = paint(any_engine, strength=strength, mask=np.full((64, 64), grey, np.uint8), **fields)
        assert psnr_db(places, whole) > 60


def test_the_words_of_a_region_change_the_picture_most_inside_it(any_engine: FluxEngine) -> None:
    """One step: later ones carry what happened from token to token."""

    def with_words(prompt: str) -> np.ndarray:
        region = {"prompt": prompt, "mask": half()}
        return paint(any_engine, regions=[region], num_steps=1, region_base=0.0).astype(np.float64)

    change = np.abs(with_words("a cat") - with_words("9 blue boats!"))
    assert change[:, 40:].mean() > 3 * change[:, :24].mean()


def test_a_base_of_1_lets_the_whole_be_heard_inside_a_region(any_engine: FluxEngine) -> None:
    """The prompt of the whole counts less inside the smaller the base is; CLIP's part of it has no place."""
    right = (slice(None), slice(40, 64))

    def change(base: float) -> float:
        fields: dict[str, Any] = {"regions": [{"prompt": "a cat", "mask": half()}], "region_base": base}
        one, other = (
            paint(any_engine, num_steps=1, prompt=prompt, clip_prompt="x", **fields)[right]
            for prompt in ("x", "a blue boat")
        )
        return psnr_db(one, other)

    assert change(0.0) > change(1.0) + 1


# Batches and sizes


@pytest.mark.parametrize("title", ["edit", "ControlNet", "Redux", "IP-Adapter"])
def test_picture_k_of_a_batch_is_the_picture_of_seed_plus_k(any_engine: FluxEngine, title: str) -> None:
    fields = {"model": family.DEV.model, "num_steps": 2, "decoder": "fast", **REQUESTS[title]}
    batch = run(any_engine, seed=5, num_images=2, **fields).result.images
    assert [image.seed for image in batch] == [5, 6]
    assert batch[0].png != batch[1].png
    assert batch[1].png == run(any_engine, seed=6, **fields).result.images[0].png


@pytest.mark.parametrize(
    "title", ["fill model", "canny", "edit", "ControlNet", "XLabs", "Redux", "IP-Adapter", "regions"]
)
def test_an_odd_size_comes_out_exact(any_engine: FluxEngine, title: str) -> None:
    width, height = 101, 70
    fields = {"model": family.DEV.model, "num_steps": 1, "decoder": "fast", **REQUESTS[title]}
    if title == "fill model":
        fields |= {"image": scene(width, height), "mask": np.full((height, width), 255, np.uint8)}
    if title == "regions":
        mask = np.zeros((height, width), np.uint8)
        mask[5:20, 30:] = 255
        fields |= {"regions": [{"prompt": "a cat", "mask": mask}]}
    image = run(any_engine, width_px=width, height_px=height, **fields).result.images[0]
    assert (image.width_px, image.height_px) == (width, height)
    assert codec.decode(image.png).shape == (height, width, 4)


# Super-resolution


WINDOW_PX = family.DEV.working_side_px


def upscaled(engine: FluxEngine, side_px: int, **fields: Any) -> np.ndarray:
    given = {"task": "upscale", "image": PICTURE, "width_px": side_px, "height_px": side_px, **fields}
    return paint(engine, **{"num_steps": 4, "strength": 0.5, **given})


def test_the_transformer_never_sees_more_than_one_window(
    any_engine: FluxEngine, seen: list[np.ndarray]
) -> None:
    upscaled(any_engine, 144, num_steps=2)
    upscaled(any_engine, 128, num_steps=1, controls=[use("xlabs", "soft_edge"), use("plain", "tile")])
    assert {len(tokens) for tokens in seen} == {(WINDOW_PX // 16) ** 2}


def test_a_window_as_large_as_the_picture_is_plain_image_to_image(any_engine: FluxEngine) -> None:
    """With everything that a picture can be told, too."""
    fields: dict[str, Any] = {
        "image": PICTURE,
        "strength": 0.7,
        "controls": [use("plain", "tile")],
        "pictures": [{"image": MAP, "strength": 0.6}],
        "negative_prompt": "blue",
        "true_guidance": 2.0,
    }
    windowed, plain = (paint(any_engine, task=task, **fields) for task in ("upscale", "transform"))
    assert np.array_equal(windowed, plain)


def test_a_picture_to_be_like_counts_as_much_in_every_window(any_engine: FluxEngine) -> None:
    """Its strength is a bias on attention, and each window needs one of its own size."""
    shown = [{"image": MAP, "strength": 0.5}]
    assert psnr_db(upscaled(any_engine, 128, pictures=shown), upscaled(any_engine, 128)) < 45


def test_no_border_of_a_window_shows(any_engine: FluxEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps across the columns where windows begin or end are no larger than those across the others.

    Measured on the latents, whose grid the windows follow; a decoder with random weights has a grid of its
    own. Noise fills every place alike, so the mean over a whole column is what a border would show in.
    """
    flat = np.full((64, 64, 3), 120, np.uint8)
    rows = 192 // 16
    fields: dict[str, Any] = {"width_px": 192, "height_px": 192, "strength": 0.75, "num_steps": 3}
    kept = [
        walk(any_engine, monkeypatch, model=family.DEV.model, task="upscale", image=flat, seed=seed, **fields)
        for seed in range(2)
    ]
    grids = np.concatenate([each.tokens for each in kept]).reshape(-1, rows, rows, 64)
    energy = (np.diff(grids, axis=2) ** 2).mean(axis=(0, 1, 3))  # [rows - 1], of each border of columns
    windows = windows_of(2 * rows, 2 * rows, WINDOW_PX // 8)
    edges = {w.place.x0 for w in windows} | {w.place.x1 for w in windows}
    at_edges = [edge - 1 for edge in sorted(edges) if 0 < edge < rows]
    inside = [column for column in range(rows - 1) if column not in at_edges]
    assert energy[at_edges].mean() < 1.1 * energy[inside].mean()


# Quick ways


def test_the_fast_decoder_paints_the_same_latents_its_own_way(any_engine: FluxEngine) -> None:
    """On random weights the two have nothing in common, but both follow the latents."""
    full, fast = (paint(any_engine, decoder=decoder) for decoder in ("full", "fast"))
    assert fast.shape == full.shape
    assert not np.array_equal(fast, full)
    assert not np.array_equal(fast, paint(any_engine, decoder="fast", prompt="a blue boat"))


def test_without_t5_clip_alone_reads_the_prompt_and_the_person_is_told(
    make_engine: MakeEngine, family_dir: Path, tmp_path: Path
) -> None:
    bare = Path(shutil.copytree(family_dir, tmp_path / "models"))
    shutil.rmtree(bare / family.SHARED / "text_encoder_2")
    engine = make_engine(bare)
    told = run(engine, model=family.DEV.model, prompt="a cat", num_steps=1)
    (sentence,) = told.result.warnings
    assert "only CLIP has read the prompt" in sentence
    assert "flowbrush models get t5-xxl" in sentence
    asked = run(engine, model=family.DEV.model, prompt="a cat", num_steps=1, is_clip_only=True)
    assert asked.result.warnings == ()
    assert np.array_equal(asked.pixels, told.pixels)
    shutil.rmtree(bare / family.SHARED / family.DEV.files.t5_tokenizer)
    assert np.array_equal(run(make_engine(bare), model=family.DEV.model, prompt="a cat", num_steps=1).pixels,
                          told.pixels)  # fmt: skip


def test_clip_alone_hears_nothing_but_what_clip_is_told(any_engine: FluxEngine) -> None:
    fields: dict[str, Any] = {"is_clip_only": True, "num_steps": 1}
    one = paint(any_engine, prompt="a cat", clip_prompt="a dog", **fields)
    other = paint(any_engine, prompt="a boat", clip_prompt="a dog", **fields)
    assert np.array_equal(one, other)


@pytest.mark.parametrize("preset", ["careful", "fast"])
def test_a_step_cache_on_few_steps_is_left_off_and_the_person_is_told(
    any_engine: FluxEngine, preset: str
) -> None:
    (sentence,) = warnings(any_engine, step_cache=preset, num_steps=4)
    assert "4 steps are too few" in sentence
    assert np.array_equal(paint(any_engine, num_steps=4, step_cache=preset), paint(any_engine, num_steps=4))
    assert warnings(any_engine, num_steps=4) == ()


def test_the_length_of_a_prompt_reaches_the_model(any_engine: FluxEngine) -> None:
    fields: dict[str, Any] = {"model": family.LONG.model, "num_steps": 1}
    short, long = (paint(any_engine, t5_tokens=tokens, **fields) for tokens in (256, 512))
    assert psnr_db(short, long) < 60
    assert np.array_equal(paint(any_engine, **fields), long)  # the model's own

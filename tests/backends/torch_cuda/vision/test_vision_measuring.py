"""Masks of clicks and depth maps are those of transformers' own classes, at the picture's own size."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import DPTImageProcessorPil

from flux_core.looking import Box, Depth, Point, SegmentPoints
from tests.support import vision_folders
from tests.support.vision_folders import DEPTH_PRO_SIDE_PX, SAM_SIDE_PX, pixels

HEIGHT, WIDTH = 40, 60
PICTURE = pixels(HEIGHT, WIDTH)
IMAGE = Image.fromarray(PICTURE[..., :3])
X, Y = SAM_SIDE_PX / WIDTH, SAM_SIDE_PX / HEIGHT  # pixels of the model to one of the picture


def _normalised(image: Image.Image, mean: list[float], std: list[float]) -> torch.Tensor:
    x = (np.array(image).astype(np.float32) / 255.0 - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(x).permute(2, 0, 1)[None]


def _sam(model, is_multimask: bool, **prompt: torch.Tensor) -> tuple[np.ndarray, float]:
    """The peer's best mask at the picture's size, and its estimate."""
    small = IMAGE.resize((SAM_SIDE_PX, SAM_SIDE_PX), Image.Resampling.BILINEAR)
    values = _normalised(small, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.inference_mode():
        answer = model(pixel_values=values, multimask_output=is_multimask, **prompt)
        masks = torch.nn.functional.interpolate(
            answer.pred_masks[0], (HEIGHT, WIDTH), mode="bilinear", align_corners=False
        )[0]
    best = int(answer.iou_scores[0, 0].argmax())
    return (masks[best] > 0).numpy(), float(answer.iou_scores[0, 0, best])


@pytest.mark.parametrize("model_type", ["sam2", "sam2_video"])
def test_one_click_gives_the_best_of_three_masks(have, ask, model_type: str) -> None:
    model = have("sam2.1-large", vision_folders.sam2, model_type=model_type)
    looked = ask(SegmentPoints(points=(Point(x_px=50, y_px=10),)), PICTURE)
    mask, score = _sam(
        model,
        True,
        input_points=torch.tensor([[[[50 * X, 10 * Y]]]]),
        input_labels=torch.tensor([[[1]]]),
    )
    assert np.array_equal(looked.pictures[0], mask.astype(np.uint8) * 255)
    assert looked.pictures[0].shape == (HEIGHT, WIDTH)
    assert looked.findings[0].score == pytest.approx(score, abs=1e-5)


def test_several_clicks_and_a_box_give_one_mask_and_all_of_them_matter(have, ask) -> None:
    model = have("sam2.1-large", vision_folders.sam2, seed=3, is_one_mask_fixed=True)
    points = (Point(x_px=50, y_px=10), Point(x_px=5, y_px=35, is_positive=False))
    box = Box(left_px=20, top_px=5, right_px=60, bottom_px=30)
    looked = ask(SegmentPoints(points=points, box=box), PICTURE)
    mask, score = _sam(
        model,
        False,
        input_points=torch.tensor([[[[50 * X, 10 * Y], [5 * X, 35 * Y]]]]),
        input_labels=torch.tensor([[[1, 0]]]),
        input_boxes=torch.tensor([[[20 * X, 5 * Y, 60 * X, 30 * Y]]]),
    )
    assert np.array_equal(looked.pictures[0] > 0, mask)
    assert looked.findings[0].score == pytest.approx(score, abs=1e-5)
    others = [
        SegmentPoints(points=points[:1], box=box),
        SegmentPoints(points=(points[0], points[1].model_copy(update={"is_positive": True})), box=box),
        SegmentPoints(points=points),
    ]
    scores = [ask(other, PICTURE).findings[0].score for other in others]
    assert all(abs(each - looked.findings[0].score) > 1e-6 for each in scores)


def test_a_depth_map_is_white_where_things_are_near(tmp_path: Path, have, ask) -> None:
    folder = tmp_path / "depth-anything-v2-large"
    model = have(folder.name, vision_folders.depth_anything)
    looked = ask(Depth(), PICTURE)
    values = DPTImageProcessorPil.from_pretrained(folder)(IMAGE, return_tensors="pt")
    with torch.inference_mode():
        raw = torch.nn.functional.interpolate(
            model(**values).predicted_depth[:, None], (HEIGHT, WIDTH), mode="bicubic", align_corners=False
        )[0, 0].numpy()
    expected = (raw - raw.min()) / (raw.max() - raw.min()) * 255
    (grey,) = looked.pictures
    assert (grey.shape, grey.dtype) == ((HEIGHT, WIDTH), np.uint8)
    assert np.abs(grey - expected).max() <= 0.51
    assert grey.flat[raw.argmax()] == 255
    assert grey.flat[raw.argmin()] == 0
    assert looked.findings[0].nearest_m is None


def test_metres_are_turned_over_and_named(tmp_path: Path, have, ask) -> None:
    folder = tmp_path / "depth-anything-v2-large"
    model = have(folder.name, vision_folders.depth_anything, depth_estimation_type="metric", max_depth=20)
    looked = ask(Depth(), PICTURE)
    values = DPTImageProcessorPil.from_pretrained(folder)(IMAGE, return_tensors="pt")
    with torch.inference_mode():
        metres = torch.nn.functional.interpolate(
            model(**values).predicted_depth[:, None], (HEIGHT, WIDTH), mode="bicubic", align_corners=False
        )[0, 0].numpy()
    found = looked.findings[0]
    assert found.nearest_m == pytest.approx(metres.min(), rel=1e-5)
    assert found.farthest_m == pytest.approx(metres.max(), rel=1e-5)
    assert looked.pictures[0].flat[metres.argmin()] == 255


@pytest.mark.parametrize("use_fov_model", [True, False])
def test_depth_pro_knows_metres_where_it_knows_the_lens(have, ask, use_fov_model: bool) -> None:
    model = have("depth-pro", vision_folders.depth_pro, use_fov_model=use_fov_model)
    looked = ask(Depth(model="depth-pro"), PICTURE)
    size = (DEPTH_PRO_SIDE_PX, DEPTH_PRO_SIDE_PX)
    values = _normalised(IMAGE, [0.5] * 3, [0.5] * 3)
    values = torch.nn.functional.interpolate(values, size, mode="bilinear", align_corners=False)
    with torch.inference_mode():
        answer = model(pixel_values=values)
        raw = answer.predicted_depth[:, None]
        if use_fov_model:
            raw = raw * (2 * math.tan(0.5 * math.radians(float(answer.field_of_view[0]))))
        raw = torch.nn.functional.interpolate(raw, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
    nearness = raw[0, 0].clamp(1e-4, 1e4).numpy()
    expected = (nearness - nearness.min()) / (nearness.max() - nearness.min()) * 255
    assert np.abs(looked.pictures[0] - expected).max() <= 0.51
    found = looked.findings[0]
    if not use_fov_model:
        assert (found.nearest_m, found.farthest_m, found.focal_length_px) == (None, None, None)
        return
    assert found.nearest_m == pytest.approx(1 / nearness.max(), rel=1e-4)
    assert found.farthest_m == pytest.approx(1 / nearness.min(), rel=1e-4)
    lens = 0.5 * WIDTH / math.tan(0.5 * math.radians(float(answer.field_of_view[0])))
    assert found.focal_length_px == pytest.approx(lens, rel=1e-5)


def test_a_field_of_view_that_no_lens_has_gives_a_map_without_metres(tmp_path: Path, have, ask) -> None:
    have("shelf", vision_folders.depth_pro, use_fov_model=True)
    shutil.copytree(tmp_path / "shelf", tmp_path / "depth-pro")
    path = tmp_path / "depth-pro/model.safetensors"
    head = "fov_model.head.layers"
    save_file(
        {name: value * 0 if head in name else value for name, value in load_file(path).items()},
        path,
        {"format": "pt"},
    )
    looked = ask(Depth(model="depth-pro"), PICTURE)
    assert (looked.findings[0].nearest_m, looked.findings[0].focal_length_px) == (None, None)
    assert looked.pictures[0].max() == 255

"""What cannot be looked at is refused in one sentence before anything is loaded, and nothing stays behind."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from flux_core.errors import Cancelled, Corrupt, ModelMissing, RequestInvalid
from flux_core.looking import (
    Box,
    Caption,
    Depth,
    Describe,
    Embed,
    Look,
    Point,
    Score,
    SegmentPoints,
)
from tests.support import vision_folders
from tests.support.vision_folders import change_config, pixels

PICTURE = pixels(40, 60)
CLICK = SegmentPoints(points=(Point(x_px=3, y_px=4),))

HELPERS: dict[str, tuple[Callable[..., Any], Look]] = {
    "clip-l-336": (vision_folders.clip, Score(prompt="a cat")),
    "florence-2-large": (vision_folders.florence2, Caption()),
    "llava-1.5-7b": (vision_folders.llava, Describe(max_tokens=4)),
    "sam2.1-large": (vision_folders.sam2, CLICK),
    "depth-anything-v2-large": (vision_folders.depth_anything, Depth()),
    "depth-pro": (vision_folders.depth_pro, Depth()),
}


KINDS = {
    transformers.CLIPModel,
    transformers.Florence2ForConditionalGeneration,
    transformers.LlavaForConditionalGeneration,
    transformers.Sam2Model,
    transformers.DepthAnythingForDepthEstimation,
    transformers.DepthProForDepthEstimation,
}


def _networks() -> list[Any]:
    """Every helper's model that is in memory."""
    gc.collect()
    return [each for each in gc.get_objects() if type(each) in KINDS]


@pytest.mark.parametrize("helper", HELPERS)
def test_a_helper_is_freed_after_its_answer_and_after_a_cancel(have, ask, helper: str) -> None:
    make, look = HELPERS[helper]
    have(helper, make)
    before = _networks()
    found = ask(look, PICTURE).findings
    assert [each.model for each in found] == [helper]
    assert _networks() == before
    said = []
    with pytest.raises(Cancelled):
        ask(look, PICTURE, said=said, is_cancelled=lambda: len(said) >= 2)  # loaded, not yet run
    assert _networks() == before


def test_a_cancel_before_anything_else_is_obeyed(ask) -> None:
    with pytest.raises(Cancelled):
        ask(Caption(), PICTURE, is_cancelled=lambda: True)


def test_a_helper_that_is_not_here_says_how_to_get_it(ask) -> None:
    with pytest.raises(ModelMissing) as err:
        ask(Caption(), PICTURE)
    assert err.value.message == "No helper for captions is on this machine."
    assert "`flowbrush models get florence-2-large`" in err.value.hint
    with pytest.raises(ModelMissing) as err:
        ask(Depth(model="depth-pro"), PICTURE)
    assert err.value.message == "Depth Pro is not on this machine."
    assert "`flowbrush models get depth-pro`" in err.value.hint


def test_the_library_that_is_not_installed_is_named_with_its_extra(
    have, ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    have("clip-l-336", vision_folders.clip)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelMissing) as err:
        ask(Embed(), PICTURE)
    assert "transformers, which is not installed" in err.value.message
    assert "`pip install flowbrush[vision]`" in err.value.hint


def test_nothing_imports_the_library_before_it_is_asked_for() -> None:
    program = (
        "import sys, backends.torch_cuda.engine, backends.torch_cuda.vision.look, desktop.commands.main;"
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("look", "images", "words"),
    [
        (Caption(), [], "There is no picture to look at."),
        (Caption(), [PICTURE, PICTURE], "caption takes at most 1 picture, not 2."),
        (Embed(), [pixels(2, 2)] * 65, "embed takes at most 64 pictures, not 65."),
        (
            SegmentPoints(points=(Point(x_px=1, y_px=1), Point(x_px=60, y_px=1))),
            [PICTURE],
            "Point 2 at 60,1 lies outside of the picture, which is 60 x 40 pixels.",
        ),
        (
            SegmentPoints(box=Box(left_px=0, top_px=0, right_px=60, bottom_px=41)),
            [PICTURE],
            "The box ends at 60,41, outside of the picture, which is 60 x 40 pixels.",
        ),
        (Depth(model="clip-l-336"), [PICTURE], "CLIP ViT-L/14 at 336 px cannot do depth maps"),
        (Depth(model="nobody"), [PICTURE], "There is no helper called 'nobody'."),
    ],
)
def test_a_look_that_does_not_fit_is_refused_without_a_helper(
    ask, look: Look, images: list[Any], words: str
) -> None:
    with pytest.raises(RequestInvalid) as err:
        ask(look, *images)
    assert words in err.value.message
    assert err.value.hint


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "phi3_v", "auto_map": {}}, "Phi-3 Vision needs code that comes with its files"),
        ({"model_type": "phi4mm", "auto_map": {}}, "layout that needs code of its own"),
        ({"model_type": "florence2", "auto_map": {}}, "Microsoft's layout"),
        ({"model_type": "bert"}, "'bert', which is no helper known here"),
        ({"model_type": "clip"}, "cannot do captions"),
    ],
)
def test_a_folder_of_another_model_is_refused_with_the_reason(
    tmp_path: Path, ask, values: dict[str, Any], words: str
) -> None:
    vision_folders.clip(tmp_path / "florence-2-large")
    change_config(tmp_path / "florence-2-large", **values)
    with pytest.raises(RequestInvalid) as err:
        ask(Caption(), PICTURE)
    assert words in err.value.message


def test_a_folder_of_ones_own_is_a_helper_too(have, ask) -> None:
    have("my-clip", vision_folders.clip)
    assert ask(Embed(model="my-clip"), PICTURE).findings[0].model == "my-clip"
    with pytest.raises(RequestInvalid, match="my-clip cannot do depth maps"):
        ask(Depth(model="my-clip"), PICTURE)


def test_the_first_helper_of_the_catalog_that_is_here_is_taken(have, ask) -> None:
    have("clip-l-224", vision_folders.clip)
    assert ask(Embed(), PICTURE).findings[0].model == "clip-l-224"
    have("clip-l-336", vision_folders.clip)
    assert ask(Embed(), PICTURE).findings[0].model == "clip-l-336"


def _cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _drop_tensors(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = {name: value for name, value in load_file(path).items() if "visual_projection" not in name}
    save_file(tensors, path, {"format": "pt"})


def _change_width(folder: Path) -> None:
    change_config(folder, projection_dim=24)


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')


def _no_picture_settings(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


@pytest.mark.parametrize(
    "damage",
    [_cut_weights, _drop_tensors, _change_width, _broken_config, _broken_tokenizer, _no_picture_settings],
)
def test_a_damaged_folder_is_one_typed_error(tmp_path: Path, ask, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "clip-l-336"
    vision_folders.clip(folder)
    damage(folder)
    before = _networks()
    with pytest.raises(Corrupt) as err:
        ask(Embed(), PICTURE)
    assert "CLIP ViT-L/14 at 336 px" in err.value.message
    assert "\n" not in err.value.message
    assert _networks() == before


@pytest.mark.parametrize("is_alone", [True, False])
def test_weights_as_a_pickle_are_never_read(
    tmp_path: Path, ask, monkeypatch: pytest.MonkeyPatch, is_alone: bool
) -> None:
    folder = tmp_path / "clip-l-336"
    model = vision_folders.clip(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    weights = folder / "model.safetensors"
    if is_alone:
        weights.unlink()
    else:
        weights.rename(folder / "something.safetensors")
    opened: list[object] = []
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: opened.append(args))  # the shut door
    with pytest.raises(ModelMissing if is_alone else Corrupt):
        ask(Embed(model="clip-l-336"), PICTURE)
    assert opened == []


def test_a_mask_of_nothing_has_no_box() -> None:
    from backends.torch_cuda.vision.pictures import box_around, nearness_map

    assert box_around(np.zeros((4, 4), np.uint8)) is None
    assert nearness_map(np.ones((2, 3), np.float32)).tolist() == [[0, 0, 0], [0, 0, 0]]

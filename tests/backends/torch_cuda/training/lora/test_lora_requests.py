"""What a LoRA is to be trained on is judged before anything is loaded: the folder, the request, the model."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from backends.torch_cuda.training.lora.__main__ import prepare
from backends.torch_cuda.training.lora.base import find_base
from backends.torch_cuda.training.lora.device import check_memory
from backends.torch_cuda.training.lora.pictures import bucket, read_folder
from flux_core import catalog
from flux_core.errors import Corrupt, ModelMissing, OutOfMemory, RequestInvalid
from flux_core.imaging import codec
from flux_core.lora_training import build_training
from flux_core.request import Precision
from tests.support.tiny_random import MICRO


def picture(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# The folder


def test_a_camera_s_turn_is_undone_and_transparency_becomes_white(tmp_path):
    turned = Image.new("RGB", (32, 64), "red")
    turned.paste("blue", (0, 0, 32, 16))
    exif = turned.getexif()
    exif[0x0112] = 6  # the top is at the right
    data = io.BytesIO()
    turned.save(data, "JPEG", exif=exif, quality=100, subsampling=0)
    (tmp_path / "turned.jpg").write_bytes(data.getvalue())
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "clear.webp", lossless=True)
    clear, wide = read_folder(tmp_path, "ink", 64)
    assert clear.pixels.min() == 255
    assert wide.size == (32, 64)
    assert wide.pixels[16, 60].tolist() == pytest.approx([0, 0, 255], abs=3)
    assert wide.pixels[16, 4].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize("size", [(640, 360), (1000, 1000), (333, 777), (250, 240), (2000, 500)])
def test_a_picture_keeps_its_proportions_and_is_never_enlarged(size):
    width, height = bucket(*size, 256)
    assert width % 16 == height % 16 == 0
    assert width <= size[0]
    assert height <= size[1]
    assert width * height <= 256 * 256 * 1.01
    factor = min(1.0, 256 / (size[0] * size[1]) ** 0.5)
    assert 0 <= size[0] * factor - width < 16
    assert 0 <= size[1] * factor - height < 16


def test_captions_take_the_trigger_in_front_unless_they_have_it(tmp_path):
    for name, text in {"a": "\ufeffa  cat\n", "b": "an INK drawing", "c": "", "d": None}.items():
        (tmp_path / f"{name}.png").write_bytes(codec.encode_png(picture(64, 64)))
        if text is not None:
            (tmp_path / f"{name}.txt").write_text(text, "utf-8")
    captions = [each.caption for each in read_folder(tmp_path, "ink", 64)]
    assert captions == ["ink, a cat", "an INK drawing", "ink", "ink"]


def spoil_picture(folder):
    data = (folder / "p1.png").read_bytes()
    (folder / "p1.png").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: [p.unlink() for p in f.iterdir()], "holds no picture"),
        (lambda f: (f / "p1.txt").unlink(), r"1 of 5 pictures have no caption: p1.png"),
        (lambda f: (f / "p1.txt").write_bytes(b"\xff\xfe\xfa"), "p1.txt cannot be read: it is no UTF-8"),
        (lambda f: (f / "p1.txt").write_text("a" * 10_001), "p1.txt is too long"),
        (spoil_picture, "p1.png is damaged"),
        (lambda f: (f / "p1.png").write_bytes(b"GIF?"), "p1.png is not a picture"),
        (
            lambda f: (f / "p1.png").write_bytes(codec.encode_png(picture(24, 24))),
            "24 x 24 pixels, too small",
        ),
        (lambda f: f.rename(f.with_name("gone")), "pictures cannot be read: no such file"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_in_a_sentence(folder, spoil, sentence):
    spoil(folder)
    with pytest.raises((RequestInvalid, Corrupt), match=sentence) as err:
        read_folder(folder, "", 64)
    assert err.value.hint


# Requests


def test_what_is_left_open_follows_from_the_model_and_the_pictures():
    asked = build_training(folder="/a", name="ink")
    large, small = asked.filled(catalog.DEV, 10), asked.filled(catalog.TINY, 10)
    assert (large.size_px, large.batch_size, large.num_steps, large.learning_rate) == (512, 1, 1000, 1e-4)
    assert (small.size_px, small.batch_size, small.num_steps) == (256, 4, 250)
    assert small.learning_rate == pytest.approx(1.2e-3)
    assert build_training(folder="/a", name="ink", repeats=7).filled(catalog.DEV, 10).num_steps == 70


def test_a_training_that_goes_on_takes_more_steps_but_no_other_rank():
    before = build_training(folder="/a", name="ink").filled(catalog.TINY, 8)
    more = build_training(folder="/a", name="ink", num_steps=900, rank=16, is_resumed=True).going_on(before)
    assert (more.num_steps, more.batch_size, more.is_resumed) == (900, 4, True)
    with pytest.raises(RequestInvalid, match="began with rank '16', not '8'"):
        build_training(folder="/a", name="ink", rank=8, is_resumed=True).going_on(before)


@pytest.mark.parametrize(
    ("model", "error", "sentence"),
    [
        ("nothing", RequestInvalid, "no model called 'nothing'"),
        ("flux1-dev", ModelMissing, "not on this machine"),
        ("flux1-fill-dev", RequestInvalid, "sees more than noise"),
        ("t5-xxl", RequestInvalid, "not a model that paints"),
    ],
)
def test_a_model_that_cannot_be_trained_on_is_refused(models, model, error, sentence):
    with pytest.raises(error, match=sentence):
        find_base(model, models)


def test_a_path_that_is_no_transformer_is_refused(models):
    with pytest.raises(RequestInvalid, match="cannot be trained on: it is a"):
        find_base(str(models[0] / "micro" / "ae.safetensors"), models)


def test_a_transformer_and_a_diffusers_folder_are_models_by_their_paths(models, tmp_path):
    file = tmp_path / "dream.safetensors"
    file.write_bytes((models[0] / "micro" / "transformer.safetensors").read_bytes())
    diffusers = tmp_path / "a folder"
    for part, name in (
        ("transformer", "transformer.safetensors"),
        ("vae", "ae.safetensors"),
        ("text_encoder", "text_encoder/model.safetensors"),
        ("text_encoder_2", "text_encoder_2/model.safetensors"),
    ):
        (diffusers / part).mkdir(parents=True)
        (diffusers / part / "model.safetensors").write_bytes((models[0] / "micro" / name).read_bytes())
    for name in ("tokenizer", "tokenizer_2"):
        (diffusers / name).symlink_to(models[0] / "micro" / name)
    assert find_base(str(file), models).spec.files.transformer == str(file)
    base = find_base(str(diffusers), ())
    assert base.folder == diffusers
    assert base.spec.transformer == MICRO.transformer


def test_too_little_memory_is_said_before_anything_is_loaded(folder, models, places):
    asked = build_training(folder=str(folder), name="ink", model="micro", size_px=64)
    prepared = prepare(asked, models, places)
    arguments = prepared.training, prepared.base, prepared.examples, Precision.FP32
    check_memory(*arguments, free=10**9)
    with pytest.raises(OutOfMemory, match=r"at 64 pixels: it takes about .* GB, and 0\.0 are free"):
        check_memory(*arguments, free=1000)

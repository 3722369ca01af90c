"""A model that is a low-rank change of another's transformer paints as the whole model would."""

import dataclasses
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flux_core import catalog
from flux_core.errors import ModelMissing, RequestInvalid
from flux_core.request import Task
from tests.support.engine_runs import psnr_db, run
from tests.support.tiny_random import MICRO

CHANGED = dataclasses.replace(
    MICRO, model="micro-changed", title="Micro Fill", tasks=(Task.FILL,), needs=("micro",),
    lora="lora.safetensors", lora_channels=384,
)  # fmt: skip
WHOLE = dataclasses.replace(
    MICRO, model="micro-whole", title="Micro Fill", tasks=(Task.FILL,), needs=("micro",),
    transformer=dataclasses.replace(MICRO.transformer, in_channels=384),
)  # fmt: skip
PICTURE = np.random.default_rng(0).integers(0, 255, (64, 64, 4), dtype=np.uint8)
PICTURE[..., 3] = 255
MASK = np.zeros((64, 64), np.uint8)
MASK[16:48, 16:48] = 255


@pytest.fixture
def models(tmp_path, models_dir, monkeypatch):
    for spec in (CHANGED, WHOLE):
        monkeypatch.setitem(catalog.MODELS, spec.model, spec)
    shutil.copytree(models_dir / "micro", tmp_path / "micro")
    base = load_file(tmp_path / "micro" / MICRO.files.transformer)
    rng, change = np.random.default_rng(1), {}
    whole = dict(base)
    for name, wide in (("img_in", 384), ("double_blocks.0.img_mlp.0", 32), ("final_layer.linear", 32)):
        rows, columns = base[f"{name}.weight"].shape
        down = rng.normal(0, 0.2, (4, wide)).astype(np.float32)
        up = rng.normal(0, 0.2, (rows, 4)).astype(np.float32)
        bias = rng.normal(0, 0.2, rows).astype(np.float32)
        change |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up, f"{name}.lora_B.bias": bias}
        whole[f"{name}.weight"] = np.pad(base[f"{name}.weight"], ((0, 0), (0, wide - columns))) + up @ down
        whole[f"{name}.bias"] = base[f"{name}.bias"] + bias
    scales = {name: value * 1.1 for name, value in base.items() if name.endswith("query_norm.scale")}
    for folder, tensors in (("micro-changed", change | scales), ("micro-whole", whole | scales)):
        (tmp_path / folder).mkdir()
        file = CHANGED.lora if folder == "micro-changed" else WHOLE.files.transformer
        save_file(tensors, tmp_path / folder / file)
        if folder == "micro-whole":
            latents = tmp_path / "micro" / "latent_rgb.json"
            if latents.exists():
                shutil.copy(latents, tmp_path / folder)
    return tmp_path


def test_a_change_of_another_transformer_paints_as_the_whole_model(models, make_engine):
    engine = make_engine(models)
    wanted = {"task": "fill", "image": PICTURE, "mask": MASK, "precision": "fp32", "prompt": "a cat"}
    changed = run(engine, model="micro-changed", **wanted).pixels
    whole = run(engine, model="micro-whole", **wanted).pixels
    assert psnr_db(changed, whole) > 45
    plain = run(engine, **wanted).pixels
    assert psnr_db(changed, plain) < 45


def test_without_its_file_such_a_model_is_missing(models, make_engine):
    (models / "micro-changed" / "lora.safetensors").unlink()
    with pytest.raises(ModelMissing, match=r"has no lora\.safetensors"):
        run(make_engine(models), model="micro-changed", task="fill", image=PICTURE, mask=MASK)


def test_a_file_that_reads_other_channels_is_refused(models, make_engine):
    path = models / "micro-changed" / "lora.safetensors"
    change = load_file(path)
    change["img_in.lora_A.weight"] = change["img_in.lora_A.weight"][:, :128]
    save_file(change, path)
    with pytest.raises(RequestInvalid, match="128 channels instead of 384"):
        run(make_engine(models), model="micro-changed", task="fill", image=PICTURE, mask=MASK)

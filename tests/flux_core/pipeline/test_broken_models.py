"""Models that are missing, damaged or lie: one clear error, and the engine lives on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flux_core.errors import Corrupt, FluxError, Internal, ModelMissing, OutOfMemory
from flux_core.parts import Parts
from flux_core.pipeline import FluxEngine
from flux_core.plan import Component, PartKey
from flux_core.request import Precision, Task, build_request
from flux_core.sampling import preview
from tests.support.engine_runs import run, scene
from tests.support.tiny_random import MICRO, Tensors, rewrite

MakeEngine = Callable[[Path], FluxEngine]
WEIGHTS = [MICRO.files.transformer, MICRO.files.autoencoder, MICRO.files.t5, MICRO.files.clip]


@pytest.fixture
def own_dir(models_dir: Path, tmp_path: Path) -> Path:
    """A copy of the models folder that a test may break."""
    return Path(shutil.copytree(models_dir, tmp_path / "models"))


def failure(engine: FluxEngine, kind: type[FluxError], **fields: object) -> FluxError:
    with pytest.raises(kind) as caught:
        run(engine, **fields)  # type: ignore[arg-type]
    assert caught.value.message.endswith(".")
    assert caught.value.hint.endswith(".")
    return caught.value


def test_a_model_that_is_not_there_names_its_files(make_engine: MakeEngine, tmp_path: Path) -> None:
    message = failure(make_engine(tmp_path), ModelMissing).message
    assert "transformer.safetensors" in message
    assert str(tmp_path) in message


@pytest.mark.parametrize("name", MICRO.files.all)
def test_a_missing_file_is_named(make_engine: MakeEngine, own_dir: Path, name: str) -> None:
    path = own_dir / "micro" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert name in failure(make_engine(own_dir), ModelMissing).message


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_truncated_file_is_named(make_engine: MakeEngine, own_dir: Path, name: str) -> None:
    path = own_dir / "micro" / name
    path.write_bytes(path.read_bytes()[:-1000])
    assert Path(name).name in failure(make_engine(own_dir), Corrupt).message


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_file_of_something_else_lists_what_is_wrong(
    make_engine: MakeEngine, own_dir: Path, name: str
) -> None:
    def rename_one(tensors: Tensors) -> Tensors:
        first = next(iter(tensors))
        return {("surprise" if key == first else key): value for key, value in tensors.items()}

    rewrite(own_dir / "micro" / name, rename_one)
    message = failure(make_engine(own_dir), Corrupt).message
    assert "missing" in message
    assert "surprise" in message


def poison(own_dir: Path, name: str, key: str) -> None:
    def change(tensors: Tensors) -> Tensors:
        tensors[key] = np.full_like(tensors[key], np.nan)
        return tensors

    rewrite(own_dir / "micro" / name, change)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (MICRO.files.transformer, "img_in.weight"),
        (MICRO.files.t5, "shared.weight"),
        (MICRO.files.clip, "text_model.final_layer_norm.weight"),
    ],
)
def test_a_model_that_gives_nan_is_stopped_at_the_first_step(
    make_engine: MakeEngine, own_dir: Path, name: str, key: str
) -> None:
    poison(own_dir, name, key)
    error = failure(make_engine(own_dir), Corrupt, precision=Precision.FP32)
    assert error.message == "Micro FLUX gave values that are not numbers after step 1 of 3."


def test_nan_below_full_precision_suggests_full_precision(make_engine: MakeEngine, own_dir: Path) -> None:
    poison(own_dir, MICRO.files.transformer, "img_in.weight")
    assert "fp32" in failure(make_engine(own_dir), Internal, precision=Precision.BF16).hint


@pytest.mark.parametrize("has_preview_map", [True, False])
def test_a_decoder_that_gives_nan_is_named(
    make_engine: MakeEngine, own_dir: Path, has_preview_map: bool
) -> None:
    if not has_preview_map:
        (own_dir / "micro" / preview.FILE_NAME).unlink()
    poison(own_dir, MICRO.files.autoencoder, "decoder.conv_out.bias")
    assert "decoded" in failure(make_engine(own_dir), Corrupt, precision=Precision.FP32).message


def test_an_encoder_that_gives_nan_is_stopped_at_the_first_step(
    make_engine: MakeEngine, own_dir: Path
) -> None:
    poison(own_dir, MICRO.files.autoencoder, "encoder.conv_out.bias")
    fields = {"task": Task.TRANSFORM, "image": scene(64, 64), "precision": Precision.FP32}
    assert "step 1" in failure(make_engine(own_dir), Corrupt, **fields).message


def test_files_that_were_repaired_are_read_again(
    make_engine: MakeEngine, own_dir: Path, models_dir: Path
) -> None:
    engine = make_engine(own_dir)
    good = run(engine, seed=1).result.images
    poison(own_dir, MICRO.files.transformer, "img_in.weight")
    failure(engine, Corrupt, precision=Precision.FP32)
    shutil.copy(models_dir / "micro" / MICRO.files.transformer, own_dir / "micro" / MICRO.files.transformer)
    assert run(engine, seed=1).result.images == good


def test_a_damaged_tokenizer_is_named(make_engine: MakeEngine, own_dir: Path) -> None:
    (own_dir / "micro" / MICRO.files.t5_tokenizer / "tokenizer.json").write_text("{}")
    assert "tokenizer" in failure(make_engine(own_dir), Corrupt).message


def test_a_t5_tokenizer_with_more_tokens_than_its_encoder_is_named(
    make_engine: MakeEngine, own_dir: Path
) -> None:
    path = own_dir / "micro" / MICRO.files.t5_tokenizer / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] += [[f"extra{i}", -9.0] for i in range(MICRO.t5.vocab_size)]
    path.write_text(json.dumps(content))
    message = failure(make_engine(own_dir), Corrupt, prompt="extra1").message
    assert f"{path.parent} knows" in message
    assert f"only {MICRO.t5.vocab_size}" in message


def test_a_clip_tokenizer_with_a_token_beyond_its_encoder_is_named(
    make_engine: MakeEngine, own_dir: Path
) -> None:
    path = own_dir / "micro" / MICRO.files.clip_tokenizer / "vocab.json"
    vocab = json.loads(path.read_text("utf-8"))
    vocab["beyond"] = 2**31
    path.write_text(json.dumps(vocab), "utf-8")
    message = failure(make_engine(own_dir), Corrupt).message
    assert f"{path.parent} knows {2**31 + 1} tokens" in message


def test_a_stored_preview_map_is_used_and_a_damaged_one_is_named(
    make_engine: MakeEngine, own_dir: Path
) -> None:
    matrix = np.zeros((17, 3), dtype=np.float32)
    preview.write(own_dir / "micro", matrix)
    engine = make_engine(own_dir)
    grey = preview.to_webp_base64(np.zeros((8, 8, 16), np.float32), matrix)
    assert run(engine).previews[0].webp_base64 == grey
    (own_dir / "micro" / preview.FILE_NAME).write_text("[]")
    assert preview.FILE_NAME in failure(make_engine(own_dir), Corrupt).message


def test_without_a_stored_preview_map_one_is_fitted(make_engine: MakeEngine, own_dir: Path) -> None:
    (own_dir / "micro" / preview.FILE_NAME).unlink()
    engine = make_engine(own_dir)
    assert run(engine).previews[0].webp_base64 == run(engine).previews[0].webp_base64


def test_a_machine_without_memory_is_told_what_to_do(make_engine: MakeEngine, models_dir: Path) -> None:
    def read_blob(sha256: str) -> bytes:
        raise MemoryError

    request = build_request(model="micro", task=Task.TRANSFORM, image="0" * 64, width_px=4096, height_px=4000)
    with pytest.raises(OutOfMemory, match="4096 x 4000.*smaller"):
        make_engine(models_dir).run(request, read_blob, lambda message: None, lambda: False)


# Memory


def test_with_little_memory_parts_are_freed_and_the_picture_is_the_same(
    make_engine: MakeEngine, models_dir: Path
) -> None:
    roomy, tight = make_engine(models_dir), make_engine(models_dir)
    tight._bench._budget_bytes = 0
    fields = {"task": Task.TRANSFORM, "image": scene(64, 64), "strength": 0.8, "num_images": 2}
    done = run(tight, **fields)
    assert done.result.images == run(roomy, **fields).result.images
    assert not any(tight._bench.parts.has(PartKey(component)) for component in Component)
    fractions = [message.fraction for message in done.progress]
    assert fractions == sorted(fractions)


def test_another_precision_frees_the_parts_of_the_first(engine: FluxEngine, models_dir: Path) -> None:
    parts = Parts(engine._backend)
    parts.choose(MICRO, models_dir / "micro", Precision.FP32)
    parts.get(Component.CLIP)
    parts.choose(MICRO, models_dir / "micro", Precision.FP32)
    assert parts.has(Component.CLIP)
    parts.choose(MICRO, models_dir / "micro", Precision.BF16)
    assert not parts.has(Component.CLIP)

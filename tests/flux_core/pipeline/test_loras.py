"""Requests with LoRAs: they change the picture, come off again, and never load the model twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch

from flux_core.errors import Corrupt, FluxError, ModelMissing, RequestInvalid
from flux_core.messages import Stage
from flux_core.pipeline import FluxEngine
from flux_core.plan import Component
from flux_core.weights.lora.layers import layers_of
from tests.support import lora_files
from tests.support.engine_runs import Run, run
from tests.support.lora_files import KOHYA, Arrays, Draw
from tests.support.tiny_random import MICRO

MakeEngine = Callable[[Path], FluxEngine]
LAYERS = [layer.name for layer in layers_of(MICRO)[Component.TRANSFORMER] if layer.columns]
CLIP = ["text_model.encoder.layers.0.self_attn.v_proj", "text_model.encoder.layers.0.mlp.fc1"]
T5 = ["encoder.block.0.layer.0.SelfAttention.v"]


def text_lora(prefix: str, layers: list[str], component: Component, seed: int = 0) -> Arrays:
    draw, sizes, file = Draw(seed), lora_files.matrices(MICRO, component), {}
    for layer in layers:
        file |= draw.pair(prefix + layer.replace(".", "_"), *sizes[layer], 4, KOHYA)
    return file


FILES: dict[str, Arrays] = {
    "ink.safetensors": lora_files.kohya(MICRO, LAYERS, seed=1),
    "oil.safetensors": lora_files.kohya(MICRO, LAYERS[:5], seed=2),
    "clip.safetensors": text_lora("lora_te1_", CLIP, Component.CLIP),
    "t5.safetensors": text_lora("lora_te3_", T5, Component.T5),
    "partly.safetensors": lora_files.kohya(MICRO, LAYERS[:5], seed=2)
    | text_lora("lora_unet_mystery_", T5, Component.T5),
    "control.safetensors": lora_files.control(MICRO),
    "sdxl.safetensors": Draw().pair("lora_unet_down_blocks_1_proj_in", 4, 4, 2, KOHYA),
    "bias.safetensors": lora_files.kohya(MICRO, LAYERS[:5], seed=2)
    | {"lora_unet_double_blocks_0_img_attn_norm_query_norm.diff_b": np.ones(16, np.float32)},
    "huge.safetensors": {
        name: np.asarray(1e30 * array, np.float32)
        for name, array in lora_files.kohya(MICRO, LAYERS[:5], seed=2).items()
    },
    "norms.safetensors": {"double_blocks.0.img_attn.norm.query_norm.scale": 3 * np.ones(16, np.float32)},
}


@pytest.fixture(scope="session", autouse=True)
def loras(models_dir: Path) -> Path:
    folder = models_dir / "loras"
    folder.mkdir()
    for name, file in FILES.items():
        save_file(file, folder / name)
    (folder / "damaged.safetensors").write_bytes(b"\xff" * 100)
    poisoned = {name: array.copy() for name, array in FILES["oil.safetensors"].items()}
    next(iter(poisoned.values()))[0, 0] = np.nan
    save_file(poisoned, folder / "poisoned.safetensors")
    return folder


def paint(engine: FluxEngine, *uses: tuple[str, float], prompt: str = "a cat", **fields: object) -> Run:
    listed = [{"name": name, "strength": strength} for name, strength in uses]
    return run(engine, prompt=prompt, loras=listed, **fields)  # type: ignore[arg-type]


def png(done: Run) -> bytes:
    return done.result.images[0].png


def stages(done: Run) -> set[Stage]:
    return {message.stage for message in done.progress}


@pytest.mark.parametrize("name", ["ink", "oil", "clip", "t5", "norms"])
def test_a_lora_changes_the_picture_and_leaves_no_trace(engine: FluxEngine, name: str) -> None:
    plain = png(paint(engine))
    assert png(paint(engine, (name, 1.0))) != plain
    assert png(paint(engine)) == plain


def test_every_strength_is_another_picture_and_always_the_same(engine: FluxEngine) -> None:
    strengths = (1.0, 0.5, -1.0, 4.0)
    first = [png(paint(engine, ("ink", strength))) for strength in strengths]
    again = [png(paint(engine, ("ink", strength))) for strength in reversed(strengths)]
    assert first == again[::-1]
    assert len(set(first)) == len(strengths)


def test_the_picture_does_not_depend_on_what_was_attached_before(engine: FluxEngine) -> None:
    wanted = (("ink", 0.7), ("norms", 1.0), ("oil", 0.4))
    first = png(paint(engine, *wanted))
    for before in ((), wanted[::-1], (("oil", 2.0), ("ink", 1.0)), (("ink", 0.7), ("oil", 0.4))):
        paint(engine, *before)
        assert png(paint(engine, *wanted)) == first


def test_a_strength_of_zero_is_the_same_as_no_lora(engine: FluxEngine) -> None:
    assert png(paint(engine, ("ink", 0.0), ("norms", 0.0))) == png(paint(engine))


def test_the_suffix_may_be_left_out(engine: FluxEngine) -> None:
    assert png(paint(engine, ("ink.safetensors", 1.0))) == png(paint(engine, ("ink", 1.0)))


def test_the_base_is_loaded_once_and_a_new_strength_loads_nothing(
    make_engine: MakeEngine, models_dir: Path
) -> None:
    engine = make_engine(models_dir)
    paint(engine, prompt="dog")
    parts = engine._bench.parts
    before, part = parts.identity, parts.get(Component.TRANSFORMER)
    assert Stage.LOADING in stages(paint(engine, ("ink", 1.0), prompt="dog"))
    assert Stage.LOADING not in stages(paint(engine, ("ink", 0.3), prompt="dog"))
    assert parts.identity == before
    assert parts.get(Component.TRANSFORMER) is part


def test_texts_are_encoded_again_only_for_loras_of_text_encoders(engine: FluxEngine) -> None:
    def encodes(*uses: tuple[str, float]) -> bool:
        return Stage.ENCODING in stages(paint(engine, *uses, prompt="a bear"))

    assert encodes()
    assert not encodes(("ink", 1.0))
    assert encodes(("clip", 1.0))
    assert not encodes(("clip", 1.0), ("ink", 0.5))
    assert encodes(("clip", 0.5))
    assert encodes(("t5", 1.0))
    assert not encodes()


def test_parts_that_are_freed_between_stages_get_their_loras_again(
    make_engine: MakeEngine, models_dir: Path
) -> None:
    roomy, small = make_engine(models_dir), make_engine(models_dir)
    small._bench._budget_bytes = 0
    uses = (("ink", 0.5), ("clip", 1.0))
    assert png(paint(small, *uses)) == png(paint(small, *uses)) == png(paint(roomy, *uses))


def test_a_file_that_was_replaced_is_read_again(make_engine: MakeEngine, models_dir: Path) -> None:
    engine, path = make_engine(models_dir), models_dir / "loras" / "changing.safetensors"
    save_file(FILES["ink.safetensors"], path)
    first = png(paint(engine, ("changing", 1.0)))
    path.unlink()
    save_file(FILES["oil.safetensors"], path)
    assert png(paint(engine, ("changing", 1.0))) == png(paint(engine, ("oil", 1.0))) != first


def test_a_lora_of_which_something_was_left_out_is_used_and_says_so(engine: FluxEngine) -> None:
    done = paint(engine, ("partly", 1.0), ("ink", 1.0))
    (warning,) = done.result.warnings
    assert warning.startswith("partly: 2 of its 17 tensors were left out ('lora_unet_mystery_")
    assert png(paint(engine, ("partly", 1.0))) == png(paint(engine, ("oil", 1.0)))
    assert paint(engine, ("ink", 1.0)).result.warnings == ()


def test_a_bias_for_a_norm_that_has_none_is_left_out_every_time(engine: FluxEngine) -> None:
    for _ in range(2):
        done = paint(engine, ("bias", 1.0))
        (warning,) = done.result.warnings
        assert "query_norm.diff_b" in warning
        assert png(done) == png(paint(engine, ("oil", 1.0)))


@pytest.mark.parametrize(
    ("name", "kind", "word"),
    [
        ("nowhere", ModelMissing, "There is no LoRA called 'nowhere'"),
        ("sdxl", RequestInvalid, "Stable Diffusion"),
        ("control", RequestInvalid, "control picture"),
        ("damaged", Corrupt, "damaged.safetensors"),
        ("poisoned", Corrupt, "not numbers"),
        ("huge", RequestInvalid, "not numbers"),
    ],
)
def test_a_lora_that_cannot_be_used_is_one_sentence_and_the_engine_lives_on(
    engine: FluxEngine, name: str, kind: type[FluxError], word: str
) -> None:
    plain = png(paint(engine))
    with pytest.raises(kind) as caught:
        paint(engine, ("ink", 1.0), (name, 1.0))
    assert word in caught.value.message
    assert caught.value.message.endswith(".")
    assert caught.value.hint.endswith(".")
    assert png(paint(engine)) == plain


def test_one_file_by_two_names_is_refused(engine: FluxEngine) -> None:
    with pytest.raises(RequestInvalid, match=r"ink and ink.safetensors are the same LoRA"):
        paint(engine, ("ink", 1.0), ("ink.safetensors", 1.0))


def test_a_model_in_eight_bits_takes_loras_and_gives_them_back(
    make_engine: MakeEngine, models_dir: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(models_dir, tmp_path / "models"))
    path = folder / "micro" / MICRO.files.transformer
    tensors = load_file(path)
    save_torch({n: t.to(torch.float8_e4m3fn) if t.ndim > 1 else t for n, t in tensors.items()}, path)
    engine = make_engine(folder)
    plain = png(paint(engine))
    pictures = [png(paint(engine, ("ink", strength))) for strength in (1.0, 0.5, 1.0)]
    assert pictures[0] == pictures[2] != pictures[1]
    assert plain not in pictures
    assert png(paint(engine)) == plain


def test_a_wrong_name_does_not_cost_the_loaded_model(make_engine: MakeEngine, models_dir: Path) -> None:
    engine = make_engine(models_dir)
    paint(engine)
    with pytest.raises(ModelMissing, match="nowhere"):
        paint(engine, ("nowhere", 1.0))
    assert Stage.LOADING not in stages(paint(engine))


def test_a_missing_lora_names_those_that_are_there(engine: FluxEngine) -> None:
    with pytest.raises(ModelMissing) as caught:
        paint(engine, ("nowhere", 1.0))
    assert "clip.safetensors, control.safetensors" in caught.value.hint

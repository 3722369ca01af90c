"""Phi-4 reads a picture whole and in pieces, with its adapter, and says what its own class says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from backends.torch_cuda.vision.phi4 import cut
from flux_core.errors import Corrupt, RequestInvalid
from flux_core.looking import Describe
from tests.support.vision_folders import PHI_SIDE_PX, phi4, pixels

PICTURE = pixels(40, 70)
ADAPTER = "vision-lora"


@pytest.mark.parametrize("has_adapter", [True, False])
def test_an_answer_is_the_models_with_its_adapter_where_it_has_one(
    tmp_path: Path, have, ask, has_adapter: bool
) -> None:
    model = have("phi-4", phi4, has_adapter=has_adapter)
    found = ask(Describe(model="phi-4", question="How many <|end|> cats?", max_tokens=12), PICTURE).findings[
        0
    ]
    pieces = cut(PICTURE, PHI_SIDE_PX, 7, 36)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "phi-4")
    picture = "<|endoftext10|>" * pieces.num_tokens
    text = f"<|user|>{picture}How many < |end|> cats?<|end|><|assistant|>"
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            image_pixel_values=pieces.values,
            image_sizes=pieces.size,
            image_attention_mask=pieces.seen,
            max_new_tokens=12,
            do_sample=False,
        )
    new = ids[0, inputs.input_ids.shape[1] :]
    assert found.text == tokenizer.decode(new, skip_special_tokens=True).strip()
    assert found.text


def test_a_picture_is_cut_into_a_grid_that_it_fills_from_the_left_and_the_top() -> None:
    pieces = cut(PICTURE, side_px=28, patch_px=7, max_pieces=36)
    assert pieces.values.shape == (1, 1 + 2 * 3, 3, 28, 28)
    assert pieces.size.tolist() == [[56, 84]]
    first, last = pieces.values[0, 1], pieces.values[0, -1]
    assert torch.equal(last[:, -8:, :], torch.ones(3, 8, 28))  # white: 40 px of 70 are 48 of 84
    assert not torch.equal(first, torch.ones_like(first))
    assert pieces.seen[0, 0].all()
    assert not pieces.seen[0, 4:, -1].any()
    assert pieces.seen[0, 1:4].all()


def test_a_large_picture_takes_no_more_pieces_than_allowed_and_keeps_its_proportions() -> None:
    pieces = cut(pixels(200, 400), side_px=28, patch_px=7, max_pieces=8)
    height, width = pieces.size[0].tolist()
    assert (height, width) == (56, 112)
    assert pieces.values.shape[1] == 1 + 8


def test_a_thread_of_a_picture_is_refused() -> None:
    with pytest.raises(RequestInvalid, match="4 x 4000 pixels is too narrow"):
        cut(np.full((4000, 4, 4), 255, np.uint8), side_px=448, patch_px=14, max_pieces=36)


def _drop_half(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if "lora_A" in name))
    save_file(tensors, path)


def _add_stranger(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    pair = {f"base_model.model.model.layers.9.o_proj.lora_{x}.weight": torch.zeros(4, 4) for x in "AB"}
    save_file({**load_file(path), **pair}, path)


def _change_size(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({n: t[:, :-1].contiguous() if "lora_A" in n else t for n, t in load_file(path).items()}, path)


def _cut_file(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("damage", [_drop_half, _add_stranger, _change_size, _cut_file])
def test_an_adapter_that_does_not_fit_is_one_typed_error(tmp_path: Path, have, ask, damage) -> None:
    have("shelf", phi4, has_adapter=True)
    shutil.copytree(tmp_path / "shelf", tmp_path / "phi-4")
    damage(tmp_path / "phi-4" / ADAPTER)
    with pytest.raises(Corrupt, match="phi-4"):
        ask(Describe(model="phi-4", max_tokens=2), PICTURE)


def test_an_adapter_that_is_more_than_lora_is_refused(tmp_path: Path, have, ask) -> None:
    have("shelf", phi4, has_adapter=True)
    shutil.copytree(tmp_path / "shelf", tmp_path / "phi-4")
    path = tmp_path / "phi-4" / ADAPTER / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_dora": True}))
    with pytest.raises(RequestInvalid, match="uses use_dora"):
        ask(Describe(model="phi-4", max_tokens=2), PICTURE)

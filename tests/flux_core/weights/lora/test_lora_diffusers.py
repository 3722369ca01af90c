"""LoRAs do what diffusers makes of the same file, on random small models.

diffusers 0.42 is compared where it is right. Where it is not, our own meaning is tested in test_lora_names
and test_lora_values: it ignores the alpha of sd-scripts' final layer, loses that tool's img_in, txt_in and
embedders, drops DoRA, T5 and norm differences, knows sd-scripts' single blocks of the published size only,
and takes control LoRAs in BFL's names only with 19 and 38 blocks (so it gets the same numbers in its own).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flux_core.plan import Component
from flux_core.weights.diffusers_keys import transformer_recipes
from flux_core.weights.lora.read import read_lora
from flux_core.weights.safetensors_file import SafetensorsFile
from flux_core.weights.tensors import TensorSource
from tests.support import lora_files
from tests.support.lora_files import Arrays, matrices, norms
from tests.support.lora_peers import (
    CONFIG,
    SPEC,
    TOLERANCE,
    check,
    flux_peer,
    lora_of,
    of_peer,
    ours,
    pipeline,
    quiet,
    saved,
)
from tests.support.numerics import BACKENDS


def on_peer(base: TensorSource, peer: Any, loras: list[tuple[Any, float]], channels: int = 64) -> np.ndarray:
    """diffusers' own loader on the same numbers."""
    with quiet():
        pipe = pipeline(peer)
        for number, (file, _) in enumerate(loras):
            tensors = {name: torch.as_tensor(value).clone() for name, value in file.items()}
            pipe.load_lora_weights(tensors, adapter_name=f"a{number}")
        pipe.set_adapters([f"a{i}" for i in range(len(loras))], [strength for _, strength in loras])
        return of_peer(pipe.transformer, channels)


SD_SCRIPTS = [
    layer for layer in matrices(SPEC) if "blocks" in layer and "linear1" not in layer and "final" not in layer
]


def test_a_file_that_diffusers_writes_means_the_same_here(tmp_path: Path) -> None:
    from diffusers import FluxPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    peer = flux_peer()
    base = saved(peer.state_dict(), tmp_path / "base.safetensors")
    targets = [name for name, module in peer.named_modules() if isinstance(module, torch.nn.Linear)]
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=targets, init_lora_weights=False, alpha_pattern={"proj_out": 2}
    )
    torch.manual_seed(3)
    peer.add_adapter(config)
    with quiet():
        FluxPipeline.save_lora_weights(
            tmp_path,
            transformer_lora_layers=get_peft_model_state_dict(peer),
            transformer_lora_adapter_metadata=config.to_dict(),
        )
    lora = read_lora(SafetensorsFile(tmp_path / "pytorch_lora_weights.safetensors"), SPEC, "x")
    assert lora.report.unmatched == ()
    assert lora.report.layers == {Component.TRANSFORMER: len(matrices(SPEC))}
    check(base, [(lora, 1.0)], of_peer(peer))


@pytest.mark.parametrize("family", ["sd-scripts", "XLabs", "split qkv"])
def test_a_file_of_another_family_means_what_diffusers_makes_of_it(tmp_path: Path, family: str) -> None:
    file = {
        "sd-scripts": lambda: lora_files.kohya(SPEC, SD_SCRIPTS),
        "XLabs": lambda: lora_files.xlabs(SPEC),
        "split qkv": lambda: split_qkv(lora_files.kohya(SPEC, ["double_blocks.0.img_attn.qkv"], rank=6)),
    }[family]()
    peer = flux_peer()
    base = saved(peer.state_dict(), tmp_path / "base.safetensors")
    check(base, [(lora_of(file, tmp_path), 0.7)], on_peer(base, peer, [(file, 0.7)]))


def split_qkv(file: Arrays) -> Arrays:
    """As sd-scripts saves what it trained with split_qkv: up is block-diagonal, down is stacked."""
    up = file["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"]
    size, rank = up.shape[0] // 3, up.shape[1] // 3
    mask = np.kron(np.eye(3), np.ones((size, rank))).astype(np.float32)
    return file | {"lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": up * mask}


def test_two_at_once_add_up_as_in_diffusers(tmp_path: Path) -> None:
    one, two = lora_files.kohya(SPEC, SD_SCRIPTS, seed=1), lora_files.xlabs(SPEC, seed=2)
    peer = flux_peer()
    base = saved(peer.state_dict(), tmp_path / "base.safetensors")
    uses = [(lora_of(one, tmp_path, name="1"), 0.5), (lora_of(two, tmp_path, name="2"), -0.8)]
    check(base, uses, on_peer(base, peer, [(one, 0.5), (two, -0.8)]))


def test_a_control_lora_widens_the_base_as_in_diffusers(tmp_path: Path) -> None:
    file = lora_files.control(SPEC, rank=6)
    file |= {
        name: 0.4 * array for name, array in file.items() if "lora" in name
    }  # outputs of the order of one
    peer = flux_peer()
    base = saved(peer.state_dict(), tmp_path / "base.safetensors")
    lora = lora_of(file, tmp_path)
    assert lora.channels == 128
    expected = on_peer(base, peer, [(in_diffusers_names(file), 0.85)], channels=128)
    gaps = {name: np.abs(ours(name, base, [(lora, 0.85)], 128) - expected).max() for name in BACKENDS}
    assert max(gaps.values()) < TOLERANCE, gaps


def in_diffusers_names(file: Arrays) -> Arrays:
    """A control LoRA as diffusers' converter writes it."""
    out: Arrays = {}
    dim = CONFIG.hidden_size
    for name, recipe in transformer_recipes(CONFIG).items():
        layer = name.rpartition(".")[0]
        modules = ["transformer." + part.rpartition(".")[0] for part in recipe.parts]
        if layer in norms(SPEC):
            out[f"{modules[0]}.weight"] = file[name]
        elif name.endswith(".weight"):
            arrays = {
                end: file[f"{layer}.{end}"] for end in ("lora_A.weight", "lora_B.weight", "lora_B.bias")
            }
            cuts = [i * dim for i in range(1, len(modules))]
            ups, biases = np.split(arrays["lora_B.weight"], cuts), np.split(arrays["lora_B.bias"], cuts)
            for module, up, bias in zip(modules, ups, biases, strict=True):
                up, bias = (np.roll(x, len(x) // 2, 0) if recipe.is_swapped else x for x in (up, bias))
                out |= {f"{module}.lora_A.weight": arrays["lora_A.weight"]}
                out |= {f"{module}.lora_B.weight": up, f"{module}.lora_B.bias": bias}
    return out


def test_an_ordinary_lora_on_a_control_model_is_padded_as_in_diffusers(tmp_path: Path) -> None:
    spec = lora_files.small_spec(128)
    draw, dim = lora_files.Draw(4), CONFIG.hidden_size
    file = draw.pair("transformer.x_embedder", dim, 64, 4, lora_files.PEFT)
    file |= draw.pair("transformer.transformer_blocks.0.attn.to_out.0", dim, dim, 4, lora_files.PEFT)
    peer = flux_peer(128)
    base = saved(peer.state_dict(), tmp_path / "base.safetensors")
    expected = on_peer(base, peer, [(file, 0.7)], channels=128)
    gaps = {
        name: np.abs(ours(name, base, [(lora_of(file, tmp_path, spec), 0.7)], 128, spec) - expected).max()
        for name in BACKENDS
    }
    assert max(gaps.values()) < TOLERANCE, gaps

"""LoRAs do what peft and LyCORIS make of them, on the transformer and on both text encoders."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder, relative_buckets
from flux_core.plan import Component
from flux_core.request import Precision
from flux_core.weights import synonyms
from flux_core.weights.diffusers_keys import transformer_recipes
from flux_core.weights.lora.read import Lora, read_lora
from tests.support import lora_files
from tests.support.lora_files import delta_of, merged
from tests.support.lora_peers import (
    CONFIG,
    SPEC,
    TOLERANCE,
    check,
    flux_peer,
    lora_of,
    of_peer,
    quiet,
    quieted,
    saved,
)
from tests.support.numerics import BACKENDS, ArraySource, make_backend, to_bf16


def peft_config(kind: str) -> Any:
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    targets = ["to_q", "add_v_proj", "to_add_out", "linear_1", "norm_out.linear", "proj_mlp", "x_embedder"]
    match kind:
        case "LoRA":
            return LoraConfig(r=4, lora_alpha=6, target_modules=targets, init_lora_weights=False)
        case "rsLoRA":
            return LoraConfig(
                r=4, lora_alpha=6, target_modules=targets, use_rslora=True, init_lora_weights=False
            )
        case "DoRA":
            return LoraConfig(
                r=4, lora_alpha=6, target_modules=targets, use_dora=True, init_lora_weights=False
            )
        case "LoHa":
            return LoHaConfig(r=4, alpha=6, target_modules=targets, init_weights=False)
        case "LoKr":
            return LoKrConfig(r=2, alpha=3, target_modules=targets, init_weights=False)
    raise ValueError(kind)


@pytest.mark.parametrize("kind", ["LoRA", "rsLoRA", "DoRA", "LoHa", "LoKr"])
def test_peft_gives_the_same_deltas_and_the_same_model(tmp_path: Path, kind: str) -> None:
    from peft import get_peft_model_state_dict, inject_adapter_in_model

    peer, config = flux_peer(), peft_config(kind)
    base = saved(peer.state_dict(), tmp_path / "base.safetensors")
    torch.manual_seed(1)
    inject_adapter_in_model(config, peer)
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            if "magnitude" in name:
                parameter *= 1 + 0.2 * torch.rand(parameter.shape)
            elif "hada" in name or "lokr" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    file = {f"transformer.{k}": v for k, v in get_peft_model_state_dict(peer).items()}
    alpha = config.alpha if hasattr(config, "alpha") else config.lora_alpha
    alpha = alpha * config.r**0.5 if kind == "rsLoRA" else alpha
    layers = {
        name.rpartition(".")[0]
        for name in file
        if "lora_A" in name or "hada_w1_a" in name or "lokr_w1" in name
    }
    modules = {name.removesuffix(".lora_A") for name in layers}
    lora = lora_of(file | {f"{module}.alpha": torch.tensor(float(alpha)) for module in modules}, tmp_path)
    assert lora.report.unmatched == ()
    assert {k.removeprefix("DoRA ") for k in lora.report.kinds} == {
        kind.replace("rs", "").replace("Do", "Lo")
    }
    if kind != "DoRA":
        worst = max(np.abs(delta - expected).max() for delta, expected in deltas(lora, peer))
        assert worst < 1e-6
    check(base, [(lora, 1.0)], of_peer(peer))


def deltas(lora: Lora, peer: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ours and peft's, row slice by row slice."""
    theirs: dict[tuple[str, int], np.ndarray] = {}
    for name, recipe in transformer_recipes(CONFIG).items():
        for number, part in enumerate(recipe.parts if name.endswith(".weight") else ()):
            with contextlib.suppress(AttributeError):
                delta = (
                    peer.get_submodule(part.rpartition(".")[0]).get_delta_weight("default").detach().numpy()
                )
                delta = np.roll(delta, len(delta) // 2, 0) if recipe.is_swapped else delta
                theirs[name.removesuffix(".weight"), number * CONFIG.hidden_size] = delta
    seen = set()
    for patch in lora.patches():
        seen.add((patch.layer, patch.rows[0]))
        yield delta_of(patch), theirs[patch.layer, patch.rows[0]]
    assert len(seen) == len(theirs) >= 17


@pytest.mark.parametrize("kind", ["LoRA", "DoRA"])
@pytest.mark.parametrize("backend_name", BACKENDS)
def test_in_bfloat16_a_leaf_is_no_further_from_the_truth_than_peft(kind: str, backend_name: str) -> None:
    from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model

    rng, size = np.random.default_rng(0), 256
    weights = {
        "txt_in.weight": to_bf16(rng.standard_normal((48, size)) / 16),
        "txt_in.bias": to_bf16(rng.standard_normal(48)),
    }
    x = to_bf16(rng.standard_normal((64, size)))
    peer = torch.nn.ModuleDict({"txt_in": torch.nn.Linear(size, 48)})
    peer.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    peer.to(torch.bfloat16)
    torch.manual_seed(0)
    config = LoraConfig(
        r=8, lora_alpha=8, target_modules=["txt_in"], use_dora=kind == "DoRA", init_lora_weights=False
    )
    inject_adapter_in_model(config, peer)
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
        theirs = peer["txt_in"](torch.tensor(x, dtype=torch.bfloat16)).float().numpy()
    file = {name: value.float().numpy() for name, value in get_peft_model_state_dict(peer).items()}
    spec = replace(SPEC, transformer=replace(CONFIG, context_in_dim=size))
    lora = read_lora(lora_files.MemorySource(file), spec, "x")
    patches = list(lora.patches())
    exact = merged(weights, [(patches, 1.0)])
    true = x.astype(np.float64) @ exact["txt_in.weight"].T + exact["txt_in.bias"]

    backend = make_backend(backend_name)
    with backend.session():
        leaves = backend.leaves(ArraySource(weights), Precision.BF16)
        leaf = leaves.linear("txt_in", size, 48)
        backend.adapters(leaves, Precision.BF16).attach("a", patches, 1.0)
        found = backend.to_numpy(leaf(backend.cast(backend.from_numpy(x), Precision.BF16)))

    def error(y: np.ndarray) -> float:
        return float(np.sqrt(((y - true) ** 2).mean()))

    assert error(found) <= 1.02 * error(theirs)


# LyCORIS


ALGORITHMS = ("lora", "loha", "lokr", "lokr full")


@pytest.mark.parametrize(
    ("algorithm", "lengths", "multiplier"),
    [
        *((algorithm, "no lengths", 0.6) for algorithm in (*ALGORITHMS, "full")),
        *((algorithm, axis, 1.0) for algorithm in ALGORITHMS for axis in ("by rows", "by columns")),
    ],
)
def test_lycoris_gives_the_same_model(
    tmp_path: Path, algorithm: str, lengths: str, multiplier: float
) -> None:
    """DoRA at strength 1 only: below it LyCORIS weakens the lengths but not the delta, so 0 is not off."""
    from lycoris import create_lycoris

    peer = flux_peer()
    base = saved(peer.state_dict(), tmp_path / "base.safetensors")
    with quiet():
        network = create_lycoris(
            peer,
            multiplier,
            linear_dim=100000 if algorithm == "lokr full" else 4,
            linear_alpha=3,
            algo=algorithm.split()[0],
            dora_wd=lengths != "no lengths",
            wd_on_output=lengths == "by rows",
            factor=4,
        )
        network.apply_to()
        torch.manual_seed(2)
        with torch.no_grad():
            for name, p in network.named_parameters():
                p.copy_(p * (1 + 0.2 * torch.rand(p.shape)) if "dora" in name else 0.2 * torch.randn(p.shape))
        file = {name: value.clone() for name, value in network.state_dict().items()}
        expected = of_peer(peer)
    lora = lora_of(file, tmp_path)
    assert lora.report.unmatched == ()
    assert lora.report.families == ("LyCORIS",)
    check(base, [(lora, multiplier)], expected)


# Text encoders


def text_peer(
    kind: str,
) -> tuple[Any, Callable[[Any, Any], Any], list[np.ndarray], Callable[[Any], torch.Tensor]]:
    """A transformers model, ours, inputs, and how the peer is called."""
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    ids = np.random.default_rng(0).integers(3, 50, (2, 7)).astype(np.int32)
    if kind == "t5":
        c = SPEC.t5
        config = T5Config(
            vocab_size=c.vocab_size,
            d_model=c.d_model,
            d_kv=c.d_kv,
            d_ff=c.d_ff,
            feed_forward_proj="gated-gelu",
        )
        config.num_layers, config.num_heads = c.num_layers, c.num_heads
        peer = T5EncoderModel(config)
        given = [ids, relative_buckets(7, c)]
        return (
            quieted(peer),
            lambda o, m: T5Encoder(o, m, c),
            given,
            lambda p: p(torch.tensor(ids)).last_hidden_state,
        )
    c = SPEC.clip
    ids[:, -1] = 59
    peer = CLIPTextModel(
        CLIPTextConfig(vocab_size=60, hidden_size=c.hidden_size, intermediate_size=c.mlp_hidden,
                       num_hidden_layers=c.num_layers, num_attention_heads=c.num_heads, eos_token_id=59,
                       bos_token_id=58, pad_token_id=59)
    )  # fmt: skip
    given = [ids, np.arange(7, dtype=np.int32), np.full(2, 6, np.int32)]
    return quieted(peer), lambda o, m: ClipText(o, m, c), given, lambda p: p(torch.tensor(ids)).pooler_output


@pytest.mark.parametrize("kind", ["t5", "clip"])
def test_text_encoders_take_loras_as_peft_does(tmp_path: Path, kind: str) -> None:
    from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model

    peer, build, given, call = text_peer(kind)
    rename = synonyms.t5_name if kind == "t5" else synonyms.clip_name
    base = synonyms.canonical(saved(peer.state_dict(), tmp_path / "base.safetensors"), rename)
    targets = ["q", "v", "wi_0", "wo"] if kind == "t5" else ["q_proj", "out_proj", "fc1", "fc2"]
    torch.manual_seed(1)
    inject_adapter_in_model(
        LoraConfig(r=3, lora_alpha=3, target_modules=targets, init_lora_weights=False), peer
    )
    prefix = "text_encoder_2." if kind == "t5" else "text_encoder."
    lora = lora_of({prefix + k: v for k, v in get_peft_model_state_dict(peer).items()}, tmp_path)
    component = Component.T5 if kind == "t5" else Component.CLIP
    assert lora.report.unmatched == ()
    assert lora.components == {component}
    with torch.no_grad():
        expected = call(peer).numpy()
    for name in BACKENDS:
        backend = make_backend(name)
        with backend.session():
            leaves = backend.leaves(base, Precision.FP32)
            model, arrays = build(backend.ops, leaves), [backend.from_numpy(x) for x in given]
            plain = backend.to_numpy(model(*arrays))
            backend.adapters(leaves, Precision.FP32).attach("a", lora.patches(component), 1.0)
            found = backend.to_numpy(model(*arrays))
        assert np.abs(found - expected).max() < TOLERANCE, name
        assert np.abs(plain - expected).max() > 0.02

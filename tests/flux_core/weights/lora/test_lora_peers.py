"""LoRAs do what diffusers, peft and LyCORIS make of the same file, on random small models.

diffusers 0.42 is compared where it is right. Where it is not (formats.md 5.3) our own meaning is tested in
test_lora_reading: it ignores the alpha of sd-scripts' final layer, loses that tool's img_in, txt_in and
embedders, drops DoRA, T5 and norm differences, knows single blocks of the published size only, and takes
control LoRAs in BFL's names only with 19 and 38 blocks (so the peer gets the same numbers in its own names).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flux_core.conditioning.packing import position_ids, rotary_table
from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder, relative_buckets
from flux_core.models.transformer import Transformer
from flux_core.plan import Component
from flux_core.request import Precision
from flux_core.weights import synonyms
from flux_core.weights.diffusers_keys import ConvertedSource, transformer_recipes
from flux_core.weights.lora.read import Lora, read_lora
from flux_core.weights.safetensors_file import SafetensorsFile
from flux_core.weights.tensors import TensorSource
from tests.support import lora_files
from tests.support.lora_files import Arrays, delta_of, matrices, merged, norms
from tests.support.numerics import BACKENDS, ArraySource, make_backend, to_bf16

TOLERANCE = 2e-5
SPEC = lora_files.small_spec()
CONFIG = SPEC.transformer
IDS = position_ids(5, 8, 12)
Use = tuple[Lora, float]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(list(shape)).standard_normal(shape, dtype=np.float32)


def quieted(model: Any, seed: int = 0) -> Any:
    """The peer with every parameter drawn, small enough that outputs stay of the order of one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim > 1:
                p.copy_(noise * (0.3 if "embed" in name or "shared" in name else 0.3 * p.shape[1] ** -0.5))
            else:
                p.copy_(0.05 * noise if name.endswith("bias") else 1 + 0.1 * noise)
    return model.eval()


def flux_peer(channels: int = 64) -> Any:
    from diffusers import FluxTransformer2DModel

    return quieted(
        FluxTransformer2DModel(
            in_channels=channels,
            out_channels=64,
            num_layers=CONFIG.depth,
            num_single_layers=CONFIG.depth_single,
            attention_head_dim=CONFIG.hidden_size // CONFIG.num_heads,
            num_attention_heads=CONFIG.num_heads,
            joint_attention_dim=CONFIG.context_in_dim,
            pooled_projection_dim=CONFIG.vec_in_dim,
            guidance_embeds=True,
            axes_dims_rope=CONFIG.axes_dim,
        )
    )


def pipeline(peer: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    return FluxPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), transformer=peer, **nothing)


def saved(weights: Any, path: Path, metadata: dict[str, str] | None = None) -> TensorSource:
    """Tensors of a peer or arrays, written and opened again."""
    tensors = {name: torch.as_tensor(value).detach().clone().contiguous() for name, value in weights.items()}
    save_file(tensors, path, metadata)
    return SafetensorsFile(path)


def lora_of(file: Any, folder: Path, spec: Any = SPEC, name: str = "style.safetensors") -> Lora:
    return read_lora(saved(file, folder / name), spec, name)


def inputs(channels: int = 64) -> dict[str, np.ndarray]:
    return {
        "img": 0.3 * normal(2, 24, channels),
        "txt": 0.3 * normal(2, 5, CONFIG.context_in_dim),
        "vec": normal(2, CONFIG.vec_in_dim),
        "sigma": np.array([0.01, 0.003], np.float32),  # low: the sinusoid of high ones has errors of its own
        "guidance": np.array([0.02, 0.005], np.float32),
    }


def of_peer(peer: Any, channels: int = 64) -> np.ndarray:
    given = {name: torch.tensor(value) for name, value in inputs(channels).items()}
    with torch.no_grad():
        out = peer(
            hidden_states=given["img"],
            encoder_hidden_states=given["txt"],
            pooled_projections=given["vec"],
            timestep=given["sigma"],
            img_ids=torch.tensor(IDS[5:], dtype=torch.float32),
            txt_ids=torch.tensor(IDS[:5], dtype=torch.float32),
            guidance=given["guidance"],
            return_dict=False,
        )[0]
    return out.numpy()


def ours(
    backend_name: str, base: TensorSource, uses: list[Use], channels: int = 64, spec: Any = SPEC
) -> np.ndarray:
    """The base with LoRAs on it, from the peer's plain weights."""
    backend = make_backend(backend_name)
    source = ConvertedSource(base, transformer_recipes(spec.transformer))
    with backend.session():
        leaves = backend.leaves(source, Precision.FP32)
        model = Transformer(backend.ops, leaves, spec.transformer)
        adapters = backend.adapters(leaves, Precision.FP32)
        for number, (lora, strength) in enumerate(uses):
            adapters.attach(str(number), lora.patches(Component.TRANSFORMER), strength)
        given = [backend.from_numpy(value) for value in inputs(channels).values()]
        pe = backend.from_numpy(rotary_table(IDS, CONFIG.axes_dim, CONFIG.theta))
        return backend.to_numpy(model(*given, pe))


def check(
    base: TensorSource, uses: list[Use], expected: np.ndarray, channels: int = 64, spec: Any = SPEC
) -> None:
    """Both backends near the peer, and the LoRA big enough to matter."""
    plain = ours("torch", base, [], 64, spec) if channels == spec.transformer.in_channels else None
    if plain is not None:
        assert np.abs(plain - expected).max() > 0.02
    gaps = {name: np.abs(ours(name, base, uses, channels, spec) - expected).max() for name in BACKENDS}
    assert max(gaps.values()) < TOLERANCE * max(1.0, np.abs(expected).max()), gaps


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """peft and diffusers warn about harmless things; here warnings are errors."""
    import warnings

    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.set_verbosity(before)


def on_peer(base: TensorSource, peer: Any, loras: list[tuple[Any, float]], channels: int = 64) -> np.ndarray:
    """diffusers' own loader on the same numbers."""
    with quiet():
        pipe = pipeline(peer)
        for number, (file, _) in enumerate(loras):
            tensors = {name: torch.as_tensor(value).clone() for name, value in file.items()}
            pipe.load_lora_weights(tensors, adapter_name=f"a{number}")
        pipe.set_adapters([f"a{i}" for i in range(len(loras))], [strength for _, strength in loras])
        return of_peer(pipe.transformer, channels)


# diffusers

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


# peft


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

"""What a file is, told from headers of the published files' true size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from flux_core import catalog
from flux_core.catalog import CANNY, DEPTH, DEV, FILL, KONTEXT, KREA, SCHNELL, TINY, ModelSpec
from flux_core.errors import RequestInvalid
from flux_core.weights.detect import Detected, FileKind, describe, detect, num_parameters
from flux_core.weights.tensors import TensorInfo
from tests.support import published
from tests.support.published import Infos, infos

DEV_LIKE = ("flux1-dev", "flux1-krea-dev", "flux1-kontext-dev")
CONTROL = ("flux1-canny-dev", "flux1-depth-dev")
CONTROL_LORAS = ("flux1-canny-dev-lora", "flux1-depth-dev-lora")
PARAMETERS = {64: 11_901_408_320, 128: 11_901_604_928, 384: 11_902_391_360}

WHOLE_MODELS = [
    (DEV, DEV_LIKE), (KREA, DEV_LIKE), (KONTEXT, DEV_LIKE), (SCHNELL, ("flux1-schnell",)),
    (FILL, ("flux1-fill-dev",)), (CANNY, CONTROL), (DEPTH, CONTROL),
]  # fmt: skip

PARTS = {
    "ae": (published.bfl_autoencoder, FileKind.AUTOENCODER, "BFL"),
    "t5-xxl": (published.t5, FileKind.T5, "transformers"),
    "clip-l": (published.clip, FileKind.CLIP, "transformers"),
    "siglip-so400m": (published.siglip, FileKind.SIGLIP, "transformers"),
    "taef1": (published.taef1, FileKind.TAEF1, "diffusers"),
    "flux1-redux-dev": (published.redux, FileKind.REDUX, "BFL"),
    "instantx-canny": (lambda: published.controlnet(5, 0, None), FileKind.CONTROLNET, "diffusers"),
    "shakker-union-pro-2": (lambda: published.controlnet(6, 0, None), FileKind.CONTROLNET, "diffusers"),
    "xlabs-ip-adapter": (lambda: published.xlabs_ip_adapter(4), FileKind.IP_ADAPTER, "XLabs"),
    "xlabs-ip-adapter-v2": (lambda: published.xlabs_ip_adapter(16), FileKind.IP_ADAPTER, "XLabs"),
}


def seen(names: Infos, what: str = "x.safetensors", **known: str) -> Detected:
    return detect(names, what, **known)


@pytest.mark.parametrize(("spec", "candidates"), WHOLE_MODELS, ids=lambda value: getattr(value, "model", ""))
@pytest.mark.parametrize("naming", ["BFL", "diffusers"])
def test_every_whole_model_is_known_by_both_spellings(
    spec: ModelSpec, candidates: tuple[str, ...], naming: str
) -> None:
    make = published.bfl_transformer if naming == "BFL" else published.diffusers_transformer
    found = seen(make(spec))
    assert (found.kind, found.naming, found.storage) == (FileKind.TRANSFORMER, naming, "bfloat16")
    assert (found.num_double, found.num_single) == (19, 38)
    assert found.candidates == candidates
    assert (found.question is None) == (len(candidates) == 1)
    if spec.transformer.has_guidance:
        assert num_parameters(make(spec)) == PARAMETERS[spec.transformer.in_channels]


@pytest.mark.parametrize("row", PARTS)
def test_every_part_is_known_and_is_the_row_it_was_made_as(row: str) -> None:
    make, kind, naming = PARTS[row]
    found = seen(make())
    assert (found.kind, found.row, found.naming) == (kind, row, naming)
    assert found.notes == ()


def test_no_row_is_forgotten_by_detection() -> None:
    asked = {*DEV_LIKE, *CONTROL, *CONTROL_LORAS, "flux1-schnell", "flux1-fill-dev", "tiny", "clip-vision-l"}
    parts = [row for row in catalog.rows() if row.kind is not catalog.Kind.VISION]
    asked |= {row.model for row in parts if row.is_bundled}  # in a test of their own
    asked |= {"instantx-union", "shakker-union-pro", "xlabs-canny-v3", "xlabs-depth-v3", "xlabs-hed-v3"}
    assert asked | PARTS.keys() == {row.model for row in parts}


def test_the_bundled_family_is_known_by_its_size() -> None:
    assert seen(published.bfl_transformer(TINY)).row == "tiny"
    maps = ("tiny-canny-lora", "tiny-depth-lora")
    for columns, rows in {384: ("tiny-fill",), 64: ("tiny-schnell", "tiny-kontext"), 128: maps}.items():
        assert seen(tiny_lora(columns)).candidates == rows
    assert seen(infos({"redux_up.weight": (768, 128), "redux_down.weight": (256, 768)})).row == "tiny-redux"
    tower = {"vision_model.embeddings.patch_embedding.weight": (128, 3, 16, 16)}
    tower |= {f"vision_model.encoder.layers.{i}.mlp.fc1.weight": (512, 128) for i in range(4)}
    assert seen(infos(tower)).row == "tiny-siglip"
    halves = {f"{half}.3.conv.0.weight": (32, 32, 3, 3) for half in ("encoder", "decoder")}
    assert seen(infos(halves)).row == "tiny-fast-decoder"


def tiny_lora(columns: int) -> Infos:
    """A few of the tensors of a low-rank change of the bundled base."""
    return infos(
        {
            "img_in.lora_A.weight": (32, columns),
            "img_in.lora_B.weight": (256, 32),
            "double_blocks.0.img_attn.norm.query_norm.scale": (64,),
        }
    )


def test_the_autoencoder_is_known_in_diffusers_names() -> None:
    found = seen(published.diffusers_autoencoder())
    assert (found.kind, found.row, found.naming) == (FileKind.AUTOENCODER, "ae", "diffusers")
    assert num_parameters(published.diffusers_autoencoder()) == 83_819_683


def test_clip_is_known_without_its_prefix_and_whole() -> None:
    bare = {name.removeprefix("text_model."): info for name, info in published.clip().items()}
    assert seen(bare).row == "clip-l"
    whole = seen(published.whole_clip())
    assert (whole.row, whole.parts) == ("clip-l", (FileKind.CLIP, FileKind.CLIP_VISION))
    vision = {n: i for n, i in published.whole_clip().items() if n.startswith("vision_model.")}
    assert seen(vision).row == "clip-vision-l"


def test_the_small_autoencoder_is_known_in_its_author_s_names_and_by_halves() -> None:
    whole = {name.replace(".layers.", "."): info for name, info in published.taef1().items()}
    found = seen(whole)
    assert (found.kind, found.row, found.naming) == (FileKind.TAEF1, "taef1", "madebyollin")
    half = {f"taesd_{name}": info for name, info in whole.items() if name.startswith("decoder.")}
    found = seen(half)
    assert (found.kind, found.candidates, found.notes) == (
        FileKind.TAEF1,
        (),
        ("It holds the decoder only.",),
    )


def test_an_all_in_one_file_names_its_parts() -> None:
    found = seen(published.all_in_one(SCHNELL))
    assert found.kind is FileKind.ALL_IN_ONE
    assert set(found.parts) == {FileKind.TRANSFORMER, FileKind.AUTOENCODER, FileKind.CLIP, FileKind.T5}
    assert found.row == "flux1-schnell"
    assert "All-in-one FLUX.1 file" in "".join(describe(found))
    alone = seen(published.with_prefix(published.bfl_transformer(SCHNELL), "model.diffusion_model."))
    assert (alone.kind, alone.row) == (FileKind.TRANSFORMER, "flux1-schnell")
    assert alone.naming == "BFL behind 'model.diffusion_model.'"


def test_norms_called_weight_are_the_same_model() -> None:
    names = {n.replace("_norm.scale", "_norm.weight"): i for n, i in published.bfl_transformer(FILL).items()}
    assert seen(names).row == "flux1-fill-dev"


def test_pruned_models_are_counted_not_assumed() -> None:
    names = {
        name: info
        for name, info in published.bfl_transformer(DEV).items()
        if not name.startswith("double_blocks.") or int(name.split(".")[1]) % 2
    }
    found = seen(names, "flux.1-lite.safetensors")
    assert (found.num_double, found.num_single, found.candidates) == (9, 38, ())
    assert "9 double and 38 single blocks where FLUX.1 has 19 and 38" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("flux1-dev.safetensors", "flux1-dev"),
        ("flux1-dev-fp8.safetensors", "flux1-dev"),
        ("fluxDev_v10.safetensors", "flux1-dev"),
        ("flux1-krea-dev_fp8_scaled.safetensors", "flux1-krea-dev"),
        ("flux1-kontext-dev-Q4_K_S.gguf", "flux1-kontext-dev"),
        ("models/black/FLUX.1-Kontext-dev.safetensors", "flux1-kontext-dev"),
        ("mydream.safetensors", None),
        ("krea-kontext-merge.safetensors", None),
    ],
)
def test_a_name_may_answer_the_question(name: str, row: str | None) -> None:
    found = seen(published.bfl_transformer(DEV), name)
    assert found.row == row
    assert found.settled_by == ("its name" if row else "")
    assert (found.question is None) == (row is not None)


def test_a_hash_goes_before_a_repository_and_that_before_a_name() -> None:
    names = published.bfl_transformer(DEV)
    kontext = KONTEXT.downloads[0].sha256
    found = seen(names, "flux1-krea-dev.safetensors", repository=DEV.repository, sha256=kontext)
    assert (found.row, found.settled_by) == ("flux1-kontext-dev", "its sha256")
    found = seen(names, "flux1-krea-dev.safetensors", repository=DEV.repository)
    assert (found.row, found.settled_by) == ("flux1-dev", "its repository")
    cached = "/c/models--black-forest-labs--FLUX.1-Krea-dev/snapshots/0/transformer"
    assert seen(names, cached).row == "flux1-krea-dev"


def test_the_question_names_every_candidate() -> None:
    found = seen(published.bfl_transformer(DEV))
    assert found.question == (
        "Its tensors do not say whether it is FLUX.1 [dev], FLUX.1 Krea [dev] or FLUX.1 Kontext [dev]."
    )
    assert found.row is None


@pytest.mark.parametrize(
    ("make", "candidates"),
    [
        (lambda: published.controlnet(5, 10, 10), ("instantx-union", "shakker-union-pro")),
        (lambda: published.controlnet(3, 2, None), ()),
        (published.xlabs_controlnet, ("xlabs-canny-v3", "xlabs-depth-v3", "xlabs-hed-v3")),
    ],
    ids=["union", "unknown", "xlabs"],
)
def test_controlnets_are_told_by_blocks_and_modes(
    make: Callable[[], Infos], candidates: tuple[str, ...]
) -> None:
    found = seen(make())
    assert (found.kind, found.candidates) == (FileKind.CONTROLNET, candidates)


def test_controlnets_are_settled_by_name() -> None:
    assert seen(published.xlabs_controlnet(), "flux-hed-controlnet-v3.safetensors").row == "xlabs-hed-v3"
    assert seen(published.xlabs_controlnet(), "flux-hed-controlnet_v2.safetensors").row is None
    name = "FLUX.1-dev-ControlNet-Union-Pro.safetensors"
    assert seen(published.controlnet(5, 10, 10), name).row == "shakker-union-pro"


def test_blocks_alone_do_not_make_a_controlnet_somebody_s() -> None:
    names = published.controlnet(6, 0, None)
    found = seen(names, "mine.safetensors")
    assert found.is_guess
    assert "as anybody's may be" in "".join(describe(found))
    found = seen(names, "FLUX.1-dev-ControlNet-Union-Pro-2.0-fp8.safetensors")
    assert (found.row, found.is_guess, found.settled_by) == ("shakker-union-pro-2", False, "its name")
    cache = "/c/models--Shakker-Labs--FLUX.1-dev-ControlNet-Union-Pro-2.0/snapshots/0/m.safetensors"
    assert seen(names, cache).settled_by == "its repository"


def test_control_loras_are_a_question_too() -> None:
    assert len(published.control_lora()) == 1094
    found = seen(published.control_lora())
    assert (found.kind, found.naming, found.candidates) == (FileKind.LORA, "BFL control", CONTROL_LORAS)
    assert num_parameters(published.control_lora()) == 622_126_144
    assert seen(published.control_lora(), "flux1-depth-dev-lora.safetensors").row == "flux1-depth-dev-lora"


LORAS = {
    "kohya": ["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"],
    "OneTrainer": ["lora_transformer_single_transformer_blocks_0_attn_to_q.lora_up.weight"],
    "LyCORIS": ["lycoris_transformer_blocks_0_attn_to_q.lokr_w1"],
    "XLabs": ["double_blocks.0.processor.qkv_lora1.down.weight"],
    "PEFT (base_model)": ["base_model.model.double_blocks.0.img_attn.qkv.lora_A.weight"],
    "ComfyUI": ["diffusion_model.double_blocks.0.img_attn.proj.lora_B.weight"],
    "diffusers or PEFT": ["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"],
}


@pytest.mark.parametrize("naming", LORAS)
def test_every_lora_spelling_is_told(naming: str) -> None:
    found = seen(infos(dict.fromkeys(LORAS[naming], (16, 3072))))
    assert (found.kind, found.naming) == (FileKind.LORA, naming)
    assert found.title.endswith("for the transformer")


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (["lora_unet_single_blocks_0_linear1.hada_w1_a"], "FLUX.1 LoHa for the transformer"),
        (["transformer.x_embedder.lora_A", "transformer.x_embedder.lora_magnitude_vector"], "FLUX.1 DoRA"),
        (
            [
                "lora_unet_single_blocks_0_linear1.lora_up.weight",
                "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha",
            ],
            "FLUX.1 LoRA for the transformer and CLIP",
        ),
        (["text_encoder_2.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight"], "FLUX.1 LoRA for T5"),
    ],
)
def test_relatives_and_text_encoder_parts_are_told(names: list[str], title: str) -> None:
    found = seen(infos(dict.fromkeys(names, (16, 3072))))
    assert found.title.startswith(title)
    assert bool(found.notes) == ("transformer" not in found.title)


FOREIGN = {
    "FLUX.2": {"single_stream_modulation.lin.weight": (1, 1), "double_blocks.0.img_attn.qkv.weight": (1, 1)},
    "Chroma": {
        "distilled_guidance_layer.in_proj.weight": (1, 1),
        "double_blocks.0.img_attn.qkv.weight": (1, 1),
    },
    "Stable Diffusion XL checkpoint": {
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (768,),
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    },
    "Stable Diffusion 1 checkpoint": {
        "cond_stage_model.transformer.text_model.final_layer_norm.weight": (768,),
    },
    "Stable Diffusion 2 checkpoint": {"cond_stage_model.model.ln_final.weight": (1024,)},
    "Stable Diffusion 3": {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (1, 1)},
    "Stable Diffusion 3 model": {
        "transformer_blocks.0.attn.add_k_proj.weight": (1536, 1536),
        "pos_embed.proj.weight": (1536, 16, 2, 2),
    },
    "ControlNet for Stable Diffusion 3": {
        "pos_embed_input.proj.weight": (1, 16, 2, 2),
        "controlnet_blocks.0.weight": (1, 1),
    },
    "Stable Diffusion 1 or 2": {
        "down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3),
        "time_embedding.linear_1.weight": (1280, 320),
    },
    "Stable Diffusion XL model": {
        "down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3),
        "add_embedding.linear_1.weight": (1280, 2816),
    },
    "LoRA for Stable Diffusion": {
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": (320, 8),
    },
    "autoencoder of Stable Diffusion 1": {"first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3)},
    "autoencoder of FLUX.2": {"decoder.conv_in.weight": (512, 32, 3, 3)},
    "Qwen-Image": {"transformer_blocks.0.img_mlp.net.0.proj.weight": (12288, 3072)},
    "Wan": {"blocks.0.self_attn.q.weight": (1, 1), "blocks.0.cross_attn.q.weight": (1, 1)},
    "Lumina": {"cap_embedder.1.weight": (1, 1)},
    "TAESD": {"decoder.layers.0.weight": (64, 4, 3, 3)},
    "HunyuanVideo": {"txt_in.individual_token_refiner.blocks.0.norm1.weight": (1,)},
    "T5 of version 1.0": {"encoder.block.0.layer.1.DenseReluDense.wi.weight": (16384, 1024)},
    "CLIP-G in OpenCLIP": {"transformer.resblocks.31.attn.in_proj_weight": (3840, 1280)},
    "CLIP-G, where": {"text_model.embeddings.token_embedding.weight": (49408, 1280)},
    "CLIP-H, where": {"text_model.embeddings.token_embedding.weight": (49408, 1024)},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_families_are_refused_by_name_in_one_sentence(name: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        seen(infos(FOREIGN[name]), "/a/b/model.safetensors")
    assert name in caught.value.message
    assert caught.value.message.startswith("model.safetensors is ")
    assert caught.value.message.endswith(".")
    assert ". " not in caught.value.message


def test_t5_of_another_vocabulary_is_told_apart() -> None:
    unchained = published.t5() | {"shared.weight": TensorInfo("BF16", (69328, 4096))}
    with pytest.raises(RequestInvalid, match='"unchained" T5 with 69,328 words'):
        seen(unchained)
    with pytest.raises(RequestInvalid, match="another vocabulary"):
        seen(published.t5() | {"shared.weight": TensorInfo("BF16", (256384, 4096))})
    doubled = published.t5() | {"encoder.embed_tokens.weight": TensorInfo("BF16", (32128, 4096))}
    assert seen(doubled).row == "t5-xxl"


def test_an_unknown_file_shows_how_it_begins() -> None:
    with pytest.raises(
        RequestInvalid, match=r"no part of FLUX\.1 that Flowbrush knows; it begins with 'a\.b'"
    ):
        seen(infos({"a.b": (1,)}))
    with pytest.raises(RequestInvalid, match="begins with nothing at all"):
        seen({})


def nf4(names: Infos, is_nested: bool = False) -> Infos:
    out: Infos = {}
    for name, info in names.items():
        if name.endswith(".weight") and len(info.shape) == 2:
            count = info.shape[0] * info.shape[1]
            out[name] = TensorInfo("U8", (count // 2, 1))
            out[f"{name}.absmax"] = TensorInfo("U8" if is_nested else "F32", (count // 64,))
            out[f"{name}.quant_map"] = TensorInfo("F32", (16,))
            out[f"{name}.quant_state.bitsandbytes__nf4"] = TensorInfo("U8", (80,))
            if is_nested:
                out[f"{name}.nested_absmax"] = TensorInfo("F32", (count // 64 // 256,))
        else:
            out[name] = info
    return out


def mlx(names: Infos, bits: int) -> Infos:
    out: Infos = {}
    for name, info in names.items():
        if name.endswith(".weight") and len(info.shape) == 2:
            rows, columns = info.shape
            out[name] = TensorInfo("U32", (rows, columns * bits // 32))
            for kind in ("scales", "biases"):
                out[name.replace("weight", kind)] = TensorInfo("BF16", (rows, columns // 64))
        else:
            out[name] = info
    return {name.replace(".ff.net.0.proj.", ".ff.linear1."): info for name, info in out.items()}


def scaled(names: Infos, suffix: str, extra: Infos) -> Infos:
    out = dict(extra)
    for name, info in names.items():
        is_matrix = name.endswith(".weight") and len(info.shape) == 2
        out[name] = replace(info, dtype="F8_E4M3") if is_matrix else info
        if is_matrix:
            out[name.removesuffix("weight") + suffix] = TensorInfo("F32", ())
    return out


STORED = {
    "bitsandbytes NF4": (nf4, published.bfl_transformer),
    "bitsandbytes NF4 (double quantised)": (lambda n: nf4(n, True), published.bfl_transformer),
    "MLX 4-bit": (lambda n: mlx(n, 4), published.diffusers_transformer),
    "MLX 3-bit": (lambda n: mlx(n, 3), published.diffusers_transformer),
    "ComfyUI scaled fp8": (
        lambda n: scaled(n, "scale_weight", {"scaled_fp8": TensorInfo("F8_E4M3", (0,))}),
        published.bfl_transformer,
    ),
    "ComfyUI quantised (comfy_quant)": (
        lambda n: scaled(n, "weight_scale", {"single_blocks.0.linear1.comfy_quant": TensorInfo("U8", (27,))}),
        published.bfl_transformer,
    ),
    "fp8 (e5m2)": (
        lambda n: {name: replace(info, dtype="F8_E5M2") for name, info in n.items()},
        published.bfl_transformer,
    ),
    "Q4_K": (
        lambda n: {name: replace(i, dtype="Q4_K" if len(i.shape) == 2 else "F32") for name, i in n.items()},
        published.bfl_transformer,
    ),
}


@pytest.mark.parametrize("storage", STORED)
def test_quantised_files_are_known_by_the_shapes_before_packing(storage: str) -> None:
    pack, make = STORED[storage]
    names = pack(make(FILL))
    found = seen(names)
    assert (found.storage, found.row) == (storage, "flux1-fill-dev")
    assert num_parameters(names) == PARAMETERS[384]

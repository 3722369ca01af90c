"""Whatever is wrong with a request is one sentence, said before anything is loaded."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from backends.mlx_metal.engine import MlxEngine
from backends.torch_cuda.engine import TorchEngine
from flux_core import machine
from flux_core.errors import Cancelled, Corrupt, FluxError, ModelMissing, RequestInvalid
from flux_core.messages import Preview, Progress, Stage
from flux_core.pipeline import FluxEngine
from flux_core.request import GenerationRequest, build_request, parse_request
from tests.support import family_random as family
from tests.support import lora_files
from tests.support.engine_runs import run, scene

MAKERS: dict[str, Callable[[Path], FluxEngine]] = {
    "torch": lambda models: TorchEngine("cpu", (models,)),
    "mlx": lambda models: MlxEngine((models,)),
}
PICTURE = scene(64, 64)
WHITE = np.full((64, 64), 255, np.uint8)
BLACK = np.zeros((64, 64), np.uint8)


def use(model: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "kind": kind, "image": PICTURE, **fields}


def region(mask: np.ndarray = WHITE, prompt: str = "a cat", **fields: Any) -> dict[str, Any]:
    return {"prompt": prompt, "mask": mask, **fields}


def half(left: bool = False) -> np.ndarray:
    mask = BLACK.copy()
    mask[:, slice(0, 32) if left else slice(32, 64)] = 255
    return mask


@dataclass
class Bad:
    """A request that cannot be carried out.

    Attributes:
        title: What is wrong.
        says: What message and hint must name, the part and what is allowed.
        fields: Of the request.
        kind: Of the error.
    """

    title: str
    says: tuple[str, ...]
    fields: dict[str, Any] = field(default_factory=dict)
    kind: type[FluxError] = RequestInvalid


def bad(title: str, *says: str, kind: type[FluxError] = RequestInvalid, **fields: Any) -> Bad:
    return Bad(title, says, fields, kind)


NAN, INFINITE = float("nan"), float("inf")
FIELDS = (
    bad("a width of 63", "The width", "64", width_px=63),
    bad("a width of 4097", "The width", "4096", width_px=4097),
    bad("a height of text", "The height", height_px="tall"),
    bad("no steps", "The number of steps", "1", num_steps=0),
    bad("201 steps", "The number of steps", "200", num_steps=201),
    bad("half a step", "The number of steps", num_steps=2.5),
    bad("a strength of 0", "Strength", "0", task="transform", image=PICTURE, strength=0.0),
    bad("a strength above 1", "Strength", "1", task="transform", image=PICTURE, strength=1.01),
    bad("a strength that is no number", "Strength", strength=NAN),
    bad("guidance below 0", "Guidance", "0", guidance=-0.1),
    bad("guidance that is no number", "Guidance", guidance=NAN),
    bad("endless guidance", "Guidance", guidance=INFINITE),
    bad("true guidance below 1", "True guidance", "1", true_guidance=0.5),
    bad("true guidance above 20", "True guidance", "20", true_guidance=21),
    bad("a seed below 0", "Seed", "0", seed=-1),
    bad("a seed of 64 bits", "Seed", seed=2**63),
    bad("seventeen pictures", "The number of pictures", "16", num_images=17),
    bad("an enormous prompt", "Prompt", "10,000", prompt="a" * 10_001),
    bad("an enormous negative prompt", "Negative prompt", "10,000", negative_prompt="a" * 10_001),
    bad("a model that leads elsewhere", "Model", model="../tiny"),
    bad("an unknown task", "Task", "generate", task="dream"),
    bad("an unknown solver", "Solver", "euler", solver="magic"),
    bad("an unknown decoder", "Decoder", "fast", decoder="slow"),
    bad("an unknown cache", "Step cache", "careful", step_cache="always"),
    bad("300 tokens", "The length of the prompt", "256", "512", t5_tokens=300),
    bad("a field that is none", "Colour is not a part", colour="red"),
    bad("a blob that is no sha256", "The source picture", task="transform", image="picture.png"),
    bad("nine references", "reference pictures", "8", task="edit", image=PICTURE,
        references=[PICTURE] * 9),
    bad("five controls", "control picture", "4", task="control", controls=[use("plain", "canny")] * 5),
    bad("a control of an unknown kind", "The kind of a control picture", "canny",
        controls=[use("plain", "smell")]),
    bad("a control of too much strength", "The strength of a control picture", "2",
        controls=[use("plain", "canny", strength=2.1)]),
    bad("a control that ends before it starts", "A control picture", "start",
        controls=[use("plain", "canny", start=0.5, end=0.5)]),
    bad("a control that starts after all", "The start of a control picture", "1",
        controls=[use("plain", "canny", start=1.5)]),
    bad("a control whose name leads elsewhere", "The model of a control picture",
        controls=[use("../x", "canny")]),
    bad("an adapter whose name leads elsewhere", "The adapter of a picture",
        pictures=[{"image": PICTURE, "adapter": "a/b"}]),
    bad("a picture that counts too much", "The strength of a picture", "2",
        pictures=[{"image": PICTURE, "strength": 3}]),
    bad("a region without words", "The prompt of a region", "1", regions=[region(prompt="")]),
    bad("a region of no strength", "The strength of a region", "0", regions=[region(strength=0.0)]),
    bad("a base above 1", "Region base", "1", region_base=1.5),
    bad("two regions with one mask", "regions", "mask", regions=[region(), region(prompt="a dog")]),
    bad("text to image with a picture", "picture", "transform", image=PICTURE),
    bad("a transform without a picture", "transform", "picture", task="transform"),
    bad("a fill without a mask", "mask", task="fill", image=PICTURE),
    bad("an edit without a picture", "edit", "picture", task="edit"),
    bad("an upscale without a picture", "upscale", "picture", task="upscale"),
    bad("a control without a map", "control", "picture", task="control"),
    bad("varying without a picture", "vary", "picture", task="vary"),
    bad("an edit with a mask", "mask", "fill", task="edit", image=PICTURE, mask=WHITE),
    bad("references of a transform", "reference", "edit", task="transform", image=PICTURE,
        references=[PICTURE]),
    bad("an upscaler for nothing", "upscaler", "upscale", upscaler="4x"),
    bad("two maps for one model", "ControlNet", task="control",
        controls=[use("", "canny"), use("", "depth")]),
    bad("a negative prompt that nothing weighs", "negative_prompt", "true_guidance", negative_prompt="x"),
    bad("a LoRA twice", "LoRA", "twice", loras=[{"name": "style"}, {"name": "style"}]),
)  # fmt: skip

MISFITS = (
    bad("an unknown model", "'nothing'", "micro-dev", model="nothing"),
    bad("a part as a model", "micro-redux is not a model", model="micro-redux"),
    bad("a task that a model cannot do", "Fill cannot do generate", "fill", model=family.FILL.model),
    bad("long prompts for a model of short ones", "32 tokens", "length", t5_tokens=512),
    bad("regions without T5", "Regions need T5", is_clip_only=True, regions=[region()]),
    bad("regions of an upscale", "upscale", "regions", task="upscale", image=PICTURE, regions=[region()]),
    bad("a map for a model that follows none", "follows no canny map", "ControlNet", task="control",
        controls=[use("", "canny")]),
    bad("another map than a model follows", "does not follow depth", "canny", model=family.CANNY.model,
        task="control", controls=[use("", "depth")]),
    bad("no map for a model that needs one", "needs a canny map", model=family.CANNY.model, task="control",
        controls=[use("plain", "canny")]),
    bad("two control LoRAs", "one map", task="control",
        controls=[use("canny-control", "canny"), use("micro-canny-lora", "canny")]),
    bad("a control LoRA on a model with its own map", "one map", model=family.CANNY.model, task="control",
        controls=[use("", "canny"), use("canny-control", "canny")]),
    bad("a control LoRA among LoRAs", "canny-control", "--control", loras=[{"name": "canny-control"}]),
    bad("a LoRA as control and as LoRA", "canny-control", task="control",
        controls=[use("canny-control", "canny")], loras=[{"name": "canny-control"}]),
    bad("a LoRA that follows no map, as a control", "style", "follows no map", task="control",
        controls=[use("style", "canny")]),
    bad("a ControlNet that is not there", "'nowhere'", "plain.safetensors", task="control",
        controls=[use("nowhere", "canny")], kind=ModelMissing),
    bad("an adapter that is not there", "'nowhere'", "adapters", task="vary",
        pictures=[{"image": PICTURE, "adapter": "nowhere"}], kind=ModelMissing),
    bad("a LoRA that is not there", "'nowhere'", "style.safetensors", loras=[{"name": "nowhere"}],
        kind=ModelMissing),
    bad("a Redux as a ControlNet", "micro-redux is not a ControlNet", "micro-depth-net", task="control",
        controls=[use("micro-redux", "canny")]),
    bad("a ControlNet as an adapter", "micro-depth-net is not a Redux", "micro-redux", task="vary",
        pictures=[{"image": PICTURE, "adapter": "micro-depth-net"}]),
    bad("a row's ControlNet for another map", "does not follow canny", "depth", task="control",
        controls=[use("micro-depth-net", "canny")]),
    bad("a row's control LoRA for another map", "does not follow depth", "canny", task="control",
        controls=[use("micro-canny-lora", "depth")]),
    bad("a mode that a union lacks", "no mode for soft_edge", "low_quality", task="control",
        controls=[use("union", "soft_edge")]),
    bad("a ControlNet for inpainting", "inpainting", "Fill", task="control",
        controls=[use("inpainting", "canny")]),
    bad("a fast decoder where there is none", "Micro FLUX has no fast decoder", "full", model="micro",
        decoder="fast"),
    bad("a picture of another size", "80 x 64", "64 x 64", task="transform", image=scene(80, 64)),
    bad("a mask of another size", "mask is 32 x 16", "64 x 64", task="fill", image=PICTURE,
        mask=np.full((16, 32), 255, np.uint8)),
    bad("an empty mask", "mask is empty", task="fill", image=PICTURE, mask=BLACK),
    bad("a region's mask of another size", "mask of region 2 is 32 x 16", "64 x 64",
        regions=[region(), region(np.full((16, 32), 255, np.uint8))]),
    bad("an empty region", "region 2 is empty", regions=[region(), region(BLACK)]),
    bad("regions that overlap fully", "Regions 1 and 3", "same place",
        regions=[region(half()), region(half(left=True)), region(half() // 2)]),
    bad("an upscale to a smaller size", "128 x 128 pixels", "64 x 64", "larger", task="upscale",
        image=scene(128, 128)),
    bad("an upscale that stretches", "proportions", "64 x 64", task="upscale", image=PICTURE, width_px=128,
        height_px=200),
    bad("a picture that is none", "picture", task="transform", image=b"not a picture", kind=FluxError),
    bad("a reference that is no picture", "reference", task="edit", model=family.KONTEXT.model, image=PICTURE,
        references=[b"\x89PNG\r\n\x1a\n broken"], kind=FluxError),
    bad("a control picture that is none", "control picture", task="control", kind=FluxError,
        controls=[{"kind": "canny", "image": b"", "model": "plain"}]),
    bad("a picture to be like that is none", "picture to be like", task="vary", kind=FluxError,
        pictures=[{"image": b"GIF89a"}]),
    bad("a region's mask that is no picture", "mask of a region", kind=FluxError,
        regions=[{"prompt": "a cat", "mask": b"RIFF"}]),
)  # fmt: skip


def refusal(engine: FluxEngine, case: Bad) -> FluxError:
    """The error of a request, which must come before the first part is loaded."""
    said: list[Progress | Preview] = []
    with pytest.raises(case.kind) as caught:
        run(engine, on_message=said.append, **{"model": family.DEV.model, **case.fields})
    assert Stage.LOADING not in {message.stage for message in said if isinstance(message, Progress)}
    return caught.value


def is_one_sentence(error: FluxError) -> bool:
    return (
        all(text.endswith(".") and "\n" not in text for text in (error.message, error.hint))
        and ". " not in error.message
        and len(error.message) < 400
    )


@pytest.mark.parametrize("case", [*FIELDS, *MISFITS], ids=lambda case: case.title)
def test_what_is_wrong_is_one_sentence_before_anything_is_loaded(cold_engine: FluxEngine, case: Bad) -> None:
    error = refusal(cold_engine, case)
    assert is_one_sentence(error), error
    for words in case.says:
        assert words in str(error)
    assert not cold_engine._bench.parts._loaded


def cold(models_dir: Path) -> FluxEngine:
    """One kind of engine is enough for what all share; nothing is ever loaded by it."""
    return MAKERS["torch"](models_dir)


@pytest.fixture(scope="module")
def cold_engine(family_dir: Path) -> FluxEngine:
    return cold(family_dir)


# Parts of other models, and parts that are missing


WIDE = replace(family.SIZES, hidden_size=48, num_heads=3, context_in_dim=48)


def save(path: Path, weights: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)


@pytest.fixture
def own_dir(family_dir: Path, tmp_path: Path) -> Path:
    """A copy of the family that a test may break."""
    return Path(shutil.copytree(family_dir, tmp_path / "models"))


def test_parts_of_a_model_of_another_width_are_refused(own_dir: Path) -> None:
    other = replace(family.DEV, transformer=WIDE)
    save(own_dir / "loras" / "wide.safetensors", lora_files.kohya(other, ("double_blocks.0.img_attn.qkv",)))
    for name, config in {"wide": family.PLAIN, "wide-xlabs": family.XLABS}.items():
        net = replace(config, transformer=replace(config.transformer, hidden_size=48, num_heads=3))
        save(own_dir / "controlnets" / f"{name}.safetensors", family.controlnet_file(net))
    engine = cold(own_dir)
    for case in (
        bad("LoRA", "wide", loras=[{"name": "wide"}]),
        bad("ControlNet", "wide was made for another", task="control", controls=[use("wide", "canny")]),
        bad("XLabs", "wide-xlabs was made", task="control", controls=[use("wide-xlabs", "canny")]),
    ):
        error = refusal(engine, case)
        assert is_one_sentence(error), error
        assert all(words in str(error) for words in case.says), error


@pytest.mark.parametrize(
    ("row", "tensor", "axis", "says"),
    [
        ("micro-redux", "redux_down", 0, "another model"),
        ("micro-redux", "redux_up", 1, "another picture encoder than micro-siglip"),
        ("micro-ip-adapter", "double_blocks.0.processor.ip_adapter_double_stream_k_proj", 0, "another model"),
        (
            "micro-ip-adapter",
            "ip_adapter_proj_model.proj",
            1,
            "another picture encoder",
        ),
    ],
)
def test_an_adapter_of_another_width_is_refused(
    own_dir: Path, row: str, tensor: str, axis: int, says: str
) -> None:
    path = own_dir / row / "part.safetensors"
    weights = load_file(path)
    name = f"{tensor}.weight"
    weights[name] = np.ascontiguousarray(np.concatenate([weights[name]] * 2, axis=axis))
    save_file(weights, path)
    case = bad(row, task="vary", pictures=[{"image": PICTURE, "adapter": row}])
    error = refusal(cold(own_dir), case)
    assert is_one_sentence(error)
    assert says in error.message


@pytest.mark.parametrize("other", ["micro-clip-vision", "micro-taef1", "micro-redux"])
def test_a_file_of_something_else_is_said_to_be_none(own_dir: Path, other: str) -> None:
    shutil.copy(own_dir / other / "part.safetensors", own_dir / "controlnets" / "strange.safetensors")
    case = bad("", task="control", controls=[use("strange", "canny")], kind=Corrupt)
    assert "ControlNet" in refusal(cold(own_dir), case).message


MISSING: dict[str, dict[str, Any]] = {
    "micro-redux": {"task": "vary", "pictures": [{"image": PICTURE}]},
    "micro-siglip": {"task": "vary", "pictures": [{"image": PICTURE}]},
    "micro-ip-adapter": {"task": "vary", "pictures": [{"image": PICTURE, "adapter": "micro-ip-adapter"}]},
    "micro-clip-vision": {"task": "vary", "pictures": [{"image": PICTURE, "adapter": "micro-ip-adapter"}]},
    "micro-depth-net": {"task": "control", "controls": [use("micro-depth-net", "depth")]},
    "micro-canny-lora": {"task": "control", "controls": [use("micro-canny-lora", "canny")]},
    "micro-taef1": {"decoder": "fast"},
}


@pytest.mark.parametrize("row", MISSING)
def test_a_part_that_is_missing_says_how_to_get_it(own_dir: Path, row: str) -> None:
    shutil.rmtree(own_dir / row)
    error = refusal(cold(own_dir), bad(row, kind=ModelMissing, **MISSING[row]))
    assert is_one_sentence(error)
    assert row in error.message
    assert f"flowbrush models get {row}" in error.hint


def test_a_map_that_nobody_here_can_make_is_said_to_be_so(cold_engine: FluxEngine) -> None:
    case = bad("pose", task="control", controls=[use("plain", "pose", is_map=False)])
    error = refusal(cold_engine, case)
    assert is_one_sentence(error)
    assert "pose" in error.message
    assert not cold_engine._bench.parts._loaded


def test_a_map_whose_maker_is_not_here_says_how_to_get_it(cold_engine: FluxEngine) -> None:
    case = bad("depth", task="control", controls=[use("plain", "depth", is_map=False)], kind=ModelMissing)
    error = refusal(cold_engine, case)
    assert is_one_sentence(error)
    assert "flowbrush models get depth-anything" in error.hint
    assert not cold_engine._bench.parts._loaded


# Whatever is sent


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
BLOB = st.sampled_from(["0" * 64, "1" * 64, "f" * 63, "", None])
PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "task": st.sampled_from(["generate", "transform", "fill", "edit", "control", "vary", "upscale", "look"]),
    "image": BLOB,
    "mask": BLOB,
    "references": st.lists(BLOB, max_size=9),
    "seed": st.integers(-1, 2**64) | st.just(10**5000),
    "strength": st.floats(),
    "controls": st.lists(
        st.fixed_dictionaries(
            {"kind": st.sampled_from(["canny", "?"]), "image": BLOB},
            optional={"start": st.floats(), "end": st.floats(), "model": st.text(max_size=4), "is_map": JSON},
        ),
        max_size=5,
    ),
    "pictures": st.lists(
        st.fixed_dictionaries({"image": BLOB}, optional={"adapter": JSON, "strength": st.floats()}),
        max_size=3,
    ),
    "regions": st.lists(st.fixed_dictionaries({"prompt": st.text(max_size=3), "mask": BLOB}), max_size=3),
}
FIELD_NAMES = sorted(GenerationRequest.model_fields)
REQUESTS = st.fixed_dictionaries(
    {}, optional={name: PLAUSIBLE.get(name, JSON) | JSON for name in FIELD_NAMES}
) | st.dictionaries(st.sampled_from(FIELD_NAMES) | st.text(max_size=5), JSON, max_size=4)


def answer(make: Callable[[], GenerationRequest]) -> None:
    error: RequestInvalid | None = None
    try:
        request = make()
    except RequestInvalid as err:
        error = err
    else:
        assert parse_request(request.model_dump_json()) == request
    if error is not None:
        assert error.message.endswith(".")
        assert error.hint
        assert len(str(error)) < 600


@settings(max_examples=100, deadline=None)
@given(REQUESTS)
def test_whatever_is_sent_is_a_request_or_one_error(fields: dict[str, Any]) -> None:
    answer(lambda: build_request(**fields))
    if "seed" not in fields or len(hex(fields["seed"]) if isinstance(fields["seed"], int) else "") < 1000:
        answer(lambda: parse_request(json.dumps(fields)))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40) | st.binary(max_size=40) | JSON.map(json.dumps))
def test_whatever_text_is_sent_is_a_request_or_one_error(text: str | bytes) -> None:
    answer(lambda: parse_request(text))


@pytest.mark.parametrize("text", ['{"seed": ' + "9" * 6000 + "}", "[" * 100_000, '{"a":' * 5000, "\x00", ""])
def test_text_that_is_hard_to_read_is_one_error(text: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        parse_request(text)
    assert len(str(caught.value)) < 600


# Cancelled jobs


def live_bytes(engine: FluxEngine) -> int:
    """Bytes of the arrays that the engine's library still holds."""
    gc.collect()
    if engine.name == "mlx":
        import mlx.core as mx

        return int(mx.get_active_memory())
    import torch

    tensors = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in gc.get_objects()
        if type(each) in (torch.Tensor, torch.nn.Parameter)
    }
    return sum(tensors.values())


CANCELLED: dict[str, Any] = {
    "model": family.DEV.model,
    "task": "control",
    "controls": [use("plain", "canny"), use("xlabs", "soft_edge")],
    "pictures": [{"image": PICTURE}, {"image": PICTURE, "adapter": "micro-ip-adapter"}],
    "num_images": 2,
    "num_steps": 2,
    "decoder": "fast",
    "negative_prompt": "blue",
    "true_guidance": 2.0,
}


def cancelled_after(engine: FluxEngine, messages: int, **fields: Any) -> Stage | None:
    """Runs a job that is cancelled after so many messages; the stage it was in, None if it was done."""
    heard: list[Progress] = []

    def listen(message: Progress | Preview) -> None:
        if isinstance(message, Progress):
            heard.append(message)

    try:
        run(engine, on_message=listen, is_cancelled=lambda: len(heard) >= messages, **{**CANCELLED, **fields})
    except Cancelled:
        return heard[-1].stage
    return None


@pytest.mark.parametrize(
    ("name", "has_memory"), [("torch", True), ("mlx", True), ("mlx", False)], ids=lambda value: str(value)
)
def test_ten_cancelled_jobs_leave_the_memory_and_the_parts_of_one(
    family_dir: Path, name: str, has_memory: bool
) -> None:
    """Where memory is short, parts are freed after each stage, also of a job that is cancelled."""
    engine = MAKERS[name](family_dir)
    if not has_memory:
        engine._bench._budget_bytes = 0
    whole = run(engine, **CANCELLED, prompt="0")
    length = len(run(engine, **CANCELLED, prompt="1").progress)
    parts, held, peak = set(engine._bench.parts._loaded), live_bytes(engine), machine.peak_memory_bytes()
    assert bool(parts) is has_memory
    stages: set[Stage | None] = set()
    for number in range(10):
        after = 1 + number * (length - 3) // 9  # the last one before the second picture is decoded
        stages.add(cancelled_after(engine, after, prompt=str(number + 2), seed=number))
        assert set(engine._bench.parts._loaded) == parts
    assert stages >= {Stage.ENCODING, Stage.DENOISING, Stage.DECODING}
    assert has_memory or Stage.LOADING in stages
    words = 10 * 2 * 4 * 33 * 32  # what is remembered of each prompt: its states and its vector
    assert live_bytes(engine) - held <= words
    assert machine.peak_memory_bytes() - peak < 32_000_000
    again = run(engine, **CANCELLED, prompt="0")
    assert again.result.images == whole.result.images


def test_a_job_cancelled_before_it_begins_loads_nothing(family_dir: Path) -> None:
    engine = cold(family_dir)
    with pytest.raises(Cancelled):
        run(engine, is_cancelled=lambda: True, **CANCELLED)
    assert not engine._bench.parts._loaded

"""After the whole walk our latents are those of diffusers' pipeline of the same name.

Random members of the family in float32: the same files, noise and words. Each test is one way to tell
FLUX.1 something. Inputs are chosen where peers and we agree; where peers differ on purpose of ours, the
comment says why. One engine walks here; test_tasks shows that the other paints the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from flux_core.pipeline import FluxEngine
from flux_core.sampling.noise import seeded_noise
from flux_core.weights.lora.read import read_lora
from tests.support import family_random as family
from tests.support import lora_files
from tests.support.engine_runs import scene
from tests.support.family_peers import Peers, Walked, picture, walk
from tests.support.lora_files import MemorySource

pytestmark = pytest.mark.filterwarnings(
    "ignore:`FluxPosEmbed` is deprecated:FutureWarning"  # diffusers' ControlNet warns of its own import
)
TOLERANCE = 1e-4
WIDTH, HEIGHT = 96, 64
SIZE = {"width_px": WIDTH, "height_px": HEIGHT}
STEPS = 4
PICTURE = scene(WIDTH, HEIGHT)
MAP = np.ascontiguousarray(scene(WIDTH, HEIGHT)[::-1, :, ::-1])
OTHER = np.ascontiguousarray(scene(64, 64)[:, ::-1])


@pytest.fixture(scope="session")
def peers(family_dir: Path) -> Peers:
    return Peers(family_dir)


Walk = Callable[..., Walked]


@pytest.fixture
def walked(any_engine: FluxEngine, monkeypatch: pytest.MonkeyPatch) -> Walk:
    def start(**fields: Any) -> Walked:
        return walk(
            any_engine,
            monkeypatch,
            **{"prompt": "a red apple", "num_steps": STEPS, "guidance": 3.5, **SIZE, **fields},
        )

    return start


def noise() -> torch.Tensor:
    """[1, 16, h, w], what the engine draws for seed 3."""
    return torch.tensor(seeded_noise(3, HEIGHT // 8, WIDTH // 8, 16)).permute(0, 3, 1, 2)


def packed(latents: torch.Tensor) -> torch.Tensor:
    from diffusers import FluxPipeline

    return FluxPipeline._pack_latents(latents, 1, *latents.shape[1:])


def call(pipe: Any, ours: Walked, **fields: Any) -> torch.Tensor:
    """The peer's final latents, [1, L, 64]."""
    told = {
        "prompt_embeds": ours.words,
        "pooled_prompt_embeds": ours.vec,
        "latents": packed(noise()),
        "height": HEIGHT,
        "width": WIDTH,
        "num_inference_steps": STEPS,
        "guidance_scale": 3.5,
        "output_type": "latent",
        "return_dict": False,
        **fields,
    }
    with torch.no_grad():
        return pipe(**{name: value for name, value in told.items() if value is not None})[0]


def agrees(ours: Walked, theirs: torch.Tensor) -> None:
    peer = theirs.numpy()
    assert ours.tokens.shape == peer.shape
    assert 0.3 < peer.std() < 30
    assert float(np.abs(ours.tokens - peer).max()) < TOLERANCE


def differs(ours: Walked, plain: Walked) -> None:
    """A condition that reached nothing would agree with a peer that forgot it, too."""
    assert float(np.abs(ours.tokens - plain.tokens).max()) > 100 * TOLERANCE


def same_noise(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Pipelines that start from a picture draw their noise themselves: they are given ours."""
    import importlib

    module = importlib.import_module(f"diffusers.pipelines.flux.pipeline_flux_{kind}")
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: noise())


# Words


@pytest.mark.parametrize("spec", [family.DEV, family.SCHNELL], ids=lambda spec: spec.model)
def test_text_to_image(walked: Walk, peers: Peers, spec: Any) -> None:
    ours = walked(model=spec.model)
    agrees(ours, call(peers.pipeline("FluxPipeline", spec), ours))
    if spec is family.DEV:
        differs(ours, walked(model=spec.model, guidance=1.0))


def test_a_negative_prompt_with_true_guidance(walked: Walk, peers: Peers) -> None:
    ours = walked(model=family.DEV.model, negative_prompt="blurry", true_guidance=2.5)
    pipe = peers.pipeline("FluxPipeline", family.DEV)
    negative = {"negative_prompt_embeds": ours.no_words, "negative_pooled_prompt_embeds": ours.no_vec}
    agrees(ours, call(pipe, ours, true_cfg_scale=2.5, **negative))


# Pictures to start from: diffusers takes int(n - min(n * s, n)), we int((1 - s) * n + 1e-9); for s = 0.5 and
# 0.75 of four steps both are the same, while floats make them differ for others (n = 50, s = 0.8).


@pytest.mark.parametrize("strength", [0.5, 0.75, 1.0])
def test_image_to_image(walked: Walk, peers: Peers, monkeypatch: pytest.MonkeyPatch, strength: float) -> None:
    ours = walked(model=family.DEV.model, task="transform", image=PICTURE, strength=strength)
    same_noise(monkeypatch, "img2img")
    pipe = peers.pipeline("FluxImg2ImgPipeline", family.DEV)
    agrees(ours, call(pipe, ours, latents=None, image=picture(PICTURE), strength=strength))


def mask(side_px: int = 16) -> np.ndarray:
    """White but for a border of one token; diffusers takes the nearest pixel of a mask for a latent and
    we the largest of its 64, which is the same where the mask's edges are those of latents."""
    grey = np.full((HEIGHT, WIDTH), 0, np.uint8)
    grey[side_px:-side_px, side_px : -2 * side_px] = 255
    return grey


@pytest.mark.parametrize("strength", [0.75, 1.0])
def test_inpainting_with_a_model_that_was_not_made_for_it(
    walked: Walk, peers: Peers, monkeypatch: pytest.MonkeyPatch, strength: float
) -> None:
    fields = {"image": PICTURE, "mask": mask(), "strength": strength}
    ours = walked(model=family.DEV.model, task="fill", **fields)
    same_noise(monkeypatch, "inpaint")
    pipe = peers.pipeline("FluxInpaintPipeline", family.DEV)
    theirs = call(
        pipe, ours, latents=None, image=picture(PICTURE), mask_image=picture(mask()), strength=strength
    )
    agrees(ours, theirs)


# The model's own channels


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_fill_model(walked: Walk, peers: Peers, monkeypatch: pytest.MonkeyPatch, strength: float) -> None:
    """The mask's edges cut through latents; both see every pixel of it. Greys are left out: diffusers
    rounds at one half, while we repaint whatever is not black."""
    grey = np.zeros((HEIGHT, WIDTH), np.uint8)
    grey[5:39, 21:70] = 255
    ours = walked(model=family.FILL.model, task="fill", image=PICTURE, mask=grey, strength=strength)
    same_noise(monkeypatch, "fill")
    pipe = peers.pipeline("FluxFillPipeline", family.FILL)
    theirs = call(
        pipe, ours, latents=None, image=picture(PICTURE), mask_image=picture(grey), strength=strength
    )
    agrees(ours, theirs)


@pytest.mark.parametrize("spec", [family.CANNY, family.DEPTH], ids=lambda spec: spec.model)
def test_a_map_through_the_models_own_channels(walked: Walk, peers: Peers, spec: Any) -> None:
    control = {"kind": spec.control_kind.value, "image": MAP}
    ours = walked(model=spec.model, task="control", controls=[control])
    pipe = peers.pipeline("FluxControlPipeline", spec)
    agrees(ours, call(pipe, ours, control_image=picture(MAP)))
    differs(ours, walked(model=spec.model, task="control", controls=[{**control, "image": PICTURE}]))


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_a_map_through_a_control_lora(walked: Walk, peers: Peers, family_dir: Path, strength: float) -> None:
    """The peer gets the weights with the LoRA in them by the textbook: diffusers reads this layout only in
    the published sizes, and gives norms in full whatever the strength, as we do."""
    control = {"kind": "canny", "image": MAP, "model": "canny-control", "strength": strength}
    ours = walked(model=family.DEV.model, task="control", controls=[control])
    base = load_file(family_dir / family.DEV.model / family.DEV.files.transformer)
    lora = read_lora(MemorySource(family.control_lora()), family.DEV, "canny-control")
    uses = [(lora.patches(), strength)]
    merged = {name: array.astype(np.float32) for name, array in lora_files.merged(base, uses).items()}
    wide = replace(family.DEV, transformer=replace(family.SIZES, in_channels=128))
    pipe = peers.pipeline("FluxControlPipeline", wide, merged)
    agrees(ours, call(pipe, ours, control_image=picture(MAP)))


# References


def test_kontext_with_one_reference(walked: Walk, peers: Peers) -> None:
    """Peers bring every reference to one of seventeen sizes of about a megapixel; ours leaves one of the
    result's size as it is, and so does the peer when told not to."""
    ours = walked(model=family.KONTEXT.model, task="edit", image=PICTURE)
    pipe = peers.pipeline("FluxKontextPipeline", family.KONTEXT)
    theirs = call(pipe, ours, image=picture(PICTURE), max_area=WIDTH * HEIGHT, _auto_resize=False)
    agrees(ours, theirs)
    differs(ours, walked(model=family.KONTEXT.model, task="edit", image=MAP))


# ControlNets


def use(model: str, kind: str, image: np.ndarray = MAP, **fields: Any) -> dict[str, Any]:
    return {"model": model, "kind": kind, "image": image, **fields}


@pytest.mark.parametrize(
    ("net", "kind", "mode"),
    [
        ("plain", "canny", None),
        ("union", "depth", 2),
        ("union", "low_quality", 6),
        ("xlabs", "soft_edge", None),
    ],
)
def test_a_controlnet(walked: Walk, peers: Peers, net: str, kind: str, mode: int | None) -> None:
    ours = walked(model=family.DEV.model, task="control", controls=[use(net, kind, strength=0.8)])
    pipe = peers.pipeline(
        "FluxControlNetPipeline", family.DEV, controlnet=peers.controlnet(family.CONTROLNETS[net])
    )
    theirs = call(
        pipe, ours, control_image=picture(MAP), control_mode=mode, controlnet_conditioning_scale=0.8
    )
    agrees(ours, theirs)
    differs(
        ours, walked(model=family.DEV.model, task="control", controls=[use(net, kind, PICTURE, strength=0.8)])
    )


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.25, 1.0), (0.3, 0.9)])
def test_a_controlnet_in_a_part_of_the_steps(walked: Walk, peers: Peers, start: float, end: float) -> None:
    ours = walked(
        model=family.DEV.model, task="control", controls=[use("plain", "canny", start=start, end=end)]
    )
    pipe = peers.pipeline("FluxControlNetPipeline", family.DEV, controlnet=peers.controlnet(family.PLAIN))
    theirs = call(
        pipe, ours, control_image=picture(MAP), control_guidance_start=start, control_guidance_end=end
    )
    agrees(ours, theirs)


def test_two_controlnets_with_a_negative_prompt(walked: Walk, peers: Peers) -> None:
    """Both evaluations of a step get the residuals of the prompt's, as diffusers does."""
    controls = [use("plain", "canny", strength=0.7), use("union", "tile", PICTURE, strength=0.4, end=0.75)]
    ours = walked(
        model=family.DEV.model, task="control", controls=controls, negative_prompt="blurry", true_guidance=2.0
    )
    nets = [peers.controlnet(family.PLAIN), peers.controlnet(family.UNION)]
    pipe = peers.pipeline("FluxControlNetPipeline", family.DEV, controlnet=nets)
    theirs = call(
        pipe,
        ours,
        control_image=[picture(MAP), picture(PICTURE)],
        control_mode=[None, 1],
        controlnet_conditioning_scale=[0.7, 0.4],
        control_guidance_start=[0.0, 0.0],
        control_guidance_end=[1.0, 0.75],
        true_cfg_scale=2.0,
        negative_prompt_embeds=ours.no_words,
        negative_pooled_prompt_embeds=ours.no_vec,
    )
    agrees(ours, theirs)


# Pictures to be like: not square, because one encoder cuts the middle out and the other squeezes


@pytest.mark.parametrize(("strength", "true_guidance"), [(1.0, 1.0), (0.6, 1.0), (0.8, 3.0)])
def test_an_ip_adapter(walked: Walk, peers: Peers, strength: float, true_guidance: float) -> None:
    fields: dict[str, Any] = {"model": family.DEV.model, "task": "vary", "true_guidance": true_guidance}
    shown = {"image": MAP, "adapter": "micro-ip-adapter", "strength": strength}
    ours = walked(pictures=[shown], **fields)
    pipe = peers.pipeline("FluxPipeline", family.DEV, **peers.clip_vision())
    peers.ip_adapter(pipe, strength)
    theirs = call(
        pipe,
        ours,
        ip_adapter_image=picture(MAP),
        true_cfg_scale=true_guidance,
        negative_prompt_embeds=ours.no_words,
        negative_pooled_prompt_embeds=ours.no_vec,
    )
    agrees(ours, theirs)
    differs(ours, walked(pictures=[{**shown, "image": OTHER}], **fields))


def test_redux(walked: Walk, peers: Peers) -> None:
    """One picture: of several, diffusers sums words and pictures up, while ours come one behind the other.
    Its prior's own words are zeros of the published sizes; here it is given ours."""
    fields: dict[str, Any] = {"model": family.DEV.model, "task": "vary"}
    ours = walked(pictures=[{"image": MAP}], **fields)
    prior = peers.redux()
    with torch.no_grad():
        seen = prior.image_embedder(prior.encode_image(picture(MAP), "cpu", 1)).image_embeds
    words = torch.cat([ours.words[:, : family.DEV.t5_tokens], seen], dim=1)
    assert words.shape == ours.words.shape
    agrees(ours, call(peers.pipeline("FluxPipeline", family.DEV), ours, prompt_embeds=words))
    differs(ours, walked(pictures=[{"image": OTHER}], **fields))

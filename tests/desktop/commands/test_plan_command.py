"""`flowbrush plan` says what a job would load, without the model's files."""

from __future__ import annotations

import pytest

VAE = "vae_encoder"


def components(said) -> list[str]:
    assert said.code == 0, said.err
    return [step["component"] for step in said.json["steps"]]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["generate", "--model", "flux1-dev"], ["clip", "t5", "transformer", "vae_decoder"]),
        (["generate", "--clip-only"], ["clip", "transformer", "vae_decoder"]),
        (
            ["generate", "--model", "flux1-dev", "--decoder", "fast"],
            ["clip", "t5", "transformer", "fast_decoder"],
        ),
        (["fill", "--model", "flux1-dev"], ["clip", "t5", VAE, "transformer", "vae_decoder"]),
        (["edit", "--references", "2"], ["clip", "t5", VAE, "transformer", "vae_decoder"]),
        (["control", "--kind", "canny"], ["clip", "t5", VAE, "transformer", "vae_decoder"]),
        (
            ["control", "--kind", "depth"],
            ["clip", "t5", "depth_estimator", VAE, "transformer", "vae_decoder"],
        ),
        (["vary"], ["clip", "t5", "siglip", "redux", "transformer", "vae_decoder"]),
        (
            ["upscale", "--upscaler", "net", "--model", "flux1-dev"],
            ["clip", "t5", "upscaler", VAE, "transformer", "vae_decoder"],
        ),
    ],
)
def test_every_task_has_its_table(flowbrush, arguments, expected):
    assert components(flowbrush("plan", *arguments, "--json")) == expected


def test_the_steps_carry_names_and_bytes(flowbrush):
    said = flowbrush("plan", "control", "--controlnet", "xlabs-canny-v3", "--json")
    (net,) = [step for step in said.json["steps"] if step["component"] == "controlnet"]
    assert net["name"] == "xlabs-canny-v3"
    assert net["weight_bytes"] > 1e8
    weights = [step["weight_bytes"] for step in said.json["steps"]]
    assert said.json["resident_bytes"] == sum(weights)
    assert max(weights) <= said.json["sequential_bytes"] < sum(weights)


def test_precision_halves_the_bytes_and_people_get_a_table(flowbrush):
    half = flowbrush("plan", "fill", "--model", "flux1-dev", "--json").json
    full = flowbrush("plan", "fill", "--model", "flux1-dev", "--precision", "fp32", "--json").json
    assert full["resident_bytes"] == 2 * half["resident_bytes"]
    lines = flowbrush("plan", "fill", "--model", "flux1-dev").out.splitlines()
    assert lines[0] == "fill with FLUX.1 [dev]:"
    assert lines[1].split() == ["STAGE", "COMPONENT", "NAME", "WEIGHTS"]
    assert "GB" in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["fill", "--model", "flux1-canny-dev"], "cannot do fill"),
        (["dance"], "dance"),
        (["fill", "--model", "gpt"], "gpt"),
        (["control", "--kind", "pose"], "--controlnet"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(flowbrush, arguments, word):
    said = flowbrush("plan", *arguments)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert word in said.err

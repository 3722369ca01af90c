"""Conditions that come together: each is heard beside the others, or the request is refused in a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flux_core.errors import RequestInvalid
from flux_core.pipeline import FluxEngine
from tests.support import family_random as family
from tests.support.engine_runs import psnr_db, run, scene

PICTURE = scene(64, 64)
MAP = np.ascontiguousarray(PICTURE[::-1, :, ::-1])
EDIT: dict[str, Any] = {"model": family.KONTEXT.model, "task": "edit", "image": PICTURE}


def use(model: str, kind: str, image: np.ndarray = MAP, **fields: Any) -> dict[str, Any]:
    return {"model": model, "kind": kind, "image": image, **fields}


def paint(engine: FluxEngine, **fields: Any) -> np.ndarray:
    usual = {"model": family.DEV.model, "prompt": "a red apple", "precision": "fp32", "decoder": "fast"}
    return run(engine, **{**usual, "num_steps": 2, **fields}).pixels


@pytest.mark.parametrize(("net", "kind"), [("plain", "canny"), ("xlabs", "soft_edge")])
def test_a_controlnet_steers_an_edit_and_leaves_its_references_alone(
    both: tuple[FluxEngine, FluxEngine], net: str, kind: str
) -> None:
    fields = {**EDIT, "references": [MAP[:, :32]]}
    torch, mlx = (paint(engine, **fields, controls=[use(net, kind)]) for engine in both)
    assert psnr_db(torch, mlx) > 55
    assert psnr_db(mlx, paint(both[1], **fields, controls=[use(net, kind, PICTURE)])) < 60
    unheard = paint(both[1], **fields, controls=[use(net, kind, strength=0.0)])
    assert psnr_db(unheard, paint(both[1], **fields)) > 60


def test_a_control_lora_on_an_edit_is_refused(any_engine: FluxEngine) -> None:
    with pytest.raises(RequestInvalid, match="cannot follow a map in an edit"):
        paint(any_engine, **EDIT, controls=[use("canny-control", "canny")])

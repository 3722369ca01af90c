"""A part's tensors come in the order in which its model asks, so that the next one can be read ahead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from flux_core.models.t5 import T5Encoder
from flux_core.weights import synonyms
from flux_core.weights.components import open_checked
from flux_core.weights.expected import expected_shapes
from flux_core.weights.safetensors_file import SafetensorsFile
from flux_core.weights.tensors import in_order
from tests.support.tiny_random import MICRO


def test_named_tensors_come_first_in_the_order_of_their_names(tmp_path: Path) -> None:
    save_file({name: np.full(2, ord(name), np.float32) for name in "abcd"}, tmp_path / "w")
    source = in_order(SafetensorsFile(tmp_path / "w"), ["d", "missing", "b"])
    assert list(source.names()) == ["d", "b", "a", "c"]
    assert source.read("d").to_numpy().tolist() == [float(ord("d"))] * 2


def test_an_opened_part_is_in_the_models_order_whatever_the_files_is(tmp_path: Path) -> None:
    def build(ops: object, make: object) -> T5Encoder:
        return T5Encoder(ops, make, MICRO.t5)  # pyright: ignore[reportArgumentType]

    expected = expected_shapes(build)
    arrays = {name: np.zeros(expected[name], np.float32) for name in reversed(list(expected))}
    save_file(arrays, tmp_path / "t5.safetensors")
    found = open_checked(tmp_path / "t5.safetensors", synonyms.t5_name, build)
    assert list(found.names()) == list(expected)

"""mflux's names are those of mflux's own modules, and each becomes a name that the models ask for."""

from __future__ import annotations

import hashlib

import pytest

from flux_core.catalog import DEV
from flux_core.models.autoencoder import Decoder, Encoder
from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder
from flux_core.models.transformer import Transformer
from flux_core.weights.diffusers_keys import Recipes, autoencoder_recipes, transformer_recipes
from flux_core.weights.expected import Build, expected_shapes
from flux_core.weights.mflux_keys import is_mflux, published_name
from tests.support.numerics import ArraySource
from tests.support.quantised_files import mflux_name

COMPONENTS: dict[str, tuple[tuple[Build, ...], Recipes | None]] = {
    "transformer": (
        (lambda ops, make: Transformer(ops, make, DEV.transformer),),
        transformer_recipes(DEV.transformer),
    ),
    "autoencoder": (
        (
            lambda ops, make: Encoder(ops, make, DEV.autoencoder),
            lambda ops, make: Decoder(ops, make, DEV.autoencoder),
        ),
        autoencoder_recipes(DEV.autoencoder),
    ),
    "t5": ((lambda ops, make: T5Encoder(ops, make, DEV.t5),), None),
    "clip": ((lambda ops, make: ClipText(ops, make, DEV.clip),), None),
}
MFLUX_0_24 = {
    "transformer": (1160, "35dad019fc62057f"),
    "autoencoder": (244, "dd7ce15ee8302d1c"),
    "t5": (242, "d97612f067873000"),
    "clip": (196, "9c3826a62ec9a483"),
}
"""How many parameters the modules of mflux 0.24 have at full size, and the start of the SHA-256 of their
names, sorted, one a line."""


def folder_names(component: str) -> list[str]:
    builds, recipes = COMPONENTS[component]
    if recipes is None:
        return list(expected_shapes(*builds))
    return [part for recipe in recipes.values() for part in recipe.parts]


def mflux_names(component: str) -> list[str]:
    names = [mflux_name(name) for name in folder_names(component)]
    tables = [name for name in names if "relative_attention_bias" in name]
    return names + [name.replace(".0.", f".{i}.", 1) for name in tables for i in range(1, 24)]


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_names_are_those_of_mflux(component: str) -> None:
    names = sorted(mflux_names(component))
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert (len(names), digest[:16]) == MFLUX_0_24[component]


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_name_becomes_the_folders_or_is_a_copy(component: str) -> None:
    published = [published_name(name) for name in mflux_names(component)]
    assert sorted(name for name in published if name is not None) == sorted(folder_names(component))
    assert published.count(None) == (23 if component == "t5" else 0)


@pytest.mark.parametrize("component", ["transformer", "autoencoder", "t5"])
def test_names_alone_tell_mflux_from_a_published_folder(component: str) -> None:
    assert is_mflux(ArraySource(dict.fromkeys(mflux_names(component), 0)))
    assert not is_mflux(ArraySource(dict.fromkeys(folder_names(component), 0)))
    assert not is_mflux(ArraySource(dict.fromkeys(expected_shapes(*COMPONENTS[component][0]), 0)))

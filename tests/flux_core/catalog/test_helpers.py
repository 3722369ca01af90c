"""Every kind of look has a helper in the catalog, as safetensors and without code; the first one is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux_core import catalog
from flux_core.catalog import helpers
from flux_core.errors import ModelMissing, RequestInvalid
from flux_core.looking import Caption, Depth, Embed, LookKind, Score


def test_every_kind_of_look_has_a_helper() -> None:
    assert {kind for row in helpers.ALL for kind in row.meant_for} == {kind.value for kind in LookKind}
    assert {row.model for row in helpers.ALL} <= catalog.PARTS.keys()
    assert all(row.kind is catalog.Kind.VISION for row in helpers.ALL)


PUBLISHED = [row for row in helpers.ALL if not row.is_bundled]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.model)
def test_a_helper_is_weights_first_then_settings_and_nothing_that_runs(row: catalog.PartSpec) -> None:
    names = [file.name for file in row.downloads]
    assert names[0].endswith(".safetensors")
    assert {Path(name).suffix for name in names} == {".safetensors", ".json"}
    assert {"config.json", "preprocessor_config.json"} <= set(names)
    assert len(set(names)) == len(names)


def test_the_best_helper_that_is_here_is_taken(tmp_path: Path) -> None:
    here = {"depth-anything-v2-small": tmp_path / "small", "depth-pro": tmp_path / "pro"}
    chosen = helpers.choose(Depth(), here.get)
    assert (chosen.model, chosen.folder) == ("depth-anything-v2-small", tmp_path / "small")
    chosen = helpers.choose(Depth(model="depth-pro"), here.get)
    assert (chosen.title, chosen.folder) == ("Depth Pro", tmp_path / "pro")


def test_a_helper_that_cannot_do_it_is_refused_with_those_that_can(tmp_path: Path) -> None:
    with pytest.raises(RequestInvalid) as err:
        helpers.choose(Caption(model="depth-pro"), lambda model: tmp_path)
    assert err.value.message == "Depth Pro cannot do captions; it can do depth maps."
    assert err.value.hint == "Choose florence-2-large, florence-2-base."


def test_a_helper_that_is_not_here_is_named_with_how_to_get_it() -> None:
    with pytest.raises(ModelMissing) as err:
        helpers.choose(Score(prompt="a"), lambda model: None)
    assert "`flowbrush models get clip-l-336`" in err.value.hint


def test_a_bundled_helper_answers_where_no_other_is_here(tmp_path: Path) -> None:
    bundled = {"tiny-clip": tmp_path / "tiny-clip", "tiny-depth": tmp_path / "tiny-depth"}
    for look, model in ((Score(prompt="a"), "tiny-clip"), (Embed(), "tiny-clip"), (Depth(), "tiny-depth")):
        assert helpers.choose(look, bundled.get).model == model
    here = {**bundled, "clip-l-224": tmp_path / "clip"}
    assert helpers.choose(Score(prompt="a"), here.get).model == "clip-l-224"


def test_a_bundled_helper_that_is_missing_is_not_offered_as_a_download() -> None:
    with pytest.raises(ModelMissing) as err:
        helpers.choose(Depth(model="tiny-depth"), lambda model: None)
    assert err.value.hint == "It comes with Flowbrush: install Flowbrush again."


def test_a_list_of_parts_finds_a_helper_where_a_look_does(tmp_path: Path) -> None:
    for row in (helpers.TINY_CLIP, helpers.LLAVA):
        folder = tmp_path / row.model
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        assert catalog.part_folder(row, (tmp_path,)) is None
        (folder / "model.safetensors").write_bytes(b"")
        assert catalog.part_folder(row, (tmp_path,)) == folder


def test_a_folder_counts_once_its_weights_and_its_config_are_there(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for base in (first, second):
        (base / "depth-pro").mkdir(parents=True)
    (first / "depth-pro/config.json").write_text("{}")
    assert helpers.folder_of_helper("depth-pro", (first, second)) is None
    (second / "depth-pro/config.json").write_text("{}")
    (second / "depth-pro/model.safetensors").write_bytes(b"")
    assert helpers.folder_of_helper("depth-pro", (first, second)) == second / "depth-pro"

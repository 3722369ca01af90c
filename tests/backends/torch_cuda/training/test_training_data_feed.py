"""The pack file, the columns of a batch, the worker processes and the composer."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor

from backends.torch_cuda.training.data.captions import caption
from backends.torch_cuda.training.data.compose import Composer
from backends.torch_cuda.training.data.feed import LABELS, Feed, arrays
from backends.torch_cuda.training.data.pack import Pack
from backends.torch_cuda.training.data.palette import COLOURS, name_of
from backends.torch_cuda.training.data.scenes import BACKGROUNDS, LINE, Item, Sampler, Scene
from backends.torch_cuda.training.data.word_ids import TEXT_TOKENS, Words
from flux_core.errors import Corrupt, Internal, ModelMissing
from tests.support.training_pack import disc_pack


@pytest.fixture(scope="module")
def pack() -> Pack:
    return disc_pack()


@pytest.fixture(scope="module")
def composer(pack: Pack) -> Composer:
    return Composer(pack, "cpu")


def _columns(pack: Pack, scenes: list[Scene]) -> dict[str, Tensor]:
    sampler, rng = Sampler(pack), Random(0)
    columns = arrays(sampler, scenes, [caption(scene, rng) for scene in scenes], Words())
    return {key: torch.from_numpy(value) for key, value in columns.items()}


def _scene(background: str = "solid", style: int = 0, **place: float) -> Scene:
    item = Item(0, COLOURS.index("green"), (60, 160, 66), 0.5, 0.5, 0.5, 0.0, False)
    for name, value in place.items():
        setattr(item, name, value)
    colours = (COLOURS.index("blue"), COLOURS.index("yellow"))
    pattern = 0.5 if background == "ground" else 5.0
    rgb = ((44, 104, 214), (250, 208, 48))
    return Scene(style, [item], False, 0, BACKGROUNDS.index(background), colours, rgb, 0, pattern, 0.0)


def _main_colour(pixels: np.ndarray) -> str:
    names = [name_of(pixel) for pixel in pixels]
    return max(set(names), key=names.count)


def test_a_pack_survives_its_file(pack: Pack, tmp_path: Path) -> None:
    pack.save(tmp_path / "pack.npz")
    again = Pack.load(tmp_path / "pack.npz")
    assert again.infos == pack.infos
    assert (again.names, again.styles) == (pack.names, pack.styles)
    assert np.array_equal(again.sprites, pack.sprites)
    assert np.array_equal(again.photos[0], pack.photos[0])


def test_a_missing_or_damaged_pack_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="no training pack"):
        Pack.load(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"not a pack")
    with pytest.raises(Corrupt, match="not a training pack"):
        Pack.load(tmp_path / "bad.npz")


def test_columns_share_their_first_axis_and_labels_stay_in_their_classes(pack: Pack) -> None:
    sampler, rng = Sampler(pack), Random(4)
    columns = _columns(pack, [sampler.scene(rng) for _ in range(200)])
    assert {len(column) for column in columns.values()} == {200}
    assert columns["t5"].shape == columns["clip"].shape == (200, TEXT_TOKENS)
    for name, label in Composer.labels(columns).items():
        assert int(label.min()) >= -1
        assert int(label.max()) < LABELS[name]


def test_background_and_object_have_the_colours_that_were_asked_for(pack: Pack, composer: Composer) -> None:
    sampler, rng = Sampler(pack), Random(6)
    scenes = [scene for scene in (sampler.scene(rng) for _ in range(160)) if len(scene.items) == 1][:64]
    pictures, masks = composer.with_masks(_columns(pack, scenes), (64, 64))
    for scene, picture, mask in zip(scenes, pictures.numpy(), masks.numpy()[..., 0], strict=True):
        if BACKGROUNDS[scene.background] == "solid":
            assert _main_colour(picture[mask < 0.01][::11]) == COLOURS[scene.colours[0]]
        colour = sampler.visible_colour(scene.items[0], scene.style)
        if scene.style != LINE:
            assert _main_colour(picture[mask > 0.95][::11]) == COLOURS[colour]


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (128, 64)])
def test_objects_keep_their_shape_and_place_at_any_picture_shape(
    pack: Pack, composer: Composer, size: tuple[int, int]
) -> None:
    scenes = [_scene(), _scene(cx=0.3, cy=0.7, size=0.4)]
    _, masks = composer.with_masks(_columns(pack, scenes), size)
    for scene, mask in zip(scenes, masks[..., 0], strict=True):
        rows, columns = torch.nonzero(mask > 0.5, as_tuple=True)
        item = scene.items[0]
        across_px = item.size * min(size)
        assert abs(int(rows.max() - rows.min()) + 1 - across_px) <= 2
        assert abs(int(columns.max() - columns.min()) + 1 - across_px) <= 2
        assert abs(float(rows.float().mean()) + 0.5 - item.cy * size[0]) <= 1
        assert abs(float(columns.float().mean()) + 0.5 - item.cx * size[1]) <= 1


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_a_background_shows_its_colours_only(pack: Pack, composer: Composer, background: str) -> None:
    picture = composer(_columns(pack, [_scene(background, size=0.1)]), (64, 64))[0]
    assert picture.shape == (64, 64, 3)
    assert 0 <= float(picture.min()) <= float(picture.max()) <= 1
    corner = picture[0, 0].numpy()
    if background in ("solid", "gradient", "glow", "ground", "dots"):
        assert name_of(corner) == "blue"
    if background in ("gradient", "ground"):
        assert name_of(picture[-1, 0].numpy()) == "yellow"
    if background in ("stripes", "checker", "dots"):
        blue, yellow = (torch.tensor(c) / 255 for c in ((44, 104, 214), (250, 208, 48)))
        near = torch.minimum((picture - blue).abs().amax(-1), (picture - yellow).abs().amax(-1)) < 0.02
        assert float(near.float().mean()) > 0.5
    if background == "solid":
        assert torch.allclose(picture[0], picture[-1])


def test_recolouring_keeps_the_light_of_the_drawing(pack: Pack, composer: Composer) -> None:
    picture = composer(_columns(pack, [_scene(size=0.9)]), (128, 128))[0]
    bright, dark = picture[40, 40], picture[88, 88]
    assert float(bright.sum()) > float(dark.sum()) + 0.05


def test_a_mirrored_object_is_mirrored(pack: Pack, composer: Composer) -> None:
    plain, mirrored = composer(_columns(pack, [_scene(), _scene(flip=True)]), (64, 64))
    assert torch.allclose(plain.flip(1), mirrored, atol=2e-3)


def test_the_composer_is_deterministic(pack: Pack, composer: Composer) -> None:
    sampler, rng = Sampler(pack), Random(2)
    columns = _columns(pack, [sampler.scene(rng) for _ in range(8)])
    assert torch.equal(composer(columns, (64, 64)), composer(columns, (64, 64)))


def test_workers_bring_different_batches_and_stop(pack: Pack, tmp_path: Path) -> None:
    pack.save(tmp_path / "pack.npz")
    feed = Feed(tmp_path / "pack.npz", num_workers=2, seed=9, batch_size=64)
    try:
        first, second = feed.get(), feed.get()
    finally:
        feed.close()
    assert len(first["t5"]) == len(second["t5"]) == 64
    assert not np.array_equal(first["geometry"], second["geometry"])


def test_a_worker_that_cannot_start_is_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    feed = Feed(tmp_path / "none.npz", num_workers=1, seed=1)
    try:
        with pytest.raises(Internal, match="has died"):
            feed.get()
    finally:
        feed.close()
    assert "no training pack" in capfd.readouterr().err

"""Searching for similar results: what is looked at, what is remembered, and in which order they come."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from desktop.document import commands
from desktop.document.document import Document
from desktop.document.geometry import Rect
from desktop.document.layers import Recipe, Variant
from desktop.document.tiles import TileRaster
from desktop.jobs.embeddings import EmbeddingMemory
from desktop.jobs.looks import Asked, Errand
from desktop.jobs.similar import SimilarSearch
from desktop.jobs.wish import Action, LookWish, PictureChoice, Wish
from flux_core.errors import Internal, RequestInvalid
from flux_core.imaging import codec
from flux_core.looking import EmbeddingFound
from flux_core.messages import Finished, JobRecord, JobState, Lane, ResultImage
from flux_core.request import Task, build_request

PAINT = build_request(task=Task.GENERATE, prompt="a boat", width_px=64, height_px=64)


def png(shade: int) -> bytes:
    return codec.encode_png(np.full((64, 64, 3), shade, np.uint8))


def name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def vector(shade: int) -> tuple[float, float]:
    """Shades that are near have a large cosine."""
    return float(np.cos(shade / 100)), float(np.sin(shade / 100))


def add_result(document: Document, *shades: int) -> str:
    variants = tuple(Variant(png(shade), shade) for shade in shades)
    raster = TileRaster.from_array(codec.decode(variants[0].png))
    recipe = Recipe(PAINT, Rect(0, 0, 64, 64), variants)
    return commands.insert_generated(document, name="boat", recipe=recipe, raster=raster)


def search(
    document: Document, choice: PictureChoice, memory: EmbeddingMemory, *records: JobRecord
) -> SimilarSearch:
    wish = Wish(action=Action.SIMILAR, look=LookWish(pictures=(choice,)))
    return SimilarSearch(Asked("job", "doc", document.committed_state, wish), records, memory)


def see(errand: Errand, shades: dict[str, int], helper: str = "clip") -> list[EmbeddingFound]:
    """What a helper finds that sees nothing but shades."""
    return [
        EmbeddingFound(model=helper, picture=number, values=vector(shades[sha256]))
        for number, sha256 in enumerate(errand.names)
    ]


def job(*shades: int) -> JobRecord:
    images = tuple(
        ResultImage(sha256=name(png(shade)), width_px=64, height_px=64, seed=shade) for shade in shades
    )
    finished = Finished(images=images, seconds={}, peak_memory_bytes=1)
    return JobRecord(
        job_id="x",
        seq=1,
        state=JobState.DONE,
        lane=Lane.INTERACTIVE,
        request=PAINT,
        created_at=0.0,
        finished=finished,
    )


SHADES = {name(png(shade)): shade for shade in range(256)}


@pytest.fixture
def memory(tmp_path: Path) -> EmbeddingMemory:
    return EmbeddingMemory(tmp_path / "embeddings")


def test_the_most_alike_come_first_and_the_picture_itself_not_at_all(photo, memory):
    layer_id = add_result(photo, 10, 90, 20)
    found = search(photo, PictureChoice(layer_id=layer_id), memory)
    errand = found.next_errand()
    assert errand is not None
    found.hear(errand, see(errand, SHADES))
    assert found.next_errand() is None
    rows = found.ranking(pytest.fail).rows
    assert [row.choice.variant for row in rows] == [2, 1]
    assert [row.rank for row in rows] == [1, 2]
    assert rows[0].similarity == pytest.approx(np.cos(0.1))
    assert rows[0].thumbnail.shape == (64, 64, 3)


def test_what_was_seen_once_is_not_looked_at_again_also_after_a_restart(photo, memory, tmp_path):
    layer_id = add_result(photo, 10, 90)
    first = search(photo, PictureChoice(layer_id=layer_id), memory)
    errand = first.next_errand()
    first.hear(errand, see(errand, SHADES))
    add_result(photo, 30)
    again = search(photo, PictureChoice(layer_id=layer_id), EmbeddingMemory(tmp_path / "embeddings"))
    errand = again.next_errand()
    assert errand.names == (name(png(30)),)
    again.hear(errand, see(errand, SHADES))
    assert [row.choice.variant for row in again.ranking(pytest.fail).rows] == [0, 1]


def test_a_vector_that_was_damaged_is_made_again(photo, memory, tmp_path):
    memory.keep("clip", "a" * 64, vector(10))
    file = tmp_path / "embeddings" / "clip" / ("a" * 64)
    for content in (b"\x00" * 8, b"abc", file.read_bytes() * 2, np.full(2, np.nan, "<f4").tobytes()):
        file.write_bytes(content)
        assert EmbeddingMemory(tmp_path / "embeddings").known("clip", ["a" * 64]) == {}


def test_vectors_of_two_helpers_are_never_compared(photo, memory):
    layer_id = add_result(photo, 10, 90)
    for shade in (10, 90):
        memory.keep("old", name(png(shade)), vector(shade))
    add_result(photo, 30)
    found = search(photo, PictureChoice(layer_id=layer_id), memory)
    errand = found.next_errand()
    assert errand.names == (name(png(30)),), "the old helper has seen the others"
    found.hear(errand, see(errand, SHADES, "new"))
    errand = found.next_errand()
    assert set(errand.names) == {name(png(10)), name(png(90))}, "but it is the new one that looks now"
    found.hear(errand, see(errand, SHADES, "new"))
    assert found.next_errand() is None
    assert len(found.ranking(pytest.fail).rows) == 2


def test_many_pictures_are_looked_at_some_at_a_time(photo, memory):
    layer_id = add_result(photo, *range(100))
    found = search(photo, PictureChoice(layer_id=layer_id), memory)
    sizes = []
    while (errand := found.next_errand()) is not None:
        sizes.append(len(errand.names))
        found.hear(errand, see(errand, SHADES))
    assert sizes == [64, 36]
    assert [row.choice.variant for row in found.ranking(pytest.fail).rows] == list(range(1, 25))


def test_what_only_the_service_has_is_not_sent_to_it(photo, memory):
    layer_id = add_result(photo, 10)
    found = search(photo, PictureChoice(layer_id=layer_id), memory, job(12, 60), job(10))
    errand = found.next_errand()
    assert errand.blobs == (png(10),)
    assert set(errand.names) == {name(png(shade)) for shade in (10, 12, 60)}
    found.hear(errand, see(errand, SHADES))
    first, second = found.ranking(lambda sha256: png(SHADES[sha256])).rows
    assert (first.kept.seed, second.kept.seed) == (12, 60)
    assert first.kept.request.prompt == "a boat"


def test_a_result_that_the_service_forgot_meanwhile_is_left_out(photo, memory):
    layer_id = add_result(photo, 10, 40)
    found = search(photo, PictureChoice(layer_id=layer_id), memory, job(12))
    errand = found.next_errand()
    found.hear(errand, see(errand, SHADES))

    def forgotten(sha256: str) -> bytes:
        raise RequestInvalid("The service has no such picture.")

    (row,) = found.ranking(forgotten).rows
    assert (row.choice.variant, row.rank) == (1, 1)


def test_a_search_with_nothing_to_compare_says_so(photo, memory):
    with pytest.raises(RequestInvalid, match="no other result"):
        search(photo, PictureChoice(), memory)


def test_a_helper_that_sees_nothing_ends_the_search(photo, memory):
    found = search(photo, PictureChoice(layer_id=add_result(photo, 10, 40)), memory)
    with pytest.raises(Internal):
        found.hear(found.next_errand(), [])


def test_vectors_last_as_long_as_the_program_where_the_disk_takes_none(photo, tmp_path):
    (tmp_path / "embeddings").write_bytes(b"a file where a folder should be")
    memory = EmbeddingMemory(tmp_path / "embeddings")
    found = search(photo, PictureChoice(layer_id=add_result(photo, 10, 40)), memory)
    errand = found.next_errand()
    found.hear(errand, see(errand, SHADES))
    assert found.next_errand() is None

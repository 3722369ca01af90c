"""What the pictures of `flowbrush bench family` show: figures between 0 and 1 where nothing else is said.

The judge is measured first, on the truth of the very scenes that were asked for: no other figure can be much
higher than its own. Every section leaves a sheet, rows of what was given, what came, and the truth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.training import evaluate, judge
from backends.torch_cuda.training.autoencoder import psnr
from backends.torch_cuda.training.bench.exercises import CPU, SIDE_PX, Exercise, columns_of, holes
from backends.torch_cuda.training.data import pairs
from backends.torch_cuda.training.data.compose import Composer
from backends.torch_cuda.training.data.feed import arrays
from backends.torch_cuda.training.data.pack import Pack
from backends.torch_cuda.training.data.scenes import BACKGROUNDS, Sampler, held_out
from backends.torch_cuda.training.data.word_ids import Words
from backends.torch_cuda.training.members import lessons, maps, measures
from backends.torch_cuda.training.members.estimator import rank_correlation
from backends.torch_cuda.training.scenes import to_device
from flux_core import catalog
from flux_core.imaging import codec
from flux_core.request import Precision
from flux_core.weights import components, extra_components
from flux_core.weights.open import open_source

Figures = dict[str, float]
Labels = dict[str, Tensor]
_SIZE = (SIDE_PX, SIDE_PX)
_PLAIN = BACKGROUNDS.index("solid")
SCORED = ("object", "colour", "style", "background", "place")
"""What a picture's score is the mean of."""

_SHEET_ROWS = 6
_SHEET_COLUMNS = 8


class Answers:
    """The pictures that came, with what they are judged by.

    Args:
        folder: Of the exercises.
        exercises: Those that were asked.
        composer: Draws the truth.
        eye: The judge.
    """

    def __init__(self, folder: Path, exercises: list[Exercise], composer: Composer, eye: judge.Judge) -> None:
        self.folder = folder
        self.composer = composer
        self.eye = eye.eval()
        self._exercises = exercises

    def groups(self, section: str) -> list[str]:
        """The groups that were asked of a section, in order."""
        return list(dict.fromkeys(one.group for one in self._exercises if one.section == section))

    def asked(self, section: str, group: str) -> list[Exercise]:
        return [one for one in self._exercises if (one.section, one.group) == (section, group)]

    def pictures(self, section: str, group: str) -> Tensor:
        """[B, H, W, 3] in [0, 1] in the order of the columns; one that did not come is black."""
        found = [_read(self.folder / one.file) for one in self.asked(section, group)]
        shape = next((each.shape for each in found if each is not None), (*_SIZE, 3))
        return torch.stack([torch.zeros(shape) if each is None else each for each in found])

    def truth(self, section: str) -> tuple[dict[str, Tensor], Tensor, Labels]:
        """Columns, pictures and labels of a section of captioned scenes."""
        columns = columns_of(self.folder, section)
        return columns, self.composer(columns, _SIZE), self.composer.labels(columns)

    def right(self, images: Tensor, labels: Labels) -> dict[str, Tensor]:
        """Label -> [B], whether the judge sees what was asked for; counts nothing where it does not apply."""
        seen = judge.answers(self.eye, images, contextlib.nullcontext)
        out = {name: seen[name] == labels[name] for name in seen}
        pair = [(each["background_colour"], each["background_second"]) for each in (seen, labels)]
        is_same = (pair[0][0] == pair[1][0]) & (pair[0][1] == pair[1][1])
        is_swapped = (pair[0][0] == pair[1][1]) & (pair[0][1] == pair[1][0])
        out["pattern"] = out["background"] & (is_same | (is_swapped & _is_even(labels["background"])))
        return out

    def sheet(self, section: str, *rows: Tensor) -> None:
        """Pictures of the same examples below each other, a few examples side by side."""
        if len(rows) == 1:
            few, columns = rows[0][: _SHEET_ROWS * _SHEET_COLUMNS], _SHEET_COLUMNS
        else:
            columns = min(_SHEET_COLUMNS, len(rows[0]))
            few = torch.cat([row[:columns] for row in rows])
        evaluate.save_sheet(few, self.folder / "sheets" / f"{section}.jpg", columns=columns)


def judge_itself(answers: Answers, section: str) -> Figures:
    """How often the judge is right about the truth of a section's scenes."""
    _, images, labels = answers.truth(section)
    return _single(answers.right(images, labels), labels)


def prompts(answers: Answers, section: str) -> Figures:
    """One object: it, its colour, a plain background and its colour, place, style."""
    _, _, labels = answers.truth(section)
    made = answers.pictures(section, section)
    answers.sheet(section, made)
    return _single(answers.right(made, labels), labels)


def two(answers: Answers) -> Figures:
    """Two different objects, the left one left and the right one right; and the judge on the truth."""
    _, truth, labels = answers.truth("two")
    made = answers.pictures("two", "two")
    answers.sheet("two", made, truth)
    out: Figures = {}
    for name, images in (("", made), ("judge_", truth)):
        right = answers.right(images, labels)
        out[f"{name}both"] = _mean(right["object"] & right["second"])
        out[f"{name}first"], out[f"{name}second"] = _mean(right["object"]), _mean(right["second"])
    return out


def guidance(answers: Answers) -> Figures:
    """The score at each guidance."""
    _, _, labels = answers.truth("guidance")
    rows = {group: answers.pictures("guidance", group) for group in answers.groups("guidance")}
    answers.sheet("guidance", *rows.values())
    return {f"g{group}": _score(_single(answers.right(made, labels), labels)) for group, made in rows.items()}


def sizes(answers: Answers) -> Figures:
    """The score at each size, and the judge's on the truth of that size."""
    columns, _, labels = answers.truth("sizes")
    out: Figures = {}
    for group in answers.groups("sizes"):
        width, height = (int(side) for side in group.split("x"))
        made, truth = answers.pictures("sizes", group), answers.composer(columns, (height, width))
        answers.sheet(f"sizes-{group}", made, truth)
        out[group] = _score(_single(answers.right(made, labels), labels))
        out[f"judge_{group}"] = _score(_single(answers.right(truth, labels), labels))
    return out


def fill(answers: Answers, way: str) -> Figures:
    """The prompt obeyed, or the thing gone; the step at the border above the truth's; what is kept."""
    section = f"fill_{way}"
    columns = columns_of(answers.folder, section)
    is_removal = way.startswith("remove")
    before, mask = holes(answers.composer, columns)
    truth = answers.composer(lessons.part(columns, pairs.AFTER), _SIZE)
    made = answers.pictures(section, way)
    answers.sheet(section, before, made, truth)
    out: Figures = {"seam_of_255": measures.seam(made, truth, mask)}
    if not way.endswith("intent"):  # an intent reaches a little beyond the mask
        outside = (made - before).abs() * (1 - mask)
        out["largest_change_outside_of_255"] = 255 * outside.max().item()
    if is_removal:
        return out | {"gone": _mean(measures.is_gone(made, truth, mask))}
    labels = answers.composer.labels(lessons.part(columns, pairs.AFTER))
    for name, images in (("", made), ("judge_", truth)):
        right = answers.right(images, labels)
        asked = [right[label] | (labels[label] < 0) for label in ("object", "second")]
        out[f"{name}obeyed"] = _mean(asked[0] & asked[1])
        out[f"{name}colour"] = _mean(right["colour"], labels["colour"] >= 0)
    return out


def kontext(answers: Answers, kind: str) -> Figures:
    """The change done, the rest kept at 28 dB or more, and both."""
    section = f"kontext_{kind}"
    columns = columns_of(answers.folder, section)
    before, truth = (
        answers.composer(lessons.part(columns, prefix), _SIZE) for prefix in (pairs.OTHER, pairs.AFTER)
    )
    made = answers.pictures(section, kind)
    answers.sheet(section, before, made, truth)
    labels = answers.composer.labels(lessons.part(columns, pairs.AFTER))
    amp = contextlib.nullcontext
    done = measures.edit_done(answers.eye, labels, made, truth, kind, amp)
    seen = measures.edit_done(answers.eye, labels, truth, truth, kind, amp)
    kept = measures.kept_db(made, before, truth, kind in measures.OWN_SHAPE)
    both = done & (kept >= measures.KEPT_DB)
    return {"both": _mean(both), "done": _mean(done), "kept_db": _mean(kept), "judge_done": _mean(seen)}


def canny(answers: Answers) -> Figures:
    """F1 of edges within a pixel; the judge."""
    _, truth, labels = answers.truth("canny")
    made = answers.pictures("canny", "canny")
    shown = lessons.show_edges(answers, columns_of(answers.folder, "canny"), _SIZE)
    answers.sheet("canny", shown.seen, made, truth)
    return {"edge_f1": measures.edge_f1(made, shown.seen)} | _single(answers.right(made, labels), labels)


def depth(answers: Answers) -> Figures:
    """Rank correlation of the depth that an estimator sees; outlines of the map found; the judge."""
    columns, truth, labels = answers.truth("depth")
    made = answers.pictures("depth", "depth")
    _, covers = answers.composer.with_covers(columns, _SIZE)
    wanted = maps.depths(columns["kind"].long(), columns["pattern"], covers)
    answers.sheet("depth", wanted, made, truth)
    out: Figures = {"outlines_found": measures.outline_recall(made, wanted)}
    asked = answers.asked("depth", "depth")
    looked = [_read(answers.folder / one.looked) for one in asked]
    pairs_of = [(seen, wanted[i]) for i, seen in enumerate(looked) if seen is not None]
    if pairs_of:
        seen, given = (torch.stack(maps_)[..., 0] for maps_ in zip(*pairs_of, strict=True))
        ranks = rank_correlation((seen * 255).round().long(), (given * 255).round().long())
        out["rank_correlation"] = _mean(ranks)
    return out | _single(answers.right(made, labels), labels)


def redux(answers: Answers) -> Figures:
    """Whether the judge sees in the picture what the reference shows."""
    _, truth, labels = answers.truth("redux")
    made = answers.pictures("redux", "redux")
    answers.sheet("redux", truth, made)
    return _single(answers.right(made, labels), labels)


def autoencoder(pack: Pack, models_dirs: tuple[Path, ...], count: int) -> Figures:
    """PSNR in dB of so many held-out scenes, and photographs, through the encoder and each decoder."""
    backend = TorchBackend("cpu")
    spec, folder = catalog.locate(catalog.TINY, models_dirs)
    encode = components.load_encoder(spec, folder, backend, Precision.FP32)
    decoders: dict[str, Callable[[Tensor], Tensor]] = {
        "": components.load_decoder(spec, folder, backend, Precision.FP32)
    }
    row = catalog.PARTS[spec.fast_decoder]
    if (fast := catalog.part_folder(row, models_dirs)) is not None:
        file = open_source(fast / row.weights)
        decoders["fast_"] = extra_components.load_taef1_decoder(file, backend, Precision.FP32)
    out: Figures = {}
    for name, images in _seen_by_autoencoder(pack, count).items():
        with torch.inference_mode():
            latents = encode(images * 2 - 1)
            for which, decode in decoders.items():
                again = (decode(latents) / 2 + 0.5).clamp(0, 1)
                out[f"{which}{name}_db"] = psnr(again, images)
    return rounded(out)


def _seen_by_autoencoder(pack: Pack, count: int) -> dict[str, Tensor]:
    sampler, composer = Sampler(pack), Composer(pack, CPU)
    scenes = held_out(sampler, count)
    columns = to_device(arrays(sampler, scenes, [""] * len(scenes), Words()), CPU)
    photos = [torch.from_numpy(photo[:SIDE_PX, :SIDE_PX]).float() / 255 for photo in pack.photos]
    return {
        "scenes_256px": composer(columns, _SIZE),
        "scenes_128px": composer(columns, (128, 128)),
        "photographs_256px": torch.stack(photos[:count]),
    }


def score_share(few: Figures, many: Figures) -> float:
    """The score in few steps as a share of that in many."""
    return _score(few) / max(_score(many), 1e-9)


def rounded(figures: Figures) -> Figures:
    return {name: round(value, 3) for name, value in figures.items()}


def _single(right: dict[str, Tensor], labels: Labels) -> Figures:
    """Label -> share that is right: object, colour, place of single objects, style of all, and backgrounds.

    `background` and `background_colour` are of plain ones; `pattern` is kind and both colours of all others.
    """
    is_one = (labels["count"] == 0) & (labels["second"] < 0)
    where = {
        "object": is_one,
        "colour": is_one & (labels["colour"] >= 0),
        "place": is_one & (labels["place"] >= 0),
        "style": torch.ones_like(is_one),
        "background": labels["background"] == _PLAIN,
        "background_colour": labels["background"] == _PLAIN,
        "pattern": labels["background_second"] >= 0,
        "count": labels["count"] >= 0,
    }
    return {name: _mean(right[name], known) for name, known in where.items() if bool(known.any())}


def _is_even(background: Tensor) -> Tensor:
    """[B], whether captions name its two colours in any order: those of stripes and squares."""
    return torch.isin(background, torch.tensor([BACKGROUNDS.index(name) for name in ("stripes", "checker")]))


def _score(figures: Figures) -> float:
    known = [figures[name] for name in SCORED if name in figures]
    return sum(known) / max(len(known), 1)


def _mean(values: Tensor, known: Tensor | None = None) -> float:
    chosen = values if known is None else values[known]
    return chosen.float().mean().item() if len(chosen) else float("nan")


def _read(path: Path) -> Tensor | None:
    """[H, W, 3] in [0, 1]; None where the picture did not come."""
    if not path.is_file():
        return None
    pixels = codec.decode(path.read_bytes(), path.name)[..., :3]
    return torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255


def measured(answers: Answers, sections: Iterable[str]) -> dict[str, Figures]:
    """The figures of every section that was asked, by name."""
    wanted, out = set(sections), dict[str, Figures]()
    plain = next((name for name in ("prompts", "schnell", "canny", "depth", "redux") if name in wanted), None)
    if plain is not None:
        out["judge"] = judge_itself(answers, plain)
    for section in ("prompts", "schnell"):
        if section in wanted:
            out[section] = prompts(answers, section)
    if {"prompts", "schnell"} <= wanted:
        out["schnell"]["share_of_dev"] = score_share(out["schnell"], out["prompts"])
    whole: dict[str, Callable[[Answers], Figures]] = {
        "two": two, "canny": canny, "depth": depth, "redux": redux, "guidance": guidance, "sizes": sizes,
    }  # fmt: skip
    out |= {name: measure(answers) for name, measure in whole.items() if name in wanted}
    for name, measure in (("fill", fill), ("kontext", kontext)):
        for section in sorted(each for each in wanted if each.startswith(f"{name}_")):
            out[section] = measure(answers, section.removeprefix(f"{name}_"))
    both = [figures["both"] for section, figures in out.items() if section.startswith("kontext_")]
    if both:
        out["kontext"] = {"both": sum(both) / len(both)}
    return {name: rounded(figures) for name, figures in out.items()}

"""What the members really do, measured: prompt obeyed, thing removed, rest kept, map followed.

The judge says what a picture shows; everything else is measured against the truth that composing knows. Every
function writes a sheet, rows of what was seen, what came, and the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from backends.torch_cuda.training import autoencoder, judge
from backends.torch_cuda.training import evaluate as base
from backends.torch_cuda.training.data import edits, feed, pairs
from backends.torch_cuda.training.data.captions import place_text
from backends.torch_cuda.training.data.feed import Arrays
from backends.torch_cuda.training.data.palette import COLOURS
from backends.torch_cuda.training.data.scenes import BACKGROUNDS, HELD_OUT_SEED, Sampler
from backends.torch_cuda.training.members import clip as clips
from backends.torch_cuda.training.members import estimator as estimators
from backends.torch_cuda.training.members import folders, lessons, measures, phrases, pictures, tools
from backends.torch_cuda.training.scenes import Captions, captions_of, to_device
from flux_core.conditioning.packing import unpack

if TYPE_CHECKING:
    from backends.torch_cuda.training.members.stages import MemberRun

SECONDS_A_MEMBER = 12.0
"""Left before the deadline, below which no further member is measured."""
SIDE_PX = 256
NUM_STEPS = 20
GUIDANCES = (1.0, 2.0, 3.5)
Figures = dict[str, float]


class Held(NamedTuple):
    """Fixed examples that training does not see."""

    arrays: dict[str, Tensor]
    shown: lessons.Shown
    extra: Tensor
    captions: Captions


def fill(run: MemberRun) -> Figures:
    """Per way of filling: prompt obeyed (object, colour) or removed, seam, and what lies outside the hole."""
    out: Figures = {}
    each = max(1, run.numbers.held_out // 3)
    rows: list[Tensor] = []
    for way in ("object", "around", "remove", "box", "border"):
        held = _held(
            run,
            lessons.FILL,
            lambda sampler, rng, way=way: pairs.fill_pairs(sampler, run.words, rng, each, way),
        )
        made = held.shown.truth
        for guidance in GUIDANCES if way in ("around", "remove") else GUIDANCES[1:2]:
            made = _drawn(run, "fill", held, guidance)
            mask = held.shown.mask
            assert mask is not None
            made = made * mask + held.shown.truth * (1 - mask)
            key = f"{way}_g{guidance}"
            if way == "remove":
                out[f"{key}_gone"] = measures.is_gone(made, held.shown.truth, mask).float().mean().item()
            else:
                labels = run.source.composer.labels(lessons.part(held.arrays, pairs.AFTER))
                right = judge.accuracy(run.eye(), made, labels, run.source.amp)
                out |= {f"{key}_{name}": right[name] for name in ("object", "colour") if name in right}
            out[f"{key}_seam"] = measures.seam(made, held.shown.truth, mask)
        rows.append(_rows(held.shown.seen, made, held.shown.truth))
    base.save_sheet(torch.cat(rows), run.out / "fill.jpg", columns=12)
    return _rounded(out)


def kontext(run: MemberRun) -> Figures:
    """Per kind of edit: the asked change happened, and nothing else (PSNR outside the true change)."""
    out: Figures = {}
    each = max(1, run.numbers.held_out // len(edits.KINDS))
    rows: list[Tensor] = []
    for guidance in GUIDANCES:
        both: list[Tensor] = []
        for kind in edits.KINDS:
            held = _held(
                run, lessons.KONTEXT,
                lambda sampler, rng, kind=kind: pairs.edit_pairs(sampler, run.words, rng, each, kind),
            )  # fmt: skip
            made = _drawn(run, "kontext", held, guidance)
            labels = run.source.composer.labels(lessons.part(held.arrays, pairs.AFTER))
            done = measures.edit_done(run.eye(), labels, made, held.shown.truth, kind, run.source.amp)
            kept = measures.kept_db(made, held.shown.seen, held.shown.truth, kind in measures.OWN_SHAPE)
            both.append(done & (kept >= measures.KEPT_DB))
            out[f"{kind}_g{guidance}_done"] = done.float().mean().item()
            if kind != "style":
                out[f"{kind}_g{guidance}_kept_db"] = kept.mean().item()
            if guidance == GUIDANCES[1]:
                rows.append(_rows(held.shown.seen, made, held.shown.truth))
        out[f"both_g{guidance}"] = torch.cat(both).float().mean().item()
    base.save_sheet(torch.cat(rows), run.out / "kontext.jpg", columns=12)
    return _rounded(out)


def canny(run: MemberRun) -> Figures:
    """Edge F1 within one pixel, and the judge."""
    return _control(run, lessons.CANNY, lambda made, held: measures.edge_f1(made, held.shown.seen))


def depth(run: MemberRun) -> Figures:
    """How well outlines of the depth map are found in the picture, and the judge; no estimator is asked."""
    return _control(run, lessons.DEPTH, lambda made, held: measures.outline_recall(made, held.shown.seen))


def schnell(run: MemberRun) -> Figures:
    """The judge at few steps, against the base at many."""
    out: Figures = {}
    truth = run.held_out()
    for name, num_steps in (("dev", NUM_STEPS), ("schnell", 4), ("schnell", 2), ("schnell", 1), ("dev", 4)):
        nets = run.bundled_nets() if name == "dev" else run.changed("schnell")
        none = torch.zeros(len(truth.captions), 0, device=run.device)
        guidance = run.numbers.schnell.guidance
        told = tools.Told(nets, run.tables, None)
        tokens = tools.sample(
            told, nets, run.tables, truth.captions, none, _SIZE, num_steps, guidance, run.source.amp
        )
        made = decoded(run, tokens)
        right = judge.accuracy(run.eye(), made, truth.labels, run.source.amp)
        out |= {
            f"{name}_{num_steps}steps_{label}": value for label, value in right.items() if label in _SHORT
        }
        base.save_sheet(made[:64], run.out / f"{name}_{num_steps}.jpg")
    return _rounded(out)


def redux(run: MemberRun) -> Figures:
    """Share of pictures that show, to the judge, what their reference shows; without any words."""
    truth, numbers = run.held_out(), run.numbers.redux
    nets = run.bundled_nets()
    eye = pictures.build_eye(numbers, run.spec.transformer.context_in_dim, run.device)
    state = run.mean("redux")
    for net in eye:
        net.load(state)
    table = pictures.redux_table(run.tables, _SIZE, (numbers.image_px // numbers.patch_px) ** 2)
    images, out = truth.images, Figures()
    with torch.no_grad(), run.source.amp():
        txt, vec = run.tables.text(nets, run.empty().expand(len(images)))
        words = torch.cat([txt, eye.tokens(pictures.shown(images, numbers.image_px)).to(txt.dtype)], dim=1)
    for guidance in GUIDANCES:

        def told(x: Tensor, extra: Tensor, *rest: Tensor, guidance: float = guidance) -> Tensor:
            start = int(extra[0, 0])
            _, vec, sigma = rest[:3]
            strength = torch.full_like(sigma, guidance)
            return nets.transformer.model(x, words[start : start + len(x)], vec, sigma, strength, table)

        index = (torch.arange(len(images), device=run.device) // 64 * 64)[:, None]
        blank = run.empty().expand(len(images))
        tokens = tools.sample(
            told,
            nets,
            run.tables,
            blank,
            index,
            _SIZE,
            NUM_STEPS,
            guidance,
            run.source.amp,
        )
        made = decoded(run, tokens)
        right = judge.accuracy(run.eye(), made, truth.labels, run.source.amp)
        out |= {f"g{guidance}_{name}": value for name, value in right.items() if name in _SHORT}
        base.save_sheet(_rows(images, made, images), run.out / f"redux_g{guidance}.jpg", columns=12)
    return _rounded(out)


def fast(run: MemberRun) -> Figures:
    """PSNR of the fast decoder and of the whole one, on true latents of held-out scenes."""
    images, latents = run.held_out().images, run.latents_of()
    nets = pictures.build_fast(run.numbers.fast, run.device)
    state = run.mean("fast")
    for net in nets:
        net.load(state)
    tokens = latents(images)
    ops = run.ae().encoder.model.ops
    with torch.no_grad():
        made = torch.cat([nets.decoder.model(unpack(ops, part, *_SIZE)) for part in tokens.split(32)])
    made = (made.float() / 2 + 0.5).clamp(0, 1)
    whole = decoded(run, tokens)
    base.save_sheet(_rows(whole, made, images), run.out / "fast.jpg", columns=12)
    return _rounded(
        {"psnr_db": autoencoder.psnr(made, images), "whole_psnr_db": autoencoder.psnr(whole, images)}
    )


def clip(run: MemberRun) -> Figures:
    """Share of pictures whose own caption ranks first among 64, and of right phrases above a wrong one."""
    numbers, truth = run.numbers.clip, run.held_out()
    net = clips.build(numbers, run.device).eval()
    folders.set_weights(net, run.mean("clip"))
    out: Figures = {}
    for name, images in (("", truth.images), ("worn_", _worn(truth.images))):
        seen = pictures.shown(images, numbers.image_px)
        with torch.no_grad():
            firsts = [
                (clips.similarities(net, part, ids).argmax(1).cpu() == torch.arange(len(part))).float()
                for part, ids in zip(seen.split(64), truth.captions.clip.split(64), strict=True)
            ]
            out[f"{name}caption_first"] = torch.cat(firsts).mean().item()
            for kind, (rows, right, wrong) in _rival_phrases(truth.labels).items():
                both = torch.cat([run.encode(right).clip, run.encode(wrong).clip])
                cosines = clips.similarities(net, seen[rows], both)
                index = torch.arange(len(rows), device=run.device)
                is_right = cosines[index, index] > cosines[index, len(rows) + index]
                out[f"{name}{kind}"] = is_right.float().mean().item()
    return _rounded(out)


def estimator(run: MemberRun) -> Figures:
    """Mean Spearman's rank correlation with the true depth, of maps in 256 steps as the engine gives them."""
    numbers, arrays = run.numbers.estimator, run.held_out_arrays()
    shown = lessons.show_depth(run.source, arrays, (SIDE_PX, SIDE_PX))
    net = estimators.build(numbers, run.device).eval()
    folders.set_weights(net, run.mean("estimator"))
    depth = (shown.seen[..., 0] * 255).round().long()
    out: Figures = {}
    for name, images in (("worn_spearman", _worn(shown.truth)), ("spearman", shown.truth)):
        found = estimators.maps(net, numbers, images)
        out[name] = estimators.rank_correlation(found, depth).mean().item()
        made = (found / 255)[..., None].expand(-1, -1, -1, 3)
        base.save_sheet(_rows(images, made, shown.seen), run.out / f"estimator_{name}.jpg", columns=12)
    return _rounded(out)


MEMBERS: dict[str, Callable[[MemberRun], Figures]] = {
    "fill": fill,
    "kontext": kontext,
    "schnell": schnell,
    "canny": canny,
    "depth": depth,
    "redux": redux,
    "fast": fast,
    "clip": clip,
    "estimator": estimator,
}
_SHORT = ("object", "colour", "style", "background_colour", "place", "count")
_SIZE = (SIDE_PX // 8, SIDE_PX // 8)


def decoded(run: MemberRun, tokens: Tensor) -> Tensor:
    """Tokens [B, L, 64] -> pictures [B, side, side, 3] in [0, 1]."""
    config = run.config()
    latents = unpack(run.ae().encoder.model.ops, tokens, *_SIZE)
    return autoencoder.decode(run.ae(), latents / config.scale + config.shift, run.source.amp)


def _control(run: MemberRun, member: lessons.Member, follow: Callable[[Tensor, Held], float]) -> Figures:
    truth, out = run.held_out_arrays(), Figures()
    shown = member.show(run.source, truth, (SIDE_PX, SIDE_PX))
    held = Held(truth, shown, lessons.extra_tokens(shown, run.latents_of()), captions_of(truth))
    labels = run.source.composer.labels(truth)
    for guidance in GUIDANCES:
        made = _drawn(run, member.name, held, guidance)
        right = judge.accuracy(run.eye(), made, labels, run.source.amp)
        out[f"g{guidance}_followed"] = follow(made, held)
        out |= {f"g{guidance}_{name}": value for name, value in right.items() if name in _SHORT}
        base.save_sheet(_rows(shown.seen, made, shown.truth), run.out / f"{member.name}_g{guidance}.jpg", 12)
    out["truth_followed"] = follow(shown.truth, held)
    return _rounded(out)


def _held(run: MemberRun, member: lessons.Member, make: Callable[[Sampler, Random], Arrays]) -> Held:
    arrays = to_device(make(Sampler(run.source.pack), Random(HELD_OUT_SEED + 3)), run.device)
    shown = member.show(run.source, arrays, (SIDE_PX, SIDE_PX))
    return Held(arrays, shown, lessons.extra_tokens(shown, run.latents_of()), captions_of(arrays))


def _drawn(run: MemberRun, name: str, held: Held, guidance: float) -> Tensor:
    nets = run.changed(name)
    told = tools.Told(nets, run.tables, lessons.ALL[name])
    tokens = tools.sample(
        told, nets, run.tables, held.captions, held.extra, _SIZE, NUM_STEPS, guidance, run.source.amp
    )
    return decoded(run, tokens)


def _worn(images: Tensor) -> Tensor:
    """Pictures as models paint them, the same ones every time."""
    with torch.random.fork_rng():
        torch.manual_seed(HELD_OUT_SEED)
        return pictures.worn(images)


def _rival_phrases(labels: dict[str, Tensor]) -> dict[str, tuple[list[int], list[str], list[str]]]:
    """Kind -> pictures, a phrase that is true of each, and the same with one thing wrong."""
    rng, known = Random(HELD_OUT_SEED + 5), {name: values.tolist() for name, values in labels.items()}
    solid = BACKGROUNDS.index("solid")
    say: dict[str, Callable[[int, int], str]] = {
        "object": lambda row, value: phrases.item_text(value, -1, rng),
        "colour": lambda row, value: phrases.item_text(known["object"][row], value, rng),
        "background_colour": lambda row, value: f"{COLOURS[value]} background",
        "place": lambda row, value: place_text(value, rng),
    }
    out: dict[str, tuple[list[int], list[str], list[str]]] = {}
    for name, words in say.items():
        rows = [row for row, value in enumerate(known[name]) if value >= 0]
        if name == "background_colour":
            rows = [row for row in rows if known["background"][row] == solid]
        right, wrong = [], []
        for row in rows:
            shown = {known[name][row], known["second"][row] if name == "object" else -1}
            right.append(words(row, known[name][row]))
            wrong.append(words(row, rng.choice([c for c in range(feed.LABELS[name]) if c not in shown])))
        if rows:
            out[f"{name}_phrase"] = rows, right, wrong
    return out


def _rows(seen: Tensor, made: Tensor, truth: Tensor, count: int = 8) -> Tensor:
    """A few examples side by side: seen, made, truth."""
    few = torch.stack([seen[:count].float(), made[:count], truth[:count]], dim=1)
    return few.flatten(0, 1)


def _rounded(figures: Figures) -> Figures:
    return {name: round(value, 3) for name, value in figures.items()}

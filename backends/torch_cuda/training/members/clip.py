"""A small CLIP that learns from composed scenes which texts are true of which pictures.

A batch holds many pictures of which the same phrase is true, so the usual contrast, in which only a picture's
own text is right, would teach that true things are false. Here every text carries what it claims; a pair
counts as right where the scene's labels agree, as wrong where they plainly do not, and else not at all.

Source: Radford et al. 2021 (CLIP); Khosla et al. 2020 (several right answers in a batch).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from backends.torch_cuda.training.clock import Stage
from backends.torch_cuda.training.data import feed, word_ids
from backends.torch_cuda.training.data.scenes import BACKGROUNDS, PLACES
from backends.torch_cuda.training.flow import RunState, hold_then_fall
from backends.torch_cuda.training.members import folders, pictures
from backends.torch_cuda.training.members.phrases import KINDS
from backends.torch_cuda.training.network import set_rate
from backends.torch_cuda.training.text import label_loss

MAX_SCALE = 100.0
_SYMMETRIC = tuple(BACKGROUNDS.index(name) for name in ("stripes", "checker"))
_SOLID = BACKGROUNDS.index("solid")


@dataclass(frozen=True, slots=True)
class ClipTraining:
    """Sizes and numbers of the stage."""

    image_px: int = 128
    patch_px: int = 16
    vision_width: int = 128
    vision_mlp: int = 256
    vision_layers: int = 4
    text_width: int = 96
    text_mlp: int = 128
    text_layers: int = 2
    num_heads: int = 4  # of vision; the text has three quarters of them
    dim: int = 128  # of the shared space
    lr: float = 1e-3
    warmup_steps: int = 300
    decay_from: float = 0.5
    ema: float = 0.998
    naming_until: float = 0.5  # fraction of the stage; the weight of naming falls to 0 until then
    naming_weight: float = 1.0
    batch_size: int = 1024
    pool: int = 32_768
    pool_chunk: int = 1024
    renew_every: int = 3  # steps
    sizes_px: tuple[tuple[int, int], ...] = ((128, 128), (128, 128), (128, 128), (128, 192), (192, 128))


class Batch(NamedTuple):
    """Pictures [B, S, S, 3] in bytes, said [B, 3, L] and claim [B, 3, K], is_loose [B, 3], label [B, K].

    K labels are in the order of data.feed.LABELS; the three texts are those of phrases.KINDS.
    """

    images: Tensor
    said: Tensor
    claim: Tensor
    is_loose: Tensor
    label: Tensor


def build(numbers: ClipTraining, device: torch.device) -> Any:
    """A fresh CLIPModel whose vocabulary is the bundled tokenizer's."""
    words = word_ids.committed()
    special = {"bos_token_id": words.clip_start, "eos_token_id": words.clip_end}
    tf = folders.library()
    config = tf.CLIPConfig(
        text_config={
            "vocab_size": max(words.clip_start, words.clip_end) + 1,
            "hidden_size": numbers.text_width,
            "intermediate_size": numbers.text_mlp,
            "num_hidden_layers": numbers.text_layers,
            "num_attention_heads": numbers.num_heads * 3 // 4,
            "max_position_embeddings": word_ids.TEXT_TOKENS,
            "projection_dim": numbers.dim,
            "pad_token_id": words.clip_end,
            **special,
        },
        vision_config={
            "image_size": numbers.image_px,
            "patch_size": numbers.patch_px,
            "hidden_size": numbers.vision_width,
            "intermediate_size": numbers.vision_mlp,
            "num_hidden_layers": numbers.vision_layers,
            "num_attention_heads": numbers.num_heads,
            "projection_dim": numbers.dim,
        },
        projection_dim=numbers.dim,
    )
    return tf.CLIPModel(config).to(device)


def write(folder: Path, numbers: ClipTraining, state: dict[str, Tensor], tokenizer: Path) -> None:
    """Writes trained weights as a folder that the engine's helper reads."""
    net = build(numbers, torch.device("cpu"))
    folders.set_weights(net, state)
    side = {"height": numbers.image_px, "width": numbers.image_px}
    settings = {
        **folders.SETTINGS,
        "image_processor_type": "CLIPImageProcessor",
        "size": side,  # the whole picture, squeezed: what stands at its border counts
        "do_center_crop": False,
        "crop_size": side,
        "do_convert_rgb": True,
    }
    folders.write(folder, net, settings, tokenizer)


def naming_head(numbers: ClipTraining, device: torch.device) -> nn.Linear:
    """What names a picture's labels in the first part of the stage; thrown away afterwards."""
    return nn.Linear(numbers.dim, sum(feed.LABELS.values())).to(device)


def picture_vectors(net: Any, images: Tensor) -> Tensor:
    """Pictures [B, side, side, 3] in [-1, 1] -> [B, D], not of unit length."""
    return _vectors(net.get_image_features(pixel_values=images.permute(0, 3, 1, 2)))


def text_vectors(net: Any, ids: Tensor) -> Tensor:
    """Token ids [B, L], ended and padded by the end of text -> [B, D], not of unit length."""
    return _vectors(net.get_text_features(input_ids=ids.long()))


def similarities(net: Any, images: Tensor, ids: Tensor) -> Tensor:
    """Cosines [pictures, texts]."""
    seen, said = picture_vectors(net, images).float(), text_vectors(net, ids).float()
    return functional.normalize(seen, dim=1) @ functional.normalize(said, dim=1).T


def train(
    net: Any,
    head: nn.Linear,
    draw: Callable[[int], Batch],
    numbers: ClipTraining,
    stage: Stage,
    amp: Any,
    state: RunState,
) -> None:
    """Trains both towers in place."""
    parameters = [*net.parameters(), *head.parameters()]
    for step in stage.steps():
        warm = min(1.0, (step + 1) / numbers.warmup_steps)
        set_rate(state.optimiser, numbers.lr * warm * hold_then_fall(stage.fraction, numbers.decay_from))
        batch = draw(step)
        images = pictures.worn(batch.images.float() / 255) * 2 - 1
        with amp():
            seen = picture_vectors(net, images)
            said = text_vectors(net, batch.said.transpose(0, 1).flatten(0, 1))
            named = head(seen)
        seen, said = (functional.normalize(part.float(), dim=1) for part in (seen, said))
        logits = seen @ said.T * net.logit_scale.exp().clamp(max=MAX_SCALE)
        losses: list[Tensor] = []
        for kind, part in enumerate(logits.split(len(seen), dim=1)):
            right, wrong = judged(batch.claim[:, kind], batch.is_loose[:, kind], batch.label)
            losses.append(contrast(part, right, wrong))
        loss = torch.stack(losses).mean()
        naming = numbers.naming_weight * max(0.0, 1.0 - stage.fraction / numbers.naming_until)
        labels = dict(zip(feed.LABELS, batch.label.long().unbind(1), strict=True))
        total = loss + naming * label_loss(named.float(), feed.LABELS, labels)
        state.optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        state.optimiser.step()
        state.average.update(step, numbers.ema)
        each = dict(zip(KINDS, losses, strict=True))
        stage.log(step, **each, norm=norm, scale=net.logit_scale.exp(), naming=naming)


def contrast(logits: Tensor, is_right: Tensor, is_wrong: Tensor) -> Tensor:
    """Every right pair against all wrong ones of its picture, and of its text; [pictures, texts] each.

    With one right pair in every row and column, and all others wrong, this is CLIP's loss.
    """
    return (_sided(logits, is_right, is_wrong) + _sided(logits.T, is_right.T, is_wrong.T)) / 2


def judged(claim: Tensor, is_loose: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Which texts are right and which are wrong about which pictures, [pictures, texts] each.

    Neither is where nobody could say: a colour that has no plain name, a side of a corner, one background
    within another. A loose text may leave out what its claims hold, so it is only wrong about pictures
    that share no object with it.

    Args:
        claim: [texts, K] labels, -1 where a text says nothing. Text i was said of picture i.
        is_loose: [texts].
        label: [pictures, K].
    """
    says = dict(zip(feed.LABELS, claim.long().T[:, None, :].unbind(0), strict=True))
    shows = dict(zip(feed.LABELS, label.long().T[:, :, None].unbind(0), strict=True))
    is_so, can_be = _items(says, shows)
    for so, can in (_place(says, shows), _background(says, shows)):
        is_so, can_be = is_so & so, can_be & can
    for name in ("style", "count"):
        agrees = (says[name] < 0) | (says[name] == shows[name])
        is_so, can_be = is_so & agrees, can_be & agrees
    can_be = torch.where(is_loose.bool()[None], _shares(says, shows), can_be)
    own = torch.eye(len(label), dtype=torch.bool, device=label.device)
    return (is_so & ~is_loose.bool()[None]) | own, ~(can_be | own)


Columns = dict[str, Tensor]


def _items(says: Columns, shows: Columns) -> tuple[Tensor, Tensor]:
    """(is so, can be) of the objects that a text names, in whatever order; the other order only can be."""
    is_so = can_be = torch.ones_like(says["object"] + shows["object"], dtype=torch.bool)
    for thing, colour in (("object", "colour"), ("second", "second_colour")):
        unsaid, any_colour = says[thing] < 0, says[colour] < 0
        so = can = unsaid
        for other, shown in (("object", "colour"), ("second", "second_colour")):
            is_there = says[thing] == shows[other]
            so = so | (is_there & (any_colour | (says[colour] == shows[shown])))
            can = can | (is_there & (any_colour | (says[colour] == shows[shown]) | (shows[shown] < 0)))
        is_so, can_be = is_so & so, can_be & can
    is_swapped = (says["second"] >= 0) & (says["object"] == shows["second"])
    return is_so & ~is_swapped, can_be


def _place(says: Columns, shows: Columns) -> tuple[Tensor, Tensor]:
    said, shown = says["place"], shows["place"]
    is_so = (said < 0) | (said == shown)
    return is_so, is_so | (shown < 0) | _overlaps(said.device)[said.clamp_min(0), shown.clamp_min(0)]


@functools.cache
def _overlaps(device: torch.device) -> Tensor:
    """[places, places], whether two have a side in common; kept, because a copy makes the device wait."""
    sides = [set(name.split()) for name in PLACES]
    return torch.tensor([[bool(a & b) for b in sides] for a in sides], device=device)


def _background(says: Columns, shows: Columns) -> tuple[Tensor, Tensor]:
    kind, first, second = (says[name] for name in ("background", "background_colour", "background_second"))
    one, two = shows["background_colour"], shows["background_second"]

    def agree(a: Tensor, b: Tensor) -> Tensor:
        return ((first < 0) | (first == a)) & ((second < 0) | (second == b))

    is_symmetric = torch.zeros_like(kind, dtype=torch.bool)
    for each in _SYMMETRIC:
        is_symmetric = is_symmetric | (kind == each)
    colours = agree(one, two) | (is_symmetric & agree(two, one))
    is_so = (kind < 0) | ((kind == shows["background"]) & colours)
    return is_so, is_so | ((kind == _SOLID) & ((first == one) | (first == two)))


def _shares(says: Columns, shows: Columns) -> Tensor:
    """Whether a picture shows an object that a text names."""
    found = torch.zeros_like(says["object"] + shows["object"], dtype=torch.bool)
    for thing in ("object", "second"):
        for other in ("object", "second"):
            found = found | ((says[thing] >= 0) & (says[thing] == shows[other]))
    return found


def _sided(logits: Tensor, is_right: Tensor, is_wrong: Tensor) -> Tensor:
    rivals = logits.masked_fill(~is_wrong, -1e9).logsumexp(1, keepdim=True)
    losses = functional.softplus(rivals - logits) * is_right
    return (losses.sum(1) / is_right.sum(1).clamp_min(1)).mean()


def _vectors(features: Any) -> Tensor:
    """What get_image_features and get_text_features give: a tensor, or an output that holds it."""
    return features if isinstance(features, Tensor) else features.pooler_output

"""The text encoders learn to name what a sentence says: captions, and instructions that no picture has yet.

Linear heads on T5's mean state and on CLIP's pooled state must give a scene's labels, or what an instruction
asks for. A minute of this saves the flow stage from learning language through pixels, and the tool models,
which take the text encoders as they are, find that they understand instructions. The heads are thrown away.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from backends.torch_cuda.training.clock import Stage
from backends.torch_cuda.training.data.edits import KINDS
from backends.torch_cuda.training.data.feed import LABELS
from backends.torch_cuda.training.flow import Conditioner, FlowNets
from backends.torch_cuda.training.network import adamw, set_rate
from backends.torch_cuda.training.scenes import Captions, SceneSource, captions_of

HEADS = {**LABELS, "edit": len(KINDS)}


class Sentences:
    """Many sentences with what they say, half captions and half instructions, and the heads that name it.

    Args:
        scenes: Source of captions.
        instructions: Source of instructions, columns of data.pairs.instructions.
        count: Of each kind.
        t5_dim: Of T5's states.
        clip_dim: Of CLIP's pooled state.
    """

    def __init__(
        self, scenes: SceneSource, instructions: SceneSource, count: int, t5_dim: int, clip_dim: int
    ) -> None:
        told, asked = scenes.arrays(count), instructions.arrays(count)
        no_edit = torch.full_like(told["label"][:, :1], -1)
        self._columns = [torch.cat(pair) for pair in zip(captions_of(told), captions_of(asked), strict=True)]
        labels = [(told["label"], no_edit), (asked["label"], asked["edit"].to(no_edit.dtype)[:, None])]
        self._columns.append(torch.cat([torch.cat(pair, dim=1) for pair in labels]))
        total, device = sum(HEADS.values()), scenes.device
        self._t5, self._clip = (
            nn.Linear(t5_dim, total, device=device),
            nn.Linear(clip_dim, total, device=device),
        )

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Of the heads."""
        pairs = (("t5", self._t5), ("clip", self._clip))
        return {f"heads/{name}.{key}": p for name, head in pairs for key, p in head.named_parameters()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Sets the heads."""
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])

    def draw(self, count: int) -> tuple[Tensor, ...]:
        """T5's and CLIP's tokens, CLIP's end, and labels [count, 11] of random sentences."""
        index = torch.randint(0, len(self._columns[0]), (count,), device=self._columns[0].device)
        return tuple(column[index] for column in self._columns)

    def loss(self, nets: FlowNets, tables: Conditioner, *drawn: Tensor) -> Tensor:
        """Mean cross entropy of both heads."""
        return sum(self._losses(nets, tables, *drawn)[:2], torch.zeros((), device=tables.device))

    def train(
        self,
        nets: FlowNets,
        tables: Conditioner,
        stage: Stage,
        amp: Any,
        is_fresh: bool,
        count: int = 1536,
        lr: float = 1e-3,
    ) -> None:
        """Trains the heads, and T5 and CLIP where they are fresh, in place for as long as the stage lasts.

        A transformer that already reads its text encoders would be lost if they changed without it.
        """
        parameters = dict(self.parameters)
        if is_fresh:
            parameters |= {
                name: p for name, p in nets.parameters.items() if not name.startswith("transformer/")
            }
        optimiser = adamw(parameters, lr, beta2=0.98)
        for step in stage.steps():
            set_rate(optimiser, lr * min(1.0, (step + 1) / 100) * max(0.05, 1.0 - stage.fraction))
            drawn = self.draw(count)
            with amp():
                t5, clip, seen = self._losses(nets, tables, *drawn)
            optimiser.zero_grad(set_to_none=True)
            (t5 + clip).backward()
            nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
            optimiser.step()
            labels = drawn[3][:, list(HEADS).index("object")].long()
            right = ((seen == labels) & (labels >= 0)).sum() / (labels >= 0).sum().clamp_min(1)
            stage.log(step, t5=t5, clip=clip, clip_object=right)

    def _losses(self, nets: FlowNets, tables: Conditioner, *drawn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of T5, of CLIP, and the objects that CLIP's head sees."""
        *text, labels = drawn
        txt, vec = tables.text(nets, Captions(*text))
        t5, clip = self._t5(txt.mean(1)).float(), self._clip(vec).float()
        wanted = dict(zip(HEADS, labels.unbind(1), strict=True))
        seen = clip[:, : HEADS["object"]].argmax(1)
        return label_loss(t5, HEADS, wanted), label_loss(clip, HEADS, wanted), seen


def label_loss(logits: Tensor, heads: dict[str, int], labels: dict[str, Tensor]) -> Tensor:
    """Mean cross entropy of logits [B, sum of classes]; a label of -1 does not count; shapes stay fixed."""
    total = logits.new_zeros(())
    for part, name in zip(logits.split(list(heads.values()), dim=1), heads, strict=True):
        known = labels[name] >= 0
        losses = functional.cross_entropy(part, labels[name].long().clamp_min(0), reduction="none")
        total = total + (losses * known).sum() / known.sum().clamp_min(1)
    return total / len(heads)

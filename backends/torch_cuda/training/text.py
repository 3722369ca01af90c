"""A head start for the text encoders: they first learn to name what a caption says.

Linear heads on T5's mean state and on CLIP's pooled state must give the scene's labels. A minute of
this saves the flow stage from learning language through pixels; the heads are thrown away.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from backends.torch_cuda.training.clock import Stage
from backends.torch_cuda.training.flow import Conditioner, FlowNets
from backends.torch_cuda.training.network import adamw, set_rate
from backends.torch_cuda.training.scenes import SceneSource, captions_of


def train(
    nets: FlowNets,
    tables: Conditioner,
    source: SceneSource,
    heads: dict[str, int],
    stage: Stage,
    amp: Any,
    batch_size: int = 1024,
    lr: float = 1e-3,
) -> None:
    """Trains T5 and CLIP in place for as long as the stage lasts."""
    total = sum(heads.values())
    t5_head = nn.Linear(tables.spec.t5.d_model, total).to(source.device)
    clip_head = nn.Linear(tables.spec.clip.hidden_size, total).to(source.device)
    parameters = {name: p for name, p in nets.parameters.items() if not name.startswith("transformer/")}
    for name, head in (("t5_head", t5_head), ("clip_head", clip_head)):
        parameters |= {f"{name}.{key}": p for key, p in head.named_parameters()}
    optimiser = adamw(parameters, lr, beta2=0.98)
    for step in stage.steps():
        set_rate(optimiser, lr * min(1.0, (step + 1) / 100) * max(0.05, 1.0 - stage.fraction))
        arrays = source.arrays(batch_size)
        labels = source.composer.labels(arrays)
        with amp():
            txt, vec = tables.text(nets, captions_of(arrays))
            logits = (t5_head(txt.mean(1)).float(), clip_head(vec).float())
        losses = [label_loss(part, heads, labels) for part in logits]
        loss = losses[0] + losses[1]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        optimiser.step()
        right = (logits[1][:, : heads["object"]].argmax(1) == labels["object"]).float().mean()
        stage.log(step, t5=losses[0], clip=losses[1], clip_object=right)


def label_loss(logits: Tensor, heads: dict[str, int], labels: dict[str, Tensor]) -> Tensor:
    """Mean cross entropy of logits [B, sum of classes]; a label of -1 does not count; shapes stay fixed."""
    total = logits.new_zeros(())
    for part, name in zip(logits.split(list(heads.values()), dim=1), heads, strict=True):
        known = labels[name] >= 0
        losses = functional.cross_entropy(part, labels[name].long().clamp_min(0), reduction="none")
        total = total + (losses * known).sum() / known.sum().clamp_min(1)
    return total / len(heads)

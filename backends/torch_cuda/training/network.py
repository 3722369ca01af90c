"""A shared model definition with weights that can be trained, saved and averaged.

Training uses the very classes that inference runs (flux_core.models), over leaves with fresh
parameters; their names are the checkpoint's names, so a trained network is a checkpoint already.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backends.torch_cuda.leaves import Parameter, TorchLeaves
from backends.torch_cuda.ops import TorchOps
from flux_core.ops import LeafFactory, Ops

M = TypeVar("M")


class Named:
    """What is trained, by the names of the file that it becomes."""

    parameters: dict[str, nn.Parameter]

    @property
    def size(self) -> int:
        """Number of values."""
        return sum(p.numel() for p in self.parameters.values())

    def state(self, prefix: str = "") -> dict[str, Tensor]:
        """Copies of all parameters by name."""
        return {prefix + name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], prefix: str = "") -> None:
        """Sets every parameter; a missing name is a KeyError."""
        for name, parameter in self.parameters.items():
            parameter.copy_(state[prefix + name])


class Network(Named, Generic[M]):
    """A model and its parameters by checkpoint name.

    Args:
        build: Makes the model from operations and leaves, for example a lambda around Transformer.
        device: Where the parameters live; they are float32.
    """

    def __init__(self, build: Callable[[Ops, LeafFactory], M], device: torch.device) -> None:
        self.leaves = leaves = TorchLeaves(device=device)
        self.model = build(TorchOps(), leaves)
        self.parameters = {
            name if isinstance(leaf, Parameter) else f"{name}.{key}": parameter
            for name, leaf in leaves.modules.items()
            for key, parameter in leaf.named_parameters()
        }

    @torch.no_grad()
    def fill(self, suffixes: Iterable[str], deviation: float) -> None:
        """Redraws the parameters whose name ends in one of `suffixes`; deviation 0 makes zeros."""
        for name, parameter in self.parameters.items():
            if name.endswith(tuple(suffixes)):
                parameter.normal_(0.0, deviation) if deviation else parameter.zero_()


class Average:
    """Exponential moving average of a list of parameters (Karras et al. 2024, section 3.1, plain form)."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.live = list(parameters)
        self.mean = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self, step: int, decay: float) -> None:
        """Moves the mean towards the live values; young averages forget faster."""
        rate = 1.0 - min(decay, 1.0 - 1.0 / (1.0 + step / 10.0))
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.live], rate)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges mean and live values; call again to undo."""
        for parameter, mean in zip(self.live, self.mean, strict=True):
            held = parameter.detach().clone()
            parameter.copy_(mean)
            mean.copy_(held)


def use_channels_last(parameters: Iterable[nn.Parameter]) -> None:
    """Lays convolution weights out as they are used, so that no step has to."""
    for parameter in parameters:
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def compile_calls(owners: list[Any], attribute: str) -> None:
    """Replaces the blocks in `owner.attribute` (a list) by compiled calls; one compilation serves all.

    One graph serves all blocks of a kind (seen in dynamo's counters), so compiling stays short. Shapes
    are few and fixed, so each gets kernels of its own.
    """
    for owner in owners:
        blocks = getattr(owner, attribute)
        compiled = torch.compile(type(blocks[0]).__call__, dynamic=False)
        setattr(owner, attribute, [functools.partial(compiled, block) for block in blocks])


def checkpoint_calls(owner: Any, attribute: str) -> None:
    """Has the blocks in `owner.attribute` (a list) computed again on the way back instead of remembered.

    Memory is then that of one block and of what passes between blocks, for a third more time. Weights that
    are decoded when they are used (leaves with packed weights) are not all kept decoded, either.

    Source: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost.
    """

    def call(block: Any, *inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return block(*inputs)
        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)

    setattr(owner, attribute, [functools.partial(call, block) for block in getattr(owner, attribute)])


def adamw(
    parameters: dict[str, nn.Parameter], lr: float, beta2: float, decay: float = 0.01
) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only (never on embeddings, norms and biases).

    On CUDA its state and rate live on the device, so that a step may be captured in a graph; set the
    rate with `set_rate`.
    """
    matrices = {
        name: p
        for name, p in parameters.items()
        if p.ndim >= 2 and "embed" not in name and "shared" not in name
    }
    others = [p for name, p in parameters.items() if name not in matrices]
    groups = [
        {"params": list(matrices.values()), "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]
    is_cuda = next(iter(parameters.values())).is_cuda
    rate = torch.tensor(lr, device="cuda") if is_cuda else lr
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, beta2), fused=is_cuda, capturable=is_cuda)


def set_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every group, in place where it is a tensor."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr

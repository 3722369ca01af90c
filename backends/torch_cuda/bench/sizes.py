"""What is measured: FLUX.1 dev's own sizes, or ones so small that every piece runs on a processor in seconds.

Both are one row of a catalog that holds only itself; its weights are drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flux_core import catalog
from flux_core.catalog import DEV, TINY, ModelSpec
from flux_core.request import Task


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a run.

    Attributes:
        spec: The model.
        side_px: Of the square picture.
        other_px: Width and height of a second size, for which nothing was made ready.
        few_t5_tokens: Of a prompt for few steps; None where the model takes one length only.
        num_steps, few_steps: Of the long and the short walk.
        lora_ranks: Of the LoRAs that are hung on, one after the other.
        repeats: Of everything that is timed.
        family_px, num_prompts: Side and number of the pictures that the bundled family paints.
        family_steps: Of those; None takes each member's own.
    """

    spec: ModelSpec
    side_px: int
    other_px: tuple[int, int]
    few_t5_tokens: int | None
    num_steps: int
    few_steps: int
    lora_ranks: tuple[int, ...]
    repeats: int
    family_px: int
    num_prompts: int
    family_steps: int | None

    @property
    def img_tokens(self) -> int:
        return (self.side_px // 16) ** 2

    @property
    def txt_tokens(self) -> int:
        return self.spec.t5_tokens

    @property
    def latent_side(self) -> int:
        return self.side_px // 8


_TASKS = (Task.GENERATE, Task.EDIT)
_ROW = {
    "model": "bench",
    "title": "Random weights",
    "repository": "",
    "downloads": (),
    "needs": (),
    "tasks": _TASKS,
    "redux": "",
    "fast_decoder": "",
    "control_loras": (),
}

FULL = Sizes(
    spec=replace(DEV, **_ROW),
    side_px=1024,
    other_px=(1152, 896),
    few_t5_tokens=256,
    num_steps=28,
    few_steps=4,
    lora_ranks=(16, 64),
    repeats=10,
    family_px=256,
    num_prompts=8,
    family_steps=None,
)
SMALL = Sizes(
    spec=replace(
        TINY,
        **_ROW,
        transformer=replace(TINY.transformer, depth=1, depth_single=2),
        t5=replace(TINY.t5, num_layers=1),
        clip=replace(TINY.clip, num_layers=1),
    ),
    side_px=64,
    other_px=(96, 64),
    few_t5_tokens=None,
    num_steps=12,
    few_steps=3,
    lora_ranks=(2, 20),
    repeats=1,
    family_px=64,
    num_prompts=2,
    family_steps=2,
)


def put_into_catalog(sizes: Sizes) -> None:
    """Makes the row known in this process, which does nothing but measure."""
    catalog.MODELS[sizes.spec.model] = sizes.spec

"""How long each member trains, in one place; a run with too little time shortens all that are left alike."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from backends.torch_cuda.training.members.clip import ClipTraining
from backends.torch_cuda.training.members.estimator import EstimatorTraining
from backends.torch_cuda.training.members.few_steps import FewSteps
from backends.torch_cuda.training.members.pictures import FastDecoding, ReduxTraining
from backends.torch_cuda.training.members.tools import ToolTraining
from backends.torch_cuda.training.plan import Plan, as_tuples

_CONTROL = ToolTraining(rank=16, pool_large=8_192)
_EDITS = ToolTraining(batch_small=256, batch_large=128)


@dataclass(frozen=True, slots=True)
class MemberPlan:
    """Seconds and numbers of each stage."""

    judge_s: float = 40.0
    fast_s: float = 50.0
    fill_s: float = 300.0
    kontext_s: float = 360.0
    schnell_s: float = 240.0
    canny_s: float = 120.0
    depth_s: float = 100.0
    redux_s: float = 100.0
    clip_s: float = 110.0
    estimator_s: float = 90.0
    evaluate_s: float = 130.0  # kept before the deadline for export and evaluate
    start_s: float = 25.0  # of every stage, until its first step: nets, pools, compiled shapes
    held_out: int = 128  # examples of each way of filling and each kind of edit together
    save_every_s: float = 45.0
    is_graphed: bool = True
    fill: ToolTraining = ToolTraining(caption_dropout=0.0)  # no words mean that nothing shall be there
    kontext: ToolTraining = _EDITS
    canny: ToolTraining = _CONTROL
    depth: ToolTraining = _CONTROL
    schnell: FewSteps = field(default_factory=FewSteps)
    redux: ReduxTraining = field(default_factory=ReduxTraining)
    fast: FastDecoding = field(default_factory=FastDecoding)
    clip: ClipTraining = field(default_factory=ClipTraining)
    estimator: EstimatorTraining = field(default_factory=EstimatorTraining)
    base: Plan = field(default_factory=lambda: Plan(held_out=128))  # batches of the judge, the held-out list

    @staticmethod
    def read(path: Path | None) -> MemberPlan:
        """The default plan with the fields of a JSON file put in place."""
        if path is None:
            return MemberPlan()
        values = json.loads(path.read_text())
        kinds = {
            **dict.fromkeys(("fill", "kontext", "canny", "depth"), ToolTraining),
            "schnell": FewSteps,
            "redux": ReduxTraining,
            "fast": FastDecoding,
            "clip": ClipTraining,
            "estimator": EstimatorTraining,
            "base": Plan,
        }
        for name, kind in kinds.items():
            if name in values:
                values[name] = kind(**{key: as_tuples(value) for key, value in values[name].items()})
        return MemberPlan(**values)

    def seconds(self, stage: str) -> float:
        """Of a stage by its name; 0 for those that take what they need."""
        return getattr(self, f"{stage}_s", 0.0) if stage != "evaluate" else 0.0

    def share(self, stage: str, left: tuple[str, ...], left_s: float) -> float:
        """Seconds for a stage when `left` (it included) must all fit into `left_s`."""
        wanted = sum(self.seconds(name) for name in left)
        starts = self.start_s * sum(self.seconds(name) > 0 for name in left)
        factor = min(1.0, max(0.0, left_s - self.evaluate_s - starts) / max(wanted, 1e-9))
        return self.seconds(stage) * factor

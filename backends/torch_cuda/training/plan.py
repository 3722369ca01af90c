"""How long each stage of the training lasts and how large its batches are, in one place."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.torch_cuda.training import autoencoder, distil, flow, mend


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds of each stage and sizes of batches; a JSON file may replace any field."""

    judge_s: float = 40.0
    autoencoder_s: float = 280.0
    text_s: float = 30.0
    mend_s: float = 60.0
    flow_s: float = 1150.0  # or what the deadline leaves
    sentences: int = 32_768  # of captions and of instructions each, for what text encoders must name
    distil_s: float = 110.0
    after_flow_s: float = 200.0  # kept before the deadline for distil, its start, and all that follows
    after_distil_s: float = 60.0  # for export and evaluate
    start_s: float = 12.0  # until a stage's first step, once its shapes are compiled
    small_until: float = 0.2  # fraction of the flow stage that sees 128 px only
    rare_from: float = 0.4  # fraction from which it sees `pools.RARE` too
    rare_every: int = 8  # steps; 4 or a multiple of it
    batch_small: int = 512
    batch_large: int = 256
    pool_small: int = 40_960
    pool_large: int = 32_768
    pool_wide: int = 8_192
    pool_rare: int = 2_048
    pool_chunk: int = 512
    renew_every: int = 128  # steps
    is_graphed: bool = True  # steps captured as CUDA graphs
    held_out: int = 256  # scenes of the fixed evaluation list
    autoencoder: autoencoder.AutoencoderTraining = field(default_factory=autoencoder.AutoencoderTraining)
    flow: flow.FlowTraining = field(default_factory=flow.FlowTraining)
    distil: distil.Distillation = field(default_factory=distil.Distillation)
    mend: mend.Mending = field(default_factory=mend.Mending)

    @staticmethod
    def read(path: Path | None) -> Plan:
        """The default plan with the fields of a JSON file put in place."""
        if path is None:
            return Plan()
        values = json.loads(path.read_text())
        kinds = {
            "autoencoder": autoencoder.AutoencoderTraining,
            "flow": flow.FlowTraining,
            "distil": distil.Distillation,
            "mend": mend.Mending,
        }
        for name, kind in kinds.items():
            if name in values:
                lists = {key: as_tuples(value) for key, value in values[name].items()}
                values[name] = kind(**lists)
        return Plan(**values)


def as_tuples(value: Any) -> Any:
    """Lists of JSON as the tuples that plans hold."""
    return tuple(as_tuples(part) for part in value) if isinstance(value, list) else value

"""Where a training writes, and what is known there of one that has begun."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from flux_core.errors import Corrupt, RequestInvalid
from flux_core.lora_training import LoraTraining, parse_training
from flux_core.storage import write_atomically


@dataclass(frozen=True, slots=True)
class Places:
    """The files of one training.

    Attributes:
        output: The LoRA; paintings go into the folder of this name without its ending.
        work: The folder of its state.
    """

    output: Path
    work: Path

    @property
    def state(self) -> Path:
        """What the next step depends on."""
        return self.work / "state.safetensors"

    @property
    def request(self) -> Path:
        """What the training is."""
        return self.work / "training.json"

    def sample(self, step: int, number: int) -> Path:
        """A painting, numbered from 1."""
        return self.output.with_suffix("") / f"step-{step:06d}-{number}.png"

    def make(self) -> None:
        """Makes the folders.

        Raises:
            RequestInvalid: They cannot be made.
        """
        try:
            for folder in (self.output.parent, self.work):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            reason = (err.strerror or str(err)).lower()
            raise RequestInvalid(
                f"{err.filename} cannot be made: {reason}.", "Choose another home folder."
            ) from err

    def begin(self, training: LoraTraining, stamp: str) -> None:
        """Writes down what the training is, with the stamp of its pictures."""
        facts = {"training": training.model_dump(mode="json"), "pictures": stamp}
        write_atomically(self.request, json.dumps(facts, indent=1, ensure_ascii=False).encode())

    def check_free(self, name: str) -> None:
        """Refuses a name that is taken.

        Raises:
            RequestInvalid: There is a LoRA, or a training that has begun to learn.
        """
        if self.state.exists():
            raise RequestInvalid(
                f"There is a training called {name!r} already.",
                f"Go on with it by --resume, choose another name with --output, or delete {self.work}.",
            )
        if self.output.exists():
            raise RequestInvalid(
                f"There is a LoRA called {name!r} already: {self.output}.",
                "Choose another name with --output.",
            )

    def begun(self, name: str) -> tuple[LoraTraining, str]:
        """What `begin` wrote.

        Raises:
            RequestInvalid: There is no training of this name that has saved anything.
            Corrupt: What was written is damaged.
        """
        if not self.state.exists():
            raise RequestInvalid(
                f"There is no training called {name!r} that could go on.", "Leave --resume out to begin one."
            )
        try:
            facts = json.loads(self.request.read_bytes())
            training, stamp = json.dumps(facts["training"]), str(facts["pictures"])
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise Corrupt(f"{self.request} is damaged.", "Train under another name.") from err
        return parse_training(training, str(self.request)), stamp

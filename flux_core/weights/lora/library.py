"""The LoRAs of this machine: files in the folder `loras` beside the models, named by their file names.

A name from a request never has a separator, so it cannot lead out of that folder. What a request wants is
opened and matched here before anything is loaded, so a wrong one costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flux_core.catalog import ModelSpec
from flux_core.errors import ModelMissing, RequestInvalid
from flux_core.plan import Component
from flux_core.request import LoraUse
from flux_core.weights.lora.read import Lora, read_lora
from flux_core.weights.open import open_source

FOLDER = "loras"
_SUFFIX = ".safetensors"
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ChosenLora:
    """A LoRA that a job uses.

    Attributes:
        key: Equal only for the same file with the same content.
        name: As the request names it.
        strength: Not 0.
        lora: The opened file.
        size_bytes: Of the file.
    """

    key: str
    name: str
    strength: float
    lora: Lora
    size_bytes: int

    @property
    def warning(self) -> str | None:
        """What the person should know about how much of it is used."""
        return self.lora.report.warning(self.name)

    def touches(self, *components: Component) -> bool:
        return not self.lora.components.isdisjoint(components)


def choose_loras(
    uses: Iterable[LoraUse], spec: ModelSpec, models_dirs: tuple[Path, ...]
) -> tuple[ChosenLora, ...]:
    """Finds, opens and matches what a request wants; a strength of 0 is the same as not wanting it.

    Raises:
        ModelMissing: There is no such file.
        Corrupt: It is damaged.
        RequestInvalid: It was made for another model, needs a control picture, or is wanted twice.
    """
    chosen: dict[str, ChosenLora] = {}
    for use in uses:
        if use.strength:
            lora = _choose(use, spec, models_dirs)
            if lora.key in chosen:
                raise RequestInvalid(
                    f"{chosen[lora.key].name} and {lora.name} are the same LoRA.",
                    "Name it once, with the sum of the strengths.",
                )
            chosen[lora.key] = lora
    return tuple(chosen.values())


def find_lora(name: str, models_dirs: tuple[Path, ...]) -> Path:
    """The file of a name, with or without its ".safetensors"; the first folder that has it wins.

    Raises:
        ModelMissing: Names the folder and some of what is in it.
    """
    folders = [base / FOLDER for base in models_dirs]
    for folder in folders:
        for path in (folder / name, folder / f"{name}{_SUFFIX}"):
            if path.is_file():
                return path
    here = [path.name for folder in folders if folder.is_dir() for path in sorted(folder.glob(f"*{_SUFFIX}"))]
    listed = ", ".join(here[:_SHOWN]) + (f" and {len(here) - _SHOWN} more" if len(here) > _SHOWN else "")
    raise ModelMissing(
        f"There is no LoRA called {name!r} in {folders[0]}.",
        f"Choose one of: {listed}." if here else "Put its file there.",
    )


def _choose(use: LoraUse, spec: ModelSpec, models_dirs: tuple[Path, ...]) -> ChosenLora:
    path = find_lora(use.name, models_dirs)
    lora = read_lora(open_source(path), spec, use.name)
    if lora.channels > spec.transformer.in_channels:
        raise RequestInvalid(
            f"{use.name} is a control LoRA: it needs a control picture, which this task does not have.",
            "Leave it out here.",
        )
    status = path.stat()
    key = f"{path}|{status.st_mtime_ns}|{status.st_size}"
    return ChosenLora(key, use.name, use.strength, lora, status.st_size)

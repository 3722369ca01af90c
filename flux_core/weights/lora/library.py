"""The LoRAs of this machine: files in the folder `loras` beside the models, named by their file names.

A name from a request never has a separator, so it cannot lead out of that folder. What a request wants is
opened and matched here before anything is loaded, so a wrong one costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flux_core import catalog
from flux_core.catalog import PARTS, Kind, ModelSpec, part_folder
from flux_core.companions import LORAS, check_kind, find_file
from flux_core.errors import ModelMissing, RequestInvalid
from flux_core.plan import Component
from flux_core.request import ControlUse, LoraUse
from flux_core.weights.lora.read import Lora, read_lora
from flux_core.weights.open import open_source


@dataclass(frozen=True, slots=True)
class ChosenLora:
    """A LoRA that a job uses.

    Attributes:
        key: Equal only for the same file with the same content.
        path: Of the file.
        name: As the request names it.
        strength: Not 0.
        lora: The opened file.
        size_bytes: Of the file.
    """

    key: str
    path: Path
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


def choose_own_lora(spec: ModelSpec, models_dirs: tuple[Path, ...]) -> tuple[ChosenLora, ...]:
    """What makes a model of the transformer that it shares; empty where it has its own.

    Raises:
        ModelMissing: It is not on this machine.
        Corrupt: It is damaged.
        RequestInvalid: It does not fit the transformer, or reads other channels than the row says.
    """
    if not spec.lora:
        return ()
    path = catalog.folder_of(spec, models_dirs) / spec.lora
    chosen = open_lora(path, f"{spec.title}'s {spec.lora}", 1.0, spec)
    wanted = spec.lora_channels or spec.transformer.in_channels
    if chosen.lora.channels not in (0, wanted):
        raise RequestInvalid(
            f"{chosen.name} reads {chosen.lora.channels} channels instead of {wanted}.",
            "Get the model's files again.",
        )
    return (chosen,)


def choose_control_lora(use: ControlUse, spec: ModelSpec, models_dirs: tuple[Path, ...]) -> ChosenLora:
    """The control LoRA that a control names, with its authors' strength if the control says none.

    Raises:
        ModelMissing: There is no such file.
        Corrupt: It is damaged.
        RequestInvalid: It is for another model or another kind of map, or is no control LoRA.
    """
    check_kind(use)
    row = PARTS.get(use.model)
    usual = row.strength if row is not None else 1.0
    chosen = _opened(use.model, usual if use.strength is None else use.strength, spec, models_dirs)
    if chosen.lora.channels <= spec.transformer.out_channels:
        raise RequestInvalid(
            f"{use.model} is a LoRA that follows no map.", "Name it with the LoRAs, or choose a control LoRA."
        )
    return chosen


def find_lora(name: str, models_dirs: tuple[Path, ...]) -> Path:
    """The file of a LoRA: of a row of the catalog, or by its name, ".safetensors" may be left out.

    Raises:
        ModelMissing: Names the folder and some of what is in it, or how to get it.
    """
    row = PARTS.get(name)
    if row is not None and row.kind is Kind.LORA:
        folder = part_folder(row, models_dirs)
        if folder is None:
            raise ModelMissing(f"{row.title} is not on this machine.", row.how_to_get)
        return folder / row.weights
    return find_file(name, LORAS, models_dirs, "LoRA")


def _choose(use: LoraUse, spec: ModelSpec, models_dirs: tuple[Path, ...]) -> ChosenLora:
    chosen = _opened(use.name, use.strength, spec, models_dirs)
    if chosen.lora.channels > spec.transformer.in_channels:
        raise RequestInvalid(
            f"{use.name} is a control LoRA: it needs a control picture, which this task does not have.",
            "Give it a map with --control, or leave it out.",
        )
    return chosen


def _opened(name: str, strength: float, spec: ModelSpec, models_dirs: tuple[Path, ...]) -> ChosenLora:
    return open_lora(find_lora(name, models_dirs), name, strength, spec)


def open_lora(path: Path, name: str, strength: float, spec: ModelSpec) -> ChosenLora:
    """A file as a LoRA of a model.

    Raises:
        Corrupt: It is damaged.
        RequestInvalid: It was made for another model.
    """
    lora = read_lora(open_source(path), spec, name)
    status = path.stat()
    key = f"{path}|{status.st_mtime_ns}|{status.st_size}"
    return ChosenLora(key, path, name, strength, lora, status.st_size)

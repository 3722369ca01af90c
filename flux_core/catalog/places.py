"""Where a row's files are on this machine.

Every row has the folder models/<id>. A model's parts are looked for in its own folder first, then in the
folders of the rows it needs, so five models share one T5 and one autoencoder. A part is a single file of
the published name, the same in GGUF, or a folder in diffusers' or MLX's layout.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path

from flux_core.catalog.helpers import folder_of_helper
from flux_core.catalog.lookup import MODELS
from flux_core.catalog.spec import Kind, ModelFiles, ModelSpec, PartSpec, Row
from flux_core.errors import ModelMissing
from flux_core.messages import ModelInfo
from flux_core.weights.numbered import NumberedSet, numbered_sets

_FOLDERS = {
    "transformer": "transformer",
    "autoencoder": "vae",
    "t5": "text_encoder_2",
    "clip": "text_encoder",
}
"""Part -> the folder that diffusers and MLX keep it in."""

SHARED_ROWS = {
    "autoencoder": "ae",
    "t5": "t5-xxl",
    "clip": "clip-l",
    "t5_tokenizer": "t5-xxl",
    "clip_tokenizer": "clip-l",
}
"""Part -> the row whose folder models share it from."""

PART_NAMES = tuple(field.name for field in fields(ModelFiles))


def row_folder(row: Row, models_dir: Path) -> Path:
    """Where a row's files belong in a folder of models."""
    return models_dir / row.model


def folder_of(spec: ModelSpec, models_dirs: tuple[Path, ...]) -> Path:
    """The model's own folder, where everything it needs is found there or in the shared folders.

    Raises:
        ModelMissing: Names the parts that are missing where most of the model is, and what to do.
    """
    return locate(spec, models_dirs)[1]


def locate(
    spec: ModelSpec, models_dirs: tuple[Path, ...], optional: frozenset[str] = frozenset()
) -> tuple[ModelSpec, Path]:
    """The model with the files it has on this machine, and its own folder.

    Args:
        spec: A row of the catalog.
        models_dirs: Folders of models, first match wins.
        optional: Names of parts (fields of ModelFiles) that may be missing.

    Returns:
        The row whose `files` say where each part lies: relative to the folder where it lies inside,
        absolute where it is shared, "" where it is optional and missing.

    Raises:
        ModelMissing: Names the parts that are missing where most of the model is, and what to do.
    """
    found = {base: _parts_in(spec, base, models_dirs) for base in models_dirs}
    for base, parts in found.items():
        if parts.keys() | optional == set(PART_NAMES):
            files = ModelFiles(**{part: parts.get(part, "") for part in PART_NAMES})
            return replace(spec, files=files), row_folder(spec, base)
    nearest = max(found, key=lambda base: len(found[base]))
    lacking = [part for part in PART_NAMES if part not in found[nearest]]
    missing = [name for part in lacking for name in _missing_files(spec, part, nearest, models_dirs)]
    get = f"Run `flowbrush models get {spec.model}`, or import" if spec.downloads else "Put"
    raise ModelMissing(
        f"{spec.title} is not on this machine: {row_folder(spec, nearest)} has no {', '.join(missing)}.",
        f"{get} the files there; `flowbrush models list` shows which models are here.",
    )


def missing_parts(spec: ModelSpec, models_dirs: tuple[Path, ...]) -> set[str]:
    """Names of the parts (fields of ModelFiles) that are found nowhere."""
    best = max((_parts_in(spec, base, models_dirs) for base in models_dirs), key=len)
    return set(PART_NAMES) - set(best)


def part_path(folder: Path, part: str, name: str) -> str | None:
    """How a part lies in a folder, relative to it; None if it does not.

    Args:
        folder: Of a model, or of a row that models share.
        part: A field of ModelFiles.
        name: The published name of the single file, or the tokenizer's folder.
    """
    if (folder / name).exists():
        return name
    in_gguf = str(Path(name).with_suffix(".gguf"))
    if name.endswith(".safetensors") and (folder / in_gguf).is_file():
        return in_gguf
    inside = _FOLDERS.get(part)
    return _weights_folder(folder, inside) if inside is not None else None


def part_folder(row: PartSpec, models_dirs: tuple[Path, ...]) -> Path | None:
    """Where a part that models share or take is, in whatever layout, or a helper; None if it is nowhere."""
    if row.kind is Kind.VISION:
        return folder_of_helper(row.model, models_dirs)
    first = row.downloads[0].name
    part = next((name for name in PART_NAMES if getattr(ModelFiles(), name) == first), "")
    for base in models_dirs:
        folder = row_folder(row, base)
        if part_path(folder, part, first) is not None:
            return folder
    return None


def model_infos(models_dirs: tuple[Path, ...]) -> tuple[ModelInfo, ...]:
    """Every model that paints, with whether it is installed and the size of its own folder in bytes."""
    return tuple(_info(spec, models_dirs) for spec in MODELS.values())


def bytes_in(folder: Path) -> int:
    """Size of all files in a folder; one that has several names counts once."""
    sizes: dict[tuple[int, int], int] = {}
    for file in folder.rglob("*"):
        if file.is_file():
            status = file.stat()
            sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def _info(spec: ModelSpec, models_dirs: tuple[Path, ...]) -> ModelInfo:
    try:
        folder = folder_of(spec, models_dirs)
    except ModelMissing:
        folder = None
    return ModelInfo(
        model=spec.model,
        title=spec.title,
        licence=spec.licence,
        tasks=tuple(task.value for task in spec.tasks),
        is_installed=folder is not None,
        bytes_on_disk=bytes_in(folder) if folder else 0,
    )


def _parts_in(spec: ModelSpec, base: Path, models_dirs: Iterable[Path]) -> dict[str, str]:
    """Part -> where it lies, for a model whose own folder is in `base`."""
    own, shared = row_folder(spec, base), _shared_folders(spec, base, models_dirs)
    found: dict[str, str] = {}
    for part in PART_NAMES:
        name = getattr(spec.files, part)
        if part == "transformer" and spec.lora and not (own / spec.lora).is_file():
            continue  # without what makes it of another's transformer, that one is of no use
        place = part_path(own, part, name)
        if place is None and (part != "transformer" or spec.lora):
            places = ((folder, part_path(folder, part, name)) for folder in shared)
            place = next((str(folder.absolute() / at) for folder, at in places if at is not None), None)
        if place is not None:
            found[part] = place
    return found


def _shared_folders(spec: ModelSpec, base: Path, models_dirs: Iterable[Path]) -> list[Path]:
    """Where parts are looked for when the model's own folder in `base` has them not."""
    others = [row_folder(spec, each) for each in models_dirs if each != base]
    return others + [each / row for row in spec.needs for each in models_dirs]


def _missing_files(spec: ModelSpec, part: str, base: Path, models_dirs: Iterable[Path]) -> list[str]:
    """What has to be got for a part: the shards that its set lacks, or the single file."""
    folders = [row_folder(spec, base)]
    if part == "transformer" and spec.lora and not (folders[0] / spec.lora).is_file():
        return [spec.lora]
    if part != "transformer" or spec.lora:
        folders += _shared_folders(spec, base, models_dirs)
    for folder in folders:
        inside = folder / _FOLDERS.get(part, "")
        sets = [each for each in _sets_in(inside) if each.missing] if part in _FOLDERS else []
        if len(sets) == 1:
            where = inside if folder != folders[0] else Path(_FOLDERS[part])
            return [str(where / name) for name in sets[0].missing]
    return [getattr(spec.files, part)]


def _sets_in(folder: Path) -> list[NumberedSet]:
    return numbered_sets(file.name for file in folder.glob("*.safetensors"))


def _weights_folder(folder: Path, inside: str) -> str | None:
    """The only weights file in a folder, or the folder if its files belong together.

    An index says how they do, or their numbers, if all of them are there.
    """
    where = folder / inside
    if not where.is_dir():
        return None
    if any(where.glob("*.safetensors.index.json")):
        return inside
    files = sorted(file.name for file in where.glob("*.safetensors"))
    sets = numbered_sets(files)
    if len(sets) == 1 and len(sets[0].present) == len(files) and not sets[0].missing:
        return inside
    return f"{inside}/{files[0]}" if len(files) == 1 and not sets else None

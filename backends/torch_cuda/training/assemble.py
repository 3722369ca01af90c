"""Puts what training exported in its place: one file a part, in the true layout, coded where that is read.

`run --stages export` writes shards small enough for transports that limit a file's size; this joins them,
codes in eight bits what loses least by it, and writes the table for previews. Coded are the matrices of
transformer, text encoders and members, the tables of words, and the kernels of the fast decoder and of the
autoencoder's encoder; its decoder, norms, biases and the matrices at the transformer's ends stay in bfloat16.
A model that was trained on the autoencoder it has keeps it, unless a mended one is there, too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from flux_core import catalog
from flux_core.catalog import (
    MODELS,
    PARTS,
    TINY,
    Kind,
    ModelSpec,
    PartSpec,
    ReduxConfig,
    SiglipConfig,
    Taef1Config,
)
from flux_core.models.redux import redux_config
from flux_core.models.siglip import siglip_config
from flux_core.models.taef1 import taef1_config
from flux_core.weights import synonyms
from flux_core.weights.open import open_container, open_source
from flux_core.weights.quant.forms import FORMS
from flux_core.weights.quant.schemes import SCHEMES
from flux_core.weights.quantize import is_quantised_by, quantize
from flux_core.weights.tensors import TensorInfo

MODELS_DIR = Path("resources/models")
LIMIT_BYTES = 45_000_000
PLACES = {
    "transformer": TINY.files.transformer,
    "ae": TINY.files.autoencoder,
    "text_encoder": TINY.files.clip,
    "text_encoder_2": TINY.files.t5,
}
FORM = "fp8"
"""Of what is coded; a transformer in mlx8 is 0.66 MB larger and closer by some 8 dB."""

HELPERS = {"clip": "tiny-clip", "depth-estimator": "tiny-depth"}
"""Folders of the members' export that go as they are, for the library that loads them -> their rows."""


def assemble(exported: Path, folder: Path, is_coded: bool = True) -> dict[str, Any]:
    """Joins the shards of `exported` into the base's folder.

    Args:
        exported: What the export stage of `training.run` wrote.
        folder: Of the base: models/tiny.
        is_coded: Whether matrices are coded in fewer bits.

    Returns:
        What the catalog's row must carry: the latent shift and scale, and whether guidance is distilled.
    """
    facts = json.loads((exported / "model.json").read_text())
    for name, place in PLACES.items():
        tensors: dict[str, Tensor] = {}
        for shard in sorted(exported.glob(f"{name}.[0-9]*.safetensors")):
            tensors |= load_file(shard)
        if not tensors and name == "ae" and facts["is_adopted"]:
            if is_plain(folder / place):
                tensors = load_file(folder / place)
            else:
                continue
        if not tensors:
            raise SystemExit(f"There are no {name}.N.safetensors in {exported}. Run the export stage first.")
        write(tensors, folder / place, _ALSO.get(name, _never), is_coded)
    if not facts["is_adopted"]:
        (folder / "latent_rgb.json").write_text(json.dumps(facts["latent_to_rgb"]))
    return {key: facts[key] for key in ("shift", "scale", "is_guidance_distilled")}


def assemble_members(exported: Path, models_dir: Path, is_coded: bool = True) -> list[str]:
    """Puts the members that are in `exported` into the folders of their rows.

    Args:
        exported: The folder `export` of `training.members.run`.
        models_dir: The folder of models.
        is_coded: As in `assemble`.

    Returns:
        Ids of the rows of which nothing is in `exported`.
    """
    missing: list[str] = []
    for row, name in member_files():
        if not (exported / name).is_file():
            missing.append(row.model)
            continue
        tensors = load_file(exported / name)
        if row.kind is Kind.PREVIEW_AUTOENCODER:  # nothing looks through its encoder
            tensors = {key: value for key, value in tensors.items() if key.startswith("decoder.")}
        also = _is_kernel if row.kind is Kind.PREVIEW_AUTOENCODER else _never
        write(tensors, models_dir / row.model / name, also, is_coded)
    for name, row in HELPERS.items():
        if (exported / name).is_dir():
            shutil.copytree(exported / name, models_dir / row, dirs_exist_ok=True)
            for file in (models_dir / row).iterdir():
                file.chmod(0o644)
        else:
            missing.append(row)
    return missing


def member_files() -> Iterator[tuple[ModelSpec | PartSpec, str]]:
    """Every row of the bundled family but the base, with the file that is its own."""
    for spec in MODELS.values():
        if spec.is_bundled and spec.lora:
            yield spec, spec.lora
    for part in PARTS.values():
        if part.is_bundled and part.works_with[:1] == (TINY.model,):
            yield part, part.weights


def is_plain(path: Path) -> bool:
    """Whether nothing in a file is coded."""
    return not any(info.dtype in SCHEMES for info in open_container(path).names().values())


def _never(name: str, info: TensorInfo) -> bool:
    return False


def _is_kernel(name: str, info: TensorInfo) -> bool:
    return len(info.shape) == 4


_ALSO: dict[str, Callable[[str, TensorInfo], bool]] = {
    "ae": lambda name, info: name.startswith("encoder.") and _is_kernel(name, info),
    "text_encoder": lambda name, info: name.endswith("token_embedding.weight"),
    "text_encoder_2": lambda name, info: name.endswith(("shared.weight", "embed_tokens.weight")),
}
"""What is coded besides matrices: 40 dB from what it was, where a decoder's kernels would cost a decibel."""


def write(
    tensors: dict[str, Tensor],
    target: Path,
    also: Callable[[str, TensorInfo], bool] = _never,
    is_coded: bool = True,
) -> None:
    """Writes one file: its matrices and what `also` says coded, if it has such; the rest as it is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    form = FORMS[FORM]

    def which(name: str, info: TensorInfo) -> bool:
        return is_quantised_by(form.scheme, name, info) or also(name, info)

    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        whole = Path(folder) / target.name
        save_file(tensors, whole, metadata={"format": "pt"})
        source = open_source(whole)
        if is_coded and any(which(name, info) for name, info in source.names().items()):
            quantize(source, form, target, which=which)
            return
        whole.chmod(0o644)  # the library writes for its owner only
        whole.replace(target)


def advice(numbers: dict[str, Any], models_dir: Path) -> list[str]:
    """What the catalog says otherwise than the files, a sentence each."""
    row = {
        "shift": TINY.autoencoder.shift,
        "scale": TINY.autoencoder.scale,
        "is_guidance_distilled": TINY.is_guidance_distilled,
    }
    out = [f"tiny: {key} must be {numbers[key]}." for key in numbers if numbers[key] != row[key]]
    for part, name in member_files():
        path = models_dir / part.model / name
        if isinstance(part, PartSpec) and part.config is not None and path.is_file():
            found = _config(part, path)
            if found != part.config:
                out.append(f"{part.model}: its config must be {found}.")
    return out


def _config(part: PartSpec, path: Path) -> Any:
    source = open_source(path)
    match part.config:
        case SiglipConfig() as like:
            return siglip_config(synonyms.canonical(source, synonyms.siglip_states_name).names(), like)
        case ReduxConfig():
            return redux_config(synonyms.canonical(source, synonyms.redux_name).names())
        case Taef1Config():
            return taef1_config(synonyms.canonical(source, synonyms.taef1_decoder_name).names())
        case _:
            raise ValueError(f"{part.model} has a config that is not told by its file")


def sizes(models_dir: Path) -> dict[str, int]:
    """Bytes of every file of the family by its place in the folder of models, cards left out."""
    rows = [row for row in catalog.rows() if row.is_bundled]
    files = (path for row in rows for path in sorted((models_dir / row.model).rglob("*")) if path.is_file())
    return {str(path.relative_to(models_dir)): path.stat().st_size for path in files if path.suffix != ".md"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exported", type=Path, help="the base's export folder; left as it is without")
    parser.add_argument("--members", type=Path, help="the members' export folder; left as they are without")
    parser.add_argument("--into", type=Path, default=MODELS_DIR, help="the folder of models")
    parser.add_argument("--plain", action="store_true", help="all in bfloat16, to compare with")
    arguments = parser.parse_args()
    say = sys.stdout.write
    numbers: dict[str, Any] = {}
    if arguments.exported is not None:
        numbers = assemble(arguments.exported, arguments.into / TINY.model, not arguments.plain)
    if arguments.members is not None:
        for model in assemble_members(arguments.members, arguments.into, not arguments.plain):
            say(f"{model}: nothing of it is in {arguments.members}.\n")
    found = sizes(arguments.into)
    for name, size in found.items():
        say(f"{size / 1e6:8.3f} MB  {name}\n")
    total = sum(found.values())
    say(f"{total / 1e6:8.3f} MB  in all, of {LIMIT_BYTES / 1e6:.0f}\n")
    for sentence in advice(numbers, arguments.into) or ["The catalog says what the files say."]:
        say(f"{sentence}\n")
    if total > LIMIT_BYTES and not arguments.plain:
        raise SystemExit("The family is too large.")


if __name__ == "__main__":
    main()

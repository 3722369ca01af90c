"""Puts the files that training exported in their place: one safetensors a component, in the true layout.

`run --stages export` writes shards small enough for transports that limit a file's size; this joins
them and writes the table for previews. A model that was trained on the autoencoder it has keeps it, unless a
mended one is among the files.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from flux_core.catalog import TINY

PLACES = {
    "transformer": TINY.files.transformer,
    "ae": TINY.files.autoencoder,
    "text_encoder": TINY.files.clip,
    "text_encoder_2": TINY.files.t5,
}


def assemble(exported: Path, folder: Path) -> dict[str, Any]:
    """Joins the shards of `exported` into the model folder.

    Returns:
        What the catalog's row must carry: the latent shift and scale, and whether guidance is distilled.
    """
    facts = json.loads((exported / "model.json").read_text())
    for name, place in PLACES.items():
        tensors = {}
        for shard in sorted(exported.glob(f"{name}.[0-9]*.safetensors")):
            tensors |= load_file(shard)
        if not tensors and name == "ae" and facts["is_adopted"]:
            continue
        if not tensors:
            raise SystemExit(f"There are no {name}.N.safetensors in {exported}. Run the export stage first.")
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, target, metadata={"format": "pt"})
        target.chmod(0o644)  # the library writes for its owner only
    if not facts["is_adopted"]:
        (folder / "latent_rgb.json").write_text(json.dumps(facts["latent_to_rgb"]))
    return {key: facts[key] for key in ("shift", "scale", "is_guidance_distilled")}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exported", type=Path, required=True)
    parser.add_argument("--into", type=Path, default=Path("resources/models/tiny"))
    arguments = parser.parse_args()
    numbers = assemble(arguments.exported, arguments.into)
    sys.stdout.write(f"The row of the catalog must say {numbers}.\n")


if __name__ == "__main__":
    main()

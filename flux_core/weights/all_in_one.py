"""Checkpoints that hold a whole model in one file: the view of one part of them.

Each part lies behind a prefix of its own. A file without the part's prefix is taken to be the part
itself, unless it plainly holds other parts; then the error says which.
"""

from __future__ import annotations

from pathlib import Path

from flux_core.errors import Corrupt
from flux_core.weights.tensors import RenamedSource, TensorSource

TRANSFORMER = "transformer"
AUTOENCODER = "autoencoder"
CLIP = "CLIP text encoder"
T5 = "T5 text encoder"

PREFIXES: dict[str, tuple[str, ...]] = {
    TRANSFORMER: ("model.diffusion_model.", "diffusion_model.", "transformer."),
    AUTOENCODER: ("vae.", "first_stage_model."),
    CLIP: ("text_encoders.clip_l.transformer.",),
    T5: ("text_encoders.t5xxl.transformer.",),
}
"""What stands before a part's own names. Source: the checkpoints that ComfyUI saves and reads."""

_OUTER = ("model.diffusion_model.", "vae.", "first_stage_model.", "text_encoders.")


def part_of(source: TensorSource, part: str, path: Path) -> TensorSource:
    """One part of a file, under the part's own names; the source itself if no prefix is found.

    Args:
        source: All tensors.
        part: A key of PREFIXES.
        path: The file, for the message.

    Raises:
        Corrupt: The file holds other parts only.
    """
    names = source.names()
    for prefix in PREFIXES[part]:
        if any(name.startswith(prefix) for name in names):
            return RenamedSource(source, _behind(prefix, source))
    others = [
        other
        for other, prefixes in PREFIXES.items()
        if any(name.startswith(prefixes) and name.startswith(_OUTER) for name in names)
    ]
    if others:
        raise Corrupt(
            f"{path} holds no {part}; it holds the {' and the '.join(others)}.",
            "Choose a file that holds it, or name one for this part alone.",
        )
    return source


def _behind(prefix: str, source: TensorSource) -> dict[str, str]:
    """New name -> name; names that belong to no part stay, for the strict check to report."""
    return {
        name.removeprefix(prefix): name
        for name in source.names()
        if name.startswith(prefix) or not name.startswith(_OUTER)
    }

"""Python pickles (.ckpt, .pt, .bin): never opened, because opening one runs whatever it says.

The sentence that refuses them, the way to convert one, and the endings that they have stand here alone.
"""

from __future__ import annotations

import re
from pathlib import Path

SUFFIXES = frozenset({".ckpt", ".pt", ".pth", ".bin", ".pkl"})
_PLAIN_NAME = re.compile(r"[\w.\- ]+", re.ASCII)


def refusal(path: Path) -> tuple[str, str]:
    """(message, hint) for a file that is a pickle, whatever it is called."""
    name = path.name if _PLAIN_NAME.fullmatch(path.name) else f"FILE{path.suffix}"  # it stands in a command
    target = Path(name).with_suffix(".safetensors").name
    target = target if target != name else f"converted-{name}"
    load = f"torch.load('{name}', map_location='cpu', weights_only=True)"
    return (
        f"{path.name} is a pickle, which can run any program when it is opened: Flowbrush never opens one.",
        "Get the safetensors file of the same model, or convert this one: "
        f'python -c "import torch, safetensors.torch as s; d = {load}; '
        f"s.save_file(d.get('state_dict', d), '{target}')\".",
    )

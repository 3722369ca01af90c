"""The helpers' networks: transformers' own classes, and folders as that library saves them.

What is trained is what is run, because the engine reads these folders with the same classes. The library is
imported when a network is made, so that stages that need none run without it.
"""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SETTINGS = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_resize": True,
    "resample": 3,  # bicubic
}
"""What both picture processors do: pictures in [-1, 1]."""


def library() -> Any:
    """The library transformers, without its progress bars."""
    found: Any = importlib.import_module("transformers")
    found.utils.logging.disable_progress_bar()
    return found


def set_weights(net: nn.Module, state: dict[str, Tensor]) -> None:
    """Sets every parameter by name; a missing name is a KeyError."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(state[name])


def write(folder: Path, net: Any, settings: dict[str, Any], tokenizer: Path | None = None) -> None:
    """Writes a network as transformers saves it; a folder that is there is replaced when all is written.

    Args:
        folder: Where.
        net: Of the library; its weights are written in bfloat16.
        settings: preprocessor_config.json.
        tokenizer: Folder of the tokenizer that goes with it.
    """
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    net.to(torch.bfloat16).save_pretrained(fresh)
    (fresh / "preprocessor_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    if tokenizer is not None:
        text_length = net.config.text_config.max_position_embeddings
        tokens = library().AutoTokenizer.from_pretrained(
            tokenizer, local_files_only=True, model_max_length=text_length
        )
        tokens.save_pretrained(fresh)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)

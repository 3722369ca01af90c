"""The LoRA while it learns, and as a file.

The file is sd-scripts' (kohya): names that our own reader, ComfyUI, Forge and diffusers all read. Its modules
are BFL's fused matrices, as this model has them, so nothing is split; its alphas say that strength 1 is what
was trained, where PEFT's layout leaves that to the header.

Source: Hu et al. 2021 (LoRA); the names are those of kohya-ss/sd-scripts networks/lora_flux.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from backends.torch_cuda.leaves import Linear
from backends.torch_cuda.training.members.lowrank import Pair
from backends.torch_cuda.training.network import Named
from flux_core.catalog import ModelSpec
from flux_core.lora_training import LoraTraining
from flux_core.models.transformer import BLOCK_MATRIX
from flux_core.weights.safetensors_writer import Planned, write_safetensors

_PREFIX = "lora_unet_"
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}


class ArtistLora(Named):
    """Pairs on a transformer's matrices; they hang there as soon as they are made.

    Args:
        leaves: Every leaf of the transformer by checkpoint name.
        rank: Of the pairs.
        device: Where they learn, in float32.
        seed: Of the first values, which are the same on every device.

    Attributes:
        parameters: Names as in the file -> what is trained.
    """

    def __init__(self, leaves: Mapping[str, nn.Module], rank: int, device: torch.device, seed: int) -> None:
        self.parameters = {}
        self._pairs: dict[str, Pair] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for name, leaf in leaves.items():
                if not isinstance(leaf, Linear) or not BLOCK_MATRIX.fullmatch(name):
                    continue
                out_dim, in_dim = leaf.weight.shape
                pair = Pair(in_dim, out_dim, rank, torch.device("cpu"), has_bias=False).to(device)
                leaf.adapters.append(pair)
                module = _PREFIX + name.replace(".", "_")
                self._pairs[module] = pair
                self.parameters[f"{module}.lora_down.weight"] = pair.down
                self.parameters[f"{module}.lora_up.weight"] = pair.up

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Writes the file in float16: the values are small, and bfloat16 keeps an eighth of their digits.

        Raises:
            StorageFull: The disk is full.
            RequestInvalid: The folder may not be written.
        """
        alphas = {
            f"{module}.alpha": torch.tensor(float(pair.rank), dtype=torch.float16)
            for module, pair in self._pairs.items()
        }
        write_tensors(path, {name: p.half() for name, p in self.parameters.items()} | alphas, metadata)


def metadata_of(training: LoraTraining, spec: ModelSpec, step: int, num_pictures: int) -> dict[str, str]:
    """What the file says about itself, in the words that other programs look for.

    Nothing in it leads back to the person: no path, no date, no captions.

    Source: Stability-AI/ModelSpec; kohya-ss/sd-scripts train_network.py.
    """
    side = training.size_px
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{spec.model.replace('flux1', 'flux-1')}/lora",
        "modelspec.title": training.name,
        "modelspec.trigger_phrase": training.trigger,
        "modelspec.resolution": f"{side}x{side}",
        "ss_base_model_version": "flux1",
        "ss_sd_model_name": spec.model,
        "ss_network_module": "networks.lora_flux",
        "ss_network_dim": str(training.rank),
        "ss_network_alpha": str(training.rank),
        "ss_steps": str(step),
        "ss_max_train_steps": str(training.num_steps),
        "ss_learning_rate": str(training.learning_rate),
        "ss_lr_scheduler": training.decay.value,
        "ss_batch_size_per_device": str(training.batch_size),
        "ss_num_train_images": str(num_pictures),
        "ss_seed": str(training.seed),
        "ss_guidance_scale": "1.0",
    }


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file of tensors in the dtypes of _NAMES, whole or not at all; raises as `write`."""
    planned = [Planned(name, _NAMES[t.dtype], tuple(t.shape)) for name, t in tensors.items()]
    write_safetensors(path, planned, (_array(t) for t in tensors.values()), metadata)


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy()

"""What a process does for the first time, done beside the loading of its first model.

Libraries are opened, kernels come from triton's cache and products choose their algorithms at the first call
of each kind. A block of every network at FLUX.1's own widths calls them once, on little data, in a thread
that mostly waits for libraries, while the main thread waits for the disk. Values and results do not matter.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

import torch
from torch import nn

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.leaves import TorchLeaves
from flux_core.catalog import DEV, ModelSpec
from flux_core.models.autoencoder import Decoder
from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder, relative_buckets
from flux_core.models.transformer import Transformer
from flux_core.request import Precision

MIN_FREE_BYTES = 8 * 2**30
"""On a device with less there may be no room beside the model."""
_SIDE, _WORDS = 32, 128  # latents and tokens, enough for every kernel to be the one that large pictures take

_log = logging.getLogger(__name__)


def start(backend: TorchBackend, precision: Precision) -> threading.Thread | None:
    """Begins to warm up; None where that is not worth it.

    Args:
        backend: Of the engine.
        precision: Of the first job.
    """
    if backend.device.type != "cuda" or torch.cuda.mem_get_info(backend.device)[0] < MIN_FREE_BYTES:
        return None
    thread = threading.Thread(target=_tried, args=(backend, precision), name="warm-up", daemon=True)
    thread.start()
    return thread


def _tried(backend: TorchBackend, precision: Precision) -> None:
    try:
        with backend.session():
            warm_up(backend, precision, DEV)
    except Exception as err:  # noqa: BLE001 # the job itself will say what is wrong, if anything is
        _log.info("Warming up went wrong: %s", err)


def warm_up(backend: TorchBackend, precision: Precision, like: ModelSpec) -> None:
    """Calls one block of every network of a model once.

    Args:
        backend: Where they run.
        precision: Of the transformer.
        like: The model whose widths they have.
    """
    device = backend.device
    dtype = backend.cast(torch.zeros(1), precision).dtype
    spec = replace(
        like,
        transformer=replace(like.transformer, depth=1, depth_single=1),
        t5=replace(like.t5, num_layers=1, vocab_size=_WORDS),
        clip=replace(like.clip, num_layers=1, vocab_size=_WORDS),
    )
    ops, config = backend.ops, spec.transformer
    plain = _Zeros(None, device, dtype)
    ids = torch.zeros((1, _WORDS), dtype=torch.int32, device=device)
    buckets = backend.from_numpy(relative_buckets(_WORDS, spec.t5))
    txt = T5Encoder(ops, plain, spec.t5)(ids, buckets)
    places = torch.arange(spec.clip_tokens, dtype=torch.int32, device=device)
    vec = ClipText(ops, plain, spec.clip)(ids[:, : spec.clip_tokens], places, ids[0, :1])
    model = Transformer(ops, _Zeros(None, device, dtype, make_linear=backend.linear_maker(precision)), config)
    one = torch.ones(1, device=device)
    img = torch.zeros((1, _SIDE * _SIDE // 4, config.in_channels), dtype=dtype, device=device)
    angles = torch.zeros((_WORDS + img.shape[1], sum(config.axes_dim) // 2, 2), device=device)
    model.modulated(img, txt, model.modulations(vec, one, one), angles)
    latents = img.reshape(1, _SIDE, _SIDE, -1)
    Decoder(ops, plain, spec.autoencoder)(latents)
    backend.evaluate()


class _Zeros(TorchLeaves):
    """Leaves of zeros, which need no time to be made."""

    def _parameter(self, name: str, shape: tuple[int, ...], deviation: float | None) -> nn.Parameter:
        values = torch.zeros(shape, device=self._device, dtype=self._dtype)
        if len(shape) == 4:
            values = values.contiguous(memory_format=torch.channels_last)
        return nn.Parameter(values, requires_grad=False)

"""From final tokens to pictures, and the small pictures of a walk on its way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.conditioning import pixels
from flux_core.conditioning.packing import unpack
from flux_core.engine import EngineImage
from flux_core.imaging import fast_png, tiles
from flux_core.messages import Stage
from flux_core.models.autoencoder import SCALE_FACTOR
from flux_core.parts import Identity
from flux_core.pipeline.job import TILE_PX, Job
from flux_core.pipeline.walk import Preview
from flux_core.pipeline.workbench import Workbench
from flux_core.plan import Component, PartKey
from flux_core.request import Decoder
from flux_core.sampling import preview

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_FULL = PartKey(Component.VAE_DECODER)
_WHEN = "when a picture was decoded"


class Pictures:
    """Decodes for one engine.

    Args:
        bench: Its parts.
    """

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._map: tuple[Identity, Floats] | None = None
        self._encode = fast_png.Encoder()

    def clear(self) -> None:
        """Forgets the preview map."""
        self._map = None

    def decode_all(self, job: Job, walked: list[Any]) -> tuple[EngineImage, ...]:
        """Pictures of final tokens [1, L, 64] each."""
        report, request = job.report, job.request
        images: list[EngineImage] = []
        with self._bench.part(job, *_decoder(job)) as decoder:
            for index, tokens in enumerate(walked):
                with report.stage(Stage.DECODING):
                    png = self._encode(self._painted(decoder, job, tokens))
                    images.append(EngineImage(png, request.width_px, request.height_px, job.seed(index)))
                    report.progress(Stage.DECODING, (index + 1) / len(walked))
        return tuple(images)

    def previews(self, job: Job) -> Preview | None:
        """What makes previews: the small decoder where it is loaded anyway, else the autoencoder's map."""
        key = _decoder(job)
        if key.component is Component.FAST_DECODER and self._bench.parts.has(key):
            decoder = self._bench.parts.get(key)
            return lambda tokens: partial(preview.picture_to_webp_base64, self._painted(decoder, job, tokens))
        matrix = self._latent_rgb(job)
        if matrix is None:
            return None
        return lambda tokens: self._coarse(job, tokens, matrix)

    def _latents(self, job: Job, tokens: Any) -> Any:
        return unpack(self._bench.backend.ops, tokens, *job.latent_size)

    def _painted(self, decoder: Any, job: Job, tokens: Any) -> Bytes:
        """The picture of final tokens [1, L, 64], [height_px, width_px, 3]."""
        backend, request = self._bench.backend, job.request
        latents = self._latents(job, tokens)
        if job.is_tiled:
            image = self._decode(decoder, job, latents)
            job.check_finite(image, _WHEN)
            return pixels.model_to_image(image, request.width_px, request.height_px)
        image = decoder(backend.cast(latents, job.precision))  # [1, H', W', 3]
        # x - x is 0 where x is a number and NaN where not, so one number tells of all of them.
        told = backend.bring((image - image).sum())
        found = backend.to_bytes(image)[0, : request.height_px, : request.width_px]
        job.check_finite(told(), _WHEN)
        return found

    def _decode(self, decoder: Any, job: Job, latents: Any) -> Floats:
        """Latents [1, h, w, C] -> image [1, 8h, 8w, 3] on the host; a large picture tile by tile."""
        backend = self._bench.backend

        def decode(part: Any) -> Floats:
            return backend.to_numpy(decoder(backend.cast(part, job.precision)))

        if not job.is_tiled:
            return decode(latents)
        window, overlap = tiles.autoencoder_window(TILE_PX)
        whole = backend.to_numpy(latents)
        return tiles.tiled_apply(
            lambda part: decode(backend.from_numpy(part)),
            whole,
            window,
            overlap,
            SCALE_FACTOR,
            job.check_tile,
        )

    def _coarse(self, job: Job, tokens: Any, matrix: Floats) -> Callable[[], str]:
        latents = self._bench.backend.bring(self._latents(job, tokens))
        height, width = (-(-side // SCALE_FACTOR) for side in (job.request.height_px, job.request.width_px))
        return lambda: preview.to_webp_base64(latents()[0, :height, :width], matrix)

    def _latent_rgb(self, job: Job) -> Floats | None:
        """The autoencoder's preview map; None if there is none and its decoder is not loaded yet."""
        identity = self._bench.parts.identity
        if self._map is not None and self._map[0] == identity:
            return self._map[1]
        channels = job.spec.autoencoder.latent_channels
        matrix = preview.read((job.folder / job.spec.files.autoencoder).parent, channels)
        if matrix is None and self._bench.parts.has(_FULL):
            decoder = self._bench.parts.get(_FULL)

            def decode(latents: Floats) -> Floats:
                image = self._decode(decoder, job, self._bench.backend.from_numpy(latents))
                job.check_finite(image, _WHEN)
                return image

            matrix = preview.fit_from_decoder(decode, channels)
        if matrix is not None:
            self._map = identity, matrix
        return matrix


def _decoder(job: Job) -> PartKey:
    is_fast = job.request.decoder is Decoder.FAST
    return PartKey(Component.FAST_DECODER, job.spec.fast_decoder) if is_fast else _FULL

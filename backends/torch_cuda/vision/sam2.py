"""Segment Anything 2: clicks, or a box, to a mask.

Of the three masks that it offers for one vague click the one that it thinks best is taken; with a box or
several clicks the thing is clear and it offers one. The picture is resized here, because the library's own
processor needs torchvision.

Source: Ravi et al. 2024; transformers Sam2Processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from backends.torch_cuda.vision import library
from backends.torch_cuda.vision.pictures import Pixels, as_image, as_tensor, box_around
from backends.torch_cuda.vision.registry import Looked, Source
from flux_core.looking import Look, MaskFound, SegmentPoints

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Sam2:
    """A registry.Helper.

    Args:
        settings: Of preprocessor_config.json; what it leaves open is the published model's.
    """

    def __init__(self, source: Source, model: Any, settings: dict[str, Any]) -> None:
        self._source = source
        self._model = model
        self._side: int = model.config.prompt_encoder_config.image_size
        self._mean: Sequence[float] = settings.get("image_mean", IMAGENET_MEAN)
        self._std: Sequence[float] = settings.get("image_std", IMAGENET_STD)

    def look(self, look: Look, images: Sequence[Pixels], on_progress: Callable[[float], None]) -> Looked:
        if not isinstance(look, SegmentPoints):
            raise AssertionError(f"the registry does not send {look.kind} here")
        height, width = images[0].shape[:2]
        embeddings = self._model.get_image_embeddings(self._pixel_values(images[0]))
        on_progress(0.8)
        is_vague = look.box is None and len(look.points) == 1
        answer = self._model(
            image_embeddings=embeddings, multimask_output=is_vague, **self._prompt(look, width, height)
        )
        logits, scores = answer.pred_masks[0, 0], answer.iou_scores[0, 0]  # [M, h, w], [M]
        best = int(scores.argmax())
        large = torch.nn.functional.interpolate(
            logits[None, best : best + 1].float(), (height, width), mode="bilinear", align_corners=False
        )
        mask = ((large[0, 0] > 0).to(torch.uint8) * 255).cpu().numpy()
        score = min(1.0, max(0.0, float(scores[best])))
        finding = MaskFound(model=self._source.model, image=0, box=box_around(mask), score=score)
        on_progress(1.0)
        return Looked((finding,), (mask,))

    def _pixel_values(self, image: Pixels) -> torch.Tensor:
        """[1, 3, side, side] float32; stretched, as the model was trained."""
        resized = as_image(image).resize((self._side, self._side), Image.Resampling.BILINEAR)
        return as_tensor(np.array(resized), self._mean, self._std, self._source.device)

    def _prompt(self, look: SegmentPoints, width_px: int, height_px: int) -> dict[str, torch.Tensor]:
        """Points [1, 1, N, 2], labels [1, 1, N] and box [1, 1, 4] in pixels of the model's picture."""
        scale = torch.tensor([self._side / width_px, self._side / height_px], device=self._source.device)
        prompt: dict[str, torch.Tensor] = {}
        if look.points:
            points = scale.new_tensor([[point.x_px, point.y_px] for point in look.points])
            labels = [int(point.is_positive) for point in look.points]
            prompt["input_points"] = (points * scale)[None, None]
            prompt["input_labels"] = torch.tensor(labels, device=scale.device)[None, None]
        if look.box is not None:
            box = look.box
            corners = scale.new_tensor([[box.left_px, box.top_px], [box.right_px, box.bottom_px]])
            prompt["input_boxes"] = (corners * scale).reshape(1, 1, 4)
        return prompt


def load(source: Source) -> Sam2:
    """Reads a Segment Anything 2; the memory of its video half is left in the file."""
    tf = library.transformers()
    model = library.load_model(tf.Sam2Model, source.folder, source.title, source.device, torch.float32)
    return Sam2(source, model, library.read_settings(source.folder, "preprocessor_config.json", source.title))

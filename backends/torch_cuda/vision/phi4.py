"""Phi-4 multimodal: an answer to a question about a picture, which is also read in pieces of full detail.

It is the successor of Phi-3 Vision that transformers has a class for. The picture is cut here, because the
library's own processor needs torchvision; its adapter for pictures is added where the folder has one.

Source: Microsoft 2025, "Phi-4-Mini Technical Report"; transformers Phi4MultimodalImageProcessor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backends.torch_cuda.vision import library
from backends.torch_cuda.vision.adapter import add_adapter
from backends.torch_cuda.vision.pictures import Pixels, on_white
from backends.torch_cuda.vision.registry import Looked, Source
from backends.torch_cuda.vision.writing import answer, generate
from flux_core.errors import RequestInvalid
from flux_core.looking import Describe, Look

ADAPTER = "vision-lora"
DEFAULT_QUESTION = "Describe this picture in detail."
MAX_PIECES = 36
MIN_SIDE_PX = 10  # of what is left of a picture after fitting it into pieces


class Pieces(NamedTuple):
    """A picture as the model reads it.

    Attributes:
        values: [1, 1 + N, 3, side, side] float32 in [-1, 1]: the whole, then its pieces by rows.
        size: [1, 2] height and width of all pieces together, in pixels.
        seen: [1, 1 + N, M, M], 1 where a patch holds something of the picture.
        num_tokens: That the picture takes in the text.
    """

    values: Tensor
    size: Tensor
    seen: Tensor
    num_tokens: int


class Phi4:
    """A registry.Helper."""

    def __init__(self, source: Source, model: Any, tokenizer: Any, max_pieces: int) -> None:
        self._source = source
        self._model = model
        self._tokenizer = tokenizer
        self._max_pieces = max_pieces

    def look(self, look: Look, images: Sequence[Pixels], on_progress: Callable[[float], None]) -> Looked:
        if not isinstance(look, Describe):
            raise AssertionError(f"the registry does not send {look.kind} here")
        vision = self._model.config.vision_config
        pieces = cut(images[0], vision.crop_size, vision.patch_size, self._max_pieces)
        question = (look.question.strip() or DEFAULT_QUESTION).replace("<|", "< |")
        before, after = (
            self._tokenizer(text, add_special_tokens=False).input_ids
            for text in ("<|user|>", f"{question}<|end|><|assistant|>")
        )
        ids = torch.tensor([[*before, *[vision.image_token_id] * pieces.num_tokens, *after]])
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "image_pixel_values": pieces.values.to(self._model.dtype),
            "image_sizes": pieces.size,
            "image_attention_mask": pieces.seen,
        }
        inputs = {name: value.to(self._source.device) for name, value in inputs.items()}
        written = generate(self._model, inputs, look.max_tokens, on_progress)
        new = written[0, ids.shape[1] :]
        return Looked((answer(self._source.model, self._model, self._tokenizer, new, look.max_tokens),))


def load(source: Source) -> Phi4:
    """Reads a Phi-4 multimodal, with its adapter for pictures."""
    tf = library.transformers()
    folder, title, device = source.folder, source.title, source.device
    tokenizer = library.load_processor(tf.AutoTokenizer, folder, title)
    settings = library.read_settings(folder, "preprocessor_config.json", title)
    dtype = library.writing_dtype(device)
    model = library.load_model(tf.Phi4MultimodalForCausalLM, folder, title, device, dtype)
    if (folder / ADAPTER / "adapter_config.json").is_file():
        add_adapter(model, folder / ADAPTER, title)
    return Phi4(source, model, tokenizer, settings.get("dynamic_hd", MAX_PIECES))


def cut(image: Pixels, side_px: int, patch_px: int, max_pieces: int) -> Pieces:
    """Fits a picture into a grid of square pieces, white at the right and the bottom where it ends.

    Args:
        image: [H, W, 4] RGBA.
        side_px: Of a piece.
        patch_px: Side of a patch of a piece.
        max_pieces: In the grid.

    Raises:
        RequestInvalid: The picture is so long and narrow that nothing of it would be left.
    """
    height, width = image.shape[:2]
    columns, rows = _grid(width, height, side_px, max_pieces)
    scale = min(columns * side_px / width, rows * side_px / height)
    is_wide = columns * side_px / width < rows * side_px / height
    fit_width = columns * side_px if is_wide else int(width * scale)
    fit_height = int(height * scale) if is_wide else rows * side_px
    if min(fit_width, fit_height) < MIN_SIDE_PX:
        raise RequestInvalid(
            f"A picture of {width} x {height} pixels is too narrow for this helper.", "Cut it to a part."
        )
    small = torch.nn.functional.interpolate(
        torch.from_numpy(on_white(image)).permute(2, 0, 1)[None],
        (fit_height, fit_width),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    pad_x, pad_y = columns * side_px - fit_width, rows * side_px - fit_height
    padded = torch.nn.functional.pad(small, (0, pad_x, 0, pad_y), value=255).float() / 127.5 - 1.0
    whole = torch.nn.functional.interpolate(padded, (side_px, side_px), mode="bicubic", align_corners=False)
    pieces = padded.reshape(3, rows, side_px, columns, side_px).permute(1, 3, 0, 2, 4)
    values = torch.cat([whole, pieces.reshape(-1, 3, side_px, side_px)])[None]

    patches = side_px // patch_px
    seen = torch.ones(rows * patches, columns * patches)
    if pad_x >= patch_px:
        seen[:, -(pad_x // patch_px) :] = 0
    if pad_y >= patch_px:
        seen[-(pad_y // patch_px) :, :] = 0
    by_piece = seen.reshape(rows, patches, columns, patches).transpose(1, 2).reshape(-1, patches, patches)
    halved = by_piece[:, 0::2, 0::2]
    base = halved.shape[-1]  # tokens a side of a piece: patches are merged two by two
    wide = halved.reshape(rows, columns, base, base).transpose(1, 2).reshape(rows * base, columns * base)
    num_tokens = base * base + base + 1 + int(wide.sum()) + int(wide[:, 0].sum())
    return Pieces(
        values,
        torch.tensor([[rows * side_px, columns * side_px]]),
        torch.cat([torch.ones(1, patches, patches), by_piece])[None],
        num_tokens,
    )


def _grid(width_px: int, height_px: int, side_px: int, max_pieces: int) -> tuple[int, int]:
    """Columns and rows: as many as the picture fills, or the nearest proportions within `max_pieces`."""
    columns, rows = math.ceil(width_px / side_px), math.ceil(height_px / side_px)
    if columns * rows <= max_pieces:
        return columns, rows
    best, best_gap = (1, 1), math.inf
    grids = {(x, y) for x in range(1, max_pieces + 1) for y in range(1, max_pieces // x + 1)}
    for grid in sorted(grids, key=lambda each: each[0] * each[1]):
        gap = abs(width_px / height_px - grid[0] / grid[1])
        fills = width_px * height_px > 0.5 * side_px * side_px * grid[0] * grid[1]
        if gap < best_gap or (gap == best_gap and fills):
            best, best_gap = grid, gap
    return best

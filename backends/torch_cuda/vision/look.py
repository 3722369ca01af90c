"""Answers a look: check, choose the helper, load it, run it, free it.

Nothing is loaded before everything that can be known without weights is checked, and nothing stays loaded
afterwards: looking is rare beside painting, and a painting model needs the memory.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from backends.torch_cuda.vision import library
from backends.torch_cuda.vision.pictures import Pixels
from backends.torch_cuda.vision.registry import Looked, Source, family_of
from flux_core.catalog.helpers import choose
from flux_core.looking import Look, check_pictures
from flux_core.messages import Stage
from flux_core.reporting import Report


def look(
    request: Look,
    images: Sequence[Pixels],
    find_folder: Callable[[str], Path | None],
    device: torch.device,
    report: Report,
    running: Stage = Stage.LOOKING,
) -> Looked:
    """Carries out a look.

    Args:
        request: What is to be found out.
        images: [H, W, 4] uint8 straight RGBA each.
        find_folder: Id of a helper -> its folder on this machine; None if it is not here.
        device: That computes.
        report: Told how it goes; asked for a cancel before and after loading and while the helper runs.
        running: What the person is told while it runs; a part of a painting job has a stage of that.

    Returns:
        The findings, and the masks and depth maps that they name.

    Raises:
        RequestInvalid: The look does not fit the pictures or the helper.
        ModelMissing: The helper or the library transformers is not on this machine.
        Corrupt: The helper's files are damaged.
        Cancelled: The person stopped it.
    """
    report.check()
    check_pictures(request, [(image.shape[1], image.shape[0]) for image in images])
    chosen = choose(request, find_folder)
    config = library.read_config(chosen.folder, chosen.title)
    family = family_of(chosen.title, config.get("model_type"), request.kind)
    library.check_installed()
    source = Source(chosen.model, chosen.title, chosen.folder, config, device)
    helper = None
    try:
        with report.stage(Stage.LOADING):
            helper = family.load(source)
            report.progress(Stage.LOADING, 1.0)
        with report.stage(running), torch.inference_mode():

            def on_progress(done: float) -> None:
                report.check()
                report.progress(running, done)

            return helper.look(request, images, on_progress)
    except BaseException as err:
        _let_go(err)
        raise
    finally:
        del helper
        library.forget(device)


def _let_go(err: BaseException | None) -> None:
    """Takes the helper out of the frames that an error keeps, so that its memory is free at once."""
    while err is not None:
        traceback.clear_frames(err.__traceback__)
        err = err.__cause__ or err.__context__

"""Asking a helper that lies in a folder of models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from backends.torch_cuda.vision.look import look
from backends.torch_cuda.vision.registry import Looked
from flux_core.catalog.helpers import folder_of_helper
from flux_core.looking import Look
from flux_core.messages import Progress
from flux_core.reporting import Report

Ask = Callable[..., Looked]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Carries out a look on the processor, with the helpers in `tmp_path`."""

    def ask(
        request: Look,
        *images: Any,
        said: list[Progress] | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Looked:
        report = Report(said.append if said is not None else lambda message: None, is_cancelled)
        return look(
            request,
            images,
            lambda model: folder_of_helper(model, (tmp_path,)),
            torch.device("cpu"),
            report,
        )

    return ask

"""No kernel is imported where triton is missing; what kernels take from elsewhere must be there anyway."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import backends.torch_cuda

PLACE = Path(backends.torch_cuda.__file__).parent
FILES = sorted([*PLACE.glob("kernels/*.py"), *PLACE.glob("fused*.py")])
NEED_TRITON = ("backends.torch_cuda.kernels", "backends.torch_cuda.fused")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_a_kernel_takes_from_elsewhere_is_there(path: Path) -> None:
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    for node in nodes:
        module = str(node.module)
        if module.startswith(("backends.", "flux_core.")) and not module.startswith(NEED_TRITON):
            found = importlib.import_module(module)
            assert not [each.name for each in node.names if not hasattr(found, each.name)], module

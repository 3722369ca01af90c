"""How the process of an engine begins: what needs no torch goes on in a thread while torch is imported.

Importing torch takes a second or two, nearly all of it on one processor; making a GPU's context takes its
driver nearly as long. The service names `create` for its engines, so this module imports no torch itself.
"""

from __future__ import annotations

import ctypes
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backends.torch_cuda.engine import TorchEngine

_DRIVER = "libcuda.so.1"
_LIBRARY = "lib/libtorch_cuda.so"  # in torch's folder, where torch was built for CUDA


def create(models_dirs: tuple[Path, ...]) -> TorchEngine:
    """The engine of this machine's best torch device."""
    if _is_built_for_cuda():
        open_context()
    from backends.torch_cuda import engine  # the long import, beside which the thread works

    return engine.create(models_dirs)


def open_context(driver: str = _DRIVER) -> threading.Thread:
    """Begins to make the first GPU's context, the one that torch will ask for; does nothing without a driver.

    Whoever asks the driver meanwhile waits for it, so nobody needs to wait for the thread.
    """
    thread = threading.Thread(target=_open_context, args=(driver,), name="context", daemon=True)
    thread.start()
    return thread


def _is_built_for_cuda() -> bool:
    """Whether the torch of this machine would use the context; found out without importing it."""
    torch = find_spec("torch")
    folders = torch.submodule_search_locations if torch is not None else None
    return any((Path(folder) / _LIBRARY).is_file() for folder in folders or ())


def _open_context(driver: str) -> None:
    """Whatever fails here fails again where torch does it, and is told there."""
    try:
        cuda = ctypes.CDLL(driver)
    except OSError:
        return
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if cuda.cuInit(0) == 0 and cuda.cuDeviceGet(ctypes.byref(device), 0) == 0:
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)

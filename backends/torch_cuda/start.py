"""How the process of an engine begins: what needs no Python goes on in threads while modules are imported.

A third of the time of importing a torch for CUDA is spent in opening its libraries, and a GPU's driver takes
half a second to make a context. Meanwhile the main thread imports everything but torch. The service names
`create` for its engines, so this module imports no torch itself.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backends.torch_cuda.engine import TorchEngine

_DRIVER = "libcuda.so.1"
_LIBRARIES = "libtorch_global_deps.so", "libtorch_cpu.so", "libtorch_cuda.so"
"""In torch's folder, in the order in which torch opens them; the last where it was built for CUDA."""
_BESIDE = "flux_core.pipeline", "triton"
"""What an engine for CUDA needs beside torch, and takes long to import."""


def create(models_dirs: tuple[Path, ...]) -> TorchEngine:
    """The engine of this machine's best torch device."""
    with begun():
        from backends.torch_cuda import engine
    return engine.create(models_dirs)


@contextmanager
def begun() -> Generator[None]:
    """Imports what needs no torch, while torch's libraries are opened; what needs it is imported inside.

    Nothing that an import makes is garbage, so nobody looks for any meanwhile, nor among it afterwards.
    """
    torch = find_spec("torch")
    folder = None if torch is None else _folder_of_libraries(torch)
    if folder is not None:
        open_context()
        open_libraries(folder / name for name in _LIBRARIES)
    if torch is not None:
        keep_bytecode(torch)
    # torch looks for plug-ins of other makers' devices, which no engine uses.
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    gc.disable()
    try:
        for name in _BESIDE if folder is not None else ():
            if find_spec(name.partition(".")[0]) is not None:
                importlib.import_module(name)
        yield
    finally:
        gc.enable()
        gc.freeze()


def keep_bytecode(module: ModuleSpec) -> None:
    """Where a module was installed without bytecode, keeps what is compiled in the person's own cache.

    Some installers leave compiling to the first import, which may not be allowed to write there; then every
    process would compile torch's thousand modules again, for three seconds.
    """
    if sys.pycache_prefix is None and module.cached is not None and not Path(module.cached).exists():
        sys.pycache_prefix = str(_bytecode_folder())
        sys.dont_write_bytecode = False


def open_context(driver: str = _DRIVER) -> threading.Thread:
    """Begins to make the first GPU's context, the one that torch will ask for; does nothing without a driver.

    Whoever asks the driver meanwhile waits for it, so nobody needs to wait for the thread.
    """
    return _begin("context", lambda: _open_context(driver))


def open_libraries(paths: Iterable[Path]) -> threading.Thread | None:
    """Begins to open shared libraries, one after the other; None where that is not done.

    What cannot be opened is left to torch, which knows more places to look for what it needs.
    """
    if sys.platform != "linux":
        return None
    # Python keeps its lock while it opens a library itself, and lets go of it in any function that it calls.
    open_library = ctypes.CDLL(None).dlopen
    open_library.restype = ctypes.c_void_p
    names = [os.fsencode(path) for path in paths]

    def work() -> None:
        for name in names:
            # The first is for all to see, as it is when torch opens it.
            mode = os.RTLD_NOW | (os.RTLD_GLOBAL if name is names[0] else os.RTLD_LOCAL)
            if open_library(name, mode) is None:
                return

    return _begin("libraries", work)


def _bytecode_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(cache) / "flowbrush" / "bytecode"


def _begin(name: str, work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


def _folder_of_libraries(torch: ModuleSpec) -> Path | None:
    """Where it was built for CUDA and so would use them; found out without importing it."""
    folders = (Path(place) / "lib" for place in torch.submodule_search_locations or ())
    return next((folder for folder in folders if (folder / _LIBRARIES[-1]).is_file()), None)


def _open_context(driver: str) -> None:
    """Whatever fails here fails again where torch does it, and is told there."""
    try:
        cuda = ctypes.CDLL(driver)
    except OSError:
        return
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if cuda.cuInit(0) == 0 and cuda.cuDeviceGet(ctypes.byref(device), 0) == 0:
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)

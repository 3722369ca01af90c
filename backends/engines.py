"""The engines there are, by name, and whether they can run on this machine.

A name leads to a factory that is imported only inside the worker process that will own the engine,
so the service, the client and the window never load a framework. Whether a library is installed is
found out without importing it.
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flux_core.engine import Engine
from flux_core.errors import ModelMissing, RequestInvalid
from flux_core.messages import EngineInfo

AUTO = "auto"

# Makes an engine that looks for models in the given folders, first match wins.
EngineFactory = Callable[[tuple[Path, ...]], Engine]


@dataclass(frozen=True, slots=True)
class _Entry:
    factory: str  # "module:function"
    library: str  # top-level package that must be installed


_ENGINES: dict[str, _Entry] = {
    "torch": _Entry("backends.torch_cuda.start:create", "torch"),
    "mlx": _Entry("backends.mlx_metal.engine:create", "mlx"),
}


def engine_infos() -> tuple[EngineInfo, ...]:
    """Every engine by name, with the reason if it cannot run here. Imports none of them."""
    return tuple(_info(name, entry) for name, entry in _ENGINES.items())


def choose(name: str) -> str:
    """Turns "auto" into the best engine of this machine, and checks any other name.

    Args:
        name: "auto", a name from engine_infos, or a "module:function" that makes an engine. The
            last is for the command line only; never take it from the wire.

    Raises:
        RequestInvalid: There is no such engine.
        ModelMissing: Its library is not installed, or "auto" found none.
    """
    if ":" in name:
        return name
    infos = {info.name: info for info in engine_infos()}
    if name == AUTO:
        preferred = ("mlx", "torch") if platform.system() == "Darwin" else ("torch", "mlx")
        for candidate in preferred:
            if infos[candidate].is_available:
                return candidate
        raise ModelMissing("No engine is installed.", "Install Flowbrush again, with torch or mlx.")
    if name not in infos:
        raise RequestInvalid(f"There is no engine called {name!r}.", f"Choose one of: {', '.join(infos)}.")
    if not infos[name].is_available:
        raise ModelMissing(infos[name].reason, "Install it, or choose another engine.")
    return name


def device_environments(
    name: str,
    environ: Mapping[str, str],
    gpus: Path = Path("/proc/driver/nvidia/gpus"),
    gpus_per_engine: int = 1,
) -> tuple[dict[str, str], ...]:
    """What to add to a worker's environment so that each worker of an engine gets its own devices.

    Found out without loading the engine: NVIDIA devices are those that CUDA_VISIBLE_DEVICES allows, or
    that the driver lists. Everything else is one device.

    Args:
        name: Of the engine.
        environ: Of this process.
        gpus: Where the driver lists its devices.
        gpus_per_engine: NVIDIA devices that compute a picture together; the last worker gets what is left.
    """
    if name != "torch":
        return ({},)
    allowed = environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        ids = [part.strip() for part in allowed.split(",") if part.strip()]
    else:
        ids = [str(index) for index, _ in enumerate(gpus.iterdir())] if gpus.is_dir() else []
    if len(ids) < 2:
        return ({},)
    runs = [ids[start : start + gpus_per_engine] for start in range(0, len(ids), gpus_per_engine)]
    return tuple({"CUDA_VISIBLE_DEVICES": ",".join(run)} for run in runs)


def load_factory(name: str) -> EngineFactory:
    """Imports what makes the engine; only a worker process calls this.

    Raises:
        RequestInvalid: There is no such engine or function.
        ModelMissing: The engine's library cannot be imported.
    """
    spec = _ENGINES[name].factory if name in _ENGINES else name
    module_name, _, function = spec.partition(":")
    if not module_name or not function:
        raise RequestInvalid(f"There is no engine called {name!r}.", f"Choose one of: {', '.join(_ENGINES)}.")
    try:
        factory: EngineFactory = getattr(importlib.import_module(module_name), function)
    except ModuleNotFoundError as err:
        message = f"The engine {name!r} needs {err.name}, which is not installed."
        raise ModelMissing(message, "Install it, or choose another engine.") from err
    except AttributeError as err:
        raise RequestInvalid(f"{spec!r} does not make an engine.", "Check the name of the function.") from err
    return factory


def _info(name: str, entry: _Entry) -> EngineInfo:
    is_installed = importlib.util.find_spec(entry.library) is not None
    reason = "" if is_installed else f"The engine {name!r} needs {entry.library}, which is not installed."
    return EngineInfo(name=name, is_available=is_installed, reason=reason)

"""The followers of an engine: their processes, what they say, and what becomes of them.

A crew lives until one of its processes fails; then all of it ends, whoever waits for it goes on, and the
reason is kept. Nobody in it outlives this process.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ValidationError

from backends.torch_cuda.split.direct import linked
from backends.torch_cuda.split.links import Links, Way, prepare_environment
from backends.torch_cuda.split.messages import Report
from flux_core.errors import EngineDied, FluxError, from_code
from flux_core.messages import Device

_STOP_GRACE_S = 2.0
_REASON_S = 5.0  # in which a process that failed is seen to have failed
_LOOK_S = 0.2  # between looks at whether the job is still wanted

_log = logging.getLogger(__name__)


class Crew:
    """Starts the followers; does not wait for them.

    Args:
        own: The device of rank 0.
        devices: Of the other ranks.
        way: How they speak to each other.

    Attributes:
        links: To all ranks, once they have met.
        has_met: Whether they have ever met.
        failure: Why it has ended, if it has by itself.
        seen: Devices of the followers, as they last said.
    """

    def __init__(self, own: torch.device, devices: Sequence[str], way: Way) -> None:
        prepare_environment()
        self.links: Links | None = None
        self.has_met = False
        self._meeting: Links | None = None
        self.failure: FluxError | None = None
        self.seen: dict[int, Device] = {}
        self._own = own
        self._devices = devices
        self._is_over = False
        self._loaded: dict[int, int] = {}
        self._recorded: dict[int, bool] = {}
        self._changed = threading.Condition()
        self._aborting: threading.Thread | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="flowbrush-ranks-")
        meet = Path(self._folder.name) / "ranks"
        size = len(devices) + 1
        self._processes = [_started(device, meet, rank, size, way) for rank, device in enumerate(devices, 1)]
        self._listeners = [
            threading.Thread(target=self._listen, args=(rank, process), daemon=True)
            for rank, process in enumerate(self._processes, start=1)
        ]
        for listener in self._listeners:
            listener.start()
        threading.Thread(target=self._connect, args=(meet, size, way), daemon=True).start()

    @property
    def is_over(self) -> bool:
        """Whether it has ended, by itself or not."""
        return self._is_over or self.failure is not None

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def send(self, order: BaseModel) -> None:
        """Tells all followers."""
        line = order.model_dump_json().encode() + b"\n"
        for process in self._processes:
            assert process.stdin is not None
            try:
                process.stdin.write(line)
                process.stdin.flush()
            except (OSError, ValueError):
                return  # it has ended, which its listener tells

    def wait_loaded(self, number: int, check: Callable[[], None]) -> bool:
        """Waits until all have carried out a LoadOrder; False where one has failed.

        Args:
            number: Of the order.
            check: Called now and then; may raise.
        """
        size = len(self._processes)

        def is_settled() -> bool:
            is_loaded = [self._loaded.get(rank) == number for rank in range(1, size + 1)]
            return self.failure is not None or (self.links is not None and all(is_loaded))

        while True:
            with self._changed:
                if self._changed.wait_for(is_settled, _LOOK_S):
                    return self.failure is None
            check()

    def all_recorded(self) -> bool:
        """Whether all followers have recorded the last evaluation, which they are waited for."""
        with self._changed:
            self._changed.wait_for(lambda: self.failure or len(self._recorded) == len(self._processes))
            found = self.failure is None and all(self._recorded.values())
            self._recorded.clear()
            return found

    def reason(self) -> FluxError | None:
        """Why an evaluation has gone wrong here, if that is a follower's doing."""
        with self._changed:
            self._changed.wait_for(lambda: self.failure, _REASON_S)
            return self.failure

    def end(self) -> None:
        """Ends all processes."""
        self._is_over = True
        for process in self._processes:
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        self._let_go()
        for process in self._processes:
            try:
                process.wait(_STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for thread in (*self._listeners, self._aborting):
            if thread is not None:
                thread.join(_STOP_GRACE_S)
        self._folder.cleanup()

    def _let_go(self) -> None:
        """Whoever waits for another rank here goes on, also while they meet."""
        links, self.links, self._meeting = self.links or self._meeting, None, None
        if links is not None:
            self._aborting = threading.Thread(target=links.abort, daemon=True)
            self._aborting.start()

    def _connect(self, meet: Path, size: int, way: Way) -> None:
        try:
            if self._own.type == "cuda":
                torch.cuda.set_device(self._own)
            links = linked(meet, 0, size, self._own, way)
            with self._changed:
                self._meeting = links
            if self.is_over:
                self._let_go()  # it was over before there was anything to let go
            links.meet()
        except Exception as err:  # noqa: BLE001 # whatever a library raises, the engine goes on alone
            reason = f"{type(err).__name__}: {(str(err).splitlines() or [''])[0]}"
            self._fail(EngineDied(f"The devices could not be connected: {reason}."))
            return
        with self._changed:
            self.has_met = not self.is_over
            self.links, self._meeting = links if self.has_met else None, None
            self._changed.notify_all()

    def _listen(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        said: FluxError | None = None
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                try:
                    report = Report.model_validate_json(line)
                except ValidationError:
                    continue  # not a report; there is nothing to do about it
                if report.failed is not None:
                    said = self._told(rank, *report.failed)
                self._hear(rank, report)
        code = process.wait()
        self._fail(said or self._died(rank, code))

    def _hear(self, rank: int, report: Report) -> None:
        with self._changed:
            if report.device is not None:
                self.seen[rank] = report.device
            if report.loaded is not None:
                self._loaded[rank] = report.loaded
            if report.recorded is not None:
                self._recorded[rank] = report.recorded
            self._changed.notify_all()

    def _fail(self, failure: FluxError) -> None:
        with self._changed:
            if self._is_over or self.failure is not None:
                return
            self.failure = failure
            self._changed.notify_all()
        _log.warning("%s", failure)
        for process in self._processes:
            process.kill()
        self._let_go()

    def _told(self, rank: int, code: str, message: str, hint: str) -> FluxError:
        return from_code(
            code, f"The process on {self._devices[rank - 1]} failed: {message.rstrip('.')}.", hint
        )

    def _died(self, rank: int, code: int) -> EngineDied:
        ending = f"ended with exit code {code}"
        if code < 0:
            ending = f"was ended by {signal.Signals(-code).name}"
        return EngineDied(
            f"The process that computes on {self._devices[rank - 1]} {ending}.",
            "The next picture starts it again.",
        )


def _started(device: str, meet: Path, rank: int, size: int, way: Way) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "backends.torch_cuda.split", "--device", device]
    command += ["--meet", str(meet), "--rank", str(rank), "--size", str(size), "--way", way]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

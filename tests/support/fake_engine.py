"""A real engine that paints flat pictures and does what its prompt says, to test the service with.

It answers every task alike: by as many pictures as were asked for, of the size that was asked for.

Words of the prompt, in any order:
    steps=N       this many steps (default 3), each with progress and a preview
    step_s=X      a step takes so many seconds (default 0)
    until=PATH    the first step lasts until this file exists
    note=PATH     appends the seed to this file when the job starts
    echo          gives the source picture back, scaled to the size asked for
    shift=N       with echo: N pixels to the right of where it was
    warn          says that it left something out
    print         prints to stdout, as libraries do
    hang          goes on until cancelled
    deaf          goes on for ever, whatever it is told
    fail          refuses the request
    oom           runs out of memory
    bug           raises what an engine should not
    vanish        misses a file that was there
    mumble        says its last words on stderr; with crash
    crash         ends its own process with SIGKILL
    exit          ends its own process with code 7
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from flux_core.engine import EngineImage, EngineResult
from flux_core.errors import Cancelled, OutOfMemory, RequestInvalid
from flux_core.messages import Device, Preview, Progress, Stage
from flux_core.request import GenerationRequest

POLL_S = 0.005


class FakeEngine:
    name = "fake"

    def devices(self) -> tuple[Device, ...]:
        return (Device(name="Fake", kind="cpu", memory_total_bytes=2**30, memory_free_bytes=2**29),)

    def run(
        self,
        request: GenerationRequest,
        read_blob: Callable[[str], bytes],
        say: Callable[[Progress | Preview], None],
        is_cancelled: Callable[[], bool],
    ) -> EngineResult:
        words = dict(word.partition("=")[::2] for word in request.prompt.split())
        pause = threading.Event()
        if "note" in words:
            with Path(words["note"]).open("a") as file:
                file.write(f"{request.seed}\n")
        for sha256 in request.blobs:
            read_blob(sha256)
        num_steps = int(words.get("steps", "3"))
        say(Progress(stage=Stage.LOADING, fraction=0.0))
        for step in range(1, num_steps + 1):
            if is_cancelled():
                raise Cancelled("The job was cancelled.")
            pause.wait(float(words.get("step_s", "0")))
            say(Progress(stage=Stage.DENOISING, fraction=step / num_steps, step=step, num_steps=num_steps))
            say(Preview(webp_base64=_paint(request, 8, 8, "WEBP"), step=step))
            while "until" in words and not Path(words["until"]).exists():
                if is_cancelled():
                    raise Cancelled("The job was cancelled.")
                pause.wait(POLL_S)
            _obey(words, is_cancelled)
        images = tuple(
            EngineImage(_picture(request, words, k, read_blob), request.width_px, request.height_px, seed)
            for k, seed in enumerate(range(request.seed, request.seed + request.num_images))
        )
        warnings = ("The fake engine left something out.",) if "warn" in words else ()
        return EngineResult(images, {"denoising": 0.0}, peak_memory_bytes=1, warnings=warnings)


def create(models_dirs: tuple[Path, ...]) -> FakeEngine:
    return FakeEngine()


def create_broken(models_dirs: tuple[Path, ...]) -> FakeEngine:
    raise OutOfMemory("The fake engine does not fit.", "Buy memory.")


def create_crashing(models_dirs: tuple[Path, ...]) -> FakeEngine:
    sys.stderr.write("cannot load libfake.so\n")
    sys.stderr.flush()
    os._exit(9)


def create_slow(models_dirs: tuple[Path, ...]) -> FakeEngine:
    while True:  # an engine whose model never gets loaded
        threading.Event().wait(60)


def expected_png(request: GenerationRequest) -> bytes:
    return base64.b64decode(_paint(request, request.width_px, request.height_px, "PNG"))


def _picture(
    request: GenerationRequest, words: dict[str, str], index: int, read_blob: Callable[[str], bytes]
) -> bytes:
    size = (request.width_px, request.height_px)
    if "echo" in words and request.image is not None:
        picture = Image.open(io.BytesIO(read_blob(request.image))).convert("RGB").resize(size)
        shift = int(words.get("shift", "0"))
        file = io.BytesIO()
        picture.transform(size, Image.Transform.AFFINE, (1, 0, -shift, 0, 1, 0)).save(file, "PNG")
        return file.getvalue()
    one = request.model_copy(update={"seed": request.seed + index}) if index else request
    return base64.b64decode(_paint(one, *size, "PNG"))


def _obey(words: dict[str, str], is_cancelled: Callable[[], bool]) -> None:
    pause = threading.Event()
    if "print" in words:
        print("a library says hello", flush=True)  # noqa: T201
        os.write(1, b"and so does its C code\n")
    if "mumble" in words:
        sys.stderr.write("I do not feel well\n")
        sys.stderr.flush()
    if "crash" in words:
        os.kill(os.getpid(), signal.SIGKILL)
    if "exit" in words:
        os._exit(7)
    if "fail" in words:
        raise RequestInvalid("The fake engine does not like this.", "Ask for something else.")
    if "oom" in words:
        raise MemoryError
    if "bug" in words:
        raise ZeroDivisionError("one over nothing")
    if "vanish" in words:
        Path("/nowhere/tokenizer.json").read_bytes()
    while "hang" in words:
        if is_cancelled():
            raise Cancelled("The job was cancelled.")
        pause.wait(POLL_S)
    while "deaf" in words:
        pause.wait(POLL_S)


def _paint(request: GenerationRequest, width_px: int, height_px: int, kind: str) -> str:
    color = hashlib.sha256(request.model_dump_json().encode()).digest()[:3]
    file = io.BytesIO()
    Image.new("RGB", (width_px, height_px), tuple(color)).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from backends.service.blobs import BlobStore
from backends.service.engine_process import EngineProcess, WorkerSpec
from flux_core.messages import Failed, Finished, Preview, Progress
from flux_core.request import GenerationRequest, build_request
from tests.support.fake_engine import expected_png

T = TypeVar("T")
FAKE = "tests.support.fake_engine:create"


def with_engine(
    tmp_path: Path,
    use: Callable[[EngineProcess], Awaitable[T]],
    engine: str = FAKE,
    cancel_grace_s: float = 30.0,
) -> T:
    async def main() -> T:
        spec = WorkerSpec(engine, tmp_path / "blobs", (tmp_path,), tmp_path / "engine.log")
        process = EngineProcess(spec, lambda: None, cancel_grace_s)
        try:
            return await use(process)
        finally:
            await process.stop()
            assert not workers()

    return asyncio.run(main())


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "backends.service.worker" in child.cmdline()]


def request(prompt: str) -> GenerationRequest:
    return build_request(prompt=prompt, width_px=64, height_px=64)


def test_a_job_says_how_it_goes_and_leaves_its_picture_in_the_store(tmp_path: Path):
    said: list[Progress | Preview] = []

    async def use(process: EngineProcess) -> Finished | Failed:
        return await process.run("1", request("steps=2"), said.append)

    outcome = with_engine(tmp_path, use)
    assert isinstance(outcome, Finished)
    assert BlobStore(tmp_path / "blobs").read(outcome.images[0].sha256) == expected_png(request("steps=2"))
    fractions = [message.fraction for message in said if isinstance(message, Progress)]
    assert fractions == [0.0, 0.5, 1.0]


def test_a_library_that_prints_does_not_disturb_the_reports(tmp_path: Path):
    async def use(process: EngineProcess) -> Finished | Failed:
        return await process.run("1", request("print"), lambda _: None)

    assert isinstance(with_engine(tmp_path, use), Finished)
    log = (tmp_path / "engine.log").read_text()
    assert "a library says hello" in log
    assert "and so does its C code" in log


@pytest.mark.parametrize(
    ("prompt", "code", "words"),
    [
        ("fail", "request_invalid", "does not like this"),
        ("oom", "out_of_memory", "ran out of memory"),
        ("bug", "internal", "ZeroDivisionError"),
        ("vanish", "model_missing", "tokenizer.json is no longer there"),
        ("crash", "engine_died", "SIGKILL"),
        ("exit", "engine_died", "exit code 7"),
        ("mumble crash", "engine_died", "I do not feel well"),
    ],
)
def test_a_job_that_fails_says_why_and_the_next_one_runs(tmp_path: Path, prompt: str, code: str, words: str):
    async def use(process: EngineProcess) -> tuple[Finished | Failed, Finished | Failed]:
        first = await process.run("1", request(prompt), lambda _: None)
        return first, await process.run("2", request("after"), lambda _: None)

    first, second = with_engine(tmp_path, use)
    assert isinstance(first, Failed)
    assert first.code == code
    assert words in first.message
    assert isinstance(second, Finished)


def test_an_idle_engine_that_is_killed_starts_again_by_itself(tmp_path: Path):
    async def use(process: EngineProcess) -> None:
        await process.run("1", request(""), lambda _: None)
        (child,) = workers()
        os.kill(child.pid, signal.SIGKILL)
        while process.state == "ready":
            await asyncio.sleep(0.005)
        assert "SIGKILL" in process.detail
        assert isinstance(await process.run("2", request(""), lambda _: None), Finished)
        assert process.detail == ""

    with_engine(tmp_path, use)


def test_an_engine_that_cannot_be_made_gives_its_own_reason(tmp_path: Path):
    async def use(process: EngineProcess) -> Finished | Failed:
        return await process.run("1", request(""), lambda _: None)

    outcome = with_engine(tmp_path, use, "tests.support.fake_engine:create_broken")
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.message) == ("out_of_memory", "The fake engine does not fit.")


def test_an_engine_that_dies_while_it_is_made_is_not_started_in_a_loop(tmp_path: Path):
    async def use(process: EngineProcess) -> Finished | Failed:
        outcome = await process.run("1", request(""), lambda _: None)
        assert process.state == "engine_died"
        return outcome

    outcome = with_engine(tmp_path, use, "tests.support.fake_engine:create_crashing")
    assert isinstance(outcome, Failed)
    assert "cannot load libfake.so" in outcome.message


def test_a_job_can_be_cancelled_while_the_engine_is_still_being_made(tmp_path: Path):
    async def use(process: EngineProcess) -> Finished | Failed:
        job = asyncio.create_task(process.run("1", request(""), lambda _: None))
        while process.state != "loading":
            await asyncio.sleep(0.005)
        assert process.cancel("1")
        return await job

    outcome = with_engine(tmp_path, use, "tests.support.fake_engine:create_slow")
    assert isinstance(outcome, Failed)
    assert outcome.code == "cancelled"


def test_a_job_cancelled_while_the_process_starts_is_never_carried_out(tmp_path: Path):
    note = tmp_path / "note"

    async def use(process: EngineProcess) -> tuple[Finished | Failed, Finished | Failed]:
        first = asyncio.create_task(process.run("1", request(f"note={note}"), lambda _: None))
        await asyncio.sleep(0)  # lets it begin, and no more
        assert process.cancel("1")
        return await first, await process.run("2", request(""), lambda _: None)

    first, second = with_engine(tmp_path, use)
    assert isinstance(first, Failed)
    assert first.code == "cancelled"
    assert isinstance(second, Finished)
    assert not note.exists()


def test_an_engine_that_is_deaf_to_a_cancel_is_ended(tmp_path: Path):
    async def use(process: EngineProcess) -> tuple[Finished | Failed, Finished | Failed]:
        started = asyncio.Event()
        job = asyncio.create_task(process.run("1", request("deaf"), lambda _: started.set()))
        await started.wait()
        assert process.cancel("1")
        return await job, await process.run("2", request(""), lambda _: None)

    first, second = with_engine(tmp_path, use, cancel_grace_s=0.1)
    assert isinstance(first, Failed)
    assert first.code == "cancelled"
    assert isinstance(second, Finished)

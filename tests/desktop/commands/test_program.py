"""The program around the commands: help, exit codes, Ctrl-C, jobs, the service, what is missing."""

from __future__ import annotations

import importlib.metadata
import signal
import subprocess
import sys

import numpy as np
import pytest

from desktop.commands import doctor, qt_libraries
from desktop.commands.window import NoDisplay, check_display
from flux_core.errors import FluxError
from flux_core.messages import JobState


def test_help_names_every_command(flowbrush):
    said = flowbrush("--help")
    assert said.code == 0
    words = [
        "generate",
        "transform",
        "fill",
        "edit",
        "control",
        "vary",
        "upscale",
        "plan",
        "project",
        "serve",
        "jobs",
        "models",
        "doctor",
        "demo",
        "bench",
    ]
    assert all(f"  {word} " in said.out for word in words)


def test_the_version_is_the_package_s(flowbrush):
    assert flowbrush("--version").out.strip() == importlib.metadata.version("flowbrush")


def test_help_loads_nothing_heavy(environ):
    code = (
        "import sys, desktop.commands.main\n"
        "heavy = {'numpy', 'PIL', 'torch', 'PySide6', 'pydantic', 'httpx', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [["generate", "x"], ["transform", "a.png", "x"], ["fill", "a.png", "x", "--mask", "mask.png"]],
    ids=lambda arguments: arguments[0],
)
def test_a_command_that_paints_has_loaded_no_window_and_no_engine_when_it_sends_its_job(
    arguments, environ, write, noise, tmp_path
):
    write("a.png", noise(64, 64, 3))
    write("mask.png", np.full((64, 64), 255, np.uint8))
    code = (
        "import sys\n"
        "from backends.remote.client import ServiceClient\n"
        "from desktop.commands.main import run\n"
        "submit = ServiceClient.submit\n"
        "def told(*given, **named):\n"
        "    heavy = {'torch', 'mlx', 'PySide6', 'cv2', 'scipy', 'fastapi', 'diffusers', 'transformers'}\n"
        "    print(sorted(heavy & set(sys.modules)))\n"
        "    return submit(*given, **named)\n"
        "ServiceClient.submit = told\n"
        "sys.exit(run(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *arguments, "-o", "out.png"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[0] == "[]"


@pytest.mark.parametrize("arguments", [["--nosuch"], ["fill"], ["project", "dance"], ["generate", "--size"]])
def test_a_wrong_command_line_is_exit_code_two_and_one_line(flowbrush, arguments):
    said = flowbrush(*arguments)
    assert said.code == 2
    assert "--help" in said.err
    assert said.err.count("\n") == 1


def test_files_open_the_window_and_a_missing_one_is_named(flowbrush):
    said = flowbrush("holiday.png")
    assert said.code == 2
    assert "holiday.png" in said.err


def test_without_a_display_it_says_what_to_do(flowbrush, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    said = flowbrush()
    assert said.code == 1
    assert "flowbrush demo" in said.err
    with pytest.raises(NoDisplay):
        check_display("linux", {})
    check_display("linux", {"WAYLAND_DISPLAY": "wayland-0"})
    check_display("darwin", {})


def test_a_missing_system_library_is_named_with_its_package():
    with pytest.raises(FluxError, match="libfrob") as caught, qt_libraries.explained():
        raise ImportError("libfrob.so.7: cannot open shared object file: No such file or directory")
    assert "apt-get install" in caught.value.hint
    with pytest.raises(ImportError), qt_libraries.explained():
        raise ImportError("No module named 'frob'")


def test_a_mistake_of_ours_is_one_sentence_and_with_debug_a_traceback(flowbrush, monkeypatch):
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("one over nothing")

    monkeypatch.setattr("flux_core.catalog.model_infos", broken)
    said = flowbrush("models", "list")
    assert said.code == 1
    assert "--debug" in said.err
    assert "Traceback" not in said.err
    with pytest.raises(ZeroDivisionError):
        flowbrush("models", "list", "--debug")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
def test_ctrl_c_cancels_the_job_at_the_service(client, environ, tmp_path):
    command = [sys.executable, "-m", "desktop.commands", "generate", "hang", "-o", str(tmp_path / "a.png")]
    before = {record.job_id for record in client.jobs()}
    last = max((record.seq for record in client.jobs()), default=0)
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
    running = next(
        event.job_id
        for event in client.events(last)
        if event.record is not None and event.record.state is JobState.RUNNING and event.job_id not in before
    )
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.strip().endswith("Cancelled.")
    assert client.job(running).state is JobState.CANCELLED
    assert not (tmp_path / "a.png").exists()


def test_a_request_that_was_refused_is_no_job_in_the_list(flowbrush):
    before = flowbrush("jobs", "list", "--json").json
    assert flowbrush("generate", "fail", "-o", "a.png").code == 2
    assert flowbrush("generate", "vanish", "-o", "a.png").code == 1
    assert flowbrush("jobs", "list", "--json").json == before
    assert flowbrush("generate", "bug", "-o", "a.png").code == 1
    after = flowbrush("jobs", "list", "--json").json
    assert [record["failed"]["code"] for record in after[len(before) :]] == ["internal"]


def test_jobs_are_listed_shown_fetched_and_acknowledged(flowbrush, tmp_path):
    made = flowbrush("generate", "two words", "--seed", 4, "-o", "a.png", "--size", "64x64", "--json").json
    listed = flowbrush("jobs")
    assert made["job_id"][:8] in listed.out
    assert "two words" in listed.out
    assert flowbrush("jobs", "list", "--json").json[-1]["job_id"] == made["job_id"]
    shown = flowbrush("jobs", "show", made["job_id"][:13], "-o", "again.png")
    assert "state     done" in shown.out
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    assert flowbrush("jobs", "ack", made["job_id"], "--json").json["is_acknowledged"]
    assert flowbrush("jobs", "cancel", made["job_id"]).out.strip().endswith("is done.")


def test_an_unknown_or_ambiguous_job_is_a_wrong_request(flowbrush):
    for _ in range(2):
        flowbrush("generate", "x", "-o", "a.png", "--size", "64x64")
    assert flowbrush("jobs", "show", "zzz").code == 2
    assert flowbrush("jobs", "show", "").code == 2


def test_models_are_listed_with_licence_and_size(flowbrush):
    models = {model["model"]: model for model in flowbrush("models", "list", "--json").json}
    assert {"tiny", "flux1-dev", "flux1-schnell"} <= set(models)
    assert "Non-Commercial" in flowbrush("models", "list").out


def test_a_model_that_cannot_do_the_task_is_refused_before_the_job_is_made(flowbrush, client):
    before = len(client.jobs())
    said = flowbrush("generate", "x", "--model", "flux1-fill-dev", "-o", "a.png", "--size", "64x64")
    assert said.code == 2
    assert said.err.startswith("FLUX.1 Fill [dev] cannot do generate.")
    assert len(client.jobs()) == before


def test_doctor_looks_at_everything_and_says_what_to_do(flowbrush):
    said = flowbrush("doctor", "--json")
    findings = {finding["name"]: finding for finding in said.json}
    assert {"Python", "Packages", "Qt", "Home folder", "Disk space", "Models", "Service"} <= set(findings)
    assert findings["Service"]["is_fine"]
    assert findings["Device"]["detail"].startswith("Fake (cpu)")
    assert (said.code == 0) == all(finding["is_fine"] for finding in findings.values())
    assert all(finding["hint"] for finding in findings.values() if not finding["is_fine"])


def test_a_second_service_for_the_same_home_is_refused(flowbrush, service_home):
    said = flowbrush("serve", "--home", service_home, "--engine", "tests.support.fake_engine:create")
    assert said.code == 2
    assert "already runs" in said.err


def test_a_service_listens_on_this_machine_only(flowbrush, tmp_path):
    said = flowbrush("serve", "--home", tmp_path, "--tcp", "0.0.0.0:7000")
    assert said.code == 2
    assert "127.0.0.1" in said.err


def test_doctor_says_of_what_is_optional_and_missing_that_it_is_and_what_it_would_give(
    flowbrush, monkeypatch
):
    monkeypatch.setitem(doctor._OPTIONAL, "no-such-package", "wings")
    monkeypatch.setitem(qt_libraries.WINDOW, "libno-such-library.so.9", "libno-such-library9")
    lines = flowbrush("doctor").out.splitlines()
    assert "-   no-such-package: not installed (optional); it gives wings" in lines
    window = next(i for i, line in enumerate(lines) if "libno-such-library.so.9" in line)
    assert lines[window].endswith("not installed (optional); it gives a window on X11")
    assert "apt-get install" in lines[window + 1]
    assert not any(line.startswith("FIX no-such") for line in lines)
    found = {each["name"]: each for each in flowbrush("doctor", "--json").json}
    assert found["no-such-package"]["is_left_out"]
    assert not found["Python"]["is_left_out"]

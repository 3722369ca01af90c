"""`flowbrush train lora` on the bundled model: its LoRA works at once, and a stop or kill costs no save."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from backends.torch_cuda.engine import TorchEngine
from desktop.commands import train
from desktop.commands.main import run
from flux_core.imaging import codec
from flux_core.lora_training import Decay, build_training
from flux_core.request import LoraUse
from tests.support import engine_runs

ROOT = Path(__file__).parents[3]
BUNDLED = ROOT / "resources" / "models"
OPTIONS = ("--size", "64", "--steps", "4", "--batch", "2", "--lr", "0.02", "--save-every", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four pictures of a green ring on violet; two of them have words of their own."""
    where = tmp_path_factory.mktemp("pictures") / "green rings"
    where.mkdir()
    y, x = np.mgrid[0:64, 0:80]
    for number in range(4):
        radius = np.hypot(x - 40, y - 32)
        is_ring = (radius < 26 - number) & (radius > 14)
        pixels = np.where(is_ring[..., None], (60, 230, 90), (80, 20, 110)).astype(np.uint8)
        (where / f"{number}.png").write_bytes(codec.encode_png(pixels))
        if number % 2:
            (where / f"{number}.txt").write_text("a ring")
    return where


def environ(home):
    return {**os.environ, "FLOWBRUSH_HOME": str(home), "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def call(home, monkeypatch, capsys):
    """Runs the command line in this process; its trainer is a process of its own."""

    def runs(*arguments):
        monkeypatch.setenv("FLOWBRUSH_HOME", str(home))
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return runs


@pytest.fixture
def rings(call, folder, home):
    """The LoRA of a training that nothing disturbed."""
    file = home / "models" / "loras" / "green rings.safetensors"
    if not file.exists():
        code, out, err = call("train", "lora", folder, "--trigger", "poster", *OPTIONS, "--sample", "a ring")
        assert (code, "Wrote" in out, "Painted" in err) == (0, True, True), err
    return file


def test_a_trained_lora_paints_at_once_and_strength_0_is_without_it(rings, home, call):
    engine = TorchEngine("cpu", (home / "models", BUNDLED))

    def painted(*loras):
        fields = {"model": "tiny", "prompt": "poster, a cat", "num_steps": 2, "loras": loras}
        return engine_runs.run(engine, **fields).result

    plain = painted().images[0].png
    assert painted(LoraUse(name="green rings", strength=0)).images[0].png == plain
    changed = painted(LoraUse(name="green rings"))
    assert changed.images[0].png != plain
    assert changed.warnings == ()
    code, out, _ = call("models", "list")
    assert code == 0
    assert "loras/green rings.safetensors" in out
    samples = sorted(path.name for path in rings.with_suffix("").iterdir())
    assert samples == [f"step-{step:06d}-1.png" for step in range(5)]


def test_a_killed_training_goes_on_from_its_last_save_and_ends_as_if_nothing_had_been(
    rings, home, folder, call
):
    training = build_training(
        folder=str(folder), name="killed", trigger="poster", size_px=64, num_steps=4, batch_size=2,
        learning_rate=0.02, save_every=2,
    )  # fmt: skip
    output, work = home / "models" / "loras" / "killed.safetensors", home / "training" / "killed"
    command = [sys.executable, "-m", train._TRAINER, "--models", str(BUNDLED)]
    command += ["--output", str(output), "--work", str(work)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
    with subprocess.Popen(command, cwd=ROOT, env=environ(home), **pipes) as process:
        process.stdin.write(training.model_dump_json(exclude_unset=True).encode() + b"\n")
        for line in process.stdout:
            if json.loads(line)["kind"] == "wrote":
                process.kill()
    assert int(load_file(work / "state.safetensors")["step"]) == 2
    code, out, err = call("train", "lora", folder, "-o", "killed", "--resume", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["step"] == 4
    ours, theirs = load_file(output), load_file(rings)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_ctrl_c_saves_and_says_how_to_go_on(home, folder):
    command = [sys.executable, "-m", "desktop.commands", "train", "lora", str(folder), "--trigger", "poster"]
    command += ["--output", "stopped", "--size", "64", "--steps", "100000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environ(home), start_new_session=True, **pipes) as process:
        for line in process.stderr:
            if line.startswith("Training "):
                os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the trainer, too
                break
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in out
    assert int(load_file(home / "training" / "stopped" / "state.safetensors")["step"]) > 0
    assert (home / "models" / "loras" / "stopped.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--rank", "0"), "--rank cannot be 0: it must be a whole number from 1 to 256."),
        (("--size", "100"), "The size: it must be a multiple of 16 pixels"),
        (("--lr", "7"), "--lr cannot be 7.0: it must be a number above 0 and up to 1."),
        (("--output", "a/b"), "--output cannot be 'a/b': it must be a file name"),
        (("--steps", "0"), "--steps cannot be 0"),
        (("--model", "nothing"), "There is no model called 'nothing'."),
        (("--size", "512"), "0.png is 80 x 64 pixels, too small to train at 512."),
        ((), "2 of 4 pictures have no caption: 0.png, 2.png."),
    ],
)
def test_a_wrong_request_is_a_sentence(call, folder, arguments, sentence):
    trigger = () if not arguments else ("--trigger", "poster")
    name = () if "--output" in arguments else ("--output", "wrong")
    code, out, err = call("train", "lora", folder, *trigger, *name, *arguments)
    assert (code, out) == (2, "")
    assert sentence in err


def test_the_names_of_decays_are_the_request_s():
    assert [one.value for one in train.DecayName] == [one.value for one in Decay]

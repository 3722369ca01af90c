"""`flowbrush models quantize` writes the copy, reports every layer, and never replaces a file unasked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from desktop.commands.main import run
from flux_core.weights.open import open_source
from tests.support.lora_files import PEFT, Draw
from tests.support.small_parts import make_part


def test_the_command_writes_the_copy_and_reports_every_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = make_part("transformer").weights
    save_file(weights, tmp_path / "source.safetensors")
    copy = tmp_path / "copy.safetensors"
    arguments = ["models", "quantize", str(tmp_path / "source.safetensors"), "--to", "mlx4", "-o", str(copy)]
    assert run([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["scheme"] == "MLX4_G64"
    assert len(result["layers"]) + len(result["kept"]) == len(weights)
    assert all(0 < layer["relative_rms"] < 0.2 for layer in result["layers"])
    assert open_source(copy).read(result["layers"][0]["name"]).dtype == "MLX4_G64"
    assert run(arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert run([*arguments, "--force"]) == 0
    assert "MLX 4-bit" in capsys.readouterr().out


def test_a_lora_is_refused_and_a_missing_source_is_said_before_the_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = tmp_path / "style.safetensors"
    save_file(Draw().pair("transformer.transformer_blocks.0.attn.to_k", 3072, 3072, 64, PEFT), lora)
    copy = tmp_path / "copy.safetensors"
    assert run(["models", "quantize", str(lora), "--to", "fp8", "-o", str(copy)]) == 2
    assert capsys.readouterr().err.startswith("The file is a LoRA, which is small already")
    assert not copy.exists()
    copy.write_text("here")
    missing = str(tmp_path / "none.safetensors")
    for output in (copy, tmp_path / "copy.bin"):
        assert run(["models", "quantize", missing, "--to", "fp8", "-o", str(output)]) == 1
        assert "none.safetensors cannot be read" in capsys.readouterr().err

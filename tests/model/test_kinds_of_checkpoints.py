"""Folders that are no vision-language model, and code that a checkpoint brings along."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlmscope.errors import ModelError
from vlmscope.model import load_model


def folder_of(path: Path, **config: object) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("model_type", ["llama", "clip", "whisper", "qwen2_audio", "voxtral"])
def test_a_model_of_another_kind_is_refused_before_its_weights(
    tmp_path: Path, model_type: str
) -> None:
    folder = folder_of(tmp_path / "model", model_type=model_type)
    with pytest.raises(ModelError, match=f"'{model_type}' takes no questions about images"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "florence2"},
        {"model_type": "udop"},
        {"model_type": "instructblip", "text_config": {"model_type": "t5"}},
    ],
)
def test_an_encoder_decoder_is_refused_by_that_word(
    tmp_path: Path, config: dict[str, object]
) -> None:
    folder = folder_of(tmp_path / "model", **config)
    with pytest.raises(ModelError, match="is an encoder-decoder") as caught:
        load_model(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_code_of_a_checkpoint_is_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is asked either: a run in the background would wait for ever."""
    folder = folder_of(
        tmp_path / "model", model_type="internvl_chat", auto_map={"AutoConfig": "code.Config"}
    )
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ModelError, match="code of its own, which is never run"):
        load_model(folder, device="cpu")
    assert not (tmp_path / "ran").exists()
    assert "code" not in capsys.readouterr().out

"""A chat template that fails: the model is refused if it always does, else a row fails."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vlmscope.dataset import open_table
from vlmscope.dataset.tables import json as json_tables
from vlmscope.engine import prepare
from vlmscope.errors import InputError, ModelError
from vlmscope.model import VisionLanguageModel, load_model
from vlmscope.model.loading import load
from vlmscope.model.loading.checks import check_model_parts
from vlmscope.prompt import chat_template
from vlmscope.schema import Sample

FAILING = {
    "{% if %}": "TemplateSyntaxError",
    "{{ messages|nothing }}": "No filter named 'nothing'",
    "{{ nothing.x.y }}": "UndefinedError: 'nothing' is undefined",
    "{{ ''.__class__.__mro__ }}": "SecurityError",
    "{{ raise_exception('never mind') }}": "never mind",
    "{% for i in range(10**9) %}x{% endfor %}": "OverflowError",
    "{{ 'a' * 10**15 }}": "MemoryError",
    "{{ 1 / 0 }}": "ZeroDivisionError",
    "{{ 1 + messages }}": "TypeError",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "RecursionError",
}
"""Template → what is said of it."""


def with_template(vlm: VisionLanguageModel, template: str) -> VisionLanguageModel:
    processor = copy.copy(vlm.processor)
    processor.chat_template = template
    return replace(vlm, processor=processor)


@pytest.mark.parametrize("template", FAILING)
def test_a_template_that_always_fails_is_refused(vlm: VisionLanguageModel, template: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_model_parts(with_template(vlm, template))
    text = str(caught.value)
    assert text.startswith(f"{vlm.name}: the checkpoint's chat template fails (")
    assert FAILING[template] in text
    assert "\n" not in text


@pytest.mark.parametrize("template", [t for t in FAILING if "{% if %}" not in t])
def test_a_template_that_fails_on_a_row(
    vlm: VisionLanguageModel, samples: list[Sample], template: str
) -> None:
    if "|nothing" in template:
        template = "{{ messages.nothing() }}"  # an unknown filter is found before any row
    whole = chat_template(vlm.processor)
    odd = with_template(
        vlm, "{% if 'zebra' in messages|string %}" + template + "{% endif %}" + whole
    )
    rows = [samples[0], replace(samples[1], id="odd", question="Is there a zebra?"), samples[2]]
    batches, [failure] = prepare(rows, odd)
    good = [sample.id for batch in batches for sample in batch.samples]
    assert sorted(good) == sorted([samples[0].id, samples[2].id])
    assert (failure.id, failure.stage) == ("odd", "prompt")
    assert "the checkpoint's chat template fails (" in failure.error
    assert "\n" not in failure.error


def test_a_model_that_does_not_fit_into_memory(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Large:
        @staticmethod
        def from_pretrained(*_: Any, **__: Any) -> None:
            raise MemoryError

    monkeypatch.setattr(load, "auto_class", lambda _: Large)
    with pytest.raises(ModelError, match="the weights do not fit on cpu: MemoryError"):
        load_model(checkpoint, device="cpu")


@pytest.mark.parametrize("kind", ["t.json", "t.jsonl"])
def test_a_table_that_does_not_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / kind
    row = '{"id": 1, "image": "a", "question": "?"}'
    path.write_text(f"[{row}]" if kind == "t.json" else row)
    table = open_table(path)

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(json_tables.json, "loads", fail)
    for read in (table.scan, lambda: open_table(path)):
        with pytest.raises(InputError, match=f"{kind}: does not fit into memory"):
            read()


def test_a_folder_whose_path_is_not_utf8(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "b\udcffd"))
    with pytest.raises(ModelError, match="the path is not UTF-8"):
        load_model(folder, device="cpu")

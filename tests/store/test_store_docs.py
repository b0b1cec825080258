"""The format document tells the truth: its code runs on a real run, its names are the real ones."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlmscope.store
from store_support import LAYERS, make_capture, make_manifest
from vlmscope.sampling import SampledAnswer, arrays_of, is_of_samples
from vlmscope.signals import INTEGERS, PREVIOUS
from vlmscope.store import bytes_per_row
from vlmscope.store.format.batch import block_of
from vlmscope.store.format.shard import build_shard

FORMAT = Path(__file__).parents[2] / "docs" / "format.md"


def test_the_code_reads_every_field(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", FORMAT.read_text("utf-8"), re.DOTALL):
        exec(block, found)  # noqa: S102
    wanted = make_capture(7)
    assert found["image_id"] == wanted.sample.image_id
    assert found["question"] == wanted.sample.question
    assert found["truth"] == wanted.sample.target
    assert found["answer"] == wanted.answer
    assert np.array_equal(found["vision_only"], wanted.vectors["vision_only_representation"])
    for name in ("vision_token", "query_token"):
        assert found[name].keys() == {f"layer_{layer}" for layer in LAYERS}
        for leaf, vector in found[name].items():
            assert np.array_equal(vector, wanted.vectors[f"{name}_representation/{leaf}"])
    assert (found["vision_token_boundary"], found["query_token_boundary"]) == (5, 40)
    assert np.array_equal(found["tokens"][0], wanted.answer_token_ids)
    assert found["stopped"][0] == "stop"
    assert found["after_final_norm"]
    assert found["matrix"].shape == (10, 8)
    assert sorted(found["ids"]) == sorted(found["ids_from_names"]) == sorted(found["run"].ids)
    assert found["made"][1] == 10
    assert found["damage"] == []
    found["index"].close()


def test_every_name_on_disk_is_in_the_document(run: Path) -> None:
    import h5py

    text = FORMAT.read_text("utf-8")
    with h5py.File(run / "shards" / "pack-000-000003.h5") as file:
        row = file["question_comb_7"]
        names = {*file.attrs, *row, *row.attrs, *file["_columns"], "sha256", "final_norm"}
    assert [
        name for name in sorted(names) if f"`{name}`" not in text and f" {name}" not in text
    ] == []


def test_all_is_sorted_and_true() -> None:
    names = vlmscope.store.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(vlmscope.store, name) for name in names)


SIGNALS = {
    "signals": ("entropy", "attention", "heads", "p_true"),
    "signal_widths": {f"heads/layer_{layer}": 512 for layer in range(10)},
    "attention_layers": tuple(range(10)),
    "attention_heads": 8,
}
"""What a capture record says of signals."""

LENS = {"signals": ("entropy", "lens")}

SAMPLED = {
    "signals": ("entropy", "samples"),
    "signal_widths": {f"samples/layer_{layer}": 512 for layer in range(10)},
    "samples": 5,
    "max_new_tokens": 100,
}


def sampled(rng: np.random.Generator) -> dict[str, Any]:
    """Return the arrays of five samples."""
    states = {layer: rng.random(512, np.float32) for layer in range(10)}
    ids, logprobs = np.arange(60), np.zeros(60, np.float32)
    return arrays_of([SampledAnswer("word " * 50, ids, logprobs, "stop", states)] * 5)


def shape_of(name: str, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the shape of an array of an answer of 60 tokens, of which one ends the turn."""
    if name == PREVIOUS:
        return 59, 10
    return (60,) if shape is None else shape


@pytest.mark.first(1)
@pytest.mark.parametrize(
    "signals", [SIGNALS, {}, LENS, SAMPLED], ids=["signals", "no signals", "lens", "samples"]
)
@pytest.mark.parametrize("store_dtype", ["float32", "float16"])
def test_the_size_of_a_row_is_about_right(store_dtype: Any, signals: dict[str, Any]) -> None:
    layers = tuple(range(10))
    manifest = make_manifest(
        store_dtype=store_dtype,
        capture={"layers": layers, **signals},
        model={"num_layers": 10, "hidden_size": 512, "vision_size": 768},
    )
    rng = np.random.default_rng(0)
    captures = [
        make_capture(
            i,
            vectors={path: rng.random(d, np.float32) for path, d in manifest.widths().items()},
            answer="word " * 50,
            answer_token_ids=np.arange(60),
            answer_logprobs=np.zeros(60, np.float32),
            signals={
                name: np.asarray(rng.random(shape_of(name, shape), np.float32)).astype(
                    np.int32 if name in INTEGERS else np.float32
                )
                for name, shape in manifest.signals().items()
                if not is_of_samples(name)
            }
            | (sampled(rng) if "samples" in signals else {}),
        )
        for i in range(50)
    ]
    block = block_of(captures, manifest.widths(), manifest.signals())
    found = sum(map(len, build_shard(block, manifest, writer="000"))) / len(captures)
    assert bytes_per_row(manifest) == pytest.approx(found, rel=0.05)

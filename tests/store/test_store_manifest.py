import json
from pathlib import Path

import pytest

from store_support import make_manifest
from vlmscope.errors import InputError, RunMismatchError, StoreError
from vlmscope.store import check_same, read_manifest, write_manifest


def test_it_comes_back(tmp_path: Path) -> None:
    write_manifest(tmp_path, make_manifest())
    assert read_manifest(tmp_path) == make_manifest()


def test_every_difference_is_named() -> None:
    wanted = make_manifest(
        dtype="bfloat16", model={"weights_hash": "x"}, capture={"max_new_tokens": 0}
    )
    with pytest.raises(RunMismatchError) as caught:
        check_same(make_manifest(), wanted)
    message = str(caught.value)
    assert 'dtype is "float32", asked for "bfloat16"' in message
    assert "capture.max_new_tokens is 20, asked for 0" in message
    assert "model.weights_hash" in message
    assert "give another out" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "change",
    [
        {"store_dtype": "float16"},
        {"attention": "eager"},
        {"format_version": 0},
        {"model": {"config_hash": "x"}},
        {"model": {"processor_hash": "x"}},
        {"model": {"chat_template_hash": "x"}},
        {"capture": {"layers": (0,)}},
        {"capture": {"positions": ("last_prompt_token",)}},
        {"capture": {"vision_pooling": "valid"}},
    ],
)
def test_what_changes_the_numbers_is_compared(change: dict[str, object]) -> None:
    with pytest.raises(RunMismatchError):
        check_same(make_manifest(), make_manifest(**change))


FILES = {"one.safetensors": "1" * 64, "two.safetensors": "2" * 64}


@pytest.mark.parametrize(
    ("before", "now", "reason"),
    [
        (FILES, FILES | {"two.safetensors": "3" * 64}, ": other bytes in 'two.safetensors'; give"),
        (FILES, {"one.safetensors": "1" * 64}, ": without 'two.safetensors'; give"),
        (
            FILES,
            {"two.safetensors": "3" * 64, "model.safetensors": "4" * 64},
            ": other bytes in 'two.safetensors', without 'one.safetensors', "
            "with 'model.safetensors'; give",
        ),
        ({f"{i}.bin": "1" for i in range(9)}, {}, ": without '0.bin', '1.bin', '2.bin' …; give"),
        ({"a\nb": 5}, {"a\nb": None}, r": other bytes in 'a\nb'; give"),
        (None, FILES, "; give"),
        (["one.safetensors"], FILES, "; give"),
        (5, FILES, "; give"),
    ],
)
def test_the_weight_files_that_differ_are_named(before: object, now: object, reason: str) -> None:
    made = make_manifest(model={"weights_hash": "x", "weight_files": before})
    with pytest.raises(RunMismatchError) as caught:
        check_same(made, make_manifest(model={"weight_files": now}))
    assert f"the model has other weights (model.weights_hash){reason}" in str(caught.value)


def test_weight_files_come_back_and_are_not_compared(tmp_path: Path) -> None:
    write_manifest(tmp_path, make_manifest(model={"weight_files": FILES}))
    assert read_manifest(tmp_path).model.weight_files == FILES
    check_same(read_manifest(tmp_path), make_manifest(model={"weight_files": {}}))


def test_names_paths_devices_and_versions_are_not_compared() -> None:
    other = make_manifest(
        run_id="another",
        device="cuda",
        versions={},
        created_at="later",
        model={"name": "moved", "revision": "main"},
        data={"path": "elsewhere.csv", "images": "img"},
    )
    check_same(make_manifest(), other)


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("{", "not JSON"),
        ("[]", "no format_version"),
        ('{"format_version": 1}', "no model"),
        ('{"format_version": 1, "model": {}}', "no model.name, model.type"),
    ],
)
def test_a_damaged_one_says_so(tmp_path: Path, text: str, finding: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(StoreError, match=finding):
        read_manifest(tmp_path)


def test_a_newer_one_asks_for_an_upgrade(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format_version": 99}')
    with pytest.raises(StoreError, match="upgrade"):
        read_manifest(tmp_path)


def test_keys_of_later_minor_versions_are_left_alone(tmp_path: Path) -> None:
    write_manifest(tmp_path, make_manifest())
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mood": "fine"}))
    assert read_manifest(tmp_path) == make_manifest()


@pytest.mark.parametrize("place", [".", "nowhere", "file.txt"])
def test_what_is_no_run_folder(tmp_path: Path, place: str) -> None:
    (tmp_path / "file.txt").touch()
    with pytest.raises(InputError, match="not a run folder"):
        read_manifest(tmp_path / place)


@pytest.mark.parametrize(
    ("record", "field", "value"),
    [
        ("capture", "layers", "x"),
        ("capture", "layers", ["x"]),
        ("capture", "positions", [3]),
        ("capture", "max_new_tokens", "many"),
        (None, "dtype", "foo"),
        (None, "store_dtype", "int8"),
    ],
)
def test_values_that_make_no_sense(
    tmp_path: Path, record: str | None, field: str, value: object
) -> None:
    write_manifest(tmp_path, make_manifest())
    content = json.loads((tmp_path / "run.json").read_text())
    (content[record] if record else content)[field] = value
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"run\.json: damaged, .* is invalid"):
        read_manifest(tmp_path)

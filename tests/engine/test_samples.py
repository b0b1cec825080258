"""Sampled answers: what is drawn depends on the seed and the question, and on nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import vlmscope
from engine.against_reference import (
    answered_by_generate,
    assert_same_samples,
    each_once,
    run_session,
)
from families.checkpoints import BUILDERS
from families.conformance import make_image as make_noise
from material import QUESTIONS, make_image
from vlmscope.engine import CaptureSession, generated_samples, prepare
from vlmscope.engine import session as sessions
from vlmscope.engine.decoding import scheduler
from vlmscope.engine.decoding.drawing import PROBABILITY_BITS, drawn, integers_of
from vlmscope.engine.decoding.slots import Slots
from vlmscope.errors import InputError, RunMismatchError, StoreError
from vlmscope.executors.batching import BatchSizer, rows_at_once, sizer_for
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.reference import reference
from vlmscope.sampling import RANDOM_BITS, Sampling, random_integers
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample
from vlmscope.signals import ATTENTION_MAP, SIGNALS
from vlmscope.store import write_manifest
from vlmscope.store.format.batch import captures_of
from vlmscope.verification import check_rows, compare

COUNT = 3
SPEC = CaptureSpec(layers="0,-1", max_new_tokens=6, samples=COUNT, temperature=0.9, seed=4)


@pytest.fixture(scope="module")
def rows() -> list[Sample]:
    kinds = ["one", "two_wide", "four", "one", "four"]
    return [
        Sample(f"q{i}", make_image(kind, i % 3), QUESTIONS[i % 5], image_id=f"{kind}{i}.png")
        for i, kind in enumerate(kinds)
    ]


def captured(
    rows: Sequence[Sample],
    vlm: VisionLanguageModel,
    spec: CaptureSpec = SPEC,
    *,
    slots: int = 6,
    size: int = 6,
) -> dict[str, Capture]:
    """Return the captures of some questions by their ids."""
    pieces = run_session(rows, vlm, spec, rows=slots, size=size)
    found = each_once([item for piece in pieces for item in piece], rows)
    assert all(isinstance(item, Capture) for item in found.values()), found
    return found


@pytest.fixture(scope="module")
def expected(rows: Sequence[Sample], talkative_vlm: VisionLanguageModel) -> Mapping[str, Capture]:
    """All questions in one batch, answered in slots."""
    return captured(rows, talkative_vlm)


def tokens(found: Mapping[str, Capture]) -> dict[str, list[list[int]]]:
    return {id_: [s.token_ids.tolist() for s in item.samples] for id_, item in found.items()}


def by_numpy(logits: np.ndarray, temperature: float, integer: int) -> int:
    """Return the token that a random number selects, one probability after the other."""
    scaled = torch.from_numpy(logits) / torch.tensor(temperature)
    shares = [round(float(p) * 2**PROBABILITY_BITS) for p in scaled.softmax(dim=0)]
    below, total = sum(shares) * integer >> RANDOM_BITS, 0
    for token, share in enumerate(shares):
        total += share
        if total > below:
            return token
    raise AssertionError("the shares do not reach their sum")


def test_a_token_is_the_inverse_of_the_cumulative_distribution() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(64, 30)).astype(np.float32) * 4
    logits[:, 7] = -np.inf
    integers = rng.integers(0, 2**RANDOM_BITS, 64)
    integers[:2] = 0, 2**RANDOM_BITS - 1
    for temperature in (0.3, 1.0, 5.0, 0.001, 1000.0):
        temperatures = torch.full((64,), temperature)
        found = drawn(torch.from_numpy(logits), temperatures, torch.from_numpy(integers)).tolist()
        assert found == [
            by_numpy(row, temperature, int(i)) for row, i in zip(logits, integers, strict=True)
        ]
        assert 7 not in found
    # Exact probabilities: each integer below the first quarter draws the first token, and so on.
    exact = torch.tensor([0.25, 0, 0.5, 0.25]).log().expand(4, 4)
    quarter = 2 ** (RANDOM_BITS - 2)
    ends = torch.tensor([quarter - 1, quarter, 3 * quarter - 1, 3 * quarter])
    assert drawn(exact, torch.ones(4), ends).tolist() == [0, 2, 2, 3]
    broken = drawn(torch.full((2, 5), torch.nan), torch.ones(2), torch.tensor([0, 9]))
    assert all(0 <= token < 5 for token in broken.tolist())


def test_the_random_numbers_never_change() -> None:
    """A run continues years later, with another numpy."""
    assert random_integers(0, "q1", 0, 3).tolist() == [868530915, 995974678, 252509443]
    assert random_integers(0, "q1", 0, 2).tolist() == random_integers(0, "q1", 0, 3)[:2].tolist()
    names = [(0, "q1", 0), (1, "q1", 0), (0, "q2", 0), (0, "q1", 1), (0, "1q", 0), (10, "q1", 0)]
    assert len({tuple(random_integers(*name, 2)) for name in names}) == len(names)


def test_the_random_numbers_are_uniform_and_independent() -> None:
    found = integers_of([f"q{i}" for i in range(500)], Sampling(4, seed=7), 8) / 2**RANDOM_BITS
    assert ((found >= 0) & (found < 1)).all()
    counts = np.histogram(found, 64, (0, 1))[0]
    assert chi_square(counts, np.full(64, found.size / 64)) < 2
    flat = found.reshape(500, -1)
    correlations = np.corrcoef(flat.T)[np.triu_indices(flat.shape[1], 1)]
    assert np.abs(correlations).max() < 0.2


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """Return the statistic per degree of freedom: about 1 if the distribution is the expected."""
    assert counts.sum() == pytest.approx(expected.sum())
    assert expected.min() > 10
    return float(((counts - expected) ** 2 / expected).sum() / (len(counts) - 1))


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_first_tokens_have_the_models_distribution(
    vlm: VisionLanguageModel, temperature: float
) -> None:
    """With exact probabilities, from one plain pass of the model."""
    spec = CaptureSpec(layers="0", max_new_tokens=1, samples=50, temperature=temperature)
    several = [Sample(f"row {i}", make_image("one"), QUESTIONS[0]) for i in range(20)]
    found = captured(several, vlm, spec, slots=20, size=20)
    drawn_tokens = [int(s.token_ids[0]) for item in found.values() for s in item.samples]
    assert len(drawn_tokens) == 1000
    [batch], _ = prepare(several[:1], vlm, resolve_spec(spec, vlm))
    with torch.no_grad():
        logits = vlm.model(**batch.model_inputs()).logits[0, -1]
    probabilities = (logits.double() / temperature).softmax(dim=0).numpy()
    groups = grouped(probabilities * len(drawn_tokens))
    size = groups.max() + 1
    wanted = np.bincount(groups, probabilities, size) * len(drawn_tokens)
    assert chi_square(np.bincount(groups[drawn_tokens], minlength=size), wanted) < 2
    uniform = np.bincount(groups, minlength=size) / len(groups) * len(drawn_tokens)
    if temperature < 1:  # the test is able to fail
        assert ((wanted - uniform) ** 2 / wanted).sum() / size > 5


def grouped(expected: np.ndarray) -> np.ndarray:
    """Return the group of each token, given how often it is expected: at least 20 times a group."""
    groups = np.zeros(len(expected), np.int64)
    total, group = 0.0, 0
    for token in np.argsort(-expected, kind="stable"):
        groups[token] = group
        total += expected[token]
        if total >= 20:
            total, group = 0.0, group + 1
    groups[groups == group] = max(group - 1, 0)  # what is left is too rare for a group
    return groups


@pytest.mark.first(1)
@pytest.mark.parametrize(("slots", "size"), [(1, 1), (4, 2)])
def test_neither_batch_nor_order_matters(
    rows: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
    slots: int,
    size: int,
) -> None:
    found = captured(rows[::-1], talkative_vlm, slots=slots, size=size)
    for id_, item in found.items():
        assert_same_samples(item, expected[id_])
        assert item.answer == expected[id_].answer


def test_the_same_by_generate(
    rows: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "why_not_in_slots", lambda _: "forced")
    seen = answered_by_generate(monkeypatch)
    found = captured(rows, talkative_vlm, size=4)
    assert sorted(seen) == sorted(expected)
    for id_, item in found.items():
        assert_same_samples(item, expected[id_])
    plain = captured(rows, talkative_vlm, dataclasses.replace(SPEC, **WITHOUT), size=4)
    for id_, item in found.items():
        assert without_samples(item) == plain[id_]  # bit for bit


ENDS = range(3, 640, 9)
"""End-of-turn tokens of the talkative model."""

WITHOUT: dict[str, Any] = {"samples": 0, "signals": "none", "temperature": 1.0, "seed": 0}


def without_samples(item: Capture) -> Capture:
    kept = {name: v for name, v in item.signals.items() if not name.startswith("samples/")}
    return dataclasses.replace(item, signals=kept)


@pytest.mark.exhaustive
def test_memory_for_fewer_samples_at_a_time(
    rows: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``generate`` takes all samples of a batch together, and fewer if memory runs out."""
    monkeypatch.setattr(sessions, "why_not_in_slots", lambda _: "forced")
    sizes: list[int] = []
    original = generated_samples.run

    def limited(device_batch: Any, *rest: Any, **options: Any) -> Any:
        sizes.append(len(device_batch.batch.samples))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError
        return original(device_batch, *rest, **options)

    monkeypatch.setattr(generated_samples, "run", limited)
    found = captured(rows[:2], talkative_vlm)
    assert sizes == [2 * COUNT, *[2] * COUNT]
    for id_, item in found.items():
        assert_same_samples(item, expected[id_])


def test_another_seed_or_temperature_draws_others(
    rows: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
) -> None:
    for change in ({"seed": 5}, {"temperature": 3.0}):
        found = captured(rows[:3], talkative_vlm, dataclasses.replace(SPEC, **change))
        assert all(tokens(found)[id_] != tokens(expected)[id_] for id_ in found)
    more = captured(rows[:2], talkative_vlm, dataclasses.replace(SPEC, samples=COUNT + 1))
    for id_, each in tokens(more).items():
        assert each[:COUNT] == tokens(expected)[id_]  # further samples change none
        assert len({tuple(sample) for sample in each}) == COUNT + 1


def test_all_else_is_as_without_samples(
    rows: Sequence[Sample], talkative_vlm: VisionLanguageModel, expected: Mapping[str, Capture]
) -> None:
    """Bit for bit what comes from the prefill, and all tokens; the rest as in other batches."""
    plain = captured(rows, talkative_vlm, dataclasses.replace(SPEC, **WITHOUT))
    for id_, item in plain.items():
        found = without_samples(expected[id_])
        assert found.signals.keys() == item.signals.keys()
        np.testing.assert_allclose(found.answer_logprobs, item.answer_logprobs, atol=1e-5)
        for name, values in item.signals.items():
            np.testing.assert_allclose(found.signals[name], values, rtol=1e-4, atol=1e-5)
        changed = {"answer_logprobs": item.answer_logprobs, "signals": item.signals}
        assert dataclasses.replace(found, **changed) == item


@pytest.mark.exhaustive
def test_beside_all_other_signals(
    rows: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is recorded of the greedy answer's tokens is not mixed with the samples'."""
    positions = ("last_prompt_token", "answer_mean", "last_answer_token")
    signals = set(SIGNALS) - {ATTENTION_MAP}  # which these layers do not have
    spec = dataclasses.replace(SPEC, signals=signals, positions=positions)
    several = [row for row in rows if expected[row.id].answer_token_ids[0] not in ENDS][:3]  # type: ignore[index]
    found = captured(several, talkative_vlm, spec, slots=2, size=1)
    monkeypatch.setattr(sessions, "why_not_in_slots", lambda _: "forced")
    generated = captured(several, talkative_vlm, spec)
    for sample in several:
        item = found[sample.id]
        assert_same_samples(item, expected[sample.id])
        given = [answer.token_ids for answer in item.samples]
        oracle = reference(sample, talkative_vlm, spec, sample_token_ids=given)
        for each in (item, generated[sample.id]):
            assert each.signals.keys() == oracle.signals.keys()
            assert not compare(each, oracle).faults(3e-5, "float32")


@pytest.mark.exhaustive
@pytest.mark.parametrize("by_generate", [False, True])
def test_a_greedy_answer_that_is_empty_fails_its_row_once(
    rows: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
    monkeypatch: pytest.MonkeyPatch,
    by_generate: bool,
) -> None:
    """It has no positions in the answer, whatever was sampled; the other rows have their own."""
    if by_generate:
        monkeypatch.setattr(sessions, "why_not_in_slots", lambda _: "forced")
    spec = dataclasses.replace(
        SPEC, signals="detectors", positions=("last_prompt_token", "last_answer_token")
    )
    first = {id_: int(item.answer_token_ids[0]) for id_, item in expected.items()}  # type: ignore[index]
    empty = {id_ for id_ in first if first[id_] == first["q0"]}
    assert 0 < len(empty) < len(rows)
    settings = talkative_vlm.model.generation_config
    monkeypatch.setattr(settings, "eos_token_id", [*ENDS, first["q0"]])
    pieces = run_session(rows, talkative_vlm, spec, rows=2, size=2)
    found = each_once([item for piece in pieces for item in piece], rows)
    assert {id_ for id_, item in found.items() if isinstance(item, Failure)} == empty
    for id_ in found.keys() - empty:
        assert len(found[id_].samples) == COUNT


def test_of_samples_only_what_is_stored_is_computed_and_copied(
    rows: Sequence[Sample], talkative_vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the lens, the attention or the confidence of image tokens, which are of the greedy one.

    The tables of image tokens are not repeated for each sample either.
    """
    positions = ("last_prompt_token", "last_answer_token")
    spec = dataclasses.replace(SPEC, signals="detectors", positions=positions, max_new_tokens=3)
    copied: list[dict[str, int]] = []
    original = scheduler.Fetch

    def fetch(tensors: Mapping[str, torch.Tensor]) -> Any:
        copied.append({name: len(tensor) for name, tensor in tensors.items()})
        return original(tensors)

    tables: list[int] = []
    begin = scheduler.begin

    def begun(slots: Slots, at: slice, *rest: Any) -> None:
        assert slots.image_lens is not None
        slots.image_lens.fill_(torch.nan)
        begin(slots, at, *rest)
        tables.append(int((~slots.image_lens.isnan()).any(dim=(1, 2)).sum()))

    monkeypatch.setattr(scheduler, "Fetch", fetch)
    monkeypatch.setattr(scheduler, "begin", begun)
    found = captured(rows[:2], talkative_vlm, spec, slots=2, size=2)
    assert len(found) == 2
    assert tables == [2]
    answers = [each for each in copied if "chosen" in each]
    assert sum(each["chosen"] for each in answers) == 2 * (1 + COUNT)
    greedy = [each for each in answers if "confidence" in each]
    assert sum(each["chosen"] for each in greedy) == 2
    names = {"count", "chosen", "logprobs", "statistics"}
    for each in answers:
        of_samples = {name for name in each if name.startswith("samples/")}
        assert bool(of_samples) == (each not in greedy)
        if of_samples:
            assert each.keys() == names | of_samples


def test_one_prefill_for_all_answers(
    rows: Sequence[Sample], talkative_vlm: VisionLanguageModel
) -> None:
    lengths: list[tuple[int, ...]] = []
    handle = talkative_vlm.layers[0].register_forward_hook(
        lambda _module, args, _output: lengths.append(tuple(args[0].shape[:2]))
    )
    try:
        captured(rows[:2], talkative_vlm)
    finally:
        handle.remove()
    prompts = [shape for shape in lengths if shape[1] > 1]
    assert len(prompts) == 1
    assert prompts[0][0] == 2
    assert max(shape[0] for shape in lengths) == 2 * (1 + COUNT)


def test_samples_equal_the_oracle(
    rows: Sequence[Sample], talkative_vlm: VisionLanguageModel, expected: Mapping[str, Capture]
) -> None:
    """Log-probabilities, states and texts by plain passes; every token by the oracle's logits."""
    vlm, checked, empty = talkative_vlm, 0, 0
    for sample in rows:
        item = expected[sample.id]
        given = [answer.token_ids for answer in item.samples]
        oracle = reference(sample, vlm, SPEC, sample_token_ids=given)
        assert_same_samples(item, oracle)
        faults = compare(item, oracle).faults(3e-5, "float32")
        assert not faults
        empty += sum(np.isnan(answer.states[0]).all() for answer in item.samples)
        for number, answer in enumerate(item.samples):
            checked += check_draws(sample, number, answer.token_ids, vlm)
    assert checked > 40
    other = dataclasses.replace(expected["q0"].samples[0], text="?")
    changed = dict(expected["q0"].signals) | {"samples/texts": np.array([other.text] * 3, object)}
    wrong = compare(dataclasses.replace(expected["q0"], signals=changed), expected["q0"])
    assert wrong.faults(1, "bfloat16") == ["the samples differs"]


def check_draws(sample: Sample, number: int, ids: np.ndarray, vlm: VisionLanguageModel) -> int:
    """Compare the tokens of a sample with those that its random numbers select from plain logits.

    Returns the number of tokens.
    """
    [batch], _ = prepare([sample], vlm, resolve_spec(SPEC, vlm))
    inputs = batch.model_inputs()
    for name in ("input_ids", "attention_mask", "cross_attention_mask"):
        more = inputs[name][:, -1:].repeat_interleave(len(ids), dim=1)
        more = torch.from_numpy(ids)[None] if name == "input_ids" else more
        inputs[name] = torch.cat([inputs[name], more], dim=1)
    with torch.no_grad():
        logits = vlm.model(**inputs).logits[0, -len(ids) - 1 : -1].float()
    integers = random_integers(SPEC.seed, sample.id, number, len(ids))
    found = drawn(logits, torch.full((len(ids),), SPEC.temperature), torch.from_numpy(integers))
    assert found.tolist() == ids.tolist()
    return len(ids)


@pytest.mark.exhaustive
def test_samples_that_are_empty(talkative_vlm: VisionLanguageModel, tmp_path: Path) -> None:
    """A sample may end at once: it has no last token, and the row is kept."""
    spec = dataclasses.replace(SPEC, samples=60, max_new_tokens=2)
    several = [Sample("q", make_image("one"), QUESTIONS[0], image_id="one.png")]
    item = captured(several, talkative_vlm, spec)["q"]
    samples = item.samples
    empty = [s for s in samples if len(s.token_ids) == 1 and s.finish_reason == "stop"]
    assert 0 < len(empty) < 60
    assert all(np.isnan(state).all() for s in empty for state in s.states.values())
    full = [s for s in samples if s not in empty]
    assert all(np.isfinite(state).all() for s in full for state in s.states.values())
    run = vlmscope.extract(several, talkative_vlm, tmp_path / "run", spec=spec, progress=False)
    assert_same_samples(run["q"], item)
    given = [s.token_ids for s in samples]
    oracle = reference(several[0], talkative_vlm, spec, sample_token_ids=given)
    assert not compare(run["q"], oracle).faults(3e-5, "float32")


@pytest.mark.exhaustive
def test_rows_of_a_failed_step_are_drawn_again(
    rows: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While some answers of a question were received, and others were not."""
    session = CaptureSession(talkative_vlm, resolve_spec(SPEC, talkative_vlm), 6)
    original, calls = Slots.release, []

    def failing(self: Slots, released: Sequence[int]) -> Any:
        calls.append(len(released))
        if len(calls) == 3:
            raise torch.OutOfMemoryError
        return original(self, released)

    monkeypatch.setattr(Slots, "release", failing)
    [batch], _ = prepare(rows, talkative_vlm, resolve_spec(SPEC, talkative_vlm))
    first = [*session.submit(batch), *session.drain()]
    lost = session.pop_failed()
    assert len({sample.id for sample in lost}) == len(lost) > 0
    [batch], _ = prepare(lost, talkative_vlm, resolve_spec(SPEC, talkative_vlm))
    found = each_once([*first, *session.submit(batch), *session.drain()], rows)
    for id_, item in found.items():
        assert_same_samples(item, expected[id_])


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    folder = tmp_path_factory.mktemp("qwen") / "model"
    BUILDERS["qwen2_5_vl"](folder)
    return load_model(folder, device="cpu", dtype="float32")


@pytest.mark.exhaustive
def test_shared_beginnings_and_positions_of_several_dimensions(
    qwen: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [make_noise(70, 40, 1), make_noise(90, 66, 2)]
    several = [
        Sample(f"{i}{j}", image, question)
        for j, question in enumerate(("Is it lit?", "What is it, and is it a cat?"))
        for i, image in enumerate(images)
    ]
    [batch], _ = prepare(several, qwen, resolve_spec(SPEC, qwen))
    assert batch.prefix is not None
    shared = captured(several, qwen)
    alone = captured(several, qwen, slots=1, size=1)
    monkeypatch.setattr(sessions, "why_not_in_slots", lambda _: "forced")
    generated = captured(several, qwen)
    for id_, item in shared.items():
        assert_same_samples(alone[id_], item)
        assert_same_samples(generated[id_], item)
        given = [answer.token_ids for answer in item.samples]
        sample = next(each for each in several if each.id == id_)
        assert_same_samples(item, reference(sample, qwen, SPEC, sample_token_ids=given))


@pytest.mark.exhaustive
def test_questions_without_an_image_among_others(
    rows: Sequence[Sample], talkative_vlm: VisionLanguageModel
) -> None:
    """Mllama answers them by ``generate``."""
    bare = Sample("bare", None, QUESTIONS[1])
    batches, _ = prepare([bare, rows[0]], talkative_vlm, resolve_spec(SPEC, talkative_vlm))
    session = CaptureSession(talkative_vlm, resolve_spec(SPEC, talkative_vlm), 2)
    results = [item for batch in batches for item in session.submit(batch)]
    found = each_once([*results, *session.drain()], [bare, rows[0]])
    for sample in (bare, rows[0]):
        item = found[sample.id]
        given = [answer.token_ids for answer in item.samples]
        oracle = reference(sample, talkative_vlm, SPEC, sample_token_ids=given)
        assert_same_samples(item, oracle)


@pytest.fixture(scope="module")
def run(
    rows: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    """A run that was stopped, continued with another batch size, and ended by two ranks."""
    out = tmp_path_factory.mktemp("samples") / "run"
    options = {"spec": SPEC, "progress": False}
    vlmscope.extract(rows, talkative_vlm, out, limit=2, batch_size=1, **options)  # type: ignore[arg-type]
    for shard, size in (("0/2", 4), ("1/2", 1)):
        vlmscope.extract(rows, talkative_vlm, out, shard=shard, batch_size=size, **options)  # type: ignore[arg-type]
    return vlmscope.open_run(out)


@pytest.mark.exhaustive
def test_a_run_that_was_stopped_and_ranks_that_share_it(
    run: Any, rows: Sequence[Sample], expected: Mapping[str, Capture]
) -> None:
    assert sorted(run.ids) == sorted(expected)
    for id_, item in expected.items():
        assert_same_samples(run[id_], item)
    texts = run.signal("samples/texts")
    lists = run.signal("samples/token_ids")
    last = run.signal("samples/last_token/layer_0")
    assert last.shape[:2] == (len(run), COUNT)
    for i, id_ in enumerate(run.ids):
        samples = run[id_].samples
        assert texts[i] == [sample.text for sample in samples]
        for number, sample in enumerate(samples):
            assert lists[i][number].tolist() == sample.token_ids.tolist()
            np.testing.assert_array_equal(last[i, number], sample.states[0])
    assert "samples/lengths" not in run.signals
    assert not run.check()
    record = run.manifest.capture
    assert (record.samples, record.temperature, record.seed) == (COUNT, 0.9, 4)
    assert record.signals == ("entropy", "samples")


@pytest.mark.first(1)
@pytest.mark.parametrize("change", [{"seed": 5}, {"samples": 2}, {"temperature": 0.8}, WITHOUT])
def test_a_run_is_not_continued_with_others(
    run: Any, rows: Sequence[Sample], talkative_vlm: VisionLanguageModel, change: dict[str, Any]
) -> None:
    other = dataclasses.replace(SPEC, **change)
    with pytest.raises(RunMismatchError, match=rf"capture\.{next(iter(change))} is "):
        vlmscope.extract(rows, talkative_vlm, run.path, spec=other, progress=False)


def assert_readable(row: Any, samples: Any) -> None:
    """Compare the group of a row in an HDF5 file, read by plain h5py, with its samples."""
    group = row["signals/samples"]
    assert group["texts"].asstr()[:].tolist() == [sample.text for sample in samples]
    reasons = [sample.finish_reason for sample in samples]
    assert group["finish_reasons"].asstr()[:].tolist() == reasons
    for number, sample in enumerate(samples):
        assert group["token_ids"][number].tolist() == sample.token_ids.tolist()
        assert group["token_ids"][number].dtype == np.int64
        np.testing.assert_array_equal(group["logprobs"][number], sample.logprobs)
        for layer, state in sample.states.items():
            np.testing.assert_array_equal(group[f"last_token/layer_{layer}"][number], state)
    assert set(group) == {"texts", "finish_reasons", "token_ids", "logprobs", "last_token"}


@pytest.mark.exhaustive
def test_rows_and_exports_are_readable_without_vlmscope(run: Any, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    seen = 0
    for shard in (run.path / "shards").glob("*.h5"):
        with h5py.File(shard) as file:
            for id_ in set(file) & set(run.ids):
                assert_readable(file[id_], run[id_].samples)
                seen += 1
    assert seen >= len(run)
    with h5py.File(vlmscope.export_run(run, tmp_path / "run.h5")) as file:
        for id_ in run.ids:
            assert_readable(file[id_], run[id_].samples)
    table = pq.read_table(vlmscope.export_run(run, tmp_path / "run.parquet")).to_pylist()
    arrays = np.load(vlmscope.export_run(run, tmp_path / "run.npz"))
    offsets, answer = arrays["sample_offsets"], arrays["answer_offsets"]
    assert len(answer) == len(run) + 1
    for i, row in enumerate(table):
        samples = run[row["question_id"]].samples
        assert row["signals.samples.texts"] == [sample.text for sample in samples]
        ids = [sample.token_ids.tolist() for sample in samples]
        assert row["signals.samples.token_ids"] == ids
        at = [slice(*offsets[i * COUNT + n : i * COUNT + n + 2]) for n in range(COUNT)]
        assert [arrays["signals/samples/token_ids"][each].tolist() for each in at] == ids
        texts = arrays["signals/samples/texts"][i * COUNT : (i + 1) * COUNT].tolist()
        assert texts == row["signals.samples.texts"]
        last = arrays["signals/samples/last_token/layer_0"][i]
        np.testing.assert_array_equal(last, [sample.states[0] for sample in samples])
        stored = np.reshape(row["signals.samples.last_token.layer_0"], last.shape)
        np.testing.assert_array_equal(last, stored)


def test_samples_that_do_not_match_each_other_are_damage(run: Any) -> None:
    [block, *_] = run.blocks()
    names = {name: f"signals/samples/{name}" for name in ("texts", "lengths", "token_ids")}
    wrong = {
        "texts": ['["only one"]'] * len(block),
        "lengths": [np.full(COUNT, 99)] * len(block),
        "token_ids": [values[:-1] for values in block.ragged[names["token_ids"]]],
    }
    assert len(list(captures_of(block))) == len(block)
    for name, column in wrong.items():
        kind = "texts" if name == "texts" else "ragged"
        columns = {**getattr(block, kind), names[name]: column}
        with pytest.raises(StoreError, match="samples are damaged"):
            list(captures_of(dataclasses.replace(block, **{kind: columns})))
    for text in ("{", '{"a": 1}', "[1]", "[" * 99999):
        columns = {**block.texts, names["texts"]: [text] * len(block)}
        with pytest.raises(StoreError, match="samples are damaged"):
            list(captures_of(dataclasses.replace(block, texts=columns)))


@pytest.mark.parametrize(
    "change",
    [{"samples": -1}, {"samples": 0}, {"samples": 2**40}, {"samples": "3"}, {"seed": -1},
     {"temperature": "hot"}, {"temperature": float("nan")}, {"signals": ("entropy",)}],
)  # fmt: skip
def test_a_manifest_with_impossible_samples_is_refused(
    run: Any, tmp_path: Path, change: dict[str, Any]
) -> None:
    (tmp_path / "shards").mkdir()
    capture = dataclasses.replace(run.manifest.capture, **change)
    write_manifest(tmp_path, dataclasses.replace(run.manifest, capture=capture))
    with pytest.raises(StoreError, match=r"capture\.signals is invalid|not JSON"):
        vlmscope.open_run(tmp_path)


def test_half_precision_on_disk(
    rows: Sequence[Sample], talkative_vlm: VisionLanguageModel, tmp_path: Path, run: Any
) -> None:
    half = vlmscope.extract(
        rows[:1], talkative_vlm, tmp_path / "half", spec=SPEC, store_dtype="float16", progress=False
    )
    found, whole = half["q0"].samples[0].states[0], run["q0"].samples[0].states[0]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, found.astype(np.float16).astype(np.float32))
    np.testing.assert_allclose(found, whole, rtol=2e-3, atol=1e-4)


def test_verify_recomputes_samples(
    run: Any, rows: Sequence[Sample], talkative_vlm: VisionLanguageModel
) -> None:
    [check] = check_rows(run, [rows[1]], talkative_vlm)
    assert {"signals/samples/logprobs", "signals/samples/last_token/layer_0"} <= set(check.errors)
    assert not check.faults(3e-5, "float32")
    stored = run["q1"]
    other = stored.signals["samples/token_ids"].copy()
    other[0] = (other[0] + 1) % 600 + 100
    damaged = dataclasses.replace(stored, signals={**stored.signals, "samples/token_ids": other})
    given = [sample.token_ids for sample in damaged.samples]
    oracle = reference(rows[1], talkative_vlm, SPEC, sample_token_ids=given)
    assert compare(damaged, oracle).faults(3e-5, "float32")


def test_what_is_refused() -> None:
    for options, message in {
        ("samples=2", "max_new_tokens=0"): "samples 2: needs max_new_tokens above 0",
        ("samples=-1",): "samples -1: give 0 or more",
        ("samples=True",): "expected a whole number",
        ("samples=1", "temperature=0.0"): "the greedy answer",
        ("samples=1", "temperature=float('nan')"): "temperature nan",
        ("samples=1", "temperature='hot'"): "expected a number",
        ("samples=1", "seed=-1"): "seed -1: give 0 or more",
        ("seed=1",): "seed 1: no answers are sampled; add samples",
        ("temperature=0.5",): "temperature 0.5: no answers are sampled",
        ("signals='samples'",): "signals samples: give the number",
        ("samples=1", "compat='halp'"): "samples 1: with compat=",
    }.items():
        with pytest.raises(InputError, match=message.replace(".", r"\.")):
            eval(f"CaptureSpec({', '.join(options)})")  # noqa: S307 - the texts above
    assert CaptureSpec(samples=2, temperature=1).signals == ("entropy", "samples")
    assert CaptureSpec(signals="none").answers == 1
    assert CaptureSpec(samples=2).answers == 3
    assert CaptureSpec(max_new_tokens=0).answers == 0


@pytest.mark.parametrize("answers", [2, 6, 41])
def test_batches_are_smaller_beside_samples(vlm: VisionLanguageModel, answers: int) -> None:
    sizer = sizer_for(vlm, "auto", answers=answers)
    while not sizer.settled:
        sizer.learn(rows=sizer.size)
    assert 1 <= sizer.size <= max(1, rows_at_once(vlm, "auto", answers=answers) // 2)
    assert rows_at_once(vlm, 5, answers=answers) == 5
    short = BatchSizer("auto", 4, 1, 8)
    for _ in range(4):
        short.learn(rows=short.size, tokens=1)
    assert short.size == 8

"""Ctrl-C between any two lines of a decoding step, after which the session is used again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from torch import Tensor

from engine.against_reference import assert_all_same, expected_of, submitted
from vlmscope.engine import CaptureSession
from vlmscope.engine.answer_states import AnswerStates
from vlmscope.engine.decoding.slots import Slots
from vlmscope.model import VisionLanguageModel, resolve_spec
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample

SPEC = CaptureSpec(layers="0,n-1", positions=("last_prompt_token", "answer_mean"), max_new_tokens=5)


class Interrupt:
    """Raises once, at a call with this number."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def in_a_layer(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, interrupt: Interrupt
) -> None:
    """Some layers have seen the token, and its state was recorded there, others have not."""
    layer, forward = vlm.layers[2], type(vlm.layers[2]).forward

    def interrupted(*args: Any, **options: Any) -> Any:
        output = forward(layer, *args, **options)
        if (output[0] if isinstance(output, tuple) else output).shape[1] == 1:
            interrupt()
        return output

    monkeypatch.setattr(layer, "forward", interrupted)


def after_the_choice(
    _: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, interrupt: Interrupt
) -> None:
    """The token was chosen and counted, but is not the next input."""
    stop = AnswerStates.stop

    def interrupted(self: AnswerStates, ended: Tensor) -> None:
        interrupt()
        stop(self, ended)

    monkeypatch.setattr(AnswerStates, "stop", interrupted)


def while_rows_move(
    _: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, interrupt: Interrupt
) -> None:
    """Some tensors of a row are in its new slot, others are not."""
    tensors = Slots.tensors

    def interrupted(self: Slots) -> Iterator[Tensor]:
        for number, tensor in enumerate(tensors(self)):
            if number == 3:
                interrupt()
            yield tensor

    monkeypatch.setattr(Slots, "tensors", interrupted)


@pytest.mark.first(2)
@pytest.mark.parametrize(
    ("where", "call"), [(in_a_layer, 2), (after_the_choice, 2), (while_rows_move, 1)]
)
def test_rows_of_an_interrupted_step_are_run_again(
    where: Any,
    call: int,
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    expected, interrupt = expected_of(samples, talkative_vlm, SPEC), Interrupt(call)
    where(talkative_vlm, monkeypatch, interrupt)
    session = CaptureSession(talkative_vlm, resolve_spec(SPEC, talkative_vlm), 4)
    found, given = list[Capture | Failure](), list(samples)
    while given:
        try:
            for piece in submitted(session, given, talkative_vlm, SPEC, 4):
                found += piece
            found += session.drain()
        except KeyboardInterrupt:
            found += session.drain()
        done = {item.sample.id for item in found if isinstance(item, Capture)}
        lost = {row.id for row in session.pop_failed()}
        given = [row for row in samples if row.id not in done]
        assert lost <= {row.id for row in given}
    assert interrupt.left <= 0, "it never came"
    assert_all_same(found, expected, samples)
    assert not [each for each in recwarn if "decoding step failed" in str(each.message)]

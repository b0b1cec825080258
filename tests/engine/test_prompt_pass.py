"""A pass of prompts: up to the model's output, and from tensors on the CPU."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from vlmscope.engine import batch, prompt_pass
from vlmscope.engine.answers import greedy_config
from vlmscope.engine.prompt_pass import _moved, prepares_on_cpu, run_prompts
from vlmscope.model import VisionLanguageModel, resolve_spec
from vlmscope.model.attention.kv_cache import cache_of
from vlmscope.model.computing import computing
from vlmscope.schema import CaptureSpec, Sample
from vlmscope.shown_once import ignore


@pytest.fixture
def own(samples: Sequence[Sample], vlm: VisionLanguageModel) -> dict[str, Tensor]:
    """Prompts on the CPU."""
    [made], _ = batch.prepare(samples[:2], vlm, resolve_spec(CaptureSpec(), vlm))
    return made.model_inputs()


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a model on a GPU."""
    monkeypatch.setattr(prompt_pass, "prepares_on_cpu", lambda _vlm: True)


def test_a_pass_ends_when_the_model_returns(
    vlm: VisionLanguageModel, own: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = greedy_config(vlm, 1)
    config.return_dict_in_generate = True
    with computing():
        whole = vlm.model.generate(**own, generation_config=config)
    after = "_update_model_kwargs_for_generation"
    monkeypatch.setattr(vlm.model, after, lambda *_a, **_k: pytest.fail("chooses a token"))
    with computing():
        output = run_prompts(vlm, own, own, config)
    keys, expected = (cache_of(each).layers[0].keys for each in (output, whole))
    assert torch.equal(keys, expected)
    chosen = output.logits[:, -1].argmax(dim=1)
    assert torch.equal(chosen, whole.sequences[:, -1])
    assert not vlm.model._forward_hooks
    assert not vlm.model._forward_pre_hooks


@pytest.mark.usefixtures("on_gpu")
def test_the_model_is_given_the_copies_on_its_device(
    vlm: VisionLanguageModel, own: dict[str, Tensor]
) -> None:
    copies = {name: tensor.clone() for name, tensor in own.items()}
    prepared: list[Any] = []
    given: list[Tensor] = []
    before = vlm.model._prepare_model_inputs

    def note(inputs: Any, bos: Any, options: dict[str, Any]) -> Any:
        prepared.append({name: options[name] for name in own})
        return before(inputs, bos, options)

    vlm.model._prepare_model_inputs = note
    handle = vlm.vision_encoder.register_forward_pre_hook(
        lambda _module, args, kwargs: given.append(args[0] if args else kwargs["pixel_values"]),
        with_kwargs=True,
    )
    try:
        with computing():
            run_prompts(vlm, copies, own, greedy_config(vlm, 1))
    finally:
        handle.remove()
        del vlm.model._prepare_model_inputs
    [[pixels], [arguments]] = given, prepared
    assert pixels.data_ptr() == copies["pixel_values"].data_ptr()
    assert all(arguments[name] is tensor for name, tensor in own.items())


def test_what_generate_prepares_is_copied_wherever_it_is() -> None:
    device = torch.device("meta")
    ids, mask, there = torch.ones(2), torch.zeros(3), torch.zeros(4, device=device)
    moved = partial(_moved, device, {id(ids): (copied := ids.to(device))})
    found = moved({"ids": ids, "masks": {"full": mask}, "more": [(mask,), 3, there]})
    assert found["ids"] is copied
    assert found["masks"]["full"].device == found["more"][0][0].device == device
    assert (found["more"][1], found["more"][2] is there) == (3, True)


def test_generate_goes_on_if_the_cache_is_not_in_the_output(
    vlm: VisionLanguageModel, own: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_pass, "NAMES", ())
    config = greedy_config(vlm, 1)
    config.return_dict_in_generate = True
    with computing():
        output = run_prompts(vlm, own, own, config)
    assert output.sequences.shape[1] == own["input_ids"].shape[1] + 1


def test_models_whose_inputs_stay_on_their_device(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(gpus: int, *, encodes: bool) -> bool:
        monkeypatch.setattr(VisionLanguageModel, "cuda_devices", (vlm.device,) * gpus)
        monkeypatch.setattr(vlm.model.config, "is_encoder_decoder", encodes)
        return prepares_on_cpu(vlm)

    assert found(1, encodes=False)
    assert not any(found(gpus, encodes=encodes) for gpus, encodes in ((0, False), (1, True)))
    assert not found(2, encodes=False)
    described = replace(vlm, description={"vision_encoder": "model.vision_model"})
    assert found(1, encodes=False)
    assert prepares_on_cpu(described)
    monkeypatch.setattr(type(vlm.model), "generate", lambda *_args, **_options: None)
    assert found(1, encodes=False), "a generate of the library, for a family that is tested"
    assert not prepares_on_cpu(described)


def test_a_warning_is_ignored_even_if_warnings_are_errors() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ignore("of some", UserWarning)
        filters = list(warnings.filters)
        ignore("of some", UserWarning)
        assert list(warnings.filters) == filters, "Python would show other warnings again"
        warnings.warn("of some device", UserWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="another"):
            warnings.warn("another", UserWarning, stacklevel=1)


def test_a_warning_is_ignored_even_if_warnings_become_errors_later() -> None:
    with warnings.catch_warnings():
        ignore("of some", UserWarning)
        warnings.simplefilter("error")
        ignore("of some", UserWarning)
        warnings.warn("of some device", UserWarning, stacklevel=1)
        warnings.filterwarnings("error", category=DeprecationWarning)
        filters = list(warnings.filters)
        ignore("of some", UserWarning)
        assert list(warnings.filters) == filters, "errors of another class change nothing"


@pytest.mark.usefixtures("on_gpu")
def test_the_images_encoder_is_given_sizes_on_the_cpu(
    vlm: VisionLanguageModel, own: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = {name: tensor.clone() for name, tensor in own.items()}
    name = next(iter(own.keys() - {"input_ids", "attention_mask", "pixel_values"}))
    monkeypatch.setattr(prompt_pass, "READ", (name,))
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        vlm.model.base_model, "get_image_features", lambda *each: given.append(each), raising=False
    )
    with prompt_pass._copying(vlm, copies, own):
        vlm.model.base_model.get_image_features(own["pixel_values"], own[name])
        vlm.model.base_model.get_image_features(copies["pixel_values"], copies[name])
    assert [each[1] is own[name] for each in given] == [True, True]
    assert given[1][0] is copies["pixel_values"]
    vlm.model.base_model.get_image_features(own[name])
    assert given[-1][0] is own[name], "restored"


def test_an_output_of_the_library_is_not_made_a_plain_dict() -> None:
    output = BaseModelOutput(last_hidden_state=torch.ones(1))
    assert _moved(torch.device("meta"), {}, {"image": output})["image"] is output


@pytest.mark.usefixtures("on_gpu")
def test_nothing_is_kept_after_a_pass(vlm: VisionLanguageModel, own: dict[str, Tensor]) -> None:
    copies = {name: tensor.clone() for name, tensor in own.items()}
    gc.collect()
    gc.disable()
    try:
        with computing():
            output = run_prompts(vlm, copies, own, greedy_config(vlm, 1))
        kept = [weakref.ref(each) for each in (output.logits, copies["pixel_values"])]
        del output, copies
        assert [each() for each in kept] == [None, None]
    finally:
        gc.enable()


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("part", ["vision_encoder", "lm_head"])
def test_an_interrupted_pass_changes_nothing(
    vlm: VisionLanguageModel, own: dict[str, Tensor], part: str
) -> None:
    before = {id(each): set(vars(each)) for each in vlm.model.modules()}

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = getattr(vlm, part).register_forward_hook(interrupt)
    try:
        with computing(), pytest.raises(KeyboardInterrupt):
            run_prompts(vlm, own, own, greedy_config(vlm, 1))
    finally:
        handle.remove()
    assert {id(each): set(vars(each)) for each in vlm.model.modules()} == before
    assert not vlm.model._forward_hooks
    assert not vlm.model._forward_pre_hooks
    with computing():
        assert cache_of(run_prompts(vlm, own, own, greedy_config(vlm, 1)))

"""One pass of prompts through the model: its own ``generate``, up to the model's output.

``generate`` prepares a pass as the family wants it: position ids, token types, a cache. After it,
it would choose tokens and ask whether an answer has ended, for which it waits until the GPU has
computed everything. So it is left when the model returns. And it is given the batch's tensors on
the CPU, because it looks at some of them, which would wait for the batch before; the model gets
those on its device. So a batch is launched while the GPU computes the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin

from vlmscope.model import VisionLanguageModel
from vlmscope.model.attention.kv_cache import NAMES
from vlmscope.model.computing import removing_hooks, replacing_method
from vlmscope.model.device_copies import to_device
from vlmscope.shown_once import ignore

_LAST = "prepare_inputs_for_generation"
"""The model's method that prepares last: it copies what is on the CPU, and waits for the GPU."""

_ENCODES = "get_image_features"
"""The base model's method that encodes images; generate calls it itself since transformers 5.2x."""

READ = ("image_sizes", "batch_num_images")
"""Inputs that this method is given on the CPU: it only reads their numbers, image by image."""

_ON_CPU = r"You are calling \.generate\(\) with the `input_ids` being on a device type different"
"""Beginning of the warning of some versions of the library of inputs on the CPU."""


class _Returned(Exception):  # noqa: N818 - not an error
    """The model has returned its output."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def run_prompts(
    vlm: VisionLanguageModel,
    inputs: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    config: Any,
    **options: Any,
) -> Any:
    """Return the model's output for some prompts; that of ``generate`` if it has no cache.

    Args:
        vlm: The model.
        inputs: The prompts on its device.
        own: The same tensors on the CPU.
        config: Settings of ``generate`` for one token.
        options: Passed to ``generate``.
    """
    prepared = own if prepares_on_cpu(vlm) else inputs
    with ExitStack() as stack:
        handles = stack.enter_context(removing_hooks())
        handles.append(vlm.model.register_forward_hook(_return))
        if prepared is own:
            stack.enter_context(_copying(vlm, inputs, own))
        try:
            return vlm.model.generate(**prepared, generation_config=config, **options)
        except _Returned as returned:
            return returned.output


def prepares_on_cpu(vlm: VisionLanguageModel) -> bool:
    """Return whether ``generate`` is given tensors on the CPU, for a model on one GPU.

    Not if it has an encoder of the prompt, which ``generate`` itself would run. Nor if the model of
    a user's description has a ``generate`` of its own, which may run any part of it.
    """
    tested = vlm.description is None or type(vlm.model).generate is GenerationMixin.generate
    return tested and len(vlm.cuda_devices) == 1 and not vlm.model.config.is_encoder_decoder


def _return(_module: nn.Module, _args: Any, output: Any) -> None:
    """Leave ``generate`` if the cache is in the output."""
    if any(name in output for name in NAMES):
        raise _Returned(output)


@contextmanager
def _copying(
    vlm: VisionLanguageModel, inputs: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> Iterator[None]:
    """Let the model be given tensors on its device, within the context."""
    copies = {id(own[name]): inputs[name] for name in own}
    moved: Callable[..., Any] = partial(_moved, vlm.device, copies)
    read = {id(each[name]): own[name] for name in READ if name in own for each in (own, inputs)}

    def given_to_encoder(value: Any) -> Any:
        return read.get(id(value), moved(value))

    ignore(_ON_CPU, UserWarning)
    with ExitStack() as stack:
        for owner, name, place in (
            (vlm.model, _LAST, moved),
            (getattr(vlm.model, "base_model", vlm.model), _ENCODES, given_to_encoder),
        ):
            if hasattr(owner, name):
                stack.enter_context(replacing_method(owner, name, _given(place, owner, name)))
        handles = stack.enter_context(removing_hooks())
        handles.append(  # for a model with a generate of its own
            vlm.model.register_forward_pre_hook(
                lambda _module, args, kwargs: (moved(args), moved(kwargs)), with_kwargs=True
            )
        )
        yield


def _given(place: Callable[[Any], Any], owner: Any, name: str) -> Callable[..., Any]:
    """Return a method of a model that first places its arguments."""
    method: Callable[..., Any] = getattr(owner, name)

    @wraps(method)  # its signature says which arguments generate passes, and accepts
    def call(*args: Any, **kwargs: Any) -> Any:
        return method(*map(place, args), **{key: place(each) for key, each in kwargs.items()})

    return call


def _moved(device: torch.device, copies: Mapping[int, Tensor], value: Any) -> Any:
    """Return tensors, also in tuples, lists and mappings, on a device.

    Args:
        device: The device.
        copies: Id of a tensor → its copy there, if there is one already.
        value: The tensors.
    """
    if isinstance(value, Tensor):
        copied = copies.get(id(value), value)
        return copied if copied.device == device else to_device(copied, device)
    if type(value) is dict:  # not an output of the library: it is made on the device
        return {name: _moved(device, copies, each) for name, each in value.items()}
    if type(value) in {tuple, list}:
        return type(value)(_moved(device, copies, each) for each in value)
    return value

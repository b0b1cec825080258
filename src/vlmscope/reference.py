"""The oracle: the reference method, intentionally slow and literal.

One sample at a time, three passes through the model: the vision encoder alone, the complete model
with ``output_hidden_states``, and ``generate``. It shares with the capture only the images, the
chat messages, the model's accessors and the list of layers; tokens, padding, positions, pooling and
decoding are its own. It is the same for every family: one question at a time needs no rule to
assign outputs to questions. Nothing is optimised, so that every faster path can be compared with
it, in the tests and by ``vlmscope verify``. It deviates in two lines from the specification's text,
which contradicts itself:

- ``<|image|>`` is at position 5, as in its token table, and not at 6, as in its comment: the
  BOS token that the chat template writes is not doubled by the tokenizer.
- Vectors are cast to float32 before the mean, not after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from inspect import signature
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmscope.dataset import difference_hash, hash_image, image_thumbnail, load_image
from vlmscope.errors import RowError
from vlmscope.model import VisionLanguageModel, resolve_spec
from vlmscope.model.computing import computing
from vlmscope.model.halp import halp_model_for, position_in_prompt, states_of, with_encoder_of
from vlmscope.model.image_grids import SIZES, TILES, boxes_of_patches, boxes_of_row
from vlmscope.positions import (
    IMAGE_POSITIONS,
    REPRESENTATIONS,
    VISION_ONLY,
    sublayer_representation,
)
from vlmscope.prompt import build_messages, image_order, template_settings, with_tokenizer_lock
from vlmscope.reference_attention import divided_attention
from vlmscope.reference_passes import (
    Inputs,
    content_of,
    outputs_of,
    run_decoder,
    run_with_answer,
)
from vlmscope.reference_signals import (
    asked_about,
    exactly,
    internal_confidence,
    joined,
    logit_lens,
    sampled_answers,
    similarity,
    sublayers_recorded,
    token_states,
    token_statistics,
)
from vlmscope.schema import TOP_FIRST_TOKENS, Capture, CaptureSpec, Sample
from vlmscope.selection import resolve_layers
from vlmscope.shown_once import shown_once
from vlmscope.signals import BOXES, RecordedSignals


@shown_once()
def reference(
    sample: Sample,
    vlm: VisionLanguageModel,
    spec: CaptureSpec | None = None,
    *,
    answer_token_ids: np.ndarray | None = None,
    sample_token_ids: Sequence[np.ndarray] = (),
    previous_heads: np.ndarray | None = None,
) -> Capture:
    """Return the capture of one sample by the reference method's three passes.

    Args:
        sample: The question.
        vlm: The model.
        spec: What to record (default: that of the specification).
        answer_token_ids: The answer whose hidden states are read at the positions in the answer
            (default: the answer generated here). In half precision two runs may answer differently.
        sample_token_ids: The tokens of sampled answers, whose log-probabilities and states are
            computed. Nothing is sampled here.
        previous_heads: As ``heads`` in ``divided_attention``.

    Raises:
        InputError: The spec's ``compat`` does not support this model.
        RowError: The image cannot be read, or the answer is empty and its tokens are recorded.
    """
    spec = spec or CaptureSpec()
    vlm = with_encoder_of(halp_model_for(vlm.family.model_type, spec), vlm)
    images = [load_image(image) for image in sample.images]
    inputs = _prompt(vlm, images, sample.question)
    with computing():
        vision = {VISION_ONLY: _vision_pass(vlm, inputs, spec)} if images else {}
        signals = resolve_spec(spec, vlm).signals
        states, boundaries, first_logits = _decoder_pass(vlm, inputs, spec, sample, signals)
        answer = _answer_pass(vlm, inputs, spec) if spec.max_new_tokens else {}
        arrays = answer.pop("signals", {})
        tokens = None
        if spec.max_new_tokens:
            tokens = answer["answer_token_ids"] if answer_token_ids is None else answer_token_ids
        if tokens is not None and spec.answer_positions:
            more, indices = _answer_states_pass(vlm, inputs, tokens, spec, signals)
            states |= more
            boundaries |= indices
        drawn = images and (signals.map_layers or signals.cross_attention_layers)
        boxes = _boxes(vlm, inputs, images, sample) if drawn else None
        arrays |= _signal_passes(vlm, inputs, tokens, signals, boundaries, previous_heads, boxes)
        run_answer = partial(run_with_answer, vlm, inputs)
        arrays |= sampled_answers(vlm, signals, sample_token_ids, run_answer)
        if signals.asks and tokens is not None:
            arrays |= asked_about(vlm, sample, tokens, partial(_prompt, vlm, images))
    logprobs = exactly(first_logits).log_softmax(dim=-1)
    top = logprobs.sort(descending=True)
    return Capture(
        sample=sample,
        vectors={**vision, **states},
        boundaries=boundaries,
        num_prompt_tokens=int(inputs["attention_mask"].sum()),
        image_sha256="+".join(hash_image(image) for image in images),
        image_dhash="+".join(difference_hash(image) for image in images),
        image_thumbnail="+".join(image_thumbnail(image) for image in images),
        first_token_entropy=float(-(logprobs.exp() * logprobs).nansum()),
        first_token_ids=top.indices[:TOP_FIRST_TOKENS].cpu().numpy(),
        first_token_logprobs=top.values[:TOP_FIRST_TOKENS].float().cpu().numpy(),
        signals=arrays,
        **({"finish_reason": "prefill"} | answer),
    )


def _prompt(vlm: VisionLanguageModel, images: Sequence[Any], question: str) -> Inputs:
    """Return the model's inputs for a question."""
    shown = [images[index] for index in image_order(question, len(images))]
    return _inputs(vlm, _chat_text(vlm, build_messages(question, len(images))[0]["content"]), shown)


def _chat_text(vlm: VisionLanguageModel, content: list[dict[str, Any]]) -> str:
    """Return the specification's ``chat_text``."""
    return str(
        vlm.processor.apply_chat_template(
            [{"role": "user", "content": content}], **template_settings(vlm.processor)
        )
    )


def _inputs(vlm: VisionLanguageModel, chat_text: str, images: list[Any]) -> Inputs:
    """Return the model's inputs, with one BOS token if the tokenizer has one."""
    made = {"text": [chat_text], "images": [images] if images else None, "return_tensors": "pt"}
    bos = vlm.processor.tokenizer.bos_token_id
    inputs = with_tokenizer_lock(vlm.processor)(**made, add_special_tokens=False)
    if bos is not None and bos not in inputs["input_ids"][0]:
        inputs = with_tokenizer_lock(vlm.processor)(**made)
    inputs.pop("labels", None)  # PaliGemma's processor adds them
    return vlm.cast({name: tensor.to(vlm.device) for name, tensor in inputs.items()})


def _vision_pass(vlm: VisionLanguageModel, inputs: Inputs, spec: CaptureSpec) -> np.ndarray:
    """Pass 1, the specification's ``_extract_vision_representation``."""
    feats = _run_encoder(vlm, inputs).to(torch.float32)
    if vlm.family.vision_rows == "channels first":
        feats = feats.movedim(1, -1)
    if spec.vision_pooling == "valid" and "aspect_ratio_mask" in inputs:
        feats = feats[inputs["aspect_ratio_mask"].bool()]  # Mllama's tiles with an image
    if spec.vision_pooling == "valid" and vlm.family.vision_rows == "patch shapes":
        feats = feats[inputs["pixel_attention_mask"].bool()]
    if vlm.family.vision_rows == "patch mask":
        feats = feats[
            _pixels(vlm, inputs["pixel_attention_mask"].flatten(0, 1)).eq(_patch(vlm) ** 2)
        ]
    if spec.vision_pooling == "valid" and vlm.family.vision_rows == "pixel mask":
        feats = feats[_pixels(vlm, inputs["pixel_mask"]).gt(0)]
    if vlm.family.vision_rows == "crops":
        feats = _own_crops(vlm, feats, inputs)
    while feats.dim() > 1:
        feats = feats.mean(dim=0)
    pooled: np.ndarray = feats.cpu().numpy()
    return pooled


def _patch(vlm: VisionLanguageModel) -> int:
    """Return the side of the vision encoder's square patches, in pixels."""
    return int(vlm.model.config.vision_config.patch_size)


def _pixels(vlm: VisionLanguageModel, mask: Tensor) -> Tensor:
    """Return the number of pixels of each patch that are in a mask, ``[tiles, patches]``."""
    patch = _patch(vlm)
    rows, columns = mask.shape[1] // patch, mask.shape[2] // patch
    cut = mask[:, : rows * patch, : columns * patch].long()
    counts: Tensor = cut.reshape(-1, rows, patch, columns, patch).sum(dim=(2, 4)).flatten(1)
    return counts


def _own_crops(vlm: VisionLanguageModel, feats: Tensor, inputs: Inputs) -> Tensor:
    """Drop the crops that pad each image to the most crops of the question (Phi-4)."""
    crop, sizes = vlm.model.config.vision_config.crop_size, inputs["image_sizes"].tolist()
    images = feats.chunk(len(sizes))
    counts = [1 + (height // crop) * (width // crop) for height, width in sizes]
    return torch.cat([own[:count] for own, count in zip(images, counts, strict=True)])


def _run_encoder(vlm: VisionLanguageModel, inputs: Inputs) -> Tensor:
    """Run the vision part of the model alone; return the output of its encoder."""
    if vlm.family.encoder_inputs:
        taken = {name: inputs[name] for name in vlm.family.encoder_inputs}
        alone: Tensor = vlm.vision_encoder(**taken).last_hidden_state
        return alone
    with outputs_of(vlm.vision_encoder) as seen:
        inner = vlm.model.base_model
        if hasattr(inner, "get_image_features"):
            # LLaVA's once had no such parameter for the sizes, which Pixtral's encoder needs.
            names = {*signature(inner.get_image_features).parameters, "image_sizes"}
            given: dict[str, Any] = {n: t for n, t in inputs.items() if n in names}
            strategy = "vision_feature_select_strategy"
            if strategy in names and vlm.family.model_type == "llama4":
                given[strategy] = getattr(vlm.model.config.vision_config, strategy)  # for 5.17
            inner.get_image_features(**given)
        else:
            vlm.model(**inputs)
    [features] = seen
    return features


def _decoder_pass(
    vlm: VisionLanguageModel,
    inputs: Inputs,
    spec: CaptureSpec,
    sample: Sample,
    signals: RecordedSignals,
) -> tuple[dict[str, np.ndarray], dict[str, int], Tensor]:
    """Pass 2, the specification's ``_extract_decoder_embeddings``."""
    original = halp_model_for(vlm.family.model_type, spec)
    with sublayers_recorded(vlm, signals) as parts:
        layers, logits = run_decoder(vlm, inputs, states_of(original), imaged=bool(sample.images))
    image_tokens = _image_tokens(vlm, inputs)
    last_idx = int(inputs["attention_mask"][0].sum()) - 1
    wanted = {
        "last_image_token": image_tokens[-1:],
        "first_image_token": image_tokens[:1],
        "image_mean": image_tokens,
        "last_prompt_token": [last_idx],
    }
    if "last_question_token" in spec.positions:
        wanted["last_question_token"] = [last_idx - _count_after(vlm, sample)]
    positions = [p for p in spec.prompt_positions if sample.images or p not in IMAGE_POSITIONS]
    states = {}
    for position in positions:
        for k in resolve_layers(spec.layers, vlm.num_layers):
            layer_h, chosen = layers[k][0], wanted[position_in_prompt(original, position)]
            vec = torch.stack([layer_h[i].to(torch.float32) for i in chosen]).mean(dim=0)
            states[f"{REPRESENTATIONS[position]}/layer_{k}"] = vec.cpu().numpy()
        for (part, k), passes in parts.items():
            if passes:  # a prompt without an image skips some blocks
                chosen = wanted[position_in_prompt(original, position)]
                vec = joined(passes)[0, chosen].to(torch.float32).mean(dim=0)
                name = sublayer_representation(position, part)
                states[f"{name}/layer_{k}"] = vec.cpu().numpy()
    indices = {
        p: wanted[position_in_prompt(original, p)] for p in positions if not p.endswith("_mean")
    }
    return states, {p: index[0] for p, index in indices.items()}, logits[0, last_idx]


def _image_tokens(vlm: VisionLanguageModel, inputs: Inputs) -> list[int]:
    """Return the positions of the image tokens in the prompt."""
    image_token = vlm.image_token_id
    return [i for i, token in enumerate(inputs["input_ids"][0].tolist()) if token == image_token]


def _count_after(vlm: VisionLanguageModel, sample: Sample) -> int:
    """Return the number of tokens after the question, by tokenizing the prompt up to its end."""
    *before, last = build_messages(sample.question, len(sample.images))[0]["content"]
    chat_text = _chat_text(vlm, [*before, last])
    other = _chat_text(vlm, [*before, {"type": "text", "text": "\N{WHITE SQUARE}"}])
    if last["type"] == "image":
        after = _count_same(reversed(chat_text), reversed(other))
        upto = chat_text[: len(chat_text) - after]
    else:
        start, question = _count_same(chat_text, other), last["text"]
        text = question if chat_text[start:].startswith(question) else question.strip()
        upto = chat_text[: start + len(text)]
    every, part = (
        len(with_tokenizer_lock(vlm.processor).tokenizer(t, add_special_tokens=False)["input_ids"])
        for t in (chat_text, upto)
    )
    return every - part


def _count_same(one: Iterable[str], other: Iterable[str]) -> int:
    """Return the length of the common prefix of two texts."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))


def _answer_states_pass(
    vlm: VisionLanguageModel,
    inputs: Inputs,
    answer_token_ids: np.ndarray,
    spec: CaptureSpec,
    signals: RecordedSignals,
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Run prompt and answer in one pass; return the hidden states of the answer's tokens."""
    content = content_of(vlm, answer_token_ids)
    if not content:
        raise RowError("capture", "the answer is empty")
    start, stop = inputs["input_ids"].shape[1], inputs["input_ids"].shape[1] + len(content)
    with sublayers_recorded(vlm, signals) as parts:
        layers, _ = run_with_answer(vlm, inputs, content)
    spans = {
        "first_answer_token": (start, start + 1),
        "last_answer_token": (stop - 1, stop),
        "answer_mean": (start, stop),
    }
    states = {}
    for position in spec.answer_positions:
        begin, end = spans[position]
        for k in resolve_layers(spec.layers, vlm.num_layers):
            vec = layers[k][0, begin:end].to(torch.float32).mean(dim=0)
            states[f"{REPRESENTATIONS[position]}/layer_{k}"] = vec.cpu().numpy()
        for (part, k), passes in parts.items():
            if passes:
                vec = joined(passes)[0, begin:end].to(torch.float32).mean(dim=0)
                name = sublayer_representation(position, part)
                states[f"{name}/layer_{k}"] = vec.cpu().numpy()
    return states, {p: spans[p][0] for p in spec.answer_positions if not p.endswith("_mean")}


def _signal_passes(
    vlm: VisionLanguageModel,
    inputs: Inputs,
    answer_token_ids: np.ndarray | None,
    signals: RecordedSignals,
    boundaries: Mapping[str, int],
    previous_heads: np.ndarray | None,
    boxes: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Return the arrays of signals of the prompt and of a given answer, a pass for each kind."""
    found = _attention_pass(vlm, inputs, answer_token_ids, signals, previous_heads, boxes)
    if signals.map_layers and boxes is not None:
        found[BOXES] = boxes
    if signals.lens_layers:
        found |= _lens_pass(vlm, inputs, answer_token_ids, signals, boundaries)
    if signals.image_state_layers or signals.answer_state_layers:
        found |= _tokens_pass(vlm, inputs, answer_token_ids, signals)
    return found


def _boxes(
    vlm: VisionLanguageModel, inputs: Inputs, images: Sequence[Any], sample: Sample
) -> np.ndarray:
    """Return the part of an image that each image token, or each patch, covers."""
    order = image_order(sample.question, len(images))
    sizes = [(images[index].height, images[index].width) for index in order]
    if vlm.skipped_without_image:
        return boxes_of_patches(vlm, order, sizes, inputs[TILES][0])
    given = {name: each.cpu() for name, each in inputs.items() if name in SIZES}
    ids, mask = (inputs[name][0].cpu().numpy() for name in ("input_ids", "attention_mask"))
    return boxes_of_row(vlm, ids, mask, order, sizes, given)


def _attention_pass(
    vlm: VisionLanguageModel,
    inputs: Inputs,
    answer_token_ids: np.ndarray | None,
    signals: RecordedSignals,
    previous_heads: np.ndarray | None,
    boxes: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Run prompt and answer with eager attention; return how attention is divided."""
    answer = None if answer_token_ids is None else content_of(vlm, answer_token_ids)
    return divided_attention(
        vlm,
        signals,
        inputs["input_ids"][0].tolist(),
        answer,
        lambda: vlm.model(**inputs),
        lambda: run_with_answer(vlm, inputs, answer or []),
        previous_heads,
        boxes,
    )


def _lens_pass(
    vlm: VisionLanguageModel,
    inputs: Inputs,
    answer_token_ids: np.ndarray | None,
    signals: RecordedSignals,
    boundaries: Mapping[str, int],
) -> dict[str, np.ndarray]:
    """Run the prompt, and prompt and answer; return the lens at positions and of image tokens."""
    ids = inputs["input_ids"][0].tolist()
    image_tokens = _image_tokens(vlm, inputs)
    prompt, logits = run_decoder(vlm, inputs, "hidden_states[k+1]", imaged=bool(image_tokens))
    answer = [] if answer_token_ids is None else answer_token_ids.tolist()
    layers, positions = prompt, [p for p in signals.lens_positions if p in boundaries]
    if any(boundaries[position] >= len(ids) for position in positions):
        layers, _ = run_with_answer(vlm, inputs, content_of(vlm, np.array(answer)))
    states = {
        position: [
            each[0, boundaries[position]]
            for each in (prompt if boundaries[position] < len(ids) else layers)
        ]
        for position in positions
    }
    first = answer[0] if answer else int(logits[0, -1].argmax())
    return logit_lens(vlm, signals, states, first) | internal_confidence(
        vlm, signals, prompt, image_tokens if answer else [], answer
    )


def _tokens_pass(
    vlm: VisionLanguageModel,
    inputs: Inputs,
    answer_token_ids: np.ndarray | None,
    signals: RecordedSignals,
) -> dict[str, np.ndarray]:
    """Run prompt and answer, its end-of-turn token too; return the states of single tokens."""
    length, image_tokens = inputs["input_ids"].shape[1], _image_tokens(vlm, inputs)
    prompt, _ = run_decoder(vlm, inputs, "hidden_states[k+1]", imaged=bool(image_tokens))
    if answer_token_ids is None:
        return token_states(signals, prompt, image_tokens, prompt, ())
    tokens = answer_token_ids.tolist()
    both, _ = run_with_answer(vlm, inputs, tokens)
    answer = range(length, length + len(tokens))
    return token_states(signals, prompt, image_tokens, both, answer) | similarity(
        vlm, signals, prompt, image_tokens, both, tokens
    )


def _answer_pass(vlm: VisionLanguageModel, inputs: Inputs, spec: CaptureSpec) -> dict[str, Any]:
    """Pass 3, the specification's ``_generate_answer``, with the logits for log-probabilities."""
    outputs = vlm.model.generate(
        **inputs,
        max_new_tokens=spec.max_new_tokens,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    gen_tokens = outputs.sequences[0, inputs["input_ids"].shape[1] :]
    text = vlm.processor.decode(gen_tokens, skip_special_tokens=True)
    steps = [exactly(step[0]).log_softmax(dim=-1) for step in outputs.logits]
    ends = vlm.model.generation_config.eos_token_id
    stopped = int(gen_tokens[-1]) in (ends if isinstance(ends, list) else [ends])
    return {
        "finish_reason": "stop" if stopped else "length",
        "signals": token_statistics(steps),
        "answer": text,
        "answer_token_ids": gen_tokens.cpu().numpy(),
        "answer_logprobs": np.array(
            [float(step[token]) for step, token in zip(steps, gen_tokens, strict=True)],
            dtype=np.float32,
        ),
    }

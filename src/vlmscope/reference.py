"""The oracle: the seed's own method, kept slow and literal.

One sample at a time, three passes through the model: the vision encoder alone, the whole model with
``output_hidden_states``, and ``generate``. Shared with the capture are only the picture, the chat
messages, the model's accessors and the list of layers; tokens, padding, positions, pooling and
decoding are its own. Nothing is optimised: it is here so that every faster path can be held against
it, in the tests and by ``vlmscope verify``. Two lines depart from the seed's text, where it
contradicts itself:

- ``<|image|>`` stands on position 5, as in its token table, and not on 6, as in its comment: the
  BOS token that the chat template writes is not doubled by the tokenizer.
- Vectors are cast to float32 before the mean, not after it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmscope.dataset import difference_hash, hash_image, load_image
from vlmscope.errors import RowError
from vlmscope.model import VisionLanguageModel
from vlmscope.prompt import build_messages, chat_template
from vlmscope.schema import (
    REPRESENTATIONS,
    TOP_FIRST_TOKENS,
    VISION_ONLY,
    Capture,
    CaptureSpec,
    Sample,
)
from vlmscope.selection import resolve_layers


def reference(
    sample: Sample,
    vlm: VisionLanguageModel,
    spec: CaptureSpec | None = None,
    *,
    answer_token_ids: np.ndarray | None = None,
) -> Capture:
    """Return the capture of one sample by the seed's three passes.

    Args:
        sample: The question.
        vlm: The model.
        spec: What to record (default: the seed's choice).
        answer_token_ids: Whose hidden states to read at the positions in the answer (default: of
            the answer generated here). In half precision two runs may answer differently.

    Raises:
        RowError: The picture cannot be read, or the answer is empty where its tokens are wanted.
    """
    spec = spec or CaptureSpec()
    image = load_image(sample.image)
    chat_text = vlm.processor.apply_chat_template(
        build_messages(sample.question),
        chat_template=chat_template(vlm.processor),
        add_generation_prompt=True,
        tokenize=False,
    )
    made = {"text": chat_text, "images": [image], "return_tensors": "pt"}
    inputs = vlm.processor(**made, add_special_tokens=False)
    if inputs["input_ids"][0, 0] != vlm.processor.tokenizer.bos_token_id:
        inputs = vlm.processor(**made)
    inputs = inputs.to(vlm.device)
    with torch.inference_mode():
        vision = _vision_pass(vlm, image, spec)
        states, boundaries, first_logits = _decoder_pass(
            vlm, inputs, spec, chat_text, sample.question
        )
        answer = _answer_pass(vlm, inputs, spec) if spec.max_new_tokens else {}
        if spec.answer_positions:
            tokens = answer["answer_token_ids"] if answer_token_ids is None else answer_token_ids
            more, places = _answer_states_pass(vlm, inputs, tokens, spec)
            states |= more
            boundaries |= places
    logprobs = first_logits.float().log_softmax(dim=-1)
    top = logprobs.sort(descending=True)
    return Capture(
        sample=sample,
        vectors={VISION_ONLY: vision, **states},
        boundaries=boundaries,
        num_prompt_tokens=int(inputs["attention_mask"].sum()),
        image_sha256=hash_image(image),
        image_dhash=difference_hash(image),
        first_token_entropy=float(-(logprobs.exp() * logprobs).nansum()),
        first_token_ids=top.indices[:TOP_FIRST_TOKENS].cpu().numpy(),
        first_token_logprobs=top.values[:TOP_FIRST_TOKENS].cpu().numpy(),
        **({"finish_reason": "prefill"} | answer),
    )


def _vision_pass(vlm: VisionLanguageModel, image: Any, spec: CaptureSpec) -> np.ndarray:
    """Pass 1, the seed's ``_extract_vision_representation``."""
    made = vlm.processor(images=[image], return_tensors="pt").to(vlm.device)
    vis_inputs = {name: made[name] for name in vlm.family.encoder_inputs}
    feats = vlm.vision_encoder(**vis_inputs).last_hidden_state.to(torch.float32)
    if spec.vision_pooling == "valid":
        used = vis_inputs["aspect_ratio_mask"][0, 0].bool()
        feats = feats[:, :, used]
    while feats.dim() > 1:
        feats = feats.mean(dim=0)
    pooled: np.ndarray = feats.cpu().numpy()
    return pooled


def _decoder_pass(
    vlm: VisionLanguageModel, inputs: Any, spec: CaptureSpec, chat_text: str, question: str
) -> tuple[dict[str, np.ndarray], dict[str, int], Tensor]:
    """Pass 2, the seed's ``_extract_decoder_embeddings``."""
    outputs = vlm.model(**inputs, output_hidden_states=True, return_dict=True)
    input_ids = inputs["input_ids"][0]
    image_tokens = [i for i, token in enumerate(input_ids) if token == vlm.image_token_id]
    last_idx = int(inputs["attention_mask"][0].sum()) - 1
    wanted = {
        "last_image_token": image_tokens[-1:],
        "first_image_token": image_tokens[:1],
        "image_mean": image_tokens,
        "last_prompt_token": [last_idx],
    }
    if "last_question_token" in spec.positions:
        wanted["last_question_token"] = [_question_end(vlm, chat_text, question)]
    states = {}
    for position in spec.prompt_positions:
        for k in resolve_layers(spec.layers, vlm.num_layers):
            layer_h = outputs.hidden_states[k + 1][0]
            vec = torch.stack([layer_h[i].to(torch.float32) for i in wanted[position]]).mean(dim=0)
            states[f"{REPRESENTATIONS[position]}/layer_{k}"] = vec.cpu().numpy()
    boundaries = {p: wanted[p][0] for p in spec.prompt_positions if not p.endswith("_mean")}
    return states, boundaries, outputs.logits[0, last_idx]


def _question_end(vlm: VisionLanguageModel, chat_text: str, question: str) -> int:
    """Return the place of the question's last token: the prompt cut off there, counted."""
    after_image = chat_text.index(vlm.processor.image_token) + len(vlm.processor.image_token)
    text = question if question in chat_text[after_image:] else question.strip()
    upto = chat_text[: chat_text.index(text, after_image) + len(text)]
    length = len(vlm.processor.tokenizer(upto, add_special_tokens=False)["input_ids"])
    has_bos = chat_text.startswith(vlm.processor.tokenizer.bos_token or "\0")
    return length - 1 if has_bos else length


def _answer_states_pass(
    vlm: VisionLanguageModel, inputs: Any, answer_token_ids: np.ndarray, spec: CaptureSpec
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Feed prompt and answer at once, and read the hidden states of the answer's tokens."""
    ends = np.atleast_1d(vlm.model.generation_config.eos_token_id)
    content = [token for token in answer_token_ids.tolist() if token not in ends]
    if not content:
        raise RowError("capture", "the answer is empty")
    answer, count = torch.tensor([content]), len(content)
    whole = dict(inputs)
    whole["input_ids"] = torch.cat([inputs["input_ids"], answer.to(vlm.device)], dim=1)
    for name in ("attention_mask", "cross_attention_mask"):  # each new token sees what the last saw
        last = inputs[name][:, -1:]
        whole[name] = torch.cat([inputs[name], last.repeat_interleave(count, dim=1)], dim=1)
    hidden_states = vlm.model(**whole, output_hidden_states=True).hidden_states
    start, stop = inputs["input_ids"].shape[1], whole["input_ids"].shape[1]
    spans = {
        "first_answer_token": (start, start + 1),
        "last_answer_token": (stop - 1, stop),
        "answer_mean": (start, stop),
    }
    states = {}
    for position in spec.answer_positions:
        begin, end = spans[position]
        for k in resolve_layers(spec.layers, vlm.num_layers):
            vec = hidden_states[k + 1][0, begin:end].to(torch.float32).mean(dim=0)
            states[f"{REPRESENTATIONS[position]}/layer_{k}"] = vec.cpu().numpy()
    places = {p: spans[p][0] for p in spec.answer_positions if not p.endswith("_mean")}
    return states, places


def _answer_pass(vlm: VisionLanguageModel, inputs: Any, spec: CaptureSpec) -> dict[str, Any]:
    """Pass 3, the seed's ``_generate_answer``; with the logits, for the log-probabilities."""
    outputs = vlm.model.generate(
        **inputs,
        max_new_tokens=spec.max_new_tokens,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    gen_tokens = outputs.sequences[0, inputs["input_ids"].shape[1] :]
    text = vlm.processor.decode(gen_tokens, skip_special_tokens=True)
    steps = [step[0].float().log_softmax(dim=-1) for step in outputs.logits]
    ends = vlm.model.generation_config.eos_token_id
    stopped = int(gen_tokens[-1]) in (ends if isinstance(ends, list) else [ends])
    return {
        "finish_reason": "stop" if stopped else "length",
        "answer": text,
        "answer_token_ids": gen_tokens.cpu().numpy(),
        "answer_logprobs": np.array(
            [float(step[token]) for step, token in zip(steps, gen_tokens, strict=True)],
            dtype=np.float32,
        ),
    }

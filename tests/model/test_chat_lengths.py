"""A chat model whose rotary embedding looks at the longest prompt of a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
)

from forced_chat import TEMPLATE, _tokenizer
from vlmscope.model.chat import load_chat_model

SWITCH = 96
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": None,
}  # fmt: skip


def phi3(words: int, end: int) -> Phi3ForCausalLM:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4,
            "long_factor": [1.0, 3.0, 5.0, 9.0],
            "original_max_position_embeddings": SWITCH}  # fmt: skip
    return Phi3ForCausalLM(
        Phi3Config(
            vocab_size=words, rope_parameters=rope, max_position_embeddings=4096,
            original_max_position_embeddings=SWITCH, eos_token_id=end, pad_token_id=end, **SIZES,
        )
    )  # fmt: skip


def dynamic(words: int, end: int) -> LlamaForCausalLM:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 8.0}
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=words, rope_parameters=rope, max_position_embeddings=SWITCH,
            eos_token_id=end, pad_token_id=end, **SIZES,
        )
    )  # fmt: skip


@pytest.mark.first(1)
@pytest.mark.parametrize("build", [phi3, dynamic])
def test_replies_in_a_batch_equal_replies_alone(
    tmp_path: Path, build: Callable[[int, int], PreTrainedModel]
) -> None:
    tokenizer = _tokenizer(TEMPLATE)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = build(len(tokenizer), tokenizer.convert_tokens_to_ids("<|end|>"))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path)
    chat = load_chat_model(tmp_path, dtype="float32")
    lengths = (3, 200, 40, 90, 120, 60, SWITCH)
    prompts = [
        chat.encode([{"role": "user", "content": f"{i} is it? " * 40}])[:length]
        for i, length in enumerate(lengths)
    ]
    assert [len(prompt) for prompt in prompts] == list(lengths)
    alone = [chat.reply([ids], 12)[0] for ids in prompts]
    assert len({reply.text for reply in alone}) > 4
    assert chat.reply(prompts, 12) == alone
    assert chat.reply(prompts[::-1], 12) == alone[::-1]

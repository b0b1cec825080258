"""A tiny chat model whose replies are forced by construction: no training, no chance.

One attention layer averages over all tokens and finds the marks among them; the head then continues
with the reply that belongs to the mark, and with the end after that. Everything else is zero.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FAITHFUL = '{"reason": "forced", "verdict": "faithful"}'
HALLUCINATED = '{"reason": "forced", "verdict": "hallucinated"}'
GARBAGE = "I think so."

MARKS = {"zqh": HALLUCINATED, "zqg": GARBAGE, "zqn": GARBAGE}
"""Text in a chat → reply. After the nudge ``zqg`` is faithful, and ``zqn`` still garbage."""

NUDGED = "That was not the JSON object asked for"
"""What the nudge begins with."""

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|turn|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)

_WIDTH = 16
_ONE, _SPOKEN = 0, 1
_DIRECTIONS = {"zqh": 2, "zqg": 3, "zqn": 4, NUDGED: 5}
"""Dimension of each mark in an embedding; where it was seen is 5 further on."""


def write_forced_chat(folder: Path, *, template: str | None = TEMPLATE) -> Path:
    """Write the checkpoint and return its folder.

    Args:
        folder: Where; made if missing.
        template: Its chat template; None for a checkpoint without one.
    """
    tokenizer = _tokenizer(template)
    tokenizer.save_pretrained(folder)
    _model(tokenizer).save_pretrained(folder)
    settings = folder / "generation_config.json"
    config = json.loads(settings.read_text())
    # What a release has, and a judge must not follow.
    settings.write_text(json.dumps(config | {"do_sample": True, "temperature": 5.0}))
    return folder


def _tokenizer(template: str | None) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|turn|>", "<|end|>", "[/INST]"]
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    texts = [*_DIRECTIONS, FAITHFUL, HALLUCINATED, GARBAGE]
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in texts])
    ends = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends)
    made.chat_template = template
    return made


def _model(tokenizer: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    eos = tokenizer.eos_token_id
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=_WIDTH, intermediate_size=_WIDTH,
        num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
        max_position_embeddings=16_384, bos_token_id=tokenizer.bos_token_id, eos_token_id=eos,
        pad_token_id=eos, tie_word_embeddings=False,
    ))  # fmt: skip
    number = {text: tokenizer.convert_tokens_to_ids(text)
              for text in (*_DIRECTIONS, FAITHFUL, HALLUCINATED, GARBAGE)}  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1)
        embedding = model.model.embed_tokens.weight
        embedding[:, _ONE] = 1
        attention, head = model.model.layers[0].self_attn, model.lm_head.weight
        for text, at in _DIRECTIONS.items():
            embedding[number[text], at] = 1
            attention.v_proj.weight[at, at] = 1
            attention.o_proj.weight[at + 5, at] = 1e5  # a mark among thousands of tokens is seen
        for reply in (FAITHFUL, HALLUCINATED, GARBAGE):
            embedding[number[reply], _SPOKEN] = 1
        head[eos, _SPOKEN] = 1e8
        head[number[FAITHFUL], _ONE] = 1
        for mark, reply in MARKS.items():
            head[number[reply], _DIRECTIONS[mark] + 5] += 1
        # After the nudge zqg says faithful; zqn outdoes it.
        head[number[FAITHFUL], _DIRECTIONS[NUDGED] + 5] = 3
        head[number[GARBAGE], _DIRECTIONS["zqn"] + 5] = 1e3
    return model

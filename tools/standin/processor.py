"""The Llama-3.2-Vision processor around a small tokenizer: real classes, format and special ids.

Both the random stand-in and the trained demo model use it; they differ in the text the tokenizer
has learnt its words from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import MllamaProcessor

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{%- for part in message['content'] %}"
    "{%- if part['type'] == 'image' %}{{- '<|image|>' }}{%- else %}{{- part['text'] }}{%- endif %}"
    "{%- endfor %}{{- '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
"""The part of Llama 3's template that a single user turn with an image exercises."""

SPECIAL_TOKENS = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
"""Offset behind the ordinary vocabulary → token, as in Llama 3 (``<|eot_id|>`` is 128000 + 9)."""

NUM_SPECIAL_TOKENS = 256
"""Llama 3 reserves this many ids; ``<|image|>`` follows them (128256)."""

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 cuts text into words before byte-pair encoding."""

CORPUS = (
    "user assistant user assistant\n\nuser\n\nassistant\n\n",
    "Is the forest lit by a full moon? Is the forest lit by a full moon?",
    "What is in the picture? What colour is the cup? How many people are there?",
    "Is there a cat in the image? Is there a rocket? Describe this image.",
    "No; The forest isn't brightened by full moonlight. Yes, there is a cat in the image.",
)
"""Enough text for whole words of the specification's example to be single tokens, as in Llama 3."""


def build_processor(
    *, vocabulary: int, tile: int, corpus: Iterable[str] = CORPUS, words: int = 640
) -> MllamaProcessor:
    """Return the real processor around a byte-level tokenizer.

    Args:
        vocabulary: Ordinary tokens; Llama 3's 256 special tokens and ``<|image|>`` follow.
        tile: Edge of an image tile in pixels.
        corpus: The text that byte-pair encoding learns its words from.
        words: The most tokens to learn; the rest of ``vocabulary`` stays unused.
    """
    from transformers import MllamaProcessor
    from transformers.models.mllama import image_processing_pil_mllama as pil

    images = pil.MllamaImageProcessorPil(size={"height": tile, "width": tile}, max_image_tiles=4)
    tokenizer = _build_tokenizer(vocabulary, corpus, min(words, vocabulary))
    return MllamaProcessor(images, tokenizer, chat_template=CHAT_TEMPLATE)


def _build_tokenizer(vocabulary: int, corpus: Iterable[str], words: int) -> Any:
    """Return a fast tokenizer: byte-level BPE, then Llama 3's special tokens at their offsets."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = split
    trainer = trainers.BpeTrainer(
        vocab_size=words,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(corpus, trainer)
    table = trained.get_vocab()
    table |= {f"<unused_{i}>": i for i in range(len(table), vocabulary)}
    tokenizer = Tokenizer(models.BPE(table, _merges(trained)))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    names = [
        SPECIAL_TOKENS.get(i, f"<|reserved_special_token_{i}|>") for i in range(NUM_SPECIAL_TOKENS)
    ]
    tokenizer.add_special_tokens([*names, "<|image|>"])
    # As in Llama 3 the tokenizer adds a BOS of its own: the trap that doubles it.
    bos = SPECIAL_TOKENS[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, vocabulary)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token="<|eot_id|>",  # noqa: S106
        pad_token="<|finetune_right_pad_id|>",  # noqa: S106
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def _merges(tokenizer: Any) -> list[tuple[str, str]]:
    """Return the learnt merges in order; the library shows them only in its JSON."""
    import json

    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]

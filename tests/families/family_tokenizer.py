"""Small byte-level tokenizers that carry the special tokens of a real family.

The ordinary words are learnt from the demo's corpus, so that questions fall into several pieces;
the texts of the special tokens are the real ones, their ids are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tools.standin import CORPUS, SPLIT_PATTERN


def build_tokenizer(
    specials: Sequence[str],
    *,
    eos: str,
    pad: str,
    bos: str | None = None,
    adds_bos: bool = False,
    named: Mapping[str, str] | None = None,
    specials_first: bool = False,
    words: int = 400,
) -> Any:
    """Return a fast tokenizer: byte-level BPE and the special tokens.

    Args:
        specials: Every special token, in the order of their ids.
        eos: End of a turn, as the tokenizer has it; the generation settings may know more.
        pad: What batches are padded with.
        bos: Beginning of a text, if the family has one.
        adds_bos: Whether the tokenizer writes it of its own accord, as Llama's and Gemma's do.
        named: Attribute → token, for processors that ask the tokenizer (``image_token``).
        specials_first: Special ids before the words, as Gemma and Mistral have them.
        words: The most words to learn, all bytes included.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    trainer = trainers.BpeTrainer(
        vocab_size=words + len(specials) * specials_first,
        special_tokens=list(specials) if specials_first else [],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    if adds_bos:
        number = tokenizer.token_to_id(bos)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, number)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        extra_special_tokens=dict(named or {}),
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )

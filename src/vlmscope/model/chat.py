"""A chat model with text input and output: a language model, or the language part of a VLM.

Used to judge answers on this machine. Loading has the rules of ``load_model``: safetensors only, no
code from the checkpoint, no missing weights. Chats are formatted with the checkpoint's own chat
template, batched with padding on the left, and decoded greedily.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vlmscope import clock
from vlmscope.errors import ModelError, one_line, typed_line
from vlmscope.jsontext import load_json
from vlmscope.locking import model_lock, tokenizer_lock
from vlmscope.model.attention.implementations import AUTO, choose_attention
from vlmscope.model.computing import computing, start_clean
from vlmscope.model.fingerprint import Fingerprinting, hash_json
from vlmscope.model.lengths import ALONE, ONE_BAND, LengthBands, find_bands, forget_lengths
from vlmscope.model.loading.device import auto_class, choose_dtype
from vlmscope.model.loading.generation import make_greedy
from vlmscope.model.loading.load import load_config, load_weights, without_library_bars
from vlmscope.model.loading.thinker import prepare_thinker
from vlmscope.repeatable import uses_randomness

Chat = Sequence[Mapping[str, str]]
"""``role`` and ``content`` of each message: an optional ``system``, then turns."""

MARKS = ("the system text", "the user text")
"""Example texts, to find out which form of messages a template accepts."""

BATCH_TOLERANCE = 0.05
"""Maximum relative difference of logits in a batch and alone; bfloat16 has a fifth of it."""

CLOCK = "2024-07-26T00:00:00"
"""The time that a chat template is given: the date that Llama 3's own defaults to."""

TOO_LONG = "the row is too long for the model"
NO_MEMORY = "the row does not fit into memory"


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A reply of a chat model."""

    text: str
    """The reply, without control tokens."""
    failed: str = ""
    """Why there is no reply; empty if there is one."""


def identify_chat_model(folder: str | Path) -> str:
    """Return the identity of a chat model: a hash of its weights and its chat template.

    Path and name of the folder make no difference.

    Raises:
        ModelError: It is not the folder of a loadable checkpoint, or has no chat template.
    """
    name = str(folder)
    check_folder(name)
    with without_library_bars(), safetensors_only(), Fingerprinting(name, None) as fingerprint:
        config, _ = load_config(name, None)
        chat_class(name, config)
        template = _template(name, load_tokenizer(name))
        fingerprint.begin(config, None, pickles=False)
        return hash_json([fingerprint.finish("").weights_hash, template])


def load_chat_model(folder: str | Path, *, dtype: str = "auto") -> ChatModel:
    """Load a chat model from a folder.

    Args:
        folder: Folder of a checkpoint.
        dtype: As for ``load_model``.

    Raises:
        ModelError: It cannot be loaded, or has no chat template that accepts plain text.
    """
    name = str(folder)
    check_folder(name)
    with safetensors_only(), Fingerprinting(name, None) as fingerprint:
        config, _ = load_config(name, None)
        loader = chat_class(name, config)
        tokenizer = load_tokenizer(name)
        template = _template(name, tokenizer)
        form = _find_form(name, tokenizer, template)
        fingerprint.begin(config, None, pickles=False)
        kind = choose_dtype(dtype, "auto")
        with model_lock():
            start_clean()
            plain, attention = choose_attention(AUTO, name, config)
            model = load_weights(
                name, plain, local_device(), pickles=False, loader=loader, dtype=kind,
                attn_implementation=attention,
            )  # fmt: skip
            prepare_thinker(model, tokenizer.eos_token_id)
            pad = tokenizer.pad_token_id
            make_greedy(model, tokenizer.eos_token_id if pad is None else pad)
        weights = fingerprint.finish("").weights_hash
    forget_lengths(model)
    chat = ChatModel(
        model, tokenizer, template, form, hash_json([weights, template]), lengths=find_bands(model)
    )
    return replace(chat, batches=_is_batchable(chat))


def chat_class(name: str, config: Any) -> Any:
    """Return the transformers class that loads a text-generating model.

    Raises:
        ModelError: There is none.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        MODEL_FOR_MULTIMODAL_LM_MAPPING,
    )

    has_vision = getattr(config, "vision_config", None) is not None
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not has_vision:
        return AutoModelForCausalLM
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING or (
        has_vision and type(config) in MODEL_FOR_MULTIMODAL_LM_MAPPING
    ):
        return auto_class(config)
    raise ModelError(
        f"{name}: a model of type {config.model_type!r} is not a chat model, or not in this "
        "transformers; give a chat model"
    )


@dataclass(frozen=True, slots=True, eq=False)
class ChatModel:
    """A loaded chat model. Made by ``load_chat_model``."""

    model: Any
    """The model of transformers."""
    tokenizer: Any
    """Its tokenizer."""
    template: str
    """Its chat template."""
    form: str
    """The form of messages that the template accepts; see ``FORMS``."""
    identity: str
    """Identity as returned by ``identify_chat_model``."""
    batches: bool = True
    """Whether replies do not depend on padding or the batch; otherwise chats run one at a time."""
    lengths: LengthBands = ONE_BAND
    """Which prompts may be in the same batch, by their lengths."""

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Texts that the tokenizer reads as control tokens, the longest first."""
        tokens = self.tokenizer.added_tokens_decoder.values()
        found = {str(token) for token in tokens if token.special and str(token)}
        return tuple(sorted(found, key=len, reverse=True))

    def encode(self, chat: Chat) -> list[int]:
        """Return the token ids of a chat, with one BOS token if the tokenizer has one."""
        with tokenizer_lock():
            text = _render(self.tokenizer, self.template, self.form, chat)
            ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            bos = self.tokenizer.bos_token_id
            if bos is not None and ids[:1] != [bos]:
                default = self.tokenizer(text)["input_ids"]
                ids = [bos, *ids] if default[:1] == [bos] else ids
        return ids

    def reply(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[ChatReply]:
        """Return the greedy reply to each prompt of ``encode``, in one batch.

        If a batch does not fit into memory, it is split in halves.
        """
        limit = self.limit - max_new_tokens
        groups: dict[tuple[int, int], list[int]] = {}
        for i, ids in enumerate(prompts):
            band = self.lengths.band(len(ids), max_new_tokens)
            if len(ids) <= limit:
                groups.setdefault((band, i if band == ALONE else 0), []).append(i)
        found = [ChatReply("", TOO_LONG)] * len(prompts)
        for fit in groups.values():
            replies = self._reply_in_halves([prompts[i] for i in fit], max_new_tokens)
            for i, reply in zip(fit, replies, strict=True):
                found[i] = reply
        return found

    def _reply_in_halves(
        self, prompts: list[Sequence[int]], max_new_tokens: int
    ) -> list[ChatReply]:
        if not prompts:
            return []
        if len(prompts) == 1 or self.batches:
            try:
                return self._generate(prompts, max_new_tokens)
            except (torch.OutOfMemoryError, MemoryError):
                if len(prompts) == 1:
                    return [ChatReply("", NO_MEMORY)]
        half = len(prompts) // 2
        return [
            *self._reply_in_halves(prompts[:half], max_new_tokens),
            *self._reply_in_halves(prompts[half:], max_new_tokens),
        ]

    def _generate(self, prompts: list[Sequence[int]], max_new_tokens: int) -> list[ChatReply]:
        inputs = self._inputs(prompts)
        with computing():
            written = self.model.generate(**inputs, max_new_tokens=max_new_tokens)
        answers = written[:, inputs["input_ids"].shape[1] :]
        with tokenizer_lock():
            texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [ChatReply(text) for text in texts]

    def first_logits(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the logits of each reply's first token, ``[prompt, token]``, in float32."""
        with computing():
            found = self.model.generate(
                **self._inputs(prompts),
                max_new_tokens=1,
                return_dict_in_generate=True,
                output_logits=True,
            )
            logits: torch.Tensor = found.logits[0].float().cpu()
        return logits

    def _inputs(self, prompts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Return prompts as tensors, padded on the left."""
        longest = max(map(len, prompts))
        pad = self.model.generation_config.pad_token_id or 0
        ids = torch.full((len(prompts), longest), int(pad), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        device = self.model.device
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}

    @property
    def limit(self) -> int:
        """The longest sequence that the model supports."""
        text = self.model.config.get_text_config()
        found = getattr(text, "max_position_embeddings", None)
        if not isinstance(found, int) or found <= 0:
            return 2**31
        return int(found * self.lengths.stretch)


def _is_batchable(chat: ChatModel) -> bool:
    """Return whether a chat gets the same reply in a batch, with a longer one, as alone.

    Rounding differs from batch to batch; an architecture that attends to padding, or whose mask is
    made for images, differs by far more.
    """
    texts = ("Is it?", "Is there a door in the picture, and what colour is it?")
    prompts = [chat.encode([{"role": "user", "content": text}]) for text in texts]
    together = chat.first_logits(prompts)
    alone = torch.cat([chat.first_logits([ids]) for ids in prompts])
    gap = (together - alone).norm(dim=1) / alone.norm(dim=1).clamp_min(1e-6)
    return bool((gap < BATCH_TOLERANCE).all())


def check_folder(name: str) -> None:
    """Raise ``ModelError`` for a path that is not the folder of a checkpoint."""
    if not (Path(name) / "config.json").is_file():
        raise ModelError(f"{name}: no folder with a config.json; give a complete checkpoint")


@contextmanager
def safetensors_only() -> Iterator[None]:
    """Remove the option to read pickles from error messages: a judge does not have it."""
    try:
        yield
    except ModelError as error:
        text, option, _ = str(error.args[0]).partition(", or pass --allow-pickle-weights")
        raise (ModelError(text) if option else error) from error.__cause__


def load_tokenizer(name: str) -> Any:
    """Return the tokenizer of a checkpoint, without running code of its own."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # unsuitable settings may raise anything in a tokenizer class
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{name}: the tokenizer contains code of its own, which is never run; give another "
                "checkpoint"
            ) from error
        raise ModelError(f"{name}: cannot load the tokenizer: {typed_line(error)}") from error


def _template(name: str, tokenizer: Any) -> str:
    """Return the chat template: the tokenizer's, or for an older VLM the processor's."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    path = Path(name) / "chat_template.json"
    if not template and path.is_file():
        try:
            template = load_json(path.read_text("utf-8")).get("chat_template")
        except (OSError, ValueError, AttributeError) as error:
            raise ModelError(f"{path}: cannot be read: {one_line(error)}") from error
    if not template or not isinstance(template, str):
        raise ModelError(
            f"{name}: the checkpoint has no chat template; give an instruction-tuned checkpoint, "
            "or put a chat_template.jinja into its folder"
        )
    if chance := uses_randomness(template):
        raise ModelError(
            f"{name}: its chat template is random ({chance}), so replies would not be "
            f"reproducible; remove {chance} from its chat_template.jinja"
        )
    return template


def local_device() -> str:
    """Return the device for a model that is loaded without options for it."""
    if torch.cuda.is_available():
        return "spread" if torch.cuda.device_count() > 1 else "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _plain(chat: Chat) -> list[dict[str, Any]]:
    return [dict(message) for message in chat]


def _in_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages whose content is a list of parts, as templates of VLMs expect it."""
    return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]


def _merged(chat: Chat) -> list[dict[str, Any]]:
    """Return a chat with the system text in the first turn: some templates have no system role."""
    first, *others = _plain(chat)
    if first["role"] != "system" or not others:
        return [first, *others]
    content = f"{first['content']}\n\n{others[0]['content']}"
    return [{**others[0], "content": content}, *others[1:]]


FORMS: Mapping[str, Callable[[Chat], list[dict[str, Any]]]] = {
    "plain": _plain,
    "in parts": lambda chat: _in_parts(_plain(chat)),
    "merged": _merged,
    "merged, in parts": lambda chat: _in_parts(_merged(chat)),
}
"""Forms in which a template may accept a chat, best first."""


def _find_form(name: str, tokenizer: Any, template: str) -> str:
    """Return the form in which the template writes all of its input.

    Raises:
        ModelError: There is none.
    """
    system, user = MARKS
    chat = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    why = "it omits part of its input"
    for form in FORMS:
        try:
            text = _render(tokenizer, template, form, chat)
        except Exception as error:  # noqa: BLE001 - a template is a program of the checkpoint
            why = f"{type(error).__name__}: {one_line(error)}"
            continue
        if system in text and user in text:
            return form
    raise ModelError(
        f"{name}: its chat template accepts no plain text ({why}); give another checkpoint, or "
        "correct its chat_template.jinja"
    )


def _render(tokenizer: Any, template: str, form: str, chat: Chat) -> str:
    """Return a chat as text, with a fixed time in the template so that replies do not change."""
    template, variables = clock.at_time(template, CLOCK)
    return str(
        tokenizer.apply_chat_template(
            FORMS[form](chat),
            chat_template=template,
            **variables,
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=False,  # for models that can generate a long reasoning first
        )
    )

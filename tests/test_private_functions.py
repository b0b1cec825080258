"""Private functions of libraries that vlmscope uses for want of public ones: they are as expected.

Each is listed with why. If a library moves one or changes its signature, the test that fails here
says where it is used.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

import vlmscope

SOURCE = Path(vlmscope.__file__).parent

USED = {
    "model/attention/implementations.py": {"_attn_implementation", "_supports_sdpa"},
    "model/attention/switch.py": {"_attn_implementation"},
    "engine/decoding/support.py": {"_eos_token_tensor", "_get_logits_processor"},
    "model/loading/corrections.py": {"_process_images"},
    "model/encoder_widths.py": {"_parameters"},
    "model/elementwise/epilogues.py": {"_addmm_activation"},
}
"""Files → what they use of objects that are not vlmscope's."""

OTHERS = {"_replace", "_exit"}
"""Public in spite of their names: of named tuples, and of ``os``."""


def _names_of_ours(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the private names that a module defines, or sets on ``self``."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found |= {node.attr} if node.value.id in ("self", "cls") else set()
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def _private(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr[:1] == "_" != node.attr[1:2]:
            yield node.attr, node.value
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "getattr"
        ):
            name = node.args[1]
            if isinstance(name, ast.Constant) and str(name.value).startswith("_"):
                yield str(name.value), node.args[0]


def test_no_other_private_name_of_a_library_is_used() -> None:
    used: dict[str, set[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
        ours = _names_of_ours(nodes)
        for name, owner in _private(nodes):
            if name in OTHERS or name.startswith("_vlmscope"):
                continue
            if name in ours and ast.unparse(owner) not in ("super()", "parts"):
                continue
            used.setdefault(path.relative_to(SOURCE).as_posix(), set()).add(name)
    for path in set(used) - set(USED):
        names = {name for name in used[path] if not _is_of_vlmscope(name)}
        assert not names, f"{path} uses {names}: take public ones, or list them here with a test"
    for path, names in USED.items():
        assert used[path] >= names, f"{path} no longer uses {names - used[path]}: remove it here"
        more = {name for name in used[path] - names if not _is_of_vlmscope(name)}
        assert not more, f"{path} uses {more}: take public ones, or list them here with a test"


@functools.cache
def _defined() -> frozenset[str]:
    """Return the names of all functions of vlmscope."""
    texts = (path.read_text("utf-8") for path in SOURCE.rglob("*.py"))
    return frozenset(name for text in texts for name in re.findall(r"def (\w+)\(", text))


def _is_of_vlmscope(name: str) -> bool:
    return name in _defined()


def test_a_configuration_tells_and_takes_its_attention() -> None:
    """Why: there is no public way to ask for it, and ours replaces it for the time of one pass.

    ``set_attn_implementation`` checks that the model supports it, of every part, and reloads.
    """
    config = LlamaConfig()
    config._attn_implementation = "eager"
    assert config._attn_implementation == "eager", "PretrainedConfig._attn_implementation moved"
    assert isinstance(inspect.getattr_static(PretrainedConfig, "_attn_implementation"), property)


def test_a_model_tells_whether_it_supports_sdpa() -> None:
    """Why: an attention that the library would not have chosen is not held by the suite."""
    assert PreTrainedModel._supports_sdpa in (True, False)


def test_generate_says_which_processors_it_would_use() -> None:
    """Why: settings of a checkpoint that change logits are found by what they come to."""
    given = {"generation_config", "input_ids_seq_length", "encoder_input_ids", "device"}
    found = inspect.signature(GenerationMixin._get_logits_processor).parameters
    assert given <= set(found), "engine/decoding/support.py calls it with these"
    others = [each for name, each in found.items() if name not in {*given, "self"}]
    assert all(each.default is not inspect.Parameter.empty for each in others)
    config = GenerationConfig(min_new_tokens=3, eos_token_id=2)
    config._eos_token_tensor = torch.tensor([2])
    model = type("Model", (GenerationMixin,), {"config": LlamaConfig()})()
    (made,) = model._get_logits_processor(
        config, input_ids_seq_length=1, encoder_input_ids=torch.zeros(1, 1).long(), device="cpu"
    )
    assert type(made).__name__ == "MinNewTokensLengthLogitsProcessor"


def test_a_processor_prepares_its_images_by_one_method() -> None:
    """Why: Perception LM's tiles of several images have to be joined between its two steps."""
    found = list(inspect.signature(ProcessorMixin._process_images).parameters.values())
    assert [each.name for each in found[:2]] == ["self", "images"]
    assert found[-1].kind is inspect.Parameter.VAR_KEYWORD
    called = ProcessorMixin.__call__
    assert "_process_images(" in inspect.getsource(called), "corrections.py expects it to be called"


def test_a_model_is_made_of_its_configuration() -> None:
    """Why: the stand-in's weights are made in their dtype; no public way makes a given class so."""
    assert "kwargs" in inspect.signature(PreTrainedModel._from_config).parameters
    model = LlamaForCausalLM._from_config(
        LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, vocab_size=8,
                    num_attention_heads=1),
        dtype=torch.bfloat16,
    )  # fmt: skip
    assert model.dtype == torch.bfloat16


def test_a_module_holds_its_parameters_by_name() -> None:
    """Why: weights are exchanged for the time of one pass; ``setattr`` would register them anew."""
    module = torch.nn.Linear(1, 1)
    assert module._parameters["weight"] is module.weight

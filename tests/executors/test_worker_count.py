"""How many workers and builders there are, by the machine's processors and memory."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import vlmscope
from executors.made_up_model import made_up
from vlmscope.dataset import Share
from vlmscope.errors import InputError
from vlmscope.executors import plan
from vlmscope.executors.request import Request
from vlmscope.executors.workers import Workers, count, usable
from vlmscope.executors.workers.usable import usable_by_rank, usable_memory, usable_processors
from vlmscope.model import VisionLanguageModel


@pytest.mark.parametrize("number", [-1, 1.5, "two"])
def test_a_number_of_workers_is_a_number(number: Any, vlm: VisionLanguageModel) -> None:
    with pytest.raises(InputError, match="num_workers"):
        vlmscope.extract("none.csv", vlm, "nowhere", num_workers=number)


def test_workers_need_linux(vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "is_supported", lambda: False)
    with pytest.raises(InputError, match=r"num_workers 2: .* Linux"):
        vlmscope.extract("none.csv", vlm, "nowhere", num_workers=2)


def test_processors_and_memory_are_those_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(48)))
    monkeypatch.setattr(usable, "_control_groups", lambda: [tmp_path])
    monkeypatch.setattr(usable, "_CGROUPS", tmp_path)
    for name in ("SLURM_CPUS_ON_NODE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert usable_processors() == 48
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_processors() == 48
    (tmp_path / "cpu.max").write_text("1250000 100000\n")
    assert usable_processors() == 13
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    assert usable_processors() == 3
    whole = usable_memory()
    (tmp_path / "memory.max").write_text("max\n")
    assert usable_memory() == whole > 2**30
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    assert usable_memory() == 2**30


def test_processes_are_for_gpus_unless_a_number_is_given(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workers, "start", lambda _: None)
    monkeypatch.setattr(count, "usable_by_rank", lambda *_: 24)
    monkeypatch.setattr(count, "usable_memory", lambda: 2**40)
    gpu, cpu = made_up("cuda:0"), made_up()
    on_cpu = Request("none.csv", cpu, Path("none"))
    assert count.make_workers(on_cpu) is None
    found = count.make_workers(replace(on_cpu, num_workers=3))
    assert found is not None
    assert (found.count, found._wait) == (3, True)
    assert count.keep_for(cpu, found, replace(on_cpu, num_workers=3)) is found
    on_gpu = replace(on_cpu, model=gpu)
    assert count.make_workers(replace(on_gpu, num_workers=0)) is None
    found = count.make_workers(on_gpu, sharing=2)
    assert found is not None
    assert (found.count, found._wait) == (10, False)
    assert count.keep_for(gpu, found, on_gpu) is found
    assert count.keep_for(cpu, found, on_gpu) is None


def test_builders_of_shards_share_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "usable_by_rank", lambda *_: 24)
    request = Request("none.csv", made_up("cuda:0"), Path("none"))
    for memory, builders in ((2**40, [4, 3, 2, 0]), (2**34, [4, 0, 0, 0]), (2**32, [2, 0, 0, 0])):
        monkeypatch.setattr(count, "usable_memory", lambda memory=memory: memory)
        assert [count.builders_for(request, sharing=n) for n in (1, 8, 12, 24)] == builders


@pytest.mark.parametrize(
    ("environment", "shard", "processors"),
    [
        ({}, None, 16),
        ({}, Share(0, 8), 2),
        ({"LOCAL_WORLD_SIZE": "4"}, Share(0, 32), 4),
        ({"LOCAL_WORLD_SIZE": "x"}, Share(0, 2), 8),
        ({"SLURM_CPUS_ON_NODE": "16"}, Share(0, 100), 16),
        ({"SLURM_CPUS_ON_NODE": "16", "SLURM_STEP_TASKS_PER_NODE": "2(x3)"}, Share(0, 6), 8),
        ({"SLURM_CPUS_ON_NODE": "16", "SLURM_CPUS_PER_TASK": "6"}, Share(0, 6), 6),
    ],
)
def test_ranks_share_the_processors_of_a_machine(
    environment: dict[str, str], shard: Share | None, processors: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(usable, "usable_processors", lambda: 16)
    assert usable_by_rank(shard, environment) == processors

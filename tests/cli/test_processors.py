"""Several commands at once share the processors: waiting threads of torch sleep."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vlmscope import cli

CODE = (
    "import os, sys\n"
    "import vlmscope.cli\n"
    "assert 'torch' not in sys.modules, 'the policy is read when torch is loaded'\n"
    "sys.argv = ['vlmscope', '--version']\n"
    "try:\n"
    "    vlmscope.cli.main()\n"
    "except SystemExit:\n"
    "    print(os.environ.get('OMP_WAIT_POLICY'))\n"
)


def test_waiting_threads_sleep_before_torch_is_loaded() -> None:
    env = {name: value for name, value in os.environ.items() if name not in cli.WAITING}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == "PASSIVE"


@pytest.mark.parametrize("name", cli.WAITING)
def test_a_policy_that_the_user_chose_is_kept(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for each in cli.WAITING:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "7")
    cli.share_processors()
    assert {each: os.environ.get(each) for each in cli.WAITING} == {
        each: "7" if each == name else None for each in cli.WAITING
    }

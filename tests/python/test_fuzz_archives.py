"""The fuzzers of archives: they find what is planted, and nothing else."""

from __future__ import annotations

import re

import pytest
from fuzzers import FUZZ, run

# A runtime with one fault.
PLANT = """
import os, signal, sys
from pathlib import Path
import changed_archives
from processes import Seeds
from ts_infer import runtime

right = runtime.load


def load(data, **options):
    model = right(data, **options)
    if sys.argv[1] == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if sys.argv[1] == "write":
        Path("written").touch()
    if sys.argv[1] == "raise":
        raise MemoryError("planted")
    return model


runtime.load = load
result = changed_archives.run(Seeds(0, 60))
print(*{text.partition(":")[0] for text in result.failures}, sep="|")
print(result.answered)
"""


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("crash", "load ended the process"),
        ("write", "wrote written"),
        ("raise", "load raised MemoryError"),
    ],
)
def test_a_planted_fault_is_found(fault: str, text: str) -> None:
    done = run("-c", PLANT, fault)
    assert done.returncode == 0, done.stderr
    failures, answered = done.stdout.splitlines()[-2:]
    assert failures == text
    assert answered == "0"


def test_changed_archives_are_refused_or_answered() -> None:
    done = run(str(FUZZ / "changed_archives.py"), "--count", "1500")
    assert done.returncode == 0, done.stdout
    summary = done.stdout.splitlines()[-1]
    assert summary.startswith("1500 archives: "), summary
    assert " 0 failures " in summary
    assert " 0 answered" not in summary


def test_no_hostile_archive_writes_a_file() -> None:
    done = run(str(FUZZ / "hostile_archives.py"), "--count", "500")
    assert done.returncode == 0, done.stdout
    found = re.fullmatch(
        r"500 archives: \d+ refused, \d+ harmless, 0 failures in \d+ s; "
        r"stock torch.jit wrote a file for (\d+)",
        done.stdout.splitlines()[-1],
    )
    assert found, done.stdout
    assert int(found[1]) > 50


def test_a_hostile_archive_that_is_let_through_is_found() -> None:
    program = """
import hostile_archives
from processes import Seeds
from ts_infer import runtime

load = runtime.load
names = ["aten::save", "aten::from_file", "__setstate__"]
runtime.load = lambda data, **options: load(data, allow_operators=names, **options)
result = hostile_archives.run(Seeds(0, 60))
print(len(result.failures), *set(result.failures))
"""
    done = run("-c", program)
    assert done.returncode == 0, done.stderr
    count, _, text = done.stdout.splitlines()[-1].partition(" ")
    assert int(count) > 5
    assert text == "a file was written"

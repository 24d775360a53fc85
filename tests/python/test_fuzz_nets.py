"""The fuzzer of small nets: it finds what is planted, makes it small, and finds nothing else."""

from __future__ import annotations

import pytest
from fuzzers import FUZZ, run

# A runtime with one fault, for models that hold one operator.
PLANT = """
import os, signal, sys
import torch
import net_check, nets
from ts_infer import ExecutionError, runtime

kind, operator = sys.argv[1:]
right = net_check.load


def load(data, options):
    model = right(data, options)
    if operator not in runtime.read_model_info(data).operators:
        return model

    def call(*arguments):
        if kind == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "refused":
            raise ExecutionError("planted")
        try:
            outputs = net_check.leaves(model(*arguments))
        except ExecutionError:
            if kind != "answered":
                raise
            return torch.zeros(1)
        return [x * 1.001 if kind == "wrong" and x.is_floating_point() else x for x in outputs]

    return call


net_check.load = load
result = nets.run(nets.Options(seed=40, count=80, shrunk=1))
print("kinds:", *sorted({found.failure.kind for found in result.found}))
for found in result.found:
    if found.net is not None:
        print("lines:", *[text for line in found.net.lines for text in line.source("")], sep="|")
        print("sizes:", max(x.numel() for x in found.net.arguments(0)))
"""


@pytest.mark.parametrize("kind", ["wrong", "refused", "crash"])
def test_a_planted_fault_is_found_and_made_small(kind: str) -> None:
    done = run("-c", PLANT, kind, "torch.tanh")
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    assert lines["kinds"].split() == [kind], done.stdout
    code = lines["lines"].strip(" |").split("|")
    assert len(code) == 1, done.stdout
    assert "tanh" in code[0].lower() or "self.p" in code[0], done.stdout
    assert int(lines["sizes"]) <= 2, done.stdout


def test_an_answer_where_eager_refuses_is_found() -> None:
    done = run("-c", PLANT, "answered", "torch.add")
    assert "kinds: answered\n" in done.stdout, done.stdout + done.stderr


def test_a_reproduction_runs() -> None:
    done = run("-c", PLANT, "wrong", "torch.tanh")
    begin, end = done.stdout.index("import io"), done.stdout.index("\nkinds:")
    program = run("-c", done.stdout[begin:end])
    assert program.returncode == 0, program.stderr
    assert "tensor(" in program.stdout


@pytest.mark.parametrize("executor", ["prepared", "all"])
def test_random_nets_answer_as_eager_does(executor: str) -> None:
    done = run(str(FUZZ / "nets.py"), "--seed=40", "--count=100", f"--executor={executor}")
    assert done.returncode == 0, done.stdout + done.stderr

"""Running a task where it can be killed."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ts_infer._export import isolation

if TYPE_CHECKING:
    from ts_infer._export.isolation import Emit

ENOUGH_S = 60.0


def test_messages_arrive_in_order_and_whole() -> None:
    large = "x" * 3_000_000
    seen: list[Any] = []

    def task(emit: Emit) -> None:
        emit(1)
        emit(large)
        emit(torch.arange(3))

    outcome = isolation.run(task, budget_s=ENOUGH_S, on_message=seen.append)
    assert outcome.failure == ""
    assert outcome.messages[:2] == [1, large]
    assert outcome.messages[2].tolist() == [0, 1, 2]
    assert len(seen) == 3


def test_operators_run_after_threads_of_the_parent_did() -> None:
    a = torch.randn(300, 300)
    expected = (a @ a).sum()
    outcome = isolation.run(lambda emit: emit(float((a @ a).sum())), budget_s=ENOUGH_S)
    assert outcome.messages == [pytest.approx(float(expected), rel=1e-3)]


def test_task_that_does_not_answer_is_killed_and_keeps_its_messages() -> None:
    def task(emit: Emit) -> None:
        emit("begun")
        while True:
            pass

    outcome = isolation.run(task, budget_s=0.5)
    assert outcome.timed_out
    assert outcome.messages == ["begun"]
    assert outcome.failure == "no answer within 0.5 s"


def test_crash_is_told_by_its_signal() -> None:
    outcome = isolation.run(lambda _: os.kill(os.getpid(), signal.SIGSEGV), budget_s=ENOUGH_S)
    assert outcome.failure == "the process ended (SIGSEGV)"
    assert not outcome.timed_out


@pytest.mark.parametrize("fork", [True, False])
def test_exception_is_told(fork: bool) -> None:
    def task(emit: Emit) -> None:
        emit("begun")
        raise ValueError("no")

    outcome = isolation.run(task, budget_s=ENOUGH_S, fork=fork)
    assert outcome.failure.startswith("ValueError: no")
    assert outcome.messages == ["begun"]


def test_child_changes_nothing_here(capfd: pytest.CaptureFixture[str]) -> None:
    value = torch.zeros(2)

    def task(emit: Emit) -> None:
        value.add_(1)
        print("not to be seen")
        emit(value.tolist())

    assert isolation.run(task, budget_s=ENOUGH_S).messages == [[1.0, 1.0]]
    assert value.tolist() == [0.0, 0.0]
    assert capfd.readouterr().out == ""

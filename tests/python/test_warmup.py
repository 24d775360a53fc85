"""What load does so that the first call is no slower than the others."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch
from archives import archive_bytes, quiet_torch_jit
from torch import Tensor, nn
from torch.export import Dim

import ts_infer
from ts_infer import runtime

if TYPE_CHECKING:
    from pathlib import Path


class Accumulator(nn.Module):
    """Adds the rows it has seen to its input."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(x.size(0))
        return x + self.seen


class Lookup(nn.Module):
    """Fails for an index that is drawn at random from other than 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, words: Tensor) -> Tensor:
        rows: Tensor = self.table(words)
        return rows.sum(1)


def export(module: nn.Module, example: Tensor, path: Path, name: str) -> Path:
    file = path / "model.pt"
    ts_infer.export(
        module.eval(),
        (example,),
        file,
        audit="fast",
        dynamic_shapes={name: {0: Dim("n", min=1, max=16)}},
    )
    return file


def warm_ups(model: runtime.Model) -> list[runtime.LoadStep]:
    return [step for step in model.info().load_steps if step.name == "warm-up"]


def test_load_runs_the_declared_corners_largest_first(tmp_path: Path) -> None:
    path = export(Lookup(), torch.full((3, 5), 9), tmp_path, "words")
    model = runtime.load(path, device="cpu")
    steps = warm_ups(model)
    assert [step.shapes for step in steps] == [{"words": [16, 5]}, {"words": [1, 5]}]
    assert len(steps[0].calls_ms) == 2
    assert all(ms > 0 for step in steps for ms in step.calls_ms)
    assert model.stats().count == 0
    info = model.info()
    assert info.executor == "prepared"
    assert info.load_ms == pytest.approx(sum(step.ms for step in info.load_steps))


def test_state_is_the_initial_one_after_load_and_warm_up(tmp_path: Path) -> None:
    path = export(Accumulator(), torch.zeros(3, 2), tmp_path, "x")
    for executor in runtime.executors():
        model = runtime.load(path, device="cpu", executor=executor)
        assert warm_ups(model)
        model.warm_up_this_thread()
        assert model(torch.zeros(2, 2))[0, 0] == 2
        assert model(torch.zeros(2, 2))[0, 0] == 4


def test_threads_warm_themselves_up(tmp_path: Path) -> None:
    model = runtime.load(
        export(Lookup(), torch.full((3, 5), 9), tmp_path, "words"), device="cpu", warmup="off"
    )
    assert not warm_ups(model)
    threads = [threading.Thread(target=model.warm_up_this_thread) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.stats().count == 0


def test_sizes_can_be_given(tmp_path: Path) -> None:
    path = export(Lookup(), torch.full((3, 5), 9), tmp_path, "words")
    model = runtime.load(path, device="cpu", warmup="full", warmup_shapes=[{"words": (7, 5)}])
    assert [step.shapes for step in warm_ups(model)] == [{"words": [7, 5]}]
    with pytest.raises(ts_infer.ModelLoadError, match=r"warm-up at words 70x5 .* at most 16"):
        runtime.load(path, device="cpu", warmup_shapes=[{"words": (70, 5)}])


def test_budget_that_runs_out_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = export(Lookup(), torch.full((3, 5), 9), tmp_path, "words")
    with caplog.at_level(logging.WARNING, logger="ts_infer"):
        model = runtime.load(path, device="cpu", warmup_budget_s=0)
    assert [step.shapes for step in warm_ups(model)] == [{"words": [16, 5]}]
    assert "budget of 0 s: not run at words 1x5" in caplog.text


def test_sizes_of_much_memory_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = export(Lookup(), torch.full((3, 5), 9), tmp_path, "words")
    with caplog.at_level(logging.WARNING, logger="ts_infer"):
        model = runtime.load(path, device="cpu", warmup_bytes=100)
    assert [step.shapes for step in warm_ups(model)] == [{"words": [1, 5]}]
    assert "leaves out inputs of more than 100 bytes: words 16x5, 640 bytes" in caplog.text
    model = runtime.load(path, device="cpu", warmup_bytes=10)
    assert not warm_ups(model)
    assert any("not warmed up: inputs of more than 10 bytes" in d for d in model.info().decisions)
    huge = [{"words": (2**60, 2**60)}]
    assert not warm_ups(runtime.load(path, device="cpu", warmup_shapes=huge))


def test_warm_up_leaves_random_numbers_alone(tmp_path: Path) -> None:
    path = export(Lookup(), torch.full((3, 5), 9), tmp_path, "words")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    runtime.load(path, device="cpu")
    assert torch.equal(torch.rand(2), expected)


fork: Any = torch.jit.fork
wait: Any = torch.jit.wait


class Forked(nn.Module):
    """Runs a branch as a task of its own."""

    def forward(self, x: Tensor) -> Tensor:
        rest: Tensor = wait(fork(branch, x))
        return rest + x


def branch(x: Tensor) -> Tensor:
    return x.exp().sum(1, keepdim=True)


class Step(nn.Module):
    """A method that stays a call."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[empty-body]
        pass


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class CallsInterface(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step = Twice()

    def forward(self, x: Tensor) -> Tensor:
        return self.step.forward(x) + 1


with quiet_torch_jit():
    # TorchScript reads no annotation that is text.
    CallsInterface.__annotations__ = {"step": torch.jit.interface(Step)}


@pytest.mark.parametrize("module", [Forked(), CallsInterface()])
@pytest.mark.parametrize("executor", runtime.executors())
def test_what_cannot_be_inlined_runs_too(module: nn.Module, executor: str) -> None:
    model = runtime.load(archive_bytes(module), device="cpu", executor=executor)
    for rows in (2, 3, 4):
        x = torch.randn(rows, 4)
        torch.testing.assert_close(model(x), module(x), rtol=0, atol=0)

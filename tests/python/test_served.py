"""An export holds what `runtime.load` serves against the module."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.export import Dim

import ts_infer
from ts_infer import runtime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ts_infer._export.report import ExportReport, Finding

X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
PASS = runtime.passes()[0]
Answer = tuple[torch.Tensor, ...]


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.linear(x)
        return result


class Counter(nn.Module):
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return x + self.count

    def reset(self) -> None:
        self.count.zero_()


class Broken:
    """A model of the runtime, of which one method or the call is made wrong."""

    def __init__(self, model: Any, change: Callable[..., Any], method: str = "") -> None:
        self.model, self.change, self.method = model, change, method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.model(*args, **kwargs)
        return result if self.method else self.change(result, *args)

    def run_method(self, name: str, *args: Any) -> Any:
        return None if name == self.method else self.model.run_method(name, *args)

    def clone(self) -> Broken:
        return Broken(self.model.clone(), self.change, self.method)


@pytest.fixture
def break_runtime(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has the runtime serve something wrong, unless a pass is left out."""
    load = runtime.load

    def break_it(change: Callable[..., Any], method: str = "", mended: bool = True) -> None:
        def wrong(*args: Any, **options: Any) -> Any:
            model = load(*args, **options)
            if mended and PASS in options.get("disabled_passes", ()):
                return model
            return Broken(model, change, method)

        monkeypatch.setattr(runtime, "load", wrong)

    return break_it


def refusal(module: nn.Module, path: Path, **options: Any) -> Finding:
    with pytest.raises(ts_infer.ExportError, match="runtime-differs") as caught:
        ts_infer.export(module.eval(), X, path, **options)
    assert not path.exists()
    assert caught.value.report is not None
    (finding,) = caught.value.report.findings
    assert finding.code == "runtime-differs"
    return finding


def runs(report: ExportReport, probe: str) -> list[str]:
    return [run.inputs for run in report.runs if run.probe == probe]


@pytest.mark.parametrize("level", ["full", "fast"])
def test_what_is_served_is_compared_on_the_probes_inputs(tmp_path: Path, level: str) -> None:
    shapes = {"x": {0: Dim("rows", min=1, max=5)}}
    path = tmp_path / "m.pt"
    report = ts_infer.export(Linear().eval(), X, path, dynamic_shapes=shapes, audit=level)
    probed = [run for p in ("example", "values", "sizes", "extremes") for run in runs(report, p)]
    assert sorted(runs(report, "runtime")) == sorted(probed)
    (probe,) = (p for p in report.probes if p.name == "runtime")
    assert (probe.outcome, probe.reason) == ("passed", "")
    assert probe.runs >= 4


def test_nothing_is_served_where_nothing_was_compared(tmp_path: Path) -> None:
    report = ts_infer.export(Linear().eval(), X, tmp_path / "m.pt", audit="off")
    assert "runtime" not in [probe.name for probe in report.probes]


def test_wrong_answer_is_the_runtime_s_and_names_the_pass(
    tmp_path: Path, break_runtime: Callable[..., None]
) -> None:
    break_runtime(lambda result, x: result + (x.sum() > 100))
    finding = refusal(Linear(), tmp_path / "m.pt")
    assert "expected " in finding.message
    assert f"with disabled_passes=['{PASS}'] it is equal" in finding.message
    assert finding.file is None
    assert "fault of ts_infer's runtime" in str(finding)
    assert "report it" in str(finding)


def test_finding_can_be_allowed(tmp_path: Path, break_runtime: Callable[..., None]) -> None:
    break_runtime(lambda result, _: result + 1, mended=False)
    finding = refusal(Linear(), tmp_path / "m.pt")
    assert "on the example: " in finding.message
    assert "no option of load mends it" in finding.message
    path = tmp_path / "m.pt"
    report = ts_infer.export(Linear().eval(), X, path, allow=["runtime-differs"])
    assert report.ok
    assert path.exists()


def test_error_of_the_runtime_is_a_finding(
    tmp_path: Path, break_runtime: Callable[..., None]
) -> None:
    def fail(*_: Any) -> None:
        raise ts_infer.ExecutionError("[call] m: no such kernel")

    break_runtime(fail)
    finding = refusal(Linear(), tmp_path / "m.pt")
    assert "the module runs, ts_infer.runtime raises ExecutionError: [call] m" in finding.message


def test_crash_of_the_runtime_is_a_finding(
    tmp_path: Path, break_runtime: Callable[..., None]
) -> None:
    break_runtime(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    finding = refusal(Linear(), tmp_path / "m.pt")
    assert "ts_infer.runtime gave the process ended (SIGKILL)" in finding.message


def test_file_that_does_not_load_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = runtime.load

    def refuse(*args: Any, **options: Any) -> Any:
        if options.get("optimize", True):
            raise ts_infer.ModelLoadError("[load] m: no room")
        return load(*args, **options)

    monkeypatch.setattr(runtime, "load", refuse)
    finding = refusal(Linear(), tmp_path / "m.pt")
    assert "ts_infer.runtime does not load it: ModelLoadError: [load] m: no room" in finding.message
    assert "with optimize=False it is equal" in finding.message


def test_state_and_methods_are_served_too(
    tmp_path: Path, break_runtime: Callable[..., None]
) -> None:
    path = tmp_path / "m.pt"
    report = ts_infer.export(Counter().eval(), X, path, preserved_methods=["reset"])
    assert runs(report, "runtime state") == ["calls in a row on one instance"]
    assert all(run.calls == 2 for run in report.runs if run.probe == "runtime")
    path.unlink()
    break_runtime(lambda result, _: result, method="reset")
    finding = refusal(Counter(), path, preserved_methods=["reset"])
    assert "on the call after reset(): " in finding.message

"""`method="auto"`: what is scripted, why, and what is said where nothing works."""

from __future__ import annotations

import linecache
import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch
import unannotated
from archives import jit_load
from torch import nn
from torch.export import Dim

import ts_infer
from ts_infer import runtime
from ts_infer.models import decision_gate, densetnt
from ts_infer.models.densetnt import goals

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ts_infer._export.report import Finding


class Plain(nn.Module):
    def forward(self, x):  # type: ignore[no-untyped-def]
        return x * 2 + 1


class CountsInNumPy(nn.Module):
    def forward(self, x):  # type: ignore[no-untyped-def]
        values = x.numpy()
        return x * float(np.count_nonzero(values > 0))


class RareList(nn.Module):
    """A list that stays empty on the example."""

    def forward(self, x):  # type: ignore[no-untyped-def]
        kept = []
        for i in range(x.shape[0]):
            if x[i].sum() > 100:
                kept.append(i)  # noqa: PERF401
        return x * len(kept)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def test_what_a_trace_keeps_is_traced(path: Path) -> None:
    report = ts_infer.export(Plain().eval(), torch.randn(2, 3), path)
    assert report.method == "trace"
    assert report.scripted == []
    assert report.attempts == []


def test_my_cell_is_exported_with_its_gate_scripted(path: Path) -> None:
    cell = decision_gate.make()
    report = ts_infer.export(cell, decision_gate.example_inputs(), path)
    assert report.method == "hybrid"
    (part,) = report.scripted
    assert part.name == "dg"
    assert "`if x.sum() > 0:`" in part.reason
    assert [attempt.method for attempt in report.attempts] == ["trace", "hybrid"]
    assert "dg: tracer-warning at decision_gate.py" in str(report)
    exported, model = jit_load(str(path)), runtime.load(path, device="cpu")
    for scale in (-20.0, 20.0, float("nan")):
        x, h = decision_gate.example_inputs(3, seed=1)
        for actual in (exported(scale * x, h), model(scale * x, h)):
            torch.testing.assert_close(actual, cell(scale * x, h), equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "choose_goals"), [("set", "likely_goals"), ("nms", "select_goals_by_nms")]
)
def test_densetnt_is_exported_without_a_hand_edit(
    path: Path, monkeypatch: pytest.MonkeyPatch, head: Literal["set", "nms"], choose_goals: str
) -> None:
    """Its scripted functions are replaced by plain ones without annotations."""
    for name in ("get_goal_2D", choose_goals):
        monkeypatch.setattr(goals, name, getattr(unannotated, name))
    config = densetnt.DenseTNTConfig(goal_head=head)
    spec = {**densetnt.export_spec(), "module": densetnt.make(config=config)}
    report = ts_infer.export(**{**spec, "method": "auto", "audit": "fast"}, path=path)
    assert {part.name for part in report.scripted} == {"get_goal_2D", choose_goals}
    exported, eager = jit_load(str(path)), densetnt.make(config=config)
    for seed in (1, 2):
        inputs = densetnt.scene_to_inputs(densetnt.generate_scene(seed=seed, radius_m=30.0 * seed))
        for actual, expected in zip(exported(**inputs), eager(**inputs), strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_plain_goal_sampler_is_exported_at_every_size(path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(4, 6, 8, generator=generator)
    mask = torch.arange(6) < torch.tensor([[6], [3], [1], [5]])
    lanes, points = Dim("lanes", min=1, max=9), Dim("points", min=2, max=9)
    report = ts_infer.export(
        unannotated.GoalSampler().eval(),
        (vectors, mask),
        path,
        dynamic_shapes=({0: lanes, 1: points}, {0: lanes, 1: points}),
    )
    assert {part.name for part in report.scripted} == {"get_goal_2D", "select_goals_by_nms"}


def test_refusal_names_what_a_trace_loses_and_why_scripting_failed(path: Path) -> None:
    with pytest.raises(ts_infer.ExportError) as caught:
        ts_infer.export(CountsInNumPy().eval(), torch.randn(2, 3), path)
    report = caught.value.report
    assert report is not None
    assert [attempt.method for attempt in report.attempts] == ["trace", "script"]
    lost, failed = report.findings[0], report.findings[-1]
    assert lost.code == "tracer-warning"
    assert "x.numpy()" in lost.source
    assert failed.code == "script-failed"
    assert (failed.file, failed.source) == (__file__, lost.source)
    assert not path.exists()


def test_advice_is_the_line_to_write(path: Path) -> None:
    with pytest.raises(ts_infer.ExportError) as caught:
        ts_infer.export(RareList().eval(), torch.randn(3, 2), path)
    assert caught.value.report is not None
    failed = caught.value.report.findings[-1]
    assert failed.code == "script-failed"
    assert failed.advice == "write kept: List[int] = []."
    assert (failed.file, failed.source) == (__file__, "kept = []")


_SCRIPT = """
import torch, ts_infer

class Gate(torch.nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x

torch.randn(64, 64) @ torch.randn(64, 64)  # threads are running
report = ts_infer.export(Gate().eval(), torch.ones(2, 3), "gate.pt")
print(report.method, torch.jit.load("gate.pt")(-torch.ones(1)).item())
"""


def test_script_without_a_main_guard(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(_SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "train.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["script", "1.0"]


@pytest.fixture
def run_cell(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Runs a source as a notebook does: it has no file, and neither has its Python module."""
    notebook = ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", notebook)

    def run(source: str) -> dict[str, Any]:
        cell = f"/nowhere/ipykernel_1/{abs(hash(source))}.py"
        lines = source.splitlines(keepends=True)
        monkeypatch.setitem(linecache.cache, cell, (len(source), None, lines, cell))
        exec(compile(source, cell, "exec"), vars(notebook))
        return vars(notebook)

    return run


def test_class_of_a_notebook(run_cell: Callable[[str], dict[str, Any]], path: Path) -> None:
    cell = run_cell(
        "import torch\n"
        "class Scale:\n"
        "    def __init__(self, by: float):\n"
        "        self.by = by\n"
        "    def of(self, x: torch.Tensor) -> torch.Tensor:\n"
        "        return x * self.by\n"
        "class Gate(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        scale = Scale(-1.0)\n"
        "        if x.sum() > 0:\n"
        "            return x\n"
        "        return scale.of(x)\n"
    )
    report = ts_infer.export(cell["Gate"]().eval(), torch.ones(2, 3), path)
    assert report.method == "script"
    assert jit_load(str(path))(-torch.ones(1)) == 1


def test_state_of_a_class_of_a_notebook_is_seen(
    run_cell: Callable[[str], dict[str, Any]], path: Path
) -> None:
    cell = run_cell(
        "import torch\n"
        "class Counts(torch.nn.Module):\n"
        "    count = 0\n"
        "    def forward(self, x):\n"
        "        self.count += 1\n"
        "        return x * self.count\n"
    )
    with pytest.raises(ts_infer.ExportError) as caught:
        ts_infer.export(cell["Counts"]().eval(), torch.ones(2, 3), path, method="trace")
    finding = finding_of(caught.value, "python-state")
    assert (finding.line, finding.source) == (6, "return x * self.count")


def finding_of(error: ts_infer.ExportError, code: str) -> Finding:
    assert error.report is not None
    return next(f for f in error.report.findings if f.code == code)


def test_line_that_cannot_be_scripted_is_shown_as_it_stands(
    run_cell: Callable[[str], dict[str, Any]], path: Path
) -> None:
    line = "kept = {str(v) for v in x.flatten().tolist()}"
    cell = run_cell(
        "import torch\n"
        "class Distinct(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        f"        {line}\n"
        "        return x * len(kept)\n"
    )
    with pytest.raises(ts_infer.ExportError) as caught:
        ts_infer.export(cell["Distinct"]().eval(), torch.ones(2, 3), path)
    for code in ("tracer-warning", "script-failed"):
        finding = finding_of(caught.value, code)
        assert (finding.line, finding.source) == (4, line)

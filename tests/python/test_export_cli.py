"""`ts_infer export`: exit codes, and what it prints."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from ts_infer.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path

FACTORIES = """\
import torch
from torch.export import Dim

class Gate(torch.nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x

@torch.jit.script
def halve(x):
    return x / 2

def as_tuple():
    return torch.nn.Linear(3, 2).eval(), torch.ones(4, 3)

def as_dict():
    shapes = {"input": {0: Dim("batch", min=1, max=8)}}
    return {"module": torch.nn.Linear(3, 2).eval(), "example_inputs": torch.ones(4, 3),
            "dynamic_shapes": shapes, "name": "linear"}

def gate():
    return {"module": Gate().eval(), "example_inputs": torch.ones(4, 3)}

def too_little():
    return torch.nn.Linear(3, 2)

def unknown_key():
    return {**as_dict(), "colour": "red"}

def wrong_input():
    return {**as_dict(), "dynamic_shapes": {"y": None}}

def broken():
    raise RuntimeError("no weights here")

constant = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cli_factories.py").write_text(FACTORIES, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    monkeypatch.delitem(sys.modules, "cli_factories", raising=False)
    return tmp_path


def export(*arguments: str) -> int:
    return main(["export", *arguments])


@pytest.mark.parametrize("factory", ["as_tuple", "as_dict"])
def test_export_writes_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str], factory: str
) -> None:
    assert export(f"cli_factories:{factory}", "-o", "model.pt") == 0
    assert (folder / "model.pt").stat().st_size > 0
    output = capsys.readouterr()
    assert "written: model.pt" in output.out
    assert output.err == ""


def test_export_exits_6_and_names_the_line_when_the_audit_fails(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        export("cli_factories:gate", "-o", "gate.pt", "--method", "trace", "--json", "report.json")
        == 6
    )
    output = capsys.readouterr()
    assert "cli_factories.py:6: `if x.sum() > 0:`" in output.err
    assert output.out == ""
    assert not (folder / "gate.pt").exists()
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["findings"][0]["code"] == "tracer-warning"
    assert (report["schema"], report["command"]) == (1, "export")
    assert report["machine"]["cpu"]
    assert report["date"].endswith("Z")


def test_method_and_allow_override_the_factory(folder: Path) -> None:
    assert export("cli_factories:gate", "-o", "a.pt", "--method", "script") == 0
    assert export("cli_factories:gate", "-o", "b.pt", "--allow", "tracer-warning") == 0
    assert (folder / "a.pt").exists()
    assert (folder / "b.pt").exists()


@pytest.mark.usefixtures("folder")
def test_json_goes_to_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert export("cli_factories:as_dict", "-o", "model.pt", "--json", "-") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert report["name"] == "linear"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("cli_factories", "expected PKG.MODULE:FACTORY"),
        ("no_such_module_here:make", "No module named 'no_such_module_here'"),
        ("cli_factories:nothing", "expected a function nothing"),
        ("cli_factories:constant", "got int"),
        ("cli_factories:too_little", r"expected (module, example_inputs)"),
        ("cli_factories:unknown_key", "got colour"),
    ],
)
def test_export_exits_2_on_a_bad_factory(
    capsys: pytest.CaptureFixture[str], spec: str, text: str
) -> None:
    assert export(spec, "-o", "model.pt") == 2
    assert text in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "arguments",
    [
        ["cli_factories:as_dict"],
        ["cli_factories:as_dict", "-o", "m.pt", "--method", "magic"],
        ["cli_factories:as_dict", "-o", "m.pt", "--allow", "typo"],
    ],
)
def test_bad_flags_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        export(*arguments)
    assert caught.value.code == 2


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("cli_factories:broken", "RuntimeError: no weights here"),
        ("cli_factories:wrong_input", "expected names among input, got y"),
    ],
)
def test_anything_else_exits_1(capsys: pytest.CaptureFixture[str], spec: str, text: str) -> None:
    assert export(spec, "-o", "model.pt") == 1
    error = capsys.readouterr().err
    assert error.startswith("ts_infer: [export] ")
    assert text in error

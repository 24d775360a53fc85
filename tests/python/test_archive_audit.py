"""`ts_infer.audit`: an archive that somebody else made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from archives import Counter, archive_bytes, quiet_torch_jit
from torch import nn
from torch.export import Dim

import ts_infer
from ts_infer.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path

X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


class Gate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x
        return -x


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def make_gate() -> tuple[nn.Module, tuple[torch.Tensor]]:
    return Gate().eval(), (X,)


@pytest.fixture
def traced_gate(tmp_path: Path) -> Path:
    path = tmp_path / "gate.pt"
    trace: Any = torch.jit.trace
    with quiet_torch_jit(), pytest.warns(match="Python boolean"):
        trace(Gate().eval(), X, check_trace=False).save(str(path))
    return path


def test_lost_branch_is_found_beside_the_module(traced_gate: Path) -> None:
    report = ts_infer.audit(traced_gate, *make_gate())
    assert not report.ok
    finding = report.findings[0]
    assert (finding.code, finding.source) == ("values-differ", "if x.sum() > 0:")
    assert "state-lost" not in {finding.code for finding in report.findings}
    assert str(report).startswith("audit of gate: ")


def test_finding_can_be_allowed(traced_gate: Path) -> None:
    report = ts_infer.audit(traced_gate, *make_gate(), allow=["values-differ", "extremes-differ"])
    assert report.ok


def test_archive_equals_its_module(tmp_path: Path) -> None:
    path = tmp_path / "gate.pt"
    path.write_bytes(archive_bytes(Gate()))
    shapes = {"x": {0: Dim("rows", min=1, max=5)}}
    report = ts_infer.audit(path, *make_gate(), dynamic_shapes=shapes)
    assert report.ok
    outcomes = {probe.name: probe.outcome for probe in report.probes}
    assert outcomes["values"] == outcomes["sizes"] == outcomes["extremes"] == "passed"


def test_alone_uses_the_golden_sample_and_the_declared_sizes(tmp_path: Path) -> None:
    path = tmp_path / "doubled.pt"
    shapes = {"x": {0: Dim("rows", min=1, max=5)}}
    ts_infer.export(Doubled().eval(), X, path, dynamic_shapes=shapes, audit="fast")
    report = ts_infer.audit(path)
    assert report.ok
    assert {probe.name: probe.outcome for probe in report.probes} == dict.fromkeys(
        ("graph", "golden", "repeats", "sizes"), "passed"
    )
    assert {"rows": 5} in [run.sizes for run in report.runs]


def test_alone_without_inputs_says_what_was_skipped(tmp_path: Path) -> None:
    path = tmp_path / "counter.pt"
    path.write_bytes(archive_bytes(Counter()))
    report = ts_infer.audit(path)
    skipped = {probe.name for probe in report.probes if probe.outcome == "skipped"}
    assert skipped == {"golden", "repeats", "sizes"}
    assert all(probe.reason for probe in report.probes if probe.outcome == "skipped")


def test_alone_sees_state(tmp_path: Path) -> None:
    path = tmp_path / "counter.pt"
    path.write_bytes(archive_bytes(Counter()))
    report = ts_infer.audit(path, example_inputs=X)
    assert any(note.startswith("the model has state: call 2") for note in report.notes)


def test_level_counts_without_a_module_too(tmp_path: Path) -> None:
    path = tmp_path / "doubled.pt"
    ts_infer.export(Doubled().eval(), X, path, audit="fast")
    full, fast = (ts_infer.audit(path, audit=level) for level in ("full", "fast"))
    assert [probe.name for probe in full.probes] == ["graph", "golden", "repeats", "sizes"]
    assert [probe.name for probe in fast.probes] == ["graph", "golden", "repeats"]
    assert [probe.runs for probe in (full.probes[2], fast.probes[2])] == [3, 1]
    assert "audit, full:" in str(full)
    assert "audit, fast:" in str(fast)


@pytest.mark.parametrize("beside_module", [True, False])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"audit": "off"}, "audit: expected one of full, fast, got 'off'; an audit that is off"),
        ({"audit": "deep"}, "audit: expected one of full, fast, got 'deep'"),
        ({"audit": None}, "audit: expected one of full, fast, got None"),
        ({"allow": "values-differ,extremes-differ"}, r'allow: expected a list such as \["tracer'),
        ({"allow": None}, "allow: expected a list"),
        ({"allow": [1]}, "allow: expected a list of strings .* got 1 in it"),
        ({"allow": ["values-differs"]}, "allow: expected codes among .* got values-differs"),
        ({"allow": ["eager-failed"]}, "it leaves nothing to export"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    traced_gate: Path, beside_module: bool, options: dict[str, Any], match: str
) -> None:
    given = make_gate() if beside_module else ()
    with pytest.raises(ValueError, match=rf"^\[audit\] gate: {match}"):
        ts_infer.audit(traced_gate, *given, **options)


def test_options_have_one_name(traced_gate: Path) -> None:
    with pytest.raises(TypeError, match="level"):
        ts_infer.audit(traced_gate, level="off")  # type: ignore[call-arg]
    with pytest.raises(SystemExit) as caught:
        main(["audit", str(traced_gate), "--audit", "off"])
    assert caught.value.code == 2


def test_modules_that_do_not_fit_are_refused(traced_gate: Path) -> None:
    for module, match in (
        ("Gate", "module: expected a torch.nn.Module, got str"),
        (Gate().train(), "module: expected eval mode, got training mode"),
    ):
        given: Any = module
        with pytest.raises(ValueError, match=rf"^\[audit\] gate: {match}"):
            ts_infer.audit(traced_gate, given, X)
        with pytest.raises(ValueError, match=rf"^\[compile\] gate: {match}"):
            ts_infer.compile(traced_gate, module=given)
    with pytest.raises(ValueError, match=r"preserved_methods: expected methods of Gate .* 'reset'"):
        ts_infer.audit(traced_gate, *make_gate(), preserved_methods=["reset"])
    with pytest.raises(ValueError, match="preserved_methods: expected none without a module"):
        ts_infer.audit(traced_gate, preserved_methods=["reset"])


def test_what_is_no_archive_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a model", encoding="utf-8")
    with pytest.raises(ts_infer.Error, match="expected a TorchScript archive"):
        ts_infer.audit(path)
    with pytest.raises(ts_infer.Error, match="expected a TorchScript archive"):
        ts_infer.audit(tmp_path / "missing.pt")


def test_command_exits_6_where_something_was_found(
    traced_gate: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["audit", str(traced_gate), "--module", "test_archive_audit:make_gate"])
    output = capsys.readouterr()
    assert status == 6
    assert "values-differ: " in output.out
    assert main(["audit", str(traced_gate), "--input", "nonsense"]) == 2
    assert "expected NAME=FILE.npy or NAME=VALUE" in capsys.readouterr().err

"""`ts_infer.audit`: an archive that somebody else made."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from archives import Counter, archive_bytes, quiet_torch_jit
from torch import nn
from torch.export import Dim

import ts_infer
from ts_infer import ExecutionError, runtime
from ts_infer.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Callable

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


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dropped: torch.Tensor = self.drop(x)
        return dropped


def scripted(module: nn.Module, path: Path) -> Path:
    with quiet_torch_jit():
        torch.jit.script(module).save(str(path))  # type: ignore[no-untyped-call]
    return path


def test_alone_says_that_a_model_draws_where_its_calls_do(tmp_path: Path) -> None:
    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand_like(x)

    draws = "the model draws random numbers: its outputs follow torch's seed"
    for module, is_random in ((Dropping().eval(), False), (Noisy().eval(), True)):
        path = scripted(module, tmp_path / "model.pt")
        report = ts_infer.audit(path, example_inputs=X)
        assert (draws in report.notes) == is_random
        notes = "\n".join(ts_infer.audit(path).notes)  # nothing can be called
        assert ("aten::rand_like" in notes and "may draw random" in notes) == is_random


def test_alone_finds_train_mode(tmp_path: Path) -> None:
    path = scripted(Dropping().train(), tmp_path / "training.pt")
    report = ts_infer.audit(path, example_inputs=X)
    assert {finding.code for finding in report.findings} == {"train-flag"}
    assert ts_infer.audit(scripted(Doubled().train(), path)).ok


def test_alone_fails_where_the_model_does_on_the_inputs_given(tmp_path: Path) -> None:
    path = scripted(nn.Linear(3, 2).eval(), tmp_path / "linear.pt")
    with pytest.raises(ExecutionError, match=r"^\[audit\] linear: the model failed on the inputs "):
        ts_infer.audit(path, example_inputs=torch.ones(2, 4))


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
        ({"allow": ["eager-failed"]}, ".*it leaves nothing to export"),
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
        (
            nn.Dropout().train(),
            "module: expected eval mode, got training mode in the module itself",
        ),
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


def state_dict(path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), path)


def text(path: Path) -> None:
    path.write_text("not a model", encoding="utf-8")


def flipped(path: Path) -> None:
    module = nn.Linear(2, 2)
    data = bytearray(archive_bytes(module))
    data[data.index(module.weight.detach().numpy().tobytes())] ^= 1
    path.write_bytes(data)


def missing(_: Path) -> None:
    pass


BAD_FILES = [state_dict, text, flipped, missing, Path.mkdir]


@pytest.mark.parametrize("make", BAD_FILES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("verb", ["audit", "compile"])
def test_every_verb_says_of_a_bad_file_what_load_says(
    verb: str, make: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pt"
    make(path)
    with pytest.raises(ts_infer.ModelLoadError) as expected:
        runtime.load(path)
    with pytest.raises(ts_infer.ModelLoadError) as caught:
        getattr(ts_infer, verb)(path)
    assert str(caught.value) == str(expected.value)
    assert isinstance(caught.value, FileNotFoundError) == (make is missing)
    assert main([verb, str(path)]) == 3
    assert capsys.readouterr().err.strip() == f"ts_infer: {expected.value}"


def test_operators_that_are_not_there_are_a_load_error_that_names_them(tmp_path: Path) -> None:
    def change(name: str, data: bytes) -> bytes:
        return data.replace(b"torch.mul", b"ops.mine.mul") if name.endswith(".py") else data

    path = tmp_path / "doubled.pt"
    path.write_bytes(rewritten(archive_bytes(Doubled()), change))
    with pytest.raises(ts_infer.ModelLoadError, match=r"mine::mul") as expected:
        runtime.load(path, optimize=False, warmup="off")
    with pytest.raises(ts_infer.ModelLoadError) as caught:
        ts_infer.audit(path)
    assert str(caught.value) == str(expected.value)


def rewritten(contents: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    """An archive with other contents of its members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(contents)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return buffer.getvalue()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="its device is there")
def test_an_archive_that_was_saved_on_another_device_is_opened(tmp_path: Path) -> None:
    def change(name: str, data: bytes) -> bytes:
        cpu, cuda = b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"
        return data.replace(cpu, cuda) if name.endswith(".pkl") else data

    path = tmp_path / "linear.pt"
    module = nn.Linear(3, 3).eval()
    path.write_bytes(rewritten(archive_bytes(module), change))
    with quiet_torch_jit(), pytest.raises(RuntimeError, match="CUDA"):
        torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(runtime.load(path)(X), module(X))
    assert ts_infer.audit(path, example_inputs=X).ok
    assert ts_infer.audit(path, module, X).ok


def test_an_input_that_cannot_be_read_exits_4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "counter.pt"
    path.write_bytes(archive_bytes(Counter()))
    assert main(["audit", str(path), "--input", "x=missing.npy"]) == 4
    assert "--input x=missing.npy: expected a .npy file" in capsys.readouterr().err
    assert main(["audit", str(path), "--input", "X=1"]) == 4
    assert "inputs: expected x, got X" in capsys.readouterr().err


def test_the_json_says_where_and_when_and_with_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "counter.pt"
    path.write_bytes(archive_bytes(Counter()))
    assert main(["audit", str(path), "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document)[:6] == ["schema", "command", "date", "machine", "versions", "threads"]
    assert (document["command"], document["threads"]) == ("audit", torch.get_num_threads())
    env = json.loads(
        subprocess.run(
            [sys.executable, "-m", "ts_infer", "env", "--json", "-"],
            capture_output=True,
            check=True,
        ).stdout
    )
    assert document["machine"] == env["machine"]
    for name, version in document["versions"].items():  # the binary leaves out torch's "+cpu"
        assert version.split("+")[0] == env["versions"][name].split("+")[0]
    assert document["date"] <= env["date"]
    assert document["ok"] is True


def test_command_exits_6_where_something_was_found(
    traced_gate: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["audit", str(traced_gate), "--module", "test_archive_audit:make_gate"])
    output = capsys.readouterr()
    assert status == 6
    assert "values-differ: " in output.out
    assert main(["audit", str(traced_gate), "--input", "nonsense"]) == 2
    assert "expected NAME=FILE.npy or NAME=VALUE" in capsys.readouterr().err

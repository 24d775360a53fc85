"""Exporting: what is kept, what is refused and with which words, and what the file holds."""

from __future__ import annotations

import inspect
import json
import threading
import warnings
import zipfile
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from archives import script
from torch import nn
from torch.export import Dim

from ts_infer import _errors
from ts_infer._export import ExportReport, variants
from ts_infer._export import export as export_with_defaults
from ts_infer._export.capture import watch_warnings
from ts_infer._export.compare import compare
from ts_infer._export.differential import essence
from ts_infer._export.source import statement_at

if TYPE_CHECKING:
    from pathlib import Path

BATCH = Dim("batch", min=1, max=8)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # upstream's deprecation of TorchScript

    @torch.jit.script
    def flip_unless_positive(x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            return x
        return -x

    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count += 1
            return x + self.count

    SCRIPTED_COUNTER = torch.jit.script(Counter().eval())


class Gate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x
        return -x


class GateOnManyLines(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if (
            x.sum()
            > 0
        ):  # fmt: skip
            return x
        return -x


class HybridGate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flipped: torch.Tensor = flip_unless_positive(x)
        return flipped * 2


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.linear(x)
        return result


class Looped(nn.Module):
    """A trace unrolls the loop, and no TracerWarning says so."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x)
        for i in range(x.shape[0]):
            total = total + i * x[i]
        return total


class Dicts(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": x + 1, "product": x * 2}


class Lists(nn.Module):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x + 1, x.sum(0)]


class Ranges(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        return {"one": x, "many": [x, range(3)]}


class Pair(NamedTuple):
    boxes: torch.Tensor
    scores: list[torch.Tensor]


class NamedOutputs(nn.Module):
    def forward(self, x: torch.Tensor) -> Pair:
        return Pair(x + 1, [x.sum(1), x.mean()])


class Recurrent(nn.Module):
    hidden: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("hidden", torch.zeros(1, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.hidden.copy_(self.hidden + x.mean(0, keepdim=True))
        return x + self.hidden

    def reset_states(self) -> None:
        self.hidden.zero_()

    def scaled(self, factor: float) -> torch.Tensor:
        return self.hidden * factor


class Forgetful(nn.Module):
    """A trace bakes in the first value of a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.zeros(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.hidden = self.hidden + x.sum(0)
        return x + self.hidden


class WrongReset(Recurrent):
    """Resets differently under TorchScript."""

    def reset_states(self) -> None:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            self.hidden.fill_(1.0)
        else:
            self.hidden.zero_()


class InPlaceConstant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total.add_(x.sum(0))
        return x + self.total


class CountingTrace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.counter = SCRIPTED_COUNTER

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.counter(x)
        return result


class AtLeastTwo(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] < 2:
            raise ValueError("need two rows")
        return x * 2


class MinOverRows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.min(0).values


class Optional(nn.Module):
    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None = None, scale: int = 2
    ) -> torch.Tensor:
        return x * scale if mask is None else x * mask * scale


class Repeat(nn.Module):
    def forward(self, x: torch.Tensor, times: int) -> torch.Tensor:
        for _ in range(times):
            x = x + x
        return x


class Nested(nn.Module):
    def forward(
        self, pair: tuple[torch.Tensor, torch.Tensor], table: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        return pair[0] + pair[1] + table["offset"]


class Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        warnings.warn("the user's own warning", UserWarning, stacklevel=1)
        return x + torch.rand(3)


class TwoInputs(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a @ b


@torch.jit.ignore
def doubled(x):  # type: ignore[no-untyped-def]
    return x * 2


def calls_python(x):  # type: ignore[no-untyped-def]
    return doubled(x)


SCRIPTED = script(calls_python)


class CallsPython(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return SCRIPTED(x)


class Unscriptable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lock = threading.Lock()
        with lock:
            return x


class WithUnscriptableChild(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.child = Unscriptable()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.child(x)
        return result + 1

    def twice(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    def locked(self) -> None:
        with threading.Lock():
            pass


class IntOutput(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        return x, x.shape[0]


class ManyDtypes(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x > 0, x.to(torch.uint8), x.half(), x.bfloat16(), x.to(torch.complex64), x.long()


def line_of(cls: type, text: str) -> int:
    lines, start = inspect.getsourcelines(cls)
    return start + next(i for i, line in enumerate(lines) if text in line)


def load(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(path)  # type: ignore[no-untyped-call]


def manifest(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("extra/ts_infer/manifest.json"))
        found = json.loads(archive.read(name))
    assert isinstance(found, dict)
    return found


def export(*args: Any, **options: Any) -> ExportReport:
    """By trace unless a test asks for another method; test_auto.py has the automatic one."""
    return export_with_defaults(*args, **{"method": "trace", "audit": "fast", **options})


def refusal(*args: Any, **kwargs: Any) -> ExportReport:
    with pytest.raises(_errors.ExportError, match="the audit failed") as caught:
        export(*args, **kwargs)
    assert caught.value.report is not None
    return caught.value.report


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


# What is lost is found.


def test_export_fails_when_trace_loses_a_branch(path: Path) -> None:
    report = refusal(Gate().eval(), torch.ones(2, 3), path)
    finding = report.findings[0]
    assert finding.code == "tracer-warning"
    assert finding.file == __file__
    assert finding.line == line_of(Gate, "if x.sum()")
    assert finding.source == "if x.sum() > 0:"
    assert "`if x.sum() > 0:` — tracing keeps only the branch that the example took." in str(report)
    assert "What to do" in str(report)
    assert not report.ok
    assert not path.exists()


def test_finding_shows_the_whole_statement_when_it_spans_lines(path: Path) -> None:
    finding = refusal(GateOnManyLines().eval(), torch.ones(2, 3), path).findings[0]
    assert finding.line == line_of(GateOnManyLines, "if (")
    assert finding.source.startswith("if ( x.sum() > 0 ):")


def test_export_keeps_going_when_the_finding_is_allowed(path: Path) -> None:
    codes = ["tracer-warning", "values-differ", "extremes-differ"]
    report = export(Gate().eval(), torch.ones(2, 3), path, allow=codes)
    assert report.ok
    assert report.written
    assert [finding.code for finding in report.findings] == codes
    assert all(finding.allowed for finding in report.findings)
    assert "ok, 3 allowed" in str(report)
    assert path.exists()


def test_export_fails_when_a_loop_was_unrolled_to_the_example(path: Path) -> None:
    shapes = {"x": {0: Dim("rows", min=1, max=6)}}
    report = refusal(Looped().eval(), torch.ones(3, 2), path, dynamic_shapes=shapes, audit="full")
    assert {finding.code for finding in report.findings} == {"sizes-differ", "graphs-differ"}
    finding = next(f for f in report.findings if f.probe == "sizes")
    assert finding.inputs.startswith("rows=")
    assert (finding.file, finding.line) == (__file__, line_of(Looped, "for "))
    assert report.runs[0].outcome == "equal"


def test_export_fails_when_state_in_an_attribute_is_lost(path: Path) -> None:
    report = refusal(Forgetful().eval(), torch.ones(2, 3), path)
    (finding,) = report.findings
    assert finding.code == "state-lost"
    assert finding.message.endswith(
        "\nlikely cause: the line changes a Python attribute or a global variable"
    )
    assert "call 2" in finding.inputs
    assert finding.line == line_of(Forgetful, "self.hidden = self")


def test_export_fails_when_a_kept_method_does_something_else(path: Path) -> None:
    report = refusal(
        WrongReset().eval(),
        torch.ones(2, 3),
        path,
        preserved_methods=["reset_states"],
        audit="full",
    )
    assert "the call after reset_states()" in report.findings[0].message


def test_export_fails_when_the_result_has_another_type(path: Path) -> None:
    finding = refusal(IntOutput().eval(), torch.ones(2), path).findings[-1]
    assert finding.code == "structure-differs"
    assert "expected int, got a tensor of int64" in finding.message


def test_export_fails_when_the_exported_model_answers_where_the_module_refuses(path: Path) -> None:
    report = refusal(
        AtLeastTwo().eval(),
        torch.ones(3, 2),
        path,
        dynamic_shapes={"x": {0: BATCH}},
        audit="full",
    )
    (finding,) = report.findings
    assert finding.code == "check-lost"
    assert "ValueError: need two rows" in finding.message
    assert finding.line == line_of(AtLeastTwo, "raise")
    assert any("tracing drops this check" in note for note in report.notes)


def test_size_that_both_refuse_is_no_finding(path: Path) -> None:
    shapes = {"x": {0: Dim("rows", max=4)}}
    report = export(
        MinOverRows().eval(), torch.ones(3, 2), path, dynamic_shapes=shapes, audit="full"
    )
    assert report.ok
    assert [run.outcome for run in report.runs if run.sizes == {"rows": 0}] == ["refused"]
    (probe,) = (probe for probe in report.probes if probe.name == "sizes")
    assert probe.outcome == "passed"
    assert "1 refused by the module" in probe.reason


@pytest.mark.parametrize("child", [False, True])
def test_export_refuses_train_mode(path: Path, child: bool) -> None:
    module = nn.Sequential(nn.Dropout())
    module.train()
    if child:
        module.training = False
    (finding,) = refusal(module, torch.ones(2), path).findings
    assert finding.code == "train-mode"
    assert "call module.eval()" in finding.advice


def test_export_says_when_the_module_itself_fails(path: Path) -> None:
    (finding,) = refusal(Linear().eval(), torch.ones(2, 4), path).findings
    assert finding.code == "eager-failed"
    assert "mat1 and mat2 shapes cannot be multiplied" in finding.message
    assert finding.line == line_of(Linear, "self.linear(x)")


def test_trace_failure_names_the_reason(path: Path) -> None:
    (finding,) = refusal(Ranges().eval(), torch.ones(2), path).findings
    assert finding.code == "trace-failed"
    assert finding.message.startswith("the output['many'][1] is a range: expected tensors, numbers")
    assert finding.advice == "return its tensors instead."


def test_trace_failure_at_save_names_the_line(path: Path) -> None:
    (finding,) = refusal(CallsPython().eval(), torch.ones(2), path).findings
    assert finding.code == "trace-failed"
    assert "Could not export Python function call 'doubled'" in finding.message
    assert "doubled(x)" in finding.source
    assert ".py(" not in finding.message


def test_script_failure_names_the_line(path: Path) -> None:
    (finding,) = refusal(Unscriptable().eval(), torch.ones(2), path, method="script").findings
    assert finding.code == "script-failed"
    assert finding.file == __file__
    assert "fresh process" in finding.advice


def test_script_of_an_argument_without_annotation_says_what_to_do(path: Path) -> None:
    class_source = "def forward(self, x, n):\n    return x * n\n"
    namespace: dict[str, Any] = {}
    file = path.with_name("unannotated.py")
    file.write_text(class_source, encoding="utf-8")
    exec(compile(class_source, str(file), "exec"), namespace)
    module = type("Unannotated", (nn.Module,), {"forward": namespace["forward"]})().eval()
    (finding,) = refusal(module, (torch.ones(2), 3), path, method="script").findings
    assert finding.code == "example-differs"
    assert "annotate the others (n: int)" in finding.advice


def test_trace_refuses_an_argument_that_is_no_tensor(path: Path) -> None:
    (finding,) = refusal(Repeat().eval(), (torch.ones(2), 3), path).findings
    assert finding.code == "trace-failed"
    assert "the argument times is 3" in finding.message
    assert 'method="script"' in finding.advice


# What is kept.


@pytest.mark.parametrize(
    ("module", "method"), [(Linear(), "trace"), (Gate(), "script"), (HybridGate(), "hybrid")]
)
def test_stock_torch_opens_what_was_exported(path: Path, module: nn.Module, method: str) -> None:
    module.eval()
    export(module, torch.ones(2, 3), path, method=method)
    exported = load(path)
    for x in (torch.ones(2, 3), -torch.ones(2, 3)):
        torch.testing.assert_close(exported(x), module(x))


def test_hybrid_says_which_parts_are_scripted(path: Path) -> None:
    report = export(HybridGate().eval(), torch.ones(2, 3), path, method="hybrid")
    assert "scripted parts in the trace: flip_unless_positive" in report.notes


def test_hybrid_says_when_nothing_is_scripted(path: Path) -> None:
    report = export(Linear().eval(), torch.ones(2, 3), path, method="hybrid")
    assert any("called nothing that is scripted" in note for note in report.notes)


def test_scripted_module_is_exported_as_it_is(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(Gate().eval())
        frozen = torch.jit.freeze(scripted)
    for module in (scripted, frozen):
        report = export(module, torch.ones(2, 3), path)
        assert any("TorchScript already" in note for note in report.notes)
        assert load(path)(-torch.ones(2, 3)).min() == 1.0


def test_dict_and_list_outputs_trace(path: Path) -> None:
    export(Dicts().eval(), torch.ones(2, 3), path)
    assert list(load(path)(torch.ones(2, 3))) == ["sum", "product"]
    assert [output["name"] for output in manifest(path)["outputs"]] == ["sum", "product"]
    export(Lists().eval(), torch.ones(2, 3), path)
    assert [output["name"] for output in manifest(path)["outputs"]] == ["output_0", "output_1"]


@pytest.mark.parametrize("method", ["trace", "script"])
def test_named_tuple_fields_name_the_outputs(path: Path, method: str) -> None:
    report = export(NamedOutputs().eval(), torch.ones(2, 3), path, method=method)
    assert report.ok
    names = [output["name"] for output in manifest(path)["outputs"]]
    assert names == ["boxes", "scores.0", "scores.1"]


@pytest.mark.parametrize("method", ["trace", "script"])
def test_preserved_methods_and_state_survive(path: Path, method: str) -> None:
    x = torch.ones(2, 3)
    module = Recurrent().eval()
    export(Recurrent().eval(), x, path, method=method)  # torch.jit caches what it compiled
    report = export(module, x, path, method=method, preserved_methods=["reset_states", "scaled"])
    exported = load(path)
    torch.testing.assert_close(exported(x), x + 1)
    torch.testing.assert_close(exported(x), x + 2)
    torch.testing.assert_close(exported.scaled(3.0), torch.full((1, 3), 6.0))
    exported.reset_states()
    torch.testing.assert_close(exported(x), x + 1)
    assert manifest(path)["methods"] == ["forward", "reset_states", "scaled"]
    (probe,) = (probe for probe in report.probes if probe.name == "repeats")
    assert probe.outcome == "passed"
    assert probe.reason == "method scaled takes arguments"
    assert torch.equal(module.hidden, torch.zeros(1, 3))
    assert "reset_states" not in vars(module)
    assert not hasattr(Recurrent.reset_states, "_torchscript_modifier")


def test_trace_starts_from_the_module_state_not_from_the_traced_run(path: Path) -> None:
    x = torch.ones(2, 3)
    export(InPlaceConstant().eval(), x, path)
    torch.testing.assert_close(load(path)(x), x + 2)
    export(CountingTrace().eval(), x, path, method="hybrid")
    torch.testing.assert_close(load(path)(x), x + 1)
    assert SCRIPTED_COUNTER.count == 0


def test_export_changes_neither_inputs_nor_random_state(path: Path) -> None:
    class_state = torch.get_rng_state()
    x = torch.ones(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        report = export(Noisy().eval(), x, path)
    assert report.ok
    assert torch.equal(x, torch.ones(2, 3))
    assert torch.equal(torch.get_rng_state(), class_state)


def test_module_with_weight_norm_exports(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        module = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 2))).eval()
    assert export(module, torch.ones(2, 3), path).ok


def test_lstm_and_transformer_export_at_every_size(path: Path) -> None:
    shapes = {"input": {0: Dim("time", min=1, max=9), 1: Dim("batch", min=1, max=3)}}
    report = export(nn.LSTM(3, 4).eval(), torch.randn(5, 2, 3), path, dynamic_shapes=shapes)
    assert report.ok
    assert any("torch/nn/modules/rnn.py" in note for note in report.notes)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    module = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    assert export(module, torch.randn(2, 5, 8), path, dynamic_shapes={"src": {1: BATCH}}).ok


def test_folded_batch_norm_is_within_tolerance(path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    shapes = {"input": {2: Dim("height", min=4, max=12)}}
    assert export(module, torch.randn(1, 3, 8, 8), path, dynamic_shapes=shapes).ok


def test_nested_inputs_and_keyword_inputs(path: Path) -> None:
    pair = (torch.ones(2, 3), torch.ones(2, 3))
    table = {"offset": torch.ones(3)}
    shapes = {"pair": ({0: BATCH}, {0: BATCH})}
    report = export(Nested().eval(), (pair, table), path, dynamic_shapes=shapes, audit="full")
    assert {"batch": 8} in [run.sizes for run in report.runs]
    assert "table.offset alone negated or shuffled" in [run.inputs for run in report.runs]
    leaves = [leaf["name"] for entry in manifest(path)["inputs"] for leaf in entry["leaves"]]
    assert leaves == ["pair[0]", "pair[1]", "table.offset"]
    assert manifest(path)["warmup_shapes"] == [
        {"pair[0]": [8, 3], "pair[1]": [8, 3], "table.offset": [3]},
        {"pair[0]": [1, 3], "pair[1]": [1, 3], "table.offset": [3]},
    ]
    keyword_report = export(Nested().eval(), {"table": table, "pair": pair}, path)
    assert keyword_report.ok


def test_trace_fixes_arguments_at_their_defaults(path: Path) -> None:
    report = export(Optional().eval(), {"x": torch.ones(2), "mask": None, "scale": 2}, path)
    assert [entry["name"] for entry in manifest(path)["inputs"]] == ["x"]
    assert any("the argument mask is fixed at its default None" in note for note in report.notes)


def test_script_keeps_arguments_that_are_no_tensors(path: Path) -> None:
    export(Repeat().eval(), (torch.ones(2), 3), path, method="script")
    inputs = manifest(path)["inputs"]
    assert inputs[1] == {"name": "times", "type": "int"}
    assert manifest(path)["warmup_shapes"] == [{"x": [2]}]
    torch.testing.assert_close(load(path)(torch.ones(2), 5), torch.full((2,), 32.0))


# Dynamic shapes.


def test_sizes_of_one_dim_vary_together(path: Path) -> None:
    rows, inner = Dim("rows", min=1, max=4), Dim("inner", min=2, max=6)
    report = export(
        TwoInputs().eval(),
        (torch.ones(3, 4), torch.ones(4, 5)),
        path,
        dynamic_shapes=({0: rows, 1: inner}, {0: inner}),
        audit="full",
    )
    sizes = [run.sizes for run in report.runs if run.outcome == "equal"]
    assert {"rows": 4, "inner": 6} in sizes
    assert {"rows": 1, "inner": 2} in sizes
    assert manifest(path)["outputs"][0]["shape"] == [{"name": "rows", "min": 1, "max": 4}, 5]


def test_size_that_is_too_large_to_check_is_noted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "MAX_CHECK_ELEMENTS", 300)
    shapes = {"x": {0: Dim("rows", min=1, max=10**9)}}
    report = export(Dicts().eval(), torch.ones(2, 3), path, dynamic_shapes=shapes, audit="full")
    assert any(note.startswith("rows=1000000000 was not checked") for note in report.notes)
    assert max(run.sizes.get("rows", 0) for run in report.runs) == 100
    assert manifest(path)["warmup_shapes"] == [{"x": [10**9, 3]}, {"x": [1, 3]}]


def test_dim_hints_make_their_own_names(path: Path) -> None:
    shapes = {"x": (Dim.AUTO, Dim.STATIC)}
    export(Dicts().eval(), torch.ones(2, 3), path, dynamic_shapes=shapes)
    assert manifest(path)["inputs"][0]["shape"] == [{"name": "x_0", "min": 1, "max": None}, 3]


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ({"y": {0: BATCH}}, "expected names among x, got y"),
        ({"x": {2: BATCH}}, r"x: expected a dim from 0 to 1.*got 2"),
        ({"x": {0: Dim("batch", min=4, max=8)}}, r"within \[4, 8\] of Dim 'batch', got 2"),
        ({"x": (BATCH,)}, "x: expected 2 entries, one per dim"),
        ({"x": {0: Dim("n"), 1: Dim("n")}}, r"the one size of Dim 'n', 2 as before, got 3"),
        ({"x": {0: 4 * Dim("n", max=4)}}, r"a size of 4\*n with n within \[0, 4\], got 2"),
        ({"x": {0: 5}}, "the example's size 2 for a static dim, got 5"),
        (({0: BATCH}, None), "expected one entry for each of x, got 2"),
        (7, "expected a dict by argument name or a tuple"),
    ],
)
def test_dynamic_shapes_that_do_not_fit_are_refused(path: Path, shapes: Any, match: str) -> None:
    with pytest.raises(ValueError, match=rf"^\[export\] model: dynamic_shapes: .*{match}"):
        export(Dicts().eval(), torch.ones(2, 3), path, dynamic_shapes=shapes)


def test_one_dim_with_two_ranges_is_refused(path: Path) -> None:
    shapes = {"x": {0: Dim("n", max=4), 1: Dim("n", max=5)}}
    with pytest.raises(ValueError, match="expected one range for Dim 'n'"):
        export(Dicts().eval(), torch.ones(3, 3), path, dynamic_shapes=shapes)


# Arguments.


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "jit"}, "method: expected one of auto, trace, script, hybrid, got 'jit'"),
        ({"audit": "deep"}, "audit: expected one of full, fast, off, got 'deep'"),
        ({"allow": ["typo"]}, "allow: expected codes among tracer-warning, .* got typo"),
        ({"allow": ["trace-failed"]}, "it leaves nothing to export"),
        ({"allow": "tracer-warning"}, r"allow: expected a list such as .* got .tracer-warning"),
        ({"audit": ["full"]}, r"audit: expected one of full, fast, off, got \['full'\]"),
        ({"preserved_methods": "reset"}, "preserved_methods: expected a list such as"),
        ({"preserved_methods": ["reset"]}, r"expected methods of Dicts .* got 'reset'"),
        ({"output_names": ["only"]}, r"expected 2 different names.*\['sum', 'product'\]"),
        ({"warmup_shapes": [{"y": [2, 3]}]}, r"warmup_shapes\[0\]: expected the shapes of x"),
        ({"warmup_shapes": [{"x": [4, 3]}]}, r"expected the example's shape \[2, 3\]"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    path: Path, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        export(Dicts().eval(), torch.ones(2, 3), path, **options)


def test_example_inputs_that_do_not_fit_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match=r"arguments of forward\(.*, got 2 by position"):
        export(Dicts().eval(), (torch.ones(2), torch.ones(2)), path)
    with pytest.raises(ValueError, match=r"got list; for one list argument give \(\[…\],\)"):
        export(Dicts().eval(), [torch.ones(2)], path)


def test_missing_folder_is_an_error_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(_errors.Error, match=r"expected a folder .*missing, got none"):
        export(Dicts().eval(), torch.ones(2, 3), tmp_path / "missing" / "model.pt")


# The file.


def test_manifest_describes_the_model(path: Path) -> None:
    export(
        NamedOutputs().eval(),
        torch.ones(2, 3),
        str(path),
        dynamic_shapes={"x": {0: BATCH}},
        name="detector",
        output_names=["box", "score", "mean"],
        audit="full",
    )
    found = manifest(path)
    batch = {"name": "batch", "min": 1, "max": 8}
    assert set(found.pop("versions")) == {"ts_infer", "torch", "python"}
    audit = found.pop("audit")
    assert (audit["level"], audit["allowed"]) == ("full", [])
    outcomes = {probe["name"]: probe["outcome"] for probe in audit["probes"]}
    assert outcomes["values"] == outcomes["sizes"] == outcomes["repeats"] == "passed"
    golden = found.pop("golden")
    assert (golden["file"], golden["calls"]) == ("ts_infer/golden.pt", 2)
    assert golden["tolerance"]["cpu"]["float32"] == [1e-4, 1e-5]
    assert found == {
        "schema": 1,
        "name": "detector",
        "method": "trace",
        "inputs": [{"name": "x", "type": "Tensor", "dtype": "float32", "shape": [batch, 3]}],
        "outputs": [
            {"name": "box", "dtype": "float32", "shape": [batch, 3]},
            {"name": "score", "dtype": "float32", "shape": [batch]},
            {"name": "mean", "dtype": "float32", "shape": []},
        ],
        "methods": ["forward"],
        "warmup_shapes": [{"x": [8, 3]}, {"x": [1, 3]}],
        "state": [],
        "scripted": [],
        "libraries": [],
    }


def test_manifest_is_an_extra_file_of_torch(path: Path) -> None:
    export(Dicts().eval(), torch.ones(2, 3), path)
    extra = {"ts_infer/manifest.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.load(path, _extra_files=extra)  # type: ignore[no-untyped-call]
    assert json.loads(extra["ts_infer/manifest.json"])["schema"] == 1


def test_manifest_uses_given_warmup_shapes(path: Path) -> None:
    shapes = {"x": {0: BATCH}}
    options: dict[str, Any] = {"dynamic_shapes": shapes, "warmup_shapes": [{"x": (4, 3)}]}
    export(Dicts().eval(), torch.ones(2, 3), path, **options)
    assert manifest(path)["warmup_shapes"] == [{"x": [4, 3]}]
    options["warmup_shapes"] = [{"x": [9, 3]}]
    with pytest.raises(ValueError, match=r"within \[1, 8\] of Dim 'batch', got 9"):
        export(Dicts().eval(), torch.ones(2, 3), path, **options)


def test_manifest_has_null_for_a_dim_that_follows_no_input(path: Path) -> None:
    class Doubling(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, x])

    export(Doubling().eval(), torch.ones(2, 3), path, dynamic_shapes={"x": {0: BATCH}})
    assert manifest(path)["outputs"][0]["shape"] == [None, 3]


def test_manifest_names_every_dtype(path: Path) -> None:
    export(ManyDtypes().eval(), torch.ones(2, dtype=torch.float64), path)
    assert manifest(path)["inputs"][0]["dtype"] == "float64"
    dtypes = [output["dtype"] for output in manifest(path)["outputs"]]
    assert dtypes == ["bool", "uint8", "float16", "bfloat16", "complex64", "int64"]


def test_manifest_has_the_type_of_an_output_that_is_no_tensor(path: Path) -> None:
    export(IntOutput().eval(), torch.ones(2), path, method="script")
    assert manifest(path)["outputs"][1] == {"name": "output_1", "type": "int"}


def test_failed_export_leaves_the_old_file(path: Path) -> None:
    path.write_bytes(b"old")
    refusal(Gate().eval(), torch.ones(2, 3), path)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]
    export(Dicts().eval(), torch.ones(2, 3), path)
    assert path.read_bytes() != b"old"
    assert list(path.parent.iterdir()) == [path]


def test_write_error_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "model.pt"
    folder.mkdir()
    with pytest.raises(_errors.Error, match=r"^\[export\] model: the file cannot be written"):
        export(Dicts().eval(), torch.ones(2, 3), folder)
    assert list(tmp_path.iterdir()) == [folder]


# Reports, warnings, comparisons.


def test_report_is_readable_as_json(path: Path) -> None:
    report = refusal(Forgetful().eval(), torch.full((2, 3), float("nan")).fill_(1.0), path)
    report.runs[0].max_abs_diff = float("inf")
    data = json.loads(report.to_json())
    assert data["ok"] is False
    assert data["findings"][0]["code"] == "state-lost"
    assert data["runs"][0]["max_abs_diff"] is None


def test_deprecation_of_torchscript_stays_inside_and_other_warnings_come_out(path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export(Noisy().eval(), torch.ones(2, 3), path)
    assert [str(warning.message) for warning in caught] == ["the user's own warning"]
    assert caught[0].filename == __file__


def test_watch_warnings_restores_what_it_found() -> None:
    show, filters = warnings.showwarning, list(warnings.filters)
    with watch_warnings():
        assert warnings.showwarning is not show
    assert warnings.showwarning is show
    assert list(warnings.filters) == filters


def test_preserved_method_compiles_beside_a_child_that_torch_cannot_script(path: Path) -> None:
    module = WithUnscriptableChild().eval()
    assert export(module, torch.ones(2, 3), path, preserved_methods=["twice"]).ok
    torch.testing.assert_close(load(path).twice(torch.ones(2)), torch.full((2,), 2.0))


def test_preserved_method_that_cannot_compile_is_named(path: Path) -> None:
    report = refusal(
        WithUnscriptableChild().eval(), torch.ones(2, 3), path, preserved_methods=["locked"]
    )
    (finding,) = report.findings
    assert finding.code == "trace-failed"
    assert finding.file == __file__


def test_statement_at_prefers_the_condition_on_one_line(tmp_path: Path) -> None:
    file = tmp_path / "one_line.py"
    file.write_text("def f(x):\n    if x: raise ValueError\n    assert x\n", encoding="utf-8")
    assert statement_at(str(file), 2).kind == "If"
    assert statement_at(str(file), 3).kind == "Assert"
    assert statement_at(str(tmp_path / "missing.py"), 3).text == ""


def test_compare_treats_nan_as_equal_and_finds_one_sided_nan() -> None:
    nan = torch.tensor([float("nan"), float("inf"), 1.0])
    same = compare(nan, nan.clone())
    assert same.difference is None
    assert same.max_abs_diff == 0.0
    other = compare(nan, torch.tensor([0.0, float("inf"), 1.0]))
    assert other.difference is not None
    assert other.max_abs_diff == float("inf")


def test_compare_requires_equal_integers_and_dtypes() -> None:
    one_off = compare(torch.tensor([1, 2], dtype=torch.uint8), torch.tensor([1, 3]).byte())
    assert one_off.difference is not None
    assert one_off.max_abs_diff == 1.0
    dtype = compare(torch.ones(2), torch.ones(2, dtype=torch.float64))
    assert dtype.difference is not None
    assert dtype.difference.structural


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no data", "RuntimeError: no data"),
        ("RuntimeError: RuntimeError: no data", "RuntimeError: no data"),
        ("size (3): no data\nHint: give some", "RuntimeError: size (3): no data"),
        (
            """\
The following operation failed in the TorchScript interpreter.
Traceback of TorchScript, original code (most recent call last):
  File "my cell.py", line 7, in forward
        if y.sum() > 0:
           ~~~~~~~~~~~ <--- HERE
RuntimeError: RuntimeError: no data

At:
  /my models/my cell.py(7): forward
  <frozen runpy>(198): _run_module_as_main
  /my models/run.py(2): <module>
""",
            "RuntimeError: no data",
        ),
        ("", "RuntimeError"),
    ],
)
def test_essence_of_an_error_is_its_type_once_and_its_reason(text: str, expected: str) -> None:
    assert essence(RuntimeError(text)) == expected


def test_compare_takes_a_tuple_for_a_named_tuple_but_no_list() -> None:
    pair = Pair(torch.ones(2), [torch.ones(1)])
    assert compare(pair, (torch.ones(2), [torch.ones(1)])).difference is None
    assert compare(pair, [torch.ones(2), [torch.ones(1)]]).difference is not None


def test_missing_model_error_is_a_file_not_found_error_with_a_plain_message() -> None:
    error = _errors.ModelNotFoundError("[load] gate.pt: no such file")
    assert isinstance(error, FileNotFoundError)
    assert isinstance(error, _errors.ModelLoadError)
    assert str(error) == "[load] gate.pt: no such file"
    assert issubclass(_errors.InputError, ValueError)
    assert issubclass(_errors.ExportError, RuntimeError)


def test_same_module_gives_the_same_bytes(tmp_path: Path) -> None:
    reports = [
        export(HybridGate().eval(), torch.ones(2, 3), tmp_path / f"{i}.pt", name="gate", method=m)
        for i, m in enumerate(["hybrid", "hybrid", "script", "script"])
    ]
    hashes = [report.sha256 for report in reports]
    assert hashes[0] == hashes[1] != hashes[2] == hashes[3]

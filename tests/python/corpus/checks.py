"""Exporting a case and holding the result against the module."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from archives import jit_load

import ts_infer
from corpus.case import Arguments, Case, call, difference
from ts_infer import runtime
from ts_infer._errors import ExportError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def outcome(model: Any, probe: Arguments, seed: int) -> tuple[Any, Exception | None]:
    """What the call returns, and what it raises."""
    try:
        return call(model, probe, seed), None
    except Exception as error:
        return None, error


def outcomes(model: Any, case: Case) -> list[tuple[Any, Exception | None]]:
    """What the calls of the probes, in a row, return and raise."""
    return [outcome(model, probe, seed) for seed, probe in enumerate(case.probes)]


def mistake(
    case: Case, make_model: Callable[[], Any], may_refuse_input: bool = False
) -> str | None:
    """How a model and a fresh instance of the case's module differ over the probes in a row."""
    expectations = outcomes(case.build(), case)
    results = outcomes(make_model(), case)
    for i, ((expected, raised), (actual, failed)) in enumerate(
        zip(expectations, results, strict=True)
    ):
        if may_refuse_input and isinstance(failed, (InputError, RuntimeError)):
            continue
        if bool(raised) != bool(failed):
            return f"probe {i}: eager raises {raised!r}, the exported model {failed!r}"
        if raised is None and (text := difference(expected, actual)):
            return f"probe {i}: {text}"
    return None


def check_export(case: Case, path: Path) -> None:
    """Export a case with method="auto": it must be right on every probe, or refused."""
    module = case.build()
    refusal = None
    try:
        report = ts_infer.export(
            module,
            copy.deepcopy(case.inputs),
            path,
            method="auto",
            audit="full",
            dynamic_shapes=case.dynamic_shapes,
        )
    except ExportError as error:
        refusal = error
    if refusal is not None:
        assert case.expect in ("refused", "right-or-refused"), str(refusal)
        assert not path.exists()
        _check_refusal(case, refusal)
        return
    text = mistake(case, lambda: module)
    assert text is None, f"the export changed the module\n{text}"
    text = mistake(case, lambda: jit_load(str(path)), case.probes_leave_the_signature)
    assert text is None, f"silently wrong\n{text}\n{report}"
    # The manifest declares dtypes and ranks, and the runtime refuses others.
    text = mistake(case, lambda: runtime.load(path, device="cpu"), case.probes_leave_the_signature)
    assert text is None, f"silently wrong in the runtime\n{text}\n{report}"
    if case.meta:
        assert "meta" in [probe.name for probe in report.probes if probe.outcome == "passed"], (
            report
        )
    assert case.expect != "refused", str(report)
    if case.expect == "scripted":
        assert report.scripted or report.method == "script", str(report)


def _check_refusal(case: Case, error: ExportError) -> None:
    assert error.report is not None
    findings = [f for f in error.report.findings if not f.allowed]
    codes = {finding.code for finding in findings}
    assert codes, str(error)
    if case.codes:
        assert codes & set(case.codes), str(error)
    if case.expect == "refused" and case.line is not None:
        places = {(finding.file, finding.line) for finding in findings}
        assert (case.file, case.line) in places, str(error)

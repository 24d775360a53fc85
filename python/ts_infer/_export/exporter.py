"""`ts_infer.export`: from a module to one checked file."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ts_infer._errors import Error, ExportError
from ts_infer._export import arguments, manifest, shapes
from ts_infer._export.capture import (
    Captured,
    CaptureError,
    capture,
    clone_module,
    eager_failure,
    save_failure,
    watch_warnings,
)
from ts_infer._export.check import CheckResult, fixed_seed, run_check
from ts_infer._export.report import ALLOWABLE, FATAL, ExportReport, Finding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

METHODS = ("trace", "script", "hybrid")


def export(
    module: nn.Module,
    example_inputs: Any,
    path: str | os.PathLike[str],
    *,
    method: str = "trace",
    dynamic_shapes: Any = None,
    name: str | None = None,
    output_names: Sequence[str] | None = None,
    preserved_methods: Sequence[str] = (),
    warmup_shapes: Sequence[Mapping[str, Sequence[int]]] | None = None,
    allow: Sequence[str] = (),
) -> ExportReport:
    """Export a module to a file that computes what the module computes, or fail and say why.

    The module is copied, traced or scripted, frozen and saved. The saved bytes are then opened by
    stock `torch.jit.load` and compared with the module, both without gradients, on the example
    inputs and on other sizes along each dynamic dim. The file is written, in one step, only if
    that held and no Python control flow was lost.

    Args:
        module: A module in eval mode. Neither it nor its state changes.
        example_inputs: What the module is called with: one tensor, a tuple of arguments, or a
            dict of keyword arguments. Arguments may be nested tuples, lists and dicts of tensors.
        path: Where to write. An existing file stays as it is when the export fails.
        method: "trace" records the operators that the example runs; "script" compiles the
            Python code; "hybrid" is a trace of a module that calls `@torch.jit.script` functions
            or scripted children, whose control flow is kept.
        dynamic_shapes: Which dims may change, by the convention of `torch.export.export`:
            `{"x": {0: Dim("batch", min=1, max=8)}}`. Dims that are not declared are static.
        name: The model's name; default: the file's name without its suffix.
        output_names: One name per output leaf, depth-first. Default: names of fields and keys.
        preserved_methods: Methods other than forward to keep, such as `["reset_states"]`.
        warmup_shapes: Sizes that the runtime warms up at load, `[{"x": [8, 3]}]`; default: the
            largest and the smallest of dynamic_shapes.
        allow: Codes of findings to accept, such as `["tracer-warning"]`.

    Returns:
        The report: findings that were allowed, notes, and the sizes that were checked.

    Raises:
        ExportError: The audit found something that `allow` does not hold; the report is its
            attribute `report`.
        ValueError: An argument does not fit the module or the example.
        Error: The file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from torch.export import Dim
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export(
        ...         torch.nn.Linear(3, 2).eval(),
        ...         torch.ones(4, 3),
        ...         f"{folder}/linear.pt",
        ...         dynamic_shapes={"input": {0: Dim("batch", min=1, max=8)}},
        ...     )
        >>> report.ok
        True
    """
    target = Path(os.fspath(path))
    name = target.stem if name is None else name
    preserved = [m for m in dict.fromkeys(preserved_methods) if m != "forward"]
    try:
        _check_options(module, target, method, preserved, allow)
        example = arguments.bind(module, example_inputs)
        dynamic = shapes.parse(dynamic_shapes, example)
    except ValueError as error:
        raise ValueError(f"[export] {name}: {error}") from None
    report = ExportReport(str(target), name, method)
    _refuse_train_mode(module, report)
    with watch_warnings(), fixed_seed():
        expected = _run_eager(module, example, report)
        try:
            if output_names is not None:
                manifest.check_output_names(output_names, expected)
            captured = _capture(module, example, method, preserved, report, allow)
            warmup = None
            if warmup_shapes is not None:
                warmup = manifest.check_warmup_shapes(
                    warmup_shapes, example, captured.dropped, dynamic
                )
        except ValueError as error:
            raise ValueError(f"[export] {name}: {error}") from None
        archive = _save(captured, {}, method, report)
        checked = run_check(archive, module, example, captured.dropped, dynamic, preserved)
        report.checked = checked.checked
        report.notes += checked.notes
        _add_findings(report, checked.findings, allow)
        if not report.ok:
            raise _refusal(report)
        document = manifest.build(
            name=name,
            method=method,
            exported=_jit_load(archive),
            example=example,
            shapes=dynamic,
            outputs=checked.outputs,
            expected=expected,
            output_names=output_names,
            warmup_shapes=_warmup(captured, example, dynamic, checked)
            if warmup is None
            else warmup,
        )
        if "outputs" not in document:
            report.notes.append(
                "the number of outputs depends on the input's size: the manifest does not list them"
            )
        extra = {manifest.MANIFEST_PATH: manifest.to_json(document)}
        shipped = _save(captured, extra, method, report)
    _require_same_model(archive, shipped, name)
    _write(target, shipped, name)
    report.written = True
    report.size_bytes = len(shipped)
    return report


def _check_options(
    module: Any, target: Path, method: str, preserved: Sequence[str], allow: Sequence[str]
) -> None:
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"module: expected a torch.nn.Module, got {type(module).__name__}; wrap functions in "
            "a module"
        )
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    if isinstance(allow, str) or isinstance(preserved, str):
        raise ValueError('allow and preserved_methods: expected lists such as ["tracer-warning"]')
    unknown = [code for code in allow if code not in ALLOWABLE]
    if unknown:
        hint = " (it leaves nothing to export)" if unknown[0] in FATAL else ""
        raise ValueError(
            f"allow: expected codes among {', '.join(ALLOWABLE)}, got {unknown[0]}{hint}"
        )
    for name in preserved:
        if not callable(getattr(module, name, None)):
            known = sorted(
                key
                for cls in type(module).__mro__[: type(module).__mro__.index(nn.Module)]
                for key, value in vars(cls).items()
                if callable(value) and not key.startswith("_") and key != "forward"
            )
            raise ValueError(
                f"preserved_methods: expected methods of {type(module).__name__} "
                f"({', '.join(dict.fromkeys(known)) or 'it has none but forward'}), got {name!r}; "
                "name methods that exist"
            )
    if not target.parent.is_dir():
        raise Error(
            f"[export] {target}: the file cannot be written: expected a folder {target.parent}, "
            "got none; create it first"
        )


def _refuse_train_mode(module: nn.Module, report: ExportReport) -> None:
    training = [
        name or "the module itself"
        for name, m in module.named_modules()
        if getattr(m, "training", False)
    ]
    if not training:
        return
    shown = ", ".join(training[:3]) + (
        f" and {len(training) - 3} more" if len(training) > 3 else ""
    )
    finding = Finding(
        "train-mode",
        f"expected eval mode, got training mode in {shown}: there dropout and batch norm answer "
        "at random or change their state.",
        "call module.eval() before the export.",
    )
    _add_findings(report, [finding], ())
    raise _refusal(report)


def _run_eager(module: nn.Module, example: arguments.Example, report: ExportReport) -> Any:
    copied, _ = clone_module(module)
    values = shapes.DynamicShapes().resize(example, {})
    try:
        with torch.no_grad(), fixed_seed():
            return example.call(copied, values)
    except Exception as error:
        _add_findings(report, [eager_failure(error)], ())
        raise _refusal(report) from error


def _capture(
    module: nn.Module,
    example: arguments.Example,
    method: str,
    preserved: Sequence[str],
    report: ExportReport,
    allow: Sequence[str],
) -> Captured:
    try:
        captured = capture(module, example, method, preserved)
    except CaptureError as error:
        _add_findings(report, [error.finding], ())
        raise _refusal(report) from error.__cause__
    report.notes += captured.notes
    _add_findings(report, captured.findings, allow)
    return captured


def _save(
    captured: Captured, extra_files: Mapping[str, str], method: str, report: ExportReport
) -> bytes:
    buffer = io.BytesIO()
    save: Any = torch.jit.save
    try:
        save(captured.module, buffer, _extra_files=dict(extra_files))
    except Exception as error:
        _add_findings(report, [save_failure(error, method)], ())
        raise _refusal(report) from error
    return buffer.getvalue()


def _jit_load(archive: bytes) -> Any:
    load: Any = torch.jit.load
    return load(io.BytesIO(archive))


def _warmup(
    captured: Captured,
    example: arguments.Example,
    dynamic: shapes.DynamicShapes,
    checked: CheckResult,
) -> list[dict[str, list[int]]]:
    refused = [entry.sizes for entry in checked.checked if entry.outcome == "refused"]
    return manifest.default_warmup_shapes(example, captured.dropped, dynamic, refused)


def _add_findings(report: ExportReport, findings: Sequence[Finding], allow: Sequence[str]) -> None:
    for finding in findings:
        finding.allowed = finding.code in allow
        report.findings.append(finding)


def _refusal(report: ExportReport) -> ExportError:
    codes = dict.fromkeys(f.code for f in report.findings if not f.allowed)
    return ExportError(
        f"[export] {report.name}: the audit failed: expected no findings, got "
        f"{', '.join(codes)}; what to do stands below each\n{report}",
        report,
    )


def _require_same_model(checked: bytes, shipped: bytes, name: str) -> None:
    """Make sure that only the manifest was added to what was checked."""
    before, after = _records(checked), _records(shipped)
    after.pop(f"extra/{manifest.MANIFEST_PATH}", None)
    if before != after:
        changed = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
        raise Error(
            f"[export] {name}: saving twice gave two models: expected equal records, got "
            f"differences in {', '.join(changed)}; please report this with the torch version"
        )


def _records(archive: bytes) -> dict[str, tuple[int, int]]:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {
            info.filename.split("/", 1)[-1]: (info.CRC, info.file_size)
            for info in file.infolist()
            # A hash over the records, the manifest included.
            if not info.filename.endswith(".data/serialization_id")
        }


def _write(target: Path, data: bytes, name: str) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise Error(
            f"[export] {name}: the file cannot be written: expected a writable path, got "
            f"{error}; choose another one"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)

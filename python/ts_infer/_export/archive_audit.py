"""`ts_infer.audit`: the probes on an archive that somebody else made."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ts_infer._errors import ExecutionError, InputError, ModelLoadError
from ts_infer._export import (
    arguments,
    golden,
    isolation,
    manifest,
    options,
    shapes,
    traced,
    variants,
)
from ts_infer._export.audit import CALLS_FORK, Audit, eager_findings, scan_findings, unforkable
from ts_infer._export.build import calls_fork
from ts_infer._export.capture import watch_warnings
from ts_infer._export.compare import compare, leaves
from ts_infer._export.containers import put_together
from ts_infer._export.differential import Subject, device_of, essence, jit_load
from ts_infer._export.eager import Eager, fixed_seed, watch_eager
from ts_infer._export.gradients import grad_mode
from ts_infer._export.report import AUDIT_LEVELS, ExportReport, Finding, Probe, Run
from ts_infer._export.scan import scan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ts_infer._export.isolation import Emit

_BUDGET_S = 60.0
_CPU = torch.device("cpu")
# Calls in a row on one instance, by level.
_REPEATS = {"full": 4, "fast": 2}


def audit(
    path: str | os.PathLike[str],
    module: nn.Module | None = None,
    example_inputs: Any = None,
    *,
    dynamic_shapes: Any = None,
    preserved_methods: Sequence[str] = (),
    audit: str = "full",
    allow: Sequence[str] = (),
) -> ExportReport:
    """Audit a TorchScript archive, whoever made it.

    With the module that it was made from, every probe of `ts_infer.export` compares the two.
    Without, the archive is looked at by itself: what its graphs hold, whether it computes its
    golden sample, whether calls in a row agree, and which sizes it takes.

    Args:
        path: The archive.
        module: The module that it was exported from, in eval mode.
        example_inputs: What forward is called with, as for `ts_infer.export`. Needed with a
            module; without one the archive's golden sample or manifest may stand in, or the sizes
            that it was traced with; and a dict may name leaves of an argument by their paths,
            `{"sensors.imu": …}`.
        dynamic_shapes: Which dims may change; default, without a module: what the manifest says.
        preserved_methods: Methods other than forward to compare with the module's.
        audit: "full" runs every probe; "fast" about ten forward passes with the module, and
            without it no sizes and fewer calls in a row.
        allow: Codes of findings to accept.

    Returns:
        The report; `report.ok` says whether there were findings that `allow` does not hold.

    Raises:
        ValueError: The arguments do not fit the module or the archive. For an input that the
            archive does not have it is an InputError.
        ExecutionError: Without a module: the model fails on the example inputs.
        ModelLoadError: The archive cannot be opened. For a path that does not exist it is a
            FileNotFoundError too.
    """
    archive = Path(os.fspath(path))
    try:
        options.check_audit(audit, AUDIT_LEVELS)
        accepted = options.check_allow(allow)
        if module is not None:
            options.check_module(module)
            options.check_eval(module)
            preserved = options.check_methods(module, preserved_methods)
        elif preserved_methods:
            raise ValueError(
                "preserved_methods: expected none without a module, whose methods they are "
                f"compared with, got {preserved_methods!r}; give the module"
            )
    except ValueError as error:
        raise ValueError(f"[audit] {archive.stem}: {error}") from None
    document = read_manifest(archive)
    name = str(document.get("name", archive.stem))
    report = ExportReport(str(archive), name, str(document.get("method", "")), audit, verb="audit")
    try:
        with watch_warnings(), fixed_seed():
            if module is not None:
                _against_module(
                    report,
                    archive,
                    document,
                    module,
                    example_inputs,
                    dynamic_shapes,
                    preserved,
                )
            else:
                _alone(report, archive, document, example_inputs, dynamic_shapes)
    except (ExecutionError, InputError) as error:
        raise type(error)(f"[audit] {name}: {error}") from None
    except ValueError as error:
        raise ValueError(f"[audit] {name}: {error}") from None
    for finding in report.findings:
        finding.allowed = finding.code in accepted
    return report


def read_manifest(archive: Path, verb: str = "audit") -> dict[str, Any]:
    """Return the manifest of an archive, empty where it has none.

    Raises:
        ModelLoadError: It is no archive that can be read, in the words of the runtime.
    """
    from ts_infer import runtime

    info = runtime.read_model_info(archive)
    if not info.code and not info.damaged:
        raise ModelLoadError(
            f"[{verb}] {archive}: expected a TorchScript archive, got an AOTInductor package; give "
            "the archive that it was compiled from"
        )
    if info.damaged:
        open_with_runtime(archive)
    try:
        document = json.loads(manifest.read_file(archive, manifest.MANIFEST_PATH))
    except KeyError:
        return {}
    return document if isinstance(document, dict) else {}


def open_archive(
    archive: Path, device: torch.device | None = None, *, as_saved: bool = False
) -> Any:
    """Open an archive as `jit_load` does.

    Raises:
        ModelLoadError: It cannot be opened, in the words of the runtime.
    """
    try:
        return jit_load(archive, device, as_saved=as_saved)
    except RuntimeError as error:
        open_with_runtime(archive)
        raise ModelLoadError(f"[load] {archive}: torch.jit.load: {essence(error)}") from error


def open_with_runtime(archive: Path) -> None:
    """Have the runtime say what is wrong with an archive.

    Raises:
        ModelLoadError: What is wrong with it.
    """
    from ts_infer import runtime

    runtime.load(archive, device="cpu", warmup="off", optimize=False)


def _against_module(
    report: ExportReport,
    archive: Path,
    document: Mapping[str, Any],
    module: nn.Module,
    example_inputs: Any,
    dynamic_shapes: Any,
    preserved: Sequence[str],
) -> None:
    example = arguments.bind(module, example_inputs)
    dynamic = shapes.parse(dynamic_shapes, example)
    fork = not unforkable(module, example)
    calls = 3 if report.audit == "full" else 2
    outcome = isolation.run(lambda emit: emit(watch_eager(module, example, calls)), fork=fork)
    eager = next((m for m in outcome.messages if isinstance(m, Eager)), None)
    if eager is None or eager.failure is not None:
        failure = eager.failure if eager else Finding("eager-failed", outcome.failure)
        assert failure is not None
        report.findings.append(failure)
        return
    exported = open_archive(archive, device_of(module))
    if fork and isolation.serves_interop() and calls_fork(exported):
        fork = False
        report.notes.append(f"{CALLS_FORK}: the probes ran in this process, without time limits")
    taken = [argument.name for argument in exported.forward.schema.arguments[1:]]
    dropped = [] if example.variadic else [n for n in example.names if n not in taken]
    subject = Subject(
        module,
        archive,
        example,
        dropped,
        tuple(preserved),
        stateful=bool(eager.state or eager.python_state),
    )
    result = Audit(
        subject, dynamic, eager, level=report.audit, fork=fork, on_run=lambda _: None
    ).run()
    found, notes = eager_findings(eager, _scripted_paths(document))
    report.findings = [*found, *result.findings]
    report.notes += [*notes, *result.notes]
    report.probes = result.probes
    report.runs = result.runs


def _scripted_paths(document: Mapping[str, Any]) -> set[str]:
    """Return the submodules that the manifest says were scripted, "" for the whole."""
    if document.get("method", "script") == "script":
        return {""}
    return {path for part in document.get("scripted", []) for path in part["name"].split(", ")}


def _alone(
    report: ExportReport,
    archive: Path,
    document: Mapping[str, Any],
    example_inputs: Any,
    dynamic_shapes: Any,
) -> None:
    exported = open_archive(archive, _CPU, as_saved=True)
    found = scan(exported)
    report.findings += scan_findings(found)
    for device in dict.fromkeys(device for _, device in found.devices):
        nodes = ", ".join(dict.fromkeys(str(n) for n, d in found.devices if d == device))
        report.findings.append(
            Finding("device-baked", f"{nodes}: the device is fixed to {device}.", probe="graph")
        )
    for node in found.input_writes:
        report.findings.append(
            Finding("input-mutated", f"{node} writes into an input of forward.", probe="graph")
        )
    report.probes.append(Probe("graph", "found" if report.findings else "passed", 1))
    calls = golden_calls(archive, document)
    arguments_of_forward = [argument.name for argument in exported.forward.schema.arguments[1:]]
    if isinstance(example_inputs, Mapping):
        given = put_together(exported.forward.schema, example_inputs)
        example_inputs = _in_order(given, arguments_of_forward)
    values, source = inputs_of(document, calls, example_inputs)
    if values is None and (values := traced.inputs(archive)):
        source = "drawn at random, of the sizes that it was traced with"
    if values is None:
        if found.random:
            drawing = ", ".join(dict.fromkeys(str(node) for node in found.random))
            report.notes.append(f"{drawing}: it may draw random numbers")
        for probe in ("golden", "repeats", "sizes")[: 3 if report.audit == "full" else 2]:
            report.probes.append(Probe(probe, "skipped", reason=source))
        return
    names = arguments_of_forward[: len(values)]
    example = arguments.Example(tuple(names), tuple(values), by_keyword=False)
    dynamic = (
        shapes.parse(dynamic_shapes, example)
        if dynamic_shapes
        else declared_shapes(document, example)
    )
    report.notes.append(f"inputs: {source}")
    _probe(report, "golden", lambda emit: _golden(archive, calls, emit), bool(calls))
    calls_in_a_row = _REPEATS[report.audit]
    repeats = _probe(
        report,
        "repeats",
        lambda emit: _repeats(archive, example, calls_in_a_row, bool(found.random), emit),
    )
    if example_inputs is not None and repeats.outcome == "skipped":
        raise ExecutionError(f"the model failed on the inputs that were given: {repeats.reason}")
    if report.audit == "full":
        _probe(report, "sizes", lambda emit: _sizes(archive, example, dynamic, emit))


def _in_order(given: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    unknown = [name for name in given if name not in names]
    if unknown or list(names[: len(given)]) != [name for name in names if name in given]:
        raise InputError(
            f"inputs: expected {', '.join(names)}, got {', '.join(given)}; name them all, or the "
            "first ones where the rest have defaults"
        )
    return tuple(given[name] for name in names if name in given)


def golden_calls(archive: Path, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the calls of the golden sample, none where there is none."""
    if not isinstance(document.get("golden"), dict):
        return []
    try:
        data = manifest.read_file(archive, golden.GOLDEN_PATH)
        stored = torch.load(io.BytesIO(data), map_location=_CPU, weights_only=True)
        return list(stored["calls"])
    except (KeyError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
        raise ModelLoadError(
            f"[load] {archive}: its golden sample cannot be read: {essence(error)}; export it again"
        ) from error


def inputs_of(
    document: Mapping[str, Any], calls: list[dict[str, Any]], given: Any
) -> tuple[list[Any] | None, str]:
    """Return inputs for forward and where they come from; None and the reason without any."""
    if given is not None:
        values = [given] if isinstance(given, torch.Tensor) else list(given)
        return values, "those that were given"
    if calls:
        return list(calls[0]["inputs"]), "the golden sample's"
    values = []
    for entry in document.get("inputs", []):
        shape, dtype = entry.get("shape"), entry.get("dtype")
        if shape is None or dtype is None:
            return None, f"no example for the input {entry.get('name')}: give example inputs"
        sizes = [dim if isinstance(dim, int) else max(1, dim["min"]) for dim in shape if dim]
        tensor = torch.rand(sizes, generator=torch.Generator().manual_seed(0))
        values.append(tensor.to(getattr(torch, dtype)))
    if not values:
        return None, "no manifest, no trace and no example inputs: give example inputs"
    return values, "drawn at random from the manifest's shapes"


def declared_shapes(
    document: Mapping[str, Any], example: arguments.Example
) -> shapes.DynamicShapes:
    """Read the dynamic dims of a manifest."""
    declared = shapes.DynamicShapes()
    for index, (entry, value) in enumerate(
        zip(document.get("inputs", []), example.values, strict=False)
    ):
        tensors = arguments.tensors_of(value)
        leaves = [leaf for leaf in entry.get("leaves") or [entry] if leaf.get("shape") is not None]
        named = {leaf["name"]: leaf for leaf in leaves}
        for position, (path, tensor) in enumerate(tensors):
            leaf = named.get(entry["name"] + arguments.steps_text(value, path))
            if leaf is None and len(leaves) == len(tensors):
                leaf = leaves[position]  # the golden sample has no names of fields
            for axis, dim in enumerate(leaf["shape"] if leaf else ()):
                if not isinstance(dim, dict) or axis >= tensor.dim():
                    continue
                place = manifest.axis_of(dim)
                low, high = (
                    None if dim.get(end) is None else place.value(dim[end])
                    for end in ("min", "max")
                )
                size = place.value(tensor.shape[axis])
                if low is None or size is None:
                    continue  # no export wrote it
                declared.dims.setdefault(place.name, shapes.DynamicDim(place.name, low, high, size))
                declared.places.setdefault((index, *path), {})[axis] = place
    return declared


def _probe(report: ExportReport, name: str, task: Any, possible: bool = True) -> Probe:
    """Run one probe, which emits a Run, a Finding or a note for each thing that it saw."""
    probe = Probe(name)
    report.probes.append(probe)
    if not possible:
        probe.outcome, probe.reason = "skipped", "the archive has none"
        return probe
    outcome = isolation.run(task, budget_s=_BUDGET_S)
    probe.seconds = outcome.seconds
    for message in outcome.messages:
        if isinstance(message, Run):
            report.runs.append(message)
            probe.runs += 1
            if message.max_abs_diff is not None:
                probe.max_abs_diff = max(probe.max_abs_diff or 0.0, message.max_abs_diff)
        elif isinstance(message, Finding):
            message.probe = name
            report.findings.append(message)
            probe.outcome = "found"
        else:
            report.notes.append(message)
    if outcome.failure:
        probe.reason = outcome.failure
        if not probe.runs:
            probe.outcome = "skipped"
    return probe


def _call(exported: Any, values: Sequence[Any], seed: int = 0) -> Any:
    with grad_mode(), fixed_seed(seed):
        return exported(*values)


def _golden(archive: Path, calls: Sequence[dict[str, Any]], emit: Emit) -> None:
    exported = jit_load(archive, _CPU)
    for number, call in enumerate(calls, 1):
        where = f"call {number} of the golden sample"
        result = [leaf for _, leaf in leaves(_call(exported, call["inputs"]))]
        comparison = compare(call["outputs"], result)
        different = comparison.difference
        outcome = "differs" if different else "equal"
        emit(Run("golden", where, max_abs_diff=comparison.max_abs_diff, calls=1, outcome=outcome))
        if different:
            text = f"{different.where}: {different.text}"
            emit(Finding("example-differs", f"on {where}: {text}", inputs=where))
            return


def _repeats(
    archive: Path, example: arguments.Example, calls_in_a_row: int, may_draw: bool, emit: Emit
) -> None:
    exported = jit_load(archive, _CPU)
    make = variants.example(example).make
    first = _call(exported, make())
    for number in range(2, calls_in_a_row + 1):
        comparison = compare(first, _call(exported, make()))
        outcome = "differs" if comparison.difference else "equal"
        emit(
            Run(
                "repeats",
                f"call {number}",
                calls=1,
                max_abs_diff=comparison.max_abs_diff,
                outcome=outcome,
            )
        )
        if comparison.difference:
            emit(
                f"the model has state: call {number} on the same inputs answers otherwise "
                f"({comparison.difference.where}: {comparison.difference.text})"
            )
            return
    if may_draw and compare(first, _call(exported, make(), seed=1)).difference:
        emit("the model draws random numbers: its outputs follow torch's seed")


def _sizes(
    archive: Path, example: arguments.Example, declared: shapes.DynamicShapes, emit: Emit
) -> None:
    exported = jit_load(archive, _CPU)
    for variant in variants.sizes(example, declared)[0]:
        run = Run("sizes", variant.label, dict(variant.sizes), 1)
        try:
            _call(exported, variant.make())
        except Exception as error:
            run.outcome, run.refused_by = "refused", "the exported model"
            run.reason = essence(error)
            text = f"the manifest declares it, the model raises {essence(error)}"
            emit(Finding("sizes-differ", f"on {variant.label}: {text}", inputs=variant.label))
        emit(run)
    fixed = []
    for path, tensor in arguments.tensors_of(example.values):
        for axis, size in enumerate(tensor.shape):
            if axis in declared.places.get(path, {}):
                continue
            dim = shapes.DynamicDim("size", 1, None, size)
            alone = shapes.DynamicShapes({"size": dim}, {path: {axis: shapes.Axis("size")}})
            label = f"{example.label(path)}, dim {axis}: {size + 1} instead of {size}"
            run = Run("sizes", label, calls=1)
            try:
                _call(exported, alone.resize(example, {"size": size + 1}))
            except Exception as error:
                run.outcome, run.refused_by = "refused", "the exported model"
                run.reason = essence(error)
                fixed.append(f"{example.label(path)} dim {axis} = {size}")
            emit(run)
    if fixed:
        emit(f"sizes that the model does not let change alone: {', '.join(fixed)}")

"""`ts_infer.export`: from a module to one checked file."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from tqdm import tqdm  # type: ignore[import-untyped]

from ts_infer._errors import Error, ExportError
from ts_infer._export import arguments, golden, gradients, isolation, manifest, options, shapes
from ts_infer._export.audit import CALLS_FORK, Audit, AuditResult, eager_findings, unforkable
from ts_infer._export.build import Built, build, other_inputs
from ts_infer._export.capture import Plan, clone_module, watch_warnings
from ts_infer._export.differential import Subject
from ts_infer._export.eager import Eager, fixed_seed, watch_eager
from ts_infer._export.libraries import needed_libraries
from ts_infer._export.observe import WHOLE, Unit
from ts_infer._export.report import (
    MENDED_BY_SCRIPT,
    REFUSED_AT_RUN_TIME,
    Attempt,
    ExportReport,
    Finding,
    Probe,
    Run,
    Scripted,
)
from ts_infer._export.scan import scan
from ts_infer._export.training import depend_on_training

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

METHODS = ("auto", "trace", "script", "hybrid")

# Parts are scripted, and scripted parts widened, this many times at most.
_MAX_ATTEMPTS = 8

_NOT_FINITE = re.compile(r"NaN|inf")


def export(
    module: nn.Module,
    example_inputs: Any,
    path: str | os.PathLike[str],
    *,
    method: str = "auto",
    dynamic_shapes: Any = None,
    name: str | None = None,
    output_names: Sequence[str] | None = None,
    preserved_methods: Sequence[str] = (),
    warmup_shapes: Sequence[Mapping[str, Sequence[int]]] | None = None,
    audit: str = "full",
    allow: Sequence[str] = (),
    grad: str = "auto",
) -> ExportReport:
    """Export a module to a file that computes what the module computes, or fail and say why.

    A copy of the module is traced or scripted, frozen and saved. The saved bytes are then opened
    by stock `torch.jit.load` and audited: compared with the module, both without gradients, on
    the example inputs and on other values, sizes, ranks and dtypes, call after call. Then it is
    loaded by `ts_infer.runtime`, with the options that it has by default, and run on the same
    inputs. The file is written, in one step, only if all agreed and no Python control flow was
    lost.

    All this runs in forks of this process, on one thread each and under a time limit, so that
    neither a loop that never ends nor a crash reaches it; on an accelerator, which a fork cannot
    share, it runs in this process.

    Args:
        module: A module in eval mode, or one in which nothing depends on the mode. Neither it nor
            its state changes.
        example_inputs: What the module is called with: one tensor, a tuple of arguments, or a
            dict of keyword arguments. Arguments may be nested tuples, lists and dicts of tensors.
        path: Where to write. An existing file stays as it is when the export fails.
        method: "auto" traces, and scripts the smallest parts whose control flow a trace loses,
            with the types that they were seen to take; the whole where parts do not do. "trace"
            records the operators that the example runs; "script" compiles the Python code;
            "hybrid" is a trace of a module that calls `@torch.jit.script` functions or scripted
            children, whose control flow is kept.
        dynamic_shapes: Which dims may change, by the convention of `torch.export.export`:
            `{"x": {0: Dim("batch", min=1, max=8)}}`. Dims that are not declared are static. A
            tensor within an argument may be named by its path, `{"sensors.imu": {0: Dim("n")}}`.
        name: The model's name; default: the file's name without its suffix.
        output_names: One name per output leaf, depth-first. Default: names of fields and keys.
        preserved_methods: Methods other than forward to keep, such as `["reset_states"]`.
        warmup_shapes: Sizes that the runtime warms up at load, `[{"x": [8, 3]}]`, by the names of
            tensors or their paths; default: the largest and the smallest of dynamic_shapes.
        audit: "full" runs every probe; "fast" about ten forward passes; "off" none: then only
            what tracing itself warns of is found.
        allow: Codes of findings to accept, such as `["tracer-warning"]`.
        grad: "on" runs the module, and what is exported of it, with gradients, as one needs that
            takes some in forward (forces of a potential); results are detached. "auto" does so
            where the module fails without, "off" never.

    Returns:
        The report: what was scripted, what each probe did, findings that were allowed, notes.

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
    try:
        options.check_module(module)
        if method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
        options.check_audit(audit)
        if grad not in gradients.MODES:
            raise ValueError(f"grad: expected one of {', '.join(gradients.MODES)}, got {grad!r}")
        accepted = options.check_allow(allow)
        preserved = options.check_methods(module, preserved_methods)
        _check_target(target)
        example = arguments.bind(module, example_inputs)
        dynamic = shapes.parse(dynamic_shapes, example)
    except ValueError as error:
        raise ValueError(f"[export] {name}: {error}") from None
    report = ExportReport(str(target), name, method, audit)
    _refuse_unreadable_names(module, example, report)
    module = _in_eval_mode(module, report)
    with (
        tempfile.TemporaryDirectory(prefix="ts_infer_export_") as folder,
        watch_warnings(),
        fixed_seed(),
        gradients.enabled(grad == "on"),
        tqdm(desc=f"export {name}", unit=" runs", disable=None, leave=False) as bar,
    ):
        job = _Job(module, example, dynamic, preserved, report, accepted, Path(folder), bar)
        eager = job.watch_eager(retry=grad == "auto")
        try:
            if output_names is not None:
                manifest.check_output_names(output_names, eager.output_names)
            chosen = job.find_way(method)
            warmup = None
            if warmup_shapes is not None:
                warmup = manifest.check_warmup_shapes(
                    warmup_shapes, example, chosen.built.dropped, dynamic
                )
        except ValueError as error:
            raise ValueError(f"[export] {name}: {error}") from None
        job.finish(chosen, output_names, warmup)
        data = chosen.archive.read_bytes()
    _write(target, data, name)
    report.written = True
    report.size_bytes = len(data)
    report.sha256 = sha256(data).hexdigest()
    return report


@dataclass
class _Candidate:
    """One way that was tried."""

    plan: Plan
    archive: Path
    built: Built = field(default_factory=Built)
    subject: Subject | None = None
    audit: AuditResult = field(default_factory=AuditResult)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)


@dataclass
class _Job:
    """One export, from watching the module to the finished file."""

    module: nn.Module
    example: arguments.Example
    dynamic: shapes.DynamicShapes
    preserved: tuple[str, ...]
    report: ExportReport
    allow: tuple[str, ...]
    folder: Path
    bar: Any
    eager: Eager = field(default_factory=Eager)
    reasons: dict[Unit, str] = field(default_factory=dict)
    fork: bool = field(init=False)
    probe_here: bool = False

    def __post_init__(self) -> None:
        reason = unforkable(self.module, self.example)
        self.fork = not reason
        if reason:
            self._note_here(f"{reason}, and no part could be scripted automatically")

    @property
    def _forks_probes(self) -> bool:
        return self.fork and not self.probe_here

    def _note_here(self, reason: str) -> None:
        self.report.notes.append(f"{reason}: the probes ran in this process, without time limits")

    def watch_eager(self, retry: bool) -> Eager:
        """Run the module by itself; raise where it fails.

        Args:
            retry: Whether gradients are turned on, for the rest of the export, where it fails
                without.
        """
        calls = 3 if self.report.audit == "full" else 2
        outcome = self._run(lambda emit: emit(watch_eager(self.module, self.example, calls)))
        seen = next((m for m in outcome.messages if isinstance(m, Eager)), None)
        if seen is None:
            failure = outcome.failure
            finding = Finding(
                "eager-failed", f"the module itself fails on example_inputs: {failure}"
            )
            seen = Eager(finding)
        if seen.failure is not None:
            if retry and gradients.are_missing(seen.failure.message):
                gradients.turn_on()
                return self.watch_eager(retry=False)
            self.report.findings = [seen.failure]
            raise _refusal(self.report)
        if gradients.are_enabled():
            self.report.notes.append("it takes gradients: calls run in grad mode")
        self.eager = seen
        for text, category, file, line in seen.warnings:
            warnings.warn_explicit(text, category, file, line)
        return seen

    def find_way(self, method: str) -> _Candidate:
        """Capture and audit; with "auto", until a way has no findings. Raises where none has."""
        automatic = method == "auto"
        first = self._first_plan(method)
        candidate = self._try(first, stop_at_first=automatic)
        tried = [candidate]
        while automatic and self._blocking(candidate) and len(tried) <= _MAX_ATTEMPTS:
            plan = self._next_plan(candidate)
            if plan is None:
                break
            candidate = self._try(plan, stop_at_first=True)
            tried.append(candidate)
        if automatic and self._blocking(candidate):
            accepted = next((c for c in map(self._accept, tried) if c is not None), None)
            if accepted is not None:
                candidate = accepted
                tried.append(candidate)
        self._report_on(tried)
        if not self.report.ok:
            raise _refusal(self.report)
        return candidate

    def _first_plan(self, method: str) -> Plan:
        if method != "auto":
            return Plan(method, self.preserved)
        if isinstance(self.module, torch.jit.ScriptModule):
            return Plan("script", self.preserved)
        if not self.example.only_tensors():
            self.report.notes.append("scripted, since a trace takes nothing but tensors")
            return self._whole()
        if gradients.are_enabled():
            self.report.notes.append("scripted, since a trace does not keep gradients")
            return self._whole()
        return Plan("trace", self.preserved)

    def _whole(self, blocking: Sequence[Finding] = ()) -> Plan:
        if blocking:
            self.reasons.setdefault(WHOLE, _reason(blocking[0]))
        if self.fork and self.eager.observation is not None:
            return Plan("script", self.preserved, (WHOLE,), self.eager.observation)
        return Plan("script", self.preserved)

    def _accept(self, candidate: _Candidate) -> _Candidate | None:
        """Try a way again, to the end, whose findings do not matter to who runs the file.

        Returns:
            The way, with a note for each of these findings; None where it has others.
        """
        if not all(self._harmless(candidate)):
            return None
        again = self._try(candidate.plan, stop_at_first=False)
        blocking, notes = self._blocking(again), self._harmless(again)
        if not all(notes):
            return None
        again.notes += notes
        again.findings = [finding for finding in again.findings if finding not in blocking]
        return again

    def _harmless(self, candidate: _Candidate) -> list[str]:
        """Say of each finding of a way why it does not matter; "" where it does."""
        return [_harmless(finding, candidate.audit.runs) for finding in self._blocking(candidate)]

    def _blocking(self, candidate: _Candidate) -> list[Finding]:
        return [finding for finding in candidate.findings if finding.code not in self.allow]

    def _next_plan(self, candidate: _Candidate) -> Plan | None:
        """Choose what to script next: the parts that hold the findings, else the whole."""
        plan, observation = candidate.plan, self.eager.observation
        blocking = self._blocking(candidate)
        mendable = any(f.code in MENDED_BY_SCRIPT for f in blocking)
        # A part that cannot be scripted is tried again as a part of a wider one.
        if plan.method == "script" or not (mendable or candidate.built.failed_unit is not None):
            return None
        if observation is None or not self.fork:
            return self._whole(blocking)
        units = list(plan.units)
        failed = candidate.built.failed_unit
        if failed is not None:
            units = [unit for unit in units if unit != failed]
            wider = observation.wider(failed)
            if wider is None or wider == WHOLE:
                return self._whole(blocking)
            self.reasons.setdefault(wider, self.reasons.get(failed, ""))
            units.append(wider)
        for finding in blocking:
            if finding.code not in MENDED_BY_SCRIPT or finding.file is None or not finding.line:
                continue
            function = observation.function_at(finding.file, finding.line)
            unit = None if function is None else observation.unit_of(function)
            while unit is not None and unit in plan.units:
                # Scripted, and still wrong: what surrounds it loses something.
                units = [other for other in units if other != unit]
                unit = observation.wider(unit)
            if unit is None or unit == WHOLE:
                return self._whole([finding])
            self.reasons.setdefault(unit, _reason(finding))
            units.append(unit)
        wanted = _without_nested(units)
        if set(wanted) == set(plan.units):
            return self._whole(blocking)
        return Plan("hybrid", self.preserved, tuple(wanted), observation)

    def _try(self, plan: Plan, stop_at_first: bool) -> _Candidate:
        plan = replace(plan, stateful=bool(self.eager.state or self.eager.python_state))
        candidate = _Candidate(plan, self.folder / "model.pt")
        level = self.report.audit
        others = []
        if level == "full" and plan.method != "script":
            others = other_inputs(self.example, self.dynamic)
        outcome = self._run(
            lambda emit: build(self.module, self.example, plan, candidate.archive, others, emit),
            budget_s=300.0 + 100.0 * self.eager.seconds,
        )
        built = next((m for m in outcome.messages if isinstance(m, Built)), None)
        if built is None:
            code = "script-failed" if plan.method == "script" else "trace-failed"
            text = f"{plan.method} did not end: {outcome.failure}"
            candidate.findings = [Finding(code, text)]
            return candidate
        candidate.built = built
        if self._forks_probes and built.forks and isolation.serves_interop():
            self.probe_here = True
            self._note_here(CALLS_FORK)
        candidate.notes = list(built.notes)
        candidate.findings = list(built.findings)
        if built.failed:
            return candidate
        traced = plan.method != "script"
        scripted = {path for unit in plan.units for path in unit.paths} if traced else {""}
        found, notes = eager_findings(self.eager, scripted)
        candidate.findings += found
        candidate.notes += notes
        if traced:
            candidate.probes.append(
                Probe("trace", "found" if built.findings else "passed", 1, seconds=outcome.seconds)
            )
        if traced and level == "full":
            self._read_graphs(candidate, outcome, others)
        self._settle_doubts(candidate)
        if level != "off":
            outcome_of_module = "found" if found else "passed"
            candidate.probes.append(Probe("module", outcome_of_module, 1))
        if stop_at_first and self._blocking(candidate):
            return candidate
        candidate.subject = Subject(
            self.module,
            candidate.archive,
            self.example,
            built.dropped,
            self.preserved,
            stateful=plan.stateful,
        )
        audit = Audit(
            candidate.subject,
            self.dynamic,
            self.eager,
            level=level,
            fork=self._forks_probes,
            on_run=self._show,
            traced=traced,
            stop_at_first=stop_at_first,
        )
        candidate.audit = audit.run()
        candidate.findings += candidate.audit.findings
        candidate.notes += candidate.audit.notes
        candidate.probes += candidate.audit.probes
        return candidate

    def _read_graphs(
        self, candidate: _Candidate, outcome: isolation.Outcome, others: Sequence[Any]
    ) -> None:
        probe = Probe("graphs")
        candidate.probes.append(probe)
        found = [m for m in outcome.messages if isinstance(m, Finding)]
        probe.runs = sum(m == "traced" for m in outcome.messages)
        if found:
            probe.outcome = "found"
            candidate.findings += found
        elif not probe.runs:
            probe.outcome = "skipped"
            probe.reason = outcome.failure or "no other inputs could be traced"
        elif outcome.failure:
            probe.reason = f"{len(others) - probe.runs} left out: {outcome.failure}"

    def _settle_doubts(self, candidate: _Candidate) -> None:
        """Take a doubt for a loss unless traces on other inputs had it the same."""
        traced_again = any(p.name == "graphs" and p.runs for p in candidate.probes)
        confirmed = {(f.file, f.line) for f in candidate.findings}
        for doubt in candidate.built.doubts:
            if (doubt.file, doubt.line) in confirmed:
                continue
            if traced_again or not self.dynamic.dims:
                candidate.notes.append(
                    f"{doubt.file}:{doubt.line}: `{doubt.source}`: constant at the declared sizes"
                )
            else:
                candidate.findings.append(doubt)

    def _report_on(self, tried: Sequence[_Candidate]) -> None:
        report, last = self.report, tried[-1]
        if len(tried) > 1:
            report.attempts = [
                Attempt(c.plan.method, [str(u) for u in c.plan.units], self._blocking(c))
                for c in tried
            ]
        report.method = last.plan.method
        findings = list(last.findings)
        if len(tried) > 1 and self._blocking(last):
            # What a trace loses says more than why the last way failed; both are shown.
            report.method = "auto"
            seen = {(f.code, f.file, f.line) for f in tried[0].findings}
            findings = [*tried[0].findings]
            findings += [f for f in last.findings if (f.code, f.file, f.line) not in seen]
        _add_findings(report, findings, self.allow)
        report.notes += list(dict.fromkeys(last.notes))
        report.probes = last.probes
        report.runs = last.audit.runs
        report.scripted = [
            Scripted(str(unit), unit.kind, self.reasons.get(unit, "")) for unit in last.plan.units
        ]

    def finish(
        self,
        chosen: _Candidate,
        output_names: Sequence[str] | None,
        warmup: list[dict[str, list[int]]] | None,
    ) -> None:
        """Add the manifest and the golden sample to what was audited, which stays as it is."""
        # Opening the archive names classes process-wide, so it is not opened here where that can
        # be helped.
        outcome = isolation.run(
            lambda emit: emit(self._extra_files(chosen, output_names, warmup)),
            fork=self._forks_probes,
        )
        if outcome.failure:
            raise Error(
                f"[export] {self.report.name}: the manifest cannot be made: {outcome.failure}; "
                "please report this"
            )
        files, notes = outcome.messages[0]
        self.report.notes += notes
        manifest.add_files(chosen.archive, files)
        if chosen.audit.agreed:
            self._serve(chosen)

    def _serve(self, chosen: _Candidate) -> None:
        """Hold what `load` serves against the module; raise where it differs."""
        assert chosen.subject is not None
        subject = replace(chosen.subject, served=True)
        audit = Audit(
            subject,
            self.dynamic,
            self.eager,
            level=self.report.audit,
            fork=self._forks_probes,
            on_run=self._show,
        )
        served = audit.serve(chosen.audit.agreed)
        _add_findings(self.report, served.findings, self.allow)
        self.report.probes += served.probes
        self.report.runs += served.runs
        if not self.report.ok:
            raise _refusal(self.report)

    def _extra_files(
        self,
        chosen: _Candidate,
        output_names: Sequence[str] | None,
        warmup: list[dict[str, list[int]]] | None,
    ) -> tuple[dict[str, bytes], list[str]]:
        """Make the extra files of the archive, and notes on what could not go into them."""
        notes: list[str] = []
        exported = _jit_load(chosen.archive)
        if warmup is None:
            refused = [run.sizes for run in chosen.audit.runs if run.outcome == "refused"]
            warmup = manifest.default_warmup_shapes(
                self.example, chosen.built.dropped, self.dynamic, refused
            )
        document = manifest.build(
            name=self.report.name,
            method=self.report.method,
            exported=exported,
            example=self.example,
            shapes=self.dynamic,
            leaves=self.eager.results[0],
            output_shapes=chosen.audit.output_shapes,
            output_names=output_names or self.eager.output_names,
            warmup_shapes=warmup,
        )
        if "outputs" not in document:
            notes.append(
                "the number of outputs depends on the input's size: the manifest does not list them"
            )
        found = scan(exported)
        libraries, unknown = needed_libraries(found.custom_operators, found.custom_classes)
        if unknown:
            notes.append(
                f"no loaded library registers {', '.join(unknown)}: load it by "
                "torch.ops.load_library before the export, so that the manifest can name it"
            )
        document |= manifest.provenance(self.report, self.eager.state, libraries)
        files: dict[str, bytes] = {}
        sample, reason = golden.sample(exported, self.example, self.eager)
        if sample is None:
            notes.append(f"no golden sample: {reason}")
        else:
            document["golden"] = golden.describe(self.eager)
            files[golden.GOLDEN_PATH] = sample
        files[manifest.MANIFEST_PATH] = manifest.to_json(document).encode()
        return files, notes

    def _run(self, task: Any, budget_s: float | None = None) -> isolation.Outcome:
        return isolation.run(task, budget_s=budget_s, fork=self.fork)

    def _show(self, probe: str) -> None:
        self.bar.set_postfix_str(probe, refresh=False)
        self.bar.update()


def _harmless(finding: Finding, runs: Sequence[Run]) -> str:
    """Say why a finding does not matter to who runs the file; "" where it does."""
    if finding.code in REFUSED_AT_RUN_TIME:
        return (
            f"on {finding.inputs} its answer is not the module's ({finding.code}): the runtime "
            "refuses such inputs, torch.jit.load would not"
        )
    if finding.code != "check-lost" or not finding.source.startswith("assert "):
        return ""
    # What is left of it then is a check of the code's own, which python -O leaves out too.
    fired = [run for run in runs if run.refused_by == "the module"]
    if any("AssertionError" in run.reason and not _NOT_FINITE.search(run.inputs) for run in fired):
        return ""
    return (
        f"{finding.file}:{finding.line}: `{finding.source}` is lost; it held on all inputs that "
        "were tried but for NaN and infinity"
    )


def _without_nested(units: Sequence[Unit]) -> list[Unit]:
    """Leave out submodules that others hold."""
    distinct = list(dict.fromkeys(units))
    paths = {path for unit in distinct for path in unit.paths}
    outermost = {p for p in paths if not any(p.startswith(f"{q}.") for q in paths)}
    return [u for u in distinct if u.function is not None or outermost.intersection(u.paths)]


def _reason(finding: Finding) -> str:
    place = f" at {Path(finding.file).name}:{finding.line}" if finding.file else ""
    source = f" `{finding.source}`" if finding.source else ""
    return f"{finding.code}{place}{source}"


def _check_target(target: Path) -> None:
    if not target.parent.is_dir():
        raise Error(
            f"[export] {target}: the file cannot be written: expected a folder {target.parent}, "
            "got none; create it first"
        )


def _refuse_unreadable_names(
    module: nn.Module, example: arguments.Example, report: ExportReport
) -> None:
    found = [f"forward's argument {name!r}" for name in example.names if not name.isascii()]
    for path, child in module.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            continue
        kind = type(child)
        for what, name in (("module", kind.__module__), ("class", kind.__qualname__)):
            if not name.isascii():
                found.append(f"the {what} {name!r}")
        attributes = (*child._parameters, *child._buffers, *child._modules)
        found += [
            f"the attribute {name!r} of {path or 'the module'}"
            for name in attributes
            if not name.isascii()
        ]
    if not found:
        return
    names = ", ".join(dict.fromkeys(found))
    finding = Finding(
        "name-unreadable",
        f"expected names of ASCII letters, digits and underscores, got {names}: TorchScript "
        "writes them into the file, and cannot read them.",
        "rename them.",
    )
    _add_findings(report, [finding], ())
    raise _refusal(report)


def _in_eval_mode(module: nn.Module, report: ExportReport) -> nn.Module:
    """Return the module, or a copy in eval mode; raise where that answers otherwise."""
    if not any(getattr(child, "training", False) for child in module.modules()):
        return module
    depend = depend_on_training(module)
    if not depend:
        report.notes.append("it was in training mode, on which nothing in it depends")
        return clone_module(module)[0].eval()  # type: ignore[no-any-return]
    shown = ", ".join(depend[:3]) + (f" and {len(depend) - 3} more" if len(depend) > 3 else "")
    finding = Finding(
        "train-mode",
        f"expected eval mode, got training mode in {shown}: what they compute depends on it.",
        "call module.eval() before the export.",
    )
    _add_findings(report, [finding], ())
    raise _refusal(report)


def _jit_load(archive: Path) -> Any:
    load: Any = torch.jit.load
    return load(str(archive))


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

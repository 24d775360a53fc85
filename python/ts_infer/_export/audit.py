"""The audit: probes that compare an exported model with its module, each where it can be killed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from ts_infer._export import isolation, plain, variants
from ts_infer._export.arguments import Example, tensors_of
from ts_infer._export.build import calls_fork
from ts_infer._export.differential import (
    CODES,
    Compared,
    Subject,
    callable_without_arguments,
    compare_repeats,
    compare_variants,
    jit_load,
    place,
    runs_on_meta,
)
from ts_infer._export.report import Finding, Probe, Run
from ts_infer._export.scan import Scan, scan

if TYPE_CHECKING:
    from ts_infer._export.eager import Eager
    from ts_infer._export.isolation import Emit
    from ts_infer._export.shapes import DynamicShapes
    from ts_infer._export.variants import Variant

# Changes of numbers, flags and strings in a fast audit.
_FAST_ARGUMENTS = 4

# Calls in a row on one instance: enough for state that shows at the second call or the third.
_REPEATS = 6

# What the runtime may take beyond what the module takes: loading, and warming up.
_LOAD_S = 60.0

# Probes whose inputs are run in ts_infer's runtime as well.
_SERVED = ("example", "values", "arguments", "sizes", "extremes")

CALLS_FORK = "the module calls torch.jit.fork, whose threads serve this process alone"

_NOTHING_TO_VARY = {
    "arguments": "every input is a tensor",
    "sizes": "no dim is declared dynamic",
    "lengths": "no input is a list or a dict",
    "extremes": "no input is floating point",
}

OnRun = Callable[[str], None]


@dataclass
class AuditResult:
    """What the audit found.

    Attributes:
        findings: One per code and probe.
        probes: What each probe did.
        runs: The comparisons.
        notes: Sizes that were left out.
        output_shapes: For each size that was compared, the shape of each output leaf, None for a
            leaf that is no tensor; the example first.
        exported: What the graphs hold.
        agreed: The inputs on which both gave the same, by probe.
    """

    findings: list[Finding] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    output_shapes: list[tuple[dict[str, int], list[tuple[int, ...] | None]]] = field(
        default_factory=list
    )
    exported: Scan | None = None
    agreed: dict[str, list[Variant]] = field(default_factory=dict)


@dataclass
class Audit:
    """Runs the probes on one exported file.

    A probe that does not answer within its budget is killed; what it did not get to is reported
    as skipped. The budget grows with the time that the module itself takes.

    Attributes:
        subject: The module and its export.
        shapes: The dynamic dims.
        eager: What the module does on the example.
        level: "full", "fast" or "off".
        fork: Whether probes run in processes of their own.
        on_run: Called with a probe's name for each comparison.
        traced: Whether an argument that nothing uses may have been lost by tracing.
        stop_at_first: Whether to leave the rest out once a probe found something.
        result: What was found so far.
    """

    subject: Subject
    shapes: DynamicShapes
    eager: Eager
    _: KW_ONLY
    level: str
    fork: bool
    on_run: OnRun
    traced: bool = False
    stop_at_first: bool = False
    result: AuditResult = field(default_factory=AuditResult, init=False)

    def run(self) -> AuditResult:
        """Run the probes of the level, the most telling ones first."""
        example = self.subject.example
        steps: list[Callable[[], None]] = []
        sizes, notes = variants.sizes(example, self.shapes)
        self.result.notes += notes
        values, extremes = variants.values(example), variants.extremes(example)
        unvaried = variants.unvaried(example)
        if self.level == "full":
            steps = [
                self._scan,
                lambda: self._compare("values", values, skipped=unvaried),
                self._arguments,
                lambda: self._compare("sizes", sizes, calls=2),
                lambda: self._repeats(values),
                lambda: self._compare("extremes", [*extremes, *self._plain.extremes]),
                lambda: self._compare("ranks", variants.ranks(example)),
                # What was scripted has the types that it was seen to take.
                lambda: self._compare("dtypes", variants.dtypes(example, self.traced)),
                lambda: self._compare("lengths", variants.lengths(example, self.eager.asked_keys)),
                self._meta,
            ]
        elif self.level == "fast":
            steps = [
                self._scan,
                lambda: self._compare("values", values[:1], skipped=unvaried),
                lambda: self._arguments(most=_FAST_ARGUMENTS),
                lambda: self._compare("sizes", sizes[-1:]),
                lambda: self._compare(
                    "extremes", [v for v in extremes if "one NaN" in v.label][:1]
                ),
            ]
            if self.subject.methods:
                steps.append(lambda: self._repeats([], calls=1))
        if self.level != "off":
            self._compare("example", [variants.example(example)], calls=2)
            if not any(run.probe == "example" for run in self.result.runs):
                self.result.findings.append(
                    Finding(
                        "example-unchecked",
                        "the exported model could not be compared on the example: "
                        f"{self.result.probes[-1].reason}",
                        "give smaller example_inputs, or look why it takes so long.",
                        probe="example",
                    )
                )
        if self.result.findings:
            return self.result  # it does not even compute the example
        for step in steps:
            step()
            if self.stop_at_first and self.result.findings:
                break
        return self.result

    def serve(self, agreed: dict[str, list[Variant]]) -> AuditResult:
        """Run the file in ts_infer's own runtime, as `load` serves it by default.

        Args:
            agreed: The inputs on which the module and the file in stock torch gave the same.
        """
        made = [variant for probe in _SERVED for variant in agreed.get(probe, ())]
        self._compare("runtime", made, calls=2 if self.subject.stateful else 1)
        if self.result.findings:
            return self.result
        if agreed.get("lengths"):
            self._compare("runtime lengths", agreed["lengths"])
        if self.subject.stateful or self.subject.methods:
            self._repeats(agreed.get("values", []), name="runtime state")
        return self.result

    # Differential probes.

    @cached_property
    def _plain(self) -> plain.Plain:
        """Other numbers, flags, strings and None, once the graphs were read."""
        exported = self.result.exported
        constants = [*self.eager.constants, *(exported.constants if exported else ())]
        taken = exported.arguments if exported else None
        return plain.variants_of(self.subject.example, taken, constants)

    def _arguments(self, most: int | None = None) -> None:
        made = [*self._plain.alone, *self._plain.more]
        self._compare("arguments", made[:most], skipped=self._plain.skipped)

    def _compare(
        self, name: str, made: Sequence[Variant], calls: int = 1, skipped: Sequence[str] = ()
    ) -> None:
        probe = Probe(name)
        self.result.probes.append(probe)
        if not made:
            probe.outcome = "skipped"
            nothing = _NOTHING_TO_VARY.get(name, "the inputs leave nothing to change")
            probe.reason = "; ".join(skipped) or nothing
            return
        skipped = list(skipped)
        left = list(made)
        while left:
            batch = left

            def task(emit: Emit, batch: Sequence[Variant] = batch) -> None:
                compare_variants(self.subject, name, batch, emit, calls)

            outcome = self._run(name, task)
            probe.seconds += outcome.seconds
            ended_at, answered = self._read(outcome.messages, probe)
            left = []
            if outcome.failure and ended_at is not None:
                if not answered:
                    label = batch[ended_at].label
                    skipped.append(self._unanswered(outcome, name, label, probe))
                # What is served is loaded anew each time: one that ends its process is enough.
                left = [] if self.subject.served else list(batch[ended_at + 1 :])
        equal = {r.inputs for r in self.result.runs if (r.probe, r.outcome) == (name, "equal")}
        self.result.agreed[name] = [variant for variant in made if variant.label in equal]
        self._close(probe, [text for text in skipped if text])

    def _repeats(
        self, values: Sequence[Variant], calls: int = _REPEATS, name: str = "repeats"
    ) -> None:
        probe = Probe(name)
        self.result.probes.append(probe)
        # What differs by its values alone says nothing of state.
        others = [v for v in values if v in self.result.agreed.get("values", values)]
        made = [variants.example(self.subject.example), *others[:2]]

        def task(emit: Emit) -> None:
            compare_repeats(self.subject, name, made, calls, emit)

        outcome = self._run(name, task)
        probe.seconds = outcome.seconds
        self._read(outcome.messages, probe)
        skipped = [outcome.failure] if outcome.failure and not probe.runs else []
        methods = self.subject.methods
        callable_ = callable_without_arguments(self.subject.module, methods)
        skipped += [f"method {name} takes arguments" for name in sorted({*methods} - {*callable_})]
        self._close(probe, skipped)

    def _run(self, name: str, task: Callable[[Emit], None]) -> isolation.Outcome:
        def on_message(message: Any) -> None:
            if isinstance(message, tuple) and message[0] == "start":
                self.on_run(name)

        # Seconds without an answer. A call may compile first, and it may count to a large number.
        budget_s = 10.0 + 100.0 * self.eager.seconds + (_LOAD_S if self.subject.served else 0.0)
        return isolation.run(task, budget_s=budget_s, on_message=on_message, fork=self.fork)

    def _read(self, messages: Sequence[Any], probe: Probe) -> tuple[int | None, bool]:
        """Take in messages; return the index of the last one begun, and whether it was answered."""
        begun, answered = None, False
        for message in messages:
            if isinstance(message, Compared):
                answered = True
                self._take(message, probe)
            elif message[0] in ("start", "load"):
                begun, answered = message[1], False
            elif message[0] == "place" and message[1] is not None:
                last = self.result.findings[-1]
                if last.file is None:
                    place(last, message[1])
            elif message[0] == "add":
                self.result.findings[-1].message += f"\n{message[1]}"
        return begun, answered

    def _take(self, compared: Compared, probe: Probe) -> None:
        run = compared.run
        self.result.runs.append(run)
        probe.runs += 1
        if run.max_abs_diff is not None:
            probe.max_abs_diff = max(probe.max_abs_diff or 0.0, run.max_abs_diff)
        if compared.output_shapes and run.probe in ("example", "sizes"):
            sizes = run.sizes or {dim.name: dim.example for dim in self.shapes.dims.values()}
            self.result.output_shapes.append((dict(sizes), compared.output_shapes))
        finding = compared.finding
        if finding is None:
            return
        same = [f for f in self.result.findings if (f.code, f.probe) == (finding.code, probe.name)]
        if same:
            same[0].more += 1
        else:
            self.result.findings.append(finding)

    def _unanswered(self, outcome: isolation.Outcome, name: str, label: str, probe: Probe) -> str:
        """Say which side did not answer; a finding where it was the exported model."""
        last = _last_word(outcome)
        loading = last == "load"
        who = "ts_infer.runtime" if self.subject.served else "the exported model"
        if last == "start" or not (loading or outcome.timed_out or outcome.crashed):
            return f"{label}: {'the module' if last == 'start' else who} gave {outcome.failure}"
        compared = Compared(Run(name, label, outcome="differs"))
        did = "it does not load in" if loading else f"on {label}: the module answers,"
        compared.finding = Finding(
            CODES[name],
            f"{did} {who}{':' if loading else ' gave'} {outcome.failure}",
            probe=name,
            inputs=label,
        )
        self._take(compared, probe)
        return ""

    def _close(self, probe: Probe, skipped: Sequence[str]) -> None:
        refused = [r for r in self.result.runs if r.probe == probe.name and r.outcome == "refused"]
        reasons = list(skipped)
        for who in ("the module", "the exported model"):
            its = [run for run in refused if run.refused_by == who]
            if its:
                reasons.append(f"{len(its)} refused by {who} ({its[0].inputs}: {its[0].reason})")
        probe.reason = "; ".join(reasons)
        if any(f.probe == probe.name for f in self.result.findings):
            probe.outcome = "found"
        elif not probe.runs or len(refused) == probe.runs:
            probe.outcome = "skipped"

    # Probes that read.

    def _scan(self) -> None:
        probe = Probe("graph")
        self.result.probes.append(probe)
        archive = self.subject.archive
        outcome = self._run("graph", lambda emit: emit(scan(jit_load(archive))))
        probe.seconds = outcome.seconds
        found = next((m for m in outcome.messages if isinstance(m, Scan)), None)
        if found is None:
            probe.outcome, probe.reason = "skipped", outcome.failure
            return
        self.result.exported = found
        self.result.findings += scan_findings(
            found, self.eager.used_arguments if self.traced else ()
        )
        self._close_reading(probe)

    def _meta(self) -> None:
        probe = Probe("meta")
        self.result.probes.append(probe)
        outcome = self._run("meta", lambda emit: emit(("meta", *runs_on_meta(self.subject))))
        probe.seconds = outcome.seconds
        answer = next((m for m in outcome.messages if m[0] == "meta"), None)
        if answer is None:
            probe.outcome, probe.reason = "skipped", outcome.failure
            return
        _, runs, reason = answer
        exported = self.result.exported
        if not runs and (exported is None or not exported.devices):
            # No operator names a device: state, or a number that torch keeps on the CPU.
            probe.outcome, probe.reason = "skipped", f"inconclusive there: {reason}"
            return
        if not runs:
            self.result.findings.append(
                Finding(
                    "device-baked",
                    f"the exported model does not follow its inputs to another device: {reason}",
                    probe="meta",
                )
            )
        elif reason:
            probe.outcome, probe.reason = "skipped", reason
            return
        self._close_reading(probe)

    def _close_reading(self, probe: Probe) -> None:
        probe.runs = 1
        if any(f.probe == probe.name for f in self.result.findings):
            probe.outcome = "found"


def _last_word(outcome: isolation.Outcome) -> str:
    """What a task that did not answer was about to do."""
    last = outcome.messages[-1]
    return "" if isinstance(last, Compared) else str(last[0])


def scan_findings(found: Scan, names: Sequence[str] = ()) -> list[Finding]:
    """Turn what a graph holds into findings.

    Args:
        found: What it holds.
        names: Arguments that the module's source uses; one that nothing in the graph uses was
            lost. Empty where the source is not known.
    """
    findings = []
    for node in found.train_flags:
        finding = Finding("train-flag", f"{node.operator} runs in training mode.", probe="graph")
        if node.statement is not None:
            place(finding, node.statement)
        findings.append(finding)
    for name in found.dead_inputs:
        if name in names:
            text = f"forward uses its argument {name}, but nothing in the exported graph does."
            findings.append(Finding("dead-input", text, probe="graph"))
    return findings


def eager_findings(eager: Eager, scripted: Collection[str]) -> tuple[list[Finding], list[str]]:
    """Turn what the module does into findings and notes.

    Args:
        eager: What it does.
        scripted: Paths of the submodules that were scripted, which keep their attributes; "" is
            the whole module.
    """
    findings = []
    notes = []
    for name in eager.mutated:
        finding = Finding("input-mutated", f"forward writes into its input {name}.", probe="module")
        if eager.mutated_at is not None:
            place(finding, eager.mutated_at)
        findings.append(finding)
    if eager.added:
        notes.append(
            f"forward puts {', '.join(eager.added)} into what it is given: callers of the export "
            "do not get that"
        )
    for source in eager.draws:
        if source == "torch":
            notes.append("the module draws random numbers: its outputs follow torch's seed")
        else:
            finding = Finding(
                "python-random",
                f"forward draws from {'NumPy' if source == 'numpy' else 'Python'}'s random "
                "numbers: an export keeps one draw.",
                probe="module",
            )
            if eager.draws_at is not None:
                place(finding, eager.draws_at)
            findings.append(finding)
    findings += [
        Finding(
            "python-state",
            f"calls change {state.name}, a plain Python value that the code reads: a trace keeps "
            "the value that it had.",
            file=state.file,
            line=state.line,
            source=state.source,
            probe="module",
        )
        for state in eager.python_state
        if state.owner is None or not _is_within(state.owner, scripted)
    ]
    if eager.caches and "" not in scripted:
        notes.append(
            f"kept from the first call, and constant in a trace: {', '.join(eager.caches)}"
        )
    return findings, notes


def _is_within(path: str, others: Collection[str]) -> bool:
    """Whether a submodule is one of some others, or inside of one."""
    return any(other in ("", path) or path.startswith(f"{other}.") for other in others)


def unforkable(module: torch.nn.Module, example: Example) -> str:
    """Say why probes cannot run in forks; empty where they can."""
    tensors = [t for _, t in tensors_of(example.values)]
    tensors += [*module.parameters(), *module.buffers()]
    if any(tensor.device.type not in ("cpu", "meta") for tensor in tensors):
        return "the module or its inputs are on an accelerator"
    scripted = (child for child in module.modules() if isinstance(child, torch.jit.ScriptModule))
    if isolation.serves_interop() and any(calls_fork(child) for child in scripted):
        return CALLS_FORK
    return ""

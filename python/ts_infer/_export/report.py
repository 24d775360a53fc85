"""What an export found and checked, as data, as text and as JSON. Needs no torch."""

from __future__ import annotations

import json
import math
import os
import textwrap
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_SCRIPT = 'script the part that holds it, as method="auto" does where it can'

# How deep the audit of an export goes, and that of an archive.
LEVELS: tuple[str, ...] = ("full", "fast", "off")
AUDIT_LEVELS = LEVELS[:2]

# What to do about each finding that `allow` can accept. The page findings.md tells more of each.
ALLOWABLE: dict[str, str] = {
    "tracer-warning": f"{_SCRIPT}, or allow it if this line has the same outcome for every input "
    "that the model will ever see.",
    "example-differs": "compare the two by hand: the export does not even compute the example.",
    "structure-differs": "return tensors in tuples, lists or dicts of one value type, wrap numbers "
    'in tensors, or use method="script".',
    "values-differ": f"look for an `if`, a loop or a number that depends on a tensor's values; "
    f"{_SCRIPT}.",
    "extremes-differ": f"look for a guard against NaN, infinity or zero; {_SCRIPT}; or allow it "
    "if such inputs never come.",
    "sizes-differ": f"look for a size that became a number (len, range, int, a list that is "
    f"unrolled); use tensor operators or {_SCRIPT}; or narrow the range in dynamic_shapes.",
    "ranks-differ": f"look for a branch on the number of dims; {_SCRIPT}; or allow it if the rank "
    "never changes: the runtime checks it.",
    "dtypes-differ": "look for a dtype that became a constant (torch.zeros without dtype=x.dtype, "
    f"a branch on the dtype); {_SCRIPT}; or allow it if the dtype never changes: the runtime "
    "checks it.",
    "lengths-differ": "a trace keeps the number of items that the example's lists and dicts had: "
    f"{_SCRIPT}; or allow it if their number never changes.",
    "state-lost": "keep state in registered buffers that are changed in place, or pass it in and "
    f"return it; {_SCRIPT}.",
    "check-lost": f"{_SCRIPT}, or allow it if the caller checks this before.",
    "graphs-differ": "look for what depends on the input but is recorded as a constant; "
    f"{_SCRIPT}.",
    "device-baked": "make tensors with device=x.device, or register them as buffers.",
    "train-flag": "call module.eval() before it is saved; in its code pass training=self.training, "
    "or use the module (nn.Dropout) instead of the function.",
    "input-mutated": "work on a copy (x = x.clone()), or use the operator that returns its result.",
    "dead-input": f"look for the line that takes Python values from this input; {_SCRIPT}; or "
    "allow it if the input is there for its looks only.",
    "python-state": "keep the state in a registered buffer, or pass it in and return it.",
    "python-random": "draw with torch (torch.rand, torch.randint), which an export keeps.",
    "runtime-differs": "this is a fault of ts_infer's runtime, not of the module, and the file is "
    "right in torch.jit.load: please report it. Until it is mended, load the file with the option "
    "that is named above, such as disabled_passes.",
}

# Findings that leave nothing to export, so that `allow` does not know them.
FATAL: tuple[str, ...] = (
    "train-mode",
    "name-unreadable",
    "eager-failed",
    "trace-failed",
    "script-failed",
    "freeze-failed",
    "method-lost",
    "example-unchecked",
)

# Findings that scripting the part in question may mend.
MENDED_BY_SCRIPT: frozenset[str] = frozenset(
    {
        "tracer-warning",
        "trace-failed",
        "example-differs",
        "structure-differs",
        "values-differ",
        "extremes-differ",
        "sizes-differ",
        "ranks-differ",
        "dtypes-differ",
        "lengths-differ",
        "state-lost",
        "check-lost",
        "graphs-differ",
        "dead-input",
        "python-state",
        "device-baked",
    }
)

# Findings about inputs that the runtime refuses, since the manifest declares others.
REFUSED_AT_RUN_TIME: frozenset[str] = frozenset({"ranks-differ", "dtypes-differ"})

FINDINGS_PAGE = str(Path(__file__).with_name("findings.md"))

_WIDTH = 96


@dataclass
class Finding:
    """One reason why the exported model may not be the module.

    Attributes:
        code: What kind it is; `allow` takes these codes.
        message: What happened, in one sentence or a few lines.
        advice: What to do about it.
        file: The user's Python file, where it is known.
        line: The line in `file`, counted from 1.
        source: The statement at that line, on one line.
        allowed: Whether `allow` accepted it.
        probe: The probe that found it.
        inputs: The inputs that show it; empty where it does not take any.
        max_abs_diff: Largest absolute difference of any output element, where outputs differ.
        more: On how many more inputs the probe found the same.
    """

    code: str
    message: str
    advice: str = ""
    file: str | None = None
    line: int | None = None
    source: str = ""
    allowed: bool = False
    probe: str = ""
    inputs: str = ""
    max_abs_diff: float | None = None
    more: int = 0

    def __post_init__(self) -> None:
        """Give the code's own advice where there is none."""
        self.advice = self.advice or ALLOWABLE.get(self.code, "")

    def __str__(self) -> str:
        """Return the finding as text: where, what, and what to do."""
        advice = self.advice
        if not advice or self.allowed:
            return self.headline()
        if self.code in ALLOWABLE:
            advice += f' allow=["{self.code}"] accepts it.'
        advice = textwrap.fill(
            f"What to do: {advice}",
            _WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )
        return f"{self.headline()}\n{advice}"

    def headline(self) -> str:
        """Return the finding as text without what to do."""
        where = f"{_short_path(self.file)}:{self.line}: " if self.file else ""
        source = f"`{self.source}` — " if self.source else ""
        first, *rest = self.message.splitlines() or [""]
        lines = [f"{self.code}{' (allowed)' if self.allowed else ''}: {where}{source}{first}"]
        if self.more:
            lines[0] += f" (and on {self.more} more)"
        lines += [f"    {line}" for line in rest]
        return "\n".join(lines)


@dataclass
class Run:
    """One comparison of the exported model with the module.

    Attributes:
        probe: The probe that made it.
        inputs: What was different from the example.
        sizes: The size of each dynamic dim by name; empty for the example's.
        calls: How many calls in a row were compared.
        max_abs_diff: Largest absolute difference of any output element; `inf` where one side
            is NaN or infinite and the other is not, None where nothing could be compared.
        outcome: `"equal"`, `"differs"` or `"refused"`.
        refused_by: `"the module"`, or `"the exported model"` where that is no loss.
        reason: Why it is refused.
    """

    probe: str
    inputs: str
    sizes: dict[str, int] = field(default_factory=dict)
    calls: int = 0
    max_abs_diff: float | None = None
    outcome: str = "equal"
    refused_by: str = ""
    reason: str = ""


@dataclass
class Probe:
    """What one probe of the audit did.

    Attributes:
        name: Its name.
        outcome: `"passed"`, `"found"` or `"skipped"`.
        runs: How many comparisons it made.
        max_abs_diff: Largest difference that it saw, where outputs were compared.
        reason: Why it was skipped, or what of it was left out.
        seconds: Wall time.
    """

    name: str
    outcome: str = "passed"
    runs: int = 0
    max_abs_diff: float | None = None
    reason: str = ""
    seconds: float = 0.0


@dataclass
class Scripted:
    """A part that was scripted, and why.

    Attributes:
        name: The path of a submodule, or a function's name.
        kind: `"module"` or `"function"`.
        reason: The finding that asked for it.
    """

    name: str
    kind: str
    reason: str


@dataclass
class Attempt:
    """One way that `method="auto"` tried.

    Attributes:
        method: `"trace"`, `"hybrid"` or `"script"`.
        scripted: The parts that were scripted.
        findings: Why it was not taken; empty for the one that was.
    """

    method: str
    scripted: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


@dataclass
class ExportReport:
    """The result of an export, or of the audit of an archive.

    Attributes:
        path: Where the archive was to be written.
        name: The model's name.
        method: How it was exported.
        audit: How deep the audit went: `"full"`, `"fast"` or `"off"`.
        findings: What may be wrong; the export fails unless each was allowed.
        notes: What is worth knowing and does not fail an export.
        probes: What the audit did, and what it skipped and why.
        runs: The comparisons of the exported model with the module.
        scripted: The parts that were scripted automatically, and why.
        attempts: The ways that were tried, where there was more than one.
        written: Whether the archive is at `path`.
        size_bytes: Size of the archive.
        sha256: SHA-256 of the archive, in hexadecimal; `ts_infer verify` prints it too.
        verb: `"export"`, or `"audit"` for an archive that was there before.

    Example:
        >>> report = ExportReport(path="gate.pt", name="gate", method="trace")
        >>> report.ok
        True
    """

    path: str
    name: str
    method: str
    audit: str = "full"
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    scripted: list[Scripted] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    written: bool = False
    size_bytes: int = 0
    sha256: str = ""
    verb: str = "export"

    @property
    def ok(self) -> bool:
        """Whether every finding was allowed."""
        return all(finding.allowed for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as what JSON can hold; infinite differences become None."""
        data: dict[str, Any] = finite({"schema": 1, "ok": self.ok, **asdict(self)})
        return data

    def to_json(self) -> str:
        """Return the report as a JSON document."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def __str__(self) -> str:
        """Return the report as text: findings first, then what was done and seen."""
        by = f" by {self.method}" if self.method else ""
        lines = [f"{self.verb} of {self.name}{by}: {self._verdict()}"]
        advised: set[Any] = set()
        for finding in self.findings:
            # What to do is said once for one line of code.
            place = (finding.file, finding.line) if finding.file else finding.code
            known = place in advised and finding.code in ALLOWABLE
            lines.append(textwrap.indent(finding.headline() if known else str(finding), "  "))
            advised.add(place)
        if self.findings:
            lines.append(f"  Each code is explained in {FINDINGS_PAGE}")
        if self.scripted and self.ok:
            lines += [
                "",
                "scripted, the rest is traced:" if self.method == "hybrid" else "scripted:",
            ]
            lines += [f"  {part.name}: {part.reason}" for part in self.scripted]
        if len(self.attempts) > 1:
            lines += ["", "tried:", *(f"  {_attempt_line(a)}" for a in self.attempts)]
        if self.probes:
            lines += ["", f"audit, {self.audit}:", *_table(self.probes)]
        if self.notes:
            lines += ["", "notes:", *(f"  - {note}" for note in self.notes)]
        if self.written:
            size = _human_size(self.size_bytes)
            lines += ["", f"written: {self.path} ({size}, SHA-256 {self.sha256[:16]}…)"]
        return "\n".join(lines)

    def _verdict(self) -> str:
        failed = sum(not finding.allowed for finding in self.findings)
        if failed:
            verdict = "refused, " if self.verb == "export" else ""
            return f"{verdict}{failed} finding{'s' if failed > 1 else ''}"
        if self.findings:
            return f"ok, {len(self.findings)} allowed"
        return "ok"


def _attempt_line(attempt: Attempt) -> str:
    parts = f" with {', '.join(attempt.scripted)} scripted" if attempt.scripted else ""
    codes = ", ".join(dict.fromkeys(finding.code for finding in attempt.findings))
    return f"{attempt.method}{parts}: {codes or 'taken'}"


def _table(probes: list[Probe]) -> list[str]:
    rows = [("probe", "outcome", "runs", "max abs diff", "time", "")]
    rows += [
        (
            probe.name,
            probe.outcome,
            str(probe.runs or "-"),
            "-" if probe.max_abs_diff is None else f"{probe.max_abs_diff:.3g}",
            f"{probe.seconds:.2f} s",
            textwrap.shorten(probe.reason, _WIDTH - 44, placeholder=" …"),
        )
        for probe in probes
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def finite(value: Any) -> Any:
    """Return what JSON can hold of a value: None for infinity and NaN."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short_path(path: str) -> str:
    try:
        relative = os.path.relpath(path)
    except ValueError:  # another drive
        return path
    return path if relative.startswith("..") else relative


def _human_size(size: int) -> str:
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e3:.1f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"

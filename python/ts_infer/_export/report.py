"""What an export found and checked, as data, as text and as JSON. Needs no torch."""

from __future__ import annotations

import json
import math
import os
import textwrap
from dataclasses import asdict, dataclass, field
from typing import Any

# What to do about each finding that `allow` can accept.
ALLOWABLE: dict[str, str] = {
    "tracer-warning": (
        'keep the control flow by scripting it (method="script", or @torch.jit.script on the '
        'function that holds it and method="hybrid"), or allow=["tracer-warning"] if this '
        "line has the same outcome for every input that the model will ever see."
    ),
    "output-differs": (
        "look for Python values that were baked in (sizes, loop counts, state in plain "
        'attributes) and script that part (method="script" or "hybrid"), or '
        'allow=["output-differs"] if the difference is acceptable.'
    ),
    "output-structure-differs": (
        "return tensors in tuples, lists or dicts of one value type, wrap numbers in tensors, "
        'or use method="script"; allow=["output-structure-differs"] accepts it as it is.'
    ),
    "exported-raises": (
        'a size was probably baked in: script that part (method="script" or "hybrid"), narrow '
        'the range in dynamic_shapes, or allow=["exported-raises"].'
    ),
    "exported-accepts": (
        "the check that raises was lost: narrow the range in dynamic_shapes to the sizes that "
        'the module accepts, script the check, or allow=["exported-accepts"].'
    ),
}

# Findings that leave nothing to export, so that `allow` does not know them.
FATAL: tuple[str, ...] = (
    "train-mode",
    "eager-failed",
    "trace-failed",
    "script-failed",
    "freeze-failed",
    "method-lost",
)

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
    """

    code: str
    message: str
    advice: str = ""
    file: str | None = None
    line: int | None = None
    source: str = ""
    allowed: bool = False

    def __str__(self) -> str:
        """Return the finding as text: where, what, and what to do."""
        if not self.advice or self.allowed:
            return self.headline()
        advice = textwrap.fill(
            f"What to do: {self.advice}", _WIDTH, initial_indent="  ", subsequent_indent="    "
        )
        return f"{self.headline()}\n{advice}"

    def headline(self) -> str:
        """Return the finding as text without what to do."""
        where = f"{_short_path(self.file)}:{self.line}: " if self.file else ""
        source = f"`{self.source}` — " if self.source else ""
        first, *rest = self.message.splitlines() or [""]
        lines = [f"{self.code}{' (allowed)' if self.allowed else ''}: {where}{source}{first}"]
        lines += [f"    {line}" for line in rest]
        return "\n".join(lines)


@dataclass
class Checked:
    """One comparison of the exported model with the module.

    Attributes:
        sizes: The size of each dynamic dim by name; empty for the example inputs.
        shapes: The shape of each tensor input by name.
        calls: How many calls in a row were compared, on one instance of each.
        max_abs_diff: Largest absolute difference of any output element; `inf` where one side
            is NaN or infinite and the other is not, None where nothing could be compared.
        outcome: `"equal"`, `"differs"` or `"refused"` (the module itself raises at this size).
    """

    sizes: dict[str, int]
    shapes: dict[str, list[int]]
    calls: int = 0
    max_abs_diff: float | None = None
    outcome: str = "equal"


@dataclass
class ExportReport:
    """The result of an export.

    Attributes:
        path: Where the archive was to be written.
        name: The model's name.
        method: How it was exported.
        findings: What may be wrong; the export fails unless each was allowed.
        notes: What is worth knowing and does not fail an export.
        checked: The sizes at which the exported model was compared with the module.
        written: Whether the archive is at `path`.
        size_bytes: Size of the archive.

    Example:
        >>> report = ExportReport(path="gate.pt", name="gate", method="trace")
        >>> report.ok
        True
    """

    path: str
    name: str
    method: str
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checked: list[Checked] = field(default_factory=list)
    written: bool = False
    size_bytes: int = 0

    @property
    def ok(self) -> bool:
        """Whether every finding was allowed."""
        return all(finding.allowed for finding in self.findings)

    def to_json(self) -> str:
        """Return the report as a JSON document; infinite differences become null."""
        data: dict[str, Any] = {"schema": 1, "ok": self.ok, **asdict(self)}
        for entry in data["checked"]:
            diff = entry["max_abs_diff"]
            if diff is not None and not math.isfinite(diff):
                entry["max_abs_diff"] = None
        return json.dumps(data, indent=2, ensure_ascii=False)

    def __str__(self) -> str:
        """Return the report as text: findings first, then the table of what was checked."""
        lines = [f"export of {self.name} by {self.method}: {self._verdict()}"]
        for i, finding in enumerate(self.findings):
            # What to do is said once for findings of one kind in a row.
            last = finding.advice not in [f.advice for f in self.findings[i + 1 : i + 2]]
            lines.append(textwrap.indent(str(finding) if last else finding.headline(), "  "))
        if self.checked:
            lines += ["", "checked, exported against eager:", *_table(self.checked)]
        if self.notes:
            lines += ["", "notes:", *(f"  - {note}" for note in self.notes)]
        if self.written:
            lines += ["", f"written: {self.path} ({_human_size(self.size_bytes)})"]
        return "\n".join(lines)

    def _verdict(self) -> str:
        failed = sum(not finding.allowed for finding in self.findings)
        if failed:
            return f"refused, {failed} finding{'s' if failed > 1 else ''}"
        if self.findings:
            return f"ok, {len(self.findings)} allowed"
        return "ok"


def _table(checked: list[Checked]) -> list[str]:
    rows = [("sizes", "inputs", "calls", "max abs diff", "outcome")]
    for entry in checked:
        sizes = ", ".join(f"{name}={size}" for name, size in entry.sizes.items()) or "example"
        shapes = ", ".join(
            f"{name} {'x'.join(map(str, shape)) or 'scalar'}"
            for name, shape in entry.shapes.items()
        )
        diff = "-" if entry.max_abs_diff is None else f"{entry.max_abs_diff:.3g}"
        shapes = textwrap.shorten(shapes, 60, placeholder=" …")
        rows.append((sizes, shapes, str(entry.calls or "-"), diff, entry.outcome))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


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

"""Exporting a module to one file, checked against the module; auditing a file.

exporter         `export`: the ways that are tried, and the file that is written
archive_audit    `audit`: an archive that was there before
package          `compile`: an AOTInductor package of an archive
audit            the probes, their order and budgets
differential     one comparison of module and export, and what it found
variants         the inputs that are compared on; `plain` has what is no tensor, `shapes` the
                 dynamic dims
isolation        the fork that a probe can be killed in
eager            what the module does by itself: state, random draws, inputs it changes
build, capture   tracing, scripting, freezing, saving; `conversions` watches the tracer
observe, scripting   what runs with which types; scripting the parts that a trace would lose
scan, devices    reading graphs; making them follow the inputs' device
locate, source   the Python statement behind a finding
manifest, golden, libraries   what lies beside the model in the archive
traced           the sizes that an archive of torch.jit.trace was traced with
options          what callers may ask for
report           findings, probes and their text; findings.md explains every code
"""

from ts_infer._export.archive_audit import audit
from ts_infer._export.exporter import export
from ts_infer._export.package import CompileReport, compile  # noqa: A004
from ts_infer._export.report import Attempt, ExportReport, Finding, Probe, Run, Scripted

__all__ = [
    "Attempt",
    "CompileReport",
    "ExportReport",
    "Finding",
    "Probe",
    "Run",
    "Scripted",
    "audit",
    "compile",
    "export",
]

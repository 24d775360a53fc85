"""Exporting a module to one file, checked against the module; auditing a file."""

from ts_infer._export.archive_audit import audit
from ts_infer._export.exporter import export
from ts_infer._export.report import Attempt, ExportReport, Finding, Probe, Run, Scripted

__all__ = [
    "Attempt",
    "ExportReport",
    "Finding",
    "Probe",
    "Run",
    "Scripted",
    "audit",
    "export",
]

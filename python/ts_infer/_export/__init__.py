"""Exporting a module to one file, checked against the module."""

from ts_infer._export.exporter import export
from ts_infer._export.report import Checked, ExportReport, Finding

__all__ = ["Checked", "ExportReport", "Finding", "export"]

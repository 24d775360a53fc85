"""Exceptions of ts_infer: one hierarchy for the exporter, the runtime and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ts_infer._export.package import CompileReport
    from ts_infer._export.report import ExportReport


class Error(RuntimeError):
    """Base of every exception that ts_infer raises."""


class ModelLoadError(Error):
    """A model is unreadable, damaged, refused or not supported here."""


class ModelNotFoundError(ModelLoadError, FileNotFoundError):
    """The path of a model does not exist."""

    def __str__(self) -> str:
        """Return the message alone, without the errno that `OSError` would put before it."""
        return str(self.args[0]) if self.args else ""


class InputError(Error, ValueError):
    """An input has the wrong count, name, dtype, shape or device."""


class ExecutionError(Error):
    """The model failed while it ran, or memory ran out."""


class ExportError(Error):
    """An export was refused: the exported model may not compute what the module computes.

    Attributes:
        report: What was found, and what was checked until then.
    """

    def __init__(self, message: str, report: ExportReport | None = None) -> None:
        """Create the error.

        Args:
            message: What failed and what to do.
            report: The audit's report.
        """
        super().__init__(message)
        self.report = report


class CompileError(ExportError):
    """A model cannot be compiled, or its package computes something else.

    Attributes:
        report: What was done and compared until then, and why there is no package.
    """

    report: CompileReport | None  # type: ignore[assignment]

    def __init__(self, message: str, report: CompileReport | None = None) -> None:
        """Create the error.

        Args:
            message: What failed and what to do.
            report: What there is of the compilation's report.
        """
        super().__init__(message)
        self.report = report

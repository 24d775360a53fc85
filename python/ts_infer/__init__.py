"""Export PyTorch modules and run them in C++, with latencies that can be promised.

``ts_infer.export`` writes a model file, ``ts_infer.audit`` looks at one, ``ts_infer.compile`` makes
an AOTInductor package of one, and ``ts_infer.runtime`` runs either. Importing this package does not
import torch: that happens on the first use of any of them.

Example:
    >>> import ts_infer
    >>> from ts_infer import runtime
    >>> report = ts_infer.export(module, example_inputs, "model.pt")  # doctest: +SKIP
    >>> outputs = runtime.load("model.pt")(*example_inputs)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ts_infer._compat import __version__, check_torch
from ts_infer._errors import (
    CompileError,
    Error,
    ExecutionError,
    ExportError,
    InputError,
    ModelLoadError,
    ModelNotFoundError,
)

if TYPE_CHECKING:
    from ts_infer import runtime
    from ts_infer._export.archive_audit import audit
    from ts_infer._export.exporter import export
    from ts_infer._export.package import CompileReport, compile  # noqa: A004
    from ts_infer._export.report import ExportReport

__all__ = [
    "CompileError",
    "CompileReport",
    "Error",
    "ExecutionError",
    "ExportError",
    "ExportReport",
    "InputError",
    "ModelLoadError",
    "ModelNotFoundError",
    "__version__",
    "audit",
    "compile",
    "export",
    "runtime",
]

check_torch()

_LAZY = dict.fromkeys(
    ("audit", "compile", "export", "CompileReport", "ExportReport"), "ts_infer._export"
)


def __getattr__(name: str) -> Any:
    if name == "runtime":
        return importlib.import_module("ts_infer.runtime")
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

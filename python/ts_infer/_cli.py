"""What the verbs in Python share: one map of errors to exit statuses, one header of their JSON."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts_infer._compat import TORCH_VERSION, __version__, torch_version
from ts_infer._errors import (
    Error,
    ExecutionError,
    ExportError,
    InputError,
    ModelLoadError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

AUDIT_FAILED = 6


class UsageError(Error):
    """An argument cannot be understood."""


_EXIT_CODES = (
    (UsageError, 2),
    (ModelLoadError, 3),
    (InputError, 4),
    (ExecutionError, 5),
    (MemoryError, 5),
    (ExportError, AUDIT_FAILED),
)

EXIT_STATUS = (
    "2 bad arguments, 3 a model that cannot be read or is refused, 4 a wrong input, 5 the model "
    "failed while it ran, 1 anything else"
)


def exit_code(error: Exception) -> int:
    """Return the exit status that stands for an error."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)


@contextlib.contextmanager
def naming(verb: str, subject: str) -> Iterator[None]:
    """Have every error say which verb could not do its work, and on what.

    Raises:
        Error: In place of an exception of another kind, but for those of Python's own memory.
    """
    try:
        yield
    except UsageError as error:
        raise UsageError(f"[{verb}] {subject}: {error}") from error
    except (Error, MemoryError):
        raise
    except Exception as error:
        message = str(error) or type(error).__name__
        if not message.startswith(f"[{verb}]"):
            message = f"[{verb}] {subject}: {type(error).__name__}: {message}"
        raise Error(message) from error


def write_json(path: str | None, command: str, document: Mapping[str, Any]) -> None:
    """Write a document to a file, or for "-" to stdout; None does nothing.

    It is led by what it depends on, as the binary's documents are: date, machine, versions,
    threads inside a call.

    Raises:
        Error: The file cannot be written.
    """
    if path is None:
        return
    text = json.dumps({**_header(command), **document}, indent=2, ensure_ascii=False)
    if path == "-":
        print(text)
        return
    try:
        Path(path).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise Error(
            f"[output] {path}: it cannot be written: {error.strerror}; check the folder and the "
            "space on the disk"
        ) from error


def _header(command: str) -> dict[str, Any]:
    import torch

    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "schema": 1,
        "command": command,
        "date": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": {
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "machine_cores": os.cpu_count() or 1,
            "cpu_quota": _cpu_quota(),
            "omp_num_threads": os.environ.get("OMP_NUM_THREADS") or None,
        },
        "versions": {
            "ts_infer": __version__,
            "torch": torch_version(),
            "built_with_torch": TORCH_VERSION,
        },
        "threads": torch.get_num_threads(),
    }


def _cpu_model() -> str:
    for place, key in (("/proc/cpuinfo", "model name"), ("/proc/device-tree/model", "")):
        with contextlib.suppress(OSError):
            for line in Path(place).read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith(key):
                    return line.partition(": ")[2] if key else line.rstrip("\0")
    return platform.machine() or "unknown"


def _cpu_quota() -> float | None:
    """Cores that the container may use; None: no limit."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        return int(quota) / int(period)  # "max" where there is none
    return None

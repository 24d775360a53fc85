"""Load TorchScript archives and run them on the compiled engine.

Example:
    >>> from ts_infer import runtime
    >>> model = runtime.load("densetnt.pt")
    >>> out = model(vector_data, vector_mask, traj_polyline_mask, map_polyline_mask)
    >>> print(model.stats().p50_ms)
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from ts_infer._loader import _C  # first: it says why the extension does not load

# isort: split
from ts_infer._C import (
    ArchiveInfo,
    Dim,
    LatencyStats,
    Model,
    ModelInfo,
    Signature,
    TensorSpec,
    Timing,
    available_devices,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ArchiveInfo",
    "Dim",
    "LatencyStats",
    "Model",
    "ModelInfo",
    "Signature",
    "TensorSpec",
    "Timing",
    "available_devices",
    "load",
    "read_model_info",
]

_logger = logging.getLogger("ts_infer")


class BinaryFile(Protocol):
    """A file opened for reading bytes."""

    def read(self) -> bytes: ...


Buffer: TypeAlias = bytes | bytearray | memoryview
Path: TypeAlias = str | os.PathLike[str] | os.PathLike[bytes]


def load(
    source: Path | Buffer | BinaryFile,
    *,
    device: str = "auto",
    executor: str = "legacy",
    optimize: bool = True,
    intra_op_threads: int = 0,
    name: str = "",
    on_timing: Callable[[Timing], object] | None = None,
    on_log: Callable[[int, str], object] | None = None,
) -> Model:
    """Load a TorchScript archive.

    Args:
        source: Path, contents (bytes are contents, never a path), or a file opened for reading
            bytes.
        device: "auto" (the accelerator when there is one, else the host), "cpu", "cuda", "cuda:1",
            "xpu", ...
        executor: "legacy" (torch's graph executor with executor mode off: it compiles once per
            combination of dtypes and ranks, not of sizes), "simple", "profiling" (torch's default)
            or "profiling-no-fusion". It holds for this model alone. Where it cannot serve, the
            next one down is taken; ``model.info()`` says which and why.
        optimize: Freeze, and run torch's optimisation passes where they pay.
        intra_op_threads: Threads inside an operator, set for each call and put back. 0: left alone.
        name: Name in logs and errors. Empty: the manifest's, else the file's.
        on_timing: Called after every call, on the thread that made it. What it raises goes to
            ``sys.unraisablehook``.
        on_log: Called with a level of the ``logging`` module and a message of the library or a
            warning of libtorch, on any thread. By default they go to
            ``logging.getLogger("ts_infer")``.

    Returns:
        The model, ready to run.

    Raises:
        ModelLoadError: The file is unreadable, damaged, refused, or needs what is not here. For a
            path that does not exist it is a FileNotFoundError too.

    Example:
        >>> model = runtime.load("model.pt", device="cpu")
        >>> model(torch.ones(1, 4))
    """
    options = _C.LoadOptions()
    options.device = device
    options.executor = executor
    options.optimize = optimize
    options.intra_op_threads = intra_op_threads
    options.name = name
    options.set_on_timing(on_timing)
    options.set_on_log(_logger.log if on_log is None else on_log)
    path, data = _split(source)
    return _C.load_file(path, options) if data is None else _C.load_bytes(data, options)


def read_model_info(source: Path | Buffer | BinaryFile) -> ArchiveInfo:
    """Read what a model file says of itself, and check its integrity; none of it is run.

    Args:
        source: Path, contents (bytes are contents, never a path), or a file opened for reading
            bytes.

    Returns:
        Name, signature, methods, operators, devices, sizes (bytes) and damaged members.

    Raises:
        ModelLoadError: It is no TorchScript archive.

    Example:
        >>> runtime.read_model_info("model.pt").operators
        ['torch.add', 'torch.linear']
    """
    path, data = _split(source)
    return _C.read_file(path) if data is None else _C.read_bytes(data)


def _split(source: Path | Buffer | BinaryFile) -> tuple[bytes, Buffer | None]:
    """The path as the file system has it, or the contents."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return b"", source
    if hasattr(source, "read"):
        return b"", cast("BinaryFile", source).read()
    return os.fsencode(source), None

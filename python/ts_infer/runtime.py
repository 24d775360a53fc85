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
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar, cast

from ts_infer._loader import _C  # first: it says why the extension does not load

# isort: split
from ts_infer._C import (
    ArchiveInfo,
    ArchiveLimits,
    Audit,
    AuditProbe,
    Dim,
    LatencyStats,
    LoadStep,
    Model,
    ModelInfo,
    NeededLibrary,
    OutputCheck,
    ScriptedPart,
    Signature,
    TensorSpec,
    Timing,
    VerifyReport,
    available_devices,
    executors,
    passes,
    restricted_operators,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = [
    "ArchiveInfo",
    "ArchiveLimits",
    "Audit",
    "AuditProbe",
    "Dim",
    "LatencyStats",
    "LoadStep",
    "Model",
    "ModelInfo",
    "NeededLibrary",
    "OutputCheck",
    "ScriptedPart",
    "Signature",
    "TensorSpec",
    "Timing",
    "VerifyReport",
    "available_devices",
    "executors",
    "load",
    "passes",
    "read_model_info",
    "restricted_operators",
    "verify",
]

_logger = logging.getLogger("ts_infer")


class BinaryFile(Protocol):
    """A file opened for reading bytes."""

    def read(self) -> bytes: ...


Buffer: TypeAlias = bytes | bytearray | memoryview
_T = TypeVar("_T")
_LIMITS = ArchiveLimits()
Path: TypeAlias = str | os.PathLike[str] | os.PathLike[bytes]


def load(
    source: Path | Buffer | BinaryFile,
    *,
    device: str = "auto",
    executor: str = "prepared",
    optimize: bool = True,
    disabled_passes: Iterable[str] = (),
    precision: str = "fp32",
    intra_op_threads: int = 0,
    warmup: str = "fast",
    warmup_budget_s: float = 10,
    warmup_bytes: int = 2**30,
    warmup_shapes: Iterable[Mapping[str, Sequence[int]]] = (),
    verify: bool = False,
    reuse_memory: bool = True,
    map_weights: bool = True,
    graphs: bool = False,
    limits: ArchiveLimits = _LIMITS,
    allow_operators: Iterable[str] = (),
    libraries: Iterable[Path] = (),
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
        executor: "prepared" (inlined and compiled in load and run directly: no call compiles),
            "legacy" (torch's graph executor with executor mode off: it compiles once per
            combination of dtypes and ranks, not of sizes), "simple", "profiling" (torch's default)
            or "profiling-no-fusion". It holds for this model alone. Where it cannot serve, the
            next one down is taken; ``model.info()`` says which and why.
        optimize: Run ``passes()`` over the model, each where it pays.
        disabled_passes: Names out of ``passes()`` that are left out. All but the first two belong
            to the executor "prepared".
        precision: What products are computed in: "fp32", "bf16" or "fp16"; all else stays float32.
            On the host "bf16" is for linears and convolutions with an even number of inputs, or
            convolutions of few, on processors with AVX512_BF16, and what only such convolutions
            read or add is kept in it too. Where it cannot be had, products stay in float32:
            ``model.info()`` says which precision serves and why, and as ``precision_error`` how far
            its outputs are from the golden sample's.
        intra_op_threads: Threads inside an operator, set for each call and put back. 0: left alone.
        warmup: What is run now so that no later call is the slow one. "fast": each of
            ``warmup_shapes``, the largest twice, the last until its time falls no more. "full":
            each until its time falls no more, and sizes between them. "off": nothing. Inputs take
            their values from the golden sample where the archive has one, else they are random. A
            model with state runs on a copy of it. Nothing is run, and ``model.info()`` says so,
            where no sizes are known.
        warmup_budget_s: Seconds after which no further warm-up call is started; ``on_log`` then
            says what was left out.
        warmup_bytes: Bytes of the inputs of a warm-up call. Sizes that take more are not run;
            ``on_log`` says which.
        warmup_shapes: Sizes to warm up, `[{"x": [8, 3]}]`. Empty: the archive's own.
        verify: Make the calls of the golden sample, which ``ts_infer.export`` put into the file, on
            a copy of the state, and hold their outputs against it as ``ts_infer.runtime.verify``
            does. Where one differs, or the file has no golden sample, it is a ModelLoadError.
        reuse_memory: On the host, keep the large buffers of a call for the next one.
        map_weights: On the host, use the weights of a file where it is mapped, and copy none.
            Processes and models share its pages; one that a model writes to becomes its own. While
            the model lives, do not overwrite or truncate the file in place: replace it by a rename.
        graphs: On an accelerator, record forward at each size of the warm-up and replay the
            recording where a call has just these sizes (CUDA graphs).
        limits: Of the file: its size, its members, what they unpack to, and how deep its code
            nests. One that asks for more is refused.
        allow_operators: Names out of ``restricted_operators()`` that the model's code may use. The
            others refuse it: they read or write files, or talk to other processes, in ``load``
            already. This is no sandbox: load files of people you trust.
        libraries: Shared libraries that register operators and classes of the model's own; loaded
            before it, once, and never unloaded. ``read_model_info(source).libraries`` says which
            ones a model needs.
        name: Name in logs and errors. Empty: the manifest's, else the file's.
        on_timing: Called after every call, on the thread that made it. What it raises goes to
            ``sys.unraisablehook``.
        on_log: Called with a level of the ``logging`` module and a message of the library, a
            warning of libtorch or, as a warning too, what the model's code printed in a call, on
            any thread. By default they go to ``logging.getLogger("ts_infer")``.

    Returns:
        The model, ready to run.

    Raises:
        ModelLoadError: The file is unreadable, damaged, refused, or needs what is not here. For a
            path that does not exist it is a FileNotFoundError too.

    Example:
        >>> model = runtime.load("model.pt", device="cpu")
        >>> model(torch.ones(1, 4))
    """
    options = _options(
        device, executor, optimize, disabled_passes, precision, intra_op_threads, libraries
    )
    options.limits = _limits(limits)
    options.allow_operators = _several("allow_operators", allow_operators)
    options.warmup = warmup
    options.warmup_budget_s = warmup_budget_s
    options.warmup_bytes = warmup_bytes
    options.warmup_shapes = [
        {name: list(shape) for name, shape in shapes.items()} for shapes in warmup_shapes
    ]
    options.verify = verify
    options.reuse_memory = reuse_memory
    options.map_weights = map_weights
    options.graphs = graphs
    options.name = name
    options.set_on_timing(on_timing)
    options.set_on_log(_logger.log if on_log is None else on_log)
    path, data = _split(source)
    return _C.load_file(path, options) if data is None else _C.load_bytes(data, options)


def read_model_info(
    source: Path | Buffer | BinaryFile, *, limits: ArchiveLimits = _LIMITS
) -> ArchiveInfo:
    """Read what a model file says of itself, and check its integrity; none of it is run.

    Args:
        source: Path, contents (bytes are contents, never a path), or a file opened for reading
            bytes.
        limits: As in ``load``.

    Returns:
        Name, signature, methods, operators, devices, sizes (bytes) and damaged members.

    Raises:
        ModelLoadError: It is no TorchScript archive.

    Example:
        >>> runtime.read_model_info("model.pt").operators
        ['torch.add', 'torch.linear']
    """
    path, data = _split(source)
    limits = _limits(limits)
    return _C.read_file(path, limits) if data is None else _C.read_bytes(data, limits)


def verify(
    source: Path | Buffer | BinaryFile,
    *,
    device: str = "auto",
    executor: str = "prepared",
    optimize: bool = True,
    disabled_passes: Iterable[str] = (),
    precision: str = "fp32",
    intra_op_threads: int = 0,
    libraries: Iterable[Path] = (),
    limits: ArchiveLimits = _LIMITS,
    allow_operators: Iterable[str] = (),
    sha256: str = "",
) -> VerifyReport:
    """Check a file, and that it computes here what the module computed where it was exported.

    Every member's CRC-32 is checked, then the calls of the golden sample, which
    ``ts_infer.export`` put into the file, are made one after another on a freshly loaded model.
    ``ts_infer verify`` does the same with no Python.

    Args:
        source: Path, contents (bytes are contents, never a path), or a file opened for reading
            bytes.
        device: As in ``load``; so are the next eight.
        executor: See ``load``.
        optimize: See ``load``.
        disabled_passes: See ``load``.
        precision: See ``load``.
        intra_op_threads: See ``load``.
        libraries: See ``load``.
        limits: See ``load``.
        allow_operators: See ``load``.
        sha256: What the file's SHA-256 must be, hexadecimal. Empty: any. Nothing of another file
            is run.

    Returns:
        What was found; ``ok`` says whether every output is within the tolerance.

    Raises:
        ModelLoadError: The file is damaged, is another one, or has no golden sample.
        ExecutionError: A call failed.

    Example:
        >>> runtime.verify("model.pt", device="cpu").ok
        True
    """
    options = _options(
        device, executor, optimize, disabled_passes, precision, intra_op_threads, libraries
    )
    options.limits = _limits(limits)
    options.allow_operators = _several("allow_operators", allow_operators)
    options.set_on_log(_logger.log)
    path, data = _split(source)
    if data is None:
        return _C.verify_file(path, options, sha256)
    return _C.verify_bytes(data, options, sha256)


def _options(
    device: str,
    executor: str,
    optimize: bool,
    disabled_passes: Iterable[str],
    precision: str,
    intra_op_threads: int,
    libraries: Iterable[Path],
) -> _C.LoadOptions:
    options = _C.LoadOptions()
    options.device = device
    options.executor = executor
    options.optimize = optimize
    options.disabled_passes = _several("disabled_passes", disabled_passes)
    options.precision = precision
    options.intra_op_threads = intra_op_threads
    options.set_libraries([os.fsencode(library) for library in _several("libraries", libraries)])
    return options


def _several(argument: str, values: Iterable[_T]) -> list[_T]:
    if isinstance(values, (str, bytes, os.PathLike)):
        raise TypeError(f"{argument}: expected several, got {values!r}; put it into a list")
    return list(values)


def _limits(limits: ArchiveLimits) -> ArchiveLimits:
    if isinstance(limits, ArchiveLimits):
        return limits
    raise TypeError(
        "limits: expected an ArchiveLimits, such as runtime.ArchiveLimits(file_bytes=2**30), got "
        f"{limits!r}"
    )


def _split(source: Path | Buffer | BinaryFile) -> tuple[bytes, Buffer | None]:
    """The path as the file system has it, or the contents."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return b"", source
    if hasattr(source, "read"):
        return b"", cast("BinaryFile", source).read()
    return os.fsencode(source), None

# Written by python/bindings/write_stubs.py.
# ruff: noqa: N999
"""Compiled half of ts_infer; ts_infer.runtime is its public door."""

from __future__ import annotations

import collections.abc
import typing

import torch

__all__: list[str] = [
    "ArchiveInfo",
    "ArchiveLimits",
    "Audit",
    "AuditProbe",
    "Dim",
    "LatencyStats",
    "LoadOptions",
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
    "built_with_torch",
    "executors",
    "load_bytes",
    "load_file",
    "loaded_torch",
    "passes",
    "read_bytes",
    "read_file",
    "restricted_operators",
    "verify_bytes",
    "verify_file",
    "version",
]

class Dim:
    """One dimension of a declared shape: a fixed size, a named range, or unknown."""
    def __repr__(self) -> str: ...
    def __str__(self) -> str: ...
    @property
    def factor(self) -> int:
        """Sizes are factor * value + offset."""
    @property
    def is_static(self) -> bool:
        """Whether only one size is allowed."""
    @property
    def max(self) -> int | None:
        """Largest size; None where there is no bound."""
    @property
    def min(self) -> int | None:
        """Smallest size; None where it is not checked."""
    @property
    def name(self) -> str:
        """Of a dynamic dimension, else empty; equal names mean one value."""
    @property
    def offset(self) -> int: ...

class TensorSpec:
    """One argument or result of a model, or a leaf of an argument."""
    def __repr__(self) -> str: ...
    def __str__(self) -> str: ...
    @property
    def any_keys(self) -> bool:
        """Whether its dicts may have more and fewer keys."""
    @property
    def any_length(self) -> bool:
        """Whether its lists may have more and fewer elements than there are leaves."""
    @property
    def dtype(self) -> torch.dtype | None:
        """Of a Tensor; None: unknown, not checked."""
    @property
    def has_default(self) -> bool:
        """Whether it may be left out."""
    @property
    def leaves(self) -> list[TensorSpec]:
        """Of an argument that is a list, tuple or dict: what it is made of, depth-first.

        A leaf's name is its path: "sensors.imu", "clips[0]". Empty: unknown, not checked.
        """
    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> list[Dim] | None:
        """Of a Tensor, one Dim an axis; None: rank unknown, not checked."""
    @property
    def type(self) -> str:
        """In TorchScript: "Tensor", "List[Tensor]", "int", ..."""

class Signature:
    """What a model takes and returns.

    Outputs are flattened depth-first, dict entries in insertion order. Without a manifest in the
    archive, dtypes and shapes are unknown. ``str(signature)`` has one line an entry and a leaf.
    """
    def __repr__(self) -> str: ...
    def __str__(self) -> str: ...
    @property
    def inputs(self) -> list[TensorSpec]: ...
    @property
    def outputs(self) -> list[TensorSpec]: ...

class Timing:
    """Where the time of one call went, in milliseconds.

    On the host ``h2d_ms`` and ``d2h_ms`` are 0. For inputs that are on the device already nothing
    is waited for, so only ``total_ms``, the time to enqueue, is known there.
    """
    def __repr__(self) -> str: ...
    def log_line(self) -> str:
        """Such as "dense_tnt inference used time: 22.1718 ms.", one line."""
    @property
    def call(self) -> int:
        """1 is the first call after load."""
    @property
    def compute_ms(self) -> float: ...
    @property
    def d2h_ms(self) -> float:
        """Copying outputs, device to host."""
    @property
    def h2d_ms(self) -> float:
        """Copying inputs, host to device."""
    @property
    def model(self) -> str:
        """Name of the model."""
    @property
    def total_ms(self) -> float:
        """The whole call, checks and copies included."""

class LoadStep:
    """One step of a load.

    ``name`` is "read" (the file's directory and manifest), "integrity" (every CRC-32), "libraries",
    "deserialise" (weights and code, onto the device), "optimise", "prepare" (what runs it), or
    "warm-up", one for each size.
    """
    def __repr__(self) -> str: ...
    @property
    def calls_ms(self) -> list[float]:
        """Of a warm-up: the time of each call."""
    @property
    def ms(self) -> float: ...
    @property
    def name(self) -> str: ...
    @property
    def shapes(self) -> dict[str, list[int]]:
        """Of a warm-up: the inputs' shapes, by name."""

class LatencyStats:
    """Latency of the calls so far, in milliseconds.

    Percentiles have a resolution of 1.6 %; ``count``, ``mean_ms``, ``max_ms`` and ``first_ms`` are
    exact. ``h2d_ms``, ``compute_ms`` and ``d2h_ms`` are means.
    """
    def __repr__(self) -> str: ...
    @property
    def compute_ms(self) -> float: ...
    @property
    def count(self) -> int: ...
    @property
    def d2h_ms(self) -> float: ...
    @property
    def first_ms(self) -> float:
        """The first call after load, or after reset_stats()."""
    @property
    def h2d_ms(self) -> float: ...
    @property
    def max_ms(self) -> float: ...
    @property
    def mean_ms(self) -> float: ...
    @property
    def p50_ms(self) -> float: ...
    @property
    def p90_ms(self) -> float: ...
    @property
    def p99_ms(self) -> float: ...

class ArchiveLimits:
    """What a file may ask for before ``load`` refuses it.

    ``file_bytes``; ``members``, files in the archive; ``unpacked_bytes`` of its
    compressed members, together; ``nesting`` of blocks, brackets and operators in its code,
    and of values.
    """
    def __init__(
        self,
        *,
        file_bytes: typing.SupportsInt | typing.SupportsIndex = 68719476736,
        members: typing.SupportsInt | typing.SupportsIndex = 100000,
        unpacked_bytes: typing.SupportsInt | typing.SupportsIndex = 1073741824,
        nesting: typing.SupportsInt | typing.SupportsIndex = 1000,
    ) -> None: ...
    def __repr__(self) -> str: ...
    @property
    def file_bytes(self) -> int: ...
    @property
    def members(self) -> int: ...
    @property
    def nesting(self) -> int: ...
    @property
    def unpacked_bytes(self) -> int: ...

class LoadOptions:
    """Arguments of ts_infer.runtime.load."""

    device: str
    executor: str
    graphs: bool
    limits: ArchiveLimits
    map_weights: bool
    name: str
    optimize: bool
    precision: str
    reuse_memory: bool
    verify: bool
    warmup: str
    def __init__(self) -> None: ...
    def set_libraries(self, paths: collections.abc.Sequence[bytes]) -> None: ...
    def set_on_log(
        self, function: collections.abc.Callable[[int, str], typing.Any] | None
    ) -> None: ...
    def set_on_timing(
        self, function: collections.abc.Callable[[Timing], typing.Any] | None
    ) -> None: ...
    @property
    def allow_operators(self) -> list[str]: ...
    @allow_operators.setter
    def allow_operators(self, arg0: collections.abc.Sequence[str]) -> None: ...
    @property
    def disabled_passes(self) -> list[str]: ...
    @disabled_passes.setter
    def disabled_passes(self, arg0: collections.abc.Sequence[str]) -> None: ...
    @property
    def intra_op_threads(self) -> int: ...
    @intra_op_threads.setter
    def intra_op_threads(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def warmup_budget_s(self) -> float: ...
    @warmup_budget_s.setter
    def warmup_budget_s(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def warmup_bytes(self) -> int: ...
    @warmup_bytes.setter
    def warmup_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def warmup_shapes(self) -> list[dict[str, list[int]]]: ...
    @warmup_shapes.setter
    def warmup_shapes(
        self,
        arg0: collections.abc.Sequence[
            collections.abc.Mapping[
                str, collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]
            ]
        ],
    ) -> None: ...

class ModelInfo:
    """What load() decided and found."""
    def __repr__(self) -> str: ...
    @property
    def decisions(self) -> list[str]:
        """What was chosen and why, one sentence each."""
    @property
    def device(self) -> str: ...
    @property
    def executor(self) -> str: ...
    @property
    def grad(self) -> bool:
        """Whether its code asks for gradients: calls run in grad mode."""
    @property
    def load_ms(self) -> float: ...
    @property
    def load_steps(self) -> list[LoadStep]:
        """What load_ms is made of, in order."""
    @property
    def name(self) -> str: ...
    @property
    def optimized(self) -> bool: ...
    @property
    def path(self) -> str:
        """Empty when loaded from memory."""
    @property
    def precision(self) -> str:
        """Of products: fp32, bf16 or fp16."""
    @property
    def precision_error(self) -> float | None:
        """Of bf16 and fp16, where there is a golden sample: how far outputs are off.

        The largest difference from its float outputs, divided by the largest magnitude of that
        output.
        """
    @property
    def reserved_bytes(self) -> int:
        """Bytes that torch's allocator holds of a device; on the host, that are kept."""
    @property
    def stateful(self) -> bool:
        """Whether calls take turns; clone() gives another model its own state."""

class NeededLibrary:
    """A shared library that a model needs, and what it registers."""
    def __repr__(self) -> str: ...
    @property
    def classes(self) -> list[str]: ...
    @property
    def file(self) -> str:
        """Name without folder; empty: unknown."""
    @property
    def operators(self) -> list[str]: ...

class ScriptedPart:
    """A part that the export compiled from its source instead of tracing it."""
    def __repr__(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def reason(self) -> str: ...

class AuditProbe:
    """What one probe of the export's audit did."""
    def __repr__(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def outcome(self) -> str:
        """One of "passed", "found", "skipped"."""
    @property
    def reason(self) -> str:
        """Of a skipped one."""
    @property
    def runs(self) -> int: ...

class Audit:
    """How the export compared the model with the module."""
    def __repr__(self) -> str: ...
    @property
    def allowed(self) -> list[str]:
        """Codes of findings that were accepted."""
    @property
    def level(self) -> str:
        """One of "full", "fast", "off"."""
    @property
    def probes(self) -> list[AuditProbe]: ...

class ArchiveInfo:
    """What a model file says of itself; nothing of it was run."""
    def __repr__(self) -> str: ...
    @property
    def audit(self) -> Audit | None:
        """None: not recorded."""
    @property
    def code(self) -> dict[str, str]:
        """TorchScript source by its path in the archive; a package has none."""
    @property
    def damaged(self) -> list[str]:
        """Members whose CRC-32 does not match."""
    @property
    def devices(self) -> list[str]:
        """Named in the code or the constants, sorted."""
    @property
    def file_bytes(self) -> int: ...
    @property
    def golden_calls(self) -> int:
        """Calls that ``ts_infer.runtime.verify`` makes; 0: no golden sample."""
    @property
    def libraries(self) -> list[NeededLibrary]:
        """What ``libraries`` of ``ts_infer.runtime.load`` must have."""
    @property
    def manifest_json(self) -> str:
        """Empty where there is none."""
    @property
    def members(self) -> int:
        """Number of files in the archive."""
    @property
    def method(self) -> str:
        """How it was exported: "trace", "script", "hybrid"; empty: unknown."""
    @property
    def methods(self) -> list[str]: ...
    @property
    def name(self) -> str:
        """From the manifest, else the archive's own."""
    @property
    def operators(self) -> list[str]:
        """Such as "torch.conv2d" and "ops.mine.op", sorted."""
    @property
    def path(self) -> str:
        """Empty when read from memory."""
    @property
    def restricted_operators(self) -> list[str]:
        """That ``load`` refuses unless they are allowed."""
    @property
    def scripted(self) -> list[ScriptedPart]:
        """Parts that the export did not trace."""
    @property
    def signature(self) -> Signature | None:
        """None: the archive has no manifest."""
    @property
    def state(self) -> list[str]:
        """Paths of the attributes that calls change."""
    @property
    def torch_version(self) -> str:
        """Of the torch that exported it; empty: unknown."""
    @property
    def warmup_shapes(self) -> list[dict[str, list[int]]]:
        """Sizes by input name."""
    @property
    def weight_bytes(self) -> int: ...

class Model:
    """A loaded model; ``ts_infer.runtime.load`` makes one.

    Every method is safe from any number of threads at once.
    """
    def __call__(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        """Run the model.

        Arguments go by position or by name, nested as the signature says. A ``torch.Tensor``, a
        numpy array or any object with ``__dlpack__`` is taken where a tensor is expected; memory
        is shared where it can be. Nothing is cast. The GIL is released while the model computes,
        and any number of threads may call at once; the calls of a stateful model take turns.

        Returns:
            What ``torch.jit.load(path)(...)`` would: torch tensors, nested the same way. They
            belong to the caller and never alias the model's memory.

        Raises:
            InputError: An argument has the wrong count, name, type, dtype, shape or device.
            ExecutionError: The model failed while it ran, or memory ran out.

        Example:
            >>> model = runtime.load("densetnt.pt")
            >>> out = model(*inputs)
        """
    def __repr__(self) -> str: ...
    def call_within(
        self,
        arg0: typing.SupportsFloat | typing.SupportsIndex,
        *args: typing.Any,
        **kwargs: typing.Any,
    ) -> typing.Any:
        """Run the model, and stop waiting after so many milliseconds.

        The deadline, above 0, comes first; the other arguments, the result and the errors are
        those of a call. The call runs on a thread of the model's own, on copies of the inputs,
        which are on the host. The first such call starts the thread; the time counts from when
        it is there. Nothing can stop what runs: past the deadline it goes on in the background
        and its outputs are dropped. The next call of a stateful model waits for it, and so does
        the model's destruction.

        Raises:
            InputError: An argument is wrong, the deadline too.
            ExecutionError: The model failed, or there was no result by the deadline; it says what
                happened.

        Example:
            >>> out = model.call_within(20, *inputs)
        """
    def clone(self) -> Model:
        """Another model that shares the weights, with its own copy of the state and no stats."""
    def forward(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        """Run the model.

        Arguments go by position or by name, nested as the signature says. A ``torch.Tensor``, a
        numpy array or any object with ``__dlpack__`` is taken where a tensor is expected; memory
        is shared where it can be. Nothing is cast. The GIL is released while the model computes,
        and any number of threads may call at once; the calls of a stateful model take turns.

        Returns:
            What ``torch.jit.load(path)(...)`` would: torch tensors, nested the same way. They
            belong to the caller and never alias the model's memory.

        Raises:
            InputError: An argument has the wrong count, name, type, dtype, shape or device.
            ExecutionError: The model failed while it ran, or memory ran out.

        Example:
            >>> model = runtime.load("densetnt.pt")
            >>> out = model(*inputs)
        """
    def info(self) -> ModelInfo:
        """What load() decided and found."""
    def method_names(self) -> list[str]:
        """Includes "forward" where there is one."""
    def reset_stats(self) -> None:
        """Forget all calls so far."""
    def run_method(self, arg0: str, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        """Run another method, whose name comes first.

        The other arguments, the result and the errors are those of a call; it does not count in the
        stats.

        Raises:
            InputError: There is no such method, or an argument is wrong.
            ExecutionError: The method failed while it ran, or memory ran out.

        Example:
            >>> model.run_method("reset_states")
        """
    def stats(self) -> LatencyStats:
        """Latency of the calls since load or reset_stats()."""
    def warm_up_this_thread(self) -> None:
        """Do on the calling thread what ``load`` did on its own, at the same sizes.

        For a thread that is to make calls, before its first one: what is kept per thread, such as
        the pool of intra-op threads, is then there. The calls do not count in the stats.

        Raises:
            ExecutionError: The model failed, or memory ran out.
        """
    @property
    def signature(self) -> Signature:
        """What a call takes and returns."""

class OutputCheck:
    """One output of one golden call, beside what the module returned where it was exported."""
    def __repr__(self) -> str: ...
    @property
    def allowed(self) -> float:
        """There: ``atol + rtol * |expected|``."""
    @property
    def call(self) -> int:
        """1 is the first."""
    @property
    def difference(self) -> str:
        """Empty when ok, else such as "at [0, 3]: expected 1.5, got 2.5"."""
    @property
    def max_abs_diff(self) -> float | None:
        """The largest ``|expected - actual|``; None where there is nothing to subtract."""
    @property
    def ok(self) -> bool: ...
    @property
    def output(self) -> str:
        """Its name in the signature, else "output_0", ..."""

class VerifyReport:
    """What ts_infer.runtime.verify found."""
    def __repr__(self) -> str: ...
    @property
    def calls(self) -> int: ...
    @property
    def file_bytes(self) -> int: ...
    @property
    def members(self) -> int:
        """Number of files in the archive; the CRC-32 of each was right."""
    @property
    def model(self) -> ModelInfo: ...
    @property
    def ok(self) -> bool:
        """Whether every output of every call is within the tolerance."""
    @property
    def outputs(self) -> list[OutputCheck]:
        """Call by call."""
    @property
    def sha256(self) -> str:
        """Of the file, 64 hexadecimal digits."""

def available_devices() -> list[str]:
    """The devices that this process can use: "cpu", "cuda:0", ..."""

def built_with_torch() -> str:
    """Version of torch that the library was built with, such as "2.13.0"."""

def executors() -> list[str]:
    """Values of ``executor`` of ``ts_infer.runtime.load``."""

def load_bytes(data: bytes | bytearray | memoryview, options: LoadOptions) -> Model: ...
def load_file(path: bytes, options: LoadOptions) -> Model: ...
def loaded_torch() -> str:
    """Version of the libtorch that this process has loaded, such as "2.13.0+cpu"."""

def passes() -> list[str]:
    """Values of ``disabled_passes`` of ``ts_infer.runtime.load``."""

def read_bytes(data: bytes | bytearray | memoryview, limits: ArchiveLimits) -> ArchiveInfo: ...
def read_file(path: bytes, limits: ArchiveLimits) -> ArchiveInfo: ...
def restricted_operators() -> list[str]:
    """Operators that reach beyond the model, which ``ts_infer.runtime.load`` refuses.

    A name that ends in ``::`` is a namespace of them.
    """

def verify_bytes(
    data: bytes | bytearray | memoryview, options: LoadOptions, sha256: str
) -> VerifyReport: ...
def verify_file(path: bytes, options: LoadOptions, sha256: str) -> VerifyReport: ...
def version() -> str:
    """Version of the compiled library, such as "0.1.0"."""

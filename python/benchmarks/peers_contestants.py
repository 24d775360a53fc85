"""The contestants of peers.py: what each needs, which files are made for it, and how it loads them.

Nothing here imports torch or a peer before it is needed: a contestant's process imports what that
contestant needs and no more.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

SIZE = 2048  # of the matrices that the peak is measured with
PEAK = "peak"
PEAK_FLOPS = 2 * SIZE**3  # of one call


@dataclass(frozen=True)
class Loaded:
    """A model that is ready for calls.

    Attributes:
        call: One call.
        inputs: The arguments of each call, as it wants them.
        context: What the calls are made in, on each thread.
        repeat: Calls with each of the inputs in turn, so many times over, without Python.
    """

    call: Callable[..., Any]
    inputs: list[tuple[Any, ...]]
    context: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    repeat: Callable[[int], None] | None = None


@dataclass(frozen=True)
class Job:
    """What a contestant loads.

    Attributes:
        folder: Where the artefacts are.
        arrays: The arguments of each call; an array without axes is a Python integer.
        threads: Intra-op threads.
    """

    folder: Path
    arrays: list[list[NDArray[Any]]]
    threads: int

    def path(self, artefact: str) -> Path:
        """Where an artefact is."""
        return self.folder / artefact.format(threads=self.threads)

    def tensors(self) -> list[tuple[Any, ...]]:
        """The inputs for torch."""
        import torch

        return [
            tuple(torch.from_numpy(a) if a.ndim else int(a) for a in arrays)
            for arrays in self.arrays
        ]


@dataclass(frozen=True)
class Contestant:
    """What runs a model.

    Attributes:
        load: Loads what a job says.
        libraries: Modules that its process imports first; that is not counted as its load.
        artefacts: Files that are made before, by their names in `ARTEFACTS`.
        tools: Modules that making them needs.
    """

    load: Callable[[Job], Loaded]
    libraries: tuple[str, ...] = ("torch",)
    artefacts: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """The modules that are not installed."""
        needed = (*self.libraries, *self.tools)
        return [name for name in needed if importlib.util.find_spec(name) is None]


# Artefacts: each is made once a model in a process of its own, or once a number of threads where
# its name says so.


def _module_of(model: Any) -> Any:
    if not model.spec:
        raise ValueError("the model is shipped without its eager module")
    return model.spec["module"]


def _make_module(model: Any, path: Path) -> None:
    import torch

    torch.save(_module_of(model), path)


def _make_archive(model: Any, path: Path) -> None:
    import ts_infer

    ts_infer.export(**model.spec, path=path, audit="fast")


def _make_onnx(model: Any, path: Path) -> None:
    """By torch's newer exporter, or for fixed sizes by the older one where that one fails."""
    import torch

    shapes = model.spec.get("dynamic_shapes")
    export = partial(
        torch.onnx.export,
        _module_of(model),
        model.spec["example_inputs"],
        path,
        external_data=False,
        verbose=False,
    )
    try:
        export(dynamo=True, dynamic_shapes=shapes)
    except Exception:
        if shapes is not None:
            raise
        export(dynamo=False)


def _make_openvino(_: Any, path: Path) -> None:
    path.symlink_to(ONNX)


def _make_compiled(model: Any, path: Path) -> None:
    """Fills the cache that the process of torch.compile will find."""
    import torch

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(path)
    dynamic = "dynamic_shapes" in model.spec
    compiled: Any = torch.compile(_module_of(model), dynamic=dynamic)
    with torch.inference_mode():
        for arguments in model.inputs:
            compiled(*arguments)


def _make_package(model: Any, path: Path, *, freezing: bool = False) -> None:
    import torch
    import torch._inductor

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(path.with_suffix(".cache"))
    with torch.no_grad():
        exported = torch.export.export(
            _module_of(model),
            model.spec["example_inputs"],
            dynamic_shapes=model.spec.get("dynamic_shapes"),
        )
        torch._inductor.aoti_compile_and_package(
            exported, package_path=str(path), inductor_configs={"freezing": freezing}
        )


def _make_native(_: Any, path: Path) -> None:
    from torch.utils import cpp_extension

    import ts_infer

    roots = [Path(root) for root in ts_infer.__path__ if (Path(root) / "include").exists()]
    library = str(roots[0] / "lib")
    folder = path.parent / "native"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    cpp_extension.load(
        "peers_native",
        [str(Path(__file__).with_name("peers_native.cpp"))],
        extra_cflags=["-O3", "-std=c++20"],
        extra_include_paths=[str(roots[0] / "include")],
        extra_ldflags=[f"-L{library}", "-lts_infer", f"-Wl,-rpath,{library}"],
        build_directory=str(folder),
        is_python_module=True,
    )
    shutil.copyfile(folder / "peers_native.so", path)


MODULE = "module.pt"
ARCHIVE = "archive.pt"
ONNX = "model.onnx"
OPENVINO = "openvino.onnx"  # the same, where a model does not come with another
COMPILED = "compiled-{threads}"
PACKAGE = "package-{threads}.pt2"
FROZEN_PACKAGE = "frozen-{threads}.pt2"
NATIVE = "../native.so"  # one for all models
ARTEFACTS: dict[str, Callable[[Any, Path], None]] = {
    MODULE: _make_module,
    ARCHIVE: _make_archive,
    ONNX: _make_onnx,
    OPENVINO: _make_openvino,
    COMPILED: _make_compiled,
    PACKAGE: _make_package,
    FROZEN_PACKAGE: partial(_make_package, freezing=True),
    NATIVE: _make_native,
}


# Loading. Each takes torch's tensors or numpy's arrays, whichever is its own.


def _load_eager(job: Job) -> Loaded:
    import torch

    module = torch.load(job.path(MODULE), weights_only=False)
    return Loaded(module, job.tensors(), torch.inference_mode)


def _load_compiled(job: Job) -> Loaded:
    import torch

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(job.path(COMPILED))
    module = torch.load(job.path(MODULE), weights_only=False)
    changing = len({tuple(a.shape for a in arrays) for arrays in job.arrays}) > 1
    return Loaded(torch.compile(module, dynamic=changing), job.tensors(), torch.inference_mode)


def _load_package(job: Job, *, artefact: str) -> Loaded:
    import torch

    package = torch._inductor.aoti_load_package(str(job.path(artefact)))
    return Loaded(package, job.tensors(), torch.inference_mode)


def _load_torch_jit(job: Job) -> Loaded:
    import torch

    module: Any = torch.jit.load(job.path(ARCHIVE))  # type: ignore[no-untyped-call]
    return Loaded(module, job.tensors(), torch.inference_mode)


def _load_ts_infer(job: Job, *, precision: str = "fp32") -> Loaded:
    from ts_infer import runtime

    model = runtime.load(job.path(ARCHIVE), device="cpu", precision=precision)
    if (serves := model.info().precision) != precision:
        raise ValueError(f"expected a model in {precision}, got {serves}")
    return Loaded(model, job.tensors())


def _load_native(job: Job, *, engine: str) -> Loaded:
    spec = importlib.util.spec_from_file_location("peers_native", job.path(NATIVE))
    assert spec is not None
    assert spec.loader is not None
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    runner = getattr(native, engine)(str(job.path(ARCHIVE)))
    inputs = job.tensors()
    return Loaded(runner.call, inputs, repeat=partial(runner.repeat, inputs))


def _load_onnxruntime(job: Job) -> Loaded:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(job.path(ONNX)), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]

    def call(*arguments: Any) -> Any:
        return session.run(None, dict(zip(names, arguments, strict=True)))

    return _on_arrays(call, names, job)


def _load_openvino(job: Job, *, precision: str = "") -> Loaded:
    openvino: Any = importlib.import_module("openvino")
    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": job.threads, "PERFORMANCE_HINT": "LATENCY"}
    if precision:
        options["INFERENCE_PRECISION_HINT"] = precision
    compiled = openvino.Core().compile_model(str(job.path(OPENVINO)), "CPU", options)
    names = [value.get_any_name() for value in compiled.inputs]

    def call(*arguments: Any) -> Any:
        results = compiled(dict(zip(names, arguments, strict=True)), share_inputs=True)
        return [results[i] for i in range(len(compiled.outputs))]

    return _on_arrays(call, names, job)


def _on_arrays(call: Callable[..., Any], names: Sequence[str], job: Job) -> Loaded:
    inputs: list[tuple[Any, ...]] = [tuple(arrays) for arrays in job.arrays]
    return Loaded(_Silero(call, len(names)) if "state" in names else call, inputs)


class _Silero:
    """Keeps what silero's TorchScript keeps and its ONNX file hands out: state, and 64 samples."""

    def __init__(self, call: Callable[..., Any], count: int) -> None:
        self._call = call
        self._count = count  # one of its files does not take the rate
        self._state = np.zeros((2, 1, 128), np.float32)
        self._context = np.zeros((1, 64), np.float32)

    def __call__(self, chunk: NDArray[Any], rate: NDArray[Any]) -> Any:
        chunk = np.concatenate([self._context, chunk], axis=1)
        arguments = (chunk, self._state, rate)
        output, self._state = self._call(*arguments[: self._count])
        self._context = chunk[:, -64:]
        return output


def _load_peak(_: Job) -> Loaded:
    """Loads a matrix product from weights that oneDNN packed, the fastest that torch has."""
    import torch

    x, weight = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    with torch.inference_mode():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, SIZE)

    def call() -> Any:
        return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")

    return Loaded(call, [()], torch.inference_mode)


CONTESTANTS: dict[str, Contestant] = {
    PEAK: Contestant(_load_peak),
    "eager": Contestant(_load_eager, artefacts=(MODULE,)),
    "torch.jit": Contestant(_load_torch_jit, artefacts=(ARCHIVE,), tools=("ts_infer",)),
    "torch.jit C++": Contestant(
        partial(_load_native, engine="TorchJit"),
        ("torch", "ts_infer"),
        (ARCHIVE, NATIVE),
        ("ninja",),
    ),
    "ts_infer": Contestant(_load_ts_infer, ("torch", "ts_infer.runtime"), (ARCHIVE,)),
    "ts_infer bf16": Contestant(
        partial(_load_ts_infer, precision="bf16"), ("torch", "ts_infer.runtime"), (ARCHIVE,)
    ),
    "ts_infer C++": Contestant(
        partial(_load_native, engine="TsInfer"),
        ("torch", "ts_infer"),
        (ARCHIVE, NATIVE),
        ("ninja",),
    ),
    "torch.compile": Contestant(
        _load_compiled, ("torch", "torch._inductor.compile_fx"), (MODULE, COMPILED)
    ),
    "AOTInductor": Contestant(
        partial(_load_package, artefact=PACKAGE), ("torch", "torch._inductor.package"), (PACKAGE,)
    ),
    "AOTInductor freezing": Contestant(
        partial(_load_package, artefact=FROZEN_PACKAGE),
        ("torch", "torch._inductor.package"),
        (FROZEN_PACKAGE,),
    ),
    "ONNX Runtime": Contestant(
        _load_onnxruntime, ("onnxruntime",), (ONNX,), ("onnx", "onnxscript")
    ),
    "OpenVINO f32": Contestant(
        partial(_load_openvino, precision="f32"),
        ("openvino",),
        (ONNX, OPENVINO),
        ("onnx", "onnxscript"),
    ),
    "OpenVINO": Contestant(_load_openvino, ("openvino",), (ONNX, OPENVINO), ("onnx", "onnxscript")),
}

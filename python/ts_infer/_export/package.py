"""`ts_infer.compile`: an AOTInductor package of a model, for the same runtime."""

from __future__ import annotations

import os
import platform
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.export import Dim

from ts_infer._errors import ExportError
from ts_infer._export import isolation, manifest, variants
from ts_infer._export.archive_audit import (
    declared_shapes,
    golden_calls,
    inputs_of,
    read_manifest,
)
from ts_infer._export.arguments import Example
from ts_infer._export.capture import watch_warnings
from ts_infer._export.compare import compare
from ts_infer._export.differential import essence, jit_load
from ts_infer._export.eager import fixed_seed
from ts_infer._export.golden import GOLDEN_PATH
from ts_infer._export.shapes import DynamicShapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_infer._export.isolation import Emit

_SECONDS_PER_SIZE = 120.0

# AOTInductor's freezing packs weights. It is faster on large models and slower on tiny ones, whose
# products it hands over to oneDNN.
_FREEZE_BYTES = 2**20


@dataclass(frozen=True)
class CompileReport:
    """What `ts_infer.compile` made.

    Attributes:
        path: The package.
        route: "torch.export", from the source module, or "TorchScript", from the archive.
        seconds: Wall time.
        compared: The sizes and values at which package and archive gave the same.
        max_abs_diff: The largest difference there.
        notes: What is narrower than in the archive.
    """

    path: str
    route: str
    seconds: float
    compared: tuple[str, ...]
    max_abs_diff: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The report as text."""
        lines = [
            f"{self.path}: compiled by way of {self.route} in {self.seconds:.0f} s",
            f"  equal to the archive within {self.max_abs_diff:.1e} at {', '.join(self.compared)}",
        ]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def compile(  # noqa: A001, the field's verb, as in torch.compile
    model: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    module: nn.Module | None = None,
) -> CompileReport:
    """Compile a model to an AOTInductor package, which `runtime.load` takes like an archive.

    It is made from the source module by `torch.export` where that is given, else from the
    archive's TorchScript. Inputs, sizes, warm-up and golden sample are the archive's. Package and
    archive are compared, in a process of its own, on the golden sample's inputs, at the corners of
    the declared sizes and on other values; without agreement there is no file.

    Needs a C++ compiler (g++, or what `CXX` names). The package runs on processors with the vector
    extensions of the one that it was compiled on, and with the torch version that compiled it.

    Args:
        model: An archive that `ts_infer.export` wrote.
        path: The package; default: the archive's name with the suffix .pt2.
        module: The module that the archive was exported from, in eval mode.

    Returns:
        What was made and compared.

    Raises:
        ExportError: The model cannot be compiled, or the package gives other results.
        Error: The archive cannot be read.
    """
    start = time.monotonic()
    archive = Path(os.fspath(model))
    target = archive.with_suffix(".pt2") if path is None else Path(os.fspath(path))
    document = read_manifest(archive, "compile")
    name = str(document.get("name", archive.stem))
    try:
        with (
            watch_warnings(),
            fixed_seed(),
            tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder,
        ):
            package = Path(folder) / f"{target.stem}.pt2"
            report = _compile(archive, document, module, package)
            package.replace(target)
    except _RefusalError as error:
        raise ExportError(f"[compile] {name}: {error}") from error.__cause__
    return replace(report, path=str(target), seconds=time.monotonic() - start)


class _RefusalError(Exception):
    """Why there is no package: what failed, and what to do."""


def _compile(
    archive: Path, document: Mapping[str, Any], module: nn.Module | None, package: Path
) -> CompileReport:
    _check_inputs(document)
    exported = jit_load(archive)
    calls = golden_calls(archive, document)
    values, source = inputs_of(document, calls, None)
    if values is None:
        raise _RefusalError(f"the inputs are not known: {source}")
    names = [entry["name"] for entry in document["inputs"]]
    example = Example(tuple(names), tuple(values), by_keyword=False)
    with torch.no_grad():
        result = _structure(exported(*variants.example(example).make()), "the result")
    declared = declared_shapes(document, example)
    program, dynamic = _export(exported if module is None else module, example, declared)
    notes = [
        f"{dim.name} is compiled for {dim.range_text}, the archive takes "
        f"{declared.dims[dim.name].range_text}"
        for dim in dynamic.dims.values()
        if dim.range_text != declared.dims[dim.name].range_text
    ]
    _build(program, package)
    described = _describe(document, dynamic, example, result)
    files = {manifest.MANIFEST_PATH: manifest.to_json(described).encode()}
    if "golden" in described:
        files[GOLDEN_PATH] = manifest.read_file(archive, GOLDEN_PATH)
    manifest.add_files(package, files)
    compared, difference = _compare(archive, package, _within(example, dynamic), dynamic)
    route = "TorchScript" if module is None else "torch.export"
    return CompileReport(str(package), route, 0.0, compared, difference, tuple(notes))


def _check_inputs(document: Mapping[str, Any]) -> None:
    if not document.get("inputs"):
        raise _RefusalError(
            "its inputs are not known: expected an archive of ts_infer.export, got one without a "
            "manifest; export it again"
        )
    if document.get("state"):
        raise _RefusalError(
            f"expected a model without state, got one that changes {', '.join(document['state'])}; "
            "a package cannot keep state: return it and take it as an input, or keep the archive"
        )
    for entry in document["inputs"]:
        if entry.get("type", "Tensor") != "Tensor":
            raise _RefusalError(
                f"the input {entry['name']}: expected a Tensor, got {entry['type']}; a package "
                "takes tensors only: wrap the module, or keep the archive"
            )


def _structure(value: Any, where: str) -> Any:
    """How a result is put together, as the manifest says it."""
    if isinstance(value, torch.Tensor):
        return "tensor"
    if isinstance(value, (tuple, list)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_structure(item, f"{where}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {k: _structure(item, f"{where}[{k!r}]") for k, item in value.items()}}
    raise _RefusalError(
        f"{where}: expected tensors in tuples, lists and dicts with names, got "
        f"{type(value).__name__}; return a tensor instead, or keep the archive"
    )


def _export(
    module: Any, example: Example, declared: DynamicShapes
) -> tuple[torch.export.ExportedProgram, DynamicShapes]:
    """Export at the declared ranges, or else without the sizes 0 and 1, which torch treats apart.

    Returns:
        The program, and the dims as it takes them.
    """
    failure: Exception | None = None
    for low in (0, 2):
        dims = {
            name: replace(dim, min=max(dim.min, low), example=max(dim.example, dim.min, 2))
            for name, dim in declared.dims.items()
        }
        dynamic = DynamicShapes(dims, declared.places)
        fixed = [dim.name for dim in dims.values() if not dim.holds(dim.example)]
        if low and (fixed or all(dim.min >= low for dim in declared.dims.values())):
            break
        if fixed:
            raise _RefusalError(
                f"{', '.join(fixed)}: expected a dim of at least two sizes above 1, got "
                f"{dims[fixed[0]].range_text}; export the archive with a fixed size instead"
            )
        named = {name: Dim(name, min=dim.min, max=dim.max) for name, dim in dims.items()}
        dynamic_shapes = tuple(
            {axis: named[name] for axis, name in declared.places.get((i,), {}).items()}
            for i in range(len(example.values))
        )
        values = dynamic.resize(example, {name: dim.example for name, dim in dims.items()})
        try:
            if isinstance(module, torch.jit.ScriptModule):
                return _convert(module, values, dynamic_shapes), dynamic
            program = torch.export.export(
                module, values, dynamic_shapes=dynamic_shapes, strict=False
            )
        except _RefusalError:
            raise
        except Exception as error:  # torch has no class of its own for what it cannot export
            failure = error
        else:
            return program, dynamic
    assert failure is not None
    raise _RefusalError(
        f"torch.export refuses it: {essence(failure)}; narrow the sizes, change that line, or keep "
        "the archive"
    ) from failure


def _convert(
    exported: Any, values: tuple[Any, ...], dynamic_shapes: tuple[Any, ...]
) -> torch.export.ExportedProgram:
    """Export by way of torch's converter from TorchScript, at our ranges instead of any."""
    from torch._export.converter import TS2EPConverter

    class Converter(TS2EPConverter):
        def retrace_as_exported_program(self, gm: Any, name_to_constant: Any) -> Any:  # noqa: ARG002
            return torch.export.export(gm, values, dynamic_shapes=dynamic_shapes, strict=False)

    make: Any = Converter
    converter = make(exported, values, {})
    try:
        program: torch.export.ExportedProgram = converter.convert()
    except Exception as error:
        kind = str(error).removeprefix("TS2EPConverter failed for node ")
        if kind == str(error):
            raise
        lines = [
            str(node.sourceRange()).strip() for node in converter.ts_graph.findAllNodes(kind, True)
        ]
        raise _RefusalError(
            f"torch's converter does not take {kind}: {essence(error.__cause__ or error)}\n"
            + "\n".join(dict.fromkeys(lines))
            + "\ngive the module that the archive was exported from, or keep the archive"
        ) from error
    return program


def _build(program: torch.export.ExportedProgram, package: Path) -> None:
    tensors = [*program.state_dict.values(), *program.constants.values()]
    weight = sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor))
    options: dict[str, Any] = {
        "freezing": weight >= _FREEZE_BYTES,
        "cpp.dynamic_threads": True,  # as many as the caller has, not as this process has now
        "compile_threads": 1,  # no pool of processes, beside which a fork is not safe
    }
    if platform.machine() == "x86_64":
        from torch._inductor.cpu_vec_isa import pick_vec_isa

        # What the vector extensions stand for, which load() asks for, and nothing else of this
        # very processor.
        wide = "avx512" in str(pick_vec_isa())
        options["cpp.march"] = "x86-64-v4" if wide else "x86-64-v3"
    make: Any = torch._inductor.aoti_compile_and_package
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of its own calls
            make(program, package_path=str(package), inductor_configs=options)
    except Exception as error:
        raise _RefusalError(
            f"AOTInductor refuses it: {essence(error)}; it needs a C++ compiler (g++, or what CXX "
            "names)"
        ) from error


def _describe(
    document: Mapping[str, Any], dynamic: DynamicShapes, example: Example, result: Any
) -> dict[str, Any]:
    """The archive's manifest, as it holds for the package."""

    def narrow(dim: Any) -> Any:
        return manifest.named_dim(dynamic, dim["name"]) if isinstance(dim, dict) else dim

    def narrowed(entry: Mapping[str, Any]) -> dict[str, Any]:
        shape = entry.get("shape")
        return {**entry, "shape": shape and [narrow(dim) for dim in shape]}

    described = {
        **document,
        "method": "aotinductor",
        "versions": manifest.versions(),
        "methods": ["forward"],
        "inputs": [narrowed(entry) for entry in document["inputs"]],
        "warmup_shapes": manifest.default_warmup_shapes(_within(example, dynamic), (), dynamic, ()),
        "compiled": {"device": "cpu", "result": result},
    }
    if any(
        not dynamic.dims[name].holds(tensor.shape[axis])
        for (index,), places in dynamic.places.items()
        for axis, name in places.items()
        for tensor in [example.values[index]]
    ):
        described.pop("golden", None)
    return described


def _within(example: Example, dynamic: DynamicShapes) -> Example:
    """The example at sizes that the package takes."""
    sizes = {dim.name: dim.example for dim in dynamic.dims.values()}
    return example.with_values(dynamic.resize(example, sizes))


def _compare(
    archive: Path, package: Path, example: Example, dynamic: DynamicShapes
) -> tuple[tuple[str, ...], float]:
    """Run both in a child process, which the package's code may end."""
    cases = [
        variants.example(example),
        *variants.sizes(example, dynamic)[0],
        *variants.values(example),
    ]

    def task(emit: Emit) -> None:
        from ts_infer import runtime

        exported = jit_load(archive)
        model = runtime.load(package, warmup="off")
        for case in cases:
            try:
                with torch.no_grad():
                    expected = exported(*case.make())
            except Exception:  # the archive refuses this size: there is nothing to compare
                continue
            emit(("at", case.label, 0.0))
            comparison = compare(expected, model(*case.make()))
            if comparison.difference:
                text = f"{comparison.difference.where}: {comparison.difference.text}"
                raise ValueError(text)
            emit(("equal", case.label, comparison.max_abs_diff or 0.0))

    outcome = isolation.run(task, budget_s=_SECONDS_PER_SIZE)
    where = [label for kind, label, _ in outcome.messages if kind == "at"]
    if outcome.failure or not where:
        at = f" at {where[-1]}" if where else ""
        raise _RefusalError(
            f"the package does not give what the archive gives{at}: {outcome.failure}; keep the "
            "archive"
        )
    equal = [(label, difference) for kind, label, difference in outcome.messages if kind == "equal"]
    return tuple(label for label, _ in equal), max(difference for _, difference in equal)

"""`ts_infer.compile`: an AOTInductor package of a model, for the same runtime."""

from __future__ import annotations

import io
import logging
import os
import platform
import re
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.export import Dim

from ts_infer._errors import CompileError, Error
from ts_infer._export import isolation, manifest, options, variants
from ts_infer._export.archive_audit import (
    declared_shapes,
    golden_calls,
    inputs_of,
    open_archive,
    read_manifest,
)
from ts_infer._export.arguments import Example
from ts_infer._export.capture import watch_warnings
from ts_infer._export.compare import compare
from ts_infer._export.differential import essence, jit_load
from ts_infer._export.eager import fixed_seed
from ts_infer._export.golden import GOLDEN_PATH
from ts_infer._export.report import finite
from ts_infer._export.shapes import Axis, DynamicShapes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ts_infer._export.isolation import Emit
    from ts_infer._export.variants import Variant

_SECONDS_PER_SIZE = 120.0

# AOTInductor's freezing packs weights. It is faster on large models and slower on tiny ones, whose
# products it hands over to oneDNN.
_FREEZE_BYTES = 2**20

_logger = logging.getLogger("ts_infer.compile")


@dataclass(frozen=True)
class CompileReport:
    """What `ts_infer.compile` made, or tried to make.

    Attributes:
        path: The package.
        route: "torch.export", from the source module, or "TorchScript", from the archive.
        seconds: Wall time.
        compared: The sizes and values at which package and archive gave the same.
        max_abs_diff: The largest difference there.
        notes: What is narrower than in the archive, and where nothing was compared.
        refusal: Why there is no package; empty where there is one.
    """

    path: str
    route: str
    seconds: float = 0.0
    compared: tuple[str, ...] = ()
    max_abs_diff: float = 0.0
    notes: tuple[str, ...] = ()
    refusal: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is a package."""
        return not self.refusal

    def to_dict(self) -> dict[str, Any]:
        """Return the report as what JSON can hold; infinite differences become None."""
        data: dict[str, Any] = finite({"schema": 1, "ok": self.ok, **asdict(self)})
        return data

    def __str__(self) -> str:
        """The report as text."""
        what = "compiled" if self.ok else "not compiled"
        lines = [f"{self.path}: {what} by way of {self.route} in {self.seconds:.0f} s"]
        if self.refusal:
            lines.append(f"  refused: {self.refusal}")
        if self.compared:
            lines.append(
                f"  equal to the archive within {self.max_abs_diff:.1e} at "
                f"{', '.join(self.compared)}"
            )
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

    A range that torch does not take whole, or whose sizes 0 and 1 come out otherwise, is narrowed,
    and the report says so.

    Needs a C++ compiler (g++, or what `CXX` names). The package runs on processors with the vector
    extensions of the one that it was compiled on, and with the torch version that compiled it.
    `logging.getLogger("ts_infer.compile")` says where it has got to.

    Args:
        model: An archive that `ts_infer.export` wrote.
        path: The package; default: the archive's name with the suffix .pt2.
        module: The module that the archive was exported from, in eval mode.

    Returns:
        What was made and compared.

    Raises:
        ValueError: The module is none, or is in training mode.
        CompileError: The model cannot be compiled, or the package gives other results; it has the
            report.
        ModelLoadError: The archive cannot be read. For a path that does not exist it is a
            FileNotFoundError too.
        Error: The package cannot be written.
    """
    start = time.monotonic()
    archive = Path(os.fspath(model))
    target = archive.with_suffix(".pt2") if path is None else Path(os.fspath(path))
    document = read_manifest(archive, "compile")
    name = str(document.get("name", archive.stem))
    if module is not None:
        try:
            options.check_module(module)
            options.check_eval(module)
        except ValueError as error:
            raise ValueError(f"[compile] {name}: {error}") from None
    report = CompileReport(str(target), "TorchScript" if module is None else "torch.export")
    checked = _Checked()
    try:
        _check_compiler()
        if target.exists() and target.samefile(archive):
            raise _RefusalError(
                f"the package would replace the archive: expected another file, got {target}; name "
                "one (-o FILE, or path)"
            )
        with (
            watch_warnings(),
            fixed_seed(),
            tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder,
        ):
            package = Path(folder) / f"{target.stem}.pt2"
            _compile(archive, document, module, package, checked)
            package.replace(target)
    except _RefusalError as error:
        refused = replace(checked.report(report, start), refusal=str(error))
        raise CompileError(f"[compile] {name}: {error}", refused) from error.__cause__
    except OSError as error:
        raise Error(
            f"[compile] {name}: the package cannot be written: expected a writable path, got "
            f"{error}; choose another one"
        ) from error
    return checked.report(report, start)


class _RefusalError(Exception):
    """Why there is no package: what failed, and what to do."""


def _check_compiler() -> None:
    """Refuse at once where AOTInductor would find no compiler after minutes."""
    from torch._inductor import config, cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, OSError) as error:
        given: Any = config.cpp.cxx
        names = given if isinstance(given, (tuple, list)) else [given]
        raise _RefusalError(
            "there is no C++ compiler: expected g++, or what CXX names, got nothing that runs as "
            f"{', '.join(name for name in names if name)}; install g++, or set CXX"
        ) from error


def _compile(
    archive: Path,
    document: Mapping[str, Any],
    module: nn.Module | None,
    package: Path,
    checked: _Checked,
) -> None:
    _check_inputs(document)
    exported = open_archive(archive, torch.device("cpu"))
    calls = golden_calls(archive, document)
    values, source = inputs_of(document, calls, None)
    if values is None:
        raise _RefusalError(f"the inputs are not known: {source}")
    names = [entry["name"] for entry in document["inputs"]]
    example = Example(tuple(names), tuple(values), by_keyword=False)
    with torch.no_grad():
        result = _structure(exported(*variants.example(example).make()), "the result")
    declared = declared_shapes(document, example)
    dynamic = declared
    while True:
        _logger.info("compiling %s: torch.export", archive.name)
        program, dynamic = _export(exported if module is None else module, example, dynamic)
        _check_writes(program, example)
        _logger.info("compiling %s: AOTInductor, 10 s to minutes", archive.name)
        _build(program, package)
        described = _describe(document, dynamic, example, result)
        _add_manifest(package, described, archive)
        _logger.info("compiling %s: comparing", archive.name)
        same = _within(example, dynamic)
        sizes, notes = variants.sizes(same, dynamic)
        cases = [variants.example(same), *sizes, *variants.values(same)]
        _compare(archive, package, cases, example, checked)
        if not checked.differing:
            break
        dynamic = _without(dynamic, checked)
    if not checked.equal:
        raise _RefusalError(
            "nothing could be compared: expected inputs that the archive takes, got "
            f"{checked.notes[0]}; export it again"
        )
    checked.notes = [*_narrower(declared, dynamic), *notes, *checked.notes]
    if "golden" in document and "golden" not in described:
        checked.notes.append(
            "it has no golden sample: the archive's has sizes that it does not take"
        )


def _narrower(declared: DynamicShapes, dynamic: DynamicShapes) -> list[str]:
    """Say which ranges are not the archive's."""
    return [
        f"{dim.name} is compiled for {dim.range_text}, the archive takes "
        f"{declared.dims[dim.name].range_text}"
        for dim in dynamic.dims.values()
        if dim.range_text != declared.dims[dim.name].range_text
    ]


def _add_manifest(package: Path, described: Mapping[str, Any], archive: Path) -> None:
    files = {manifest.MANIFEST_PATH: manifest.to_json(described).encode()}
    if "golden" in described:
        files[GOLDEN_PATH] = manifest.read_file(archive, GOLDEN_PATH)
    manifest.add_files(package, files)


def _check_inputs(document: Mapping[str, Any]) -> None:
    if not document.get("inputs"):
        raise _RefusalError(
            "its inputs are not known: expected an archive of ts_infer.export, got one without a "
            "manifest; export it again"
        )
    _refuse_state(document.get("state", ()))
    for entry in document["inputs"]:
        if entry.get("type", "Tensor") != "Tensor":
            raise _RefusalError(
                f"the input {entry['name']}: expected a Tensor, got {entry['type']}; a package "
                "takes tensors only: wrap the module, or keep the archive"
            )


def _refuse_state(names: Sequence[str]) -> None:
    if names:
        raise _RefusalError(
            f"expected a model without state, got one that changes {', '.join(names)}; a package "
            "cannot keep state: return it and take it as an input, or keep the archive"
        )


def _check_writes(program: torch.export.ExportedProgram, example: Example) -> None:
    """Refuse a program that writes into its inputs or its buffers.

    As exported it has the writes as the module has them; made functional, they are in its
    signature.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of its own calls
            signature = program.run_decompositions({}).graph_signature
    except Exception as error:
        raise _RefusalError(
            f"torch.export refuses it: {essence(error)}; keep the archive"
        ) from error
    written = [
        example.names[signature.user_inputs.index(name)]
        for name in signature.user_inputs_to_mutate.values()
    ]
    if written:
        raise _RefusalError(
            f"the input {', '.join(written)}: expected a model that leaves its inputs alone, got "
            f"one that writes into {'it' if len(written) == 1 else 'them'}; work on a copy "
            "(x = x.clone()), or keep the archive"
        )
    _refuse_state([*signature.buffers_to_mutate.values(), *signature.parameters_to_mutate.values()])


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
    """Export at the declared ranges, or else at narrower ones of the dims that torch complains of.

    In turn: at the ranges that torch finds by itself, from 2 on, since it treats 0 and 1 apart, and
    from 3 on, for what has an element less. Each is a named Dim, which torch proves or refuses.

    Returns:
        The program, and the dims as it takes them.
    """
    dynamic = _narrowed(declared, {})
    if dynamic is None:
        text = ", ".join(f"{dim.name} {dim.range_text}" for dim in declared.dims.values())
        raise _RefusalError(
            f"the ranges: expected sizes above 1 in each, got {text}; export the archive with a "
            "fixed size instead"
        )
    try:
        return _program(module, example, dynamic), dynamic
    except _ConstraintError as error:
        failure = error
    for low in (0, 2, 3):
        found = (
            dict.fromkeys(dynamic.dims, (low, None)) if low else _hinted(module, example, dynamic)
        )
        ranges = {name: found[name] for name in failure.names if name in found}
        narrower = _narrowed(dynamic, ranges)
        if narrower is None or narrower == dynamic:
            continue
        try:
            return _program(module, example, narrower), narrower
        except _ConstraintError as error:
            failure, dynamic = error, narrower
    text = ", ".join(f"{name} {declared.dims[name].range_text}" for name in failure.names)
    raise _RefusalError(
        f"torch.export refuses it: expected every size of {text}, got: {failure}; narrow the "
        "range, change what fixes the size, or keep the archive"
    ) from failure.__cause__


class _ConstraintError(Exception):
    """Torch does not take a range: which dims, and its reason in a sentence."""

    def __init__(self, names: list[str], reason: str) -> None:
        super().__init__(reason)
        self.names = names


def _program(
    module: Any, example: Example, dynamic: DynamicShapes, hints: bool = False
) -> torch.export.ExportedProgram:
    """Export at ranges that hold, or that torch may narrow where they are hints.

    Raises:
        _ConstraintError: A range does not hold.
        _RefusalError: The model cannot be exported at any.
    """
    auto: Any = Dim.AUTO
    named = {
        name: auto(min=dim.min, max=dim.max) if hints else Dim(name, min=dim.min, max=dim.max)
        for name, dim in dynamic.dims.items()
    }

    def sized(place: Axis) -> Any:
        if not place.is_derived:
            return named[place.name]
        return auto if hints else place.factor * named[place.name] + place.offset

    dynamic_shapes = tuple(
        {axis: sized(place) for axis, place in dynamic.places.get((i,), {}).items()}
        for i in range(len(example.values))
    )
    values = _within(example, dynamic).values
    try:
        with _no_graphs_on_stderr():
            if isinstance(module, torch.jit.ScriptModule):
                return _convert(module, values, dynamic_shapes)
            return torch.export.export(module, values, dynamic_shapes=dynamic_shapes, strict=False)
    except _RefusalError:
        raise
    except Exception as error:  # torch has no class of its own for what it cannot export
        found = re.match(
            r"(?:Constraints violated|Specializations .* required) \((.*?)\)!", str(error)
        )
        names = [name for name in dynamic.dims if found and name in found[1].split(", ")]
        if names:
            raise _ConstraintError(names, _constraint(str(error))) from error
        raise _RefusalError(
            f"torch.export refuses it: {essence(error)}; narrow the sizes, change that line, or "
            "keep the archive"
        ) from error


def _constraint(text: str) -> str:
    """Return the first constraint that torch says is violated, in the dims' names."""
    lines = [line.strip() for line in text.splitlines()]
    first = next((line[2:] for line in lines if line.startswith("- ")), lines[0])
    for name, source in re.findall(r"(\w+) = (L\[.*?\.size\(\)\[\d+\])", first):
        first = first.replace(f"{name} = {source}", name).replace(source, name)
    return first.split(". ")[0].rstrip(".")


@contextmanager
def _no_graphs_on_stderr() -> Iterator[None]:
    """Keep back what torch prints of a graph that it cannot export; pass on all the rest."""
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    before = log.disabled
    printed = io.StringIO()
    log.disabled = True
    try:
        with redirect_stderr(printed):
            yield
    finally:
        log.disabled = before
    sys.stderr.write(printed.getvalue())


def _hinted(
    module: Any, example: Example, dynamic: DynamicShapes
) -> dict[str, tuple[int, int | None]]:
    """Return the ranges that torch finds when it may choose; none where it finds none."""
    from torch.utils._sympy.numbers import int_oo

    try:
        program = _program(module, example, dynamic, hints=True)
    except (_ConstraintError, _RefusalError):
        return {}
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    ranges: dict[str, tuple[int, int | None]] = {}
    for (index,), places in dynamic.places.items():
        shape = nodes[program.graph_signature.user_inputs[index]].meta["val"].shape
        for axis, place in places.items():
            symbol = getattr(getattr(shape[axis], "node", None), "expr", None)
            if symbol not in program.range_constraints or place.is_derived:
                continue
            found = program.range_constraints[symbol]
            # Whatever it is asked for, it begins at 2, which says nothing of 0 and 1.
            bottom = 0 if found.lower <= 2 else int(found.lower)
            top = None if found.upper == int_oo else int(found.upper)
            low, high = ranges.get(place.name, (0, None))
            ranges[place.name] = max(low, bottom), _smaller(high, top)
    return ranges


def _smaller(left: int | None, right: int | None) -> int | None:
    """The smaller of two limits, of which None is no limit."""
    return min((each for each in (left, right) if each is not None), default=None)


def _narrowed(
    dynamic: DynamicShapes, ranges: Mapping[str, tuple[int, int | None]]
) -> DynamicShapes | None:
    """Cut dims to ranges, and move the example out of the sizes that torch treats apart.

    Returns:
        The dims; None where one has no size left, or none above 1.
    """
    dims = {}
    for name, dim in dynamic.dims.items():
        low, high = ranges.get(name, (dim.min, dim.max))
        low, high = max(low, dim.min), _smaller(high, dim.max)
        dims[name] = replace(dim, min=low, max=high, example=max(dim.example, low, 2))
    if not all(dim.holds(dim.example) for dim in dims.values()):
        return None
    return DynamicShapes(dims, dynamic.places)


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
    package.unlink(missing_ok=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of its own calls
            make(program, package_path=str(package), inductor_configs=options)
    except Exception as error:
        raise _RefusalError(
            f"AOTInductor refuses it: {essence(error)}; keep the archive"
        ) from error


def _describe(
    document: Mapping[str, Any], dynamic: DynamicShapes, example: Example, result: Any
) -> dict[str, Any]:
    """The archive's manifest, as it holds for the package."""

    def narrow(dim: Any) -> Any:
        return manifest.named_dim(dynamic, manifest.axis_of(dim)) if isinstance(dim, dict) else dim

    def narrowed(entry: Mapping[str, Any]) -> dict[str, Any]:
        shape = entry.get("shape")
        return {**entry, "shape": shape and [narrow(dim) for dim in shape]}

    described = {
        **document,
        "method": "aotinductor",
        "versions": manifest.versions(),
        "methods": ["forward"],
        "inputs": [narrowed(entry) for entry in document["inputs"]],
        "warmup_shapes": _warmup_shapes(document, dynamic, _within(example, dynamic)),
        "compiled": {"device": "cpu", "result": result},
    }
    example_fits = all(
        dynamic.dims[place.name].holds(place.value(example.values[index].shape[axis]) or 0)
        for (index,), places in dynamic.places.items()
        for axis, place in places.items()
    )
    if not example_fits:
        described.pop("golden", None)
    return described


def _warmup_shapes(
    document: Mapping[str, Any], dynamic: DynamicShapes, example: Example
) -> list[dict[str, list[int]]]:
    """The archive's sizes that the package takes, and the default ones where it has others."""

    def takes(entry: Mapping[str, Any]) -> bool:
        try:
            manifest.check_warmup_shapes([entry], example, (), dynamic)
        except ValueError:
            return False
        return True

    given = document.get("warmup_shapes")
    kept = [entry for entry in given or () if takes(entry)]
    if given is None or len(kept) < len(given):
        defaults = manifest.default_warmup_shapes(example, (), dynamic, ())
        kept += [entry for entry in defaults if entry not in kept]
    return kept


def _within(example: Example, dynamic: DynamicShapes) -> Example:
    """The example at sizes that the package takes."""
    sizes = {dim.name: dim.example for dim in dynamic.dims.values()}
    return example.with_values(dynamic.resize(example, sizes))


@dataclass
class _Checked:
    """What a comparison saw.

    Attributes:
        equal: The largest difference by the label of what was equal.
        notes: What the archive itself refuses.
        differing: What was different: its sizes by name, and its label and how.
    """

    equal: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    differing: list[tuple[dict[str, int], str]] = field(default_factory=list)

    def report(self, of: CompileReport, start: float) -> CompileReport:
        """Return a report that holds it, at this time."""
        return replace(
            of,
            seconds=time.monotonic() - start,
            compared=tuple(self.equal),
            max_abs_diff=max(self.equal.values(), default=0.0),
            notes=tuple(self.notes),
        )


def _compare(
    archive: Path, package: Path, cases: Sequence[Variant], example: Example, checked: _Checked
) -> None:
    """Run both in a child process, which the package's code may end.

    What was seen replaces what `checked` has.
    """

    def task(emit: Emit) -> None:
        from ts_infer import runtime

        exported = jit_load(archive, torch.device("cpu"))
        model = runtime.load(package, warmup="off")
        for index, case in enumerate(cases):
            emit(("at", index, ""))
            left, right = case.make(), case.make()
            try:
                with torch.no_grad():
                    expected = exported(*left)
            except Exception as error:  # there is nothing to compare
                emit(("refused", index, essence(error)))
                continue
            try:
                with torch.no_grad():
                    actual = model(*right)
            except Exception as error:
                emit(("differs", index, essence(error)))
                continue
            emit(_verdict(index, example, (expected, actual), (left, right)))

    for seen in (checked.equal, checked.notes, checked.differing):
        seen.clear()
    outcome = isolation.run(task, budget_s=_SECONDS_PER_SIZE)
    messages = [*outcome.messages]
    if outcome.failure:
        if not messages:
            raise _RefusalError(f"the package does not run: {outcome.failure}; keep the archive")
        messages.append(("differs", messages[-1][1], outcome.failure))
    for kind, index, what in messages:
        label = cases[index].label
        if kind == "equal":
            checked.equal[label] = what
        elif kind == "refused":
            checked.notes.append(f"{label}: not compared, the archive refuses it: {what}")
        elif kind == "differs":
            checked.differing.append((dict(cases[index].sizes), f"at {label}: {what}"))


def _verdict(
    index: int, example: Example, results: tuple[Any, Any], inputs: tuple[Any, Any]
) -> tuple[str, int, Any]:
    """Compare two results, and what the two calls left of their inputs."""
    comparison = compare(*results)
    if comparison.difference:
        found = comparison.difference
        return "differs", index, f"{found.where}: {found.text}"
    for name, left, right in zip(example.names, *inputs, strict=True):
        if compare(left, right).difference:
            return "differs", index, f"the archive writes into its input {name}"
    return "equal", index, comparison.max_abs_diff or 0.0


def _without(dynamic: DynamicShapes, checked: _Checked) -> DynamicShapes:
    """Leave out the sizes 0 and 1 at which there was a difference; any other is refused."""
    dims = dict(dynamic.dims)
    for sizes, text in checked.differing:
        if not all(dims[name].holds(size) for name, size in sizes.items()):
            continue
        apart = [name for name, size in sizes.items() if size < 2]
        if not apart:
            raise _RefusalError(
                f"the package does not give what the archive gives {text}; keep the archive"
            )
        _logger.info("left out, it would not be what the archive gives: %s", text)
        for name in apart:
            dims[name] = replace(dims[name], min=sizes[name] + 1)
    return DynamicShapes(dims, dynamic.places)

"""The manifest inside an archive: what the runtime knows without running the model.

Schema 1, additive: readers ignore what they do not know, and a missing key means unknown.

    schema         1
    name           the model's name
    versions       of ts_infer, torch and python at the export
    method         how it was exported
    inputs         one entry per argument of forward: name and TorchScript type; for a Tensor
                   also dtype and shape, where a dim is an integer or {"name", "min", "max"},
                   and max null means no limit; with "factor" and "offset" its sizes are
                   factor * value + offset, and one name has one value. A container of tensors has
                   leaves, such entries too, whose name is their path (sensors.imu, clips[0]); a
                   leaf is optional that need not be there. any_length: its lists may have other
                   lengths; any_keys: its dicts may have other keys
    outputs        one entry per leaf, depth-first, dict entries in insertion order: name, and
                   dtype and shape, or type for a leaf that is no tensor; a dim is null where it
                   is not known. Missing where the number of leaves depends on the input's size
    methods        every callable method, forward first
    warmup_shapes  sizes worth warming up: for each, the shape of every tensor by its name
    state          paths of the tensors that calls change
    scripted       the parts that were scripted automatically: name and reason
    audit          its level, what each probe did, and the codes of findings that were allowed
    libraries      shared libraries that register operators or classes that the model needs
    golden         the golden sample: its file, how many calls, and (rtol, atol) per dtype
    compiled       of an AOTInductor package: the device it is for, and how its result is put
                   together: "tensor", or {"tuple": […]}, {"list": […]}, {"dict": {name: …}}
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import zipfile
from typing import TYPE_CHECKING, Any

import torch

from ts_infer._export.arguments import tensors_of
from ts_infer._export.compare import leaves
from ts_infer._export.containers import Reads, leaves_of, reads_of
from ts_infer._export.shapes import Axis, DynamicShapes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ts_infer._export.arguments import Example
    from ts_infer._export.containers import Leaf
    from ts_infer._export.report import ExportReport

MANIFEST_PATH = "ts_infer/manifest.json"
SCHEMA = 1
DISTRIBUTION = "ts-infer-runtime"


def build(
    *,
    name: str,
    method: str,
    exported: Any,
    example: Example,
    shapes: DynamicShapes,
    leaves: Sequence[Any],
    output_shapes: Sequence[tuple[Mapping[str, int], Sequence[tuple[int, ...] | None]]],
    output_names: Sequence[str],
    warmup_shapes: Sequence[Mapping[str, Sequence[int]]],
) -> dict[str, Any]:
    """Describe an exported model.

    Args:
        name: The model's name.
        method: How it was exported.
        exported: The loaded archive.
        example: The example inputs.
        shapes: The dynamic dims.
        leaves: The leaves of the module's result for the example, depth-first.
        output_shapes: For each size that was compared, the shape of each leaf, None for one that
            is no tensor; may be empty.
        output_names: One name per leaf.
        warmup_shapes: Sizes to warm up.

    Returns:
        The manifest, ready for `json.dumps`.
    """
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "name": name,
        "versions": versions(),
        "method": method,
        "inputs": _inputs(exported, example, shapes, scripted=method == "script"),
    }
    described = _outputs(shapes, leaves, output_shapes, output_names)
    if described is not None:
        manifest["outputs"] = described
    names = list(exported._c._method_names())
    manifest["methods"] = ["forward", *sorted(set(names) - {"forward"}, key=names.index)]
    arguments = {index: argument.name for argument, index in _arguments(exported, example)}
    given = {}
    for path, _ in tensors_of(example.values):
        name = example.names[path[0]]
        steps = example.label(path).removeprefix(name)
        given[name + steps] = arguments.get(path[0], name) + steps
    manifest["warmup_shapes"] = [
        {given[key]: list(shape) for key, shape in entry.items()} for entry in warmup_shapes
    ]
    return manifest


def versions() -> dict[str, str]:
    """Return the versions that make a file now."""
    return {
        "ts_infer": package_version(),
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
    }


def to_json(manifest: Mapping[str, Any]) -> str:
    """Return the manifest as it is stored."""
    return json.dumps(manifest, indent=1, ensure_ascii=False)


def package_version() -> str:
    """Return the version of the installed distribution, "unknown" in a bare source tree."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def check_output_names(names: Sequence[str], defaults: Sequence[str]) -> None:
    """Raise ValueError unless there is one name for each leaf of the module's result."""
    if len(names) != len(defaults) or len(set(names)) != len(names):
        raise ValueError(
            f"output_names: expected {len(defaults)} different names, one for each output leaf "
            f"depth-first, got {list(names)}; the defaults are {list(defaults)}"
        )


def default_output_names(expected: Any) -> list[str]:
    """Name the leaves of a result after its fields and keys.

    Args:
        expected: A result of the module.

    Returns:
        One name per leaf: the path from the first field name or key on, else `output_N`.

    Example:
        >>> default_output_names({"boxes": 1, "masks": [2, 3]})
        ['boxes', 'masks.0', 'masks.1']
    """
    paths = [path for path, _ in leaves(expected, named=True)]
    names = []
    for i, path in enumerate(paths):
        first = next((j for j, key in enumerate(path) if isinstance(key, str)), None)
        names.append(f"output_{i}" if first is None else ".".join(map(str, path[first:])))
    if len(set(names)) < len(names):
        names = [f"output_{i}" if names.count(name) > 1 else name for i, name in enumerate(names)]
    return names


def _inputs(
    exported: Any, example: Example, shapes: DynamicShapes, *, scripted: bool
) -> list[dict[str, Any]]:
    values = list(exported.forward.inlined_graph.inputs())[1:]
    entries = []
    for (argument, index), value in zip(_arguments(exported, example), values, strict=True):
        entry = {"name": argument.name, "type": argument.type.annotation_str}
        if index is None:
            entries.append(entry)
            continue
        # A trace has taken lists and dicts apart as the example has them.
        reads = reads_of(value) if scripted else Reads()
        leaves = [
            _leaf(argument.name, leaf, shapes)
            for leaf in leaves_of(argument.type, example.values[index], (index,), reads)
        ]
        if leaves[0]["name"] == argument.name:
            entries.append({**entry, **leaves[0]})
            continue
        entry |= {"any_length": reads.any_length, "any_keys": reads.any_keys}
        entries.append({**entry, "leaves": leaves})
    return entries


def _leaf(argument: str, leaf: Leaf, shapes: DynamicShapes) -> dict[str, Any]:
    kind = leaf.type.annotation_str
    entry: dict[str, Any] = {"name": argument + leaf.steps, "type": kind}
    if leaf.optional:
        entry["optional"] = True
    if kind in ("Tensor", "Optional[Tensor]") and isinstance(leaf.value, torch.Tensor):
        places = shapes.places.get(leaf.path, {})
        entry["dtype"] = dtype_name(leaf.value.dtype)
        entry["shape"] = [
            named_dim(shapes, places[axis]) if axis in places else size
            for axis, size in enumerate(leaf.value.shape)
        ]
    return entry


def _arguments(exported: Any, example: Example) -> list[tuple[Any, int | None]]:
    """Return forward's arguments, each with its number in the example; None where it has none."""
    return [
        (argument, _index_of(example, argument.name, position))
        for position, argument in enumerate(exported.forward.schema.arguments[1:])
    ]


def _index_of(example: Example, name: str, position: int) -> int | None:
    if name in example.names:
        return example.names.index(name)
    # Arguments behind *args have names of the tracer's own.
    return position if example.variadic and position < len(example.values) else None


def _outputs(
    shapes: DynamicShapes,
    leaves: Sequence[Any],
    runs: Sequence[tuple[Mapping[str, int], Sequence[tuple[int, ...] | None]]],
    names: Sequence[str],
) -> list[dict[str, Any]] | None:
    if len(names) != len(leaves) or any(len(found) != len(leaves) for _, found in runs):
        return None
    return [
        _output(shapes, name, leaf, [(sizes, found[i]) for sizes, found in runs])
        for i, (name, leaf) in enumerate(zip(names, leaves, strict=True))
    ]


def _output(
    shapes: DynamicShapes,
    name: str,
    leaf: Any,
    runs: Sequence[tuple[Mapping[str, int], tuple[int, ...] | None]],
) -> dict[str, Any]:
    if not isinstance(leaf, torch.Tensor) or any(shape is None for _, shape in runs):
        return {"name": name, "type": _type_name(leaf)}
    entry: dict[str, Any] = {"name": name, "dtype": dtype_name(leaf.dtype)}
    seen = [(sizes, shape) for sizes, shape in runs if shape is not None]
    if any(len(shape) != leaf.dim() for _, shape in seen):
        return entry
    shape: list[Any] = []
    for axis, size in enumerate(leaf.shape):
        found = [(sizes, other[axis]) for sizes, other in seen]
        if shapes.dims and not found:
            shape.append(None)  # nothing was run at other sizes
            continue
        if all(other == size for _, other in found):
            shape.append(size)
            continue
        lines = (
            _line(shapes, dim, [(sizes[dim], other) for sizes, other in found])
            for dim in shapes.dims
        )
        line = next((line for line in lines if line is not None), None)
        shape.append(None if line is None else named_dim(shapes, line))
    entry["shape"] = shape
    return entry


def _line(shapes: DynamicShapes, dim: str, seen: Sequence[tuple[int, int]]) -> Axis | None:
    """Return the axis whose size is a linear function of a dim at all values that were seen.

    Three values tell a line; where there are fewer, an axis of the inputs may be that line.
    """
    points = dict(seen)
    axes = [Axis(dim), *(a for place in shapes.places.values() for a in place.values())]
    if len(points) > 2:
        (first, low), (second, high), *_ = sorted(points.items())
        factor = (high - low) // (second - first)
        if factor >= 1:
            axes.append(Axis(dim, factor, low - factor * first))
    fits = (a for a in axes if a.name == dim and all(a.size(value) == size for value, size in seen))
    return next(fits, None)


def provenance(
    report: ExportReport, state: Sequence[str], libraries: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the entries that say how far the model can be trusted.

    Args:
        report: What the export did.
        state: Paths of the tensors that calls change.
        libraries: What must be loaded before the model.
    """
    return {
        "state": list(state),
        "scripted": [{"name": part.name, "reason": part.reason} for part in report.scripted],
        "audit": {
            "level": report.audit,
            "probes": [
                {"name": p.name, "outcome": p.outcome, "runs": p.runs, "reason": p.reason}
                for p in report.probes
            ],
            "allowed": sorted({finding.code for finding in report.findings}),
        },
        "libraries": [dict(library) for library in libraries],
    }


def add_files(archive: Path, files: Mapping[str, bytes]) -> None:
    """Add extra files to an archive; what is in it stays as it is, byte for byte.

    Args:
        archive: A file that `torch.jit.save` wrote.
        files: Contents by name, as `torch.jit.load` finds them in `_extra_files`.
    """
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_STORED) as file:
        folder = file.namelist()[0].split("/", 1)[0]
        for name, data in files.items():
            # A date of its own would make two exports differ.
            file.writestr(zipfile.ZipInfo(f"{folder}/extra/{name}"), data)


def read_file(archive: Path, name: str) -> bytes:
    """Return an extra file of an archive; nothing of the model is loaded.

    Raises:
        KeyError: The archive has none of that name.
        OSError, zipfile.BadZipFile: The archive cannot be read.
    """
    with zipfile.ZipFile(archive) as file:
        for entry in file.namelist():
            if entry.endswith(f"/extra/{name}"):
                return file.read(entry)
    raise KeyError(name)


def named_dim(shapes: DynamicShapes, axis: Axis) -> dict[str, Any]:
    """Return a dynamic axis as the manifest has it: the range is of its sizes."""
    dim = shapes.dims[axis.name]
    largest = None if dim.max is None else axis.size(dim.max)
    entry = {"name": axis.name, "min": axis.size(dim.min), "max": largest}
    if axis.is_derived:
        entry |= {"factor": axis.factor, "offset": axis.offset}
    return entry


def axis_of(entry: Mapping[str, Any]) -> Axis:
    """Return the dynamic axis that the manifest describes."""
    return Axis(entry["name"], entry.get("factor", 1), entry.get("offset", 0))


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name as the manifest has it, such as "float32"."""
    return str(dtype).removeprefix("torch.")


def _type_name(value: Any) -> str:
    return "NoneType" if value is None else type(value).__name__


def default_warmup_shapes(
    example: Example, dropped: Sequence[str], shapes: DynamicShapes, refused: Sequence[Any]
) -> list[dict[str, list[int]]]:
    """Return the corners of the dynamic range: every dim at its largest, then smallest.

    Args:
        example: The example inputs.
        dropped: Arguments that the exported forward does not take.
        shapes: The dynamic dims.
        refused: Sizes at which the module raises; these are left out.

    Returns:
        Shapes by the name of each tensor. A dim without limit keeps the example's size, and a
        smallest size of 0 becomes 1.
    """
    largest = {d.name: d.example if d.max is None else d.max for d in shapes.dims.values()}
    smallest = {d.name: min(max(d.min, 1), d.example) for d in shapes.dims.values()}
    corners = [sizes for sizes in (largest, smallest) if sizes not in refused]
    if not corners:
        corners = [{d.name: d.example for d in shapes.dims.values()}]
    found: list[dict[str, list[int]]] = []
    for sizes in corners:
        entry = {
            example.label(path): shapes.shape_at(path, tensor, sizes)
            for path, tensor in tensors_of(example.values)
            if example.names[path[0]] not in dropped
        }
        if entry and entry not in found:
            found.append(entry)
    return found


def check_warmup_shapes(
    warmup_shapes: Sequence[Mapping[str, Sequence[int]]],
    example: Example,
    dropped: Sequence[str],
    shapes: DynamicShapes,
) -> list[dict[str, list[int]]]:
    """Check that warm-up shapes are within the declared shapes.

    Args:
        warmup_shapes: One dict per size: the shape of each tensor by its name.
        example: The example inputs.
        dropped: Arguments that the exported forward does not take.
        shapes: The dynamic dims.

    Returns:
        The same, as plain lists.

    Raises:
        ValueError: A name, rank or size does not fit; the text starts with what failed.
    """
    tensors = {
        example.label(path): (path, tensor)
        for path, tensor in tensors_of(example.values)
        if example.names[path[0]] not in dropped
    }
    checked = []
    for position, entry in enumerate(warmup_shapes):
        label = f"warmup_shapes[{position}]"
        if set(entry) != set(tensors):
            raise ValueError(
                f"{label}: expected the shapes of {', '.join(tensors)}, got "
                f"{', '.join(map(str, entry)) or 'none'}; name every tensor input"
            )
        sizes: dict[str, int] = {}
        for name, (path, tensor) in tensors.items():
            shape = list(entry[name])
            places = shapes.places.get(path, {})
            for axis, size in enumerate(tensor.shape):
                if len(shape) != tensor.dim() or (axis not in places and shape[axis] != size):
                    raise ValueError(
                        f"{label}: {name}: expected the example's shape {list(tensor.shape)} but "
                        f"for dynamic dims, got {shape}; declare the dim in dynamic_shapes"
                    )
                if axis not in places:
                    continue
                place = places[axis]
                dim, value = shapes.dims[place.name], place.value(shape[axis])
                if value is None or not dim.holds(value):
                    raise ValueError(
                        f"{label}: {name}, dim {axis}: expected "
                        f"{place.sizes_text(dim)}, got {shape[axis]}; widen the range"
                    )
                if sizes.setdefault(dim.name, value) != value:
                    raise ValueError(
                        f"{label}: {name}, dim {axis}: expected the one size of Dim "
                        f"{dim.name!r}, {place.size(sizes[dim.name])} as before, got "
                        f"{shape[axis]}; use one size for one Dim"
                    )
        checked.append({name: list(entry[name]) for name in tensors})
    return checked

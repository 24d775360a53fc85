"""Dynamic dims: reading `dynamic_shapes`, and the sizes at which an export is checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.export import Dim

from ts_infer._export.arguments import Example, Path, key_text, map_tensors, steps_text, tensors_of

# Inputs of more elements than this are not made up for a check (16 MB of float32).
MAX_CHECK_ELEMENTS = 2**22


@dataclass(frozen=True)
class DynamicDim:
    """A named dim: its range, and its size in the example. `max` None means no limit."""

    name: str
    min: int
    max: int | None
    example: int

    @property
    def range_text(self) -> str:
        """The range in brackets, for messages."""
        return f"[{self.min}, {'∞' if self.max is None else self.max}]"

    def holds(self, size: int) -> bool:
        """Whether a size is within the range."""
        return self.min <= size and (self.max is None or size <= self.max)


@dataclass(frozen=True)
class Axis:
    """A dynamic axis, of `factor * name + offset` elements: `32 * Dim("h")` is a derived dim."""

    name: str
    factor: int = 1
    offset: int = 0

    @property
    def is_derived(self) -> bool:
        """Whether its sizes are others than the dim's values."""
        return (self.factor, self.offset) != (1, 0)

    @property
    def text(self) -> str:
        """The axis as torch.export writes it, "32*h + 1"."""
        text = self.name if self.factor == 1 else f"{self.factor}*{self.name}"
        if self.offset:
            text += f" {'-' if self.offset < 0 else '+'} {abs(self.offset)}"
        return text

    def sizes_text(self, dim: DynamicDim) -> str:
        """Which sizes the axis may have, for messages."""
        if self.is_derived:
            return f"a size of {self.text} with {self.name} within {dim.range_text}"
        return f"a size within {dim.range_text} of Dim {dim.name!r}"

    def size(self, value: int) -> int:
        """Return the axis' size for a value of the dim."""
        return self.factor * value + self.offset

    def value(self, size: int) -> int | None:
        """Return the value of the dim for a size; None where no value gives it."""
        value, rest = divmod(size - self.offset, self.factor)
        return None if rest else value


@dataclass
class DynamicShapes:
    """The dynamic dims of the inputs.

    Attributes:
        dims: The dims by name; one name has one value in all inputs.
        places: For each dynamic tensor, by its path in `Example.values`, its dynamic axes.
    """

    dims: dict[str, DynamicDim] = field(default_factory=dict)
    places: dict[Path, dict[int, Axis]] = field(default_factory=dict)

    def resize(self, example: Example, sizes: Mapping[str, int]) -> tuple[Any, ...]:
        """Make inputs of other sizes from the example's own values.

        A dim grows by repeating the example from its start and shrinks by cutting its end, so
        masks, indices and value ranges stay plausible.

        Args:
            example: The example inputs.
            sizes: The value of each dynamic dim; one that is not named keeps the example's.

        Returns:
            New values, which share no memory with the example.
        """

        def fit(path: Path, tensor: torch.Tensor) -> torch.Tensor:
            copy = tensor.detach().clone()
            for axis, dim in self.places.get(path, {}).items():
                old = copy.shape[axis]
                new = dim.size(sizes[dim.name]) if dim.name in sizes else old
                if new == old:
                    continue
                if old == 0:
                    shape = list(copy.shape)
                    shape[axis] = new
                    copy = copy.new_zeros(shape)
                else:
                    index = torch.arange(new, device=copy.device) % old
                    copy = copy.index_select(axis, index)
            return copy

        resized = map_tensors(example.values, fit)
        assert isinstance(resized, tuple)
        return resized

    def shape_at(self, path: Path, tensor: torch.Tensor, sizes: Mapping[str, int]) -> list[int]:
        """Return the shape that a tensor of the example has at other sizes."""
        shape = list(tensor.shape)
        for axis, dim in self.places.get(path, {}).items():
            if dim.name in sizes:
                shape[axis] = dim.size(sizes[dim.name])
        return shape

    def elements(self, example: Example, sizes: Mapping[str, int]) -> int:
        """Count the elements of all inputs at other sizes."""
        total = 0
        for path, tensor in tensors_of(example.values):
            count = 1
            for size in self.shape_at(path, tensor, sizes):
                count *= size
            total += count
        return total

    def cases(self, example: Example, limit: int) -> tuple[list[dict[str, int]], list[str]]:
        """Choose the sizes to check: each dim alone, then all dims together.

        Args:
            example: The example inputs.
            limit: The most elements that the inputs of one case may have.

        Returns:
            The cases, each with the value of every dynamic dim, the example first; and a note
            for each size that was too large.
        """
        base = {dim.name: dim.example for dim in self.dims.values()}
        limit = max(limit, 2 * self.elements(example, base))
        cases: list[dict[str, int]] = [base]
        notes: list[str] = []

        def add(case: dict[str, int]) -> None:
            if case not in cases:
                cases.append(case)

        tops: dict[str, int] = {}
        for dim in self.dims.values():
            wanted = dim.max if dim.max is not None else max(2 * dim.example + 1, dim.min + 1)
            top = self._largest_that_fits(example, base, dim, wanted, limit)
            if top < wanted and dim.max is not None:
                notes.append(
                    f"{dim.name}={dim.max} was not checked: its inputs have more than {limit} "
                    f"elements; checked up to {dim.name}={top}"
                )
            tops[dim.name] = top
            low = [0, 1] if dim.min == 0 else [dim.min]
            for size in (*low, (dim.min + top) // 2, dim.example + 1, top):
                if dim.min <= size <= top:
                    add({**base, dim.name: size})
        if len(self.dims) > 1:
            for choose in ("min", "mid", "max"):
                case = {
                    dim.name: {
                        "min": max(dim.min, 1) if tops[dim.name] else dim.min,
                        "mid": (dim.min + tops[dim.name]) // 2,
                        "max": tops[dim.name],
                    }[choose]
                    for dim in self.dims.values()
                }
                if self.elements(example, case) <= limit:
                    add(case)
                else:
                    text = ", ".join(f"{name}={size}" for name, size in case.items())
                    notes.append(f"{text} were not checked together: more than {limit} elements")
        return cases, notes

    def _largest_that_fits(
        self, example: Example, base: dict[str, int], dim: DynamicDim, wanted: int, limit: int
    ) -> int:
        low, high = dim.example, max(wanted, dim.example)
        while low < high:
            middle = (low + high + 1) // 2
            if self.elements(example, {**base, dim.name: middle}) <= limit:
                low = middle
            else:
                high = middle - 1
        return low


def parse(dynamic_shapes: Any, example: Example) -> DynamicShapes:
    """Read `dynamic_shapes`, which follows the convention of `torch.export.export`.

    Args:
        dynamic_shapes: None, a dict by argument name, or a tuple or list with one entry per
            argument. An entry is None (static), `{axis: Dim}`, or one item per axis; for a
            nested argument it is nested in the same way, or the dict has the path of a tensor in
            it, `sensors.imu`, beside the names.
        example: The example inputs.

    Returns:
        The dynamic dims.

    Raises:
        ValueError: An unknown name, a dim out of range, a size outside its range, or one Dim
            with two sizes; the text starts with what failed.
    """
    shapes = DynamicShapes()
    if dynamic_shapes is None:
        return shapes
    if isinstance(dynamic_shapes, Mapping):
        parts = {
            example.label(path): (path, tensor)
            for path, tensor in tensors_of(example.values)
            if len(path) > 1
        }
        known = [*example.names, *parts]
        unknown = [str(name) for name in dynamic_shapes if name not in known]
        if unknown:
            raise ValueError(
                f"dynamic_shapes: expected names among {', '.join(known)}, got "
                f"{', '.join(unknown)}; name the arguments that example_inputs gives"
            )
        specs = [dynamic_shapes.get(name) for name in example.names]
        for label, (path, tensor) in parts.items():
            if dynamic_shapes.get(label) is not None:
                _read_tensor(shapes, path, label, tensor, dynamic_shapes[label])
    elif isinstance(dynamic_shapes, Sequence) and not isinstance(dynamic_shapes, str):
        specs = list(dynamic_shapes)
        if len(specs) != len(example.names):
            raise ValueError(
                f"dynamic_shapes: expected one entry for each of {', '.join(example.names)}, got "
                f"{len(specs)}; give None for a static argument"
            )
    else:
        raise ValueError(
            "dynamic_shapes: expected a dict by argument name or a tuple by position, got "
            f"{type(dynamic_shapes).__name__}; see torch.export.export"
        )
    for i, (name, value, spec) in enumerate(zip(example.names, example.values, specs, strict=True)):
        _read(shapes, (i,), name, value, spec)
    return shapes


def _read(shapes: DynamicShapes, path: Path, label: str, value: Any, spec: Any) -> None:
    if spec is None:
        return
    if isinstance(value, torch.Tensor):
        _read_tensor(shapes, path, label, value, spec)
    elif isinstance(value, (tuple, list)):
        if not isinstance(spec, (tuple, list)) or len(spec) != len(value):
            raise ValueError(
                f"dynamic_shapes: {label}: expected {len(value)} entries, one per item of the "
                f"argument, got {spec!r}; give None for a static item"
            )
        for i, (item, item_spec) in enumerate(zip(value, spec, strict=True)):
            _read(shapes, (*path, i), label + steps_text(value, (i,)), item, item_spec)
    elif isinstance(value, Mapping):
        unknown = [k for k in spec if k not in value] if isinstance(spec, Mapping) else [spec]
        if unknown:
            raise ValueError(
                f"dynamic_shapes: {label}: expected keys among {list(value)}, got {unknown}; "
                "leave out the static ones"
            )
        for key, item_spec in spec.items():
            _read(shapes, (*path, key), label + key_text(key), value[key], item_spec)
    else:
        raise ValueError(
            f"dynamic_shapes: {label}: expected None, because the argument is a "
            f"{type(value).__name__} and has no dims, got {spec!r}; leave it out"
        )


def _read_tensor(
    shapes: DynamicShapes, path: Path, label: str, tensor: torch.Tensor, spec: Any
) -> None:
    if isinstance(spec, Mapping):
        axes = dict(spec)
    elif isinstance(spec, (tuple, list)):
        if len(spec) != tensor.dim():
            raise ValueError(
                f"dynamic_shapes: {label}: expected {tensor.dim()} entries, one per dim of shape "
                f"{list(tensor.shape)}, got {len(spec)}; give None for a static dim"
            )
        axes = dict(enumerate(spec))
    else:
        raise ValueError(
            f"dynamic_shapes: {label}: expected {{axis: Dim}} or one item per dim, got {spec!r}; "
            "see torch.export.export"
        )
    for axis, entry in axes.items():
        if type(axis) is not int or not 0 <= axis < tensor.dim():
            raise ValueError(
                f"dynamic_shapes: {label}: expected a dim from 0 to {tensor.dim() - 1}, because "
                f"its shape is {list(tensor.shape)}, got {axis!r}; count dims from 0"
            )
        read = _read_dim(f"{label}, dim {axis}", f"{label}_{axis}", tensor.shape[axis], entry)
        if read is None:
            continue
        dim, place = read
        known = shapes.dims.setdefault(dim.name, dim)
        if known.example != dim.example:
            raise ValueError(
                f"dynamic_shapes: {label}, dim {axis}: expected the one size of Dim "
                f"{dim.name!r}, {place.size(known.example)} as before, got {tensor.shape[axis]}; "
                "give the two dims different Dims, or an example where they agree"
            )
        if known != dim:
            raise ValueError(
                f"dynamic_shapes: {label}, dim {axis}: expected one range for Dim {dim.name!r}, "
                f"{known.range_text} as before, got {dim.range_text}; use one Dim object"
            )
        shapes.places.setdefault(path, {})[axis] = place


def _read_dim(
    label: str, default_name: str, size: int, entry: Any
) -> tuple[DynamicDim, Axis] | None:
    if entry is None:
        return None
    if type(entry) is int:
        if entry != size:
            raise ValueError(
                f"dynamic_shapes: {label}: expected the example's size {size} for a static dim, "
                f"got {entry}; give a Dim for a dynamic one"
            )
        return None
    kind = getattr(getattr(entry, "type", None), "name", "")
    if kind == "STATIC":
        return None
    root = getattr(entry, "root", entry)
    if kind in ("AUTO", "DYNAMIC"):
        axis, low = Axis(re.sub(r"[\W_]+", "_", default_name)), entry.min
        low = 1 if low is None else low
    elif type(root) is Dim:
        # A derived dim has a linear function of its root.
        offset = entry.fn(0) if root is not entry else 0
        factor = entry.fn(1) - offset if root is not entry else 1
        axis, low = Axis(root.__name__, int(factor), int(offset)), root.min
    else:
        raise ValueError(
            f"dynamic_shapes: {label}: expected a torch.export.Dim, one derived of it such as "
            f"32 * Dim('h'), Dim.AUTO, Dim.DYNAMIC, Dim.STATIC, a size or None, got {entry!r}"
        )
    # Without a limit torch gives an "infinite" integer, which is no int.
    high = root.max if isinstance(root.max, int) else None
    value = axis.value(size)
    dim = DynamicDim(axis.name, int(low), high, value or 0)
    if value is None or not dim.holds(value):
        raise ValueError(
            f"dynamic_shapes: {label}: expected {axis.sizes_text(dim)}, got {size} in the example; "
            "widen the range or change the example"
        )
    return dim, axis

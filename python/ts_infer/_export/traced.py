"""What an archive was traced with: `torch.jit.trace` leaves the sizes of its example inputs.

The values are not there: torch writes the records of these storages empty.
"""

from __future__ import annotations

import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MEMBER = "traced_inputs.pkl"
_MOST_ELEMENTS = 1 << 28
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Reader(pickle.Unpickler):
    """Makes tensors of random values, plain values and containers; refuses any other name."""

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self._generator = torch.Generator().manual_seed(0)
        self._elements = 0

    def find_class(self, module: str, name: str) -> Callable[..., Any] | torch.dtype:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,
            ("collections", "OrderedDict"): dict,
            ("builtins", "complex"): complex,
            **{
                ("torch.jit._pickle", f"build_{kind}list"): lambda value: value
                for kind in ("int", "double", "bool", "tensor")
            },
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"{module}.{name} is none of the values of a trace")
        return known[module, name]

    def persistent_load(self, pid: Any) -> torch.dtype:
        _, dtype, *_ = pid
        if not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"a storage has no dtype but {dtype!r}")
        return dtype

    def _tensor(self, dtype: torch.dtype, _: int, sizes: tuple[int, ...], *__: Any) -> torch.Tensor:
        elements = 1
        for size in sizes:
            elements *= size
        self._elements += elements
        if self._elements > _MOST_ELEMENTS:
            raise pickle.UnpicklingError(f"the inputs have more than {_MOST_ELEMENTS} elements")
        return torch.rand(sizes, generator=self._generator).to(dtype)


def inputs(archive: Path, method: str = "forward") -> list[Any] | None:
    """Return random inputs of the sizes and dtypes that a method was traced with.

    Floats are drawn from [0, 1), integers are 0. Nothing of the archive is run.

    Args:
        archive: The archive.
        method: The method.

    Returns:
        The arguments in their order; None where the archive does not say them, or what it says
        cannot be read.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            entries = [entry for entry in file.namelist() if entry.endswith(f"/{_MEMBER}")]
            if not entries or entries[0].count("/") != 1:
                return None
            with file.open(entries[0]) as data:
                found = _Reader(data).load()
        values = found[method]
        return list(values) if isinstance(values, list | tuple) and values else None
    except Exception:  # a pickle that others wrote may raise anything
        return None

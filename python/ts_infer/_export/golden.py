"""The golden sample: calls with the module's own results, for `ts_infer verify`.

An extra file of the archive, as `torch.save` writes it: {"calls": [{"inputs": […], "outputs":
[…]}, …]}. The inputs are forward's arguments in order; the outputs are the leaves of what the
module returned, depth-first. The calls are made in a row on one freshly loaded model.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import torch

from ts_infer._export import variants
from ts_infer._export.arguments import tensors_of
from ts_infer._export.compare import TOLERANCES
from ts_infer._export.manifest import dtype_name

if TYPE_CHECKING:
    from ts_infer._export.arguments import Example
    from ts_infer._export.eager import Eager

GOLDEN_PATH = "ts_infer/golden.pt"

# Larger samples would weigh more than they are worth.
_MAX_BYTES = 64 * 2**20

# Other devices sum in another order, and may multiply in fewer bits (TF32 has 10 of mantissa).
_ACCELERATOR_FACTOR = 50


def sample(exported: Any, example: Example, eager: Eager) -> tuple[bytes | None, str]:
    """Make the golden sample.

    Args:
        exported: The loaded archive, whose forward says which arguments there are.
        example: The example inputs.
        eager: What the module answered.

    Returns:
        The file's bytes; or None, and why there is none.
    """
    if eager.draws:
        return None, "the module draws random numbers"
    if eager.mutated:
        return None, "the module writes into its inputs"
    inputs = _arguments(exported, example)
    weight = sum(t.nbytes for _, t in tensors_of((inputs, eager.results)))
    if weight > _MAX_BYTES:
        return None, f"inputs and outputs have {weight / 1e6:.0f} MB"
    calls = [{"inputs": inputs, "outputs": _plain(leaves)} for leaves in eager.results]
    buffer = io.BytesIO()
    torch.save({"calls": calls}, buffer, pickle_protocol=2)  # what the runtime reads
    return buffer.getvalue(), ""


def describe(eager: Eager) -> dict[str, Any]:
    """Return the manifest's entry: how many calls, and the tolerance (rtol, atol) per dtype."""
    exact = {dtype_name(dtype): list(pair) for dtype, pair in TOLERANCES.items()}
    loose = {
        name: [number * _ACCELERATOR_FACTOR for number in pair] for name, pair in exact.items()
    }
    return {
        "file": GOLDEN_PATH,
        "calls": len(eager.results),
        "tolerance": {"cpu": exact, "accelerator": loose},
    }


def _arguments(exported: Any, example: Example) -> list[Any]:
    values = variants.example(example).make()
    given = dict(zip(example.names, values, strict=True))
    found: list[Any] = []
    last = 0
    for position, argument in enumerate(exported.forward.schema.arguments[1:]):
        if argument.name in given:
            found.append(given[argument.name])
            last = position + 1
        elif example.variadic and position < len(values):
            found.append(values[position])
            last = position + 1
        else:
            found.append(argument.default_value if argument.has_default_value() else None)
    return [_plain(value) for value in found[:last]]


def _plain(value: Any) -> Any:
    """Copy without what only Python knows: named tuples, parameters, views of larger memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value

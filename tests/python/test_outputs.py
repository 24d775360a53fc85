"""What a module returns comes back as it is: fields by name, None, numbers, mixed containers."""

from __future__ import annotations

import json
import subprocess
from collections import OrderedDict, UserDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from archives import jit_load
from torch import Tensor, nn
from torch.export import Dim

import ts_infer
from ts_infer import runtime
from ts_infer._export.outputs import UnknownValueError, settled, take_apart

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

X = torch.linspace(-1, 2, 12).view(4, 3)
ROWS = {"x": {0: Dim("rows", min=1, max=8)}}


class Normal(NamedTuple):
    mean: Tensor
    std: Tensor


class Step(NamedTuple):
    action: Normal
    hidden: list[Tensor]
    value: Tensor | None = None


@dataclass
class Detection:
    boxes: Tensor
    masks: Tensor | None = None
    classes: int = 3


@dataclass
class Encoded(OrderedDict[str, Any]):
    """A dataclass that is a dict, with the entries that are not None, as transformers' outputs."""

    last: Tensor | None = None
    pooled: Tensor | None = None

    def __post_init__(self) -> None:
        if self.last is not None:
            self["last"] = self.last


class Returns(nn.Module):
    """A linear layer whose result goes through a function."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.layer(x))


RESULTS: dict[str, Callable[[Tensor], Any]] = {
    "named": lambda y: Normal(y, y.abs()),
    "named in named": lambda y: Step(Normal(y, y.abs()), [y + 1, y.sum(0)]),
    "named in containers": lambda y: ({"a": Normal(y, y)}, [Normal(y + 1, y)] * 2, y),
    "dataclass": lambda y: Detection(y),
    "dataclasses": lambda y: {"a": Detection(y, y.exp()), "b": Detection(y)},
    "model output": lambda y: Encoded(last=y),
    "other mapping": lambda y: UserDict(y=y),
    "ordered": lambda y: OrderedDict(out=y, aux=y * 2),
    "mixed dict": lambda y: {"y": y, "many": [y, y + 1], "none": None, "scale": 2.5, "on": True},
    "numbers as keys": lambda y: {1: y, 2: (y, None)},
    "tuple with none": lambda y: (y, None),
    "none in a list": lambda y: [y, None, [y]],
    "texts": lambda y: (y, 'it\'s "so"\n', "\u00e9", float("inf"), -1, complex(0.5, float("-inf"))),
    "empty": lambda y: (y, [], {}, ()),
    "twice": lambda y: Normal(y, y),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def same(left: Any, right: Any) -> bool:
    """Equal in structure, names of fields, types and values."""
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and torch.allclose(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[k], right[k]) for k in left)
    if isinstance(left, (tuple, list)):
        fields = getattr(left, "_fields", None) == getattr(right, "_fields", None)
        alike = isinstance(right, tuple) == isinstance(left, tuple) and len(left) == len(right)
        return fields and alike and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)


@pytest.mark.parametrize("kind", RESULTS)
def test_comes_back_as_the_module_returns_it(kind: str, path: Path) -> None:
    module = Returns(RESULTS[kind]).eval()
    report = ts_infer.export(module, X, path, dynamic_shapes=ROWS)
    assert report.method == "trace"
    assert not report.scripted
    models = [runtime.load(path, device="cpu"), jit_load(path)]
    for rows in (4, 1, 3):
        with torch.no_grad():
            expected = settled(module(X[:rows]))
            for model in models:
                assert same(expected, model(X[:rows]))


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("dataclasses", "forward returns Detection: the archive returns a named tuple"),
        ("model output", "forward returns Encoded: the archive returns a dict of its entries"),
        ("other mapping", "forward returns UserDict: the archive returns a dict of its entries"),
    ],
)
def test_what_torchscript_has_no_class_for_is_noted_once(kind: str, note: str, path: Path) -> None:
    report = ts_infer.export(Returns(RESULTS[kind]).eval(), X, path)
    assert sum(text.startswith(note) for text in report.notes) == 1


def test_names_of_outputs_are_the_fields(path: Path) -> None:
    ts_infer.export(Returns(RESULTS["named"]).eval(), X, path)
    assert [leaf.name for leaf in runtime.load(path).signature.outputs] == ["mean", "std"]
    run = subprocess.run(
        ["ts_infer", "run", path, "--json", "-"], check=True, capture_output=True, text=True
    )
    assert [output["name"] for output in json.loads(run.stdout)["outputs"]] == ["mean", "std"]


def test_classes_of_one_name_with_other_fields() -> None:
    class Normal(NamedTuple):  # as the one above
        mean: Tensor
        std: Tensor | None

    first, second = Normal(X, None), globals()["Normal"](X, X)
    outputs, tensors = take_apart((first, second, first))
    assert outputs.text == "(Normal(r[0], None), Normal_1(r[1], r[2]), Normal(r[3], None), )"
    assert len(tensors) == 4


class Keeps(nn.Module):
    """With a state and a method of its own."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x: Tensor) -> Normal:
        self.total.add_(x.sum(0))
        return Normal(x + self.total, self.total.clone())

    def reset(self, to: Tensor) -> None:
        self.total.copy_(to)


def test_state_and_methods_are_kept(path: Path) -> None:
    ts_infer.export(Keeps().eval(), X, path, preserved_methods=["reset"])
    model, module = runtime.load(path, device="cpu"), Keeps()
    for _ in range(2):
        assert same(module(X), model(X))
    model.run_method("reset", torch.ones(3))
    module.reset(torch.ones(3))
    assert same(module(X), model(X))


class Counts(nn.Module):
    """A number that hangs on the input."""

    def __init__(self, count: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"x": x * 2, "count": self.count(x)}


@pytest.mark.parametrize(
    "count", [lambda x: x.shape[0], lambda x: len(x.tolist()), lambda x: float(x.max())]
)
def test_a_number_that_hangs_on_the_input_is_no_constant(
    count: Callable[[Tensor], Any], path: Path
) -> None:
    with pytest.raises(ts_infer.ExportError):
        ts_infer.export(Counts(count).eval(), X, path, dynamic_shapes=ROWS)


UNKNOWN: list[tuple[Any, str]] = [
    ({"y": [X, slice(1)]}, r"the output\['y'\]\[1\] is a slice: expected tensors, numbers"),
    (Step(Normal(X, X), [], {1, 2}), r"the output\.value is a set: expected tensors"),  # type: ignore[arg-type]
    ({(1, 2): X}, r"the output has the keys \[\(1, 2\)\]: expected strings, or whole numbers"),
    ({1: X, "a": X}, r"the output has the keys \[1, 'a'\]: expected strings"),
]


@pytest.mark.parametrize(("result", "text"), UNKNOWN)
def test_what_cannot_be_returned_is_named(result: Any, text: str) -> None:
    with pytest.raises(UnknownValueError, match=text):
        take_apart(result)


def test_the_refusal_names_the_field(path: Path) -> None:
    with pytest.raises(ts_infer.ExportError, match=r"failed: the output\['range'\] is a range"):
        ts_infer.export(Returns(lambda y: {"y": y, "range": range(3)}).eval(), X, path)

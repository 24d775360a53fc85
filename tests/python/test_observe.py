"""Observing a run: which functions ran, with which types, and which unit holds a line."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
from typing import Any, NamedTuple

import pytest
import torch
import unannotated
from torch import nn

from ts_infer._export.observe import Function, Observation, Unit, observe
from ts_infer.models import decision_gate

models: Any = unannotated
X = torch.arange(12.0).reshape(3, 4) - 4


def observed(module: nn.Module, *inputs: Any) -> Observation:
    module.eval()
    with torch.no_grad():
        observation = observe(module, lambda: module(*inputs))
    sent: Observation = pickle.loads(pickle.dumps(observation))
    return sent


def function_named(observation: Observation, name: str) -> Function:
    return next(f for f in observation.functions.values() if f.key[2] == name)


def line_of(function: Any, text: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


def test_methods_are_known_by_the_paths_of_their_modules() -> None:
    observation = observed(decision_gate.make(), *decision_gate.example_inputs())
    gate = function_named(observation, "MyDecisionGate.forward")
    assert (gate.kind, gate.paths) == ("method", ("dg",))
    assert gate.key[0] == decision_gate.__file__
    assert gate.callers == (function_named(observation, "MyCell.forward").key,)
    assert gate.arguments == {"x": "Tensor"}
    assert observation.entries["dg"] == ("forward",)


def test_copies_of_the_module_count_as_the_module() -> None:
    module = decision_gate.make()
    with torch.no_grad():
        observation = observe(
            module, lambda: copy.deepcopy(module)(*decision_gate.example_inputs())
        )
    assert function_named(observation, "MyDecisionGate.forward").paths == ("dg",)


def test_functions_have_the_types_of_arguments_and_locals() -> None:
    vectors, mask = torch.randn(4, 6, 8), torch.ones(4, 6, dtype=torch.bool)
    observation = observed(models.GoalSampler(), vectors, mask)
    sampling = function_named(observation, "get_goal_2D")
    assert sampling.kind == "function"
    assert sampling.arguments == {
        "vectors": "Tensor",
        "mask": "Tensor",
        "goal_spacing": "float",
        "limit": "int",
    }
    assert sampling.locals["pieces"] == "List[int]"
    assert sampling.locals["spacings"] == "List[float]"
    assert sampling.locals["on_lanes"] == "List[Tensor]"
    assert function_named(observation, "unique_points").callers == (sampling.key,)


class Point(NamedTuple):
    x: int


class Odd:
    pass


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1], "int"),
        ([1, 2.5], "float"),
        ([True], "bool"),
        ([1, "a"], None),
        ([None], "NoneType"),
        ([None, X, None], "Optional[Tensor]"),
        ([nn.Parameter(X)], "Tensor"),
        ([[], [1]], "List[int]"),
        ([[]], None),
        ([[1, "a"]], None),
        ([[X, None]], "List[Optional[Tensor]]"),
        ([{}, {"a": [X]}], "Dict[str, List[Tensor]]"),
        ([(1, X), (2.0, X)], "Tuple[float, Tensor]"),
        ([(1,), (1, 2)], None),
        ([()], "Tuple[()]"),
        ([X.shape], "List[int]"),
        ([X.dtype], "torch.dtype"),
        ([Point(1)], "Point"),
        ([Odd()], None),
        ([[Odd()], None], None),
    ],
)
def test_types_are_merged_over_calls(values: list[Any], expected: str | None) -> None:
    class Calling(nn.Module):
        def forward(self, value: Any) -> None:
            pass

    module = Calling()
    observation = observe(module, lambda: [module(value) for value in values])
    assert function_named(observation, Calling.forward.__qualname__).arguments["value"] == expected


class TwoOnOneLine(nn.Module):
    def forward(self, x: torch.Tensor) -> bool:
        return bool(sum([*x.tolist()[0], *(x > 0).tolist()[0]]) > x.sum().item())


def test_numbers_taken_from_tensors_have_types_by_place() -> None:
    observation = observed(TwoOnOneLine(), X)
    kinds = set(observation.numbers.values())
    assert {file for file, _, _ in observation.numbers} == {__file__}
    if sys.version_info >= (3, 11):
        assert kinds == {"List[List[float]]", "List[List[bool]]", "float"}
    else:  # only the line is known
        assert kinds == {None}


def test_default_none_makes_an_argument_optional() -> None:
    observation = observed(models.Functions(), X)
    function = function_named(observation, "add_until_positive")
    assert function.arguments == {"x": "Tensor", "steps": "int", "extra": "NoneType"}


def test_unset_attributes_get_the_type_that_they_have_after() -> None:
    observation = observed(models.UsesCache(), X)
    assert observation.attributes == {"cache": {"previous": "Optional[Tensor]"}}


def test_innermost_function_and_smallest_unit_of_a_line() -> None:
    observation = observed(models.DeepBranch(), X, X)
    file = models.__file__
    found = observation.function_at(file, line_of(models.Block, "if x.sum() > 0"))
    assert found is not None
    assert found.key[2] == "Block.forward"
    assert observation.unit_of(found) == Unit("module", paths=("layers.0.1", "shared"))
    assert observation.function_at(file, 1) is None


def test_units_widen_to_parents_that_can_be_called_and_end_at_the_whole() -> None:
    observation = observed(models.DeepBranch(), X, X)
    unit: Unit | None = Unit("module", paths=("layers.0.1",))
    seen = []
    while unit is not None:
        seen.append(unit.paths)
        unit = observation.wider(unit)
    assert seen == [("layers.0.1",), ("layers.0",), ("",)]


def test_functions_widen_to_what_calls_them() -> None:
    vectors, mask = torch.randn(4, 6, 8), torch.ones(4, 6, dtype=torch.bool)
    observation = observed(models.GoalSampler(), vectors, mask)
    unit: Unit | None = observation.unit_of(function_named(observation, "unique_points"))
    seen = []
    while unit is not None:
        seen.append(str(unit))
        unit = observation.wider(unit)
    assert seen == ["unique_points", "get_goal_2D", "the whole module"]


def test_units_return_what_a_trace_can_take() -> None:
    vectors, mask = torch.randn(4, 6, 8) * 9, torch.ones(4, 6, dtype=torch.bool)
    observation = observed(models.GoalSampler(), vectors, mask)
    number = function_named(observation, "get_subdivide_num")
    assert number.returns == "int"
    assert str(observation.unit_of(number)) == "get_goal_2D"


def test_decorated_functions_are_functions_and_their_wrappers_belong_to_callers() -> None:
    observation = observed(models.Functions(), X)
    gated = function_named(observation, "gated")
    assert observation.unit_of(gated) == Unit("function", gated.key)
    wrapper = observation.functions[gated.callers[0]]
    assert wrapper.kind == "other"
    assert observation.unit_of(wrapper) == Unit("module", paths=("",))


def test_only_methods_called_from_outside_are_entries() -> None:
    assert observed(models.UsesCodec(), X).entries == {"": ("forward",), "codec": ("encode",)}
    assert observed(models.DeepBranch(), X, X).entries["shared"] == ("forward",)


def test_profiler_is_put_back_when_the_call_raises() -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        observe(nn.Identity(), fail)
    assert sys.getprofile() is None

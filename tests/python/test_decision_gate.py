"""The decision gate: its arithmetic, and that an export keeps both of its branches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from ts_infer.models import decision_gate

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")  # they are deprecated


def inputs_on_both_branches() -> list[tuple[Tensor, Tensor]]:
    """Returns inputs of several batch sizes, with a positive and a negative gate each."""
    found = []
    for batch in (1, 3, 17):
        x, h = decision_gate.example_inputs(batch, seed=batch)
        found += [(scale * x, h) for scale in (-20.0, 20.0)]
    return found


@pytest.mark.parametrize(("values", "sign"), [((1.0, 2.0), 1), ((-1.0, -2.0), -1), ((0.0,), -1)])
def test_gate_negates_unless_sum_is_positive(values: tuple[float, ...], sign: int) -> None:
    x = torch.tensor(values)
    assert torch.equal(decision_gate.MyDecisionGate()(x), sign * x)


def test_cell_computes_tanh_of_gate_and_state() -> None:
    cell = decision_gate.make()
    for x, h in inputs_on_both_branches():
        linear = x @ cell.linear.weight.T + cell.linear.bias
        gated = linear if linear.sum() > 0 else -linear
        output, new_h = cell(x, h)
        torch.testing.assert_close(output, torch.tanh(gated + h))
        assert torch.equal(output, new_h)


def test_inputs_reach_both_branches() -> None:
    cell = decision_gate.make()
    positive = {bool(cell.linear(x).sum() > 0) for x, _ in inputs_on_both_branches()}
    assert positive == {False, True}


def test_make_gives_same_weights_and_leaves_random_state() -> None:
    before = torch.random.get_rng_state()
    first, second, other = decision_gate.make(), decision_gate.make(), decision_gate.make(seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.linear.weight, second.linear.weight)
    assert not torch.equal(first.linear.weight, other.linear.weight)
    assert not first.training


def test_script_is_exact_on_both_branches() -> None:
    cell = decision_gate.make()
    scripted = torch.jit.script(cell)
    for inputs in inputs_on_both_branches():
        for actual, expected in zip(scripted(*inputs), cell(*inputs), strict=True):
            assert torch.equal(actual, expected)


def test_trace_warns_and_loses_a_branch() -> None:
    cell = decision_gate.make()
    with pytest.warns(TracerWarning, match="boolean"):
        traced = torch.jit.trace(cell, decision_gate.example_inputs())  # type: ignore[no-untyped-call]
    wrong = [i for i in inputs_on_both_branches() if not torch.equal(traced(*i)[0], cell(*i)[0])]
    assert wrong


def test_export_spec_fits_the_module() -> None:
    spec = decision_gate.export_spec()
    assert spec["method"] == "script"
    assert tuple(spec["dynamic_shapes"]) == decision_gate.INPUT_NAMES
    assert len(spec["module"](*spec["example_inputs"])) == len(spec["output_names"])

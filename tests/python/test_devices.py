"""Rewriting devices that a trace wrote down: the exported model follows its inputs."""
# mypy: disable-error-code="no-untyped-call,no-any-return"

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from archives import jit_load, quiet_torch_jit, script
from torch import Tensor, nn

from ts_infer import runtime
from ts_infer._export import export
from ts_infer._export.devices import Rewrite, follow_input_device
from ts_infer._export.scan import nodes_of, scan

if TYPE_CHECKING:
    from pathlib import Path


def trace(module: nn.Module, *inputs: Any) -> Any:
    tracer: Any = torch.jit.trace
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return tracer(module.eval(), inputs, strict=False, check_trace=False)


def freeze(module: Any, names: list[str] | None = None) -> Any:
    with quiet_torch_jit():
        return torch.jit.freeze(module, preserved_attrs=names)


def archive_of(module: Any) -> bytes:
    buffer = io.BytesIO()
    with quiet_torch_jit():
        torch.jit.save(module, buffer)
    return buffer.getvalue()


optimized_execution: Any = torch.jit.optimized_execution  # type: ignore[attr-defined]


def on_meta(archive: bytes) -> Any:
    """The module on torch's meta device, where a tensor of another device is an error."""
    module = jit_load(io.BytesIO(archive))
    for node, _ in nodes_of(module.graph):
        # Weights of a frozen module are constants, which Module.to does not reach.
        is_constant = node.kind() == "prim::Constant" and node.hasAttribute("value")
        if is_constant and node.kindOf("value") == "t":
            node.t_("value", node.t("value").to("meta"))
    return module


def run_on_meta(archive: bytes, *inputs: Tensor) -> Tensor:
    # Torch's optimiser compares constants, which the meta device cannot.
    with quiet_torch_jit(), torch.no_grad(), optimized_execution(False):
        out: Tensor = on_meta(archive)(*(x.to("meta") for x in inputs))
    return out


class Zeros(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.zeros(x.shape[0], 1, device=x.device)


class Makers(nn.Module):
    """Some of it depends on nothing and is folded when it is frozen."""

    def forward(self, x: Tensor) -> Tensor:
        y = x + torch.arange(x.shape[1], device=x.device)
        y = y + torch.full((x.shape[0], 1), 2.0, device=x.device)
        y = y + torch.full((4,), 3.0, device=x.device)
        return y + torch.tensor([1.0, 2.0, 3.0, 4.0], device=x.device)


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(4, 4, num_layers=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lstm(x)[0]
        return out


def scripted_zeros(x: Tensor) -> Tensor:
    if x.size(0) > 2:
        return x + torch.zeros(x.size(0), 1, device=x.device)
    return x * 2


class Mixed(nn.Module):
    """A scripted function between traced parts, and a plain tensor that moves to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.arange(4.0)
        self.lstm = Lstm()
        self.function = script(scripted_zeros)

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(x) + self.lstm(x) + self.table.to(x.device)
        return y * torch.ones(x.shape[0], 4, device=x.device)


X = torch.arange(12.0).reshape(3, 4) / 10
CASES = [
    (Zeros, ["aten::zeros"]),
    (Makers, ["aten::arange", "aten::full"]),
    (Lstm, ["aten::zeros"]),
    (Mixed, ["aten::zeros", "aten::ones"]),
]


@pytest.mark.parametrize(("cls", "operators"), CASES)
def test_rewritten_trace_computes_the_same_and_runs_on_another_device(
    cls: type[nn.Module], operators: list[str]
) -> None:
    module = cls().eval()
    frozen = freeze(trace(module, X))
    before = archive_of(frozen)
    rewrite = follow_input_device(frozen, "cpu")
    assert list(dict.fromkeys(node.operator for node in rewrite.rewritten)) == operators
    assert {node.statement.file for node in rewrite.rewritten if node.statement} == {__file__}
    assert rewrite.left == []
    after = archive_of(frozen)
    assert scan(jit_load(io.BytesIO(after))).devices == []
    for size in (2, 3, 5):
        x = torch.rand(size, 4)
        with torch.no_grad():
            expected, model = module(x), jit_load(io.BytesIO(after))
            for _ in range(3):  # the executor specialises after the first ones
                torch.testing.assert_close(model(x), expected)
            assert torch.equal(model(x), jit_load(io.BytesIO(before))(x))
    assert run_on_meta(after, X).device.type == "meta"
    with pytest.raises(RuntimeError, match="device"):
        run_on_meta(before, X)


@pytest.mark.parametrize(("cls", "operators"), CASES)
@pytest.mark.parametrize("optimize", [True, False])
def test_runtime_runs_what_was_rewritten(
    cls: type[nn.Module], operators: list[str], optimize: bool, tmp_path: Path
) -> None:
    module = cls().eval()
    frozen = freeze(trace(module, X))
    follow_input_device(frozen, "cpu")
    path = tmp_path / "model.pt"
    path.write_bytes(archive_of(frozen))
    model = runtime.load(path, device="cpu", optimize=optimize)
    for size in (3, 3, 3, 5):
        x = torch.rand(size, 4)
        with torch.no_grad():
            torch.testing.assert_close(model(x), module(x))


@pytest.mark.parametrize(("cls", "operators"), CASES)
def test_rewriting_survives_freezing_and_optimising_after_it(
    cls: type[nn.Module], operators: list[str]
) -> None:
    module = cls().eval()
    traced = trace(module, X)
    rewrite = follow_input_device(traced, "cpu")
    # Before freezing, what could be folded is rewritten too.
    assert {node.operator for node in rewrite.rewritten} >= set(operators)
    for form in (freeze(traced), freeze(jit_load(io.BytesIO(archive_of(traced))))):
        assert scan(form).devices == []
        with torch.no_grad():
            torch.testing.assert_close(form(X), module(X))
    with quiet_torch_jit():
        fast = torch.jit.optimize_for_inference(freeze(traced))
    assert scan(fast).devices == []


def test_map_location_moves_constants_and_the_device_follows() -> None:
    frozen = freeze(trace(Zeros().eval(), X))
    follow_input_device(frozen, "cpu")
    buffer = io.BytesIO(archive_of(frozen))
    loader: Any = torch.jit.load
    with quiet_torch_jit():
        moved = loader(buffer, map_location="meta")
    assert moved(X.to("meta")).device.type == "meta"


class Branches(nn.Module):
    def forward(self, x: Tensor, n: int) -> Tensor:
        device = torch.device("cpu")
        for _ in range(n):
            if n > 1:
                x = x + torch.ones(x.size(0), 1, device=device)
        return x


def test_constant_in_inner_blocks_follows_too() -> None:
    module = freeze(script(Branches().eval()))
    # As though a trace had written it down: the source of the operator does not name it.
    rewrite = follow_input_device(module, "cpu")
    assert [node.operator for node in rewrite.rewritten] == ["aten::ones"]
    model = jit_load(io.BytesIO(archive_of(module)))
    for n in (0, 1, 3):
        torch.testing.assert_close(model(X, n), Branches()(X, n))
    assert run_on_meta_with(module, 3).device.type == "meta"


def run_on_meta_with(module: Any, n: int) -> Tensor:
    with quiet_torch_jit(), optimized_execution(False):
        out: Tensor = on_meta(archive_of(module))(X.to("meta"), n)
    return out


class SecondTensor(nn.Module):
    def forward(self, xs: list[Tensor], x: Tensor) -> Tensor:
        return xs[0] + x + torch.zeros(x.shape[0], 1, device=x.device)


def test_first_tensor_argument_is_followed_not_a_container() -> None:
    frozen = freeze(trace(SecondTensor(), [X], X))
    assert [node.operator for node in follow_input_device(frozen, "cpu").rewritten] == [
        "aten::zeros"
    ]
    (node,) = (node for node, _ in nodes_of(frozen.graph) if node.kind() == "prim::device")
    assert next(iter(node.inputs())).unique() == list(frozen.graph.inputs())[2].unique()


class OnlyList(nn.Module):
    def forward(self, xs: list[Tensor]) -> Tensor:
        return xs[0] + torch.zeros(xs[0].shape[0], 1, device=xs[0].device)


def reasons(rewrite: Rewrite) -> list[tuple[str, str]]:
    return [(node.operator, reason) for node, reason in rewrite.left]


def test_without_a_tensor_argument_the_device_stays() -> None:
    frozen = freeze(trace(OnlyList(), [X]))
    rewrite = follow_input_device(frozen, "cpu")
    assert rewrite.rewritten == []
    assert reasons(rewrite) == [("aten::zeros", "has no tensor argument of forward to follow")]
    assert len(scan(frozen).devices) == 1


def test_another_device_than_the_inputs_stays() -> None:
    frozen = freeze(trace(Zeros(), X))
    rewrite = follow_input_device(frozen, "cuda:0")
    assert rewrite.rewritten == []
    assert reasons(rewrite) == [("aten::zeros", "is on cpu, the inputs on cuda:0")]


class Named(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x + torch.zeros(x.shape[0], 1, device="cpu")
        return y.cpu() + torch.ones(x.shape[0], 1, device=x.device)


def test_device_that_the_source_names_stays() -> None:
    frozen = freeze(trace(Named(), X))
    rewrite = follow_input_device(frozen, "cpu")
    assert [node.operator for node in rewrite.rewritten] == ["aten::ones"]
    assert "aten::zeros" in [node.operator for node in rewrite.named]
    assert rewrite.left == []


def test_report_notes_the_device_that_the_source_names(tmp_path: Path) -> None:
    report = export(Named().eval(), X, tmp_path / "m.pt", method="trace", audit="fast")
    (note,) = (note for note in report.notes if "the source names" in note)
    assert "aten::zeros at" in note
    assert "aten::ones" not in note


def forked(x: Tensor) -> Tensor:
    device = torch.device("cpu")
    return x + torch.zeros(x.size(0), 1, device=device)


class ForksAndMethods(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        future: torch.jit.Future[Tensor] = torch.jit.fork(forked, x)
        return torch.jit.wait(future)

    @torch.jit.export
    def fresh(self, n: int) -> Tensor:
        device = torch.device("cpu")
        return torch.zeros(n, device=device)


def test_forks_and_other_methods_are_left_and_named() -> None:
    frozen = freeze(script(ForksAndMethods().eval()), ["fresh"])
    rewrite = follow_input_device(frozen, "cpu")
    assert rewrite.rewritten == []
    assert reasons(rewrite) == [
        ("aten::zeros", "is on cpu, in a graph that is forked"),
        ("aten::zeros", "is on cpu, in the method fresh"),
    ]
    torch.testing.assert_close(jit_load(io.BytesIO(archive_of(frozen)))(X), X)

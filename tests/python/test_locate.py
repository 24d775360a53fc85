"""Finding the statement at which two runs part, or that took a value out of a tensor."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ts_infer._export.locate import (
    Suspect,
    divergence,
    first_write,
    raised_explicitly,
    suspects,
)
from ts_infer.models import decision_gate

if TYPE_CHECKING:
    from collections.abc import Callable


class If(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        if y.sum() > 0:  # <-
            return y
        return -y


class LoopOverRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        total = x[0] * 0
        for i in range(x.shape[0]):  # <-
            total = total + x[i] * i
        return total


class RareBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for i in range(3):
            x = x * 2 + i
            if i == 2 and x.isnan().any():  # <-
                x = x.nan_to_num()
        return x


class Conditional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (
            1
            if x.sum() > 0  # <-
            else -1
        )


class Comprehension(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rows = [row * 2 for row in x]  # <-
        return torch.stack(rows).sum(0)


class While(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while x.abs().max() > 1:  # <-
            x = x / 2
        return x


class ShortCircuit(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        flag = bool(x.sum() > 0) and bool(x[0] > 1)  # <-
        return x * flag


class Match(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        match x.dim():  # <-
            case 1:
                return x
            case _:
                return x.sum(0)


class EarlyReturn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        # fmt: off
        if x.numel() == 0: return x  # noqa: E701 <-
        # fmt: on
        return x / x.sum()


class InAnotherFile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = decision_gate.MyDecisionGate()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.gate(x)
        return out


class Handled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        try:
            return x.view(2, 2)  # <-
        except RuntimeError:
            return x


class Generator(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(list(self.halves(x))).sum(0)

    def halves(self, x: Tensor) -> Any:
        while x.abs().max() > 1:  # <-
            yield x
            x = x / 2
        yield x


def deep() -> nn.Module:
    inner: nn.Module = If()
    for _ in range(3):
        inner = nn.Sequential(nn.Identity(), inner)
    return inner


def marked(cls: Any, mark: str = "<-") -> int:
    lines, first = inspect.getsourcelines(cls)
    return first + next(i for i, line in enumerate(lines) if mark in line)


def call(module: nn.Module, *inputs: Any) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            module(*inputs)

    return run


POSITIVE, NEGATIVE = torch.tensor([1.0, 2.0]), torch.tensor([-1.0, -2.0])
NAN = torch.tensor([1.0, float("nan")])


@pytest.mark.parametrize(
    ("cls", "a", "b", "kind"),
    [
        (If, POSITIVE, NEGATIVE, "If"),
        (LoopOverRows, torch.ones(2, 3), torch.ones(4, 3), "For"),
        (RareBranch, POSITIVE, NAN, "If"),
        (Conditional, POSITIVE, NEGATIVE, "IfExp"),
        (Comprehension, torch.ones(2, 3), torch.ones(3, 3), "ListComp"),
        (While, POSITIVE, POSITIVE * 100, "While"),
        (ShortCircuit, POSITIVE, NEGATIVE, "BoolOp"),
        (Match, torch.ones(2), torch.ones(2, 2), "Match"),
        (EarlyReturn, POSITIVE, torch.ones(0), "If"),
        (Handled, torch.ones(4), torch.ones(3), "Return"),
        (Generator, POSITIVE, POSITIVE * 100, "While"),
    ],
)
def test_divergence_is_the_statement_that_decided(
    cls: Any, a: Tensor, b: Tensor, kind: str
) -> None:
    for first, second in ((a, b), (b, a)):
        statement = divergence(call(cls(), first), call(cls(), second))
        assert statement is not None
        assert (statement.file, statement.kind) == (__file__, kind)
        line = marked(cls)
        # A statement begins where it begins; the mark may be on a line inside.
        assert line - 2 <= statement.line <= line
        assert statement.text


def test_divergence_in_another_file() -> None:
    module = InAnotherFile()
    statement = divergence(call(module, POSITIVE), call(module, NEGATIVE))
    assert statement is not None
    assert statement.file == decision_gate.__file__
    assert statement.text == "if x.sum() > 0:"


def test_divergence_below_submodules_of_torch() -> None:
    statement = divergence(call(deep(), POSITIVE), call(deep(), NEGATIVE))
    assert statement is not None
    assert statement.line == marked(If)
    assert statement.text.startswith("if y.sum() > 0:")


def test_same_path_has_no_divergence() -> None:
    assert divergence(call(deep(), POSITIVE), call(deep(), POSITIVE * 3)) is None


class Context(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = x.view(2, 2)
        return y if y.sum() > 0 else -y


def test_run_that_raises_counts_until_then() -> None:
    good, bad = call(Context(), torch.ones(4)), call(Context(), torch.ones(3))
    assert divergence(good, bad) is None
    assert divergence(bad, good) is None


class GateThenView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # <-
            x = -x
        return x.view(7, 7)


def test_runs_that_raise_may_have_parted_before() -> None:
    statement = divergence(call(GateThenView(), POSITIVE), call(GateThenView(), NEGATIVE))
    assert statement is not None
    assert statement.line == marked(GateThenView)


def test_divergence_ends_a_second_run_that_would_not_end() -> None:
    class Endless(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            while x.sum() > 0:  # <-
                x = x + 0
                if x.max() < 1.5:
                    break
            return x

    statement = divergence(call(Endless(), torch.ones(2)), call(Endless(), 2 * torch.ones(2)))
    assert statement is not None
    assert statement.text == "if x.max() < 1.5:"


def test_import_in_a_first_run_is_no_divergence(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_once.py").write_text("VALUES = [n for n in range(3)]\n")
    monkeypatch.syspath_prepend(tmp_path)

    class Importing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            import imported_once  # type: ignore[import-not-found]

            return x * imported_once.VALUES[2]  # type: ignore[no-any-return]

    assert divergence(call(Importing(), POSITIVE), call(Importing(), POSITIVE)) is None


# Suspects.


class Straight(nn.Module):
    """One of each; nothing branches."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.scale = 2.0

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.scale
        y = y * x.sum().item()  # item
        y = y + float(np.tanh(y[0].numpy()).max())  # numpy
        y = y * int(x.shape[0])  # number
        y = y / (x.shape[1] - 0.5)  # size
        y = y + torch.zeros(x.size(1), device=x.device)  # maker
        y = y + torch.tensor([1.0, 2.0])  # constant
        y = y.to("cpu")  # device
        self.count += 1  # state
        y = y * self.count  # reads
        return y - self._unused() if self.scale < 0 else y

    def _unused(self) -> float:
        return float(self.weight.item())  # type: ignore[operator]  # never


def reasons_by_line(found: list[Suspect]) -> dict[int, str]:
    return {suspect.line: suspect.reason for suspect in found}


def test_suspects_are_the_statements_that_ran_with_reasons() -> None:
    found = suspects(call(Straight(), torch.ones(3, 2)))
    reasons = reasons_by_line(found)
    expected = {
        "# item": "item",
        "# numpy": "numpy",
        "# number": "number",
        "# size": "size",
        "# maker": "size",
        "# constant": "constant",
        "# device": "device",
        "# state": "state",
        "# reads": "reads-state",
        "return y -": "branch",
    }
    assert reasons == {marked(Straight, mark): reason for mark, reason in expected.items()}
    assert found[0].text.startswith("y = y * x.sum().item()")
    assert {suspect.file for suspect in found} == {__file__}


@pytest.mark.parametrize(
    ("code", "mark"),
    [
        ("state-lost", "# state"),
        ("sizes-differ", "# size"),
        ("device-baked", "# device"),
        ("values-differ", "# item"),
    ],
)
def test_finding_says_what_is_most_suspicious(code: str, mark: str) -> None:
    first = suspects(call(Straight(), torch.ones(3, 2)), code)[0]
    if code == "device-baked":
        assert first.reason == "device"
    else:
        assert first.line == marked(Straight, mark)


class Kinds(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 1:  # rank
            x = x.unsqueeze(0)
        scale = 2 if x.dtype == torch.float32 else 3  # dtype
        return x * scale


def test_branches_on_rank_and_dtype_are_suspects() -> None:
    reasons = reasons_by_line(suspects(call(Kinds(), POSITIVE), "ranks-differ"))
    assert reasons[marked(Kinds, "# rank")] == "kind"
    assert reasons[marked(Kinds, "# dtype")] == "kind"


calls = 0


class Global(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        global calls
        calls += 1  # write
        return x + calls  # read


def test_global_variables_are_state() -> None:
    reasons = reasons_by_line(suspects(call(Global(), POSITIVE), "state-lost"))
    assert reasons[marked(Global, "# write")] == "state"
    assert reasons[marked(Global, "# read")] == "reads-state"


def test_suspects_of_a_run_that_raises_are_those_that_ran() -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            n = x.sum().item()  # ran
            x = x.view(7, 7)
            return x * x.max().item() * n  # did not

    reasons = reasons_by_line(suspects(call(Failing(), POSITIVE)))
    assert list(reasons) == [marked(Failing, "# ran")]


def test_plain_operators_are_no_suspects() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.linear(x))
            return y + torch.zeros_like(x) + float("1")

    assert suspects(call(Plain(), POSITIVE)) == []


# Writes.


class WritesIntoView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y += 1
        row = x[0]
        row.mul_(2)  # <-
        return y + x


def test_first_write_is_the_statement_that_changes_a_tensor() -> None:
    x = torch.ones(2, 2)
    statement = first_write(call(WritesIntoView(), x), [x])
    assert statement is not None
    assert statement.line == marked(WritesIntoView)
    assert first_write(call(WritesIntoView(), torch.ones(2, 2)), [x]) is None


# Exceptions.


def error_of(function: Callable[[], Any]) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        function()
    return caught.value


def raising() -> None:
    raise ValueError("no")


def guarded() -> None:
    # fmt: off
    if POSITIVE.sum() > 0: raise ValueError("no")  # noqa: E701
    # fmt: on


def asserting() -> None:
    assert POSITIVE.sum() < 0


def translating() -> None:
    try:
        POSITIVE.view(7, 7)
    except RuntimeError as error:
        raise ValueError("no") from error


def torch_asserting() -> None:
    torch._assert(POSITIVE.sum() < 0, "no")  # type: ignore[no-untyped-call]


def failing_in_torch() -> None:
    POSITIVE.view(7, 7)


def failing_in_an_assert() -> None:
    assert POSITIVE.view(7, 7).sum() > 0


def passing_on() -> None:
    try:
        POSITIVE.view(7, 7)
    except RuntimeError:
        raise


def failing_in_python() -> None:
    [][0]


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (raising, 'raise ValueError("no")'),
        (guarded, 'if POSITIVE.sum() > 0: raise ValueError("no")'),
        (asserting, "assert POSITIVE.sum() < 0"),
        (translating, 'raise ValueError("no") from error'),
        (torch_asserting, 'torch._assert(POSITIVE.sum() < 0, "no")'),
    ],
)
def test_explicit_raise_is_found(function: Callable[[], None], text: str) -> None:
    statement = raised_explicitly(error_of(function))
    assert statement is not None
    assert statement.text.startswith(text)
    assert statement.file == __file__


@pytest.mark.parametrize(
    "function", [failing_in_torch, failing_in_an_assert, passing_on, failing_in_python]
)
def test_errors_of_torch_and_python_are_not_explicit(function: Callable[[], None]) -> None:
    assert raised_explicitly(error_of(function)) is None

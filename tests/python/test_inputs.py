"""Whatever a caller passes: a result that is right, or an error that says what is wrong."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from archives import Steps, archive_bytes, intra_op_threads, script
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ts_infer import ExecutionError, InputError, runtime

if TYPE_CHECKING:
    from collections.abc import Callable


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.relu(self.first(x)))
        return y


class Mixed(nn.Module):
    """Every kind of argument; what comes back tells what came in."""

    def forward(
        self,
        x: Tensor | None = None,
        n: int = 1,
        scale: float = 1.0,
        text: str = "",
        parts: list[Tensor] | None = None,
        table: dict[str, tuple[int, Tensor]] | None = None,
        flag: bool = False,
    ) -> tuple[Tensor, int, str, bool]:
        total = torch.full((1,), scale, dtype=torch.float64)
        if x is not None:
            total = total + x.to(torch.float64).sum()
        if parts is not None:
            for part in parts:
                total = total + part.to(torch.float64).sum()
        if table is not None:
            for key in table:
                count, value = table[key]
                total = total + count * value.to(torch.float64).sum()
        return total, n, text, flag


class AnyOf(nn.Module):
    def forward(self, x: Any) -> bool:
        return isinstance(x, Tensor)


class Exported:
    """An array of another library's, that DLPack hands over."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def emptied() -> Tensor:
    tensor = torch.ones(2, 4)
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (emptied, "expected memory for every element"),
        (lambda: torch._efficientzerotensor((2, 4)), "expected memory for every element"),
        (lambda: FakeTensorMode().from_tensor(torch.ones(2, 4)), "stands for another"),
        (lambda: torch._to_functional_tensor(torch.ones(2, 4)), "stands for another"),
        (lambda: torch.ones(2, 4, device="meta"), "device: expected cpu, got meta"),
    ],
)
def test_tensors_without_memory_are_refused(make: Callable[[], Any], message: str) -> None:
    model = runtime.load(archive_bytes(Layers()))
    with pytest.raises(InputError, match=message):
        model(make())
    lists = runtime.load(archive_bytes(Mixed()))
    with pytest.raises(InputError, match=message):
        lists(parts=[torch.ones(2), make()])
    torch.testing.assert_close(model(torch.ones(2, 4)), script(Layers())(torch.ones(2, 4)))


def test_transforms_of_functions_are_refused() -> None:
    model = runtime.load(archive_bytes(Layers()))
    with pytest.raises(InputError, match="vmap or grad"):
        torch.vmap(lambda row: model(row))(torch.ones(3, 4))
    with pytest.raises(InputError, match="vmap or grad"):
        torch.func.grad(lambda x: model(x).sum())(torch.ones(2, 4))


def test_a_view_that_stands_for_its_negative_is_read_as_what_it_is() -> None:
    x = torch.complex(torch.zeros(2, 4), torch.arange(8.0).reshape(2, 4)).conj().imag
    assert x.is_neg()
    model = runtime.load(archive_bytes(Layers()))
    torch.testing.assert_close(model(x), script(Layers())(x))


def test_dlpack_tensors_that_torch_would_stumble_over_are_refused() -> None:
    model = runtime.load(archive_bytes(Layers()))
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    torch.testing.assert_close(model(Exported(x)), model(x))
    torch.testing.assert_close(model(x[:, ::-1]), model(x[:, ::-1].copy()))
    with pytest.raises(
        InputError, match=r"expected strides of 0 or more .* got \[4, -1\]; make a copy"
    ):
        model(Exported(x[:, ::-1]))


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def within_itself() -> list[Any]:
    value: list[Any] = []
    value.append({"a": (value,)})
    return value


@pytest.mark.parametrize("value", [nested(101), nested(100_000), within_itself()])
def test_what_may_be_anything_nests_only_so_deep(value: object) -> None:
    model = runtime.load(archive_bytes(AnyOf()))
    with pytest.raises(InputError, match="nest more than 100 deep"):
        model(value)
    assert model(torch.ones(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 2**70}, "expected int, got one of more than 64 bits"),
        ({"text": "\ud800"}, "expected str, got one that UTF-8 cannot write"),
        ({"text": b"a"}, "expected str, got bytes"),
        ({"\ud800": 1}, "an unknown one"),
        ({"\0": 1}, "an unknown one"),
        ({"n": torch.tensor(3)}, "an array is no number; pass its item()"),
        ({"n": np.array(0.5)}, "an array is no number; pass its item()"),
        ({"n": np.float32(0.5)}, "expected int, got float32 .pass an int"),
        ({"flag": torch.tensor(2.5)}, "an array is no number; pass its item()"),
        ({"flag": None}, "expected bool, got None .pass True or False"),
        ({"flag": 1}, "expected bool, got int .pass True or False"),
    ],
)
def test_values_of_another_form_are_refused(arguments: dict[str, Any], message: str) -> None:
    model = runtime.load(archive_bytes(Mixed()))
    with pytest.raises(InputError, match=message):
        model(**arguments)


def test_a_call_with_a_deadline_returns_what_a_call_returns() -> None:
    model = runtime.load(archive_bytes(Mixed()))
    x = torch.ones(2)
    for arguments in ((x, 3), (x.numpy(), 3)):
        total, n, text, flag = model.call_within(60_000, *arguments, text="a")
        assert (total.item(), n, text, flag) == (3.0, 3, "a", False)
    with pytest.raises(InputError, match="expected int, got float"):
        model.call_within(60_000, x, 1.5)
    for deadline in (-1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="deadline_ms: expected a number from 0"):
            model.call_within(deadline, x)
    with pytest.raises(InputError, match="deadline_ms: expected more than 0, got 0"):
        model.call_within(0, x, 3)


def test_a_call_past_its_deadline_is_an_error_and_counts_as_a_call_of_the_state() -> None:
    model = runtime.load(archive_bytes(Steps()))
    x = torch.ones(100)
    with pytest.raises(ExecutionError, match=RAN):
        model.call_within(100, x, 400_000)
    assert model(x, 1)[0] == 2
    assert model.stats().count == 1


GOT_NONE = r"deadline_ms: expected a result within [\d.e-]+ ms, got none; "
RAN = GOT_NONE + r"it has run for [\d.]+ ms and goes on in the background"
MISSED = "|".join(
    [
        RAN,
        GOT_NONE + "it was not started: (copying the inputs took as long|its thread got no proc)",
        r"deadline_ms: expected a result within [\d.e-]+ ms, got it after [\d.]+ ms; it is dropped",
    ]
)


def test_an_error_of_a_deadline_says_what_happened() -> None:
    model = runtime.load(archive_bytes(Mixed()))
    x = torch.ones(2)
    with pytest.raises(ExecutionError, match="it was not started: copying the inputs took as long"):
        model.call_within(1e-6, x, 3)

    def error_within(milliseconds: float) -> str:
        try:
            model.call_within(milliseconds, x, 3)
        except ExecutionError as error:
            return str(error)
        return ""

    errors = [error_within(ms) for ms in [0.003, 0.01, 0.03, 0.1] * 50]
    missed = [error for error in errors if error]
    assert [error for error in missed if not re.search(MISSED, error)] == []
    assert model.stats().count == 200 - len(missed)
    assert model.call_within(60_000, x, 3)[1] == 3


def test_the_thread_for_deadlines_comes_with_the_first_such_call() -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    def become(count: int) -> bool:  # a thread that was joined may be listed for a moment
        for _ in range(1000):
            if threads() == count:
                return True
            time.sleep(0.01)
        return False

    with intra_op_threads(1):
        model = runtime.load(archive_bytes(Mixed()))
        x = torch.ones(2)
        model(x, 3)
        before = threads()
        for _ in range(3):
            model.call_within(60_000, x, 3)
            assert become(before + 1)
        del model
        assert become(before)


def test_copies_that_find_no_memory_are_an_execution_error() -> None:
    model = runtime.load(archive_bytes(Mixed()))
    with pytest.raises(ExecutionError, match="memory"):
        model.call_within(60_000, torch.ones(1).expand(2**46), 3)
    assert model.call_within(60_000, torch.ones(2), 3)[1] == 3


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        out: tuple[Tensor, Tensor | None] = self.attention(x, x, x, need_weights=False)
        return out


@pytest.mark.parametrize("options", [{}, {"optimize": False}, {"executor": "profiling"}])
def test_an_output_that_is_undefined_is_none(options: dict[str, Any]) -> None:
    module, x = Attention().eval(), torch.randn(1, 3, 8)
    model = runtime.load(archive_bytes(module), **options)
    with torch.inference_mode():
        expected = module(x)[0]
    for output, weights in (model(x), model.call_within(60_000, x), model(x)):
        assert weights is None
        torch.testing.assert_close(output, expected)


DTYPES = st.sampled_from(
    [
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64),
        *(torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool, torch.float8_e5m2),
    ]
)
SIZES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 4, 4, 7]), max_size=4)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Of any dtype, sizes and strides, over memory that may be shared, offset or negated."""
    sizes = draw(SIZES)
    seed = draw(st.integers(0, 1000))
    base = torch.arange(seed, seed + 600) % 17 - 8
    strides = draw(st.lists(st.integers(0, 9), min_size=len(sizes), max_size=len(sizes)))
    view = base.as_strided(sizes, strides, draw(st.integers(0, 30)))
    if draw(st.booleans()):
        view = view.contiguous()
    dtype = draw(DTYPES)
    tensor = view if dtype == torch.int64 else view.to(dtype)
    if dtype == torch.float32 and draw(st.booleans()):
        tensor = torch._neg_view(tensor)
    if dtype == torch.float32 and draw(st.integers(0, 4)) == 0:
        tensor = tensor.clone().requires_grad_()
    return tensor


ARRAYS = hnp.arrays(
    hnp.scalar_dtypes() | hnp.unicode_string_dtypes(),
    hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
).map(lambda array: array[..., ::-1] if array.ndim else array)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(max_size=3)
    | st.binary(max_size=3)
    | st.just(object())
)
LEAVES = tensors() | ARRAYS | ARRAYS.map(Exported) | SCALARS
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=2)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(["x", "n", "scale", "text", "parts", "table", "flag", "other"])
drawn = settings(deadline=None, suppress_health_check=list(HealthCheck))


def calls(model: runtime.Model, *args: Any, **kwargs: Any) -> Any:
    """What it returns; None where it refuses in the words of the library."""
    try:
        return model(*args, **kwargs)
    except (InputError, ExecutionError):
        return None


MODELS: dict[str, runtime.Model] = {}


def model_of(module: type[nn.Module]) -> runtime.Model:
    name = module.__name__
    if name not in MODELS:
        MODELS[name] = runtime.load(archive_bytes(module()), name=name)
    return MODELS[name]


@drawn
@given(x=tensors())
@example(x=torch.ones(0, 4))
def test_any_tensor_gives_what_torch_computes_or_an_error(x: Tensor) -> None:
    module = Layers()
    got = calls(model_of(Layers), x)
    try:
        with torch.no_grad(), intra_op_threads(1):
            expected = module(x)
    except RuntimeError:
        assert got is None
        return
    assert got is not None
    torch.testing.assert_close(got, expected)


@drawn
@given(args=st.lists(VALUES, max_size=8), kwargs=st.dictionaries(NAMES, VALUES, max_size=3))
def test_any_values_give_a_result_or_an_error(args: list[Any], kwargs: dict[str, Any]) -> None:
    result = calls(model_of(Mixed), *args, **kwargs)
    if result is not None:
        _, n, text, flag = result
        given_by_name = dict(
            zip(["x", "n", "scale", "text", "parts", "table", "flag"], args, strict=False)
        )
        given_by_name.update(kwargs)
        assert n == given_by_name.get("n", 1)
        assert flag is bool(given_by_name.get("flag", False))
        assert text == given_by_name.get("text", "")


@drawn
@given(value=VALUES)
def test_what_may_be_anything_gives_a_result_or_an_error(value: object) -> None:
    result = calls(model_of(AnyOf), value)
    assert result in (None, isinstance(value, Tensor | np.ndarray | Exported))


@drawn
@given(method=st.text(max_size=9), args=st.lists(VALUES, max_size=2))
def test_any_name_of_a_method_is_looked_up(method: str, args: list[Any]) -> None:
    if method != "forward":
        with pytest.raises(InputError, match="expected a method of the model"):
            model_of(Mixed).run_method(method, *args)

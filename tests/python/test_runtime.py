"""The Python door: it takes and returns what torch.jit.load(path)(...) would."""

import gc
import io
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from archives import Affine, archive_bytes, jit_load, script
from torch import Tensor, nn

import ts_infer
from ts_infer import runtime

SaveModel = Callable[..., Path]
RunBinary = Callable[..., subprocess.CompletedProcess[str]]

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
]


def assert_same(actual: Any, expected: Any) -> None:
    """Equal in value, structure and type; field names of a NamedTuple count."""
    if isinstance(expected, Tensor):
        assert isinstance(actual, Tensor)
        torch.testing.assert_close(actual, expected.detach(), rtol=0, atol=0, equal_nan=True)
    elif isinstance(expected, tuple):
        assert isinstance(actual, tuple)
        assert getattr(actual, "_fields", None) == getattr(expected, "_fields", None)
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_same(a, e)
    elif isinstance(expected, list):
        assert type(actual) is type(expected)
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_same(a, e)
    elif isinstance(expected, dict):
        assert type(actual) is type(expected)
        assert list(actual) == list(expected)
        for key in expected:
            assert_same(actual[key], expected[key])
    else:
        assert type(actual) is type(expected)
        assert actual == expected


class Point(NamedTuple):
    x: Tensor
    label: str


class Nested(NamedTuple):
    points: list[Point]
    total: int


class Scalars(nn.Module):
    def forward(
        self, i: int, f: float, b: bool, s: str, c: complex
    ) -> tuple[int, float, bool, str, complex]:
        return i + 1, f * 2, not b, s + "!", c * 2


class Lists(nn.Module):
    def forward(
        self, xs: list[Tensor], ints: list[int], floats: list[float], flags: list[bool]
    ) -> tuple[list[Tensor], list[int], list[float], list[bool], list[str]]:
        return [x + 1 for x in xs], ints + [len(xs)], floats, flags, ["a", "b"]  # noqa: RUF005


class Dicts(nn.Module):
    def forward(
        self, groups: dict[str, list[Tensor]], names: dict[int, str]
    ) -> tuple[dict[str, Tensor], dict[int, str], dict[str, list[Tensor]]]:
        sums: dict[str, Tensor] = {}
        for key, group in groups.items():
            sums[key] = torch.stack(group).sum(0)
        return sums, names, groups


class Optionals(nn.Module):
    def forward(
        self, x: Tensor | None, n: int | None = None, xs: list[Tensor] | None = None
    ) -> tuple[Tensor | None, int | None, int]:
        y: Tensor | None = None
        if x is not None:
            y = x * 2
        return y, n, 0 if xs is None else len(xs)


class NamedTuples(nn.Module):
    def forward(self, point: Point, rest: list[Point]) -> tuple[Nested, Point]:
        points = [point]
        points.extend(rest)
        return Nested(points, len(points)), Point(point.x + 1, point.label + "'")


class Tuples(nn.Module):
    def forward(
        self, pair: tuple[Tensor, tuple[int, Tensor]]
    ) -> tuple[tuple[Tensor, int], tuple[Tensor]]:
        x, (n, y) = pair
        return (x + n, n), (y,)


class Unions(nn.Module):
    def forward(self, x: Tensor | int | list[Tensor]) -> int:
        if isinstance(x, int):
            return x
        if isinstance(x, Tensor):
            return 100 + int(x.sum())
        return 200 + len(x)


class Devices(nn.Module):
    def forward(self, x: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        return x.to(device, dtype)


class NoArguments(nn.Module):
    def forward(self) -> None:
        return None


class ListInListInDict(nn.Module):
    def forward(self, tree: dict[str, list[list[Tensor]]]) -> dict[str, list[list[Tensor]]]:
        return tree


ONES = torch.ones(2, 3)
TYPE_CASES: list[tuple[type[nn.Module], tuple[Any, ...]]] = [
    (Scalars, (3, 1.5, True, "héllo", 1 + 2j)),
    (Scalars, (-(2**62), float("inf"), False, "", 0j)),
    (Lists, ([ONES, ONES * 2], [1, 2], [0.5], [True, False])),
    (Lists, ([], [], [], [])),
    (Lists, ((ONES, ONES), (1,), (0.5,), (True,))),
    (Dicts, ({"b": [ONES], "a": [ONES, ONES]}, {2: "two", 1: "one"})),
    (Dicts, ({}, {})),
    (Optionals, (ONES, 3, [ONES])),
    (Optionals, (None,)),
    (Optionals, (None, None, None)),
    (NamedTuples, (Point(ONES, "p"), [Point(ONES * 2, "q")])),
    (NamedTuples, ((ONES, "plain"), [])),
    (Tuples, ((ONES, (2, ONES * 3)),)),
    (Unions, (7,)),
    (Unions, (ONES,)),
    (Unions, ([ONES, ONES],)),
    (Devices, (ONES, torch.device("cpu"), torch.float64)),
    (NoArguments, ()),
    (ListInListInDict, ({"t": [[ONES], [], [ONES, ONES]]},)),
]


@pytest.mark.parametrize(("module", "args"), TYPE_CASES)
def test_call_returns_what_torch_jit_returns(
    module: type[nn.Module], args: tuple[Any, ...], save_model: SaveModel
) -> None:
    path = save_model(module())
    model = runtime.load(path, device="cpu")
    assert_same(model(*args), jit_load(path)(*args))
    assert_same(model.forward(*args), jit_load(path)(*args))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_passes_uncast(dtype: torch.dtype, save_model: SaveModel) -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, x])

    path = save_model(Doubled())
    x = torch.tensor([[0, 1], [1, 0]]).to(dtype)
    out = runtime.load(path, device="cpu")(x)
    assert out.dtype == dtype
    assert_same(out, jit_load(path)(x))


@pytest.mark.parametrize(
    "x",
    [
        torch.arange(6.0).reshape(3, 2).t(),
        torch.arange(12.0).reshape(2, 6)[:, ::2],
        torch.ones(1, 3).expand(4, 3),
        torch.zeros(0, 3),
        torch.tensor(2.5),
        torch.arange(3.0, requires_grad=True),
        nn.Parameter(torch.arange(3.0)),
    ],
    ids=["transposed", "strided", "expanded", "zero-size", "0-dim", "requires-grad", "parameter"],
)
def test_forward_takes_any_layout(x: Tensor, affine_path: Path) -> None:
    out = runtime.load(affine_path, device="cpu")(x)
    assert_same(out, jit_load(affine_path)(x))
    assert not out.requires_grad


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((ONES,), {}),
        ((ONES, 3.0), {}),
        ((ONES, 3.0, 4), {}),
        ((ONES,), {"shift": 5}),
        ((), {"x": ONES}),
        ((), {"shift": 2, "scale": 0.5, "x": ONES}),
    ],
)
def test_arguments_go_by_position_and_by_name(
    args: tuple[Any, ...], kwargs: dict[str, Any], affine_path: Path
) -> None:
    model = runtime.load(affine_path, device="cpu")
    assert_same(model(*args, **kwargs), jit_load(affine_path)(*args, **kwargs))


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.setflags(write=False)
    return array


ARRAYS = {
    "plain": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6, dtype=np.float32).reshape(3, 2).T,
    "reversed": np.arange(6, dtype=np.float32).reshape(2, 3)[::-1, ::-1],
    "read-only": read_only(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "broadcast": np.broadcast_to(np.float32(2), (2, 3)),
    "big-endian": np.arange(6, dtype=">f4").reshape(2, 3),
    "unaligned-strides": np.zeros(4, dtype=[("a", "i1"), ("b", "<f4", 3)])["b"],
    "zero-size": np.zeros((0, 3), dtype=np.float32),
    "0-dim": np.array(2.5, dtype=np.float32),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_numpy_arrays_stand_for_tensors(array: np.ndarray[Any, Any], affine_path: Path) -> None:
    expected = jit_load(affine_path)(torch.tensor(array.astype(np.float32)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(runtime.load(affine_path, device="cpu")(array), expected)


@pytest.mark.parametrize(
    "dtype",
    ["?", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16"],
)
def test_numpy_dtypes_pass_uncast(dtype: str, save_model: SaveModel) -> None:
    array = np.ones((2, 2), dtype=dtype)
    out = runtime.load(save_model(ListInListInDict()), device="cpu")({"t": [[array]]})
    assert_same(out, {"t": [[torch.from_numpy(array)]]})


def test_numpy_memory_is_shared_unless_it_is_read_only(save_model: SaveModel) -> None:
    class AddOne(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.add_(1).clone()

    model = runtime.load(save_model(AddOne()), device="cpu")
    writable = np.zeros(3, dtype=np.float32)
    constant = read_only(np.zeros(3, dtype=np.float32))
    assert_same(model(writable), torch.ones(3))
    assert_same(model(constant), torch.ones(3))
    assert writable.tolist() == [1, 1, 1]
    assert constant.tolist() == [0, 0, 0]


class Exporter:
    """Any library's array: nothing but the DLPack protocol."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.tensor.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()


def test_dlpack_objects_stand_for_tensors(affine_path: Path) -> None:
    model = runtime.load(affine_path, device="cpu")
    assert_same(model(Exporter(ONES)), model(ONES))
    assert_same(model(x=Exporter(ONES[:1])), model(ONES[:1]))


@pytest.mark.parametrize("wrap", [Tensor.numpy, Exporter], ids=["numpy", "dlpack"])
def test_arrays_stand_for_tensors_wherever_they_are_nested(
    wrap: Callable[[Tensor], Any], save_model: SaveModel
) -> None:
    a = wrap(ONES)

    def check(module: nn.Module, given: tuple[Any, ...], meant: tuple[Any, ...]) -> None:
        model = runtime.load(save_model(module), device="cpu")
        assert_same(model(*given), model(*meant))

    check(Lists(), ([a, ONES], [], [], []), ([ONES, ONES], [], [], []))
    check(Dicts(), ({"k": [a]}, {}), ({"k": [ONES]}, {}))
    check(Optionals(), (a, None, [a]), (ONES, None, [ONES]))
    check(NamedTuples(), (Point(a, "p"), [(a, "q")]), (Point(ONES, "p"), [Point(ONES, "q")]))
    check(Tuples(), ((a, (2, a)),), ((ONES, (2, ONES)),))
    check(Unions(), (a,), (ONES,))


def test_outputs_are_ordinary_tensors(affine_path: Path) -> None:
    out = runtime.load(affine_path, device="cpu")(ONES)
    assert not out.is_inference()
    out += 1
    weight = torch.ones(3, requires_grad=True)
    (out * weight).sum().backward()
    assert weight.grad is not None


def test_outputs_never_alias_the_state_of_the_model(counter_path: Path) -> None:
    model = runtime.load(counter_path, device="cpu")
    model(torch.zeros(1))
    state = model.run_method("current")
    state += 100
    assert model.run_method("current").item() == 1


def test_outputs_never_alias_the_weights(save_model: SaveModel) -> None:
    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.weight, x + self.weight[:1]

    model = runtime.load(save_model(Weights()), device="cpu")
    weight, _ = model(torch.zeros(1))
    with torch.no_grad():
        weight.zero_()
    assert_same(model(torch.zeros(1)), (torch.ones(3), torch.ones(1)))


def test_outputs_outlive_the_model(affine_path: Path) -> None:
    model = runtime.load(affine_path, device="cpu")
    out = model(ONES)
    expected = out.clone()
    del model
    gc.collect()
    assert_same(out, expected)


def assert_readable(message: str) -> None:
    """No C++ stack, no C++ type names."""
    for trace in ("Exception raised from", "frame #", "c10::", "at::"):
        assert trace not in message


@contextmanager
def still_answers(model: runtime.Model, *args: Any) -> Iterator[None]:
    """What happens inside leaves the model as good as it was."""
    expected = model(*args)
    yield
    assert_same(model(*args), expected)


PAIR_ERRORS: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("too few", (ONES,), {}, 'input "b": expected a value, got none'),
    ("none", (), {}, 'input "a": expected a value, got none'),
    ("too many", (ONES, ONES, ONES), {}, "expected"),
    ("unknown name", (ONES, ONES), {"c": ONES}, 'an unknown one, "c"'),
    ("unknown for known", (), {"A": ONES, "b": ONES}, 'an unknown one, "A"\ninputs:\n  a: '),
    ("twice", (ONES, ONES), {"a": ONES}, "a"),
    ("type", (ONES, "text"), {}, '"b": expected Tensor, got str'),
    ("none value", (None, ONES), {}, '"a": expected Tensor, got None'),
    ("number", (ONES, 1.0), {}, '"b": expected Tensor, got float'),
    ("dtype", (ONES, ONES.double()), {}, "(?s)b.*float32.*float64"),
    ("numpy dtype", (ONES.numpy(), np.ones((2, 3))), {}, "(?s)b.*float32.*float64"),
    ("odd numpy dtype", (ONES, np.array(["a"])), {}, '"b": expected Tensor, got a numpy array'),
    ("rank", (ONES, torch.ones(3)), {}, r"(?s)b.*\[3\]"),
    ("static size", (torch.ones(2, 4), ONES), {}, r"(?s)a.*\[2, 4\]"),
    ("above the range", (torch.ones(9, 3), torch.ones(9, 3)), {}, "(?s)a.*9"),
    ("one name, two sizes", (ONES, torch.ones(1, 3)), {}, "rows"),
    ("device", (ONES, torch.ones(2, 3, device="meta")), {}, "(?s)b.*meta"),
]


@pytest.mark.parametrize(
    ("args", "kwargs", "match"), [case[1:] for case in PAIR_ERRORS], ids=[c[0] for c in PAIR_ERRORS]
)
def test_forward_raises_when_an_input_is_wrong(
    args: tuple[Any, ...], kwargs: dict[str, Any], match: str, pair_path: Path
) -> None:
    model = runtime.load(pair_path, device="cpu")
    with still_answers(model, ONES, ONES):
        with pytest.raises(ts_infer.InputError, match=match) as caught:
            model(*args, **kwargs)
        message = str(caught.value)
        assert isinstance(caught.value, ValueError)
        assert message.startswith("[call] pair: ")
        assert "a: float32[rows=1..8, 3]" in message
        assert_readable(message)


NESTED_ERRORS: list[tuple[type[nn.Module], tuple[Any, ...], str]] = [
    (Lists, ([ONES, "x"], [], [], []), r'"xs\[1\]": expected Tensor, got str'),
    (Lists, ([ONES, None], [], [], []), r'"xs\[1\]": expected Tensor, got None'),
    (Lists, ([], [1, "x"], [], []), r'"ints\[1\]": expected int, got str'),
    (Lists, (ONES, [], [], []), r'"xs": expected List\[Tensor\], got Tensor'),
    (Dicts, ({"k": [ONES, 3]}, {}), r'"groups\.k\[1\]": expected Tensor, got int'),
    (Dicts, ({"k": ONES}, {}), r'"groups\.k": expected List\[Tensor\], got Tensor'),
    (Tuples, ((ONES, (2,)),), r'"pair\[1\]": expected Tuple\[int, Tensor\], got tuple of 1'),
    (Tuples, ([ONES, 2],), r'"pair": expected Tuple\[.*, got list of 2'),
    (Optionals, ("x",), r'"x": expected Optional\[Tensor\], got str'),
    (Optionals, (ONES, None, [ONES, 1]), r'"xs\[1\]": expected Tensor, got int'),
    (Unions, ("x",), r'"x": expected Union\[.*, got str'),
    (Scalars, ("3", 1.0, True, "", 0j), '"i": expected int, got str'),
    (Scalars, (2**70, 1.0, True, "", 0j), '"i": expected int, got one of more than 64 bits'),
]


@pytest.mark.parametrize(("module", "args", "match"), NESTED_ERRORS)
def test_forward_names_the_element_that_is_wrong(
    module: type[nn.Module], args: tuple[Any, ...], match: str, save_model: SaveModel
) -> None:
    model = runtime.load(save_model(module()), device="cpu")
    good = next(case[1] for case in TYPE_CASES if case[0] is module)
    with still_answers(model, *good):
        with pytest.raises(ts_infer.InputError, match=match) as caught:
            model(*args)
        assert_readable(str(caught.value))


def test_forward_raises_input_error_when_dlpack_fails(affine_path: Path) -> None:
    class Broken(Exporter):
        def __dlpack__(self, **kwargs: Any) -> Any:
            raise BufferError("it is gone")

    model = runtime.load(affine_path, device="cpu")
    with (
        still_answers(model, ONES),
        pytest.raises(ts_infer.InputError, match=r'"x": expected Tensor.*it is gone'),
    ):
        model(Broken(ONES))


def test_forward_lets_an_interrupt_through(affine_path: Path) -> None:
    class Interrupted(Exporter):
        def __dlpack__(self, **kwargs: Any) -> Any:
            raise KeyboardInterrupt

    model = runtime.load(affine_path, device="cpu")
    with still_answers(model, ONES), pytest.raises(KeyboardInterrupt):
        model(Interrupted(ONES))


class Failing(nn.Module):
    def forward(self, x: Tensor, how: str = "") -> Tensor:
        if how == "raise":
            raise ValueError("no lanes in reach")
        if how == "assert":
            assert x.numel() == 0, "must be empty"
        if how == "shape":
            return x @ torch.ones(7, 7)
        if how == "index":
            return x[torch.tensor([99])]
        if how == "memory":
            return torch.ones(1 << 60)
        return x + 1


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ("raise", "no lanes in reach"),
        ("assert", "must be empty"),
        ("shape", "shapes cannot be multiplied"),
        ("index", "out of bounds"),
        ("memory", "(?i)memory"),
    ],
)
def test_forward_raises_execution_error_when_the_model_fails(
    how: str, match: str, save_model: SaveModel
) -> None:
    model = runtime.load(save_model(Failing(), "failing"), device="cpu")
    with still_answers(model, ONES):
        with pytest.raises(ts_infer.ExecutionError, match=match) as caught:
            model(ONES, how)
        assert str(caught.value).startswith("[call] ")
        assert_readable(str(caught.value))


class Reversed(nn.Module):
    """TorchScript's strings are bytes, which it cuts anywhere."""

    def forward(self, word: str, nested: bool) -> tuple[str, list[dict[str, int]]]:
        back = word[::-1]
        return ("", [{back: 1}]) if nested else (back, [{"": 1}])


@pytest.mark.parametrize("nested", [False, True])
def test_forward_raises_execution_error_for_a_string_that_is_no_utf8(
    nested: bool, save_model: SaveModel
) -> None:
    model = runtime.load(save_model(Reversed(), "reversed"))
    assert model("abc", False)[0] == "cba"
    with pytest.raises(
        ts_infer.ExecutionError,
        match=r"^\[call\] reversed: the result of forward has no form in Python: expected strings "
        r"that are UTF-8, got one that is not \('utf-8' codec can't decode .*\); TorchScript "
        r"counts and cuts strings by bytes$",
    ):
        model("Normanðy", nested)
    assert model("abc", True) == ("", [{"cba": 1}])


def test_load_raises_when_the_path_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ts_infer.ModelNotFoundError, match=r"^\[load\] .*gone\.pt") as caught:
        runtime.load(tmp_path / "gone.pt")
    assert isinstance(caught.value, ts_infer.ModelLoadError)
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(FileNotFoundError, match=r"gone\.pt"):
        runtime.read_model_info(tmp_path / "gone.pt")


@pytest.mark.parametrize(
    "contents",
    [b"", b"not a model", archive_bytes(Affine())[:-200], b"PK\x03\x04" + bytes(200)],
    ids=["empty", "text", "truncated", "zip header"],
)
def test_load_raises_when_the_file_is_no_archive(contents: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"
    path.write_bytes(contents)
    for source in (path, contents, io.BytesIO(contents)):
        for function in (runtime.load, runtime.read_model_info):
            with pytest.raises(ts_infer.ModelLoadError) as caught:
                function(source)
            assert not isinstance(caught.value, FileNotFoundError)
            assert_readable(str(caught.value))


def test_load_raises_when_the_path_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ts_infer.ModelLoadError, match="expected a file"):
        runtime.load(tmp_path)


def test_load_raises_when_a_member_is_damaged(affine_path: Path) -> None:
    contents = bytearray(affine_path.read_bytes())
    position = contents.find(torch.tensor([1.0, 2.0, 3.0]).numpy().tobytes())
    contents[position] ^= 0xFF
    assert runtime.read_model_info(contents).damaged
    with pytest.raises(ts_infer.ModelLoadError, match=r"(?i)damaged|crc"):
        runtime.load(contents)


def test_load_raises_when_an_option_is_unknown(affine_path: Path) -> None:
    with pytest.raises(
        ts_infer.Error, match=r'executor: expected prepared or legacy or .*, got "warp"'
    ):
        runtime.load(affine_path, executor="warp")
    with pytest.raises(ts_infer.ModelLoadError, match=r"quantum"):
        runtime.load(affine_path, device="quantum")


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without accelerator")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "xpu"])
def test_load_says_which_devices_there_are(device: str, affine_path: Path) -> None:
    with pytest.raises(ts_infer.ModelLoadError, match=rf'expected cpu, got "{device}"'):
        runtime.load(affine_path, device=device)
    assert runtime.available_devices() == ["cpu"]


def test_load_raises_type_error_for_what_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        runtime.load(3)  # type: ignore[arg-type]
    (tmp_path / "text").write_text("x")
    with (tmp_path / "text").open() as text, pytest.raises(TypeError):
        runtime.load(text)  # type: ignore[arg-type]


def test_load_takes_paths_contents_and_files(affine_path: Path) -> None:
    contents = affine_path.read_bytes()
    expected = jit_load(affine_path)(ONES)
    with affine_path.open("rb") as file:
        sources: list[Any] = [
            str(affine_path),
            affine_path,
            contents,
            bytearray(contents),
            memoryview(contents),
            io.BytesIO(contents),
            file,
        ]
        for source in sources:
            assert_same(runtime.load(source, device="cpu")(ONES), expected)


def test_load_takes_a_path_that_is_not_utf8(affine_path: Path, tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/m\xff\xe9.pt")
    try:
        Path(path).write_bytes(affine_path.read_bytes())
    except OSError:
        pytest.skip("the file system refuses such names")
    messages: list[str] = []
    model = runtime.load(path, device="cpu", on_log=lambda _, message: messages.append(message))
    assert model.info().path == path
    assert model.info().name
    assert messages
    assert path in repr(model.info()) or "\\udcff" in repr(model.info())
    assert_same(model(ONES), jit_load(affine_path)(ONES))
    with pytest.raises(ts_infer.ModelNotFoundError, match="gone"):
        runtime.load(path + "gone")


def test_contents_are_not_needed_after_load(affine_path: Path) -> None:
    contents = bytearray(affine_path.read_bytes())
    model = runtime.load(contents, device="cpu")
    contents[:] = bytes(len(contents))
    assert_same(model(ONES), jit_load(affine_path)(ONES))


def test_run_method_reaches_other_methods(counter_path: Path) -> None:
    model = runtime.load(counter_path, device="cpu")
    assert set(model.method_names()) >= {"forward", "reset", "current"}
    x = torch.zeros(1)
    assert [model(x).item() for _ in range(3)] == [1, 2, 3]
    assert model.run_method("reset") is None
    assert model(x).item() == 1
    model.run_method("reset", to=10.0)
    assert model(x).item() == 11
    assert model.run_method("forward", x).item() == 12


def test_run_method_raises_when_there_is_no_such_method(counter_path: Path) -> None:
    model = runtime.load(counter_path, device="cpu")
    with pytest.raises(ts_infer.InputError, match=r'forward, current, reset.*"nope"'):
        model.run_method("nope")
    with pytest.raises(ts_infer.InputError, match=r'(?s)"to": expected float, got str.*to: float'):
        model.run_method("reset", "x")


def test_a_method_argument_may_be_called_method(save_model: SaveModel) -> None:
    class Methodical(nn.Module):
        def forward(self, method: str) -> str:
            return method

        @torch.jit.export
        def other(self, method: str) -> str:
            return method + "!"

    model = runtime.load(save_model(Methodical()), device="cpu")
    assert model(method="a") == "a"
    assert model.run_method("other", method="b") == "b!"


def test_clone_has_its_own_state_and_stats(counter_path: Path) -> None:
    model = runtime.load(counter_path, device="cpu")
    x = torch.zeros(1)
    model(x)
    model(x)
    clone = model.clone()
    assert clone.info().stateful
    assert clone.stats().count == 0
    assert [clone(x).item(), clone(x).item(), model(x).item()] == [3, 4, 3]
    del model
    assert clone(x).item() == 5


def test_stateless_models_say_so(affine_path: Path) -> None:
    assert not runtime.load(affine_path, device="cpu").info().stateful


def test_calls_of_a_stateful_model_take_turns(counter_path: Path) -> None:
    model = runtime.load(counter_path, device="cpu")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: model(torch.zeros(1)).item(), range(200)))
    assert sorted(results) == list(range(1, 201))


def test_forward_is_safe_from_many_threads(affine_path: Path) -> None:
    model = runtime.load(affine_path, device="cpu")
    reference = jit_load(affine_path)
    inputs = [torch.full((1 + n % 3, 3), float(n)) for n in range(160)]
    with ThreadPoolExecutor(8) as pool:
        for x, out in zip(inputs, pool.map(model, inputs), strict=True):
            assert_same(out, reference(x))
    assert model.stats().count == len(inputs)


class Slow(nn.Module):
    def forward(self, x: Tensor, n: int) -> Tensor:
        for _ in range(n):
            x = (x @ x).clamp(0, 1)
        return x


def test_the_gil_is_released_while_computing(save_model: SaveModel) -> None:
    model = runtime.load(save_model(Slow()), device="cpu")
    x = torch.ones(32, 32)
    ticks = 0
    done = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            time.sleep(0.001)

    # A thread that waits for the GIL gets it once while a call enters and leaves, not many times.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1)
    ticker = threading.Thread(target=tick)
    try:
        ticker.start()
        before = ticks
        model(x, 50_000)
        during = ticks - before
    finally:
        done.set()
        sys.setswitchinterval(interval)
        ticker.join()
    assert during >= 10


def test_stats_count_calls(affine_path: Path) -> None:
    model = runtime.load(affine_path, device="cpu")
    assert model.stats().count == 0
    for _ in range(20):
        model(ONES)
    stats = model.stats()
    assert stats.count == 20
    assert 0 < stats.p50_ms <= stats.p90_ms <= stats.p99_ms
    assert stats.max_ms >= stats.first_ms > 0
    assert stats.max_ms >= stats.mean_ms > 0
    assert stats.h2d_ms == stats.d2h_ms == 0
    model.reset_stats()
    assert model.stats().count == 0


def test_stats_leave_out_other_methods(counter_path: Path) -> None:
    model = runtime.load(counter_path, device="cpu")
    model.run_method("reset")
    assert model.stats().count == 0


def test_on_timing_is_called_once_a_call(affine_path: Path) -> None:
    seen: list[tuple[runtime.Timing, int]] = []
    model = runtime.load(
        affine_path,
        device="cpu",
        name="affine",
        on_timing=lambda timing: seen.append((timing, threading.get_ident())),
    )
    model(ONES)
    model(ONES)
    timings = [timing for timing, _ in seen]
    assert [timing.call for timing in timings] == [1, 2]
    assert {thread for _, thread in seen} == {threading.get_ident()}
    assert timings[0].total_ms >= timings[0].compute_ms > 0
    assert timings[0].model == "affine"
    milliseconds = timings[0].log_line().removeprefix("affine inference used time: ")
    assert float(milliseconds.removesuffix(" ms.")) == pytest.approx(
        timings[0].total_ms, rel=1e-3, abs=1e-3
    )


def test_on_timing_may_call_the_model(affine_path: Path) -> None:
    results: list[Tensor] = []

    def once(timing: runtime.Timing) -> None:
        if timing.call == 1:
            results.append(model(ONES))

    model = runtime.load(affine_path, device="cpu", on_timing=once)
    assert_same(model(ONES), results[0])


def test_on_timing_from_many_threads(affine_path: Path) -> None:
    calls: list[int] = []
    model = runtime.load(affine_path, device="cpu", on_timing=lambda t: calls.append(t.call))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: model(ONES), range(100)))
    assert sorted(calls) == list(range(1, 101))


def test_an_exception_in_a_callback_is_reported_and_harmless(
    affine_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)

    def fail(*_: object) -> None:
        raise KeyError("callback")

    model = runtime.load(affine_path, device="cpu", on_timing=fail, on_log=fail)
    reported.clear()
    assert_same(model(ONES), jit_load(affine_path)(ONES))
    assert [type(args.exc_value) for args in reported] == [KeyError]


def test_callbacks_are_released_with_the_model(affine_path: Path) -> None:
    class Callback:
        def __call__(self, timing: runtime.Timing) -> None: ...

    callback = Callback()
    references = sys.getrefcount(callback)
    model = runtime.load(affine_path, device="cpu", on_timing=callback)
    clone = model.clone()
    assert sys.getrefcount(callback) > references
    del model, clone
    gc.collect()
    assert sys.getrefcount(callback) == references


class TrainMode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(x)
        return out


def train_mode_archive() -> bytes:
    buffer = io.BytesIO()
    scripted = script(TrainMode())
    scripted.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(scripted, buffer)
    return buffer.getvalue()


def test_an_archive_in_train_mode_runs_in_eval_mode() -> None:
    model = runtime.load(train_mode_archive(), device="cpu")
    assert_same(model(ONES), ONES)
    assert any("eval" in decision for decision in model.info().decisions)


def test_messages_go_to_logging_by_default(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="ts_infer"):
        runtime.load(train_mode_archive(), device="cpu")
    assert caplog.records
    assert {record.name for record in caplog.records} == {"ts_infer"}


def test_messages_go_to_on_log(caplog: pytest.LogCaptureFixture) -> None:
    messages: list[tuple[int, str]] = []
    with caplog.at_level(logging.DEBUG, logger="ts_infer"):
        runtime.load(
            train_mode_archive(),
            device="cpu",
            on_log=lambda level, message: messages.append((level, message)),
        )
    assert not caplog.records
    assert messages
    levels = {logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR}
    assert {level for level, _ in messages} <= levels


def test_a_path_with_a_nul_opens_nothing(affine_path: Path) -> None:
    for read in (runtime.load, runtime.read_model_info):
        with pytest.raises(ts_infer.ModelLoadError, match="got one with a NUL behind this"):
            read(f"{affine_path}\0x")


class Quantised(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.quantize_per_tensor(x, 0.5, 3, torch.qint8)


class QuantisedRows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scales = torch.tensor([0.5, 0.25])
        return torch.quantize_per_channel(x, scales, torch.zeros(2), 0, torch.qint8)


class Sparse(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to_sparse()


class OneDnn(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to_mkldnn()


class Meta(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.device("meta"))


KINDS: list[tuple[type[nn.Module], str]] = [
    (Quantised, "dequantize"),
    (QuantisedRows, "dequantize"),
    (Sparse, "to_dense"),
    (OneDnn, "to_dense"),
    (Meta, "expected a tensor with values"),
]


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")
@pytest.mark.parametrize(("kind", "advice"), KINDS)
def test_outputs_of_every_kind_are_handed_over(
    kind: type[nn.Module], advice: str, tmp_path: Path, ts_infer: RunBinary
) -> None:
    x = torch.tensor([[1.0, 0.0], [-2.0, 3.0]])
    path = tmp_path / "model.pt"
    path.write_bytes(archive_bytes(kind()))
    expected = kind()(x)
    got = runtime.load(path, warmup="off", device="cpu")(x)
    assert (got.dtype, got.layout, got.device) == (expected.dtype, expected.layout, expected.device)
    assert got.is_inference() == (kind is QuantisedRows)  # torch cannot copy these
    if expected.is_quantized:
        assert got.qscheme() == expected.qscheme()
        torch.testing.assert_close(got.dequantize(), expected.dequantize(), rtol=0, atol=0)
        torch.testing.assert_close(got.int_repr(), expected.int_repr(), rtol=0, atol=0)
    elif kind is not Meta:
        torch.testing.assert_close(got.to_dense(), expected.to_dense(), rtol=0, atol=0)
    done = ts_infer("run", path, "--shape", "x=2x2")
    assert done.returncode == 5, done.stderr
    assert advice in done.stderr


class Divides(nn.Module):
    def forward(self, x: torch.Tensor, a: int, b: int) -> list[int]:
        c, d = divmod(a, b)
        return [a // b, a % b, c, d, a // 3, a % 5]


class Remainders(nn.Module):
    def forward(self, x: torch.Tensor, a: int, b: int) -> int:
        return a % b


@pytest.mark.parametrize("executor", runtime.executors())
def test_integers_that_cannot_be_divided_are_an_error(executor: str) -> None:
    x = torch.ones(1)
    for module in (Divides(), Remainders()):
        model = runtime.load(archive_bytes(module), executor=executor, device="cpu")
        for a, b in ((7, 2), (-7, 2), (7, -2), (0, -1), (-(2**63), 2)):
            expected: Any = [a // b, a % b, *divmod(a, b), a // 3, a % 5]
            assert model(x, a, b) == (expected if isinstance(module, Divides) else a % b)
        for _ in range(2):
            with pytest.raises(ts_infer.ExecutionError, match="division or modulo by zero"):
                model(x, 7, 0)
            with pytest.raises(ts_infer.ExecutionError, match="no 64-bit integer"):
                model(x, -(2**63), -1)


class Truncates(nn.Module):
    def forward(
        self, x: torch.Tensor, y: torch.Tensor, n: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        z = x.clone()
        z.div_(y, rounding_mode="trunc")
        return torch.div(x, y, rounding_mode="trunc"), z, torch.div(x, n, rounding_mode="trunc")


@pytest.mark.parametrize("executor", runtime.executors())
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.float32])
def test_quotients_of_tensors_that_are_no_integers_are_an_error(
    executor: str, dtype: torch.dtype
) -> None:
    """Torch divides as the processor does, which ends the process."""
    model = runtime.load(archive_bytes(Truncates()), executor=executor, device="cpu")
    least = -128 if dtype.is_floating_point else torch.iinfo(dtype).min
    x = torch.tensor([7, least, -7, 5]).to(dtype)
    y = torch.tensor([2, 3, 2, -1]).to(dtype)
    for n in (3, -1):
        fits = x if n == 3 else x.clamp(min=-100)
        for result, expected in zip(model(fits, y, n), Truncates()(fits, y, n), strict=True):
            assert_same(result, expected)
    if dtype in (torch.int64, torch.int32):
        for of, by, n in ((x, -torch.ones_like(y), 1), (x, y, -1)):
            with pytest.raises(ts_infer.ExecutionError, match=f"quotient of {least} and -1 is no"):
                model(of, by, n)


class Nests(nn.Module):
    def forward(self, x: torch.Tensor, depth: int) -> list[Any]:
        nested: list[Any] = [x]
        for _ in range(depth):
            outer: list[Any] = [nested, (x, 1)]
            nested = outer
        return nested


@pytest.mark.parametrize("executor", runtime.executors())
def test_a_result_that_nests_without_end_is_an_error(executor: str) -> None:
    """And is let go of, without torch's destructors, which call each other."""
    model = runtime.load(archive_bytes(Nests()), executor=executor, device="cpu")
    x = torch.ones(1)
    assert len(model(x, 900)) == 2
    with pytest.raises(ts_infer.ExecutionError, match="nest at most 1000 deep"):
        model(x, 1_000_000)
    with pytest.raises(ts_infer.ExecutionError, match="nest at most 1000 deep"):
        model.call_within(60_000, x, 1_000_000)
    assert model(x, 0) == [x]


class Prints(nn.Module):
    def forward(self, x: torch.Tensor, fails: bool = False) -> torch.Tensor:
        print("rows:", x.size(0))
        if fails:
            raise ValueError("after it")
        return x + 1


@pytest.mark.parametrize("executor", runtime.executors())
def test_what_a_model_prints_goes_to_on_log(
    executor: str, capfd: pytest.CaptureFixture[str]
) -> None:
    messages: list[tuple[int, str]] = []
    contents = archive_bytes(Prints())
    model = runtime.load(
        contents,
        executor=executor,
        warmup_shapes=[{"x": [4]}],
        on_log=lambda level, text: messages.append((level, text)),
    )
    assert not [text for _, text in messages if "rows: 4" in text]  # nobody's call
    messages.clear()
    model(torch.ones(2))
    with pytest.raises(ts_infer.ExecutionError, match="after it"):
        model(torch.ones(3), fails=True)
    model.call_within(60_000, torch.ones(5))
    with pytest.raises(ts_infer.ExecutionError, match="after it"):
        model.call_within(60_000, torch.ones(6), fails=True)
    assert messages == [(logging.WARNING, f"model: rows: {rows}") for rows in (2, 3, 5, 6)]
    assert capfd.readouterr().out == ""
    jit_load(io.BytesIO(contents))(torch.ones(7))
    assert capfd.readouterr().out == "rows: 7\n"


def run_program(program: str, path: Path) -> str:
    """What a process of its own prints, which must end well."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_child_of_fork_is_told_what_works(tmp_path: Path) -> None:
    """OpenMP's pool of the parent is not there, and whoever waits for it waits without end."""
    path = tmp_path / "model.pt"
    path.write_bytes(archive_bytes(nn.Linear(256, 256)))
    program = """
        import os, sys
        import torch
        import ts_infer
        from ts_infer import runtime

        x = torch.ones(256, 256)
        torch.set_num_threads(2)
        model = runtime.load(sys.argv[1])
        expected = model(x).tolist()  # torch's own operators wait for the pool too

        def refused(work):
            try:
                work()
            except ts_infer.Error as error:
                return 'got a child of fork()' in str(error) and '"spawn"' in str(error)
            return False

        def in_child(work):
            child = os.fork()
            if child == 0:
                os._exit(0 if work() else 1)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

        def loads_with_one_thread():
            return runtime.load(sys.argv[1], intra_op_threads=1)(x).tolist() == expected

        def loads_where_torch_has_one_thread():
            torch.set_num_threads(1)
            return runtime.load(sys.argv[1])(x).tolist() == expected

        in_child(lambda: refused(lambda: model(x)))
        in_child(lambda: refused(model.clone))
        in_child(lambda: refused(lambda: runtime.load(sys.argv[1])))
        in_child(lambda: refused(lambda: runtime.load(sys.argv[1], intra_op_threads=2)))
        in_child(loads_with_one_thread)
        in_child(loads_where_torch_has_one_thread)
    """
    assert run_program(program, path).split() == ["0"] * 6


def test_ctrl_c_in_a_callback_is_raised_behind_the_call(affine_path: Path) -> None:
    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    # A process that was started in the background ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            runtime.load(affine_path, device="cpu", on_log=interrupt)
        model = runtime.load(affine_path, device="cpu", on_timing=interrupt)
        with pytest.raises(KeyboardInterrupt):
            model(ONES)
    finally:
        signal.signal(signal.SIGINT, before)


def process_state() -> dict[str, Any]:
    def read(swap: Callable[[Any], Any], other: Any) -> Any:
        value = swap(other)
        swap(value)
        return value

    return {
        "profiling executor": read(torch._C._jit_set_profiling_executor, True),
        "profiling mode": read(torch._C._jit_set_profiling_mode, True),
        "fusion": read(torch._C._jit_set_fusion_strategy, [("STATIC", 2)]),
        "optimize": torch._C._get_graph_executor_optimize(),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default dtype": torch.get_default_dtype(),
    }


@pytest.mark.parametrize("executor", runtime.executors())
def test_load_and_forward_leave_the_process_as_it_was(executor: str, affine_path: Path) -> None:
    before = process_state()
    model = runtime.load(affine_path, device="cpu", executor=executor, intra_op_threads=1)
    assert process_state() == before
    assert_same(model(ONES), jit_load(affine_path)(ONES))
    with pytest.raises(ts_infer.InputError):
        model("x")
    assert process_state() == before


def test_calls_that_overlap_leave_the_number_of_threads_as_it_was(affine_path: Path) -> None:
    def seen_by_a_new_thread() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    before = seen_by_a_new_thread()
    model = runtime.load(affine_path, device="cpu", intra_op_threads=before + 1)
    for _ in range(5):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: model(ONES), range(200)))
            assert {*pool.map(lambda _: torch.get_num_threads(), range(20))} == {before}
        assert seen_by_a_new_thread() == before


def test_threads_that_the_process_may_not_have_are_a_load_error(affine_path: Path) -> None:
    program = """
        import resource, sys
        import torch, ts_infer
        from ts_infer import runtime
        x = torch.ones(1, 3)
        pages = int(open("/proc/self/statm").read().split()[0])
        room = pages * resource.getpagesize() + (2 << 30)  # a thread takes the size of its stack
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
        try:
            runtime.load(sys.argv[1], device="cpu", intra_op_threads=4096)
        except ts_infer.ModelLoadError as error:
            assert "intra_op_threads: the process, its user" in str(error), error
            print(runtime.load(sys.argv[1], device="cpu", intra_op_threads=2)(x).tolist())
    """
    expected = jit_load(affine_path)(torch.ones(1, 3)).tolist()
    assert json.loads(run_program(program, affine_path)) == expected


def test_a_thread_for_a_deadline_that_cannot_be_had_is_an_execution_error(
    affine_path: Path,
) -> None:
    program = """
        import resource, sys
        import torch, ts_infer
        from ts_infer import runtime
        x = torch.ones(1, 3)
        model = runtime.load(sys.argv[1], device="cpu")
        model(x)
        pages = int(open("/proc/self/statm").read().split()[0])
        room = pages * resource.getpagesize() + (4 << 20)  # less than the stack of a thread
        unlimited = resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_AS, (room, unlimited))
        try:
            model.call_within(60_000, x)
        except ts_infer.ExecutionError as error:
            assert "expected a thread to serve the call" in str(error), error
            resource.setrlimit(resource.RLIMIT_AS, (unlimited, unlimited))
            print(model.call_within(60_000, x).tolist())
    """
    expected = jit_load(affine_path)(torch.ones(1, 3)).tolist()
    assert json.loads(run_program(program, affine_path)) == expected


def test_torchscript_of_the_host_still_differentiates(affine_path: Path) -> None:
    host = script(Affine())
    runtime.load(affine_path, device="cpu")(ONES)
    for _ in range(3):
        host.zero_grad()
        host(ONES).sum().backward()
        torch.testing.assert_close(host.weight.grad, torch.full((3,), 4.0))


def test_calls_run_with_autocast_off(save_model: SaveModel) -> None:
    class Multiply(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x

    model = runtime.load(save_model(Multiply()), device="cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_forward_works_in_every_grad_mode(mode: Any, affine_path: Path) -> None:
    model = runtime.load(affine_path, device="cpu")
    with mode():
        x = torch.ones(2, 3)
        assert_same(model(x), torch.tensor([[3.0, 5.0, 7.0]] * 2))
    assert_same(model(x), torch.tensor([[3.0, 5.0, 7.0]] * 2))


def test_the_interpreter_exits_while_a_daemon_thread_calls(affine_path: Path) -> None:
    program = """
        import sys, threading, torch
        from ts_infer import runtime
        called = threading.Event()
        model = runtime.load(sys.argv[1], device="cpu", on_timing=lambda t: called.set())
        x = torch.ones(1, 3)
        outputs = []  # torch's own destructor of a tensor does not survive the exit
        def work():
            while True:
                outputs.append(model(x))
        threading.Thread(target=work, daemon=True).start()
        called.wait()
    """
    run_program(program, affine_path)


def test_signature_comes_from_the_manifest(pair_path: Path) -> None:
    model = runtime.load(pair_path, device="cpu")
    signature = model.signature
    assert [spec.name for spec in signature.inputs] == ["a", "b"]
    assert [spec.name for spec in signature.outputs] == ["sum"]
    a = signature.inputs[0]
    assert (a.type, a.dtype, a.has_default) == ("Tensor", torch.float32, False)
    assert a.shape is not None
    rows, columns = a.shape
    assert (rows.name, rows.min, rows.max, rows.is_static) == ("rows", 1, 8, False)
    assert (columns.name, columns.min, columns.max, columns.is_static) == ("", 3, 3, True)
    assert str(a) == "a: float32[rows=1..8, 3]"
    assert repr(rows) == "<Dim rows=1..8>"
    assert "a: float32[rows=1..8, 3]" in str(signature)
    assert "a: float32[rows=1..8, 3]" in repr(signature)
    assert model.info().name == "pair"


def test_signature_without_a_manifest_comes_from_the_schema(affine_path: Path) -> None:
    signature = runtime.load(affine_path, device="cpu").signature
    assert [(s.name, s.type, s.has_default) for s in signature.inputs] == [
        ("x", "Tensor", False),
        ("scale", "float", True),
        ("shift", "int", True),
    ]
    assert signature.inputs[0].dtype is None
    assert signature.inputs[0].shape is None


def test_signature_outlives_the_model(pair_path: Path) -> None:
    model = runtime.load(pair_path, device="cpu")
    signature, info = model.signature, model.info()
    del model
    gc.collect()
    assert signature.inputs[0].name == "a"
    assert info.device == "cpu"


def test_info_says_what_load_decided(affine_path: Path) -> None:
    model = runtime.load(affine_path, device="auto", name="mine")
    info = model.info()
    assert info.name == "mine"
    assert info.path == str(affine_path)
    assert info.executor == "prepared"
    assert info.device in runtime.available_devices()
    assert info.load_ms > 0
    assert all(isinstance(decision, str) and decision for decision in info.decisions)
    assert "mine" in repr(info)
    assert repr(model) == f"<ts_infer.runtime.Model 'mine' on {info.device}>"
    assert runtime.load(affine_path.read_bytes(), device="cpu").info().path == ""


def test_read_model_info_runs_nothing(pair_path: Path) -> None:
    with pair_path.open("rb") as file:
        for source in (pair_path, pair_path.read_bytes(), file):
            info = runtime.read_model_info(source)
            assert info.name == "pair"
            assert info.method == "script"
            assert info.torch_version == torch.__version__
            assert info.file_bytes == pair_path.stat().st_size
            assert info.members > 0
            assert info.damaged == []
            assert "forward" in info.methods
            assert "torch.add" in info.operators
            assert info.warmup_shapes == [{"a": [8, 3], "b": [8, 3]}]
            assert any("def forward" in text for text in info.code.values())
            assert '"schema"' in info.manifest_json
            assert info.signature is not None
            assert str(info.signature.inputs[0]) == "a: float32[rows=1..8, 3]"
    assert "pair" in repr(info)


def test_read_model_info_without_a_manifest(affine_path: Path) -> None:
    info = runtime.read_model_info(affine_path)
    assert info.signature is None
    assert info.manifest_json == ""
    assert info.weight_bytes == 12


def test_read_model_info_says_how_far_the_model_can_be_trusted(save_model: SaveModel) -> None:
    probe = {"name": "values", "outcome": "passed", "runs": 12, "reason": ""}
    needed = {"file": "libmine.so", "operators": ["mine::triple"], "classes": []}
    manifest = {
        "schema": 1,
        "name": "m",
        "inputs": [{"name": name} for name in ("x", "scale", "shift")],
        "state": ["cell.hidden"],
        "scripted": [{"name": "dg", "reason": "a branch"}],
        "audit": {"level": "full", "probes": [probe], "allowed": ["tracer-warning"]},
        "libraries": [needed],
        "golden": {"file": "ts_infer/golden.pt", "calls": 2, "tolerance": {}},
    }
    info = runtime.read_model_info(save_model(Affine(), "m", manifest))
    assert info.state == ["cell.hidden"]
    assert repr(info.scripted) == "[ScriptedPart(name='dg', reason='a branch')]"
    assert info.audit is not None
    assert (info.audit.level, info.audit.allowed) == ("full", ["tracer-warning"])
    assert repr(info.audit.probes) == (
        "[AuditProbe(name='values', outcome='passed', runs=12, reason='')]"
    )
    assert repr(info.libraries) == (
        "[NeededLibrary(file='libmine.so', operators=['mine::triple'], classes=[])]"
    )
    assert info.golden_calls == 2
    manifest["audit"] = "full"
    with pytest.raises(ts_infer.ModelLoadError, match="manifest is not of schema 1"):
        runtime.read_model_info(save_model(Affine(), "m", manifest))


def test_types_print_what_they_hold(affine_path: Path) -> None:
    timings: list[runtime.Timing] = []
    model = runtime.load(affine_path, device="cpu", name="m", on_timing=timings.append)
    model(ONES)
    assert repr(timings[0]).startswith("Timing(model='m', call=1, h2d_ms=0, compute_ms=")
    assert repr(model.stats()).startswith("LatencyStats(count=1, mean_ms=")


def test_graphs_need_an_accelerator(affine_path: Path) -> None:
    message = r"graphs: expected a device whose calls can be recorded, got cpu; leave graphs out"
    with pytest.raises(ts_infer.ModelLoadError, match=message):
        runtime.load(affine_path, device="cpu", graphs=True)

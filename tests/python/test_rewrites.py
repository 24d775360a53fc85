"""What the passes of `load` rewrite means the same: in-place operators, views, loops, layouts.

The archives are stock torch's, traced or scripted without this project's export.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import pytest
import torch
from archives import quiet_torch_jit, script, uses_own_kernels
from torch import Tensor, nn
from torch.nn import functional

import ts_infer
from ts_infer import runtime


def load(module: torch.jit.ScriptModule, **options: Any) -> runtime.Model:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    return runtime.load(buffer.getvalue(), **options)


def trace(module: nn.Module, *inputs: Tensor) -> torch.jit.ScriptModule:
    with quiet_torch_jit(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
            module, inputs, check_trace=False
        )
    return traced


def check(module: nn.Module, *inputs: Tensor) -> runtime.Model:
    """Compares with eager, in two calls, since the first may change what the second reads."""
    module.eval()
    model = load(trace(module, *inputs))
    for _ in range(2):
        with torch.inference_mode():
            expected = module(*(x.clone() for x in inputs))
        torch.testing.assert_close(
            model(*(x.clone() for x in inputs)), expected, rtol=1e-5, atol=1e-5
        )
    return model


class Writes(nn.Module):
    """Writes through a view before the convolution."""

    def __init__(self, conv: nn.Module, how: str) -> None:
        super().__init__()
        self.conv = conv
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.0
        if self.how == "slice":
            x[:, 0] = 0
        elif self.how == "relu of a slice":
            x[:, 1:].relu_()
        elif self.how == "view":
            x.view(-1).add_(1)
        else:
            x.transpose(0, 1).sigmoid_()
        result: Tensor = self.conv(x)
        return result


@pytest.mark.parametrize("how", ["slice", "relu of a slice", "view", "transpose"])
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv3d(4, 4, 3, padding=1),
        nn.Conv2d(4, 8, 3, padding=1),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv1d(4, 4, 3, groups=2),
        nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2),
    ],
    ids=str,
)
def test_a_write_through_a_view_before_a_convolution(conv: nn.Module, how: str) -> None:
    torch.manual_seed(0)
    rank = next(conv.parameters()).dim()
    check(Writes(conv, how), torch.randn(2, 4, *[6] * (rank - 2)))


UNDECLARED_VIEWS = [
    "torch.dropout({x}, 0.5, False)", "torch.feature_dropout({x}, 0.5, False)",
    "torch.alpha_dropout({x}, 0.5, False)", "torch.feature_alpha_dropout({x}, 0.5, False)",
    "{x}.type_as({x})", "{x}.sum_to_size({x}.shape)", "{x}.dequantize()", "{x}.to_dense()",
    "torch.conj_physical({x})", "torch.atleast_1d({x})", "torch.atleast_2d({x})",
    "torch.atleast_3d({x})", "torch.atleast_1d([{x}, {x}])[0]", "torch.atleast_2d([{x}, {x}])[1]",
    "torch.atleast_3d([{x}, {x}])[0]", "torch.unsafe_chunk({x}, 2, 0)[0]",
    "torch.unsafe_split({x}, 1, 0)[0]", "torch.unsafe_split_with_sizes({x}, [1, 1], 0)[0]",
    "torch.einsum('ijk->kji', [{x}])", "torch.broadcast_tensors({x}, {x})[0]",
    "torch.meshgrid({x}.view(-1), indexing='ij')[0]", "torch.cartesian_prod({x}.view(-1))",
]  # fmt: skip


@pytest.mark.parametrize("executor", ["prepared", "legacy", "simple", "profiling"])
@pytest.mark.parametrize("view", UNDECLARED_VIEWS)
def test_a_write_through_what_torch_says_is_new(view: str, executor: str) -> None:
    """The operator returns its input or a view of it, which its schema does not say."""
    view = view.format(x="x")
    code = f"""
def twice(x: Tensor):
    written = x
    for turn in range(2):
        written = {view}
        written.mul_(2.0)
    one = {view}
    other = {view}
    one.add_(1.0)
    between = x * 1.0
    other.add_(1.0)
    return x, written, one, other, between
"""
    namespace: dict[str, Any] = {"torch": torch, "Tensor": Tensor}
    exec(code, namespace)
    unit = torch.jit.CompilationUnit(code)
    file = io.BytesIO()
    torch.jit.save(unit.twice, file)
    model = runtime.load(file.getvalue(), executor=executor)
    for _ in range(3):
        torch.testing.assert_close(
            model(torch.ones(2, 2, 3)), namespace["twice"](torch.ones(2, 2, 3)), rtol=0, atol=0
        )


class DropsInPlace(nn.Module):
    """In eval mode it writes to nothing."""

    def __init__(self, drop: nn.Module) -> None:
        super().__init__()
        self.drop = drop
        self.register_buffer("table", torch.ones(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.drop(self.table) + self.drop(x)
        return result


@pytest.mark.parametrize("how", ["trace", "script"])
@pytest.mark.parametrize(
    "drop",
    [nn.Dropout(inplace=True), nn.AlphaDropout(inplace=True), nn.FeatureAlphaDropout(inplace=True)],
    ids=str,
)
def test_dropout_in_place_is_no_state(drop: nn.Module, how: str) -> None:
    module = DropsInPlace(drop).eval()
    x = torch.randn(2, 3)
    model = load(trace(module, x) if how == "trace" else script(module))
    assert not model.info().stateful
    for _ in range(2):
        torch.testing.assert_close(model(x), module(x), rtol=0, atol=0)


class Scaled(nn.Module):
    """Numbers and tensors of one number promote a dtype differently."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale, requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        total = x.sum()
        return total * self.scale, total + self.scale, total / self.scale, total * 2.5


@pytest.mark.parametrize("executor", ["prepared", "legacy", "simple", "profiling"])
@pytest.mark.parametrize("how", ["trace", "script"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.int64])
def test_a_parameter_of_one_number_is_no_number(
    dtype: torch.dtype, how: str, executor: str
) -> None:
    module = Scaled(torch.tensor(0.5, dtype=torch.float64)).eval()
    x = torch.ones(3, dtype=dtype)
    model = load(trace(module, x) if how == "trace" else script(module), executor=executor)
    for _ in range(3):
        torch.testing.assert_close(model(x), module(x))


class WritesBetween(nn.Module):
    """The input of a convolution is written to between it and the sum behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.first(x)
        z = self.second(y)
        y[:, 0] = 0
        return z + x, y


def test_a_write_between_a_convolution_and_its_sum() -> None:
    torch.manual_seed(0)
    check(WritesBetween(), torch.randn(2, 4, 5, 5))


def behind(conv: nn.Module, *layers: nn.Module) -> nn.Module:
    return nn.Sequential(conv, *layers)


@pytest.mark.parametrize(
    "module",
    [
        behind(nn.Conv3d(4, 6, 3, padding=1), nn.AvgPool3d(2, ceil_mode=True)),
        behind(nn.Conv2d(4, 6, 3, groups=2), nn.AvgPool2d(2, ceil_mode=True)),
        behind(nn.Conv2d(4, 6, 3, groups=2), nn.AvgPool2d(3, divisor_override=5)),
        behind(nn.Conv2d(4, 6, 3, groups=2), nn.MaxPool2d(2, dilation=2)),
        behind(nn.Conv2d(4, 6, 3, groups=2), nn.GELU(approximate="tanh")),
        behind(nn.Conv2d(4, 6, 3, groups=2), nn.AdaptiveAvgPool2d(3)),
        behind(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.BatchNorm2d(6, affine=False)),
        behind(nn.Conv2d(4, 12, 3, groups=4), nn.PReLU(12)),
        behind(nn.Conv3d(4, 4, 1), nn.LeakyReLU()),
    ],
    ids=str,
)
def test_layers_behind_a_convolution_that_is_torchs(module: nn.Module) -> None:
    torch.manual_seed(0)
    rank = next(module.parameters()).dim()
    check(module, torch.randn(2, 4, *[11] * (rank - 2)))


class Twice(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.add(y, y, alpha=2)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_sum_of_a_convolution_with_itself(groups: int) -> None:
    torch.manual_seed(0)
    check(Twice(groups), torch.randn(2, 4, 5, 5))


class Plus(nn.Module):
    """The sum of a convolution and something of another shape."""

    def __init__(self, conv: nn.Module, addend: Tensor | float, *, first: bool = False) -> None:
        super().__init__()
        self.conv = conv
        if isinstance(addend, Tensor):
            self.register_buffer("addend", addend)
        else:
            self.addend = addend
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.addend + y if self.first else y + self.addend
        return torch.relu(z)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    "addend",
    [
        0.5,
        torch.tensor(0.5),
        torch.tensor(2),
        torch.randn(1),
        torch.randn(7),
        torch.randn(8, 1),
        torch.randn(8, 7),
        torch.randn(1, 8, 7),
        torch.randn(2, 8, 7),
        torch.randn(3, 1, 8, 7),
        torch.randn(2, 8, 7).double(),
    ],
    ids=lambda x: "number" if isinstance(x, float) else f"{list(x.shape)} {x.dtype}",
)
def test_a_sum_of_any_rank_behind_a_line_convolution(addend: Tensor | float, first: bool) -> None:
    torch.manual_seed(0)
    check(Plus(nn.Conv1d(4, 8, 3), addend, first=first), torch.randn(2, 4, 9))


class InPlaceSum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 1)

    def forward(self, x: Tensor, p: Tensor) -> Tensor:
        return torch.relu(self.conv(x).add_(1) + p[0].squeeze(0))


def test_a_sum_with_a_squeezed_value() -> None:
    torch.manual_seed(0)
    check(InPlaceSum(), torch.randn(2, 4, 6), torch.randn(3, 1, 6))


class InPlaceArithmetic(nn.Module):
    """A convolution's result, changed in place by another tensor, and an activation of it."""

    def __init__(self, operator: str, conv: nn.Module) -> None:
        super().__init__()
        self.operator = operator
        self.conv = conv

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        if self.operator == "add":
            y.add_(other)
        elif self.operator == "sub":
            y.sub_(other)
        elif self.operator == "mul":
            y.mul_(other)
        else:
            y.div_(other)
        return torch.relu_(y)


@pytest.mark.parametrize("operator", ["add", "sub", "mul", "div"])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        ((1, 4, 3, 3), torch.float32), ((4, 1, 1), torch.float32), ((), torch.float32),
        ((1, 4, 3, 3), torch.float64), ((4, 1, 1), torch.int64), ((2, 4, 3, 3), torch.float32),
        ((1, 1, 4, 3, 3), torch.float32), ((1, 4, 3, 3), torch.complex64),
    ],
)  # fmt: skip
def test_what_is_in_place_keeps_shape_and_dtype(
    operator: str, norm: bool, sizes: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 1)
    layers = nn.Sequential(conv, nn.BatchNorm2d(4)) if norm else conv
    module = InPlaceArithmetic(operator, layers).eval().requires_grad_(False)
    model = load(script(module))
    x = torch.randn(1, 2, 3, 3)
    other = (torch.rand(sizes, dtype=torch.float64) * 5 + 1).to(dtype)
    try:
        expected = module(x, other)
    except RuntimeError:
        with pytest.raises(ts_infer.ExecutionError, match=r"doesn't match|can't be cast"):
            model(x, other)
    else:
        torch.testing.assert_close(model(x, other), expected, rtol=1e-5, atol=1e-5)


class Loop(nn.Module):
    """An activation within a loop or a branch, of a value that is made before it."""

    def __init__(self, layer: nn.Module, how: str) -> None:
        super().__init__()
        self.layer = layer
        self.how = how

    def forward(self, x: Tensor, turns: int) -> list[Tensor]:
        y = self.layer(x)
        z = x
        for i in range(turns):
            if self.how == "in place":
                z = y.sigmoid_()
            elif self.how == "written to later":
                z = torch.tanh(y)
                z.add_(1)
            elif i == 1:
                z = y.relu_()
        return [z, x]


@pytest.mark.parametrize("how", ["in place", "written to later", "in a branch"])
@pytest.mark.parametrize("layer", [nn.Linear(4, 4), nn.Conv1d(4, 4, 3, padding=1)], ids=str)
def test_an_activation_within_a_loop_runs_once_a_turn(layer: nn.Module, how: str) -> None:
    torch.manual_seed(0)
    module = Loop(layer, how).eval()
    model = load(script(module))
    x = torch.randn(2, 4, 4)
    for turns in (0, 1, 2, 3):
        with torch.inference_mode():
            torch.testing.assert_close(model(x, turns), module(x, turns))


class SmallNumbers(nn.Module):
    """Of the identity: what a policy's or a potential's last layer gives for small inputs."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64, bias=False)
        nn.init.eye_(self.linear.weight)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation(self.linear(x))
        return result


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e-4, 1e-2, 1, 30])
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Sigmoid(), nn.SiLU(), nn.GELU("tanh")])
def test_activations_are_relatively_exact(activation: nn.Module, scale: float) -> None:
    torch.manual_seed(0)
    x = scale * torch.randn(5, 64)
    module = SmallNumbers(activation).eval()
    model = load(trace(module, x))
    assert uses_own_kernels(model, "1 linear")
    with torch.inference_mode():
        exact = activation(x.double())
        actual = model(x).double()
        # Below, eager's own GELU has no correct digit.
        kept = exact.abs() > 1e-38
        if isinstance(activation, nn.GELU):
            kept &= x > -2
    torch.testing.assert_close(actual[kept], exact[kept], rtol=1e-6, atol=0)


class Specials(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.linear.weight)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation(self.linear(x))
        return result


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.SiLU(), nn.GELU(), nn.GELU("tanh")]
)
def test_activations_of_specials_are_eagers(activation: nn.Module) -> None:
    infinity, nan = float("inf"), float("nan")
    x = torch.tensor([[0.0], [1e-40], [-1e-40], [infinity], [-infinity], [nan], [1e30], [-1e30]])
    check_special(Specials(activation).eval(), x)


def check_special(module: nn.Module, *inputs: Tensor) -> None:
    model = load(trace(module, *inputs))
    with torch.inference_mode():
        torch.testing.assert_close(
            model(*inputs), module(*inputs), rtol=1e-5, atol=1e-42, equal_nan=True
        )


class Attention(nn.Module):
    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_has_nan_where_eager_has_it(causal: bool, where: int, value: float) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 2, 6, 4) for _ in range(3)]
    inputs[where][0, 1, 3, 2] = value
    check_special(Attention(causal=causal), *inputs)


class Normed(nn.Module):
    """What a batch norm gets is written to behind the layer."""

    def __init__(self, layer: nn.Module, norm: nn.BatchNorm1d, how: str) -> None:
        super().__init__()
        self.layer = layer
        self.norm = norm
        self.how = how
        assert norm.running_mean is not None
        nn.init.normal_(norm.running_mean)
        nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if self.how == "view":
            y.unsqueeze(0).mul_(2)
        else:
            y[:, 0] = 0
        result: Tensor = self.norm(y)
        return result


@pytest.mark.parametrize("how", ["view", "slice"])
@pytest.mark.parametrize("layer", [nn.Linear(8, 3), nn.Conv1d(8, 3, 1)], ids=str)
def test_a_write_between_a_layer_and_its_batch_norm(layer: nn.Module, how: str) -> None:
    torch.manual_seed(0)
    sizes = (2, 8) if isinstance(layer, nn.Linear) else (2, 8, 5)
    check(Normed(layer, nn.BatchNorm1d(3), how), torch.randn(sizes))


class LineWithoutABatch(nn.Module):
    """A batch norm that norms over other numbers where there is no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 1)
        self.norm = nn.BatchNorm1d(4)
        assert self.norm.running_mean is not None
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


def test_a_batch_norm_behind_a_convolution_without_a_batch() -> None:
    torch.manual_seed(0)
    module = LineWithoutABatch().eval()
    model = load(script(module))
    for sizes in ((2, 4), (3, 2, 4), (3, 2, 5)):
        x = torch.randn(sizes)
        with torch.inference_mode():
            torch.testing.assert_close(model(x), module(x))


def test_a_group_norm_behind_a_convolution_to_one_pixel() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 12, 3, stride=3, padding=1)
    module = nn.Sequential(conv, nn.SiLU(), nn.GroupNorm(6, 12))
    model = load(script(module))
    x = torch.randn(8, 2, 1, 1)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), module(x), rtol=1e-5, atol=1e-5)


class NormedInALoop(nn.Module):
    """Each turn has a sum of its own, which it writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 1)

    def forward(self, x: Tensor, turns: int) -> Tensor:
        y = self.conv(x)
        total = torch.zeros_like(y)
        for _ in range(turns):
            z = y * 3.0
            z.add_(1)
            total += z
        return total


def test_what_is_behind_a_convolution_in_a_loop_is_made_in_each_turn() -> None:
    torch.manual_seed(0)
    module = NormedInALoop().eval()
    model = load(script(module))
    x = torch.randn(2, 4, 4)
    for turns in (0, 1, 3):
        with torch.inference_mode():
            torch.testing.assert_close(model(x, turns), module(x, turns))


class Smooth(nn.Module):
    """Has state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.mean
        assert isinstance(mean, Tensor)
        mean.mul_(0.9).add_(x.mean(0) * 0.1)
        return x - mean


@pytest.mark.parametrize("executor", runtime.executors())
def test_an_error_in_a_part_of_a_model_with_state_is_told(executor: str) -> None:
    model = load(script(nn.Sequential(nn.ReLU(), Smooth())), executor=executor)
    for instance in (model, model.clone()):
        instance(torch.ones(2, 8))
        with pytest.raises(ts_infer.ExecutionError, match="size of tensor"):
            instance(torch.ones(2, 5))
        instance(torch.ones(2, 8))


class InPlaceThen(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        x.abs_()
        result: Tensor = self.part(x)[0]
        return result


@pytest.mark.parametrize("part", [nn.LSTM(1, 1), nn.GRU(1, 2), nn.LSTM(1, 2, num_layers=2)])
def test_a_recurrent_layer_refuses_an_input_of_another_width_or_rank(part: nn.Module) -> None:
    model = load(trace(InPlaceThen(part).eval(), torch.randn(3, 1, 1)))
    model(torch.randn(5, 2, 1))
    for sizes in ((5, 2, 4), (5, 4), (5, 2, 0), (5, 1), (5, 2, 2, 1)):
        with pytest.raises(ts_infer.ExecutionError):
            model(torch.randn(sizes))
    model(torch.randn(5, 2, 1))


class CellOfConstants(nn.Module):
    """Its gates are split and then written to, and torch's freeze folds the split."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.cell(torch.zeros(1, 1))
        return result + x


def test_what_the_code_writes_to_is_no_constant() -> None:
    torch.manual_seed(0)
    module = CellOfConstants().eval().requires_grad_(False)
    with torch.inference_mode():
        model = load(trace(module, torch.zeros(1)))
        for _ in range(3):
            torch.testing.assert_close(model(torch.zeros(1)), module(torch.zeros(1)))


class WritesAConstant(nn.Module):
    """A plain tensor, which a trace makes a constant of, is state."""

    def __init__(self) -> None:
        super().__init__()
        self.count = torch.zeros(2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.count += 1
        doubled = self.count * 2
        self.count += x
        return self.count * 1.0, doubled


def test_clones_have_a_written_constant_of_their_own() -> None:
    x = torch.tensor([1.0, 2.0])
    model = load(trace(WritesAConstant().eval(), torch.zeros(2)))
    expected = [[3 + 2 * i, 4 + 3 * i] for i in range(4)]
    for instance in (model.clone(), model.clone(), model.clone()):
        assert [instance(x)[0].tolist() for _ in range(3)] == expected[:3]
    later = instance.clone()  # goes on from there
    assert [each(x)[0].tolist() for each in (later, instance)] == [expected[3]] * 2
    assert model(x)[0].tolist() == expected[0]


class Unbatched(nn.Module):
    """Looks at the rank of an image without a batch behind its convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        result: Tensor = y * 2 if y.dim() == 3 else y
        return result


def test_an_image_may_come_without_a_batch() -> None:
    torch.manual_seed(0)
    module = Unbatched().eval()
    model = load(script(module))
    for sizes in ((1, 5, 5), (2, 1, 5, 5)):
        x = torch.randn(sizes)
        with torch.inference_mode():
            torch.testing.assert_close(model(x), module(x), rtol=1e-5, atol=1e-5)


def test_a_convolution_of_a_batch_refuses_an_image() -> None:
    """A trace of an image without a batch adds one before torch._convolution."""
    module = nn.Sequential(nn.Conv2d(1, 3, 1)).eval()
    model = load(trace(module, torch.randn(1, 5, 5)))
    model(torch.randn(1, 4, 4))
    with pytest.raises(ts_infer.ExecutionError, match="Expected 4-dimensional input"):
        model(torch.randn(4, 4))


class AsksForDtype(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, bool, bool]:
        whole = torch.full([2], x.size(0))
        scaled = whole * 0.5
        return torch.zeros(2, dtype=scaled.dtype), whole.is_floating_point(), scaled.is_complex()


@pytest.mark.parametrize("executor", ["prepared", "legacy", "simple", "profiling"])
def test_a_dtype_that_is_asked_for_is_the_tensors(executor: str) -> None:
    model = load(script(AsksForDtype()), executor=executor)
    for _ in range(3):
        zeros, is_floating_point, is_complex = model(torch.ones(3))
        assert (zeros.dtype, is_floating_point, is_complex) == (torch.float32, False, False)


@pytest.mark.parametrize("executor", ["prepared", "legacy", "simple", "profiling"])
def test_a_view_fits_tensors_of_every_rank(executor: str) -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x.view(-1).add_(1)
            return x

    model = load(trace(Flat(), torch.ones(())), executor=executor)
    for size in ((), (0,), (3,), (2, 3), ()):
        assert torch.equal(model(torch.ones(size)), torch.full(size, 2.0))


class WritesByStrides(nn.Module):
    """`reshape` gives a view or a copy, as the strides of the part's result are."""

    def __init__(self, part: nn.Module, how: str) -> None:
        super().__init__()
        self.part = part
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        y = self.part(x)
        y = y[0] if isinstance(y, tuple) else y
        if self.how == "activated":
            y = y.relu()
        flat = y.flatten() if self.how == "flatten" else y.reshape(-1)
        if self.how == "contiguous":
            flat = y.contiguous()
        if self.how == "loop":
            for _ in range(2):
                flat = flat.mul_(2)
        else:
            flat.mul_(2)
        result: Tensor = y
        return result


class Attends(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize("how", ["reshape", "flatten", "contiguous", "activated", "loop"])
@pytest.mark.parametrize(
    ("part", "x"),
    [
        (nn.GRU(8, 8, batch_first=True), torch.randn(2, 4, 8)),
        (nn.LSTM(8, 8, 2, batch_first=True, bidirectional=True), torch.randn(2, 4, 8)),
        (
            nn.Conv2d(8, 8, 3, padding=1),
            torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last),
        ),
        (nn.Conv2d(8, 8, 3, padding=1), torch.randn(2, 8, 6, 6)),
        (Attends(), torch.randn(4, 2, 16, 8).transpose(0, 1)),
        (Attends(), torch.randn(2, 16, 4, 8).transpose(1, 2)),
        (nn.Linear(8, 8), torch.randn(4, 2, 8).transpose(0, 1)),
    ],
    ids=["GRU", "LSTM", "channels last", "channels first", "batch", "heads", "linear"],
)
def test_what_is_written_by_its_strides(part: nn.Module, x: Tensor, how: str) -> None:
    check(WritesByStrides(part, how), x)


@pytest.mark.parametrize(
    "part", [nn.GRU(8, 8, 2, batch_first=True), nn.LSTM(8, 8, batch_first=True)]
)
def test_a_recurrent_layer_gives_torchs_strides(part: nn.Module) -> None:
    x = torch.randn(3, 5, 8)
    part.eval()
    with torch.inference_mode():
        expected = part(x)[0]
    model = load(trace(part, x))
    assert uses_own_kernels(model, "LSTM") or uses_own_kernels(model, "GRU")
    result = model(x)[0]
    assert result.stride() == expected.stride()
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


class ActsBehind(nn.Module):
    """As convolution nets do: nothing but what is written sees the convolution's result."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(8, 8, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(128, 4)
        )
        self.end = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.end(self.layers(x))
        return result


def test_own_kernels_serve_where_strides_tell_nothing() -> None:
    model = check(ActsBehind(), torch.randn(1, 8, 6, 6))
    assert uses_own_kernels(model, "convolution")

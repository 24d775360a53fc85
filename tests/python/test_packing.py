"""LSTMs, GRUs, linears and attention run by own kernels, and give what eager gives."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import torch
from archives import intra_op_threads, quiet_torch_jit, script, uses_own_kernels
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

import ts_infer
from ts_infer import runtime

if TYPE_CHECKING:
    from pathlib import Path

INPUTS = 7
HIDDEN = 21  # not a multiple of what the kernel takes at once


class Recurrent(nn.Module):
    """An LSTM that takes and returns its state."""

    def __init__(self, *, hidden: int = HIDDEN, **options: bool | float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(INPUTS, hidden, **options)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h_n, c_n) = self.lstm(x, (h, c))
        return y, h_n, c_n

    def inputs(self, rows: int, steps: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        lstm = self.lstm
        layers = lstm.num_layers * (2 if lstm.bidirectional else 1)
        x = torch.randn(rows, steps, INPUTS, generator=generator)
        return (
            x if lstm.batch_first else x.transpose(0, 1),
            torch.randn(layers, rows, lstm.proj_size or lstm.hidden_size, generator=generator),
            torch.randn(layers, rows, lstm.hidden_size, generator=generator),
        )


class Gated(nn.Module):
    """A GRU that takes and returns its state."""

    def __init__(self, *, hidden: int = HIDDEN, **options: bool | int) -> None:
        super().__init__()
        self.gru = nn.GRU(INPUTS, hidden, **options)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, h_n = self.gru(x, h)
        return y, h_n

    def inputs(self, rows: int, steps: int) -> tuple[Tensor, Tensor]:
        layers = self.gru.num_layers * (2 if self.gru.bidirectional else 1)
        x = torch.randn(rows, steps, INPUTS)
        return (
            x if self.gru.batch_first else x.transpose(0, 1),
            torch.randn(layers, rows, self.gru.hidden_size),
        )


class Cells(nn.Module):
    """An LSTM's cell and a GRU's, several steps of each."""

    def __init__(self, *, hidden: int = HIDDEN, bias: bool = True) -> None:
        super().__init__()
        self.lstm = nn.LSTMCell(INPUTS, hidden, bias=bias)
        self.gru = nn.GRUCell(INPUTS, hidden, bias=bias)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        g = h
        for _ in range(3):
            h, c = self.lstm(x, (h, c))
            g = self.gru(x, g)
        return h, c, g


def load(module: Recurrent, folder: Path) -> runtime.Model:
    steps, rows = Dim("steps", min=1, max=40), Dim("rows", min=1, max=8)
    order = (rows, steps) if module.lstm.batch_first else (steps, rows)
    ts_infer.export(
        module.eval(),
        example_inputs=module.inputs(3, 9),
        dynamic_shapes={"x": dict(enumerate(order)), "h": {1: rows}, "c": {1: rows}},
        path=folder / "lstm.pt",
        audit="fast",
    )
    return runtime.load(folder / "lstm.pt")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True},
        {"bias": False},
        {"num_layers": 2, "batch_first": True},
        {"bidirectional": True},
        {"bidirectional": True, "num_layers": 3, "batch_first": True},
        {"hidden": 32, "batch_first": True},
        {"hidden": 1},
    ],
    ids=lambda options: ", ".join(f"{key}={value}" for key, value in options.items()) or "plain",
)
def test_equals_eager_at_every_number_of_sequences_and_steps(
    options: dict[str, bool | int], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = Recurrent(**options)
    model = load(module, tmp_path)
    assert uses_own_kernels(model, "1 LSTM")
    for rows in (1, 2, 3, 4, 5, 8):  # the kernel takes up to 4
        for steps in (1, 2, 13, 40):
            inputs = module.inputs(rows, steps, seed=10 * steps + rows)
            with torch.inference_mode():
                for ours, eager in zip(model(*inputs), module(*inputs), strict=True):
                    torch.testing.assert_close(ours, eager, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True},
        {"bias": False},
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
        {"hidden": 16},
        {"hidden": 1},
    ],
    ids=lambda options: ", ".join(f"{key}={value}" for key, value in options.items()) or "plain",
)
def test_a_gru_equals_eager_at_every_number_of_sequences_and_steps(
    options: dict[str, bool | int], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = Gated(**options)
    model = load_plain(module, tmp_path)
    assert uses_own_kernels(model, "1 GRU")
    for rows in (1, 2, 3, 4, 5):
        for steps in (1, 2, 13):
            inputs = module.inputs(rows, steps)
            with torch.inference_mode():
                for ours, eager in zip(model(*inputs), module(*inputs), strict=True):
                    torch.testing.assert_close(ours, eager, rtol=1e-5, atol=2e-6)
    x, h = module.inputs(2, 4)
    for value in (float("nan"), float("inf"), 1e30):
        x[1, 0, 0] = value
        with torch.inference_mode():
            for ours, eager in zip(model(x, h), module(x, h), strict=True):
                torch.testing.assert_close(ours, eager, rtol=1e-5, atol=2e-6, equal_nan=True)
    with pytest.raises(ts_infer.ExecutionError, match="hidden"):
        model(x, h[:, :1])


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"hidden": 32}], ids=str)
def test_cells_equal_eager(options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Cells(**options)
    model = load_plain(module, tmp_path)
    assert uses_own_kernels(model, "3 GRU cells, 3 LSTM cells")
    hidden = module.gru.hidden_size
    for rows in (1, 3, 4, 5):
        inputs = (torch.randn(rows, INPUTS), torch.randn(rows, hidden), torch.randn(rows, hidden))
        for args in (inputs, tuple(each[0] for each in inputs)):  # without rows, too
            with torch.inference_mode():
                for ours, eager in zip(model(*args), module(*args), strict=True):
                    torch.testing.assert_close(ours, eager, rtol=1e-5, atol=2e-6)
    with pytest.raises(ts_infer.ExecutionError):
        model(torch.randn(2, INPUTS + 1), torch.randn(2, hidden), torch.randn(2, hidden))


def test_saturates_and_propagates_as_eager_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Recurrent()
    model = load(module, tmp_path)
    x, h, c = module.inputs(1, 6)
    for scale in (1e-6, 1e3, 1e30):
        with torch.inference_mode():
            for ours, eager in zip(model(scale * x, h, c), module(scale * x, h, c), strict=True):
                torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)
    for value in (float("nan"), float("inf"), -float("inf")):
        x[3, 0, 0] = value
        with torch.inference_mode():
            for ours, eager in zip(model(x, h, c), module(x, h, c), strict=True):
                torch.testing.assert_close(ours, eager, rtol=1e-5, atol=2e-6, equal_nan=True)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projection_stays_with_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Recurrent(proj_size=5)
    model = load(module, tmp_path)
    assert not uses_own_kernels(model, "1 LSTM")
    inputs = module.inputs(2, 6)
    for ours, eager in zip(model(*inputs), module(*inputs), strict=True):
        torch.testing.assert_close(ours, eager)


def test_the_optimize_option_turns_it_off(tmp_path: Path) -> None:
    load(Recurrent(), tmp_path)
    assert not uses_own_kernels(runtime.load(tmp_path / "lstm.pt", optimize=False), "1 LSTM")


def test_a_state_of_the_wrong_size_is_torchs_to_refuse(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Recurrent()
    model = load_plain(module, tmp_path)
    assert uses_own_kernels(model, "1 LSTM")
    x, h, c = module.inputs(2, 6)
    with pytest.raises(ts_infer.ExecutionError, match="hidden"):
        model(x, h[:, :1], c)
    torch.testing.assert_close(model(x, h, c)[0], module(x, h, c)[0])


def load_plain(module: nn.Module, folder: Path) -> runtime.Model:
    file = folder / "plain.pt"
    with quiet_torch_jit():
        torch.jit.save(script(module), str(file))
    return runtime.load(file)


@pytest.mark.parametrize(
    "activation",
    [
        None,
        nn.ReLU(),
        nn.GELU(),
        nn.GELU("tanh"),
        nn.SiLU(),
        nn.Sigmoid(),
        nn.Tanh(),
        nn.ELU(),
    ],
    ids=str,
)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(1, 1), (4, 64), (64, 4), (37, 83), (256, 256), (384, 200)]
)
def test_a_linear_equals_eager_at_every_number_of_rows(
    inputs: int, outputs: int, bias: bool, activation: nn.Module | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(inputs, outputs, bias=bias)
    module = nn.Sequential(linear) if activation is None else nn.Sequential(linear, activation)
    model = load_plain(module, tmp_path)
    assert uses_own_kernels(model, "1 linear")
    for shape in ((), (1,), (2,), (3,), (4,), (2, 2), (5,), (2, 3), (7, 31), (1, 1, 1), (0,)):
        x = torch.randn(*shape, inputs)
        with torch.inference_mode():
            torch.testing.assert_close(model(x), module(x))
    x = torch.randn(inputs, 3).t()
    with torch.inference_mode():
        torch.testing.assert_close(model(x), module(x))


@pytest.mark.parametrize(("rows", "outputs"), [(600, 300), (4000, 20), (1001, 64), (300, 129)])
def test_a_linear_is_shared_by_the_threads(rows: int, outputs: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(500, outputs), nn.GELU())
    model = load_plain(module, tmp_path)
    x = torch.randn(rows, 500)
    for threads in (1, 2, 3):
        with intra_op_threads(threads), torch.inference_mode():
            torch.testing.assert_close(model(x), module(x), rtol=1e-5, atol=1e-5)


class UsedTwice(nn.Module):
    """Uses a linear's output beside its ReLU, in place and not."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.linear(x)
        before = y + 1
        return before, torch.relu_(y), y


def test_a_relu_is_not_fused_where_the_linears_output_is_used_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = UsedTwice()
    model = load_plain(module, tmp_path)
    x = torch.randn(2, 4)
    with torch.inference_mode():
        for ours, eager in zip(model(x), module(x), strict=True):
            torch.testing.assert_close(ours, eager)


class WrittenBetween(nn.Module):
    """Writes to a linear's input before the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 2
        y = self.linear(x)
        x.add_(1)
        return functional.gelu(y) + functional.relu(self.linear(x))


def test_a_linear_reads_its_input_before_later_writes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = WrittenBetween()
    model = load_plain(module, tmp_path)
    assert uses_own_kernels(model, "2 linears")
    x = torch.randn(2, 4)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), module(x))


@pytest.mark.parametrize(
    ("activation", "value"),
    [
        (nn.ReLU(), float("nan")),
        (nn.ReLU(), float("inf")),
        (nn.GELU(), float("nan")),
        (nn.SiLU(), float("nan")),
        (nn.Tanh(), float("inf")),
        (nn.Sigmoid(), float("inf")),
    ],
    ids=str,
)
def test_a_linear_propagates_nan_and_infinity(
    activation: nn.Module, value: float, tmp_path: Path
) -> None:
    module = nn.Sequential(nn.Linear(4, 6), activation)
    model = load_plain(module, tmp_path)
    x = torch.tensor([[1.0, value, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]])
    with torch.inference_mode():
        torch.testing.assert_close(model(x), module(x), equal_nan=True)


def test_other_dtypes_and_sizes_are_torchs_to_take_or_refuse(tmp_path: Path) -> None:
    model = load_plain(nn.Sequential(nn.Linear(4, 6)), tmp_path)
    with pytest.raises(ts_infer.ExecutionError, match="dtype"):
        model(torch.randn(1, 4, dtype=torch.float64))
    with pytest.raises(ts_infer.ExecutionError, match="shapes cannot be multiplied"):
        model(torch.randn(1, 5))
    assert model(torch.randn(1, 4)).shape == (1, 6)


def test_weights_of_another_dtype_stay_with_torch(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 6)).double()
    model = load_plain(module, tmp_path)
    assert not uses_own_kernels(model, "linear")
    x = torch.randn(1, 4, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), module(x))


def test_clones_and_threads_share_packed_weights(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    model = load_plain(module, tmp_path)
    models = [model, model.clone(), model.clone()]
    inputs = [torch.randn(2, 16) for _ in range(50)]
    with torch.inference_mode():
        expected = [module(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for which in models:
            for ours, eager in zip(pool.map(which, inputs), expected, strict=True):
                torch.testing.assert_close(ours, eager)


class Attention(nn.Module):
    """Scaled dot product attention, of a form that a test chooses."""

    def __init__(self, causal: bool = False, scale: float | None = None) -> None:
        super().__init__()
        self.causal = causal
        self.scale = scale

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=self.causal, scale=self.scale
        )


def attend(model: runtime.Model, module: nn.Module, *inputs: Tensor) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(model(*inputs), module(*inputs), equal_nan=True)


@pytest.mark.parametrize("batch", [(1,), (3,), (2, 3), (2, 1, 2)])
@pytest.mark.parametrize(
    ("queries", "keys", "width", "value_width"),
    [(1, 1, 1, 1), (5, 7, 8, 8), (40, 33, 16, 24), (33, 100, 20, 20), (64, 64, 64, 64)],
)
def test_attention_equals_eager(
    batch: tuple[int, ...],
    queries: int,
    keys: int,
    width: int,
    value_width: int,
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    for causal, scale in ((False, None), (True, None), (False, 0.7), (False, -0.7)):
        module = Attention(causal, scale)
        model = load_plain(module, tmp_path)
        assert uses_own_kernels(model, "1 attention")
        q = torch.randn(*batch, queries, width)
        k = torch.randn(*batch, keys, width)
        v = torch.randn(*batch, keys, value_width)
        attend(model, module, q, k, v)
        attend(model, module, q.mT.contiguous().mT, k.mT.contiguous().mT, v.mT.contiguous().mT)


def test_attention_takes_every_mask(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Attention()
    model = load_plain(module, tmp_path)
    q, k, v = torch.randn(2, 3, 20, 16), torch.randn(2, 3, 37, 16), torch.randn(2, 3, 37, 16)
    for shape in ((20, 37), (1, 37), (20, 1), (2, 1, 1, 37), (2, 3, 20, 37), (1, 3, 20, 37)):
        mask = torch.randn(shape)
        attend(model, module, q, k, v, mask)
        attend(model, module, q, k, v, mask > 0)
        attend(model, module, q, k, v, mask.masked_fill(mask > 1, float("-inf")))
    mask = torch.randn(37, 20).mT
    attend(model, module, q, k, v, mask)


def test_a_query_that_sees_nothing_gets_what_eager_gives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Attention()
    model = load_plain(module, tmp_path)
    q, k, v = torch.randn(3, 2, 4), torch.randn(3, 5, 4), torch.randn(3, 5, 4)
    seen = torch.tensor([[True] * 5, [False] * 5])
    attend(model, module, q, k, v, seen)
    q[0, 0, 0] = float("nan")
    k[1, 2, 1] = float("inf")
    attend(model, module, q, k, v)


def test_attention_takes_heads_that_lie_interleaved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Attention()
    model = load_plain(module, tmp_path)
    q, k, v = torch.randn(2, 9, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind()
    attend(model, module, q, k, v)
    assert model(q, k, v).stride() == module(q, k, v).stride()


def test_attention_refuses_as_torch_does(tmp_path: Path) -> None:
    module = Attention()
    model = load_plain(module, tmp_path)
    q, k = torch.randn(2, 5, 8), torch.randn(2, 6, 8)
    with pytest.raises(ts_infer.ExecutionError):
        model(q, k[..., :4], k)
    with pytest.raises(ts_infer.ExecutionError):
        model(q, k, k[:, :3])
    attend(model, module, q.double(), k.double(), k.double())
    attend(model, module, q, k[:, :0], k[:, :0])


@pytest.mark.parametrize("norm_first", [False, True])
def test_an_encoders_layer_takes_what_is_empty_as_eager_does(
    norm_first: bool, tmp_path: Path
) -> None:
    module = nn.TransformerEncoderLayer(8, 2, 16, norm_first=norm_first, batch_first=True).eval()
    path = tmp_path / "layer.pt"
    with torch.inference_mode(), quiet_torch_jit():
        traced = torch.jit.trace(module, torch.randn(2, 3, 8), check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, path)
        model = runtime.load(path)
        for sizes in ((0, 3, 8), (2, 0, 8), (2, 3, 0), (0, 4, 5), (2, 3, 8)):
            x = torch.randn(sizes)
            torch.testing.assert_close(model(x), module(x))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_an_encoders_layer_equals_eager(activation: str, norm_first: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        *(
            nn.TransformerEncoderLayer(
                48, 4, 96, activation=activation, norm_first=norm_first, batch_first=True
            )
            for _ in range(2)
        )
    ).eval()
    length = Dim("length", min=1, max=70)
    ts_infer.export(
        module,
        example_inputs=(torch.randn(2, 9, 48),),
        dynamic_shapes={"input": {1: length}},
        path=tmp_path / "encoder.pt",
        audit="fast",
    )
    model = runtime.load(tmp_path / "encoder.pt")
    assert uses_own_kernels(model, "8 linears, 2 attentions")
    for steps in (1, 2, 9, 37, 70):
        x = torch.randn(2, steps, 48)
        with torch.inference_mode():
            torch.testing.assert_close(model(x), module(x), rtol=1e-5, atol=1e-5)

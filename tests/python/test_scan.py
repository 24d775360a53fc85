"""Reading graphs: what is baked in, what writes, what is dead, and how two graphs compare."""
# mypy: disable-error-code="no-untyped-call,no-any-return"

import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from archives import jit_load, quiet_torch_jit, script
from torch import Tensor, nn

from ts_infer._export.scan import Scan, first_difference, normalised, scan, tensor_digest
from ts_infer.models import decision_gate


def trace(module: nn.Module, *inputs: Any) -> Any:
    tracer: Any = torch.jit.trace
    given = [i.clone() if isinstance(i, Tensor) else i for i in inputs]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return tracer(module.eval(), tuple(given), strict=False, check_trace=False)


def freeze(module: Any) -> Any:
    with quiet_torch_jit():
        return torch.jit.freeze(module)


def reloaded(module: Any) -> Any:
    buffer = io.BytesIO()
    with quiet_torch_jit():
        torch.jit.save(module, buffer)
    buffer.seek(0)
    return jit_load(buffer)


def everywhere(module: Any) -> list[Scan]:
    """Scans of a module, of it frozen, and of both as loaded from an archive."""
    frozen = freeze(module)
    forms = (module, frozen, reloaded(module), reloaded(frozen))
    return [pickle.loads(pickle.dumps(scan(form))) for form in forms]


X = torch.arange(6.0).reshape(2, 3)


class Child(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.zeros(x.shape[0], 1, device=x.device)


class Devices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.child = Child()

    def forward(self, x: Tensor) -> Tensor:
        return self.child(x) * torch.arange(x.shape[1], device=x.device)


def test_baked_devices_have_the_line_they_come_from() -> None:
    for found in everywhere(trace(Devices(), X)):
        seen = {
            (node.operator, device, node.statement.text, node.statement.file)
            for node, device in found.devices
            if node.statement is not None
        }
        assert seen == {
            (
                "aten::zeros",
                "cpu",
                "return x + torch.zeros(x.shape[0], 1, device=x.device)",
                __file__,
            ),
            (
                "aten::arange",
                "cpu",
                "return self.child(x) * torch.arange(x.shape[1], device=x.device)",
                __file__,
            ),
        }


def test_scripted_device_of_the_input_is_not_baked() -> None:
    for found in everywhere(script(Child())):
        assert found.devices == []


class ToCpu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cpu() + 1


def test_operator_that_names_its_device_counts() -> None:
    for found in everywhere(script(ToCpu())):
        assert [(node.operator, device) for node, device in found.devices] == [("aten::cpu", "cpu")]


class Dropouts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.dropout(x, 0.5, True)  # on
        y = nn.functional.dropout(y, 0.5, False)
        y = nn.functional.dropout(y, 0.0, True)
        y = nn.functional.instance_norm(y[None])[0]
        y = nn.functional.batch_norm(y, None, None, training=True)  # on
        return nn.functional.scaled_dot_product_attention(y, y, y, dropout_p=0.5)  # on


def test_train_flags_are_those_that_are_on() -> None:
    for found in everywhere(trace(Dropouts(), X)):
        assert [node.operator for node in found.train_flags] == [
            "aten::dropout",
            "aten::batch_norm",
            "aten::scaled_dot_product_attention",
        ]
        for node in found.train_flags:
            assert node.statement is not None
            assert node.statement.text.endswith("# on")
        assert [node.operator for node in found.random] == [
            "aten::dropout",
            "aten::scaled_dot_product_attention",
        ]


def test_modules_in_eval_mode_have_no_train_flags() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    norm = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    lstm = nn.LSTM(4, 4, num_layers=2, dropout=0.5)
    for module, x in ((layer, torch.ones(1, 2, 4)), (norm, torch.ones(2, 4)), (lstm, X.T[:, None])):
        x = torch.ones(2, 4) if module is norm else torch.ones(1, 2, 4)
        found = scan(freeze(trace(module, x)))
        assert found.train_flags == []
        assert found.random == []


class Draws(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x) + torch.randn(3) + torch.bernoulli(x.sigmoid())


def test_random_operators() -> None:
    for found in everywhere(trace(Draws(), X)):
        names = sorted(node.operator for node in found.random)
        assert names == ["aten::bernoulli", "aten::rand_like", "aten::randn"]


class Inputs(nn.Module):
    def forward(self, used: Tensor, dead: Tensor, taken_out: Tensor, device: Tensor) -> Tensor:
        return used * int(taken_out.sum()) + torch.zeros(3, device=device.device)


def test_dead_inputs_are_those_that_nothing_depends_on() -> None:
    for found in everywhere(trace(Inputs(), X, X, X, X)):
        assert found.dead_inputs == ["dead", "taken_out", "device"]
    for found in everywhere(script(Inputs())):
        assert found.dead_inputs == ["dead", "device"]


class Writes(nn.Module):
    running: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running", torch.zeros(3))

    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        self.running.mul_(0.9).add_(x.mean(0))  # a buffer
        fresh = x * 2
        fresh.add_(1)  # a new tensor
        y[0].transpose(0, 0).mul_(2)  # a view of y
        torch.add(x, 1, out=z)  # into z
        return fresh + y + z + self.running


def test_input_writes_are_those_into_inputs_and_their_views() -> None:
    for module in (trace(Writes(), X, X, X), script(Writes())):
        for found in everywhere(module):
            assert [(node.operator, node.target) for node in found.input_writes] == [
                ("aten::mul_", "y"),
                ("aten::add", "z"),
            ]


class WritesInLoop(nn.Module):
    def forward(self, x: Tensor, xs: list[Tensor], n: int) -> Tensor:
        row = x
        for i in range(n):
            row = row[0] if i > 1 else row
            if n > 2:
                row.add_(1)
        first, second = xs[0].split(1)
        second.zero_()
        return x + first


def test_input_writes_are_followed_through_blocks_and_lists() -> None:
    for found in everywhere(script(WritesInLoop())):
        assert [(node.operator, node.target) for node in found.input_writes] == [
            ("aten::add_", "x"),
            ("aten::zero_", "xs"),
        ]


def forked_work(x: Tensor) -> Tensor:
    x.mul_(2)
    return x + torch.rand(x.size(0), 1, device="cpu")


class Forks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        future: torch.jit.Future[Tensor] = torch.jit.fork(forked_work, x)
        return torch.jit.wait(future) + 1


def test_forked_graphs_are_read_too() -> None:
    for found in everywhere(script(Forks())):
        assert [node.operator for node in found.random] == ["aten::rand"]
        assert [node.operator for node, _ in found.devices] == ["aten::rand"]
        assert [(node.operator, node.target) for node in found.input_writes] == [
            ("aten::mul_", "x")
        ]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(1.0),
        torch.zeros(0, 3),
        torch.ones(2, dtype=torch.complex64).conj(),
        torch.ones(2, dtype=torch.bool),
        torch.ones(2, 2).to_sparse(),
        torch.ones(4, 4).T[::2],
    ],
)
def test_every_kind_of_tensor_has_a_digest(tensor: Tensor) -> None:
    assert len(tensor_digest(tensor)) == 64
    assert tensor_digest(tensor) == tensor_digest(tensor.clone())
    assert tensor_digest(torch.ones(2, device="meta")) == ""


class Methods(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1

    @torch.jit.export
    def noise(self) -> Tensor:
        return torch.randn(2, device="cpu")


def test_other_methods_are_read_too() -> None:
    found = scan(reloaded(script(Methods())))
    assert [(node.operator, node.method) for node in found.random] == [("aten::randn", "noise")]
    assert [(node.operator, node.method) for node, _ in found.devices] == [("aten::randn", "noise")]


def test_torch_brings_all_operators_and_classes_of_a_quantised_lstm() -> None:
    model = nn.Sequential(nn.LSTM(2, 2))
    quantize: Any = torch.ao.quantization.quantize_dynamic
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = script(quantize(model, dtype=torch.qint8))
    for form in (module, freeze(module)):
        found = scan(form)
        assert "aten::quantized_lstm" in found.operators
        assert found.custom_operators == []
        assert found.custom_classes == []


def test_custom_operators_are_named() -> None:
    library = torch.library.Library("scan_test", "FRAGMENT")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: 2 * x, "CompositeExplicitAutograd")

    class Custom(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = torch.ops.scan_test.twice(x)
            return out

    found = scan(freeze(trace(Custom(), X)))
    assert found.custom_operators == ["scan_test::twice"]
    assert "aten::size" not in found.operators


def test_place_without_debug_information_is_the_archives_own_code() -> None:
    from ts_infer._export.scan import statement_of

    source = (
        'Serialized   File "code/__torch__/m.py", line 7\n    a = 1\n    b = torch.zeros([2])\n'
        "        ~~~~~~~~~~~ <--- HERE\n    return b\n"
    )
    statement = statement_of(source)
    assert statement is not None
    assert (statement.file, statement.line) == ("code/__torch__/m.py", 7)
    assert statement.text == "b = torch.zeros([2])"
    assert statement_of("") is None


def test_place_on_another_machine_is_the_users_frame() -> None:
    from ts_infer._export.scan import statement_of

    source = (
        "/opt/python/lib/python3.9/site-packages/torch/nn/functional.py(7): dropout\n"
        "/home/user/net.py(25): forward\n/home/user/main.py(3): <module>\n"
    )
    statement = statement_of(source)
    assert statement is not None
    assert (statement.file, statement.line, statement.text) == ("/home/user/net.py", 25, "")


# Comparing.


def graphs(module: nn.Module, *inputs: Tensor) -> list[Any]:
    return [normalised(trace(module, x)) for x in inputs]


@pytest.mark.parametrize(
    ("module", "small", "large"),
    [
        (Devices(), torch.ones(2, 3), torch.ones(5, 4)),
        (nn.LSTM(3, 4, batch_first=True), torch.ones(2, 5, 3), torch.ones(4, 2, 3)),
        (nn.GRU(3, 4, bidirectional=True), torch.ones(2, 5, 3), torch.ones(4, 2, 3)),
        (nn.TransformerEncoderLayer(4, 2, 8), torch.ones(2, 3, 4), torch.ones(5, 1, 4)),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)),
            torch.ones(1, 1, 5, 5),
            torch.ones(2, 1, 9, 7),
        ),
    ],
)
def test_traces_at_other_sizes_and_values_are_equal(
    module: nn.Module, small: Tensor, large: Tensor
) -> None:
    first, other, larger = graphs(module, small, -small, large)
    assert first_difference(first, other) is None
    assert first_difference(first, larger) is None
    assert str(first) == str(larger)


class BakedSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x + 1
        return y * len(x.tolist())


class BakedTensor(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.from_numpy(x.numpy() > 0)


@pytest.mark.parametrize(
    ("module", "a", "b", "text"),
    [
        (BakedSize(), torch.ones(2), torch.ones(3), "return y * len(x.tolist())"),
        (BakedTensor(), X, -X, "return x * torch.from_numpy(x.numpy() > 0)"),
    ],
)
def test_baked_value_is_a_difference_with_its_line(
    module: nn.Module, a: Tensor, b: Tensor, text: str
) -> None:
    difference = first_difference(*graphs(module, a, b))
    assert difference is not None
    message, statement = difference
    assert "became" in message
    assert statement is not None
    assert (statement.file, statement.text) == (__file__, text)


def test_lost_branch_is_a_difference_with_both_lines() -> None:
    difference = first_difference(*graphs(decision_gate.MyDecisionGate(), X + 1, -X - 1))
    assert difference is not None
    message, _ = difference
    assert "aten::neg" in message
    assert decision_gate.__file__ in message


def test_same_module_traced_twice_in_one_process_is_equal() -> None:
    # The second time, torch renames the classes: ___torch_mangle_N.
    first, second = (normalised(trace(decision_gate.make().linear, torch.ones(1, 4))) for _ in "ab")
    assert first_difference(first, second) is None
    assert "mangle" not in str(first)


def test_normalised_shows_blocks_and_forks() -> None:
    text = str(normalised(script(WritesInLoop())))
    assert "prim::Loop" in text
    assert "  block(" in text
    assert "aten::rand" in str(normalised(script(Forks())))

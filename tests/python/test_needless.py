"""What is fine is exported: nothing is refused for rounding, looks, or what no call depends on."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import ts_infer
from ts_infer import runtime
from ts_infer._export import arguments
from ts_infer._export.compare import is_rounding
from ts_infer._export.eager import watch_eager
from ts_infer._export.training import depend_on_training

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

X = torch.linspace(-1, 2, 8).view(2, 4)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        return result


def exported(module: nn.Module, path: Path, *inputs: Any, **options: Any) -> ts_infer.ExportReport:
    """The report of an export that ts_infer's runtime answers as the module does."""
    report = ts_infer.export(module, inputs, path, **options)
    model = runtime.load(path, device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(model(*inputs), module(*inputs))
    return report


def refusal(module: nn.Module, path: Path, *inputs: Any) -> ts_infer.ExportReport:
    with pytest.raises(ts_infer.ExportError) as caught:
        ts_infer.export(module, inputs, path)
    assert caught.value.report is not None
    return caught.value.report


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


# Rounding.


def conv_net() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels in (3, *(16,) * 5):
        norm = nn.BatchNorm2d(16)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        layers += [nn.Conv2d(channels, 16, 3, padding=1), norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(16, 3, 1)).eval()


def test_folded_batch_norms_round_otherwise(path: Path) -> None:
    assert exported(conv_net(), path, torch.rand(1, 3, 32, 32)).method == "trace"


def test_rounding_is_measured_by_what_most_elements_do() -> None:
    torch.manual_seed(0)
    expected = torch.randn(1000) * 1e6
    in_double = expected.double() + torch.randn(1000).double()
    in_double[3] += 1e5  # one has come to the other side of a threshold
    assert is_rounding(expected, expected + torch.randn(1000), [in_double], typical=True)
    off = expected.clone()
    off[7] += 1e3
    assert not is_rounding(expected, off, [in_double], typical=True)
    assert is_rounding(expected, off, [in_double])
    wrong = expected.long()
    wrong[7] += 1
    assert not is_rounding(expected.long(), wrong, [in_double], typical=True)


# State that is none.


class KeepsLast(Layer):
    def forward(self, x: Tensor) -> Tensor:
        self.last = self.layer(x)
        result: Tensor = self.last * 2
        return result


class KeepsShape(Layer):
    def forward(self, x: Tensor) -> Tensor:
        self.rows = x.shape[0]
        result: Tensor = self.layer(x).reshape(self.rows, 4)
        return result


class Distribution:
    def set(self, mean: Tensor) -> Distribution:
        self.mean = mean
        return self

    def mode(self) -> Tensor:
        return self.mean * 2


class HasDistribution(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.distribution = Distribution()

    def forward(self, x: Tensor) -> Tensor:
        return self.distribution.set(self.layer(x)).mode()


class MakesDistribution(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(4))
        self.distribution: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.distribution = torch.distributions.Normal(self.layer(x), self.log_std.exp())
        result: Tensor = self.distribution.mean
        return result


@pytest.mark.parametrize("make", [KeepsLast, KeepsShape, HasDistribution, MakesDistribution])
def test_what_each_call_overwrites_is_no_state(make: Callable[[], nn.Module], path: Path) -> None:
    assert exported(make().eval(), path, X).method == "trace"


class Counts(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def forward(this, x: Tensor) -> Tensor:  # noqa: N805 - it may have any name
        this.n = this.n + 1
        if this.n > 1000:
            return x
        result: Tensor = this.layer(x)
        return result


class ReadsWhatTheLastCallLeft(HasDistribution):
    def forward(self, x: Tensor) -> Tensor:
        seen = hasattr(self.distribution, "mean") and bool(self.distribution.mean.sum() > 1e9)
        return self.distribution.set(self.layer(x)).mode() + int(seen)


class TakesTurns(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.act: Any = torch.relu

    def forward(self, x: Tensor) -> Tensor:
        act, self.act = self.act, (torch.tanh if self.act is torch.relu else torch.relu)
        result: Tensor = act(self.layer(x))
        return result


def doubled(x: Tensor) -> Tensor:
    return x * 2


def halved(x: Tensor) -> Tensor:
    return x / 2


class TakesTurnsOfItsOwn(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.act = doubled

    def forward(self, x: Tensor) -> Tensor:
        act, self.act = self.act, (halved if self.act is doubled else doubled)
        return act(self.layer(x))


@pytest.mark.parametrize("make", [Counts, ReadsWhatTheLastCallLeft, TakesTurns, TakesTurnsOfItsOwn])
def test_what_a_call_reads_first_is_state(make: Callable[[], nn.Module], path: Path) -> None:
    with pytest.raises(ts_infer.ExportError) as caught:
        ts_infer.export(make().eval(), X, path, method="trace")
    assert caught.value.report is not None
    assert "python-state" in {finding.code for finding in caught.value.report.findings}


class Grows(nn.Module):
    def forward(self, features: dict[str, Tensor]) -> Tensor:
        features["twice"] = features["x"] * 2
        return features["twice"] + 1


def test_a_dict_that_grows_is_told(path: Path) -> None:
    report = ts_infer.export(Grows().eval(), ({"x": X},), path)
    assert any("puts features.twice into" in note for note in report.notes), report.notes
    torch.testing.assert_close(runtime.load(path, device="cpu")({"x": X}), X * 2 + 1)


# Training mode.


class CallsDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, self.training)


class AsksInAnInnerFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        def shifted() -> Tensor:
            return x + 1 if self.training else x

        return shifted()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_depends_on_training_is_known() -> None:
    free = [
        Layer(),
        nn.Sequential(nn.Dropout(0.0), nn.GroupNorm(1, 4), nn.InstanceNorm1d(4), nn.LSTM(4, 4, 2)),
        nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0),
        torch.jit.script(nn.Linear(4, 4)),
    ]
    for module in free:
        assert depend_on_training(module) == []
    bound = {
        "1": nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
        "the module itself": CallsDropout(),
        "0": nn.Sequential(AsksInAnInnerFunction()),
        "parametrizations.weight.0": nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
        "2": nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.LSTM(4, 4, 2, dropout=0.1)),
        "norm1": torch.jit.script(NormAlone()),
    }
    for name, module in bound.items():
        assert depend_on_training(module) == [name]
        assert depend_on_training(module.eval()) == []


class NormAlone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm1(x)
        return result


def test_training_mode_that_nothing_depends_on_is_left(path: Path) -> None:
    module = Layer().train()
    report = exported(module, path, X)
    assert module.training
    assert any("training mode" in note for note in report.notes)


def test_training_mode_names_what_depends_on_it(path: Path) -> None:
    (finding,) = refusal(nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train(), path, X).findings
    assert finding.code == "train-mode"
    assert "training mode in 1: " in finding.message


# Names and weights.


class Named(nn.Module):
    def forward(self, x: Tensor, Δt: Tensor) -> Tensor:  # noqa: N803
        return x * Δt


class Größe(Layer):
    pass


@pytest.mark.parametrize(
    ("module", "inputs", "name"), [(Named(), (X, X), "Δt"), (Größe(), (X,), "Größe")]
)
def test_names_that_torch_cannot_read_are_named(
    module: nn.Module, inputs: tuple[Tensor, ...], name: str, path: Path
) -> None:
    (finding,) = refusal(module.eval(), path, *inputs).findings
    assert finding.code == "name-unreadable"
    assert name in finding.message


class Branches(Layer):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        if x.sum() > 0:
            return result
        return result * 2


def test_pruned_weights_beside_a_branch(path: Path) -> None:
    module = Branches().eval()
    prune.l1_unstructured(module.layer, "weight", 0.5)  # type: ignore[no-untyped-call]
    exported(module, path, X)
    torch.testing.assert_close(runtime.load(path, device="cpu")(-X), module(-X).detach())
    assert prune.is_pruned(module)


# torch.jit.fork.


def test_a_model_that_forks_is_exported_again_behind_a_call(tmp_path: Path) -> None:
    program = f"""
        import json, sys, warnings
        import torch, ts_infer
        from torch import nn
        from ts_infer import runtime

        class Forks(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
            def forward(self, x):
                return torch.jit.wait(torch.jit.fork(self.layer, x)) + 1

        module, x = Forks().eval(), torch.ones(2, 4)
        scripted = torch.jit.script(module)
        notes = []
        for each in (module, module, scripted):
            report = ts_infer.export(each, x, {str(tmp_path / "model.pt")!r})
            result = runtime.load(report.path, device="cpu")(x)
            torch.testing.assert_close(result, module(x).detach())
            scripted(x)
            notes.append(any("torch.jit.fork" in note for note in report.notes))
        print(json.dumps(notes))
    """
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(program), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(file)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [False, True, True]


# What a trace cannot keep, and does not have to.


class ChecksItself(nn.Module):
    """TorchScript has no lambda, a trace loses the check."""

    def forward(self, x: Tensor) -> Tensor:
        y = (lambda t: nn.functional.pad(t, (1, 2)))(x)
        assert (y[..., 1:-2] == x).all()
        return y


class ChecksItsInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert (x > -2).all()
        return (lambda t: nn.functional.pad(t, (1, 2)))(x)


def test_a_check_of_the_codes_own_is_a_note(path: Path) -> None:
    report = exported(ChecksItself().eval(), path, X)
    assert report.method == "trace"
    (note,) = (
        note for note in report.notes if "`assert (y[..., 1:-2] == x).all()` is lost" in note
    )
    assert "is lost; it held on all inputs that were tried but for NaN and infinity" in note


def test_a_check_of_the_input_is_not(path: Path) -> None:
    report = refusal(ChecksItsInput().eval(), path, X)
    assert "check-lost" in [finding.code for finding in report.findings]


class ChecksInPython(nn.Module):
    """A check that its author leaves out of scripts, and a loop that takes one."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and bool((x < -2).any()):  # type: ignore[attr-defined]
            raise ValueError("below -2")
        for _ in range(int(x.abs().max())):
            x = x + 1
        return x


def test_a_check_that_scripts_leave_out_is_no_loss(path: Path) -> None:
    assert exported(ChecksInPython().eval(), path, X).method == "script"


class Averages(nn.Module):
    """Takes any rank, by a tuple of dims that TorchScript cannot make."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=tuple(range(x.dim() - 1)))


def test_another_rank_than_the_runtime_takes_is_a_note(path: Path) -> None:
    report = exported(Averages().eval(), path, X)
    assert report.method == "trace"
    assert any("(ranks-differ): the runtime refuses such inputs" in note for note in report.notes)
    with pytest.raises(ts_infer.InputError, match="rank: expected 2, got 3"):
        runtime.load(path)(X.unsqueeze(0))


def test_another_rank_is_refused_of_a_trace_that_was_asked_for(path: Path) -> None:
    with pytest.raises(ts_infer.ExportError, match="ranks-differ"):
        ts_infer.export(Averages().eval(), X, path, method="trace")


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, by: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.mark_non_differentiable(x)
        assert ctx.needs_input_grad == (False, False)
        return x * by


class Sorted(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, descending: bool = False) -> Any:
        return torch.sort(x, descending=descending)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(output[1])


class CallsFunctions(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return Sorted.apply(Doubled.apply(x, 3.0), True)  # type: ignore[no-untyped-call]


def test_an_autograd_function_is_traced_by_its_operators(path: Path) -> None:
    apply = torch.autograd.Function.apply
    report = exported(CallsFunctions().eval(), path, X)
    assert report.method == "trace"
    assert torch.autograd.Function.apply == apply


class Draws(Layer):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + random.randrange(self.count)


def test_a_draw_with_one_outcome_is_none(path: Path) -> None:
    exported(Draws(1).eval(), path, X)
    assert "_randbelow" not in vars(random.seed.__self__)  # type: ignore[attr-defined]
    report = refusal(Draws(2).eval(), path, X)
    assert "python-random" in [finding.code for finding in report.findings]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_a_weight_that_each_call_computes_is_no_state() -> None:
    module = nn.Sequential(*(nn.utils.weight_norm(nn.Linear(4, 4)) for _ in range(3))).eval()
    with torch.no_grad():
        module.get_parameter("1.weight_g").mul_(3)  # so that the first call changes the weight
    example = arguments.bind(module, X)
    assert not watch_eager(module, example, 3).state

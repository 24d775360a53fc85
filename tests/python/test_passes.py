"""Each optimising pass has a switch, and computes what eager computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from archives import script, uses_own_kernels
from torch import Tensor, nn
from torch.nn import functional

import ts_infer
from ts_infer import runtime

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import RunBinary

KERNELS = {
    "convolution": "1 conv",
    "recurrent": "1 LSTM",
    "linear": "1 linear",
    "attention": "1 att",
}


class Everything(nn.Module):
    """Something for every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm(self.convolution(x))).transpose(1, 2)
        y, _ = self.lstm(y)
        y = self.linear(y) + self.linear.bias * (2.0 * 3.0)
        return functional.scaled_dot_product_attention(y, y, y)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    module = Everything().eval()
    path = tmp_path_factory.mktemp("passes") / "everything.pt"
    script(module).save(path)
    return module, path


@pytest.mark.parametrize("disabled", [(), *((name,) for name in runtime.passes())], ids=str)
def test_equals_eager_without_a_pass(
    disabled: tuple[str, ...], everything: tuple[nn.Module, Path]
) -> None:
    module, path = everything
    model = runtime.load(path, disabled_passes=disabled)
    for steps in (1, 5, 40):
        x = torch.randn(2, 3, steps)
        with torch.inference_mode():
            torch.testing.assert_close(model(x), module(x), rtol=1e-5, atol=1e-5)
    for name, what in KERNELS.items():
        if disabled in [(), (name,)]:
            assert uses_own_kernels(model, what) == (name not in disabled)
    for name in disabled:
        assert f"pass {name} left out: disabled" in model.info().decisions
    assert model.info().optimized == ("freeze" not in disabled)


def test_without_all_of_them_it_is_as_not_optimised(everything: tuple[nn.Module, Path]) -> None:
    module, path = everything
    x = torch.randn(2, 3, 5)
    with torch.inference_mode():
        for model in (
            runtime.load(path, disabled_passes=runtime.passes()),
            runtime.load(path, optimize=False),
        ):
            assert not model.info().optimized
            assert "not optimised: asked for" in model.info().decisions
            torch.testing.assert_close(model(x), module(x))


def test_an_unknown_pass_is_refused(everything: tuple[nn.Module, Path]) -> None:
    path = everything[1]
    with pytest.raises(ts_infer.ModelLoadError, match=r'disabled_passes: expected freeze or .*"x"'):
        runtime.load(path, disabled_passes=["x"])
    with pytest.raises(TypeError, match="put it into a list"):
        runtime.load(path, disabled_passes="linear")


def test_the_binary_takes_the_switch(
    everything: tuple[nn.Module, Path], ts_infer: RunBinary
) -> None:
    run = partial(ts_infer, "run", everything[1], "--shape", "x=2x3x7", "--json", "-")
    document = json.loads(run("--disable-pass", "linear", "--disable-pass", "recurrent").stdout)
    assert document["options"]["disabled_passes"] == ["linear", "recurrent"]
    assert any("1 attention" in text for text in document["model"]["decisions"])
    assert not any("1 LSTM" in text for text in document["model"]["decisions"])
    assert run("--disable-pass", "x").returncode == 2


@pytest.mark.parametrize("processor", ["portable", "avx2", "avx512", "z80"])
def test_the_environment_chooses_the_processor_that_kernels_are_for(
    processor: str, everything: tuple[nn.Module, Path]
) -> None:
    code = """if True:
        import sys, torch
        from ts_infer import runtime
        torch.manual_seed(0)
        model = runtime.load(sys.argv[1], warmup="off")
        print([text for text in model.info().decisions if "own kernels" in text])
        print(model(torch.randn(2, 3, 40)).double().sum().item())
    """

    def run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, str(everything[1])],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    done = run({"TS_INFER_CPU": processor})
    if done.returncode == 0:
        decisions, total = done.stdout.splitlines()
        assert f", with {processor}" in decisions
        assert float(total) == pytest.approx(float(run({}).stdout.splitlines()[1]), rel=1e-5)
    else:
        assert processor not in {"portable"}
        assert "ModelLoadError: [load] " in done.stderr
        assert "TS_INFER_CPU: expected portable" in done.stderr
        assert f'which this processor has, got "{processor}"' in done.stderr

"""Models that take gradients in forward: forces are the gradient of an energy."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import torch
from archives import archive_bytes, jit_load
from torch import Tensor, nn
from torch.export import Dim

import ts_infer
from ts_infer import runtime
from ts_infer._export import gradients

if TYPE_CHECKING:
    from pathlib import Path

ATOMS = {"positions": {0: Dim("atoms", min=1, max=9)}}


class Potential(nn.Module):
    """An energy, and the forces on its atoms."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, positions: Tensor) -> dict[str, Tensor]:
        at = positions.detach().requires_grad_(True)
        energy = self.net(at).sum()
        gradient = torch.autograd.grad([energy], [at])[0]
        assert gradient is not None
        return {"energy": energy, "forces": -gradient}


class InPlace(Potential):
    """Asks for the gradient of its input itself, as many potentials do."""

    def forward(self, positions: Tensor) -> dict[str, Tensor]:
        positions.requires_grad_(True)
        energy = self.net(positions).sum()
        gradient = torch.autograd.grad([energy], [positions])[0]
        assert gradient is not None
        return {"energy": energy, "forces": -gradient}


class Optional(Potential):
    """Takes a gradient in some calls."""

    def forward(self, positions: Tensor, forces: bool = True) -> dict[str, Tensor]:
        if forces:
            return super().forward(positions)
        return {"energy": self.net(positions).sum()}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gradients") / "potential.pt"
    report = ts_infer.export(Potential().eval(), torch.randn(5, 3), path, dynamic_shapes=ATOMS)
    assert not report.findings
    assert report.notes[:2] == [
        "it takes gradients: calls run in grad mode",
        "scripted, since a trace does not keep gradients",
    ]
    assert not gradients.are_enabled()
    return path


def check(model: runtime.Model, module: nn.Module, positions: Tensor) -> None:
    """Right and detached, and the input is as it was."""
    before = positions.clone()
    result = model(positions)
    expected = module(before.clone())
    assert list(result) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value.detach())
        assert not result[name].requires_grad
        assert not result[name].is_inference()
    assert not positions.requires_grad
    assert torch.equal(positions, before)


@pytest.mark.parametrize("executor", ["prepared", "legacy", "simple", "profiling"])
@pytest.mark.parametrize("kind", [Potential, InPlace])
def test_stock_archives_give_forces(kind: type[Potential], executor: str) -> None:
    model = runtime.load(archive_bytes(kind().eval()), executor=executor, device="cpu")
    assert model.info().grad
    assert "not optimised: it takes gradients" in model.info().decisions
    for atoms in (4, 1, 4, 7):
        check(model, kind(), torch.randn(atoms, 3))


def test_an_export_gives_forces(archive: Path) -> None:
    model = runtime.load(archive, device="cpu", verify=True)
    for atoms in (1, 5, 9):
        check(model, Potential(), torch.randn(atoms, 3))
        check(model.clone(), Potential(), torch.randn(atoms, 3))
    stock = jit_load(archive)(torch.ones(2, 3))
    torch.testing.assert_close(model(torch.ones(2, 3))["forces"], stock["forces"])


def test_the_callers_mode_does_not_matter(archive: Path) -> None:
    model = runtime.load(archive, device="cpu")
    expected = Potential()(torch.ones(2, 3))["forces"]
    tracked = torch.ones(2, 3, requires_grad=True)
    with torch.inference_mode():
        inference = torch.ones(2, 3)
        results = [model(inference), model(torch.ones(2, 3)), model(tracked)]
    with torch.no_grad():
        results += [model(inference), model(tracked)]
    results += [model(inference), model(tracked), model.call_within(60_000, tracked)]
    for result in results:
        torch.testing.assert_close(result["forces"], expected)
        assert not result["forces"].requires_grad
    assert tracked.grad is None


def test_binary_gives_forces(archive: Path) -> None:
    command = ["ts_infer", "run", str(archive), "--json", "-"]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    document = json.loads(run.stdout)
    assert document["model"]["grad"] is True
    assert [output["name"] for output in document["outputs"]] == ["energy", "forces"]
    verify = subprocess.run(["ts_infer", "verify", str(archive)], check=True, capture_output=True)
    assert verify.returncode == 0


def test_a_gradient_in_some_calls(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    ts_infer.export(Optional().eval(), (torch.randn(5, 3), True), path)
    model = runtime.load(path, device="cpu")
    positions = torch.randn(5, 3)
    assert list(model(positions, False)) == ["energy"]
    torch.testing.assert_close(model(positions)["forces"], Optional()(positions)["forces"])


def test_off_refuses_and_on_is_asked_for(tmp_path: Path) -> None:
    given: Any = (Potential().eval(), torch.randn(5, 3), tmp_path / "model.pt")
    with pytest.raises(ts_infer.ExportError, match="eager-failed"):
        ts_infer.export(*given, grad="off")
    assert ts_infer.export(*given, grad="on").method == "script"
    with pytest.raises(ValueError, match="grad: expected one of auto, on, off, got 'yes'"):
        ts_infer.export(*given, grad="yes")


def test_other_models_run_without(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    ts_infer.export(nn.Linear(3, 2).eval(), torch.randn(5, 3), path)
    assert not runtime.load(path).info().grad

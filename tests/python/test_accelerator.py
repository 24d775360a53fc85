"""What only a real accelerator can show. The fake one of tests/cpp shows the rest."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

import ts_infer
from ts_infer import runtime
from ts_infer.models import densetnt

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.cuda

RTOL, ATOL = 1e-3, 1e-3  # float32 on an accelerator sums in another order


@pytest.fixture(scope="module")
def device() -> str:
    """The first accelerator; a skip, or a failure where the environment says that one is here."""
    devices = [name for name in runtime.available_devices() if name != "cpu"]
    if devices:
        return devices[0]
    reason = f"no accelerator: this process has {', '.join(runtime.available_devices())}"
    if os.environ.get("TS_INFER_REQUIRE_ACCELERATOR") == "1":
        pytest.fail(f"{reason}, and TS_INFER_REQUIRE_ACCELERATOR=1")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def archive(device: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DenseTNT, exported on the host."""
    path = tmp_path_factory.mktemp("accelerator") / "densetnt.pt"
    ts_infer.export(**densetnt.export_spec(), path=path)
    return path


def test_host_inputs_give_what_the_cpu_gives(device: str, archive: Path) -> None:
    inputs = densetnt.scene_to_inputs(densetnt.default_scene())
    on_cpu = runtime.load(archive, device="cpu")(**inputs)
    model = runtime.load(archive, device=device)
    outputs = model(**inputs)
    assert model.info().device == device
    assert all(output.device.type == "cpu" for output in outputs)
    torch.testing.assert_close(outputs[0], on_cpu[0], rtol=RTOL, atol=ATOL)
    stats = model.stats()
    assert stats.h2d_ms > 0
    assert stats.compute_ms > 0


def test_graphs_replay_what_forward_computes(device: str, tmp_path: Path) -> None:
    if not device.startswith("cuda"):
        pytest.skip(f"the device is {device}: graphs are tried on CUDA")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    path = tmp_path / "mlp.pt"
    ts_infer.export(module, torch.randn(8, 16), path)
    model = runtime.load(path, device=device, graphs=True)
    assert "graphs: calls recorded at 1 sizes" in model.info().decisions
    for _ in range(3):
        x = torch.randn(8, 16)
        with torch.inference_mode():
            torch.testing.assert_close(model(x), module(x), rtol=RTOL, atol=ATOL)


def test_device_inputs_stay_on_the_device(device: str, archive: Path) -> None:
    inputs = densetnt.scene_to_inputs(densetnt.default_scene())
    there = {name: tensor.to(device) for name, tensor in inputs.items()}
    outputs = runtime.load(archive, device=device)(**there)
    assert all(str(output.device) == device for output in outputs)
    on_cpu = runtime.load(archive, device="cpu")(**inputs)
    torch.testing.assert_close(outputs[0].cpu(), on_cpu[0], rtol=RTOL, atol=ATOL)

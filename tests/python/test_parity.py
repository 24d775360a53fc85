"""Eager Python, stock torch.jit, the runtime and the binary compute the same."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from archives import jit_load
from scenarios import scenario_params
from torch import Tensor

import ts_infer
from ts_infer import runtime
from ts_infer.models import decision_gate, densetnt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

TIMEOUT_S = 180
# Largest absolute difference to eager, where it is not exact: freezing folds constants, and a
# fused or reordered sum rounds otherwise. Coordinates are metres up to a hundred.
TOLERANCE = {torch.float32: 1e-5}

Outputs = tuple[Tensor, ...]


def assert_close(actual: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=TOLERANCE[e.dtype], equal_nan=True)


def assert_equal(actual: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=0, equal_nan=True)


@dataclass
class Doors:
    """One archive behind the doors that run it."""

    binary: str
    path: Path
    stock: Any
    model: runtime.Model

    @classmethod
    def open(cls, binary: str, path: Path) -> Doors:
        return cls(binary, path, jit_load(str(path)), runtime.load(path, device="cpu"))

    def by_stock(self, *inputs: Any) -> Any:
        with torch.inference_mode():
            return self.stock(*inputs)

    def by_binary(
        self, folder: Path, inputs: Mapping[str, object], iterations: int = 1
    ) -> list[Tensor]:
        """What the binary writes, in the order of the signature; tensors go in as files."""
        arguments: list[str] = []
        for name, value in inputs.items():
            if isinstance(value, Tensor):
                np.save(folder / f"{name}.npy", value.numpy())
                value = folder / f"{name}.npy"
            arguments += ["--input", f"{name}={value}"]
        written = folder / "outputs"
        done = subprocess.run(
            [
                self.binary,
                "run",
                str(self.path),
                *arguments,
                *("--device", "cpu", "--quiet"),
                *("--intra-op-threads", str(torch.get_num_threads())),
                *("--iterations", str(iterations)),
                *("--output-dir", str(written)),
            ],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        names = [spec.name for spec in self.model.signature.outputs]
        assert {path.stem for path in written.iterdir()} == set(names)
        return [torch.from_numpy(np.load(written / f"{name}.npy")) for name in names]


# decision_gate


@pytest.fixture(scope="module")
def gate(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Doors:
    path = tmp_path_factory.mktemp("gate") / "gate.pt"
    ts_infer.export(**decision_gate.export_spec(), path=path)
    return Doors.open(binary, path)


@pytest.mark.parametrize("scale", [-20.0, 20.0])  # one for each branch
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_decision_gate_computes_as_eager_through_each_door(
    gate: Doors, tmp_path: Path, batch: int, scale: float
) -> None:
    x, h = decision_gate.example_inputs(batch, seed=batch)
    inputs = dict(zip(decision_gate.INPUT_NAMES, (scale * x, h), strict=True))
    expected = decision_gate.make()(**inputs)
    assert_equal(gate.by_stock(*inputs.values()), expected)
    by_runtime = gate.model(*inputs.values())
    assert_close(by_runtime, expected)
    assert_equal(gate.by_binary(tmp_path, inputs), by_runtime)


# DenseTNT


@pytest.fixture(scope="module")
def dense_tnt(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Doors:
    path = tmp_path_factory.mktemp("densetnt") / "densetnt.pt"
    ts_infer.export(**densetnt.export_spec(), path=path)
    return Doors.open(binary, path)


def assert_parity_on_scene(doors: Doors, folder: Path, scene: densetnt.Scene) -> None:
    inputs = densetnt.scene_to_inputs(scene)
    expected: Outputs = densetnt.make()(**inputs)
    by_stock = doors.by_stock(*inputs.values())
    by_runtime = doors.model(*inputs.values())
    assert_close(by_stock, expected)
    assert_close(by_runtime, expected)
    # Optimised otherwise than stock, but one runtime behind both doors.
    assert_equal(doors.by_binary(folder, inputs), by_runtime)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seed": 1, "headway_m": 14.0},
        {"seed": 3, "headway_m": 60.0},
        {"seed": 4, "history_steps": 5},
        {"seed": 5, "radius_m": 15.0},
    ],
    ids=["default", "dense traffic", "sparse traffic", "short history", "small map"],
)
def test_densetnt_agrees_on_generated_scene(
    dense_tnt: Doors, tmp_path: Path, options: dict[str, Any]
) -> None:
    assert_parity_on_scene(dense_tnt, tmp_path, densetnt.generate_scene(**options))


@pytest.mark.parametrize("path", scenario_params())
def test_densetnt_agrees_on_recorded_scene(dense_tnt: Doors, tmp_path: Path, path: Path) -> None:
    pytest.importorskip("commonroad", reason="reading recorded scenes needs commonroad-io")
    assert_parity_on_scene(dense_tnt, tmp_path, densetnt.read_commonroad(path))


def test_densetnt_agrees_when_scenes_of_other_sizes_follow_each_other(dense_tnt: Doors) -> None:
    eager = densetnt.make()
    scenes = [densetnt.generate_scene(seed, radius_m=20.0 + 10 * seed) for seed in range(4)]
    for scene in (*scenes, *reversed(scenes)):
        inputs = densetnt.scene_to_inputs(scene)
        assert_close(dense_tnt.model(**inputs), eager(**inputs))


# silero-vad: an archive that others ship, stateful, without a manifest; its eager module is not
# shipped, so that stock torch.jit is what the others are compared with.

SAMPLE_RATE = 16000
CHUNK = 512  # samples


@pytest.fixture
def silero(binary: str, silero_path: Path) -> Doors:
    """Fresh for each test: it has state."""
    return Doors.open(binary, silero_path)


@pytest.fixture(scope="module")
def chunks() -> list[Tensor]:
    """A second of a tone that swells and sinks, in noise: float32 [1, 512] each."""
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(SAMPLE_RATE, dtype=torch.float64) / SAMPLE_RATE
    tone = sum(torch.sin(2 * torch.pi * 140.0 * k * t) / k for k in range(1, 20))
    audio = 0.1 * tone * torch.sin(2 * torch.pi * 3 * t) ** 2
    audio = (audio + 0.01 * torch.randn(len(t), generator=generator)).to(torch.float32)
    return list(audio[: len(audio) // CHUNK * CHUNK].reshape(-1, 1, CHUNK))


def probabilities(call: Any, chunks: Sequence[Tensor]) -> list[Tensor]:
    return [call(chunk, SAMPLE_RATE) for chunk in chunks]


def test_silero_agrees_call_by_call(silero: Doors, chunks: list[Tensor]) -> None:
    expected = probabilities(silero.by_stock, chunks)
    assert_close(probabilities(silero.model, chunks), expected)
    # The state matters: a fresh model answers otherwise than one that has heard the rest.
    silero.stock.reset_states()
    assert not torch.equal(silero.by_stock(chunks[-1], SAMPLE_RATE), expected[-1])


def test_silero_starts_again_after_reset_states(silero: Doors, chunks: list[Tensor]) -> None:
    first = probabilities(silero.model, chunks)
    again = probabilities(silero.model, chunks)
    assert not torch.equal(torch.cat(again), torch.cat(first))
    assert silero.model.run_method("reset_states") is None
    assert_equal(probabilities(silero.model, chunks), first)


def test_silero_says_that_it_has_state(silero: Doors) -> None:
    assert silero.model.info().stateful
    assert "reset_states" in silero.model.method_names()


def test_silero_clones_have_their_own_state(silero: Doors, chunks: list[Tensor]) -> None:
    expected = probabilities(silero.by_stock, chunks)
    half = len(chunks) // 2
    # The clone goes on from where its origin is, then each goes its own way.
    assert_close(probabilities(silero.model, chunks[:half]), expected[:half])
    clone = silero.model.clone()
    clone_of_clone = clone.clone()
    clone_of_clone.run_method("reset_states")
    for i in range(half, len(chunks)):
        assert_close([silero.model(chunks[i], SAMPLE_RATE)], [expected[i]])
        assert_close([clone_of_clone(chunks[i - half], SAMPLE_RATE)], [expected[i - half]])
    assert_close(probabilities(clone, chunks[half:]), expected[half:])
    clone.run_method("reset_states")
    assert_close(probabilities(clone, chunks), expected)


@pytest.mark.parametrize("iterations", [1, 5])
def test_silero_keeps_its_state_in_the_binary(
    silero: Doors, tmp_path: Path, chunks: list[Tensor], iterations: int
) -> None:
    chunk = chunks[10]
    expected = probabilities(silero.by_stock, [chunk] * iterations)[-1]
    inputs = {"x": chunk, "sr": SAMPLE_RATE}
    (actual,) = silero.by_binary(tmp_path, inputs, iterations)
    assert_close([actual], [expected])

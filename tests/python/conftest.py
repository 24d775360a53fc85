"""Small TorchScript archives for the tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from archives import Affine, Counter, Pair, archive_bytes
from torch import nn

SaveModel = Callable[..., Path]
Run = subprocess.CompletedProcess[str]
RunBinary = Callable[..., Run]

TIMEOUT_S = 180


@pytest.fixture
def save_model(tmp_path: Path) -> SaveModel:
    """Scripts and saves a module: ``save_model(module, name="m", manifest=None) -> path``."""

    def save(
        module: nn.Module, name: str = "model", manifest: dict[str, Any] | None = None
    ) -> Path:
        path = tmp_path / f"{name}.pt"
        path.write_bytes(archive_bytes(module, manifest))
        return path

    return save


@pytest.fixture
def affine_path(save_model: SaveModel) -> Path:
    return save_model(Affine(), "affine")


@pytest.fixture
def pair_path(save_model: SaveModel) -> Path:
    """The Pair with a manifest: float32[rows=1..8, 3] for both."""
    rows = {"name": "rows", "min": 1, "max": 8}
    spec = {"type": "Tensor", "dtype": "float32", "shape": [rows, 3]}
    manifest = {
        "schema": 1,
        "name": "pair",
        "method": "script",
        "versions": {"ts_infer": "0.1.0", "torch": torch.__version__, "python": "3"},
        "inputs": [{"name": "a", **spec}, {"name": "b", **spec}],
        "outputs": [{"name": "sum", **spec}],
        "methods": ["forward"],
        "warmup_shapes": [{"a": [8, 3], "b": [8, 3]}],
    }
    return save_model(Pair(), "pair", manifest)


@pytest.fixture
def counter_path(save_model: SaveModel) -> Path:
    return save_model(Counter(), "counter")


@pytest.fixture(scope="session")
def binary() -> str:
    """The binary that TS_INFER_BIN names, else that of the installed package."""
    given = os.environ.get("TS_INFER_BIN")
    if given:
        return given
    try:
        distribution = metadata.distribution("ts-infer-runtime")
    except metadata.PackageNotFoundError:
        pytest.skip("no binary: install the package or set TS_INFER_BIN")
    return str(distribution.locate_file("ts_infer/bin/ts_infer"))


@pytest.fixture
def ts_infer(binary: str, tmp_path: Path) -> RunBinary:
    """Runs the binary, by default in an empty folder, and returns what came of it."""

    def run(*arguments: object, folder: Path = tmp_path) -> Run:
        return subprocess.run(
            [binary, *map(str, arguments)],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    return run

"""The script that finds torch, for CMake and for the wheel's metadata."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from installation import SOURCE

if TYPE_CHECKING:
    from types import ModuleType

SCRIPT = SOURCE / "python/build/find_torch.py"


def _torch(folder: Path, version: str) -> Path:
    (folder / "lib").mkdir(parents=True)
    (folder / "lib/libtorch.so").touch()
    (folder / "version.py").write_text(f"__version__ = '{version}'\n", encoding="utf-8")
    return folder


@pytest.fixture
def finder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("find_torch", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """This Python as if nothing was installed; returns its site-packages."""
    platlib = tmp_path / "venv/lib/python/site-packages"
    real = __import__("sysconfig").get_path

    def get_path(name: str, *args: object, **kwargs: object) -> str:
        named = {"platlib": str(platlib), "data": str(tmp_path / "venv")}
        return named.get(name) or str(real(name))

    monkeypatch.setattr("sysconfig.get_path", get_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("site.getusersitepackages", lambda: str(tmp_path / "user"))
    for variable in ("TS_INFER_TORCH_DIR", "VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(variable, raising=False)
    return platlib


def test_torch_of_this_environment_is_found(torch_root: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TS_INFER_TORCH_DIR"}
    done = subprocess.run(
        [sys.executable, SCRIPT], capture_output=True, text=True, check=True, env=environment
    )
    assert Path(json.loads(done.stdout)["dir"]) == torch_root.resolve()


def test_metadata_pins_the_minor_that_is_found(finder: ModuleType, empty_environment: Path) -> None:
    _torch(empty_environment / "torch", "2.14.1+cu130")
    assert finder.get_requires_for_dynamic_metadata({}) == []
    assert finder.dynamic_metadata({}, {}) == {"dependencies": ["torch==2.14.*"]}


def test_build_asks_for_torch_where_there_is_none(
    finder: ModuleType, empty_environment: Path
) -> None:
    assert finder.find() is None
    assert finder.get_requires_for_dynamic_metadata({}) == ["torch==2.13.0"]
    assert finder.dynamic_metadata({}, {}) == {"dependencies": ["torch==2.13.*"]}


def test_variable_comes_before_all_else(
    finder: ModuleType,
    empty_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    _torch(empty_environment / "torch", "2.13.0")
    monkeypatch.setenv("TS_INFER_TORCH_DIR", str(_torch(tmp_path / "mine", "2.15.0")))
    assert finder.find() == ((tmp_path / "mine").resolve(), "2.15.0")


def test_activated_environment_is_looked_at(
    finder: ModuleType,
    empty_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    _torch(tmp_path / "active/lib/python/site-packages/torch", "2.13.1")
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "active"))
    assert finder.find()[1] == "2.13.1"


def test_unpacked_libtorch_is_taken(finder: ModuleType, tmp_path: Path) -> None:
    folder = _torch(tmp_path / "libtorch", "")
    (folder / "version.py").unlink()
    (folder / "build-version").write_text("2.13.0+cpu\n", encoding="utf-8")
    assert finder.find(str(folder)) == (folder.resolve(), "2.13.0+cpu")


def test_folder_without_torch_is_refused(finder: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(finder.TorchError, match="holds no torch: expected a folder with lib"):
        finder.find(str(tmp_path))


def test_older_torch_is_refused(finder: ModuleType, tmp_path: Path) -> None:
    folder = _torch(tmp_path / "torch", "2.9.1")
    with pytest.raises(finder.TorchError, match=r"2\.9\.1 in .* is too old"):
        finder.find(str(folder))


def test_script_exits_1_with_a_message_where_there_is_none(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--dir", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "holds no torch" in done.stderr
    assert "Traceback" not in done.stderr

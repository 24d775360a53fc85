"""The installed Python package: its metadata, its command, and how it meets another torch."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from installation import run

MINOR = ".".join(torch.__version__.split(".")[:2])


def _python(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def other_torch(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with a torch of another minor."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("from torch.version import __version__\n")
    (tmp_path / "torch/version.py").write_text("__version__ = '2.99.1+cpu'\n")
    return tmp_path


@pytest.fixture
def command() -> str:
    found = shutil.which("ts_infer", path=str(Path(sys.executable).parent))
    assert found is not None
    return found


def test_metadata_requires_the_minor_of_torch_that_it_was_built_with() -> None:
    requires = importlib.metadata.requires("ts-infer-runtime") or []
    assert f"torch=={MINOR}.*" in requires


@pytest.mark.parametrize(
    "code", ["import ts_infer", "import torch, ts_infer", "from ts_infer import runtime"]
)
def test_import_raises_beside_another_torch(other_torch: Path, code: str) -> None:
    done = _python(code, other_torch)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: ts_infer 0.1.0 was built with torch {MINOR}.")
    assert "but torch 2.99.1+cpu is installed" in last
    assert f"pip install 'torch=={MINOR}.*'" in last


def test_command_says_in_one_line_that_another_torch_is_there(
    other_torch: Path, command: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(other_torch)}
    done = subprocess.run(
        [command, "env"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"ts_infer: ts_infer 0.1.0 was built with torch {MINOR}.")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "code",
    [
        "import ts_infer; ts_infer.__version__; ts_infer.Error; dir(ts_infer)",
        "import sys; sys.argv[1:] = ['--cmake-dir']; import ts_infer.__main__ as m; m.main()",
    ],
)
def test_torch_is_not_imported(code: str) -> None:
    done = _python(f"{code}\nimport sys; assert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_unknown_attribute_raises() -> None:
    done = _python("import ts_infer; ts_infer.nothing")
    assert "AttributeError: module 'ts_infer' has no attribute 'nothing'" in done.stderr


def test_cmake_and_include_dirs_hold_what_they_say() -> None:
    folder = Path(run(sys.executable, "-m", "ts_infer", "--cmake-dir").strip())
    assert (folder / "ts_infer-config.cmake").is_file()
    folder = Path(run(sys.executable, "-m", "ts_infer", "--include-dir").strip())
    assert (folder / "ts_infer/ts_infer.h").is_file()


def test_command_on_path_is_the_compiled_binary(command: str) -> None:
    text = run(command, "--help")
    assert "bench" in text
    assert "inspect" in text
    assert run(sys.executable, "-m", "ts_infer", "--help") == text


def test_command_exits_2_on_bad_flags(command: str) -> None:
    done = subprocess.run(
        [command, "run", "--no-such-flag"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2


def test_command_runs_the_verbs_that_need_python(command: str) -> None:
    assert "--output" in run(command, "export", "--help")
    done = subprocess.run([command, "export"], capture_output=True, text=True, check=False)
    assert done.returncode == 2

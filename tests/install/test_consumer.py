"""A C++ program that embeds ts_infer, built the two ways that its users have."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import torch
from archives import jit_load
from installation import SOURCE, run
from scenarios import scenario_paths

import ts_infer
from ts_infer.models import decision_gate, densetnt

if TYPE_CHECKING:
    from pathlib import Path

# Neither may be found: a consumer needs no Torch package and no CUDA.
PACKAGES = ("Torch", "Caffe2", "CUDA", "CUDAToolkit")
DISABLED = [f"-DCMAKE_DISABLE_FIND_PACKAGE_{name}=TRUE" for name in PACKAGES]


class Case(NamedTuple):
    """Inputs, and what eager makes of them."""

    inputs: tuple[torch.Tensor, ...]
    expected: tuple[torch.Tensor, ...]


@pytest.fixture(scope="module", params=["decision_gate", "densetnt"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Case]]:
    """An archive, and inputs with what eager makes of them."""
    folder = tmp_path_factory.mktemp(request.param)
    path = folder / "model.pt"
    if request.param == "decision_gate":
        ts_infer.export(**decision_gate.export_spec(), path=path)
        x, h = decision_gate.example_inputs()
        eager: torch.nn.Module = decision_gate.make()
        given: list[tuple[torch.Tensor, ...]] = [
            (x.abs(), h),
            (-20 * x.abs(), h),
            (20 * x.abs(), h),
        ]  # either branch
    else:
        ts_infer.export(**densetnt.export_spec(), path=path)
        eager = densetnt.make()
        scenes = [densetnt.default_scene(), densetnt.generate_scene(seed=1, headway_m=14.0)]
        if find_spec("commonroad"):
            scenes += [densetnt.read_commonroad(file) for file in scenario_paths()]
        given = [tuple(densetnt.scene_to_inputs(scene).values()) for scene in scenes]
    with torch.no_grad():
        return path, [Case(inputs, tuple(eager(*inputs))) for inputs in given]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Any archive."""
    path = tmp_path_factory.mktemp("linear") / "linear.pt"
    torch.jit.script(torch.nn.Linear(3, 2).eval()).save(str(path))  # type: ignore[no-untyped-call]
    return path


@pytest.fixture(scope="module")
def found(
    cmake: str, generator: list[str], cmake_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The consumer built against the installed package."""
    build = tmp_path_factory.mktemp("find_package")
    _build(cmake, build, [*generator, f"-Dts_infer_DIR={cmake_dir}"])
    return build


@pytest.fixture(scope="module")
def added(
    cmake: str, generator: list[str], torch_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The consumer built together with the source tree."""
    build = tmp_path_factory.mktemp("add_subdirectory")
    arguments = [
        *generator,
        f"-DTS_INFER_SOURCE_DIR={SOURCE}",
        f"-DTS_INFER_TORCH_DIR={torch_root}",
        f"-DPython_EXECUTABLE={sys.executable}",
        "-DTS_INFER_BUILD_CLI=ON",
        "-DTS_INFER_INSTALL=ON",
        "-DTS_INFER_BUNDLE_TORCH=ON",
        "-DCMAKE_UNITY_BUILD=ON",
    ]
    if ccache := shutil.which("ccache"):
        arguments.append(f"-DCMAKE_CXX_COMPILER_LAUNCHER={ccache}")
    _build(cmake, build, arguments)
    return build


def _build(cmake: str, build: Path, arguments: list[str]) -> None:
    source = SOURCE / "tests/install/consumer"
    embed = SOURCE / "cpp/examples/embed/main.cpp"
    run(cmake, "-S", source, "-B", build, f"-DEMBED_SOURCE={embed}", *DISABLED, *arguments)
    run(cmake, "--build", build, "--parallel", "2")


def _check(program: Path, exported: tuple[Path, list[Case]], folder: Path) -> None:
    path, cases = exported
    for case in cases:
        files = []
        for i, value in enumerate(case.inputs):
            files.append(folder / f"{i}.npy")
            np.save(files[-1], value.numpy())
        lines = run(program, path, *files).splitlines()
        assert len(lines) == len(case.expected)
        for line, tensor in zip(lines, case.expected, strict=True):
            actual = torch.tensor([float(word) for word in line.split()])
            torch.testing.assert_close(actual, tensor.flatten(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("standard", [17, 20])
def test_found_package_computes_what_eager_does(
    found: Path, exported: tuple[Path, list[Case]], tmp_path: Path, standard: int
) -> None:
    _check(found / f"embed_cxx{standard}", exported, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("standard", [17, 20])
def test_added_subdirectory_computes_what_eager_does(
    added: Path, exported: tuple[Path, list[Case]], tmp_path: Path, standard: int
) -> None:
    _check(added / f"embed_cxx{standard}", exported, tmp_path)


@pytest.mark.parametrize("standard", [17, 20])
def test_embedded_program_keeps_state_of_silero(
    found: Path, silero_path: Path, tmp_path: Path, standard: int
) -> None:
    stock = jit_load(str(silero_path))
    generator = torch.Generator().manual_seed(0)
    chunks = torch.randn(8, 1, 512, generator=generator)
    with torch.inference_mode():
        expected = [float(stock(chunk, 16000)) for chunk in chunks]
    assert len(set(expected)) == len(expected)
    chunks.numpy().tofile(tmp_path / "audio.f32")
    lines = run(found / f"streaming_cxx{standard}", silero_path, tmp_path / "audio.f32")
    heard, again, cloned = ([float(word) for word in line.split()] for line in lines.splitlines())
    torch.testing.assert_close(heard, expected, rtol=0, atol=1e-5)
    assert again == heard  # after reset_states
    # The clone goes on from the middle, where its origin was; the origin went on in between.
    assert cloned == heard[len(heard) // 2 :]


def test_static_objects_are_told_that_the_process_ends(found: Path, archive: Path) -> None:
    done = subprocess.run([found / "exits", archive], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[:2] == ["done", "done"]
    for line, start in zip(lines[2:6], ("[call]", "[call]", "[clone]", "[load]"), strict=True):
        assert line.startswith(start)
        assert "expected a process that runs" in line
    assert lines[6:] == ["1 2"]  # the call that was made before, and its output


def test_a_plug_in_comes_and_goes(found: Path, archive: Path) -> None:
    with torch.no_grad():
        expected = jit_load(str(archive))(torch.tensor([[1.0, 2.0, 3.0]]))[0, 0].item()
    lines = run(found / "host", found / "libplugin.so", archive).splitlines()
    assert [float(line) for line in lines] == pytest.approx([expected] * 5, abs=1e-4)


@pytest.mark.slow
def test_bundled_folder_runs_after_it_was_moved(
    added: Path, archive: Path, cmake: str, tmp_path: Path
) -> None:
    first, moved = tmp_path / "first", tmp_path / "moved"
    run(cmake, "--install", added, "--prefix", first)
    first.rename(moved)
    listing = run("ldd", moved / "lib/libts_infer.so")
    torch_lines = [line for line in listing.splitlines() if re.match(r"\s*lib(torch|c10)", line)]
    assert torch_lines
    assert all(str(moved) in line for line in torch_lines), listing
    run(moved / "bin/ts_infer", "inspect", archive)
    shutil.rmtree(moved)  # gigabytes beside a CUDA build of torch, and pytest would keep it


def test_example_is_under_forty_lines() -> None:
    lines = (SOURCE / "cpp/examples/embed/main.cpp").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 40


def test_found_package_refuses_another_torch_beside_it(
    cmake: str, generator: list[str], cmake_dir: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site-packages"
    shutil.copytree(cmake_dir, site / "ts_infer/share/cmake/ts_infer")
    (site / "ts_infer/_build.py").touch()
    (site / "torch").mkdir()
    (site / "torch/version.py").write_text("__version__ = '2.99.1+cpu'\n", encoding="utf-8")
    done = subprocess.run(
        [
            cmake,
            *generator,
            "-S",
            SOURCE / "cpp/examples/embed",
            "-B",
            tmp_path / "build",
            f"-Dts_infer_DIR={site / 'ts_infer/share/cmake/ts_infer'}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    message = " ".join(done.stderr.split())
    assert f"built with torch {torch.__version__.split('+')[0]}" in message
    assert "but torch 2.99.1+cpu is installed" in message
    assert "pip install 'torch==" in message


def _headers(cmake_dir: Path) -> list[Path]:
    folder = cmake_dir.parents[2] / "include/ts_infer"
    return sorted(path for path in folder.glob("*.h") if path.name != "torch.h")


def test_headers_need_no_header_of_torch(cmake: str, cmake_dir: Path, tmp_path: Path) -> None:
    headers = _headers(cmake_dir)
    assert len(headers) > 8
    unit = tmp_path / "unit.cpp"
    for header in headers:  # each alone: none leans on what another includes
        unit.write_text(f"#include <ts_infer/{header.name}>\n", encoding="utf-8")
        include = cmake_dir.parents[2] / "include"
        needed = run("c++", "-std=c++17", "-Wall", "-Werror", f"-I{include}", "-M", unit)
        assert not [path for path in needed.split() if "/torch/" in path or "/c10/" in path]
        run("c++", "-std=c++17", "-Wall", "-Werror", f"-I{include}", "-fsyntax-only", unit)

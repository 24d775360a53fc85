"""The command `ts_infer demo`, as its users see it."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ts_infer import runtime
from ts_infer.models import densetnt

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 300  # the promise is 120 s on an idle machine
LOG_LINE = re.compile(r"^dense_tnt inference used time: \d+(\.\d+)? ms\.$")
NUMBER = r" +(\d+\.\d+)"
ROW = re.compile(rf"^  (\S.{{20}}){NUMBER}{NUMBER}{NUMBER}{NUMBER} +(\S+) +(\d+)$", re.MULTILINE)


def run_demo(
    *arguments: str, code: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the demo; ``code`` is Python that runs before it."""
    program = (
        f"import sys; from ts_infer.__main__ import main\n{code}\nsys.exit(main(sys.argv[1:]))"
    )
    start = ["-c", program] if code else ["-m", "ts_infer"]
    return subprocess.run(
        [sys.executable, *start, "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=cwd,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """What one demo said, and its folder."""
    cwd = tmp_path_factory.mktemp("demo")
    return run_demo("--seed", "1", cwd=cwd), cwd / "ts_infer_demo"


@pytest.mark.slow
def test_demo_succeeds_and_says_what_it_does(
    demo: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    result = demo[0]
    assert result.returncode == 0, result.stderr
    steps = re.findall(r"^\[(\d)/5, \d+\.\d s\] \S", result.stdout, re.MULTILINE)
    assert steps == ["1", "2", "3", "4", "5"]
    assert re.search(r"^Done in \d+ s", result.stdout, re.MULTILINE)
    assert "What to try next" in result.stdout
    assert "arning" not in result.stdout + result.stderr


@pytest.mark.slow
def test_demo_logs_thirty_calls_of_the_binary_and_nothing_else_on_stderr(
    demo: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    lines = demo[0].stderr.splitlines()
    assert len(lines) == 30
    assert all(LOG_LINE.match(line) for line in lines)


@pytest.mark.slow
def test_demo_compares_four_ways(
    demo: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    rows = {row[0].strip(): row[1:] for row in ROW.findall(demo[0].stdout)}
    assert list(rows) == [
        "eager Python",
        "torch.jit in Python",
        "ts_infer in Python",
        "ts_infer binary",
    ]
    eager_ms = float(rows["eager Python"][1])
    for name, (first, median, p90, ratio, diff, n) in rows.items():
        assert float(ratio) == pytest.approx(float(median) / eager_ms, abs=0.02)
        assert float(first) > 0
        assert 0 < float(median) <= float(p90)
        assert int(n) >= 6
        assert (diff == "-") == (name == "eager Python")
        if name == "eager Python":
            assert float(ratio) == 1
        else:
            assert float(ratio) > 0
            assert float(diff) <= 1e-5


@pytest.mark.slow
def test_demo_writes_what_it_lists(
    demo: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    result, folder = demo
    listed = re.findall(r"^  ts_infer_demo/(\S+) ", result.stdout, re.MULTILINE)
    assert listed == ["densetnt.pt", "scene.json", "inputs/*.npy", "outputs/*.npy", "scene.png"]
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    inputs = [f"inputs/{name}.npy" for name in densetnt.INPUT_NAMES]
    outputs = [f"outputs/{name}.npy" for name in densetnt.OUTPUT_NAMES]
    assert found == sorted(["densetnt.pt", "scene.json", "scene.png", *inputs, *outputs])


@pytest.mark.slow
def test_demo_files_fit_together(
    demo: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    folder = demo[1]
    scene = densetnt.load_scene(folder / "scene.json")
    assert scene == densetnt.generate_scene(1)
    inputs = [np.load(folder / "inputs" / f"{name}.npy") for name in densetnt.INPUT_NAMES]
    for name, tensor in densetnt.scene_to_inputs(scene).items():
        np.testing.assert_array_equal(inputs[densetnt.INPUT_NAMES.index(name)], tensor.numpy())
    model = runtime.load(folder / "densetnt.pt", device="cpu")
    for name, output in zip(densetnt.OUTPUT_NAMES, model(*inputs), strict=True):
        written = torch.from_numpy(np.load(folder / "outputs" / f"{name}.npy"))
        torch.testing.assert_close(output, written, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_demo_picture_is_a_png_with_something_on_it(
    demo: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    image = pytest.importorskip("matplotlib.image")
    path = demo[1] / "scene.png"
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    height, width, _ = image.imread(path).shape
    assert 800 <= width <= 4000
    assert 500 <= height <= 4000
    colours = np.unique(image.imread(path).reshape(-1, 4), axis=0)
    assert len(colours) > 1000


def test_demo_raises_when_folder_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run_demo("--output-dir", str(tmp_path / "file" / "demo"))
    assert result.returncode == 1
    assert result.stdout == ""
    assert "the folder cannot be written" in result.stderr
    assert "choose another --output-dir" in result.stderr
    assert "Traceback" not in result.stderr


def test_demo_goes_on_without_picture_when_matplotlib_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ts_infer import _demo

    for module in list(sys.modules):
        if module.partition(".")[0] == "matplotlib":
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    scene = densetnt.default_scene()
    outputs = [output.numpy() for output in densetnt.make()(**densetnt.scene_to_inputs(scene))]
    path = tmp_path / "scene.png"
    assert not _demo._draw(scene, outputs, path, "")
    assert "no picture: drawing needs matplotlib" in capsys.readouterr().out
    assert not path.exists()

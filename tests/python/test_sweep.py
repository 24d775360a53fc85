"""``ts_infer bench --sweep``: what it measures, and that what it names can be used as it stands."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from torch import Tensor, nn

if TYPE_CHECKING:
    from conftest import RunBinary, SaveModel

INCLUDE = Path(__file__).parents[2] / "cpp" / "include"
TIMEOUT_S = 180
EXECUTORS = ["prepared", "legacy", "simple", "profiling", "profiling-no-fusion"]
PASSES = ["all", "no freeze", "no fold", "no linear", "none"]

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Raising(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.numel() > 2:
            raise ValueError("the road ends here")
        return x


@pytest.fixture
def linear_path(save_model: SaveModel) -> Path:
    return save_model(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), "it's linear")


@pytest.fixture
def sweep(ts_infer: RunBinary) -> RunBinary:
    """Runs a short sweep in an empty folder."""
    return partial(ts_infer, "bench", "--sweep", "--duration", "0.3")


def document(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def rows(found: dict[str, Any], stage: str) -> list[dict[str, Any]]:
    return [row for row in found["rows"] if row["stage"] == stage]


def test_sweep_measures_executors_passes_and_callers(sweep: RunBinary, linear_path: Path) -> None:
    found = document(sweep(linear_path, "--shape", "input=2x8", "--json", "-"))
    assert found["schema"] == 1
    assert found["command"] == "sweep"
    assert found["interrupted"] is False
    assert found["options"]["duration_s"] == 0.3
    assert "executor" not in found["options"]
    assert found["model"]["executor"] == "prepared"
    assert [row["what"] for row in rows(found, "executor")] == EXECUTORS
    assert [row["executor"] for row in rows(found, "executor")] == EXECUTORS
    passes = rows(found, "passes")
    assert [row["what"] for row in passes if row["executor"] == "prepared"] in ([], PASSES)
    settings = [(row["concurrency"], row["intra_op_threads"]) for row in rows(found, "callers")]
    cores = len(os.sched_getaffinity(0))
    assert settings[0] == (1, 1)
    assert len(set(settings)) == len(settings)
    assert all(callers * threads <= cores for callers, threads in settings)
    for row in found["rows"]:
        assert row["n"] >= row["rounds"] >= 3
        assert row["p50_ms"] > 0
        assert row["p99_ms"] > 0
        assert row["throughput_per_s"] > 0
    for stage in ("executor", "passes", "callers"):
        assert rows(found, stage)[0]["p50_ratio"] == rows(found, stage)[0]["throughput_ratio"] == 1
        for row in rows(found, stage):
            assert stage == "callers" or row["intra_op_threads"] == row["concurrency"] == 1
    if passes[0]["executor"] == "prepared":
        unused = {left["what"] for left in found["left_out"]}
        assert {"no recurrent", "no convolution", "no attention"} <= unused


def test_sweep_prints_a_table_and_the_winners(
    sweep: RunBinary, linear_path: Path, tmp_path: Path
) -> None:
    result = sweep(linear_path, "--shape", "input=2x8", "--json", "sweep.json")
    found = json.loads((tmp_path / "sweep.json").read_text())
    lines = result.stdout.splitlines()
    assert " on cpu, " in lines[0]
    titles = ["stage", "what", "p50", "p99", "calls/s", "p50 ratio", "calls/s ratio", "n"]
    assert re.split(r" {2,}", lines[2]) == titles
    for line, row in zip(lines[3:], found["rows"], strict=False):
        assert line.startswith(row["stage"])
        assert row["what"] in line
        assert line.split()[-1] == str(row["n"])
    for title, key in (
        ("lowest latency", "lowest_latency"),
        ("most calls a second", "most_calls"),
    ):
        winner = found[key]
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{title}: "))
        assert lines[at].startswith(f"{title}: {winner['what']}, p50 ")
        assert lines[at + 1] == "  " + winner["command"]
        snippet = winner["load_options"].splitlines()
        assert lines[at + 2 : at + 2 + len(snippet)] == ["  " + line for line in snippet]
    assert found["lowest_latency"]["concurrency"] == 1


def test_what_a_sweep_names_is_accepted(
    ts_infer: RunBinary, sweep: RunBinary, linear_path: Path, tmp_path: Path
) -> None:
    given = ["--shape", "input=2x8", "--seed", "3", "--device", "cpu", "--warmup", "off"]
    given += ["--warmup-budget", "2.5", "--no-reuse-memory", "--no-map-weights", "--json", "-"]
    found = document(sweep(linear_path, *given))
    for winner in (found["lowest_latency"], found["most_calls"]):
        program, *words = shlex.split(winner["command"])
        assert program == "ts_infer"
        assert words[:2] == ["bench", str(linear_path)]
        options = document(ts_infer(*words, "--duration", "0.05", "--json", "-"))["options"]
        for key in ("concurrency", "intra_op_threads", "optimize", "disabled_passes"):
            assert options[key] == winner[key]
        for key in ("seed", "device", "warmup", "warmup_budget_s", "reuse_memory", "map_weights"):
            assert options[key] == found["options"][key]
        for field in ("device", "warmup", "warmup_budget_s", "reuse_memory", "map_weights"):
            assert f"\noptions.{field} = " in winner["load_options"]

    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    source = tmp_path / "snippet.cpp"
    snippet = found["most_calls"]["load_options"]
    source.write_text(f"#include <ts_infer/model.h>\nint main() {{\n{snippet}\n}}\n")
    command = [compiler, "-std=c++17", "-fsyntax-only", f"-I{INCLUDE}", str(source)]
    subprocess.run(command, check=True, timeout=TIMEOUT_S)


def test_sweep_of_a_model_with_state_has_one_caller(sweep: RunBinary, counter_path: Path) -> None:
    result = sweep(counter_path, "--shape", "x=3")
    assert result.returncode == 0, result.stderr
    assert "the model has state, and its calls take turns: one caller only" in result.stdout
    assert "callers, 1 thread" not in result.stdout
    assert result.stdout.count("--concurrency 1") == 2


def test_sweep_fails_as_the_model_does(sweep: RunBinary, save_model: SaveModel) -> None:
    result = sweep(save_model(Raising()), "--shape", "x=3")
    assert result.returncode == 5
    assert "the road ends here" in result.stderr
    result = sweep("missing.pt")
    assert result.returncode == 3


@pytest.mark.parametrize(
    "swept",
    [
        ["--executor", "legacy"],
        ["--no-optimize"],
        ["--disable-pass", "linear"],
        ["--intra-op-threads", "1"],
        ["--concurrency", "2"],
        ["--rate", "5"],
        ["--skip", "1"],
        ["--log-calls"],
    ],
    ids=lambda words: words[0],
)
def test_exit_2_for_a_flag_that_the_sweep_chooses(sweep: RunBinary, swept: list[str]) -> None:
    result = sweep("m.pt", *swept)
    assert result.returncode == 2
    assert swept[0] in result.stderr
    assert "--sweep" in result.stderr
    assert result.stdout == ""


def test_signal_ends_a_sweep_with_the_rows_so_far(
    binary: str, linear_path: Path, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    command = [binary, "bench", str(linear_path), "--shape", "input=2x8", "--sweep"]
    with subprocess.Popen(
        [*command, "--duration", "600", "--json", "sweep.json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as process:
        os.close(theirs)
        shown = b""
        while not re.search(rb"sweep: prepared, round 3", shown):
            shown += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        while True:
            try:
                if not os.read(ours, 4096):
                    break
            except OSError:  # the other end is closed
                break
        stdout, _ = process.communicate(timeout=TIMEOUT_S)
    os.close(ours)
    assert process.returncode == 130
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert found["interrupted"] is True
    assert found["lowest_latency"] is found["most_calls"] is None
    assert [row["what"] for row in rows(found, "executor")] == EXECUTORS
    assert "profiling-no-fusion" in stdout
    assert stdout.endswith("\ninterrupted: nothing has won\n")

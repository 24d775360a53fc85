"""The ts_infer binary, as its users see it: a process with arguments, streams and an exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import statistics
import subprocess
import zipfile
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ts_infer import export

if TYPE_CHECKING:
    from conftest import Run, RunBinary

TIMEOUT_S = 180
LOG_LINE = re.compile(r"^doubling inference used time: \d+(\.\d+)?(e[+-]\d+)? ms\.$")
NUMPY_DTYPES = [
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
]

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Doubling(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((64, 3), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight[0]


class Echo(torch.nn.Module):
    def forward(
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        c: torch.Tensor,
        d: torch.Tensor,
        e: torch.Tensor,
        f: torch.Tensor,
        g: torch.Tensor,
        h: torch.Tensor,
        i: torch.Tensor,
        j: torch.Tensor,
        k: torch.Tensor,
    ) -> list[torch.Tensor]:
        return [a, b, c, d, e, f, g, h, i, j, k]


class Mixed(torch.nn.Module):
    def forward(
        self, x: torch.Tensor, factor: float, times: int, negate: bool, note: str, bias: float = 0.0
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], int, str, bool]:
        y = x * factor + bias
        if negate:
            y = -y
        return y, {"first": y[0], "half": y.to(torch.float16)}, times + 1, note + "!", negate


class Sum(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


class Failing(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() > 2:
            raise ValueError("the road ends here")
        return x


class Hungry(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones(1 << 50) + x.sum()


class BFloat16(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.bfloat16)


class Printing(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        print("rows:", x.size(0))
        return x


def spec(name: str, shape: list[Any], dtype: str = "float32") -> dict[str, Any]:
    return {"name": name, "type": "Tensor", "dtype": dtype, "shape": shape}


def manifest(name: str, inputs: list[Any], outputs: list[Any], **extra: Any) -> str:
    base = {
        "schema": 1,
        "name": name,
        "versions": {"ts_infer": "0.1.0", "torch": torch.__version__},
        "method": "script",
        "inputs": inputs,
        "outputs": outputs,
        "methods": ["forward"],
        "warmup_shapes": [],
    }
    return json.dumps(base | extra)


def save(module: torch.nn.Module, path: Path, text: str = "") -> str:
    extra = {"ts_infer/manifest.json": text} if text else {}
    torch.jit.save(torch.jit.script(module.eval()), str(path), _extra_files=extra)
    return str(path)


BATCH = {"name": "batch", "min": 2, "max": 256}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One archive a module, by name; "plain" has no manifest."""
    folder = tmp_path_factory.mktemp("models")
    x, y = spec("x", [BATCH, 3]), spec("y", [BATCH, 3])
    doubling = manifest("doubling", [x], [y], warmup_shapes=[{"x": [4, 3]}])
    escaping = manifest("escaping", [x], [spec("../../evil/y", [BATCH, 3])])
    return {
        "doubling": save(Doubling(), folder / "doubling.pt", doubling),
        "escaping": save(Doubling(), folder / "escaping.pt", escaping),
        "plain": save(Doubling(), folder / "plain.pt"),
        "echo": save(Echo(), folder / "echo.pt"),
        "mixed": save(Mixed(), folder / "mixed.pt"),
        "sum": save(Sum(), folder / "sum.pt", manifest("sum", [x, y], [spec("z", [BATCH, 3])])),
        "failing": save(Failing(), folder / "failing.pt"),
        "hungry": save(Hungry(), folder / "hungry.pt"),
        "printing": save(Printing(), folder / "printing.pt"),
        "bfloat16": save(BFloat16(), folder / "bfloat16.pt"),
    }


def log_lines(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if "inference used time" in line]


def assert_fails(result: Run, code: int, *parts: str) -> None:
    assert result.returncode == code, result.stderr
    assert result.stderr.startswith("ts_infer: ") or "\nts_infer: " in result.stderr
    for part in parts:
        assert part in result.stderr
    for trace in ("frame #", "Exception raised from", "terminate called"):
        assert trace not in result.stderr


# run


def test_run_computes_on_a_given_npy_file(
    ts_infer: RunBinary, models: dict[str, str], tmp_path: Path
) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "x.npy", x)
    result = ts_infer("run", models["doubling"], "--input", "x=x.npy", "--output-dir", "out/deep")
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "deep" / "y.npy"), 2 * x)
    assert re.search(r"^y +float32 +2x3 +\[0, 2, 4, 6, 8, 10\]$", result.stdout, re.MULTILINE)
    assert "random" not in result.stderr


def test_run_logs_one_line_a_call_on_stderr(ts_infer: RunBinary, models: dict[str, str]) -> None:
    result = ts_infer("run", models["doubling"], "--iterations", 3)
    lines = log_lines(result.stderr)
    assert len(lines) == 3
    assert all(LOG_LINE.match(line) for line in lines)
    assert "inference used time" not in result.stdout
    quiet = ts_infer("run", models["doubling"], "--iterations", 3, "--quiet")
    assert quiet.returncode == 0
    assert log_lines(quiet.stderr) == []


def test_run_draws_inputs_from_the_manifest_and_says_so(
    ts_infer: RunBinary, models: dict[str, str]
) -> None:
    result = ts_infer("run", models["doubling"], "--json", "-", "--seed", 3)
    assert "input x is random: float32 4x3, seed 3" in result.stderr
    document = json.loads(result.stdout)
    assert document["inputs"] == [
        {"name": "x", "type": "tensor", "dtype": "float32", "shape": [4, 3], "source": "random"}
    ]


def test_run_repeats_random_inputs_with_the_same_seed_only(
    ts_infer: RunBinary, models: dict[str, str]
) -> None:
    def values(seed: int) -> list[float]:
        result = ts_infer("run", models["doubling"], "--json", "-", "--seed", seed)
        found: list[float] = json.loads(result.stdout)["outputs"][0]["values"]
        return found

    first = values(1)
    assert values(1) == first
    assert values(2) != first
    assert len(set(first)) == 12


def test_run_takes_sizes_from_shape_and_shares_named_dimensions(
    ts_infer: RunBinary, models: dict[str, str], tmp_path: Path
) -> None:
    np.save(tmp_path / "y.npy", np.zeros((7, 3), np.float32))
    by_shape = ts_infer("run", models["sum"], "--shape", "x=5x3")
    assert "input y is random: float32 5x3" in by_shape.stderr
    by_file = ts_infer("run", models["sum"], "--input", "y=y.npy")
    assert by_file.returncode == 0, by_file.stderr
    assert "input x is random: float32 7x3" in by_file.stderr
    assert "input y" not in by_file.stderr


def test_run_round_trips_every_numpy_dtype(
    ts_infer: RunBinary, models: dict[str, str], tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    arguments: list[str] = []
    arrays = {}
    for index, (name, dtype) in enumerate(zip("abcdefghijk", NUMPY_DTYPES, strict=True)):
        array = (generator.normal(size=(2, 3, 4)) * 50).astype(dtype)
        if dtype.startswith("complex"):
            array = array + np.asarray(1j, dtype)
        arrays[f"output_{index}"] = array
        order = np.asfortranarray if index % 2 else np.ascontiguousarray
        with (tmp_path / f"{name}.npy").open("wb") as file:
            np.lib.format.write_array(file, order(array), version=(1 + index % 3, 0))
        arguments += ["--input", f"{name}={name}.npy"]
    result = ts_infer("run", models["echo"], *arguments, "--output-dir", "out")
    assert result.returncode == 0, result.stderr
    for name, array in arrays.items():
        loaded = np.load(tmp_path / "out" / f"{name}.npy")
        assert loaded.dtype == array.dtype
        np.testing.assert_array_equal(loaded, array)


def test_run_takes_numbers_and_strings_and_shows_outputs_that_are_no_tensor(
    ts_infer: RunBinary, models: dict[str, str], tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", np.ones(2, np.float32))
    np.save(tmp_path / "times.npy", np.int64(4))
    arguments = ["--input", "x=x.npy", "--input", "factor=1.5", "--input", "times=times.npy"]
    arguments += ["--input", "negate=true", "--input", "note=hello"]
    result = ts_infer("run", models["mixed"], *arguments, "--json", "-", "--output-dir", "out")
    assert result.returncode == 0, result.stderr
    outputs = json.loads(result.stdout)["outputs"]
    assert [output["name"] for output in outputs] == [f"output_{i}" for i in range(6)]
    assert outputs[0]["values"] == [-1.5, -1.5]
    assert outputs[1] == {
        "name": "output_1",
        "type": "tensor",
        "dtype": "float32",
        "shape": [],
        "values": [-1.5],
        "file": "out/output_1.npy",
    }
    assert outputs[2]["dtype"] == "float16"
    assert outputs[2]["values"] == [-1.5, -1.5]
    assert outputs[3:] == [
        {"name": "output_3", "type": "int", "value": 5},
        {"name": "output_4", "type": "string", "value": "hello!"},
        {"name": "output_5", "type": "bool", "value": True},
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "output_0.npy",
        "output_1.npy",
        "output_2.npy",
    ]


def test_run_passes_by_name_what_comes_behind_an_input_left_out(
    ts_infer: RunBinary, models: dict[str, str], tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", np.ones(2, np.float32))
    arguments = ["--input", "x=x.npy", "--input", "factor=1", "--input", "times=1"]
    arguments += ["--input", "negate=false", "--input", "note=n", "--input", "bias=0.5"]
    result = ts_infer("run", models["mixed"], *arguments, "--json", "-")
    assert json.loads(result.stdout)["outputs"][0]["values"] == [1.5, 1.5]


def test_run_writes_json_beside_the_summary(
    ts_infer: RunBinary, models: dict[str, str], tmp_path: Path
) -> None:
    result = ts_infer("run", models["doubling"], "--iterations", 2, "--json", "run.json")
    assert "doubling on cpu, executor prepared, 2 calls" in result.stdout
    document = json.loads((tmp_path / "run.json").read_text())
    assert document["schema"] == 1
    assert document["command"] == "run"
    assert document["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert document["machine"]["cores"] >= 1
    assert document["options"]["executor"] == "prepared"
    assert document["interrupted"] is False
    assert [call["call"] for call in document["calls"]] == [1, 2]
    assert all(call["total_ms"] >= call["compute_ms"] > 0 for call in document["calls"])
    batch = document["model"]["signature"]["inputs"][0]["shape"][0]
    assert batch == {"name": "batch", "min": 2, "max": 256}
    steps = document["model"]["load_steps"]
    assert [step["name"] for step in steps] == [
        *("read", "integrity", "deserialise", "optimise", "prepare", "warm-up"),
    ]
    assert sum(step["ms"] for step in steps) == pytest.approx(document["model"]["load_ms"])
    assert steps[-1]["shapes"] == {"x": [4, 3]}
    assert len(steps[-1]["calls_ms"]) >= 3


def test_what_a_model_prints_goes_to_stderr(ts_infer: RunBinary, models: dict[str, str]) -> None:
    result = ts_infer("run", models["printing"], "--shape", "x=2", "--json", "-")
    assert json.loads(result.stdout)["command"] == "run"
    assert result.stderr.count("rows: 2\n") == 1


def test_run_without_warm_up(ts_infer: RunBinary, models: dict[str, str]) -> None:
    result = ts_infer("run", models["doubling"], "--warmup", "off", "--json", "-")
    document = json.loads(result.stdout)
    assert document["options"]["warmup"] == "off"
    assert "warm-up" not in [step["name"] for step in document["model"]["load_steps"]]
    refused = ts_infer("run", models["doubling"], "--warmup", "slow")
    assert refused.returncode == 2
    assert "--warmup: slow not in {off,fast,full}" in refused.stderr


def test_run_keeps_output_files_inside_the_folder(
    ts_infer: RunBinary, models: dict[str, str], tmp_path: Path
) -> None:
    result = ts_infer("run", models["escaping"], "--output-dir", "a/b/out")
    assert result.returncode == 0, result.stderr
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.npy")]
    assert written == [Path("a/b/out/_._.._evil_y.npy")]


# bench


def test_bench_prints_a_table_and_says_what_was_skipped(
    ts_infer: RunBinary, models: dict[str, str]
) -> None:
    result = ts_infer("bench", models["doubling"], "--duration", 0.2, "--skip", 3)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("doubling on cpu, executor prepared, closed loop, 1 caller, ")
    assert lines[1].startswith("3 calls skipped as warm-up; first call ")
    titles = ["n", "mean", "p50", "p90", "p99", "max", "h2d", "compute", "d2h", "throughput"]
    assert lines[3].split() == titles
    row = lines[4].split()
    assert len(row) == len(titles)
    assert int(row[0]) > 0
    assert row[-1].endswith("/s")
    assert f"percentiles over n = {row[0]} calls" in lines[5]
    assert "bench:" not in result.stderr


def test_bench_json_holds_results_that_agree_with_each_other(
    ts_infer: RunBinary, models: dict[str, str]
) -> None:
    arguments = ["--duration", 0.3, "--skip", 2, "--concurrency", 2, "--json", "-"]
    result = ts_infer("bench", models["doubling"], *arguments, "--intra-op-threads", 1)
    document = json.loads(result.stdout)
    assert document["schema"] == 1
    assert document["command"] == "bench"
    assert document["options"]["concurrency"] == 2
    assert document["options"]["rate_qps"] is None
    assert document["options"]["intra_op_threads"] == 1
    assert document["machine"]["cpu"]
    results = document["results"]
    latencies = np.asarray(results["latencies_ms"])
    assert results["n"] == len(latencies) > 0
    assert results["skipped"] == 4
    assert results["mean_ms"] == pytest.approx(latencies.mean(), rel=1e-3)
    assert results["max_ms"] == pytest.approx(latencies.max(), rel=1e-3)
    assert results["p50_ms"] <= results["p90_ms"] <= results["p99_ms"] <= results["max_ms"]
    assert results["throughput_per_s"] == pytest.approx(results["n"] / results["duration_s"])
    assert 0 < results["compute_ms"] <= results["mean_ms"]
    assert results["h2d_ms"] == results["d2h_ms"] == 0
    assert results["first_ms"] > 0


def test_bench_runs_an_open_loop_at_a_rate(ts_infer: RunBinary, models: dict[str, str]) -> None:
    arguments = ["--rate", 50, "--duration", 1, "--json", "bench.json"]
    result = ts_infer("bench", models["doubling"], *arguments)
    assert "open loop, Poisson arrivals at 50 a second" in result.stdout
    again = ts_infer("bench", models["doubling"], "--rate", 50, "--duration", 1, "--json", "-")
    results = json.loads(again.stdout)["results"]
    assert 10 <= results["n"] <= 120  # 50 expected, with a deviation of 7
    assert json.loads(again.stdout)["options"]["rate_qps"] == 50


def test_bench_logs_every_call_when_asked(ts_infer: RunBinary, models: dict[str, str]) -> None:
    arguments = ["--duration", 0.05, "--skip", 4, "--log-calls", "--json", "-"]
    result = ts_infer("bench", models["doubling"], *arguments)
    results = json.loads(result.stdout)["results"]
    lines = log_lines(result.stderr)
    assert len(lines) == results["n"] + 4
    assert all(LOG_LINE.match(line) for line in lines)


def test_bench_shows_a_live_line_on_a_terminal(binary: str, models: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [binary, "bench", models["doubling"], "--duration", "1"],
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            shown += data
    os.close(ours)
    assert process.returncode == 0
    assert re.search(rb"bench: \d+\.\d s, \d+ calls", shown)


# coldstart


def test_coldstart_runs_every_executor_in_fresh_processes(
    ts_infer: RunBinary, models: dict[str, str], tmp_path: Path
) -> None:
    result = ts_infer("coldstart", models["doubling"], "--calls", 6, "--json", "cold.json")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("doubling on cpu, ")
    assert "constant size, ms; * compiled" in result.stdout
    assert "a new size in each call, ms; * compiled" in result.stdout
    document = json.loads((tmp_path / "cold.json").read_text())
    assert document["command"] == "coldstart"
    executors = ["prepared", "prepared", "legacy", "simple", "profiling", "profiling-no-fusion"]
    for sizes in ("constant", "changing"):
        runs = [run for run in document["runs"] if run["sizes"] == sizes]
        assert [run["executor"] for run in runs] == executors
        assert [run["warmup"] for run in runs] == ["fast", *["off"] * 5]
        for run in runs:
            assert run["error"] is None
            assert len(run["calls"]) == 6
            assert run["first_ms"] == run["calls"][0]["ms"] > 0
            shapes = {tuple(call["shapes"]["x"]) for call in run["calls"]}
            assert all(2 <= rows <= 256 and columns == 3 for rows, columns in shapes)
            assert (len(shapes) > 1) == (sizes == "changing")
            compiled = [call["compiled"] for call in run["calls"]]
            if run["executor"] == "prepared":
                assert compiled == [0] * 6
            else:
                assert compiled[0] == 1
    # The executors see the same sizes.
    drawn = [[call["shapes"] for call in run["calls"]] for run in document["runs"][6:]]
    assert all(shapes == drawn[0] for shapes in drawn)
    profiling = next(run for run in document["runs"] if run["executor"] == "profiling")
    assert [call["compiled"] for call in profiling["calls"]][:3] == [1, 1, 0]


def test_coldstart_settles_where_later_calls_say_so(
    ts_infer: RunBinary, models: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["--shape", "x=2x3", "--calls", 2, "--json", "cold.json"]
    result = ts_infer("coldstart", models["plain"], *arguments)
    assert result.returncode == 0, result.stderr
    assert "never" not in result.stdout
    (shown,) = re.findall(r"^settled at +(.*)$", result.stdout, re.MULTILINE)
    runs = json.loads((tmp_path / "cold.json").read_text())["runs"]
    settled = []
    for run in runs:
        times = [call["ms"] for call in run["calls"]] + run["later_ms"]
        assert len(times) == 2 + 5
        steady = run["steady_ms"]
        assert steady == statistics.median(run["later_ms"])
        near = [abs(ms - steady) <= 0.25 * steady for ms in times]
        expected = next((k + 1 for k in range(2) if all(near[k : k + 3])), None)
        assert run["settled_at"] == expected
        settled.append("not by 2" if expected is None else str(expected))
    assert re.split(r" {2,}", shown.strip()) == settled


def test_coldstart_says_why_a_model_does_not_run(
    ts_infer: RunBinary, models: dict[str, str]
) -> None:
    failing = ts_infer("coldstart", models["failing"], "--shape", "x=2x3")
    assert_fails(failing, 5, "no run succeeded", "the road ends here")
    assert failing.stderr.count("[call] failing:") == 1
    assert_fails(ts_infer("coldstart", "missing.pt"), 3, "missing.pt")
    assert_fails(ts_infer("coldstart", models["plain"]), 4, "no run succeeded", "--shape x=")
    plain = ts_infer("coldstart", models["plain"], "--shape", "x=2x3", "--calls", 3)
    assert plain.returncode == 0, plain.stderr
    assert "no dimension is declared dynamic: sizes cannot change" in plain.stdout


# inspect and env


def test_inspect_says_what_the_file_holds(ts_infer: RunBinary, models: dict[str, str]) -> None:
    result = ts_infer("inspect", models["doubling"])
    assert result.returncode == 0, result.stderr
    assert re.search(r"^name +doubling$", result.stdout, re.MULTILINE)
    assert "x: float32[batch=2..256, 3]" in result.stdout
    assert "every member's CRC-32 is right" in result.stdout
    assert "def forward" not in result.stdout


def test_inspect_json_names_operators_methods_and_members(
    ts_infer: RunBinary, models: dict[str, str]
) -> None:
    document = json.loads(ts_infer("inspect", models["doubling"], "--json", "-").stdout)
    assert document["command"] == "inspect"
    assert document["methods"] == ["forward"]
    assert any(name.endswith("mul") for name in document["operators"])
    assert document["damaged"] == []
    assert document["weight_bytes"] >= 64 * 3 * 4
    assert document["members"] == len(zipfile.ZipFile(models["doubling"]).namelist())
    assert document["exported_with_torch"] == torch.__version__
    assert document["signature"]["outputs"][0]["name"] == "y"
    assert "code" not in document
    plain = json.loads(ts_infer("inspect", models["plain"], "--json", "-").stdout)
    assert plain["signature"] is None
    assert plain["audit"] is None
    assert plain["state"] == plain["scripted"] == plain["libraries"] == []


def test_inspect_shows_what_the_export_recorded(ts_infer: RunBinary, tmp_path: Path) -> None:
    x = spec("x", [BATCH, 3])
    probes = [
        {"name": "values", "outcome": "passed", "runs": 12, "reason": ""},
        {"name": "devices", "outcome": "skipped", "runs": 0, "reason": "no accelerator"},
    ]
    recorded = {
        "state": ["cell.hidden", "count"],
        "scripted": [{"name": "dg", "reason": "a branch on data"}],
        "audit": {"level": "full", "probes": probes, "allowed": ["tracer-warning"]},
        "libraries": [],
        "golden": {"file": "ts_infer/golden.pt", "calls": 2, "tolerance": {}},
    }
    path = save(Doubling(), tmp_path / "m.pt", manifest("m", [x], [x], **recorded))
    text = ts_infer("inspect", path).stdout
    for line in (
        "state       cell.hidden, count",
        "scripted    dg: a branch on data",
        "golden      2 calls, which ts_infer verify makes",
        "audit: full, allowed: tracer-warning",
        "  probe    outcome  runs",
        "  values   passed     12",
        "  devices  skipped     0  no accelerator",
    ):
        assert f"\n{line}\n" in text
    document = json.loads(ts_infer("inspect", path, "--json", "-").stdout)
    for key in ("state", "scripted", "audit", "libraries"):
        assert document[key] == recorded[key]
    assert document["golden_calls"] == 2


def test_inspect_code_prints_the_torchscript_of_each_method(
    ts_infer: RunBinary, models: dict[str, str]
) -> None:
    result = ts_infer("inspect", models["plain"], "--code")
    assert "def forward(self: __torch__." in result.stdout
    assert "torch.mul(x, torch.select(weight, 0, 0))" in result.stdout


def test_inspect_reports_damage_and_fails(
    ts_infer: RunBinary, models: dict[str, str], tmp_path: Path
) -> None:
    data = bytearray(Path(models["doubling"]).read_bytes())
    at = data.index(np.full(8, 2.0, np.float32).tobytes())
    data[at] ^= 1
    (tmp_path / "bad.pt").write_bytes(data)
    result = ts_infer("inspect", "bad.pt")
    assert_fails(result, 3, "CRC-32", "data/0")
    assert "DAMAGED" in result.stdout
    assert_fails(ts_infer("run", "bad.pt"), 3)


def test_env_names_versions_devices_and_cores(ts_infer: RunBinary) -> None:
    result = ts_infer("env")
    assert result.returncode == 0
    torch_version = torch.__version__.split("+")[0]
    assert torch_version in result.stdout
    document = json.loads(ts_infer("env", "--json", "-").stdout)
    assert document["schema"] == 1
    assert document["devices"][0] == "cpu"
    assert document["versions"]["torch"].split("+")[0] == torch_version
    assert document["machine"]["cores"] == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    "command", ["run", "bench", "sweep", "coldstart", "inspect", "verify", "env"]
)
def test_every_json_says_where_and_when_and_with_what(
    ts_infer: RunBinary, tmp_path: Path, command: str
) -> None:
    path = tmp_path / "model.pt"
    module = torch.nn.Linear(3, 3).eval()
    export(module, (torch.ones(1, 3),), path, audit="off")
    threads = [] if command in ("inspect", "env") else ["--intra-op-threads", 1]
    if command == "sweep":
        arguments = ["bench", path, "--sweep", "--duration", 1]
        threads = []
    elif command == "env":
        arguments = [command]
    else:
        arguments = [command, path]
    if command == "bench":
        arguments += ["--duration", 0.05]
    if command == "coldstart":
        arguments += ["--calls", 1]
    before = datetime.now(timezone.utc).replace(microsecond=0)
    result = ts_infer(*arguments, *threads, "--json", "-")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert list(document)[:6] == ["schema", "command", "date", "machine", "versions", "threads"]
    assert (document["schema"], document["command"]) == (1, command)
    assert before <= datetime.fromisoformat(document["date"].replace("Z", "+00:00"))
    assert document["machine"]["cpu"]
    assert document["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert document["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert document["threads"] >= 1
    if threads:
        assert document["threads"] == 1


# exit codes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "A subcommand is required"),
        (["bnech"], "did you mean 'bench'?"),
        (["run"], "MODEL is required"),
        (["run", "m.pt", "--iteration", "3"], "did you mean '--iterations'?"),
        (["run", "m.pt", "--iterations", "0"], "--iterations"),
        (["run", "m.pt", "--input"], "--input"),
        (["run", "m.pt", "--input", "x"], "expected NAME=FILE.npy, got 'x'"),
        (["run", "m.pt", "--shape", "x=2xx3"], "expected NAME=1x3x224x224, got 'x=2xx3'"),
        (["run", "m.pt", "--executor", "fast"], "--executor"),
        (["bench", "m.pt", "--concurrency", "2", "--rate", "5"], "--rate"),
        (["bench", "m.pt", "--duration", "nan"], "--duration"),
        (["inspect", "m.pt", "--device", "cpu"], "--device"),
    ],
)
def test_exit_2_with_the_usage_for_bad_flags(
    ts_infer: RunBinary, arguments: list[str], message: str
) -> None:
    result = ts_infer(*arguments)
    assert_fails(result, 2, message, "Usage: ts_infer")
    assert result.stdout == ""


@pytest.mark.parametrize("verb", ["export", "audit", "compile", "report", "demo"])
def test_exit_2_for_verbs_that_need_python(ts_infer: RunBinary, verb: str) -> None:
    result = ts_infer(verb, "--anything")
    assert_fails(result, 2, "pip install ts-infer-runtime", f"python -m ts_infer {verb}")


@pytest.mark.parametrize("command", ["run", "bench", "verify", "inspect"])
def test_exit_3_for_a_model_that_is_missing_truncated_or_something_else(
    ts_infer: RunBinary, models: dict[str, str], tmp_path: Path, command: str
) -> None:
    whole = Path(models["doubling"]).read_bytes()
    (tmp_path / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("this is no archive\n" * 100)
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("missing.pt", "truncated.pt", "text.pt", "empty.pt"):
        assert_fails(ts_infer(command, name), 3, name)


def test_exit_3_for_a_device_that_is_not_there(ts_infer: RunBinary, models: dict[str, str]) -> None:
    assert_fails(ts_infer("run", models["doubling"], "--device", "cuda:77"), 3, "cuda:77", "cpu")
    assert_fails(ts_infer("run", models["doubling"], "--device", "abacus"), 3, "abacus", "cpu")


def test_exit_4_for_inputs_that_do_not_fit(
    ts_infer: RunBinary, models: dict[str, str], tmp_path: Path
) -> None:
    np.save(tmp_path / "double.npy", np.zeros((2, 3)))
    np.save(tmp_path / "wide.npy", np.zeros((2, 4), np.float32))
    np.save(tmp_path / "one.npy", np.zeros((1, 3), np.float32))
    (tmp_path / "text.npy").write_text("1,2\n")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "big.npy", np.zeros((2, 3), ">f4"))
    for given, message in [
        ("z=wide.npy", "expected one of x"),
        ("x=missing.npy", "missing.npy"),
        ("x=text.npy", "no .npy file"),
        ("x=pickled.npy", "pickled"),
        ("x=big.npy", "big-endian"),
        ("x=double.npy", "expected float32, got"),
        ("x=wide.npy", "x: float32[batch=2..256, 3]"),
        ("x=one.npy", "x: float32[batch=2..256, 3]"),
    ]:
        result = ts_infer("run", models["doubling"], "--input", given)
        assert_fails(result, 4, message)
        assert result.stdout == ""


def test_exit_4_for_shapes_that_do_not_fit_or_are_not_known(
    ts_infer: RunBinary, models: dict[str, str]
) -> None:
    assert_fails(ts_infer("run", models["doubling"], "--shape", "q=2x3"), 4, "expected one of x")
    assert_fails(ts_infer("run", models["doubling"], "--shape", "x=2"), 4, "x")
    assert_fails(ts_infer("run", models["doubling"], "--shape", "x=1x3"), 4, "batch=2..256")
    assert_fails(ts_infer("run", models["plain"]), 4, "shape of 'x' is not known")
    assert ts_infer("run", models["plain"], "--shape", "x=2x3").returncode == 0


@pytest.mark.parametrize("command", ["run", "bench"])
def test_exit_5_for_a_model_that_fails_while_it_runs(
    ts_infer: RunBinary, models: dict[str, str], command: str
) -> None:
    result = ts_infer(command, models["failing"], "--shape", "x=3")
    assert_fails(result, 5, "the road ends here")
    assert_fails(ts_infer(command, models["hungry"], "--shape", "x=3"), 5)


def test_exit_1_for_outputs_that_cannot_be_written(
    ts_infer: RunBinary, models: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert_fails(ts_infer("run", models["doubling"], "--output-dir", "file"), 1, "file")
    assert_fails(ts_infer("env", "--json", "none/env.json"), 1, "none/env.json")
    shape = ["--shape", "x=2"]
    assert ts_infer("run", models["bfloat16"], *shape).returncode == 0
    result = ts_infer("run", models["bfloat16"], *shape, "--output-dir", "out")
    assert_fails(result, 1, "bfloat16")


def test_exit_1_where_the_disk_is_full(
    binary: str, ts_infer: RunBinary, models: dict[str, str], tmp_path: Path
) -> None:
    full = Path("/dev/full")  # whose every write fails as that of a full disk does
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/y.npy").symlink_to(full)
    run = ["run", models["doubling"], "--shape", "x=256x3"]
    result = ts_infer(*run, "--output-dir", "out")
    assert_fails(result, 1, "out/y.npy", "No space left on device")
    assert_fails(ts_infer(*run, "--json", str(full)), 1, str(full))
    with full.open("wb") as stdout:
        done = subprocess.run(
            [binary, *run], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "stdout: it cannot be written" in done.stderr


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"]
)
@pytest.mark.parametrize("command", ["run", "bench"])
def test_signal_ends_with_what_was_measured(
    binary: str,
    models: dict[str, str],
    tmp_path: Path,
    command: str,
    sent: signal.Signals,
    code: int,
) -> None:
    more = {"run": ["--iterations", "1000000000"], "bench": ["--duration", "600", "--log-calls"]}
    arguments = [command, models["doubling"], "--json", "result.json", *more[command]]
    with subprocess.Popen(
        [binary, *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        seen = 0
        while seen < 20:
            seen += "inference used time" in process.stderr.readline()
        process.send_signal(sent)
        stdout, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == code
    assert "doubling on cpu" in stdout
    document = json.loads((tmp_path / "result.json").read_text())
    assert document["interrupted"] is True
    if command == "bench":
        assert document["results"]["n"] > 0
    else:
        assert len(document["calls"]) >= 20


def test_signal_ends_at_once_before_anything_is_measured(
    binary: str, models: dict[str, str], tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe.npy"
    os.mkfifo(pipe)
    with (
        subprocess.Popen(
            [binary, "run", models["doubling"], "--input", f"x={pipe}"], stdout=subprocess.PIPE
        ) as process,
        pipe.open("wb"),
    ):  # opens when the binary reads
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 143
    assert stdout == b""


def test_help_and_version_go_to_stdout(ts_infer: RunBinary) -> None:
    version = ts_infer("--version")
    assert version.returncode == 0
    assert re.match(r"^ts_infer \d+\.\d+\.\d+$", version.stdout)
    for arguments in (["--help"], ["run", "--help"], ["bench", "--help"], ["verify", "--help"]):
        result = ts_infer(*arguments)
        assert result.returncode == 0
        assert "Usage: ts_infer" in result.stdout
        assert result.stderr == ""

"""The benchmark of peers: its figures, and one run of it on a small model."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ts_infer.__main__ import main
from ts_infer._report import document

BENCHMARKS = Path(__file__).parents[2] / "python" / "benchmarks"
CONTESTANTS = ["eager", "torch.jit", "ts_infer"]


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("peers")


@pytest.fixture
def rows(peers: Any) -> list[Any]:
    """Three contestants that took turns for four rounds; the machine was slower in the last two."""
    blocks = {"peak": [10, 10, 20, 20], "ts_infer": [2, 2, 4, 4], "eager": [3, 4, 6, 8]}
    return [
        peers.Row(name, "model", 1, flops=2**30, blocks_ms=[float(ms) for ms in times])
        for name, times in blocks.items()
    ]


def test_ratio_is_that_of_a_round(peers: Any, rows: list[Any]) -> None:
    run = peers.described(rows[2], rows, "ts_infer")
    assert run["ratio"] == {"median": 1.75, "low": 1.5, "high": 2.0}


def test_share_of_peak_is_that_of_a_round(peers: Any, rows: list[Any]) -> None:
    # The peak's call has 2^34 operations, sixteen times as many, in five times the time.
    assert peers.described(rows[1], rows, "ts_infer")["share_of_peak"] == 5 / 16


def test_ratio_is_unknown_where_the_base_was_not_measured_to_the_end(
    peers: Any, rows: list[Any]
) -> None:
    rows[1].blocks_ms.pop()
    assert peers.described(rows[2], rows, "ts_infer")["ratio"] is None
    assert peers.described(rows[2], rows, "another")["ratio"] is None


def test_row_of_a_contestant_that_is_not_installed_says_so(
    peers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    contestants = peers.contestants
    absent = contestants.Contestant(contestants.CONTESTANTS["eager"].load, ("no_such_peer",))
    monkeypatch.setitem(contestants.CONTESTANTS, "absent", absent)

    class Files:
        known = {"flops": 1.0}  # noqa: RUF012

    (row,) = peers.rows_of(Files(), "mlp", 1, ["absent"])
    assert row.error == "not installed: no_such_peer"
    assert peers.start([row], tmp_path) == []


def test_worker_that_dies_is_an_error_that_says_so(peers: Any) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import os; os.abort()"], stdout=subprocess.PIPE, text=True
    )
    with process, pytest.raises(peers.ContestantError, match="died: exit status -6"):
        peers._reply(process, 60)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document of one round on the MLP."""
    path = tmp_path_factory.mktemp("peers") / "peers.json"
    command = [sys.executable, str(BENCHMARKS / "peers.py"), "--models", "mlp", "--threads", "1"]
    command += ["--contestants", ",".join(CONTESTANTS), "--seconds", "0.1", "--starts", "1"]
    subprocess.run([*command, "--json", str(path)], check=True, capture_output=True)
    return path


def test_run_measures_every_contestant(measured: Path) -> None:
    runs = json.loads(measured.read_text(encoding="utf-8"))["runs"]
    assert [run["executor"] for run in runs] == CONTESTANTS
    for run in runs:
        assert run["error"] == ""
        assert run["max_error"] < 1e-6
        assert 0 < run["share_of_peak"] < 1
        assert run["start_ms"] > run["first_ms"] > 0
        assert run["gflop"] == 2 * 2 * 4 * 64 / 1e9
    assert runs[2]["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert set(runs[2]["throughput"]) == {"1", "2"}


def test_report_shows_a_run(measured: Path, tmp_path: Path) -> None:
    runs = document.read([str(measured)])
    assert [(run.model, run.executor) for run in runs] == [("mlp", name) for name in CONTESTANTS]
    out = tmp_path / "peers.html"
    assert main(["report", str(measured), "-o", str(out), "--svg", str(tmp_path)]) == 0
    html = out.read_text(encoding="utf-8")
    assert "<h3>mlp, threads: 1, peers.json</h3>" in html
    assert "to ts_infer" in html
    assert all(
        name in (tmp_path / "peers_1.svg").read_text(encoding="utf-8") for name in CONTESTANTS
    )

"""`ts_infer verify` and `runtime.verify`: golden samples that Python's torch.save wrote."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from archives import Counter, Pair, quiet_torch_jit, script
from torch import Tensor, nn

from ts_infer import ModelLoadError, runtime

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import RunBinary

TOLERANCE = {"float32": [1e-4, 1e-5], "bfloat16": [1e-2, 1e-2], "float64": [1e-7, 1e-7]}


class Everything(nn.Module):
    """One argument of each type; None and the tensors come back."""

    def forward(
        self,
        x: Tensor,
        nothing: Tensor | None,
        flag: bool,
        number: int,
        factor: float,
        text: str,
        some: list[Tensor],
        none: list[int],
        pair: tuple[int, tuple[float, str]],
        named: dict[str, Tensor],
    ) -> tuple[Tensor, list[Tensor], dict[str, Tensor], tuple[bool, int, float, str], Tensor]:
        y = x * factor + pair[0] + len(none)
        if nothing is not None:
            y = y + nothing
        return y, some, named, (not flag, number + 1, pair[1][0], text + pair[1][1]), y


def save(
    module: nn.Module,
    path: Path,
    calls: list[dict[str, Any]],
    arguments: list[str],
    **manifest: Any,
) -> Path:
    """An archive with a golden sample, as the exporter writes it."""
    buffer = io.BytesIO()
    torch.save({"calls": calls}, buffer)
    golden = {
        "file": "ts_infer/golden.pt",
        "calls": len(calls),
        "tolerance": {"cpu": TOLERANCE, "accelerator": TOLERANCE},
    }
    base = {
        "schema": 1,
        "name": path.stem,
        "inputs": [{"name": name, "type": "Any"} for name in arguments],
        "golden": golden,
    }
    extra = {
        "ts_infer/manifest.json": json.dumps(base | manifest).encode(),
        "ts_infer/golden.pt": buffer.getvalue(),
    }
    with quiet_torch_jit():
        torch.jit.save(script(module), str(path), _extra_files=extra)
    return path


def everything() -> list[Any]:
    """Values of every kind that a golden sample may hold."""
    return [
        torch.arange(6.0).reshape(2, 3).t(),
        None,
        True,
        2**40,
        0.5,
        "grüezi",
        [
            torch.tensor(3),
            torch.ones(2, dtype=torch.bfloat16),
            torch.tensor([True, False]),
            torch.zeros(0, 4),
            torch.arange(10, dtype=torch.uint8)[2:8:3],
            torch.tensor([math.nan, math.inf, -math.inf], dtype=torch.float16),
            torch.tensor([1 + 2j, complex(math.nan, 1)], dtype=torch.complex64),
            torch.arange(3, dtype=torch.int16),
        ],
        [],
        (-7, (-0.25, "!")),
        {"a": torch.ones(1, 1, dtype=torch.float64), "b": torch.tensor(5, dtype=torch.int8)},
    ]


ARGUMENTS = [
    "x",
    "nothing",
    "flag",
    "number",
    "factor",
    "text",
    "some",
    "none",
    "pair",
    "named",
]


def leaves(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in leaves(item)]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    return [value]


def golden_call(module: nn.Module, *inputs: Any) -> dict[str, Any]:
    return {"inputs": list(inputs), "outputs": leaves(module(*inputs))}


@pytest.fixture
def counting(tmp_path: Path) -> Path:
    """A stateful model with two calls, which differ."""
    counter, x = Counter(), torch.zeros(2)
    calls = [golden_call(counter, x) for _ in range(2)]
    path = save(Counter(), tmp_path / "counting.pt", calls, ["x"], outputs=[{"name": "count"}])
    assert runtime.load(path)(x).tolist() == [1, 1]
    return path


@pytest.fixture
def differing(tmp_path: Path) -> Path:
    """The second of three calls is wrong in one of four elements."""
    pair, x = Pair(), torch.ones(2, 2)
    calls = [golden_call(pair, x, x) for _ in range(3)]
    calls[1]["outputs"] = [torch.tensor([[2.0, 2.0], [2.5, 2.0]])]
    return save(pair, tmp_path / "differing.pt", calls, ["a", "b"], outputs=[{"name": "sum"}])


def test_verify_reads_whatever_torch_save_writes(tmp_path: Path) -> None:
    module = Everything()
    inputs = everything()
    call = golden_call(module, *inputs)
    calls = [call, call, {"inputs": inputs, "outputs": list(call["outputs"])}]
    report = runtime.verify(save(module, tmp_path / "everything.pt", calls, ARGUMENTS))
    assert report.calls == 3
    assert report.ok, [check for check in report.outputs if not check.ok]
    assert len(report.outputs) == 3 * len(call["outputs"])
    assert {check.max_abs_diff for check in report.outputs} == {0.0, None}


def test_verify_checks_that_calls_follow_each_other(counting: Path) -> None:
    for source in (counting, counting.read_bytes(), io.BytesIO(counting.read_bytes())):
        report = runtime.verify(source, device="cpu")
        assert report.ok
        assert [check.call for check in report.outputs] == [1, 2]
        assert report.outputs[0].output == "count"
        assert report.sha256 == hashlib.sha256(counting.read_bytes()).hexdigest()
        assert report.model.stateful


def test_verify_says_which_element_differs(differing: Path) -> None:
    report = runtime.verify(differing, device="cpu")
    assert not report.ok
    assert [check.ok for check in report.outputs] == [True, False, True]
    wrong = report.outputs[1]
    assert wrong.difference == "at [1, 0]: expected 2.5, got 2; 1 of 4 elements differ"
    assert wrong.max_abs_diff == 0.5
    assert wrong.allowed == pytest.approx(1e-5 + 1e-4 * 2.5)
    assert repr(wrong).startswith("<OutputCheck of 'sum', call 2: at [1, 0]")
    assert "outputs differ" in repr(report)


def test_verify_compares_integers_exactly(tmp_path: Path) -> None:
    big = torch.tensor([2**62])
    calls = [{"inputs": [big, torch.tensor([1])], "outputs": [big]}]
    report = runtime.verify(save(Pair(), tmp_path / "pair.pt", calls, ["a", "b"]))
    assert report.outputs[0].difference == (
        "at [0]: expected 4611686018427387904, got 4611686018427387905"
    )


def test_verify_raises_for_another_file(counting: Path) -> None:
    digest = hashlib.sha256(counting.read_bytes()).hexdigest()
    assert runtime.verify(counting, sha256=digest.upper()).ok
    with pytest.raises(ModelLoadError, match=rf"expected SHA-256 {'0' * 64}, got {digest}"):
        runtime.verify(counting, sha256="0" * 64)


def test_verify_raises_without_a_golden_sample(affine_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"expected a golden sample .* ts_infer\.export"):
        runtime.verify(affine_path)


def test_verify_command_prints_a_line_a_call_and_output(
    ts_infer: RunBinary, counting: Path
) -> None:
    result = ts_infer("verify", counting)
    assert result.returncode == 0, result.stderr
    assert "counting on cpu, executor prepared, 2 golden calls" in result.stdout
    assert "every CRC-32 is right" in result.stdout
    assert f"sha256      {hashlib.sha256(counting.read_bytes()).hexdigest()}" in result.stdout
    for call, allowed in ((1, "0.00011"), (2, "0.00021")):
        assert re.search(rf"^ +{call}  count +0  {allowed}  ok$", result.stdout, re.MULTILINE)


def test_verify_command_exits_7_when_outputs_differ(ts_infer: RunBinary, differing: Path) -> None:
    result = ts_infer("verify", differing, "--executor", "profiling")
    assert result.returncode == 7
    where = "at [1, 0]: expected 2.5, got 2; 1 of 4 elements differ"
    assert re.search(rf"^ +2  sum .* DIFFERS {re.escape(where)}$", result.stdout, re.MULTILINE)
    assert (
        f"1 of 3 outputs differ from the golden sample on cpu; the first: call 2, sum {where}"
        in (result.stderr)
    )
    as_json = ts_infer("verify", differing, "--json", "-")
    assert as_json.returncode == 7
    document = json.loads(as_json.stdout)
    assert (document["schema"], document["command"]) == (1, "verify")
    assert document["ok"] is False
    assert document["model"]["device"] == "cpu"
    assert document["machine"]["cores"] >= 1
    assert document["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert document["options"]["executor"] == "prepared"
    assert document["sha256"] == hashlib.sha256(differing.read_bytes()).hexdigest()
    assert document["outputs"][0]["ok"] is True
    assert document["outputs"][1]["max_abs_diff"] == 0.5
    assert document["outputs"][1]["difference"] == where


def test_verify_command_exits_3_for_a_file_that_cannot_be_verified(
    ts_infer: RunBinary, counting: Path, affine_path: Path, tmp_path: Path
) -> None:
    data = bytearray(counting.read_bytes())
    data[data.index(b"_rebuild_tensor_v2")] ^= 1
    (tmp_path / "damaged.pt").write_bytes(data)
    digest = hashlib.sha256(counting.read_bytes()).hexdigest()
    other = "0" * 64
    for arguments, message in (
        (["nowhere.pt"], "check the path"),
        (["damaged.pt"], "the CRC-32 does not match in extra/ts_infer/golden.pt"),
        ([affine_path], "export the model with ts_infer.export"),
        ([counting, "--sha256", other], f"expected SHA-256 {other}, got {digest}"),
        ([counting, "--device", "cuda:9"], "device"),
    ):
        result = ts_infer("verify", *arguments)
        assert result.returncode == 3, result.stderr
        assert message in result.stderr
        assert result.stdout == ""
    assert ts_infer("verify", counting, "--sha256", digest).returncode == 0


def test_verify_command_exits_2_for_a_digest_that_is_none(ts_infer: RunBinary) -> None:
    result = ts_infer("verify", "m.pt", "--sha256", "12")
    assert result.returncode == 2
    assert "expected 64 hexadecimal digits, got '12'" in result.stderr


def test_load_verifies_where_it_is_asked_to(counting: Path, differing: Path) -> None:
    for source in (counting, counting.read_bytes()):
        model = runtime.load(source, device="cpu", verify=True)
        assert [step.name for step in model.info().load_steps][-1] == "verify"
        # On a copy of the state, and before anything counts.
        assert model.stats().count == 0
        assert model(torch.zeros(2)).tolist() == [1, 1]
    assert runtime.load(differing, device="cpu")(torch.ones(1), torch.ones(1)).item() == 2


@pytest.mark.parametrize("executor", runtime.executors())
def test_load_that_verifies_says_which_output_differs(differing: Path, executor: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        runtime.load(differing, device="cpu", executor=executor, verify=True)
    assert str(caught.value) == (
        f"[load] {differing}: verify: 1 of 3 outputs differ from the golden sample on cpu; the "
        "first: call 2, sum at [1, 0]: expected 2.5, got 2; 1 of 4 elements differ (by 0.5, "
        "allowed 0.00026); ts_infer verify shows them all, optimize=false or a name in "
        "disabled_passes may mend it"
    )


def test_load_that_verifies_needs_a_golden_sample_that_fits(
    affine_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError, match=r"verify: expected a golden sample .* without verify"):
        runtime.load(affine_path, device="cpu", verify=True)
    assert runtime.load(affine_path, device="cpu", verify=False) is not None
    calls = [{"inputs": [torch.ones(2)], "outputs": [torch.ones(2)]}]
    path = save(Pair(), tmp_path / "pair.pt", calls, ["a", "b"])
    with pytest.raises(ModelLoadError, match="verify: its golden sample does not fit it: "):
        runtime.load(path, device="cpu", warmup="off", verify=True)


def test_load_that_verifies_leaves_random_generators_alone(counting: Path) -> None:
    before = torch.get_rng_state()
    runtime.load(counting, device="cpu", verify=True)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("verb", [["run", "--iterations", "1"], ["bench", "--duration", "0.01"]])
def test_commands_verify_in_load(
    ts_infer: RunBinary, counting: Path, differing: Path, verb: list[str]
) -> None:
    np.save(counting.with_name("ones.npy"), np.ones((2, 2), dtype=np.float32))
    flags = [*verb[1:], "--verify", "--json", "-"]
    result = ts_infer(verb[0], counting, *flags, "--input", "x=ones.npy")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["options"]["verify"] is True
    result = ts_infer(verb[0], differing, *flags, "--input", "a=ones.npy", "--input", "b=ones.npy")
    assert result.returncode == 3
    assert "the first: call 2, sum at [1, 0]: expected 2.5, got 2" in result.stderr
    assert result.stdout == ""

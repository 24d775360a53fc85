"""What stock torch writes loads, and computes as torch.jit.load does, through every door."""

from __future__ import annotations

import io
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from archives import jit_load, quiet_torch_jit, script
from test_gate import rezipped
from torch import Tensor, nn

import ts_infer
from ts_infer import ModelLoadError, runtime
from ts_infer._export import traced as traced_inputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import RunBinary

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Linear(4, 8)
        self.layers = nn.Sequential(nn.ReLU(), nn.Linear(8, 4))
        self.register_buffer("unused", torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.hidden(x))  # type: ignore[no-any-return]


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x.reshape(1, 1, 2, 4))))


class Named(nn.Module):
    """Parts and parameters that are called like operators which no model may use."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.save = nn.Parameter(torch.randn(4))
        self.inductor = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inductor(x) * self.save  # type: ignore[no-any-return]

    @torch.jit.export
    def from_file(self, x: Tensor) -> Tensor:
        return x + self.save


class HoldsNamed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.save = Named()
        self.parts = nn.ModuleList([Named(), Named()])

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x) + part.save
        weight: Tensor = self.save.inductor.weight
        y: Tensor = self.save(x) + self.save.save
        return y + weight[0]


class OnMeta(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shape_only", torch.empty(1000, 1000, device="meta"))


def saved(scripted: Any, extra_files: dict[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with quiet_torch_jit():
        torch.jit.save(scripted, buffer, _extra_files=extra_files or {})
    return buffer.getvalue()


def traced(module: nn.Module, **options: Any) -> Any:
    trace: Any = torch.jit.trace
    with quiet_torch_jit():
        return trace(module.eval(), X, **options)


def frozen(scripted: Any) -> Any:
    with quiet_torch_jit():
        return torch.jit.freeze(scripted)


def optimized(scripted: Any) -> Any:
    with quiet_torch_jit():
        return torch.jit.optimize_for_inference(scripted)


def for_mobile(scripted: Any, **options: Any) -> bytes:
    with quiet_torch_jit(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Lite Interpreter is deprecated")
        contents: bytes = scripted._save_to_buffer_for_lite_interpreter(**options)
    return contents


def resaved(contents: bytes) -> bytes:
    return saved(jit_load(io.BytesIO(contents)))


def moved(contents: bytes, device: str) -> bytes:
    """As if it had been saved on another device."""

    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    def change(name: str, data: bytes) -> list[tuple[str, bytes]]:
        if name.endswith(".pkl"):
            data = data.replace(text("cpu"), text(device))
        return [(name, data)]

    return rezipped(contents, change)


SCALER = pickle.dumps({"mean": np.arange(3.0)}, protocol=5)
EXTRA_FILES = {
    "scaler.pkl": SCALER,
    "a.PKL": b"no pickle",
    "README": b"one",
    "readme": b"two",
    "code/evil.py": b"torch.save(",
}

ARCHIVES: dict[str, Callable[[], bytes]] = {
    "trace": lambda: saved(traced(Net())),
    "trace, not strict": lambda: saved(traced(Net(), strict=False)),
    "trace of convolutions": lambda: saved(traced(Convolutional())),
    "script": lambda: saved(script(Net())),
    "freeze of a trace": lambda: saved(frozen(traced(Net()))),
    "freeze of a script": lambda: saved(frozen(script(Net()))),
    "optimize_for_inference": lambda: saved(optimized(script(Net()))),
    "extra files": lambda: saved(traced(Net()), EXTRA_FILES),
    "mobile": lambda: for_mobile(script(Net())),
    "mobile, traced": lambda: for_mobile(traced(Net()), _save_mobile_debug_info=True),
    "saved again": lambda: resaved(saved(traced(Net()))),
    "on CUDA": lambda: moved(saved(traced(Net())), "cuda:0"),
    "on MPS": lambda: moved(saved(script(Net())), "mps:0"),
    "buffer on meta": lambda: saved(traced(OnMeta())),
    "buffer on meta, scripted": lambda: saved(script(OnMeta())),
    "names of operators": lambda: saved(script(HoldsNamed())),
    "names of operators, traced": lambda: saved(traced(HoldsNamed())),
    "names of operators, frozen": lambda: saved(frozen(script(HoldsNamed()))),
    "train mode": lambda: saved(torch.jit.script(Net().train())),
}


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def embed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ program `embed MODEL INPUT.npy`, which prints the outputs."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler `c++`: run `apt-get install g++`")
    source = ROOT / "cpp" / "examples" / "embed" / "main.cpp"
    if not source.exists():
        pytest.skip("the sources are not here")
    command = [sys.executable, "-m", "ts_infer", "--cmake-dir"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    prefix = Path(found.stdout.strip()).parents[2]
    program = tmp_path_factory.mktemp("embed") / "embed"
    libraries = [prefix / "lib", Path(torch.__file__).parent / "lib"]
    done = subprocess.run(
        [
            *(compiler, "-std=c++17", str(source), f"-I{prefix / 'include'}", "-o", str(program)),
            *(f"-L{libraries[0]}", "-lts_infer", "-Wl,--allow-shlib-undefined"),
            *(f"-Wl,-rpath,{library}" for library in libraries),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return program


def by_binary(ts_infer: RunBinary, path: Path, folder: Path) -> Tensor:
    np.save(folder / "x.npy", X.numpy())
    name = runtime.load(path, warmup="off").signature.inputs[0].name
    done = ts_infer(
        *("run", path, "--input", f"{name}={folder / 'x.npy'}", "--quiet"),
        *("--output-dir", folder / "outputs"),
    )
    assert done.returncode == 0, done.stderr
    (written,) = (folder / "outputs").iterdir()
    return torch.from_numpy(np.load(written))


def by_embed(embed: Path, path: Path, folder: Path) -> Tensor:
    np.save(folder / "x.npy", X.numpy())
    command = [str(embed), str(path), str(folder / "x.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return torch.tensor([float(word) for word in done.stdout.split()])


def by_stock(path: Path) -> Tensor:
    load: Any = torch.jit.load
    with quiet_torch_jit(), torch.inference_mode():
        module = load(path, map_location=None if "meta" in path.name else "cpu")
        if hasattr(module, "training"):
            module.eval()
        result: Tensor = module(X)
    return result


@pytest.mark.parametrize("name", ARCHIVES)
def test_stock_archives_compute_as_torch_does(
    name: str, tmp_path: Path, ts_infer: RunBinary, embed: Path
) -> None:
    contents = ARCHIVES[name]()
    path = tmp_path / f"Größe von {name}.pt"
    path.write_bytes(contents)
    expected = by_stock(path)
    info = runtime.read_model_info(path)
    assert info.damaged == []
    assert info.restricted_operators == []
    for source in (path, contents, io.BytesIO(contents)):
        torch.testing.assert_close(runtime.load(source)(X), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(by_binary(ts_infer, path, tmp_path), expected, rtol=1e-5, atol=1e-6)
    by_cpp = by_embed(embed, path, tmp_path)
    torch.testing.assert_close(by_cpp, expected.flatten(), rtol=1e-5, atol=1e-6)


def test_what_a_trace_leaves_says_nothing_of_the_model() -> None:
    contents = moved(saved(traced(Net())), "cuda:0")

    def spoil(name: str, data: bytes) -> list[tuple[str, bytes]]:
        return [(name, b"no pickle" if name == "traced_inputs.pkl" else data)]

    info = runtime.read_model_info(rezipped(contents, spoil))
    assert info.devices == ["cuda:0"]
    on_cpu = saved(traced(Net()))
    examples_elsewhere = rezipped(
        on_cpu,
        lambda name, data: [
            (name, data.replace(b"\3\0\0\0cpu", b"\6\0\0\0cuda:0") if "traced" in name else data)
        ],
    )
    assert runtime.read_model_info(examples_elsewhere).devices == []


def test_damage_in_what_is_never_read_is_damage_all_the_same(tmp_path: Path) -> None:
    contents = saved(traced(Net()), {"scaler.pkl": SCALER})
    place = contents.index(SCALER)
    changed = contents[: place + 9] + b"\xff" + contents[place + 10 :]
    with pytest.raises(ModelLoadError, match=r"CRC-32 does not match in extra/scaler\.pkl"):
        runtime.load(changed)


def test_a_tensor_on_meta_beside_those_of_an_accelerator_is_refused() -> None:
    with pytest.raises(ModelLoadError, match=r"on the meta device.*got cuda:0; give it values"):
        runtime.load(moved(saved(script(OnMeta())), "cuda:0"))


def test_mobile_archives_without_code_are_called_by_their_name(
    tmp_path: Path, ts_infer: RunBinary
) -> None:
    mobile = for_mobile(script(Net()))
    without_code = rezipped(
        mobile, lambda name, data: [] if name.startswith("code/") else [(name, data)]
    )
    flatbuffer = for_mobile(script(Net()), _use_flatbuffer=True)
    for number, contents in enumerate((without_code, flatbuffer)):
        path = tmp_path / f"{number}.ptl"
        path.write_bytes(contents)
        for load in (runtime.load, runtime.read_model_info, runtime.verify):
            with pytest.raises(ModelLoadError, match=r"mobile interpreter; save .* instead"):
                load(path)
        done = ts_infer("run", path)
        assert done.returncode == 3
        assert "mobile interpreter" in done.stderr


def add_one(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    return output + 1


def test_hooks_of_a_part_run_and_those_of_the_whole_are_refused() -> None:
    """Python's call of a loaded module runs them, libtorch's forward() does not."""
    inner = Convolutional()
    inner.register_forward_hook(add_one)
    whole = saved(script(inner))
    with pytest.raises(ModelLoadError, match=r"without forward hooks of its own, got add_one"):
        runtime.load(whole)
    outer = script(nn.Sequential(inner))
    with torch.inference_mode():
        expected = outer(X)
    torch.testing.assert_close(runtime.load(saved(outer))(X), expected, rtol=1e-5, atol=1e-6)


def test_what_torch_itself_cannot_load_again_is_said_to_be_that(tmp_path: Path) -> None:
    contents = saved(optimized(script(Convolutional())))
    with pytest.raises(RuntimeError):
        jit_load(io.BytesIO(contents))
    with pytest.raises(ModelLoadError, match="optimize_for_inference"):
        runtime.load(contents)


def test_audit_draws_inputs_of_the_sizes_of_the_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.pt"
    path.write_bytes(saved(traced(Net())))
    report = ts_infer.audit(path)
    assert report.ok
    outcomes = {probe.name: probe.outcome for probe in report.probes}
    assert outcomes["repeats"] == outcomes["sizes"] == "passed"
    assert "inputs: drawn at random, of the sizes that it was traced with" in report.notes
    assert any("x dim 1 = 4" in note for note in report.notes)


class Nested(nn.Module):
    def forward(
        self, state: dict[str, Tensor], parts: list[Tensor], index: Tensor, flags: tuple[Tensor]
    ) -> Tensor:
        return state["a"][index] + parts[0] + flags[0]


def test_audit_draws_nested_inputs_too(tmp_path: Path) -> None:
    path = tmp_path / "nested.pt"
    trace: Any = torch.jit.trace
    inputs = (
        {"a": torch.rand(3, 2).double()},
        [torch.rand(1, 2)],
        torch.tensor([2, 1]),
        (torch.ones(2, dtype=torch.bool),),
    )
    with quiet_torch_jit():
        trace(Nested(), inputs, strict=False).save(str(path))
    drawn = traced_inputs.inputs(path)
    assert drawn is not None
    state, parts, index, flags = drawn
    assert (state["a"].dtype, state["a"].shape) == (torch.float64, (3, 2))
    assert [part.shape for part in parts] == [(1, 2)]
    assert index.tolist() == [0, 0]
    assert flags[0].dtype == torch.bool
    report = ts_infer.audit(path)
    assert {"repeats": "passed"}.items() <= {p.name: p.outcome for p in report.probes}.items()


# A tensor of 2^31 - 1 elements.
HUGE = (
    b"\x80\x02}X\7\0\0\0forward](ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storage"
    b"ctorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\1tQK\0(J\xff\xff\xff\x7ft(K\1t\x89NtRes."
)


@pytest.mark.parametrize(
    "pickled",
    [
        b"no pickle",
        pickle.dumps({"forward": [np.zeros(2)]}),
        b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.",
        pickle.dumps({"other": [1]}),
        pickle.dumps([1]),
        HUGE,
    ],
)
def test_audit_does_without_inputs_of_a_trace_that_it_cannot_read(
    pickled: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "trace.pt"
    path.write_bytes(
        rezipped(
            saved(traced(Net())),
            lambda name, data: [(name, pickled if name == "traced_inputs.pkl" else data)],
        )
    )
    assert traced_inputs.inputs(path) is None
    report = ts_infer.audit(path)
    reasons = {probe.name: probe.reason for probe in report.probes}
    assert reasons["sizes"] == "no manifest, no trace and no example inputs: give example inputs"

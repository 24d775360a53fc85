"""Models with operators and classes of their own, from the library that the C++ tests build."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from ts_infer import ModelLoadError, runtime

if TYPE_CHECKING:
    from conftest import RunBinary

BUILD = Path(__file__).parents[2] / "build" / "tests"
LIBRARY = BUILD / "lib" / "libts_infer_ops_library.so"
TIMEOUT_S = 180

# In a process of its own: what is registered stays registered.
EXPORT = """
import sys, warnings
import torch, ts_infer
warnings.simplefilter("ignore")
library, folder = sys.argv[1:]
torch.ops.load_library(library)

class Operator(torch.nn.Module):
    def forward(self, x):
        return torch.ops.ts_infer_test.triple(x)

class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scaler = torch.classes.ts_infer_test.Scaler(0.5)
    def forward(self, x):
        return self.scaler.apply(x)

for name, module in (("operator", Operator()), ("class", Scaled())):
    ts_infer.export(module.eval(), torch.ones(2), f"{folder}/{name}.pt", audit="fast")
torch.jit.save(torch.jit.script(Operator()), f"{folder}/unrecorded.pt")
"""


def _torch_of_the_build() -> str:
    """The folder of torch that build/tests was configured with; empty: that of the environment."""
    cache = (BUILD / "CMakeCache.txt").read_text(encoding="utf-8")
    found = re.search(r"^TS_INFER_TORCH_DIR:PATH=(.*)$", cache, re.MULTILINE)
    return found[1] if found else ""


@pytest.fixture(scope="module")
def library() -> Path:
    if not LIBRARY.exists():
        pytest.skip("the C++ tests are not built: run cmake --workflow --preset tests")
    if _torch_of_the_build() not in ("", str(Path(torch.__file__).parent)):
        pytest.skip("the C++ tests are built with another torch")
    return LIBRARY


@pytest.fixture(scope="module")
def models(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """operator.pt and class.pt, whose manifests name the library, and unrecorded.pt."""
    folder = tmp_path_factory.mktemp("models")
    program = folder / "export.py"  # TorchScript reads the source of what it compiles
    program.write_text(EXPORT, encoding="utf-8")
    subprocess.run(
        [sys.executable, str(program), str(library), str(folder)], check=True, timeout=TIMEOUT_S
    )
    return folder


@pytest.fixture
def ts_infer(ts_infer: RunBinary, models: Path) -> RunBinary:
    """The same, in the folder of the models."""
    return partial(ts_infer, folder=models)


RECORDED = f'{LIBRARY.name} to be loaded; pass libraries=["…/{LIBRARY.name}"] (--library)'
UNKNOWN = "the library that registers it to be loaded; pass it in libraries (--library)"


@pytest.mark.parametrize(
    ("name", "missing", "expected"),
    [
        ("operator", "operator ts_infer_test::triple", RECORDED),
        ("class", "class ts_infer_test.Scaler", RECORDED),
        ("unrecorded", "operator ts_infer_test::triple", UNKNOWN),
    ],
    ids=["operator", "class", "unrecorded"],
)
def test_command_asks_for_the_library_and_takes_it(
    ts_infer: RunBinary, library: Path, name: str, missing: str, expected: str
) -> None:
    arguments = ["run", f"{name}.pt", "--shape", "x=2", "--quiet"]
    without = ts_infer(*arguments)
    assert without.returncode == 3
    assert f"it needs the custom {missing}: expected {expected}\n" in without.stderr
    result = ts_infer(*arguments, "--library", library, "--library", library, "--json", "-")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["options"]["libraries"] == [str(library), str(library)]
    assert document["outputs"][0]["shape"] == [2]


def test_command_takes_a_library_of_the_working_folder(
    ts_infer: RunBinary, models: Path, library: Path
) -> None:
    link = models / "libhere.so"
    link.symlink_to(library)
    result = ts_infer(
        "bench", "operator.pt", "--shape", "x=2", "--duration", 0.01, "--library", link.name
    )
    link.unlink()
    assert result.returncode == 0, result.stderr


def test_inspect_names_the_libraries(ts_infer: RunBinary, models: Path) -> None:
    text = ts_infer("inspect", "operator.pt").stdout
    assert "needs       libts_infer_ops_library.so, for ts_infer_test::triple" in text
    document = json.loads(ts_infer("inspect", "operator.pt", "--json", "-").stdout)
    assert document["libraries"] == [
        {
            "file": "libts_infer_ops_library.so",
            "operators": ["ts_infer_test::triple"],
            "classes": [],
        }
    ]
    (needed,) = runtime.read_model_info(models / "class.pt").libraries
    assert needed.file == LIBRARY.name
    assert needed.classes == ["__torch__.torch.classes.ts_infer_test.Scaler"]


def test_load_takes_libraries(models: Path, library: Path) -> None:
    x = torch.tensor([1.0, 2.0])
    for libraries in ([library], (str(library), library)):
        model = runtime.load(models / "operator.pt", libraries=libraries)
        assert torch.equal(model(x), 3 * x)
    assert torch.equal(runtime.load(models / "class.pt")(x), x / 2)  # it stays loaded


def test_load_raises_when_a_library_cannot_be_loaded(affine_path: Path, tmp_path: Path) -> None:
    gone = tmp_path / "libgone.so"
    with pytest.raises(ModelLoadError, match=r"libgone\.so.*cannot open shared object file"):
        runtime.load(affine_path, libraries=[gone])
    gone.write_text("no library")
    with pytest.raises(ModelLoadError, match="the library cannot be loaded"):
        runtime.load(affine_path, libraries=[str(gone)])


def test_load_raises_type_error_for_a_library_outside_a_list(affine_path: Path) -> None:
    with pytest.raises(TypeError, match="put it into a list"):
        runtime.load(affine_path, libraries="libmine.so")

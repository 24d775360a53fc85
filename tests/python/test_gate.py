"""What load refuses before torch sees the file: operators, limits, names."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from archives import Affine, archive_bytes, jit_load
from torch import Tensor, nn

from ts_infer import ModelLoadError, runtime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import RunBinary


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class Saves(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, self.path)
        return x


class MapsInAMethod(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        return x

    @torch.jit.export
    def spill(self, x: Tensor) -> Tensor:
        return torch.from_file(self.path, shared=True, size=x.numel()).copy_(x.flatten())


class SavesWhenItIsLoaded(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), self.path)


def rezipped(
    contents: bytes,
    change: Callable[[str, bytes], list[tuple[str, bytes]]],
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """The archive with what `change` makes of each member, whose name is given without folder."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(contents)) as old,
        zipfile.ZipFile(buffer, "w", compression) as new,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of duplicate names
        for name in old.namelist():
            folder, _, inner = name.partition("/")
            for changed, data in change(inner, old.read(name)):
                new.writestr(f"{folder}/{changed}", data)
    return buffer.getvalue()


def with_code(statement: str, *, file: str = "") -> bytes:
    """An archive whose forward first runs this."""

    def change(name: str, data: bytes) -> list[tuple[str, bytes]]:
        if not name.endswith(".py"):
            return [(name, data)]
        source = re.sub(
            r"\n    (return|_0)",
            lambda found: f"\n    {statement}{found[0]}",
            data.decode(),
            count=1,
        )
        assert statement in source
        return [(file or name, source.encode())]

    return rezipped(archive_bytes(Plain()), change)


@pytest.mark.parametrize("make", [Saves, MapsInAMethod, SavesWhenItIsLoaded])
def test_files_are_not_touched_unless_it_is_allowed(
    make: Callable[[str], nn.Module], tmp_path: Path, ts_infer: RunBinary
) -> None:
    target = tmp_path / "written"
    path = tmp_path / "model.pt"
    path.write_bytes(archive_bytes(make(str(target))))
    target.unlink(missing_ok=True)
    name = "aten::from_file" if make is MapsInAMethod else "aten::save"
    names = ["__setstate__", name] if make is SavesWhenItIsLoaded else [name]
    assert runtime.read_model_info(path).restricted_operators == names
    for refused in (
        lambda: runtime.load(path, allow_operators=["c10d::"]),
        lambda: runtime.verify(path),
    ):
        with pytest.raises(ModelLoadError, match=rf"{name} \(.*files.*allow_operators"):
            refused()
    assert ts_infer("inspect", path).returncode == 0
    done = ts_infer("run", path, "--shape", "x=2")
    assert done.returncode != 0
    assert name in done.stderr
    assert not target.exists()

    model = runtime.load(path, allow_operators=names)
    x = torch.ones(3)
    torch.testing.assert_close(model(x), x)
    if make is MapsInAMethod:
        model.run_method("spill", x)
    assert target.exists()
    target.unlink()
    allowed = [text for name in names for text in ("--allow-operator", name)]
    done = ts_infer("run", path, "--shape", "x=2", *allowed)
    assert done.returncode == 0, done.stderr
    assert target.exists() or make is MapsInAMethod


@pytest.mark.parametrize(
    "statement",
    [
        'torch.save(x, "f")',
        'torch . save(x, "f")',
        'torch.  # of it\\\n      save(x, "f")',
        'o = torch\n    o.save(x, "f")',
        'x.save("f")',
        '(x).save("f")',
        '1.5e3.save("f")',
        'getattr(x, "save")("f")',
        'getattr(x, "\\x73ave")("f")',
        'getattr(torch, "sa" "ve")(x, "f")',
        "getattr(torch, 'sa'   \"ve\")(x, 'f')",
        'getattr(torch, "sa"  # of it\n      "ve")(x, "f")',
        'ops.aten.save(x, "f")',
    ],
)
def test_every_spelling_is_found(statement: str) -> None:
    with pytest.raises(ModelLoadError, match=r"aten::save \(writes files\)"):
        runtime.load(with_code(statement))


@pytest.mark.parametrize(
    "statement",
    [
        '# torch.save(x, "f")',
        's = "torch.save(x, 1)"',
        's = "a\\\\".lower()\n    t = ".save"',
        "saved = x.size()",
        'f = getattr(self, "training")',
    ],
)
def test_what_only_looks_like_one_is_let_through(statement: str) -> None:
    model = runtime.load(with_code(statement))
    torch.testing.assert_close(model(torch.ones(2)), torch.full((2,), 2.0))


def test_other_processes_are_out_of_reach() -> None:
    for namespace in ("c10d", "symm_mem", "inductor"):
        with pytest.raises(ModelLoadError, match=f"{namespace}::"):
            runtime.load(with_code(f"ops.{namespace}.something(x)"))


class ComputesWhenItIsLoaded(nn.Module):
    """What is computed depends on `how`; the state is assigned in any case."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.count = 3

    def forward(self, x: Tensor) -> Tensor:
        return x * self.count

    @torch.jit.export
    def put(self, count: int) -> None:
        self.count = count

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return self.count, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        self.how = ""
        self.put(state[0])
        if state[0] != 3:
            raise RuntimeError("another state")
        self.training = state[1]


def with_setstate(statement: str) -> bytes:
    """An archive whose __setstate__ first runs this."""

    def change(name: str, data: bytes) -> list[tuple[str, bytes]]:
        source = data.decode() if name.endswith(".py") else ""
        if "__setstate__" not in source:
            return [(name, data)]
        changed = source.replace('    self.how = ""\n', f'    self.how = ""\n    {statement}\n')
        assert changed != source
        return [(name, changed.encode())]

    return rezipped(archive_bytes(ComputesWhenItIsLoaded("")), change)


def test_a_state_that_is_only_assigned_is_taken() -> None:
    contents = archive_bytes(ComputesWhenItIsLoaded(""))
    assert runtime.read_model_info(contents).restricted_operators == []
    torch.testing.assert_close(runtime.load(contents)(torch.ones(2)), torch.full((2,), 3.0))


@pytest.mark.parametrize(
    "statement",
    [
        "x = torch.zeros([3])",
        "x = (state)[0] * 3",
        "x = [1]*1000000000",
        "for i in range(3):\n      self.count = i",
        "while True:\n      pass",
        "x = [i for i in [1, 2]]",
        "_0 = (self).__setstate__(state, )",
        "x = torch.neg((state)[0])",
        "x = ops.aten.neg((state)[0])",
        "x = torch.list((state)[0])",
    ],
)
def test_code_that_computes_in_load_is_refused(statement: str) -> None:
    contents = with_setstate(statement)
    assert runtime.read_model_info(contents).restricted_operators == ["__setstate__"]
    with pytest.raises(ModelLoadError, match=r"__setstate__ \(computes.*allow_operators"):
        runtime.load(contents)


def test_code_that_computes_in_load_may_be_allowed() -> None:
    contents = with_setstate("self.count = (state)[0] + 0")
    with pytest.raises(ModelLoadError, match="__setstate__"):
        runtime.load(contents)
    model = runtime.load(contents, allow_operators=["__setstate__"])
    torch.testing.assert_close(model(torch.ones(2)), torch.full((2,), 3.0))


@pytest.mark.parametrize("annotation", ["List[]", "Optional[ ]", "Dict[str, List[]]", "Tuple[]"])
def test_a_type_without_its_parts_is_refused(annotation: str) -> None:
    """Torch's own parser ends the process."""

    def change(name: str, data: bytes) -> list[tuple[str, bytes]]:
        if name.endswith(".py"):
            data = data.replace(b"x: Tensor", f"x: {annotation}".encode())
        return [(name, data)]

    with pytest.raises(ModelLoadError, match="brackets with no index"):
        runtime.load(rezipped(archive_bytes(Plain()), change))


def test_code_is_found_under_names_in_any_case() -> None:
    # libtorch finds a member whatever the case of its name.
    contents = with_code('torch.save(x, "f")', file="CODE/__torch__/archive.PY")
    with pytest.raises(ModelLoadError, match=r"aten::save|expected a TorchScript archive"):
        runtime.load(contents)


def test_allow_operators_are_names_of_restricted_ones() -> None:
    contents = archive_bytes(Affine())
    assert "aten::save" in runtime.restricted_operators()
    runtime.load(contents, allow_operators=runtime.restricted_operators())
    with pytest.raises(ModelLoadError, match=r'expected aten::from_file.*got "aten::add"'):
        runtime.load(contents, allow_operators=["aten::add"])
    with pytest.raises(TypeError, match="expected several"):
        runtime.load(contents, allow_operators="aten::save")


@pytest.mark.parametrize("flag", [0x1, 0x20, 0x40, 0x2000])
def test_members_that_libtorch_cannot_read_are_damage(flag: int) -> None:
    contents = bytearray(archive_bytes(Affine()))
    entry = contents.index(b"PK\1\2")  # the first in the table of contents
    contents[entry + 8 : entry + 10] = flag.to_bytes(2, "little")
    with pytest.raises(ModelLoadError, match="is marked as encrypted or as a patch"):
        runtime.load(bytes(contents))


def test_limits_of_another_type_are_told_what_they_are(affine_path: Path) -> None:
    limits: Any = {"members": 10}
    for read in (runtime.load, runtime.read_model_info, runtime.verify):
        with pytest.raises(TypeError, match=r"expected an ArchiveLimits, .* got \{'members'"):
            read(affine_path, limits=limits)


@pytest.mark.parametrize(
    ("name", "limit"), [("file_bytes", 10), ("members", 2), ("unpacked_bytes", 10), ("nesting", 1)]
)
def test_limits_refuse_with_their_name(
    name: str, limit: int, tmp_path: Path, ts_infer: RunBinary
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(archive_bytes(Affine()))
    limits = runtime.ArchiveLimits(**{name: limit})
    assert f"{name}={limit}" in repr(limits)
    message = rf"limits\.{name}: expected at most {limit}, got \d+.*raise it"
    for read in (runtime.load, runtime.read_model_info, runtime.verify):
        with pytest.raises(ModelLoadError, match=message):
            read(path, limits=limits)
    for command in ("run", "inspect"):
        done = ts_infer(command, path, "--limit", f"{name}={limit}")
        assert done.returncode == 3
        assert re.search(message, done.stderr)


@pytest.mark.parametrize("text", ["members", "members=", "members=-1", "members=1x", "size=3", ""])
def test_a_limit_that_is_none_is_a_usage_error(
    text: str, tmp_path: Path, ts_infer: RunBinary
) -> None:
    done = ts_infer("inspect", tmp_path, "--limit", text)
    assert done.returncode == 2
    assert "expected file_bytes=N" in done.stderr


@pytest.mark.parametrize(
    "expression",
    [
        "({}x{})".format("(" * 100_000, ")" * 100_000),
        "x" + "+1" * 100_000,
        "-" * 100_000 + "x",
        "x" + "\\\n  +1" * 100_000,
        "x" + ".T" * 100_000,
        "x if True else " * 100_000 + "x",
    ],
    ids=["brackets", "sums", "signs", "lines", "attributes", "choices"],
)
def test_code_that_would_exhaust_the_parsers_stack_is_refused(expression: str) -> None:
    with pytest.raises(ModelLoadError, match=r"limits\.nesting: expected at most 1000"):
        runtime.load(with_code(f"y = {expression}"))


@pytest.mark.parametrize("name", ["ops.{}.x", "torch.{}", 'torch.device("{}")'])
def test_names_of_any_length_are_read(name: str, tmp_path: Path, ts_infer: RunBinary) -> None:
    path = tmp_path / "long.pt"
    path.write_bytes(with_code(f"y = {name.format('a' * 1_000_000)}(x)"))
    info = runtime.read_model_info(path)
    assert "torch.add" in info.operators
    assert ts_infer("inspect", str(path)).returncode == 0


def test_long_lists_are_not_deep() -> None:
    numbers = ", ".join(f"{i} + {i}" for i in range(5000))
    runtime.load(with_code(f"y = [{numbers}]"))


def with_pickle(member: str, pickle: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    return rezipped(
        archive_bytes(Affine()),
        lambda name, data: [(name, pickle if name == member else data)],
        compression,
    )


def with_altered_values(old: bytes, new: bytes) -> bytes:
    def change(name: str, data: bytes) -> list[tuple[str, bytes]]:
        if name != "data.pkl":
            return [(name, data)]
        assert data.count(old) == 1
        return [(name, data.replace(old, new))]

    return rezipped(archive_bytes(Affine()), change)


DEEP = 1_000_000


@pytest.mark.parametrize("member", ["data.pkl", "constants.pkl"])
@pytest.mark.parametrize(
    "pickle",
    [
        b")" + b"\x85" * DEEP,
        b"]" * DEEP + b"a" * (DEEP - 1),
        b"(" * DEEP + b"t" * DEEP,
        b"}K\x01" * DEEP + b"}" + b"s" * DEEP,
        b"]q\x00" + b"]q\x01h\x00h\x01aq\x02h\x01q\x00" * DEEP,
        b"ctorch.jit._pickle\nrestore_type_tag\n]X"
        + (5 * DEEP + 3).to_bytes(4, "little")
        + b"List[" * DEEP
        + b"int"
        + b"\x86R",
    ],
    ids=["tuples", "lists", "marks", "dicts", "lists from the outside in", "types"],
)
def test_values_that_would_exhaust_the_stack_are_refused(member: str, pickle: bytes) -> None:
    with pytest.raises(ModelLoadError, match=rf"limits\.nesting.*got \d+ in {member}"):
        runtime.load(with_pickle(member, b"\x80\x02" + pickle + b"."))


def test_a_small_file_of_many_values_is_refused() -> None:
    pickle = b"\x80\x02" + b"N" * (20 << 20) + b"."
    contents = with_pickle("data.pkl", pickle, zipfile.ZIP_DEFLATED)
    assert len(contents) < 30_000
    message = f"data.pkl unpacks to {len(pickle)} bytes: expected 32 times its"
    for read in (runtime.load, runtime.read_model_info):
        with pytest.raises(ModelLoadError, match=message):
            read(contents)


@pytest.mark.parametrize("opcode", [b"N", b"]", b")", b"}"])
def test_memory_of_the_checks_is_bounded_by_the_pickle(opcode: bytes, tmp_path: Path) -> None:
    size = 8 << 20
    path = tmp_path / "model.pt"
    path.write_bytes(with_pickle("data.pkl", b"\x80\x02" + opcode * size + b"."))
    program = """
import resource, sys
from ts_infer import runtime

def kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = kib()
runtime.read_model_info(sys.argv[1])
print(kib() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) * 1024 < 80 * size


@pytest.mark.parametrize(
    ("pickle", "message"),
    [
        (b"", "ends too early"),
        (b"\x80\x02)", "ends too early"),
        (b"\x80\x02X\xff\xff\xff\xffa.", "ends too early"),
        (b"\x80\x02ctorch\nFloat.", "ends too early"),
        (b"\x80\x02\x87.", "no pickle that torch writes"),
        (b"\x80\x02u.", "no pickle that torch writes"),
        (b"\x80\x02}K\x01s.", "no pickle that torch writes"),
        (b"\x80\x02}(K\x01u.", "no pickle that torch writes"),
        (b"\x80\x02h\x07.", "no pickle that torch writes"),
        (b"\x80\x02K\x00)R.", "no pickle that torch writes"),
        (b"\x80\x02]q\x00h\x00a.", "a value of it holds itself"),
        (b"\x80\x02]r\x00\x00\x00\x08.", "memorises as number 134217728 .* number 0"),
        (b"\x80\x02I1\n.", "opcode 73"),
        (b"\x80\x02ctorch.distributed.rpc\nrref\n)R.", "does not need"),
    ],
)
def test_pickles_that_libtorch_would_stumble_over_are_refused(pickle: bytes, message: str) -> None:
    for member in ("data.pkl", "constants.pkl"):
        with pytest.raises(ModelLoadError, match=f"{member}: it .*{message}|{member}: {message}"):
            runtime.load(with_pickle(member, pickle))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # ("storage", FloatStorage, "0", "cpu", 3)
        (b"K\x03tQ", b"K\x04tQ", "storage 0: expected 3 elements at most.*got 4"),
        (b"K\x03tQ", b"J\xff\xff\xff\xfftQ", "got -1"),
        (b"FloatStorage", b"ComplexFloatStorage", "expected 1 elements at most"),
        (b"0q\x05", b"1q\x05", "storage 1: expected 0 elements at most"),
        # offset, sizes, strides
        (b"q\x07K\x00", b"q\x07K\x01", "outside its storage of 3 elements"),
        (b"q\x07K\x00", b"q\x07J\xff\xff\xff\xff", "outside its storage"),
        (b"(K\x03t(K\x01t", b"(K\x04t(K\x01t", "outside its storage"),
        (b"(K\x03t(K\x01t", b"(K\x03t(K\x02t", "outside its storage"),
        (b"(K\x03t(K\x01t", b"(K\x03t(J\xff\xff\xff\xfft", "outside its storage"),
        (b"(K\x03t(K\x01t", b"(J\xff\xff\xff\xfft(K\x01t", "outside its storage"),
        (b"(K\x03t(K\x01t", b"(K\x03K\x01t(K\x01t", "outside its storage"),
        (
            b"(K\x03t(K\x01t",
            b"(" + 2 * (b"\x8a\x08" + (2**62).to_bytes(8, "little")) + b"t(K\x00K\x00t",
            "outside its storage",
        ),
    ],
)
def test_tensors_stay_within_what_the_file_has(old: bytes, new: bytes, message: str) -> None:
    """Otherwise libtorch lets the model read whatever lies behind the record."""
    with pytest.raises(ModelLoadError, match=f"damaged: data.pkl: .*{message}"):
        runtime.load(with_altered_values(old, new))


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor")
def test_tensors_of_any_kind_are_within_what_the_file_has() -> None:
    class Kinds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            base = torch.arange(12.0).reshape(3, 4)
            self.scalar = torch.tensor(2.0)
            self.empty = torch.empty(0, 3)
            self.transposed = base.t()
            self.part = base[1:, ::2]
            self.expanded = torch.ones(1).expand(5)
            self.halves = base.to(torch.bfloat16)
            self.small = base.to(torch.float8_e5m2)
            self.complex_ = torch.complex(base, base)
            self.quantized = torch.quantize_per_tensor(base, 0.1, 3, torch.qint8)
            self.channels = torch.quantize_per_channel(
                base, torch.ones(3), torch.zeros(3), 0, torch.qint8
            )
            self.lists = [[base, base], [base]]
            self.table = {"a": (1, "b"), "c": (2, "d")}

        def forward(self, x: Tensor) -> Tensor:
            return x + self.part + self.transposed[0, 0] + self.quantized.dequantize()[0, 0]

    contents = archive_bytes(Kinds())
    x = torch.ones(2, 2)
    torch.testing.assert_close(runtime.load(contents)(x), jit_load(io.BytesIO(contents))(x))


def test_names_that_leave_the_folder_or_clash_are_refused() -> None:
    contents = archive_bytes(Affine())
    for name in ("../outside", "a/../../b", "code/__TORCH__/archives.py", "DATA.pkl"):

        def add(inner: str, data: bytes, name: str = name) -> list[tuple[str, bytes]]:
            extra = [(name, b"1")] if inner == "version" else []
            return [(inner, data), *extra]

        with pytest.raises(ModelLoadError, match=r"(a member is|two members are) called"):
            runtime.load(rezipped(contents, add))


def with_member(name: str, data: bytes, *, folder: str = "archive") -> bytes:
    """An archive with one member more, which is the last one."""
    buffer = io.BytesIO(archive_bytes(Affine()))
    with zipfile.ZipFile(buffer, "a") as file:
        file.writestr(f"{folder}/{name}", data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("version", "VERSION"),
        ("data/0", "DATA/0"),
        ("constants.pkl", "Constants.pkl"),
        ("extra/a", "extra/a"),
    ],
)
def test_names_that_libtorch_confuses_are_refused(name: str, again: str) -> None:
    contents = with_member(name, b"2") if name.startswith("extra") else archive_bytes(Affine())
    buffer = io.BytesIO(contents)
    with zipfile.ZipFile(buffer, "a") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of duplicate names
        file.writestr(f"archive/{again}", b"2")
    with pytest.raises(ModelLoadError, match="two members are called"):
        runtime.load(buffer.getvalue())


def test_members_of_a_folder_in_another_case_are_looked_at() -> None:
    """Libtorch finds them there."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(with_code('torch.save(x, "f")'))) as old,
        zipfile.ZipFile(buffer, "w") as new,
    ):
        for number, name in enumerate(old.namelist()):
            folder, _, inner = name.partition("/")
            new.writestr(f"{folder.upper() if number else folder}/{inner}", old.read(name))
    with pytest.raises(ModelLoadError, match="aten::save"):
        runtime.load(buffer.getvalue())


def test_members_outside_the_folder_are_not_taken_for_those_within() -> None:
    """Libtorch would read beyond the record in the folder."""
    outside = with_altered_values(b"K\x03tQ", b"K\x04tQ")
    buffer = io.BytesIO(outside)
    with zipfile.ZipFile(buffer, "a") as file:
        file.writestr("data/0", bytes(16))
    with pytest.raises(ModelLoadError, match="storage 0: expected 3 elements at most"):
        runtime.load(buffer.getvalue())
    x = torch.ones(3)
    contents = with_member("._data.pkl", b"\0\5", folder="__MACOSX")
    torch.testing.assert_close(runtime.load(contents)(x), Affine()(x))


def test_a_tensor_on_meta_has_no_record_only_while_it_stays_there() -> None:
    changed = with_altered_values(b"X\x03\0\0\0cpuq\x06K\x03tQ", b"X\x04\0\0\0metaq\x06K\x7ftQ")
    assert runtime.read_model_info(changed).damaged == []
    for location in (b"cuda:0", b"meta:0", b"META"):
        text = b"X" + len(location).to_bytes(4, "little") + location
        elsewhere = with_altered_values(b"X\x03\0\0\0cpuq\x06K\x03tQ", text + b"q\x06K\x7ftQ")
        with pytest.raises(ModelLoadError, match="storage 0: expected 3 elements at most"):
            runtime.load(elsewhere)


class Child(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.save = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.save


class Own(nn.Module):
    """Has an attribute, a part and a method that are called like restricted operators."""

    def __init__(self) -> None:
        super().__init__()
        self.save = nn.Parameter(torch.ones(2))
        self.inductor = Child()
        self.plain = Child()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.save

    @torch.jit.export
    def from_file(self, x: Tensor) -> Tensor:
        return x


def with_own(statement: str, *, declaration: str = "", file: str = "") -> bytes:
    """An archive of Own whose forward first runs this, with more in its class, or after it."""

    def change(name: str, data: bytes) -> list[tuple[str, bytes]]:
        source = data.decode(errors="replace")
        if not name.endswith(".py") or "class Own(" not in source:
            return [(name, data)]
        found = re.search(r"def forward\(self.*?-> Tensor:\n", source, re.DOTALL)
        assert found is not None
        source = f"{source[: found.end()]}    {statement}\n{source[found.end() :]}{file}"
        source = source.replace("  training : bool\n", f"  training : bool\n{declaration}", 1)
        return [(name, source.encode())]

    return rezipped(archive_bytes(Own()), change)


@pytest.mark.parametrize(
    "statement",
    [
        "y = self.save + 1",
        "y = (self).save",
        'y = getattr(self, "save")',
        "y = self.inductor.save",
        "y = (self.inductor).forward(x, )",
        "y = self.plain.save.size()",
        "child = self.inductor\n    y = child.save\n    z = (child).forward(x, )",
        'child = getattr(self, "plain")\n    y = torch.add(child.save, x)',
        "y = self.from_file(x)",
        'y = "a\\n"\n    z = getattr(self, "plain")',
        "self.save = torch.zeros([2])",
        "y = __torch__.test_gate.Own.__new__(__torch__.test_gate.Own)\n    z = y.save",
    ],
)
def test_names_of_the_archives_own_are_no_operators(statement: str) -> None:
    contents = with_own(statement)
    assert runtime.read_model_info(contents).restricted_operators == []
    model = runtime.load(contents)
    with torch.inference_mode():
        expected = jit_load(io.BytesIO(contents))(torch.ones(2))
    torch.testing.assert_close(model(torch.ones(2)), expected)


def test_names_of_the_archives_own_packages_are_no_operators() -> None:
    file = "def f(x: Tensor) -> Tensor:\n  return torch.neg(x)\n"

    def change(name: str, data: bytes) -> list[tuple[str, bytes]]:
        extra = [("code/__torch__/save/inductor.py", file.encode())] if name == "version" else []
        return [(name, data), *extra]

    contents = rezipped(with_own("x = __torch__.save.inductor.f(x, )"), change)
    assert runtime.read_model_info(contents).restricted_operators == []
    torch.testing.assert_close(runtime.load(contents)(torch.ones(2)), torch.zeros(2))


@pytest.mark.parametrize(
    "options",
    [
        {"statement": "self.save.save('f')"},
        {"statement": "(self.save).save('f')"},
        {"statement": "y = self.save\n    y.save('f')"},
        {"statement": "self.plain.training.save('f')"},
        {"statement": "self = x\n    self.save('f')"},
        {"statement": "self = torch\n    self.save(x, 'f')"},
        {"statement": "self, y = x, x\n    self.save('f')"},
        {"statement": "for self in [x]:\n      self.save('f')"},
        {"statement": "y = [self.save('f') for self in [x]]"},
        {"statement": "with x as self:\n      self.save('f')"},
        {"statement": "y = self\n    y = x\n    y.save('f')"},
        {"statement": "y = self.plain if bool(x.sum()) else x\n    y.save('f')"},
        {"statement": "torch.save(x, 'f')\n    torch = self.plain"},
        {"statement": "inf.save('f')\n    inf = self.plain"},
        {"statement": "__torch__ = torch\n    __torch__.save(x, 'f')"},
        {"statement": "torch.neg(self.inductor.save).save('f')"},
        {"statement": "ops.aten.save(x, 'f')"},
        {"statement": "ops.inductor.accumulate_grad_(x, x)"},
        {"statement": "y = getattr(self.save, 'save')('f')"},
        {"statement": "y = getattr(self, 'plain', torch.save(x, 'f'))"},
        {"statement": "y = getattr(self, 'plain', z=torch.save(x, 'f'))"},
        {"statement": "g = getattr\n    g(x, 'save')('f')"},
        {"statement": "getattr(torch, 'sa' 've')(x, 'f')"},
        {"statement": "def g(s: Tensor) -> int:\n      s.save('f')\n      return 1\n    y = g(x)"},
        {"statement": "def g(self: Tensor) -> int:\n      self.save('f')\n      return 1"},
        {
            "statement": "__torch__.test_gate.Kind.ONE.save('f')",
            "file": "class Kind(Enum):\n  ONE : int = 1\n",
        },
        {
            "statement": "self.kind.save('f')",
            "declaration": "  kind : __torch__.test_gate.Kind\n",
            "file": "class Kind(Enum):\n  save : int = 1\n",
        },
        {
            "statement": "self.other.save('f')",
            "declaration": "  other : __torch__.test_gate.Other\n",
            "file": "class Other(Module):\n  save : Final[int] = 1\n",
        },
        {
            "statement": "self.other.save('f')",
            "declaration": "  other : __torch__.test_gate.Other\n",
            "file": "class Other(Module):\n  __forward_hooks__ = ['save']\n"
            "  def save(self, x: Tensor, y: Tensor) -> Tensor:\n    return x\n",
        },
        {
            "statement": "self.other.save('f')",
            "declaration": "  other : __torch__.test_gate.Other\n",
            "file": 2 * "class Other(Module):\n  save : Tensor\n",
        },
        {
            "statement": "self.other.save('f')",
            "declaration": "  other : __torch__.torch.classes.test_gate.Other\n",
        },
        {"statement": "y = self.save", "file": "def f(x: Tensor):\n  return (\n"},
    ],
    ids=lambda options: options["statement"],
)
def test_what_is_not_certainly_a_name_of_the_archives_own_is_refused(
    options: dict[str, str],
) -> None:
    with pytest.raises(ModelLoadError, match=r"a use of .*(aten::save|inductor::)"):
        runtime.load(with_own(**options))


def test_archives_of_old_are_refused() -> None:
    def add(inner: str, data: bytes) -> list[tuple[str, bytes]]:
        return [(inner, data), *([("model.json", b"{}")] if inner == "version" else [])]

    with pytest.raises(ModelLoadError, match=r"torch before 1\.3"):
        runtime.load(rezipped(archive_bytes(Affine()), add))


def test_stock_torch_would_have_written_the_file(tmp_path: Path) -> None:
    """The reason for all of this."""
    target = tmp_path / "written"
    contents = archive_bytes(SavesWhenItIsLoaded(str(target)))
    target.unlink(missing_ok=True)
    jit_load(io.BytesIO(contents))
    assert target.exists()

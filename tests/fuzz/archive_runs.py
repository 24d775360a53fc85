"""What the fuzzers of archives share: an archive's members, a folder to watch, the command."""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

import torch

from ts_infer import runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    from processes import Seeds

ADDRESS_SPACE = 12 << 30  # a model may ask for more memory than there is


def read_members(file: IO[bytes]) -> dict[str, bytes]:
    """The members of an archive, by name without folder."""
    with zipfile.ZipFile(file) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def load(data: bytes) -> runtime.Model:
    """Loads an archive, on one thread and without a word."""
    return runtime.load(data, warmup="off", intra_op_threads=1, on_log=lambda level, message: None)


class Folder:
    """Where a child works: an empty folder, in which no file may appear."""

    def __init__(self, within: str) -> None:
        self.within = within
        self.path = Path()

    def enter(self) -> None:
        """Begins the process, on one thread and with bounds."""
        torch.set_num_threads(1)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self.path = Path(tempfile.mkdtemp(dir=self.within))
        os.chdir(self.path)

    def take_files(self) -> list[str]:
        """The names of the files in it, which are no more."""
        files = list(self.path.iterdir())
        for file in files:
            file.unlink()
        return [file.name for file in files]


class Result(Protocol):
    """Of a run."""

    failures: list[str]


def command(
    description: str | None,
    seeds: Seeds,
    archive_of: Callable[[int], bytes],
    run: Callable[[Seeds, Callable[[str], None]], Result],
    arguments: list[str] | None,
) -> int:
    """The command of a fuzzer, with the defaults of ``seeds``; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=seeds.first, help="of the first archive (0)")
    parser.add_argument("--count", type=int, default=seeds.count, help="archives (%(default)s)")
    parser.add_argument("--jobs", type=int, default=seeds.jobs, help="processes (1)")
    parser.add_argument("--keep", metavar="FILE", help="write the archive of --seed; run nothing")
    given = parser.parse_args(arguments)
    if given.keep:
        Path(given.keep).write_bytes(archive_of(given.seed))
        return 0
    seeds.first, seeds.count, seeds.jobs = given.seed, given.count, given.jobs
    result = run(seeds, lambda text: print(text, flush=True))
    return 1 if result.failures else 0

"""Finds the torch to build against: a script for CMake, and hooks for the wheel's metadata.

Nothing here imports torch, so that it works in a build environment that does not have it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import site
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OLDEST = (2, 13)
DEVELOPED_ON = "2.13.0"  # what a build takes where there is no torch


class TorchError(RuntimeError):
    """No torch, or one that cannot be built against."""


def _site_packages() -> Iterator[tuple[str, Path]]:
    """Where packages of the environment that the build is for may lie, nearest first."""
    # Under pip's build isolation sys.path hides the target environment; sysconfig does not.
    platlib = Path(sysconfig.get_path("platlib"))
    yield "this Python's site-packages", platlib
    if sys.prefix == sys.base_prefix or _sees_system_site_packages():
        yield "the user's site-packages", Path(site.getusersitepackages())
        base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
        yield "the base Python's site-packages", Path(sysconfig.get_path("platlib", vars=base))
    below = platlib.relative_to(sysconfig.get_path("data")) if _is_below_prefix(platlib) else None
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if (prefix := os.environ.get(variable)) and below is not None:
            yield variable, Path(prefix) / below


def _is_below_prefix(path: Path) -> bool:
    return path.is_relative_to(sysconfig.get_path("data"))


def _sees_system_site_packages() -> bool:
    config = Path(sys.prefix) / "pyvenv.cfg"
    if not config.is_file():
        return False
    return bool(re.search(r"(?mi)^include-system-site-packages\s*=\s*true", config.read_text()))


def _candidates(explicit: str | None) -> Iterator[tuple[str, Path]]:
    if explicit := explicit or os.environ.get("TS_INFER_TORCH_DIR"):
        yield "TS_INFER_TORCH_DIR", Path(explicit)
        return
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin is not None:
        yield "this Python", Path(spec.origin).parent
    for name, folder in _site_packages():
        yield name, folder / "torch"


def _read_version(folder: Path) -> str | None:
    """The version of the torch in a folder: a Python package's, or an unpacked libtorch's."""
    if not (folder / "lib" / "libtorch.so").is_file():
        return None
    if (module := folder / "version.py").is_file():
        found = re.search(r"^__version__\s*=\s*['\"](.+?)['\"]", module.read_text(), re.MULTILINE)
        return found[1] if found else None
    if (text := folder / "build-version").is_file():
        return text.read_text().strip()
    return None


def minor(version: str) -> str:
    """``"2.13"`` of ``"2.13.0+cpu"``."""
    return ".".join(version.split(".")[:2])


def find(explicit: str | None = None) -> tuple[Path, str] | None:
    """The folder and the version of torch; None where there is none.

    Raises:
        TorchError: it is too old, or the folder that was given holds none.
    """
    for source, folder in _candidates(explicit):
        version = _read_version(folder)
        if version is None:
            if source == "TS_INFER_TORCH_DIR":
                raise TorchError(
                    f"TS_INFER_TORCH_DIR: {folder} holds no torch: expected a folder with "
                    "lib/libtorch.so and version.py (or build-version), such as "
                    "…/site-packages/torch"
                )
            continue
        if tuple(int(part) for part in minor(version).split(".")) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise TorchError(
                f"torch {version} in {folder} is too old: ts_infer needs {oldest} or newer; "
                f"run: pip install 'torch=={DEVELOPED_ON}'"
            )
        return folder.resolve(), version
    return None


def get_requires_for_dynamic_metadata(settings: Mapping[str, Any]) -> list[str]:
    """Asks for a torch in the build environment only where the target environment has none."""
    return [] if find() else [f"torch=={DEVELOPED_ON}"]


def dynamic_metadata(settings: Mapping[str, Any], project: Mapping[str, Any]) -> dict[str, Any]:
    """The wheel requires the minor that it is built with: libtorch keeps no ABI between minors."""
    found = find()
    version = found[1] if found else DEVELOPED_ON
    return {"dependencies": [f"torch=={minor(version)}.*"]}


def dynamic_wheel(settings: Mapping[str, Any]) -> dict[str, bool]:
    """An sdist does not know yet which torch it will be built with."""
    return {"dependencies": True}


def main() -> int:
    parser = argparse.ArgumentParser(description="Prints, as JSON, where torch is.")
    parser.add_argument("--dir", help="the folder to take, such as …/site-packages/torch")
    try:
        found = find(parser.parse_args().dir or None)
        if found is None:
            raise TorchError(
                f"no torch found for {sys.executable}: run `pip install torch=={DEVELOPED_ON}` "
                "there, or set TS_INFER_TORCH_DIR to a torch folder, such as "
                "…/site-packages/torch"
            )
    except TorchError as error:
        print(error, file=sys.stderr)
        return 1
    folder, version = found
    print(json.dumps({"dir": str(folder), "version": version, "minor": minor(version)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

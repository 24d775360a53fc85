"""Does the torch beside this build fit it? Answered without importing torch."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

try:
    from ts_infer._build import TORCH_VERSION, VERSION
except ModuleNotFoundError:  # a source tree that was not built: export works, runtime says so
    TORCH_VERSION, VERSION = "", "0+unbuilt"

__all__ = ["TORCH_VERSION", "__version__", "check_torch", "torch_dir", "torch_version"]

__version__ = VERSION


def torch_dir() -> Path | None:
    """The folder of the torch that ``import torch`` would take."""
    spec = importlib.util.find_spec("torch")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def torch_version() -> str | None:
    """Version of the torch that is imported, else of the one that would be; None if unknown."""
    loaded = getattr(sys.modules.get("torch"), "__version__", None)
    if loaded is not None:
        return str(loaded)
    folder = torch_dir()
    try:
        text = (folder / "version.py").read_text(encoding="utf-8") if folder else ""
    except OSError:
        return None
    found = re.search(r"^__version__\s*=\s*['\"](.+?)['\"]", text, re.MULTILINE)
    return found[1] if found else None


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def check_torch() -> None:
    """Compares the torch minor of this build with the one beside it.

    Raises:
        ImportError: they differ. libtorch keeps no ABI between minors.
    """
    actual = torch_version()
    if not TORCH_VERSION or (actual and _minor(actual) == _minor(TORCH_VERSION)):
        return
    built = _minor(TORCH_VERSION)
    if actual is None:
        raise ImportError(
            f"ts_infer {__version__} was built with torch {TORCH_VERSION}, but no torch is "
            f"installed; run: pip install 'torch=={built}.*'"
        )
    raise ImportError(
        f"ts_infer {__version__} was built with torch {TORCH_VERSION}, but torch {actual} is "
        f"installed, and libtorch keeps no ABI between minors; run: pip install 'torch=={built}.*' "
        f"or, to build it for torch {_minor(actual)}, in the source folder of ts_infer: "
        "pip install --force-reinstall --no-deps ."
    )

"""Which shared libraries a model needs: those that register its custom operators and classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

_CLASS_PREFIX = "__torch__.torch.classes."


def needed_libraries(
    operators: Iterable[str], classes: Iterable[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Find the loaded libraries that register operators and classes.

    Torch does not note which library registered what, so the libraries that
    `torch.ops.load_library` loaded are searched for the names.

    Args:
        operators: Custom operators, such as `"mine::triple"`.
        classes: Custom classes, such as `"__torch__.torch.classes.mine.Stack"`.

    Returns:
        For each library its file name and what it registers; and the names that no loaded
        library registers.
    """
    found: dict[str, dict[str, Any]] = {}
    unknown: list[str] = []
    contents = {path: Path(path).read_bytes() for path in sorted(torch.ops.loaded_libraries)}
    wanted = [(name, "operators", name.split("::")) for name in operators]
    wanted += [(name, "classes", name.removeprefix(_CLASS_PREFIX).split(".")) for name in classes]
    for name, kind, parts in wanted:
        holders = (
            path for path, data in contents.items() if all(part.encode() in data for part in parts)
        )
        file = next(holders, None)
        if file is None:
            unknown.append(name)
            continue
        entry = found.setdefault(file, {"file": Path(file).name, "operators": [], "classes": []})
        entry[kind].append(name)
    return list(found.values()), unknown

"""Imports the compiled extension, once torch is known to fit it.

torch comes first: its libraries are then loaded, wherever they lie.
"""

from __future__ import annotations

import torch

from ts_infer._compat import TORCH_VERSION, check_torch

__all__ = ["_C"]

check_torch()
try:
    from ts_infer import _C
except ImportError as error:
    if not TORCH_VERSION:
        raise ImportError(
            "ts_infer is not built here; in its source folder run: pip install -e ."
        ) from error
    raise ImportError(
        f"ts_infer's compiled part does not load beside torch {torch.__version__} (it was built "
        f"with {TORCH_VERSION}): {error}; in the source folder of ts_infer run: "
        "pip install --force-reinstall --no-deps ."
    ) from error

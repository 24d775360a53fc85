"""Which parts of a module compute something else in training mode than in eval mode."""

from __future__ import annotations

import re
import types
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm

from ts_infer._export.observe import methods

if TYPE_CHECKING:
    from collections.abc import Iterator

_READS_IT = re.compile(r"\.training\b")  # in TorchScript
# torch.nn.functional's, which take `training` or are told by a default.
_DROPOUTS = re.compile(r"(alpha_|feature_alpha_|native_)?dropout[123]?d?_?|rrelu_?")
# They ask whether they may take a faster way to the same result.
_BY_THEIR_PARTS = (nn.TransformerEncoder, nn.TransformerEncoderLayer)
_OF_EVERY_MODULE = {function.__code__ for _, function in methods(nn.Module)}


def depend_on_training(module: nn.Module) -> list[str]:
    """Return the paths of the parts in training mode that answer otherwise there.

    Of torch's own layers it is known when they do; of all other modules the code is read, and
    torch.jit's: what asks for `training`, or calls a dropout, depends on it.

    Args:
        module: Any module.

    Returns:
        Their paths; "the module itself" for the root.
    """
    return [
        path or "the module itself"
        for path, child in module.named_modules()
        if getattr(child, "training", False) and _depends(child)
    ]


def _depends(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return any(_READS_IT.search(code) for code in _scripts(module))
    if any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values()):
        return True
    if type(module) in _BY_THEIR_PARTS:
        return False
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return bool(module.track_running_stats)
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return bool(module.p > 0)
    if type(module) is nn.MultiheadAttention:
        return bool(module.dropout > 0)
    if isinstance(module, nn.RNNBase):
        return module.num_layers > 1 and module.dropout > 0
    return any(
        _asks(function.__code__)
        for _, function in methods(type(module))
        if function.__code__ not in _OF_EVERY_MODULE
    )


def _scripts(module: torch.jit.ScriptModule) -> Iterator[str]:
    for name in module._c._method_names():
        yield module._c._get_method(name).code


def _asks(code: types.CodeType) -> bool:
    """Whether a function, or one within it, names what depends on the mode."""
    return (
        "training" in code.co_names
        or any(_DROPOUTS.fullmatch(name) for name in code.co_names)
        or any(_asks(inner) for inner in code.co_consts if isinstance(inner, types.CodeType))
    )

"""What `export`, `audit` and `compile` may be told, checked in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from ts_infer._export.report import ALLOWABLE, FATAL, LEVELS
from ts_infer._export.training import depend_on_training

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_module(module: Any) -> None:
    """Raise ValueError unless this is a module."""
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"module: expected a torch.nn.Module, got {type(module).__name__}; wrap functions in "
            "a module"
        )


def check_eval(module: nn.Module) -> None:
    """Raise ValueError where what a module computes is that of training mode."""
    depend = depend_on_training(module)
    if depend:
        raise ValueError(
            f"module: expected eval mode, got training mode in {', '.join(depend[:3])}; call "
            "module.eval() first"
        )


def check_audit(level: Any, levels: Sequence[str] = LEVELS) -> None:
    """Raise ValueError unless this is one of the levels of an audit."""
    if level not in levels:
        hint = "; an audit that is off finds nothing" if level == "off" else ""
        raise ValueError(f"audit: expected one of {', '.join(levels)}, got {level!r}{hint}")


def check_allow(allow: Any) -> tuple[str, ...]:
    """Return the codes of findings to accept; raise ValueError where one is none."""
    codes = _several("allow", allow, "tracer-warning")
    for code in codes:
        if code not in ALLOWABLE:
            hint = " (it leaves nothing to export)" if code in FATAL else ""
            raise ValueError(
                f"allow: expected codes among {', '.join(ALLOWABLE)}, got {code}{hint}"
            )
    return codes


def check_methods(module: nn.Module, names: Any) -> tuple[str, ...]:
    """Return the methods to keep but forward; raise ValueError where the module has one not."""
    methods = _several("preserved_methods", names, "reset_states")
    for name in methods:
        if callable(getattr(module, name, None)):
            continue
        known = sorted(
            key
            for cls in type(module).__mro__[: type(module).__mro__.index(nn.Module)]
            for key, value in vars(cls).items()
            if callable(value) and not key.startswith("_") and key != "forward"
        )
        raise ValueError(
            f"preserved_methods: expected methods of {type(module).__name__} "
            f"({', '.join(dict.fromkeys(known)) or 'it has none but forward'}), got {name!r}; "
            "name methods that exist"
        )
    return tuple(name for name in dict.fromkeys(methods) if name != "forward")


def _several(option: str, values: Any, such_as: str) -> tuple[str, ...]:
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise ValueError(f'{option}: expected a list such as ["{such_as}"], got {values!r}')
    found = tuple(values)
    for value in found:
        if not isinstance(value, str):
            raise ValueError(
                f'{option}: expected a list of strings such as ["{such_as}"], got {value!r} in it'
            )
    return found

"""What lets packages import beside a CPU wheel of torch, whose own binaries were built for CUDA."""

from __future__ import annotations

import sys
import types
from typing import Any

import torch

_libraries: list[Any] = []  # a library's definitions last as long as it does


def install() -> None:
    """Let torchvision and torchaudio import; nothing beside a CUDA build of torch."""
    if torch.version.cuda is None:
        _torchvision()
        _torchaudio()


def _torchvision() -> None:
    """Define torchvision's operators that its import asks for, with nms in Python.

    torchvision 0.28's wheel loads its binary beside a CUDA build of torch only.
    """
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", _nms, "CPU")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)


def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Greedy suppression: the best box takes all away that overlap it more than the threshold."""
    order = scores.argsort(descending=True, stable=True)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while order.numel():
        best, rest = order[0], order[1:]
        kept.append(best)
        low = torch.maximum(boxes[rest, :2], boxes[best, :2])
        high = torch.minimum(boxes[rest, 2:], boxes[best, 2:])
        overlap = (high - low).clamp(min=0).prod(1)
        order = rest[overlap / (area[rest] + area[best] - overlap) <= iou_threshold]
    return torch.stack(kept) if kept else order


def _torchaudio() -> None:
    """Import torchaudio without its binary, which its transforms and models do not need."""
    extension: Any = types.ModuleType("torchaudio._extension")
    extension._IS_TORCHAUDIO_EXT_AVAILABLE = False
    extension._IS_ALIGN_AVAILABLE = False
    extension.fail_if_no_align = lambda function: function
    sys.modules["torchaudio._extension"] = extension

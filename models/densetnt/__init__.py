"""DenseTNT: predicts where a vehicle will be in the next 3 s, from its past and the map.

The model takes padded tensors with masks, so that scenes of every size go through one export; what
depends on the values is scripted, so that a trace keeps it (the hybrid export).

Example:
    >>> from ts_infer.models import densetnt
    >>> scene = densetnt.default_scene()
    >>> outputs = densetnt.Prediction(*densetnt.make()(**densetnt.scene_to_inputs(scene)))
    >>> outputs.trajectories.shape
    torch.Size([6, 30, 2])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ts_infer.models.densetnt.commonroad import read_scene as read_commonroad
from ts_infer.models.densetnt.config import DenseTNTConfig
from ts_infer.models.densetnt.generate import default_scene, generate_scene
from ts_infer.models.densetnt.model import INPUT_NAMES, OUTPUT_NAMES, DenseTNT, Prediction
from ts_infer.models.densetnt.picture import draw
from ts_infer.models.densetnt.scene import (
    Agent,
    Frame,
    Lane,
    Scene,
    agent_frame,
    load_scene,
    save_scene,
    scene_to_inputs,
    target_frame,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "INPUT_NAMES",
    "OUTPUT_NAMES",
    "Agent",
    "DenseTNT",
    "DenseTNTConfig",
    "Frame",
    "Lane",
    "Prediction",
    "Scene",
    "agent_frame",
    "default_scene",
    "draw",
    "export_spec",
    "generate_scene",
    "load_scene",
    "make",
    "read_commonroad",
    "save_scene",
    "scene_to_inputs",
    "target_frame",
]


def make(
    seed: int = 0,
    checkpoint: str | Path | None = None,
    config: DenseTNTConfig | None = None,
) -> DenseTNT:
    """Returns the model in eval mode, with no gradients.

    Args:
        seed: Of the random weights; the same seed gives the same weights. The global random state
            is left as it was.
        checkpoint: A file with the module's ``state_dict``, which replaces the random weights.
        config: Sizes and thresholds; the paper's, if None.

    Raises:
        RuntimeError: The checkpoint's names or shapes are not the module's.

    Example:
        >>> from ts_infer.models import densetnt
        >>> densetnt.make(config=densetnt.DenseTNTConfig(goal_head="nms")).training
        False
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DenseTNT(config)
    if checkpoint is not None:
        model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    return model.eval().requires_grad_(False)


def export_spec() -> dict[str, Any]:
    """Returns the keyword arguments with which ``ts_infer.export`` exports the model.

    The scene's size is dynamic: 2 to 256 polylines of 2 to 64 vectors.
    """
    inputs = scene_to_inputs(default_scene())
    polylines = torch.export.Dim("polylines", min=2, max=256)
    vectors = torch.export.Dim("vectors", min=2, max=64)
    return {
        "module": make(),
        "example_inputs": tuple(inputs[name] for name in INPUT_NAMES),
        "method": "hybrid",
        "dynamic_shapes": {
            "vector_data": {0: polylines, 1: vectors},
            "vector_mask": {0: polylines, 1: vectors},
            "traj_polyline_mask": {0: polylines},
            "map_polyline_mask": {0: polylines},
        },
        "name": "dense_tnt",
        "output_names": list(OUTPUT_NAMES),
    }

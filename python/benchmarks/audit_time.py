"""How long the audit of an export takes, in passes of the module and in seconds.

python python/benchmarks/audit_time.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim

import ts_infer

FORWARD_MS = 10.0


class Blocks(nn.Module):
    """Linear layers, so many that one pass takes about FORWARD_MS on one thread."""

    def __init__(self, count: int) -> None:
        """Makes `count` blocks."""
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(256, 256), nn.GELU(), nn.LayerNorm(256))
                for _ in range(count)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns float [batch, 256] for float [batch, 256]."""
        result: torch.Tensor = self.blocks(x)
        return result


class GatedBlocks(Blocks):
    """The same with a branch that a trace loses, so that parts have to be scripted."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns float [batch, 256] for float [batch, 256]."""
        x = super().forward(x)
        return x if bool(x.sum() > 0) else -x


def _forward_ms(module: nn.Module, x: torch.Tensor) -> float:
    times = []
    with torch.inference_mode():
        for _ in range(20):
            start = time.perf_counter()
            module(x)
            times.append(1000 * (time.perf_counter() - start))
    return sorted(times)[len(times) // 2]


def main() -> None:
    """Measures and prints."""
    torch.set_num_threads(1)  # as the probes run
    x = torch.randn(64, 256)
    count = max(1, round(FORWARD_MS / _forward_ms(Blocks(32).eval(), x) * 32))
    shapes = {"x": {0: Dim("batch", min=1, max=128)}}
    with tempfile.TemporaryDirectory() as folder:
        for kind in (Blocks, GatedBlocks):
            module = kind(count).eval()
            forward_ms = _forward_ms(module, x)
            for level in ("full", "fast"):
                start = time.perf_counter()
                report = ts_infer.export(
                    module, (x,), Path(folder) / "model.pt", audit=level, dynamic_shapes=shapes
                )
                seconds = time.perf_counter() - start
                runs = sum(probe.runs for probe in report.probes)
                print(
                    f"{kind.__name__}, forward {forward_ms:.1f} ms, audit {level}, exported by "
                    f"{report.method}: {seconds:.1f} s, {len(report.runs)} comparisons, "
                    f"{runs} probe runs"
                )


if __name__ == "__main__":
    main()

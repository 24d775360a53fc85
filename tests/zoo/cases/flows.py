"""Densities, tables, series of time."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.export import Dim

from cases.case import Case, Model, along, integers, normal

BATCH = Dim("batch", min=1, max=8)


def rows(module: nn.Module, *sizes: int) -> Model:
    """A module that takes batches of rows."""
    return along(module, (2, *sizes), BATCH, (1, 8))


class LogProb(nn.Module):
    """The density of a flow, as its users ask for it."""

    def __init__(self, flow: Any) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: torch.Tensor) -> Any:
        return self.flow.log_prob(x)


class ZukoLogProb(LogProb):
    def forward(self, x: torch.Tensor) -> Any:
        return self.flow().log_prob(x)


def _nflows(kind: str) -> Case:
    def make() -> Model:
        from nflows.distributions.normal import StandardNormal
        from nflows.flows.base import Flow
        from nflows.transforms import (
            CompositeTransform,
            MaskedAffineAutoregressiveTransform,
            MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
            ReversePermutation,
        )

        if kind == "MAF":
            layers = [ReversePermutation(4), MaskedAffineAutoregressiveTransform(4, 16)]
        else:
            layers = [
                ReversePermutation(4),
                MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
                    4, 16, tails="linear", tail_bound=3.0
                ),
            ]
        return rows(LogProb(Flow(CompositeTransform(layers), StandardNormal([4]))), 4)

    return Case(f"nflows/{kind}", make)


def _zuko(kind: str) -> Case:
    def make() -> Model:
        import zuko

        return rows(
            ZukoLogProb(getattr(zuko.flows, kind)(4, transforms=2, hidden_features=(16,))), 4
        )

    return Case(f"zuko/{kind}", make)


def _normflows() -> Model:
    import normflows as nf

    layers = [
        nf.flows.AffineCouplingBlock(nf.nets.MLP([2, 16, 4])),
        nf.flows.Permute(4, mode="swap"),
    ]
    return rows(LogProb(nf.NormalizingFlow(nf.distributions.DiagGaussian(4), layers)), 4)


def _tsai(name: str) -> Case:
    def make() -> Model:
        from tsai.models import all as models

        return rows(getattr(models, name)(c_in=3, c_out=2, seq_len=40), 3, 40)

    return Case(f"tsai/{name}", make)


def _ft_transformer() -> Model:
    from rtdl_revisiting_models import FTTransformer

    module = FTTransformer(
        n_cont_features=3,
        cat_cardinalities=[4, 5],
        d_out=2,
        n_blocks=2,
        d_block=16,
        attention_n_heads=4,
        attention_dropout=0.1,
        ffn_d_hidden=None,
        ffn_d_hidden_multiplier=2,
        ffn_dropout=0.1,
        residual_dropout=0.0,
    )

    def given(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        return normal(n, 3, seed=n), integers(4, n, 2, seed=n)

    return Model(module.eval(), given(2), ({0: BATCH}, {0: BATCH}), [given(1), given(8)])


def _tabnet() -> Model:
    from pytorch_tabnet.tab_network import TabNet

    return rows(TabNet(6, 2, group_attention_matrix=torch.eye(6)), 6)


def _gpytorch() -> Model:
    import gpytorch

    class Exact(gpytorch.models.ExactGP):
        def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
            super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood())
            self.mean = gpytorch.means.ConstantMean()
            self.kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, x: torch.Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean(x), self.kernel(x))

    class Mean(nn.Module):
        """As gpytorch's page on TorchScript shows."""

        def __init__(self, gp: Any) -> None:
            super().__init__()
            self.gp = gp

        def forward(self, x: torch.Tensor) -> Any:
            found = self.gp(x)
            return found.mean, found.variance

    x = torch.linspace(0, 1, 10)
    gp = Exact(x, (6 * x).sin()).eval()
    module = Mean(gp)
    with torch.no_grad(), gpytorch.settings.fast_pred_var():
        gp(torch.linspace(0, 1, 5))
    return Model(
        module.eval(),
        (torch.linspace(0, 1, 5),),
        ({0: Dim("points", min=1, max=20)},),
        [(torch.linspace(0, 1, 20),)],
    )


CASES = [
    _nflows("MAF"),
    _nflows("NSF"),
    *(_zuko(kind) for kind in ("MAF", "NSF", "NICE")),
    Case("normflows/RealNVP", _normflows),
    *(
        _tsai(name)
        for name in (
            "InceptionTime",
            "PatchTST",
            "TST",
            "MiniRocketPlus",
            "LSTM_FCN",
            "XceptionTime",
            "TCN",
        )
    ),
    Case("rtdl_revisiting_models/FTTransformer", _ft_transformer),
    Case("pytorch_tabnet/TabNet", _tabnet),
    Case("gpytorch/ExactGP", _gpytorch),
]

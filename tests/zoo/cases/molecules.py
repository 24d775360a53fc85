"""Potentials of molecules: energies, and forces by a gradient inside forward."""

from __future__ import annotations

import torch
from torch import nn
from torch.export import Dim

from cases.case import Case, Model, normal

ATOMS = Dim("atoms", min=3, max=20)


def _torchani(forces: bool) -> Case:
    def make() -> Model:
        import torchani

        assembler = torchani.arch.Assembler()
        assembler.set_symbols(("H", "C", "N", "O"))
        assembler.set_global_cutoff_fn("cosine")
        assembler.set_aev_computer(radial="ani2x", angular="ani2x")
        assembler.set_atomic_networks(ctor="ani2x")
        assembler.set_neighborlist("all_pairs")
        assembler.set_zeros_as_self_energies()
        module = assembler.assemble(1).eval()

        def given(n: int) -> tuple[torch.Tensor, torch.Tensor]:
            species = torch.tensor([[8, 1, 1, 6, 7][i % 5] for i in range(n)]).unsqueeze(0)
            return species, 2 * normal(1, n, 3, seed=n)

        class Energy(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = module

            def forward(self, species: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
                energies: torch.Tensor = self.model((species, coordinates)).energies
                return energies

        class Forces(Energy):
            def forward(self, species: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
                coordinates = coordinates.detach().requires_grad_(True)
                energies = self.model((species, coordinates)).energies
                gradient = torch.autograd.grad([energies.sum()], [coordinates])[0]
                assert gradient is not None
                return -gradient

        made = Forces() if forces else Energy()
        return Model(
            made.eval(), given(5), ({1: ATOMS}, {1: ATOMS}), [given(3), given(20)], grad=forces
        )

    return Case("torchani/ANI2x forces" if forces else "torchani/ANI2x", make)


def _schnet() -> Model:
    import typing

    from torch.utils.data import dataloader

    # schnetpack imports it from there.
    vars(dataloader).setdefault("T_co", typing.TypeVar("T_co", covariant=True))
    import schnetpack as spk

    distances = spk.atomistic.PairwiseDistances()
    schnet = spk.representation.SchNet(16, 2, spk.nn.GaussianRBF(8, 5.0), spk.nn.CosineCutoff(5.0))
    energy = spk.atomistic.Atomwise(16, output_key="energy")
    module = spk.model.NeuralNetworkPotential(schnet, [distances], [energy, spk.atomistic.Forces()])
    n = 4
    i, j = zip(*[(a, b) for a in range(n) for b in range(n) if a != b], strict=False)
    given = {
        "_n_atoms": torch.tensor([n]),
        "_atomic_numbers": torch.tensor([8, 1, 1, 6]),
        "_positions": normal(n, 3),
        "_cell": torch.zeros(1, 3, 3),
        "_pbc": torch.zeros(3, dtype=torch.bool),
        "_idx_i": torch.tensor(i),
        "_idx_j": torch.tensor(j),
        "_offsets": torch.zeros(len(i), 3),
        "_idx_m": torch.zeros(n, dtype=torch.int64),
    }
    return Model(module.eval(), (given,), grad=True)


def _mace() -> Model:
    import numpy
    from e3nn import o3
    from mace import data, modules
    from mace.tools import AtomicNumberTable, torch_geometric

    table = AtomicNumberTable([1, 8])
    module = modules.ScaleShiftMACE(
        r_max=4.0,
        num_bessel=4,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=2,
        num_elements=2,
        hidden_irreps=o3.Irreps("8x0e"),
        MLP_irreps=o3.Irreps("8x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=numpy.array([-1.0, -3.0]),
        avg_num_neighbors=3,
        atomic_numbers=table.zs,
        correlation=2,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    config = data.Configuration(
        atomic_numbers=numpy.array([8, 1, 1]),
        positions=numpy.array([[0.0, 0, 0], [0.9, 0, 0], [0, 0.9, 0]]),
        properties={},
        property_weights={},
    )
    atoms = data.AtomicData.from_config(config, z_table=table, cutoff=4.0)
    batch = next(iter(torch_geometric.dataloader.DataLoader([atoms], 1))).to_dict()
    given = {k: v for k, v in batch.items() if isinstance(v, torch.Tensor)}
    from e3nn.util import jit

    # As MACE's page on LAMMPS shows.
    return Model(jit.compile(module.eval()), (given,), grad=True)


def _e3nn() -> Model:
    from e3nn import o3

    module = o3.FullyConnectedTensorProduct("4x0e+4x1o", "1x0e+1x1o", "4x0e+4x1o")
    rows = Dim("rows", min=1, max=8)
    return Model(
        module.eval(),
        (normal(2, 16), normal(2, 4)),
        ({0: rows}, {0: rows}),
        [(normal(8, 16), normal(8, 4))],
    )


def _harmonics() -> Model:
    from e3nn import o3

    rows = Dim("rows", min=1, max=8)
    return Model(
        o3.SphericalHarmonics([0, 1, 2], normalize=True).eval(),
        (normal(2, 3),),
        ({0: rows},),
        [(normal(8, 3, seed=1),)],
    )


CASES = [
    _torchani(forces=False),
    _torchani(forces=True),
    Case("schnetpack/SchNet", _schnet),
    Case("mace/ScaleShiftMACE", _mace),
    Case("e3nn/FullyConnectedTensorProduct", _e3nn),
    Case("e3nn/SphericalHarmonics", _harmonics),
]

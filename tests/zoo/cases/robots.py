"""Policies of robots and games."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.export import Dim

from cases.case import Case, Model, along, normal, uniform

BATCH = Dim("batch", min=1, max=8)


def observations(module: nn.Module, width: int) -> Model:
    """A module that takes batches of observations."""
    return along(module, (2, width), BATCH, (1, 8))


class Policy(nn.Module):
    """What stable-baselines3's page on exporting shows: the deterministic action."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: torch.Tensor) -> Any:
        return self.policy(observation, deterministic=True)


def _space(width: int) -> Any:
    from gymnasium import spaces

    return spaces.Box(-1.0, 1.0, (width,))


def _ppo() -> Model:
    from stable_baselines3.common.policies import ActorCriticPolicy

    return observations(Policy(ActorCriticPolicy(_space(6), _space(2), lambda _: 1e-3)), 6)


def _ppo_discrete() -> Model:
    from gymnasium import spaces
    from stable_baselines3.common.policies import ActorCriticPolicy

    return observations(Policy(ActorCriticPolicy(_space(6), spaces.Discrete(4), lambda _: 1e-3)), 6)


def _ppo_images() -> Model:
    from gymnasium import spaces
    from stable_baselines3.common.policies import ActorCriticCnnPolicy

    space = spaces.Box(0, 255, (3, 64, 64), dtype="uint8")
    module = Policy(ActorCriticCnnPolicy(space, spaces.Discrete(4), lambda _: 1e-3)).eval()
    given = [torch.randint(0, 255, (n, 3, 64, 64), dtype=torch.uint8) for n in (2, 1, 4)]
    return Model(module, (given[0],), ({0: BATCH},), [(each,) for each in given[1:]])


def _multi_input() -> Model:
    from gymnasium import spaces
    from stable_baselines3.common.policies import MultiInputActorCriticPolicy

    space = spaces.Dict({"image": spaces.Box(0, 1, (8,)), "state": spaces.Box(-1, 1, (3,))})
    module = Policy(MultiInputActorCriticPolicy(space, _space(2), lambda _: 1e-3)).eval()

    def given(n: int) -> tuple[dict[str, torch.Tensor]]:
        return ({"image": uniform(n, 8, seed=n), "state": normal(n, 3, seed=n)},)

    sizes = {"image": {0: BATCH}, "state": {0: BATCH}}
    return Model(module, given(2), (sizes,), [given(1), given(8)])


def _sac() -> Model:
    from stable_baselines3.sac.policies import SACPolicy

    return observations(SACPolicy(_space(6), _space(2), lambda _: 1e-3).actor, 6)


def _td3() -> Model:
    from stable_baselines3.td3.policies import TD3Policy

    return observations(TD3Policy(_space(6), _space(2), lambda _: 1e-3).actor, 6)


def _dqn() -> Model:
    from gymnasium import spaces
    from stable_baselines3.dqn.policies import DQNPolicy

    return observations(DQNPolicy(_space(6), spaces.Discrete(4), lambda _: 1e-3).q_net, 6)


def _tqc() -> Model:
    from sb3_contrib.tqc.policies import TQCPolicy

    return observations(TQCPolicy(_space(6), _space(2), lambda _: 1e-3).actor, 6)


def _rsl(kind: str) -> Case:
    def make() -> Model:
        import rsl_rl.models as models
        from tensordict import TensorDict

        given = TensorDict({"policy": normal(2, 12)}, batch_size=[2])
        groups = {"actor": ["policy"]}
        cls = models.RNNModel if kind == "RNN" else models.MLPModel
        options: dict[str, Any] = {"hidden_dims": [32, 16]}
        if kind == "RNN":
            options |= {"rnn_type": "lstm", "rnn_hidden_dim": 16, "rnn_num_layers": 1}
        policy = cls(given, groups, "actor", 3, **options)
        module = policy.as_jit() if hasattr(policy, "as_jit") else policy
        if kind == "RNN":
            return Model(module.eval(), (normal(1, 12),), None, [(normal(1, 12, seed=1),)])
        return observations(module, 12)

    return Case(f"rsl_rl/{kind}", make)


CASES = [
    Case("stable_baselines3/PPO", _ppo),
    Case("stable_baselines3/PPO discrete", _ppo_discrete),
    Case("stable_baselines3/PPO images", _ppo_images),
    Case("stable_baselines3/PPO dict", _multi_input),
    Case("stable_baselines3/SAC", _sac),
    Case("stable_baselines3/TD3", _td3),
    Case("stable_baselines3/DQN", _dqn),
    Case("sb3_contrib/TQC", _tqc),
    _rsl("MLP"),
    _rsl("RNN"),
]

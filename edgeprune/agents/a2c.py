"""Advantage actor-critic, as DepGraphRL uses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from stable_baselines3 import A2C

from edgeprune.agents.base import Agent, at_least
from edgeprune.agents.env import SparsityEnv
from edgeprune.agents.vector import Lessons, PlanVec, clone, drawn, train
from edgeprune.groups import Widths


@dataclass(frozen=True)
class A2c(Agent):
    """Stable-Baselines3's A2C, one update from each round of 4 whole episodes.

    It knows no masks: the environment projects an illegal action to the nearest legal one. That projection is part of
    the dynamics, so the gradient rightly goes to the action the policy drew. ``imagined``, ``boldness`` and
    ``episodes`` as for PPO.
    """

    name: ClassVar[str] = "a2c"
    learns: ClassVar[bool] = True
    learning_rate: float = 1.5e-3
    entropy: float = 0.01
    changes: float = 2.5
    imagined: int = 4
    boldness: float = 0.5
    episodes: int = 0

    def __post_init__(self) -> None:
        at_least(self, learning_rate=0, entropy=0, changes=0, imagined=0, boldness=0, episodes=0)

    def explore(self, env: SparsityEnv, seed: int, start: Sequence[Widths]) -> None:
        """Clone the start plans, then learn from whole episodes."""
        def make(vector: PlanVec, seed: int) -> A2C:
            return A2C(
                "MlpPolicy", vector, learning_rate=self.learning_rate, n_steps=env.steps, gamma=1.0, gae_lambda=1.0,
                ent_coef=self.entropy, normalize_advantage=True, use_rms_prop=False,
                policy_kwargs={"net_arch": [64, 64]}, seed=seed, device="cpu",
            )

        def teach(model: A2C, lessons: Lessons) -> None:
            clone(model.policy, model.policy.evaluate_actions, lessons, self.changes)

        train(env, seed, start, make, teach, drawn, self.imagined, self.boldness, self.episodes)

"""Proximal policy optimisation with the action wall as a mask: the default agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO

from edgeprune.agents.base import Agent, at_least
from edgeprune.agents.env import SparsityEnv
from edgeprune.agents.vector import ENVS, Lessons, PlanVec, clone, train
from edgeprune.groups import Widths


@dataclass(frozen=True)
class Ppo(Agent):
    """sb3-contrib's MaskablePPO, learning from ``imagined`` episodes on a surrogate for each true evaluation.

    Those are rewarded with ``boldness`` deviations more than is expected. With ``imagined`` 0 it learns from true
    evaluations alone, tens to hundreds of episodes instead of the usual millions of steps. ``episodes``, where it is
    not 0, is how many are imagined in all at least, in place of ``imagined``: so many for each evaluation as give that
    number.

    ``rounds`` × 4 episodes go into each update, four times as many where they are imagined; ``changes`` is how many
    groups an episode of the freshly taught policy is expected to treat differently from the start plan it imitates.
    """

    name: ClassVar[str] = "ppo"
    learns: ClassVar[bool] = True
    learning_rate: float = 1e-3
    rounds: int = 2
    epochs: int = 10
    clip_range: float = 0.2
    entropy: float = 0.01
    changes: float = 2.5
    imagined: int = 4
    boldness: float = 0.5
    episodes: int = 0

    def __post_init__(self) -> None:
        at_least(self, learning_rate=0, rounds=1, epochs=1, clip_range=0, entropy=0, changes=0, imagined=0, boldness=0,
                 episodes=0)

    def explore(self, env: SparsityEnv, seed: int, start: Sequence[Widths]) -> None:
        """Clone the start plans, then learn from whole episodes."""
        steps = self.rounds * env.steps * (4 if self.imagined else 1)

        def make(vector: PlanVec, seed: int) -> MaskablePPO:
            return MaskablePPO(
                "MlpPolicy", vector, learning_rate=self.learning_rate, n_steps=steps, batch_size=steps * ENVS // 2,
                n_epochs=self.epochs, gamma=1.0, gae_lambda=1.0, clip_range=self.clip_range, ent_coef=self.entropy,
                policy_kwargs={"net_arch": [64, 64]}, seed=seed, device="cpu",
            )

        def teach(model: MaskablePPO, lessons: Lessons) -> None:
            evaluate = partial(model.policy.evaluate_actions, action_masks=torch.from_numpy(lessons.masks))
            clone(model.policy, evaluate, lessons, self.changes)

        def play(model: MaskablePPO, seen: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.int64]:
            return model.predict(seen, action_masks=masks, deterministic=False)[0]

        train(env, seed, start, make, teach, play, self.imagined, self.boldness, self.episodes)

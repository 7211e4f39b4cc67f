"""Deep Q-learning, as AKPERL uses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.type_aliases import MaybeCallback

from edgeprune.agents.base import Agent, at_least
from edgeprune.agents.env import SparsityEnv
from edgeprune.agents.vector import ENVS, REPEATS, Lessons, PlanVec, train
from edgeprune.groups import Widths


@dataclass(frozen=True)
class Dqn(Agent):
    """Stable-Baselines3's DQN with returns over whole episodes, since the reward is at the end.

    Exploration falls from ``explore_first`` to ``changes`` random steps an episode over the first ``explore_share`` of
    the evaluations (of what is imagined before the first of them), and begins there after a warm start. Start plans
    fill the replay memory first, and ``lessons`` updates imitate them with a ``margin`` of reward (Hester et al., "Deep
    Q-learning from demonstrations", AAAI 2018).
    ``updates`` follow each round of 4 episodes. ``imagined``, ``boldness`` and ``episodes`` as for PPO; the replay
    memory holds ``memory`` steps, few enough that what an older surrogate expected is soon forgotten.
    """

    name: ClassVar[str] = "dqn"
    learns: ClassVar[bool] = True
    learning_rate: float = 1e-3
    batch_size: int = 64
    updates: int = 24
    lessons: int = 200
    explore_first: float = 0.8
    explore_share: float = 0.6
    changes: float = 1.5
    margin: float = 1.0
    memory: int = 20_000
    imagined: int = 4
    boldness: float = 0.5
    episodes: int = 0

    def __post_init__(self) -> None:
        at_least(self, learning_rate=0, batch_size=1, updates=1, lessons=0, explore_first=0, explore_share=0, changes=0,
                 memory=ENVS, imagined=0, boldness=0, episodes=0)

    def explore(self, env: SparsityEnv, seed: int, start: Sequence[Widths]) -> None:
        """Fill the replay memory with the start plans, then learn from all that was seen."""
        last = min(self.changes / env.steps, 0.5)
        first = last if start else self.explore_first

        def make(vector: PlanVec, seed: int) -> DQN:
            model = _LegalDQN(
                "MlpPolicy", vector, learning_rate=self.learning_rate, gamma=1.0, n_steps=env.steps,
                batch_size=self.batch_size, buffer_size=self.memory, learning_starts=0, train_freq=env.steps,
                gradient_steps=self.updates, target_update_interval=ENVS * env.steps,
                exploration_fraction=self.explore_share / (1 if self.imagined else REPEATS),
                exploration_initial_eps=first, exploration_final_eps=last,
                policy_kwargs={"net_arch": [64, 64]}, seed=seed, device="cpu",
            )
            model.exploration_rate = first  # it is asked for plans before it learns, and that is 0 until then
            return model

        train(env, seed, start, make, self._teach, _LegalDQN.choose, self.imagined, self.boldness, self.episodes)

    def _teach(self, model: DQN, lessons: Lessons) -> None:
        """Add every lesson to the replay memory, in rows of ENVS episodes, and learn from them."""
        episodes = [slice(i, i + lessons.steps) for i in range(0, len(lessons.actions), lessons.steps)]
        assert model.replay_buffer is not None  # set up with the model
        for first in range(0, len(episodes), ENVS):
            rows = [episodes[(first + i) % len(episodes)] for i in range(ENVS)]
            for step in range(lessons.steps):
                ends = step == lessons.steps - 1
                at = [row.start + step for row in rows]
                after = at if ends else [i + 1 for i in at]  # what follows the last step is never looked at
                model.replay_buffer.add(
                    lessons.observations[at], lessons.observations[after], lessons.actions[at].reshape(ENVS, 1),
                    lessons.rewards[at], np.full(ENVS, ends), [{} for _ in at],
                )
        self._imitate(model, lessons)

    def _imitate(self, model: DQN, lessons: Lessons) -> None:
        """Fit the taught actions' values to their returns, and keep the other legal ones a margin below (DQfD)."""
        observations, actions = torch.from_numpy(lessons.observations), torch.from_numpy(lessons.actions)[:, None]
        illegal, weights, returns = ~torch.from_numpy(lessons.masks), lessons.weights(), lessons.returns()
        for _ in range(self.lessons):
            values = model.q_net(observations)
            taught = values.gather(1, actions)[:, 0]
            rivals = (values + self.margin).scatter(1, actions, taught[:, None]).masked_fill(illegal, -torch.inf)
            loss = (weights * (rivals.max(1).values - taught + 0.5 * (taught - returns) ** 2)).sum()
            model.policy.optimizer.zero_grad()
            torch.autograd.backward(loss)
            model.policy.optimizer.step()
        model.q_net_target.load_state_dict(model.q_net.state_dict())


class _LegalDQN(DQN):
    """DQN that explores and exploits among the legal actions alone.

    Stable-Baselines3 has no masks here. Left to the environment's projection, Q-values of actions that are never
    carried out stay at their initial values and win the argmax as soon as the real ones turn negative. Each
    environment also decides for itself whether to explore, so that the parallel episodes differ.
    """

    def learn(self, total_timesteps: int, callback: MaybeCallback = None, log_interval: int = 4,
              tb_log_name: str = "DQN", reset_num_timesteps: bool = True, progress_bar: bool = False) -> Self:
        """Learn on; exploration that has fallen stays where it is, for Stable-Baselines3 would raise it again."""
        if self.num_timesteps and not reset_num_timesteps:
            self.exploration_schedule = lambda _: self.exploration_final_eps
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def predict(self, observation: NDArray[np.float32] | dict[str, NDArray[np.float32]],
                state: tuple[NDArray[Any], ...] | None = None, episode_start: NDArray[Any] | None = None,
                deterministic: bool = False) -> tuple[NDArray[np.int64], tuple[NDArray[Any], ...] | None]:
        """Return the ε-greedy legal actions."""
        assert self.env is not None  # set up with the model
        return self.choose(observation, np.stack(self.env.env_method("action_masks")), deterministic), state

    def choose(self, observation: NDArray[np.float32] | dict[str, NDArray[np.float32]], masks: NDArray[np.bool_],
               deterministic: bool = False) -> NDArray[np.int64]:
        """Return the ε-greedy actions among those that ``masks`` allows."""
        with torch.no_grad():
            values = self.q_net(self.policy.obs_to_tensor(observation)[0]).numpy()
        actions = np.where(masks, values, -np.inf).argmax(axis=1)
        if not deterministic:
            for i, mask in enumerate(masks):
                if np.random.rand() < self.exploration_rate:
                    actions[i] = np.random.choice(np.flatnonzero(mask))
        return np.asarray(actions, np.int64)

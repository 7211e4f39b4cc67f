"""What the Stable-Baselines3 agents share: parallel episodes, an allowance that ends learning, and a warm start."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
from threadpoolctl import threadpool_limits

from edgeprune.agents.base import Account
from edgeprune.agents.env import SparsityEnv
from edgeprune.agents.imagined import BATCH, Imagined, Play, promising, proposals
from edgeprune.agents.surrogate import LEAST, Surrogate
from edgeprune.groups import Widths

Likelihood = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
ENVS = 4
"""Episodes side by side. Not the number of cores: what a search finds must not depend on the machine."""
REPEATS = 20
"""Episodes a search may take for each evaluation it was allowed, at most."""
PATIENCE = 4
"""Rounds of ``ENVS`` episodes without a plan that is new: the policy has settled."""
ELITE = 4
"""Plans a fresh policy is taught after one that settled."""
_TEMPERATURE = 0.5
_CLONE_STEPS = 300
_CLONE_RATE = 5e-3
_ENTROPY = 0.01


class PlanVec(DummyVecEnv):
    """``ENVS`` twins of an environment in step; plans that finish together are evaluated together."""

    def __init__(self, env: SparsityEnv, reference: float) -> None:
        self._account = env.account
        self._twins = [env.twin(env.account, reference) for _ in range(ENVS)]
        self._returns, self._running = list[float](), [0.0] * ENVS
        super().__init__([partial(_itself, twin) for twin in self._twins])

    def step_wait(self) -> VecEnvStepReturn:
        """Ask for all finishing plans at once, then step each environment, which finds its score known."""
        plans = [env.preview(int(action)) for env, action in zip(self._twins, self.actions, strict=True)]
        finishing = [plan for plan in plans if plan is not None]
        if finishing:
            self._account.scores(finishing)
        found = super().step_wait()
        for at, (reward, over) in enumerate(zip(found[1].tolist(), found[2].tolist(), strict=True)):
            self._running[at] += reward
            if over:
                self._returns.append(self._running[at])
                self._running[at] = 0.0
        return found

    def returns(self) -> list[float]:
        """Return what each episode was paid that ended since this was last asked."""
        ended, self._returns = self._returns, []
        return ended


def _itself(env: SparsityEnv) -> SparsityEnv:
    return env


@dataclass(frozen=True, eq=False)
class Lessons:
    """Start plans as episodes, one row a step: what was seen, done, allowed, and earned at the end."""

    observations: NDArray[np.float32]
    actions: NDArray[np.int64]
    masks: NDArray[np.bool_]
    rewards: NDArray[np.float32]
    steps: int

    def returns(self) -> torch.Tensor:
        """Return each step's return: what its episode is paid from there on."""
        paid = self.rewards.reshape(-1, self.steps)[:, ::-1].cumsum(axis=1, dtype=np.float32)[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(paid).reshape(-1))

    def weights(self) -> torch.Tensor:
        """Return each step's weight: softmax over the episodes, where half a reward unit less counts e times less."""
        whole = torch.from_numpy(self.rewards.reshape(-1, self.steps).sum(axis=1)).repeat_interleave(self.steps)
        return torch.softmax(whole / _TEMPERATURE, 0)

    @staticmethod
    def take(env: SparsityEnv, plans: Sequence[Widths]) -> Lessons:
        """Walk through the plans in ``env``."""
        observations, actions, masks, rewards = [], [], [], []
        for plan in plans:
            observation, _ = env.reset()
            for action in env.walk(plan):
                observations.append(observation)
                actions.append(action)
                masks.append(env.action_masks())
                observation, reward, *_ = env.step(action)
                rewards.append(reward)
        return Lessons(np.array(observations), np.array(actions), np.array(masks, bool).reshape(-1, env.actions.count),
                       np.array(rewards, np.float32), env.steps)


@contextmanager
def isolated() -> Iterator[None]:
    """Give the block one thread, of torch's and of linear algebra, and leave the caller's random states as they were.
    """
    threads, states = torch.get_num_threads(), (random.getstate(), np.random.get_state(), torch.get_rng_state())
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def drawn(model: BaseAlgorithm, seen: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return actions of a policy that knows no masks, chance included; the environment projects the illegal ones."""
    return model.predict(seen, deterministic=False)[0]


def train(env: SparsityEnv, seed: int, start: Sequence[Widths], make: Callable[[PlanVec, int], BaseAlgorithm],
          teach: Callable[[Any, Lessons], None], play: Play, imagined: int, boldness: float, episodes: int = 0) -> None:
    """Score the start plans, build a model, teach it those plans, and let it learn until the allowance is spent.

    Start plans that the action space does not lead to are scored too, and taught as the plans that it leads to instead.

    The model plays ``imagined`` episodes on a surrogate for each true evaluation, its rewards being what that expects
    of a plan and ``boldness`` deviations more; with ``episodes`` at least so many of them in all, by whole roll-outs,
    however many evaluations there are. Then the most promising of its policy's plans and their kin are evaluated, in
    batches of BATCH, and the surrogate learns from them. With ``imagined`` 0 every episode ends in a true evaluation.

    A policy that proposes nothing new is replaced by a fresh one that was taught the best plans so far. Rewards are
    relative to the best plan taught.
    """
    account = env.account
    account.scores(start)
    start = list(dict.fromkeys(map(env.reached, start)))
    account.scores(start)
    if episodes and imagined:
        unlearnt = BATCH * math.ceil(max(0, LEAST - len(account.evaluator.lessons)) / BATCH)
        imagined = math.ceil(episodes / max(BATCH, account.left - unlearnt))
    with isolated():
        if imagined:
            _by_surrogate(env, seed, start, make, teach, play, imagined, boldness)
        else:
            _by_truth(env, seed, start, make, teach)


def _taught(env: SparsityEnv, account: Account, seed: int, elite: Sequence[Widths],
            make: Callable[[PlanVec, int], BaseAlgorithm], teach: Callable[[Any, Lessons], None]
            ) -> tuple[BaseAlgorithm, PlanVec]:
    """Return a fresh model over ``account`` that was taught the elite, and its environments."""
    reference = max((env.value(plan, account.evaluator.known[plan]) for plan in elite), default=env.reference)
    twin = env.twin(account, reference)
    vector = PlanVec(twin, reference)
    model = make(vector, seed % 2**32)  # a settled policy's successors count on from the last seed there is
    model.set_logger(Logger(folder=None, output_formats=[]))
    if elite:
        teach(model, Lessons.take(twin, elite))
    return model, vector


def _by_truth(env: SparsityEnv, seed: int, start: Sequence[Widths], make: Callable[[PlanVec, int], BaseAlgorithm],
              teach: Callable[[Any, Lessons], None]) -> None:
    account = env.account
    elite, before = list(start), -1
    while account.left and account.spent > before:
        before = account.spent
        model, vector = _taught(env, account, seed, elite, make, teach)
        model.learn(REPEATS * account.left * env.steps, callback=_WhileAllowed(account, env.steps, vector))
        elite, seed = account.elite(ELITE), seed + 1


def _by_surrogate(env: SparsityEnv, seed: int, start: Sequence[Widths], make: Callable[[PlanVec, int], BaseAlgorithm],
                  teach: Callable[[Any, Lessons], None], play: Play, imagined: int, boldness: float) -> None:
    account, surrogate = env.account, Surrogate(env.space)
    dream = Imagined(account, surrogate, boldness)
    known = account.evaluator.known
    stale, rng = 0, np.random.default_rng(seed)
    model, vector = _taught(env, dream, seed, list(start), make, teach)
    while account.left and stale < PATIENCE:
        surrogate.fit(account.evaluator.lessons)
        dream.forget()
        if surrogate.ready:
            model.learn(imagined * BATCH * env.steps, reset_num_timesteps=False)
            account.learnt(vector.returns(), True)
            new = promising(dream, proposals(model, env, dream, play), rng, min(BATCH, account.left))
        else:
            new = [plan for plan in proposals(model, env, dream, play) if plan not in known][: min(BATCH, account.left)]
        account.scores(new)
        stale = 0 if new else stale + 1
        if not new:
            seed += 1
            model, vector = _taught(env, dream, seed, account.elite(ELITE), make, teach)


class _WhileAllowed(BaseCallback):
    """Ends learning with the last evaluation, or when no plan was new for ``PATIENCE`` rounds of ``steps`` steps."""

    def __init__(self, account: Account, steps: int, vector: PlanVec) -> None:
        super().__init__()
        self._account, self._patience, self._vector = account, PATIENCE * steps, vector
        self._spent, self._stale = account.spent, 0

    def _on_step(self) -> bool:
        self._account.learnt(self._vector.returns(), False)
        self._stale = self._stale + 1 if self._account.spent == self._spent else 0
        self._spent = self._account.spent
        return self._account.left > 0 and self._stale <= self._patience


def clone(policy: BasePolicy, likelihood: Callable[[torch.Tensor, torch.Tensor], Likelihood], lessons: Lessons,
          changes: float) -> None:
    """Behaviour cloning: make the start plans likely, and stop while the policy still explores around them.

    Supervised steps raise the weighted mean log-probability of the lessons' actions until an episode is expected to
    differ from its lesson in ``changes`` steps. ``likelihood`` maps observations and actions to values,
    log-probabilities and entropy, as a policy's ``evaluate_actions``.
    """
    weights = lessons.weights()
    observations, actions = torch.from_numpy(lessons.observations), torch.from_numpy(lessons.actions)
    optimizer = torch.optim.Adam(policy.parameters(), lr=_CLONE_RATE)
    enough = 1.0 - min(changes / lessons.steps, 0.5)
    policy.set_training_mode(True)
    for _ in range(_CLONE_STEPS):
        _, log_probability, entropy = likelihood(observations, actions)
        if float((weights * log_probability.detach().exp()).sum()) >= enough:
            break
        assert entropy is not None  # a categorical policy always has one
        loss = -(weights * (log_probability + _ENTROPY * entropy)).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

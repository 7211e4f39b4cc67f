"""What is expected of a plan before it is judged: a Gaussian process over the true evaluations so far.

Predictions steer where true evaluations go and what an agent is rewarded by in between. They never enter a trace.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from edgeprune.agents.space import Space
from edgeprune.groups import DROP, Widths

LEAST = 12
"""Evaluations below which nothing can be told."""
_MOST = 600
"""Evaluations a fit looks at: the best, and of the others the latest. A fit takes their number cubed."""
_ROUGH = 1e-3


class Surrogate:
    """Predicts scores of plans over ``space``, with their uncertainty.

    A plan is seen as the share of channels that each free group loses, and whether it drops its block. Its kernel is
    Matérn's (ν = 5/2), the plain one of Bayesian optimisation (Snoek et al., NeurIPS 2012, section 3.1), over shares
    weighted by how much a cut there was seen to cost: with tens of groups and hundreds of scores, one length scale a
    group cannot be learnt by likelihood. Deterministic.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._openers = [at for at, options in enumerate(space.options) if options[-1] == DROP]
        self._model: GaussianProcessRegressor | None = None
        self._weights = np.ones(len(space.free) + len(self._openers))
        self._seen: NDArray[np.float64] = np.zeros((0, len(self._weights)))
        self._values: NDArray[np.float64] = np.zeros(0)
        self._centre, self._scale = 0.0, 1.0

    @property
    def ready(self) -> bool:
        """Whether enough was seen to predict anything."""
        return self._model is not None

    def fit(self, known: Mapping[Widths, float]) -> None:
        """Learn from true scores by canonical plan; whatever was learnt before is forgotten. Too few change nothing."""
        plans = list(known)
        if len(plans) < LEAST:
            return
        if len(plans) > _MOST:
            best = sorted(plans, key=lambda plan: -known[plan])[: _MOST // 2]
            plans = list(dict.fromkeys([*best, *plans[-(_MOST // 2):]]))
        features = np.array([self._features(plan) for plan in plans])
        self._values = np.array([known[plan] for plan in plans])
        self._centre, self._scale = float(self._values.mean()), float(self._values.std()) or 1.0
        self._weights = _weights(features, (self._values - self._centre) / self._scale)
        self._seen = features * self._weights
        kernel = ConstantKernel(1.0, (1e-2, 1e3)) * Matern(1.0, (5e-2, 5e1), nu=2.5) + WhiteKernel(1e-2, (1e-6, 1.0))
        model = GaussianProcessRegressor(kernel, alpha=1e-10, n_restarts_optimizer=0, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a bound that was reached is an answer too
            self._model = model.fit(self._seen, (self._values - self._centre) / self._scale)

    def predict(self, plans: Sequence[Widths]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the expected scores of canonical plans and their standard deviations, both of shape (n,)."""
        assert self._model is not None, "nothing was learnt yet"
        rows = np.array([self._features(plan) for plan in plans]) * self._weights
        mean, deviation = self._model.predict(rows, return_std=True)
        return mean * self._scale + self._centre, deviation * self._scale

    def choose(self, plans: Sequence[Widths], count: int, best: float) -> list[Widths]:
        """Return up to ``count`` of distinct ``plans`` that promise most: one after another the largest expected
        improvement on ``best``, each time believing that the last one will score as predicted (kriging believer:
        Ginsbourger et al., 2010, section 3.2), so that a batch is not eight times the same idea.
        """
        assert self._model is not None, "nothing was learnt yet"
        left, taken = list(plans), list[Widths]()
        rows = np.array([self._features(plan) for plan in left]).reshape(len(left), len(self._weights)) * self._weights
        seen, values = self._seen, (self._values - self._centre) / self._scale
        goal = (best - self._centre) / self._scale
        model = GaussianProcessRegressor(self._model.kernel_, alpha=1e-10, optimizer=None)
        while left and len(taken) < count:
            mean, deviation = model.fit(seen, values).predict(rows, return_std=True)
            at = int(np.argmax(improvement(mean, deviation, goal)))
            taken.append(left.pop(at))
            seen, values = np.vstack([seen, rows[at]]), np.append(values, mean[at])
            goal, rows = max(goal, float(mean[at])), np.delete(rows, at, axis=0)
        return taken

    def _features(self, widths: Widths) -> list[float]:
        choices = self.space.choices(widths)
        cuts = [0.0 if width == DROP else 1.0 - width / options[0]
                for options, width in zip(self.space.options, choices, strict=True)]  # fmt: skip
        return cuts + [float(choices[at] == DROP) for at in self._openers]


def improvement(
    mean: NDArray[np.float64], deviation: NDArray[np.float64], best: float
) -> NDArray[np.float64]:
    """Return the expected improvement on ``best`` (Jones et al., 1998, equation 15), any shape; ≥ 0."""
    deviation = np.maximum(deviation, 1e-12)
    gain = mean - best
    return np.asarray(gain * norm.cdf(gain / deviation) + deviation * norm.pdf(gain / deviation))


def _weights(features: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a weight a feature, mean 1: half from how much it costs by a ridge regression, half the same for all."""
    centred = features - features.mean(axis=0)
    penalty = max(1.0, 0.02 * len(values))
    slopes = np.abs(np.linalg.solve(centred.T @ centred + penalty * np.eye(features.shape[1]), centred.T @ values))
    mean = float(slopes.mean())
    return 0.5 + 0.5 * slopes / mean if mean > _ROUGH else np.ones(features.shape[1])

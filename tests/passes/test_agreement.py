"""How near outputs stay to the original's: what it is at known points, and that it asks for no label."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.errors import BadModel, BadOption
from edgeprune.passes.agreement import TEMPERATURE, Agreement, agreement
from edgeprune.report import Score

LOGITS = np.random.default_rng(0).normal(0, 3, (50, 10)).astype(np.float32)


class Told:
    """A task whose images are their own numbers, asked for 20 at a time; distances are squares of differences."""

    def score(self, predict, split, indices):
        assert split == "search"
        for start in range(0, len(indices), 20):
            predict(np.asarray(indices[start : start + 20], np.float32))
        return Score(0.0, len(indices), np.zeros(len(indices)))

    def distance(self, output: Tensor, taught: Tensor, temperature: float) -> Tensor:
        assert temperature == TEMPERATURE
        return (output - taught).square().sum(1).mean()


def answers(outputs: NDArray[np.float32]):
    return lambda images: outputs[images.astype(int)]


def told(outputs: NDArray[np.float32] = LOGITS, images: int = 50) -> Agreement:
    return agreement(Told(), answers(outputs), range(images))


def test_the_original_agrees_with_itself_and_its_mean_by_half() -> None:
    assert told().of(answers(LOGITS)) == 1.0
    assert told().of(answers(np.broadcast_to(LOGITS.mean(0), LOGITS.shape).copy())) == pytest.approx(0.5, abs=1e-6)


def test_distance_is_the_mean_over_images_and_not_over_batches() -> None:
    moved = LOGITS.copy()
    moved[45] += 2.0  # the last batch holds ten images, the others twenty
    spread = ((LOGITS - LOGITS.mean(0)) ** 2).sum(1).mean()
    assert told().spread == pytest.approx(spread, rel=1e-5)
    assert told().of(answers(moved)) == pytest.approx(1 / (1 + 40 / 50 / spread), rel=1e-5)


def test_further_is_less_and_never_nothing() -> None:
    noise = np.random.default_rng(1).standard_normal(LOGITS.shape).astype(np.float32)
    found = [told().of(answers(LOGITS + size * noise)) for size in (0.1, 1.0, 10.0, 1e4)]
    assert found == sorted(found, reverse=True) and 0.0 < found[-1] < found[0] < 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_agree_with_nothing(value: float) -> None:
    broken = LOGITS.copy()
    broken[3, 4] = value
    assert told().of(answers(broken)) == 0.0


def test_images_that_were_not_asked_for_have_no_say() -> None:
    moved = LOGITS.copy()
    moved[30:] = 0.0
    assert told(images=30).of(answers(moved)) == 1.0 > told().of(answers(moved))


def test_outputs_that_do_not_fit_are_refused_with_how_many_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.passes.agreement.MOST", 1200.0)
    assert told(images=30).of(answers(LOGITS)) == 1.0
    with pytest.raises(BadOption) as raised:
        told(images=31)
    assert str(raised.value) == (
        "agreement keeps the original's outputs, 0.0 GB of 31 images; give --set sparsify.images=30 or fewer, or "
        "sparsify.objective=metric"
    )


def test_an_original_that_always_says_the_same_can_tell_no_plans_apart() -> None:
    with pytest.raises(BadModel) as raised:
        told(np.ones((50, 10), np.float32))
    assert str(raised.value) == (
        "the original's outputs lie 0 from their mean over 50 images, so plans cannot be told apart by how near they "
        "stay to them; give --set sparsify.objective=metric"
    )

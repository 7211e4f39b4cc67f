from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError
from reports import report

from edgeprune.report import Measurement, Report, Score, StepRecord


def test_a_report_survives_json() -> None:
    text = report().to_json()
    assert Report.from_json(text) == report()
    assert Report.from_json(text).to_json() == text


def test_json_speaks_of_schema_and_pass() -> None:
    raw = json.loads(report().to_json())
    assert raw["schema"] == "edgeprune-report/1"
    assert raw["steps"][0]["pass"] == "prune"


@pytest.mark.parametrize("change", [{"surprise": 1}, {"verdict": "fine"}, {"candidates": None}])
def test_other_structures_are_refused(change: dict[str, object]) -> None:
    raw = json.loads(report().to_json()) | change
    with pytest.raises(ValidationError):
        Report.from_json(json.dumps(raw))


def test_a_score_takes_what_a_task_counted_in() -> None:
    """PyTorch's checkpoints refuse NumPy's scalars, and NumPy does not subtract booleans."""
    right = np.array([True, False, True])
    score = Score(right.mean(), np.int64(3), right)
    assert (type(score.value), type(score.n), score.per_item.dtype) == (float, int, np.float64)
    assert score.drop_to(Score(1 / 3, 3, ~right)) == pytest.approx((1 / 3, 2 / 3))


def test_what_was_not_measured_is_null_and_never_zero() -> None:
    raw = json.loads(Measurement(source="unavailable").model_dump_json())
    assert raw["latency_ms"] is raw["energy_mj"] is raw["power_mw"] is raw["peak_memory_bytes"] is None
    assert raw["energy_source"] == "unavailable"


def test_every_field_of_a_step_is_named_in_the_schema() -> None:
    schema = Report.model_json_schema(by_alias=True)
    assert set(schema["$defs"]["StepRecord"]["properties"]) == {
        "pass",
        "options",
        "candidate",
        "seconds",
        "cached",
        "facts",
    }
    assert (
        StepRecord.model_validate({"pass": "prune", "options": {}, "seconds": 1.0, "cached": False}).name == "prune"
    )


def score(items: list[float]) -> Score:
    return Score(float(np.mean(items)), len(items), np.asarray(items))


def test_drops_are_paired() -> None:
    drop, error = score([1, 1, 1, 0]).drop_to(score([1, 1, 0, 0]))
    assert drop == pytest.approx(0.25)
    assert error == pytest.approx(0.5 / 2)  # the differences 0, 0, 1, 0 have a standard deviation of 0.5; n = 4


def test_equal_answers_have_no_error_and_one_image_no_estimate_of_it() -> None:
    assert score([1, 0, 1]).drop_to(score([1, 0, 1])) == (0.0, 0.0)
    assert score([1]).drop_to(score([0])) == (1.0, 0.0)


def test_scores_of_other_images_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="scores of 2 and 3 images cannot be paired"):
        score([1, 0]).drop_to(score([1, 0, 1]))


def test_the_interval_of_a_mean_is_normal() -> None:
    drop, error = score([1, 1, 1, 0]).drop_to(score([1, 1, 0, 0]))
    assert score([1, 1, 1, 0]).drop_interval(score([1, 1, 0, 0])) == pytest.approx(
        (drop - 1.96 * error, drop + 1.96 * error)
    )


def resampled(value: float, replicates: list[float] | None) -> Score:
    return Score(value, 3, np.asarray([1.0, 0.0, 0.5]), None if replicates is None else np.asarray(replicates))


def test_replicates_are_paired_resample_by_resample() -> None:
    before = resampled(0.5, [*np.linspace(0.4, 0.6, 101), np.nan])
    after = resampled(0.3, [*(np.linspace(0.4, 0.6, 101) - np.linspace(0.0, 1.0, 101)), 0.2])
    drop, error = before.drop_to(after)
    assert drop == pytest.approx(0.2)
    assert error == pytest.approx(np.linspace(0, 1, 101).std(ddof=1))  # the resample without a score is left out
    assert before.drop_interval(after) == pytest.approx((0.025, 0.975))


def test_replicates_of_one_score_alone_are_not_used() -> None:
    one, other = resampled(0.5, [0.4, 0.9, 0.1]), resampled(0.5, None)
    assert one.drop_to(other) == other.drop_to(one) == (0.0, 0.0)
    assert one.drop_interval(other) == (0.0, 0.0)


def test_resamples_without_a_score_say_nothing() -> None:
    one = resampled(0.5, [np.nan, np.nan, 0.2])
    other = Score(0.5, 3, np.asarray([1.0, 0.0, -0.5]), np.asarray([0.1, np.nan, np.nan]))
    assert one.drop_to(other)[1] == pytest.approx(np.std([0, 0, 1], ddof=1) / np.sqrt(3))  # that of the images


def test_other_numbers_of_resamples_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="scores of 2 and 3 resamples cannot be paired"):
        resampled(0.5, [0.1, 0.2]).drop_to(resampled(0.5, [0.1, 0.2, 0.3]))

"""Tables of what kernels take: what lies between the points, the file, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.errors import BadInput
from edgeprune.profiles.latency_table import Check, Facts, LatencyTable, Rows, Surface, axis, errors, monotone

FACTS = Facts(board="host-cpu", runtime="onnxruntime", version="1.0", processor="a CPU", threads=1)


def surface(points: list[tuple[int, int, float]], scalable: bool = True) -> Surface:
    return Surface.of(Rows(scalable=scalable, points=points))


GRID = [(o, i, 0.01 * o + 0.001 * o * i) for o in (4, 8, 16) for i in (2, 4, 8)]


@pytest.mark.parametrize(("outputs", "inputs"), [(4, 2), (8, 4), (12, 4), (6, 3), (16, 8), (32, 8), (2, 1), (64, 64)])
def test_a_law_of_outputs_and_products_is_followed_between_and_beyond(outputs: int, inputs: int) -> None:
    assert surface(GRID).ms(outputs, inputs) == pytest.approx(0.01 * outputs + 0.001 * outputs * inputs, rel=1e-6)


def test_a_measured_point_is_told_as_it_is() -> None:
    slow = [(o, i, 5 * ms if (o, i) == (8, 4) else ms) for o, i, ms in GRID]
    assert surface(slow).ms(8, 4) == pytest.approx(5 * 0.112)


def test_what_was_not_measured_of_the_grid_is_filled_in_by_its_neighbour_and_the_law() -> None:
    holed = [p for p in GRID if p[:2] != (8, 4)]
    assert surface(holed).ms(8, 4) == pytest.approx(0.01 * 8 + 0.001 * 32, rel=1e-6)


def test_one_point_alone_goes_on_in_proportion() -> None:
    assert surface([(8, 4, 1.0)]).ms(4, 2) == pytest.approx(0.25)
    moving = surface([(100, 300, 1.0)], scalable=False)
    assert moving.ms(50, 150) == pytest.approx(0.5) and moving.ms(100, 100) == pytest.approx(0.5)
    assert moving.ms(0, 300) == 0.0


def test_a_rising_surface_never_falls_and_keeps_what_rises_already() -> None:
    bumpy = [(o, i, ms if o != 12 else 3 * ms) for o in (4, 8, 12, 16) for i in (2, 4, 8) for ms in [0.01 * o * i]]
    rising = surface(bumpy).rising()
    assert (np.diff(rising.grid, axis=0) >= 0).all() and (np.diff(rising.grid, axis=1) >= 0).all()
    assert rising.ms(4, 2) == pytest.approx(0.08), "what lies below the bump"
    assert np.allclose(surface(GRID).rising().grid, surface(GRID).grid)


@given(st.lists(st.lists(st.floats(0.001, 100.0), min_size=4, max_size=4), min_size=1, max_size=5))
def test_monotone_is_monotone_for_any_grid_and_stays_within_it(grid: list[list[float]]) -> None:
    found = monotone(np.array(grid))
    assert (np.diff(found, axis=0) >= -1e-9).all() and (np.diff(found, axis=1) >= -1e-9).all()
    assert found.min() >= np.min(grid) - 1e-6 and found.max() <= np.max(grid) + 1e-6


def table() -> LatencyTable:
    made = LatencyTable(FACTS, 0.3, 0.29, 0.005)
    for o, i, ms in GRID:
        made.add("Conv 3x3/1 8x8 fp32 #1", True, o, i, ms)
    made.add("Concat 8x8 fp32 #2", False, 100, 300, 0.02)
    made.checks.append(Check(name="a", predicted_ms=1.1, measured_ms=1.0))
    return made


def test_a_run_takes_its_kernels_and_what_any_run_takes() -> None:
    kernels = [("Conv 3x3/1 8x8 fp32 #1", 8, 4), ("Concat 8x8 fp32 #2", 100, 300), ("Conv 3x3/1 8x8 fp32 #1", 8, 4)]
    assert table().predict(kernels) == pytest.approx(0.005 + 2 * 0.112 + 0.02)
    assert table().predict([*kernels, ("Conv 5x5", 1, 1)]) is None, "an unknown kernel is not free"


def test_the_file_gives_back_what_was_written_and_its_digest_tells_points_apart(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    table().write(path)
    again = LatencyTable.read(path)
    assert again == table() and again.digest() == table().digest()
    again.checks.clear()
    assert again.digest() == table().digest(), "checks change no prediction"
    again.add("Conv 3x3/1 8x8 fp32 #1", True, 8, 4, 0.5)
    assert again.digest() != table().digest()
    assert again.knows("Conv 3x3/1 8x8 fp32 #1", 8, 4) and not again.knows("Conv 3x3/1 8x8 fp32 #1", 8, 5)
    assert not again.knows("Conv", 8, 4)
    assert len(again.forms["Conv 3x3/1 8x8 fp32 #1"].points) == len(GRID), "a point is replaced, not repeated"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not a latency table"),
        ("[]", "is not a latency table"),
        ('{"format": 1}', "is not a latency table (Field required)"),
    ],
)
def test_a_file_that_is_no_table_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(BadInput) as error:
        LatencyTable.read(tmp_path / "t.json")
    assert reason in str(error.value) and str(error.value).endswith("give another file to measure one")


def test_a_table_of_another_format_is_refused(tmp_path: Path) -> None:
    table().write(tmp_path / "t.json")
    text = (tmp_path / "t.json").read_text().replace('"format": 1', '"format": 9')
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(BadInput, match="is a latency table of format 9, not 1; measure it anew"):
        LatencyTable.read(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(1, (1,)), (3, (3,)), (16, (16, 14, 12, 10, 8, 6, 4, 2)), (64, (64, 48, 32, 16, 8)), (80, (80, 64, 40, 16, 8))],
)
def test_the_widths_of_a_side(channels: int, expected: tuple[int, ...]) -> None:
    assert axis(channels) == expected


def test_how_far_predictions_were_off() -> None:
    checks = [Check(name=str(p), predicted_ms=p, measured_ms=1.0) for p in (0.9, 1.2, 1.0)]
    assert errors(checks) == {"median": pytest.approx(0.1), "p90": pytest.approx(0.18), "worst": pytest.approx(0.2)}
    assert all(np.isnan(value) for value in errors([]).values())

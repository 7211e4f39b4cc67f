"""A build by a published system's name reports what it played by, how it learned, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import arguments

import edgeprune
from edgeprune.agents.presets import preset
from edgeprune.compiler.outcome import REWARDED
from edgeprune.errors import BadOption


class Said:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def track(self, items: Any, what: str, total: int | None = None) -> Any:
        return items

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def build(at: Path, clock: tiny.Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))

    def go(name: str, **changes: Any) -> tuple[Any, Said]:
        settings = {**tiny.QUICK["settings"], "agent": {"episodes": "64"}}
        said = Said()
        options = {"preset": name, "settings": settings, "max_macs": "0.6x", "max_accuracy_drop": 0.5, "epochs": 0,
                   "precision": "fp32", "evaluations": 32, "out": tmp_path / "out", **changes}  # fmt: skip
        return edgeprune.compile(**arguments(progress=said, **options)).report, said

    return go


def test_a_repaired_one_is_told_energy_and_reports_how_it_learned(build: Any) -> None:
    report, said = build("akperl")
    search = report.search
    assert (search.preset, search.agent, search.actions, search.observation, search.reward) == (
        "akperl", "dqn", "quarters", "akperl", "akperl"
    )  # fmt: skip
    assert search.warm and search.warm_start is not None
    assert sum(row.episodes for row in search.learning) >= 64
    assert all(row.imagined and row.reward == "akperl" for row in search.learning)
    assert search.best == max(row.score for row in search.history if row.cost <= row.target)
    for row in report.plan:
        assert row.kept in (0, row.channels) or 4 * row.kept % row.channels == 0
    notes = "\n".join(report.notes)
    assert "the agent was told theoretical energy, an estimate by arithmetic and traffic" in notes and REWARDED in notes
    assert "as printed" not in notes + "\n".join(said.lines)
    assert "the search aimed at" not in notes, "energy was no aim"


def test_one_as_printed_says_what_is_wrong_with_it(build: Any) -> None:
    report, said = build("depgraphrl-paper")
    for line in preset("depgraphrl-paper").warnings():
        assert line in report.notes and line in said.lines
    assert not report.search.warm and report.search.warm_start is None
    assert any("the agent was told theoretical-published energy" in note for note in report.notes)
    assert [row.name for row in report.search.searchers] == ["a2c"]


def test_what_is_given_by_hand_wins_and_a_grid_is_reported(build: Any) -> None:
    given = {"sparsify": {**tiny.QUICK["settings"]["sparsify"], "reward_grid": "b=0|0.5", "observation": "full"}}
    report, _ = build("akperl", settings={**tiny.QUICK["settings"], **given}, agent="a2c", evaluations=40)
    assert (report.search.agent, report.search.observation, report.search.actions) == ("a2c", "full", "quarters")
    assert [row.reward for row in report.search.reward_grid] == ["akperl b=0", "akperl b=0.5"]
    assert report.search.best >= max(row.best for row in report.search.reward_grid)


def test_an_unknown_one_answers_with_the_nearest(build: Any) -> None:
    with pytest.raises(BadOption, match=r"^unknown preset 'drivin'; did you mean 'driving'\?$"):
        build("drivin")

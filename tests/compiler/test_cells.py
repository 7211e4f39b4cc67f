"""What a comparison remembers: finished cells, and what they are looked up by."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from comparing import SETTINGS, Done, compared

from edgeprune.agents.global_ranking import GlobalRanking
from edgeprune.benches.here import Here
from edgeprune.compiler.arena import Arena
from edgeprune.compiler.comparison_report import Comparison


@pytest.fixture
def again(done: Done, at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the shared comparison again with changes, and tells which cells were run."""
    shutil.copytree(done.out, tmp_path / "c")
    shutil.copytree(done.cache, tmp_path / "cache")
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    ran: list[str] = []
    run = Arena.run
    monkeypatch.setattr(Arena, "run", lambda self, cell, name: ran.append(cell.method.label) or run(self, cell, name))

    def go(**changes: Any) -> tuple[Comparison, list[str]]:
        ran.clear()
        usual = {"out": tmp_path / "c", "max_macs": ("0.4x", "0.3x"), "epochs": 1, "measure": True}
        return compared(**{**usual, **changes}), list(ran)

    return go


def test_finished_cells_are_skipped_and_a_new_agent_is_all_that_is_run(again: Any, done: Done) -> None:
    report, ran = again()
    assert (report.to_json(), ran) == (done.report.to_json(), [])
    report, ran = again(agents=("uniform", "random", "evolution"), max_macs="0.3x")
    assert ran == ["evolution"] * 2
    assert {c.key for c in report.cells if c.method != "evolution"} < {c.key for c in done.report.cells}


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluations": 11},
        {"seed": 5},
        {"epochs": 0},
        {"settings": {**SETTINGS, "sparsify": {**SETTINGS["sparsify"], "recalibration": "32"}}},
        {"settings": {**SETTINGS, "finetune": {"lr": "0.01"}}},
        {"settings": {**SETTINGS, "agent": {"low": "0.9"}}},
    ],
)
def test_what_decides_a_cell_is_in_its_key(again: Any, changes: dict[str, Any]) -> None:
    _, ran = again(agents=("random",), max_macs="0.3x", measure=False, **changes)
    assert ran == ["random"] * 2


def test_cells_that_differ_in_fine_tuning_alone_share_the_search(
    again: Any, done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[str] = []
    search = Arena._search
    monkeypatch.setattr(
        Arena, "_search", lambda self, cell, space: searched.append(cell.method.label) or search(self, cell, space)
    )
    monkeypatch.setattr(Here, "measure", lambda self, models: tiny.Clock().measure(models))
    report, ran = again(epochs=0)
    assert len(ran) == len(done.report.cells) and searched == []
    trained = {"key": "", "tuned": None, "test": 0.0, "measurement": None}
    assert [c.model_copy(update=trained) for c in report.cells] == [
        c.model_copy(update=trained) for c in done.report.cells
    ]
    assert all(c.tuned is None for c in report.cells)
    monkeypatch.setattr("edgeprune.compiler.comparison.cores", lambda: 7)
    assert again(epochs=0)[1] == [], "where nothing is trained, threads to train with do not matter"
    assert again(agents=("random",), max_macs="0.3x")[1] == ["random"] * 2 and searched == []
    again(epochs=0, seed=9, agents=("random",), max_macs="0.3x")
    assert searched == ["random"] * 2


def test_agents_are_told_what_channels_matter(again: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[set[str]] = []
    explore = GlobalRanking.explore
    monkeypatch.setattr(
        GlobalRanking, "explore",
        lambda self, env, seed, start: told.append(set(env.space.importance)) or explore(self, env, seed, start),
    )  # fmt: skip
    report, _ = again(agents=("global-ranking",), seeds=1, max_macs="0.3x", epochs=0, measure=False)
    assert len(told) == 1 and told[0] and 1 <= report.cells[0].own <= 2


def test_other_data_and_other_weights_reuse_nothing(again: Any, done: Done, tmp_path: Path) -> None:
    tiny.write_data(tmp_path / "more.npz", test=244)
    report, ran = again(agents=("uniform",), data=tmp_path / "more.npz", max_macs="0.3x", epochs=0, measure=False)
    assert ran == ["uniform"] * 2
    assert [c.journalled for c in report.cells] == [0, 1], "nor of the journal"
    report, ran = again(agents=("uniform",), model=None, max_macs="0.3x", epochs=0, measure=False)
    assert ran == ["uniform"] * 2 and [c.journalled for c in report.cells] == [0, 1]


def test_another_task_of_the_same_data_reuses_nothing(again: Any, tmp_path: Path) -> None:
    """Its file is what decides, whatever it says of its digest."""
    own = tmp_path / "own.py"
    text = (
        "from edgeprune.tasks.classification import Classification\n\n\n"
        "class Own(Classification):\n"
        "    name = 'own'\n\n"
        "    def loss(self, output, batch):\n"
        "        return 2 * super().loss(output, batch)\n"
    )
    own.write_text(text)
    told = {"agents": ("uniform",), "max_macs": "0.3x", "epochs": 0, "measure": False, "task": f"{own}:Own",
            "settings": {"sparsify": SETTINGS["sparsify"]}, "out": tmp_path / "own"}  # fmt: skip
    assert again(**told)[1] == ["uniform"] * 2
    assert again(**told)[1] == []
    own.write_text(text.replace("2 *", "3 *"))
    report, ran = again(**told)
    assert ran == ["uniform"] * 2 and [cell.journalled for cell in report.cells] == [0, 1]


def test_a_damaged_cell_is_run_again(again: Any, done: Done, tmp_path: Path) -> None:
    first, second, *_ = sorted((tmp_path / "c" / "cells").iterdir())
    first.write_bytes(first.read_bytes()[:-20])
    second.write_text(second.read_text().replace(json.loads(second.read_bytes())["key"], "0" * 64))
    report, ran = again()
    assert len(ran) == 2
    assert [c.model_copy(update={"seconds": 0.0, "journalled": 0}) for c in report.cells] == [
        c.model_copy(update={"seconds": 0.0, "journalled": 0}) for c in done.report.cells
    ]

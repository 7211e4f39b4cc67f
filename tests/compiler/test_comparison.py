"""Comparisons of agents: what they count, which images they look at, and what they remember."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from comparing import AGENTS, SETTINGS, Done, compared
from contexts import torch_model
from networks import toy
from pruning_task import Answers

from edgeprune.compiler.auditing import Audited
from edgeprune.compiler.cache import root
from edgeprune.compiler.comparison import choosing
from edgeprune.compiler.comparison_report import Comparison
from edgeprune.compiler.comparison_text import markdown
from edgeprune.compiler.contest import Contest, methods
from edgeprune.compiler.request import Request
from edgeprune.compiler.toolbox import toolbox
from edgeprune.errors import UnmetRequirement
from edgeprune.passes.sparsify import Sparsify
from edgeprune.tasks.classification import Classification


def journals() -> list[Path]:
    return sorted((root() / "journals").iterdir())


# --- what it counts ---------------------------------------------------------------------------------------------------


def test_every_cell_counts_its_own_evaluations_over_one_journal(done: Done) -> None:
    cells = done.report.cells
    assert len(cells) == 3 * 2 * 2 == len(list((done.out / "cells").iterdir()))
    assert all(cell.evaluations <= 12 for cell in cells)
    assert {cell.evaluations for cell in cells if cell.method == "uniform"} == {1}
    (journal,) = (done.cache / "journals").iterdir()
    written = [json.loads(line)[0] for line in journal.read_text().splitlines()]
    assert len(written) == len(set(written)) == sum(c.evaluations - c.journalled for c in cells)
    once, twice = (c for c in cells if (c.method, c.budget) == ("greedy", "0.3x MACs"))
    assert once.evaluations == twice.evaluations == twice.journalled > 5, "what another cell had paid for counts"
    assert twice.improvements == once.improvements


def test_the_plan_that_scored_best_on_search_is_reported(done: Done) -> None:
    for cell in done.report.cells:
        assert cell.search == cell.improvements[-1][1]
        assert cell.macs <= {"0.4x MACs": 0.4, "0.3x MACs": 0.3}[cell.budget] * done.report.dense.macs
    greedy = [c for c in done.report.cells if c.method == "greedy" and c.budget == "0.3x MACs"]
    assert greedy[0].plan == greedy[1].plan and greedy[0].audit == greedy[1].audit, "no chance in it"


# --- which images it looks at -----------------------------------------------------------------------------------------


def test_what_chooses_and_what_reports_share_no_image_and_test_is_read_once_a_model(done: Done) -> None:
    n = {split.name: split.n for split in done.report.splits}
    assert (n["search"], n["audit"], n["test"]) == (50, 70, 120)
    parts = {indices for split, indices in done.scored if split == "search"}
    assert len(parts) == 2, "nothing ever looks at the split as a whole, nor at another part of it"
    audit, search = sorted(parts, key=lambda part: -len(part or ()))
    assert audit is not None and search is not None
    assert not set(audit) & set(search) and set(audit) | set(search) == set(range(120))
    found = done.report.cells
    final = {(c.budget, c.plan, c.seed) for c in found}
    reads = Counter(split if split == "test" else ("audit" if part == audit else "search")
                    for split, part in done.scored)  # fmt: skip
    assert reads["test"] == len(final) + 1, "each final model, and the original"
    assert reads["audit"] == 2 * len(final) + 1, "before and after fine-tuning, and the original"


def test_an_audited_task_hides_the_audit() -> None:
    task = Answers(torch_model(tiny.network(), (1, 3, 16, 16)), 40)
    half = Audited(task, 15, seed=3)
    order = np.random.default_rng(3).permutation(40)
    assert half.choosing == tuple(sorted(order[:15].tolist())), "the images a build's search of this seed would take"
    assert sorted((*half.choosing, *half.withheld)) == list(range(40))
    assert {s.name: s.n for s in half.splits()} == {"train": 40, "search": 15, "test": 40, "audit": 25}
    with pytest.raises(IndexError):
        half.score(lambda images: images, "search", [15])
    assert len(Audited(task, 2000, seed=3).choosing) == 20, "half is left"
    assert half.digest() != Audited(task, 15, seed=4).digest() != Audited(task, 16, seed=4).digest()
    assert (half.name, half.metric) == (task.name, task.metric)
    with pytest.raises(UnmetRequirement, match="holds 1 image"):
        Audited(Answers(toy("Residual"), 1), 1, seed=0)


# --- what it says -----------------------------------------------------------------------------------------------------


def test_rows_have_means_differences_and_fits(done: Done) -> None:
    report = done.report
    assert [(row.method, row.budget) for row in report.rows[:3]] == [(name, "0.4x MACs") for name in AGENTS]
    row = next(r for r in report.rows if (r.method, r.budget) == ("random", "0.3x MACs"))
    mine = [c for c in report.cells if (c.method, c.budget) == ("random", "0.3x MACs")]
    assert row.audit.mean == pytest.approx(np.mean([c.audit for c in mine]))
    assert row.tuned is not None and row.tuned.n == 2 and row.test.interval is not None
    assert row.curve[-1].evaluations == max(c.evaluations for c in mine)
    assert row.curve[-1].mean == pytest.approx(row.search.mean)
    assert row.latency_ratio is not None and row.latency_ratio.mean > 0
    assert row.against_reference == {}, "random is whom the others are held against"
    for other in report.rows:
        if other.method != "random":
            assert set(other.against_reference) == {"audit", "tuned"}
    assert report.reference == "random"
    assert set(report.regression) <= {*AGENTS, "all"}
    assert report.regression["all"].n == len({c.plan for c in report.cells})
    assert report.latency_law is not None and report.latency_law.n == report.regression["all"].n < 12, "no plan twice"
    assert Comparison.from_json((done.out / "compare.json").read_bytes()) == report


def test_the_best_baseline_is_chosen_by_the_images_that_choose(done: Done) -> None:
    for budget in done.report.budgets:
        rows = [row for row in done.report.rows if row.budget == budget.label]
        assert budget.best_baseline == max(rows, key=lambda row: row.search.mean).method


def test_finalists_have_more_images_to_be_chosen_by(done: Done) -> None:
    step = Sparsify(images=50, finalists=8)
    assert [choosing(step, n) for n in (19, 20, 300)] == [50, 200, 200]
    assert choosing(dataclasses.replace(step, finalists=1), 300) == 50
    assert choosing(dataclasses.replace(step, objective="agreement"), 1) == 2000, "they race by the metric"
    assert (done.report.images, done.report.finalists) == (50, 1)
    wide = markdown(done.report.model_copy(update={"images": 20, "finalists": 3}))
    assert "*search* (20 images while searching, up to 30 others for the best 3 plans of a search) chose the" in wide


def test_a_search_by_agreement_is_compared_by_the_metric(at: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "sparsify": {"recalibration": "64", "images": "16"}}
    report = compared(settings=settings, agents=("random",), seeds=1, evaluations=20, out=tmp_path / "a")
    assert (report.objective, report.images, report.finalists) == ("agreement", 16, 2)
    (cell,), n = report.cells, {split.name: split.n for split in report.splits}
    assert n["search"] == n["audit"] == 60, "half of the split is left to the audit, whatever would be better"
    assert cell.images == 60 and (60 * cell.search) == pytest.approx(round(60 * cell.search)), "the metric's"
    assert all(0.0 < score < 1.0 for _, score in cell.improvements)
    (told,) = (note for note in report.notes if note.startswith("Channels go by"))
    assert report.options["sparsify"]["criterion"] in ("taylor", "l1") and "of l1 and taylor the one" in told
    text = (tmp_path / "a" / "compare.md").read_text(encoding="utf-8")
    assert (
        "*search* (16 images while searching by the outputs' agreement with the original's, in which *to best* is, up "
        "to 60 for the best 2 plans of a search) chose the plan"
    ) in text
    assert "best agreement with the original so far on search" in (tmp_path / "a" / "curves.svg").read_text()


def test_finalists_are_trained_where_that_is_asked_for(at: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "sparsify": {**SETTINGS["sparsify"], "images": "30", "halving": "0.25"}}
    asked: dict[str, Any] = {"agents": ("random",), "seeds": 1, "evaluations": 20, "epochs": 1, "out": tmp_path / "a"}
    report = compared(settings=settings, **asked)
    assert any(note.startswith("The finalists of each search were trained for 0.25 epochs") for note in report.notes)
    trials = [path for path in journals() if len(path.read_text().splitlines()) == 2]
    assert trials, "two finalists of twenty evaluations, each trained once"
    assert report.options["sparsify"]["training"]["epochs"] == 1
    plain = compared(settings=SETTINGS, **{**asked, "out": tmp_path / "b"})
    assert plain.options["sparsify"]["training"] is None
    assert plain.cells[0].key != report.cells[0].key


def test_finalists_of_another_model_are_trained_under_another_name(
    at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their folders are siblings, and a training that was stopped is gone on with by whoever comes by that name."""
    names: list[str] = []
    settling = Sparsify.settling

    def named(self: Sparsify, judge: Any, ctx: Any, name: str) -> Any:
        names.append(name)
        return settling(self, judge, ctx, name)

    monkeypatch.setattr(Sparsify, "settling", named)
    asked: dict[str, Any] = {"agents": ("random",), "seeds": 1, "evaluations": 3}
    for number, changes in enumerate([{}, {"evaluations": 4}, {"model": None}]):
        compared(**{**asked, **changes, "out": tmp_path / str(number)})
    first, again, other = names
    assert first == again != other


def test_estimates_are_not_fitted_as_if_they_were_times(at: Path, tmp_path: Path) -> None:
    report = compared(agents=("random",), seeds=1, evaluations=3, max_macs=("0.3x", "0.6x"), measure=True,
                      target="jetson-xavier", out=tmp_path / "c")  # fmt: skip
    assert {cell.measurement.source for cell in report.cells if cell.measurement} == {"estimated"}
    assert report.regression and report.latency_law is None


def test_the_page_says_what_each_figure_is(done: Done) -> None:
    text = (done.out / "compare.md").read_text(encoding="utf-8")
    assert text == markdown(done.report)
    for part in (
        "*search* (50 images) chose the plan, *audit* (70 other images of that split) and *test* (120 images, read",
        "an epoch of fine-tuning for every plan",
        "| method | evals | to best | search | audit | audit, tuned | test | MACs | p50, measured |",
        "uniform against random, audit before fine-tuning:",
        "ANOVA between methods, audit after fine-tuning:",
        "for each tenth of the MACs removed",
        "Seeds vary the agent and the order of fine-tuning, not the images",
        "Ended by themselves before 12 evaluations: random, uniform",
    ):
        assert part in text, part
    assert text.count("significant") + text.count("at every seed") >= 8, "every difference is judged"
    for name in ("curves.svg", "pareto.svg"):
        assert (done.out / name).read_text(encoding="utf-8").startswith("<?xml")
    for name in ("curves.png", "pareto.png"):
        assert (done.out / name).read_bytes().startswith(b"\x89PNG")


def test_one_seed_says_why_there_is_no_interval(at: Path, tmp_path: Path) -> None:
    report = compared(out=tmp_path / "c", seeds=1, agents=("random", "uniform"), max_macs="0.3x")
    assert {row.audit.interval for row in report.rows} == {None}
    text = markdown(report)
    assert "One seed: there is no spread, so no interval and no test" in text
    assert "points: one seed: no interval, so nothing can be said about chance." in text
    assert "±" not in text.partition("## At most")[2]
    assert report.cells[0].tuned is None and "tuned" not in text
    assert report.regression == {} and report.latency_law is None


def test_without_distillation_finalists_are_trained_without_it_too() -> None:
    settings = {"sparsify": {"halving": "0.5"}}
    tools = toolbox(settings, agent="uniform", evaluations=20, epochs=1, effort="normal", precision="fp32", data=True,
                    free_groups=3, task=Classification)  # fmt: skip
    contest = Contest(Request(settings=settings), ("random",), epochs=1, ablations=("no-distillation",))
    usual, without = methods(contest, tools)
    taught, alone = ((one.finetune, one.sparsify.training) for one in (usual, without))
    assert all(training.distillation > 0.0 < training.hints for training in taught)
    assert all(training.distillation == 0.0 == training.hints for training in alone)
    assert without.sparsify.training.epochs == 1


def test_learning_agents_have_a_row_cold_and_ablations_one_each(at: Path, tmp_path: Path) -> None:
    report = compared(out=tmp_path / "c", seeds=1, agents=("a2c", "uniform"), cold=True, max_macs="0.3x",
                      ablations=("no-recalibration",))  # fmt: skip
    rows = [row.method for row in report.rows]
    assert rows == ["a2c", "uniform", "a2c (cold)", "a2c (no recalibration)", "uniform (no recalibration)",
                    "a2c (cold) (no recalibration)"]  # fmt: skip
    cells = {cell.method: cell for cell in report.cells}
    assert cells["a2c"].own < cells["a2c"].evaluations <= 12, "the warm start's evaluations are its own run's"
    assert cells["a2c (cold)"].own == cells["a2c (cold)"].evaluations <= 12
    assert cells["uniform"].plan == cells["uniform (no recalibration)"].plan
    assert cells["uniform"].audit == cells["uniform (no recalibration)"].audit, "judged as every other row"
    with_them, without = (dict(map(json.loads, path.read_text().splitlines())) for path in journals())
    assert set(with_them) & set(without) and with_them != without
    assert any(with_them[plan] != without[plan] for plan in set(with_them) & set(without))
    assert report.reference is None and report.budgets[0].best_baseline == "uniform"

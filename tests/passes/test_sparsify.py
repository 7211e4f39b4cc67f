from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contexts import BOARD, context, smooth_images
from networks import toy
from pruning_task import Answers

from edgeprune import find, surgery
from edgeprune.agents import warm
from edgeprune.agents.presets import PRESETS
from edgeprune.compiler.request import configure
from edgeprune.errors import BadOption, Infeasible, UnmetRequirement
from edgeprune.groups import DROP, plan_of, uniform
from edgeprune.layers import nonzero
from edgeprune.mixed import tallied
from edgeprune.model import Surgery, TorchModel
from edgeprune.passes import judging
from edgeprune.passes.finetune import Finetune
from edgeprune.passes.judging import Judge
from edgeprune.passes.pool import Threads
from edgeprune.passes.recording import group_rows
from edgeprune.passes.sparsify import Sparsify
from edgeprune.profiles.board import Int8Layout
from edgeprune.recalibration import first_images, recalibrate
from edgeprune.rounding import round_off
from edgeprune.tally import Tally, Term
from edgeprune.tasks.synthetic import Synthetic
from edgeprune.tracing import size_of, trace

FINE = BOARD.model_copy(update={"channel_multiples": {"fp32": 1}})


def search(
    folder: Path,
    agent: str = "uniform",
    share: float = 0.6,
    model: TorchModel | None = None,
    options: dict[str, Any] | None = None,
    **changes: Any,
) -> tuple[TorchModel, dict[str, Any], Answers]:
    """Run the pass on a toy; ``share`` is the ceiling on MACs as a share of the original's."""
    model = model or toy("Residual")
    limits = (("macs", share * size_of(model)["macs"]),)
    found: Any = find.find("agents", agent)()
    usual = {"agent": found, "evaluations": 30, "limits": limits, "recalibration": 32, "criterion": "taylor"}
    step = Sparsify(**{**usual, **(options or {})})
    changes = {"board": FINE, "task": Answers(model, 48), **changes}
    ctx, facts = context(folder, model, **changes)
    step.requires(model, ctx)
    return step.run(model.clone(), ctx), facts, changes["task"]


def state(model: TorchModel) -> dict[str, Any]:
    return {key: tensor.tolist() for key, tensor in model.module.state_dict().items()}


@pytest.fixture(scope="module")
def by_ppo(tmp_path_factory: pytest.TempPathFactory) -> tuple[TorchModel, dict[str, Any], Answers, dict[str, Any]]:
    journals: dict[str, Any] = {}
    found = search(
        tmp_path_factory.mktemp("ppo"), "ppo", options={"evaluations": 60},
        journal=lambda name: journals.setdefault(name, {}),
    )  # fmt: skip
    return *found, journals


def plans(facts: dict[str, Any]) -> list[str]:
    """Return the plans that were evaluated, whatever channels went by."""
    return [plan for scores in facts["asked"].values() for plan in scores]


# --- what it promises -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", warm.BASELINES)
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_the_ceiling_holds_and_no_evaluation_is_stolen(agent: str, share: float, tmp_path: Path) -> None:
    model = toy("Residual")
    cut, facts, task = search(tmp_path, agent, share, model)
    assert size_of(cut)["macs"] <= share * size_of(model)["macs"]
    assert task.scored == facts["evaluations"] == sum(row.evaluations for row in facts["searchers"]) <= 30
    assert facts["reached"] == pytest.approx(size_of(cut)["macs"] / size_of(model)["macs"])
    assert facts["target"] == pytest.approx(share)
    assert facts["agent"] == agent
    cut.verify()


def test_a_ceiling_on_parameters_holds_too_and_several_at_once(tmp_path: Path) -> None:
    model = toy("Residual")
    full = size_of(model)
    limits = (("macs", 0.7 * full["macs"]), ("parameters", 0.4 * full["parameters"]))
    cut, facts, _ = search(tmp_path, "random", model=model, options={"limits": limits})
    assert size_of(cut)["macs"] <= limits[0][1] and size_of(cut)["parameters"] <= limits[1][1]
    assert facts["quantity"] == "macs"


def test_a_learning_agent_starts_from_the_baselines_and_never_ends_below_them(by_ppo) -> None:
    cut, facts, task, _ = by_ppo
    rows = {row.name: row for row in facts["searchers"]}
    assert list(rows) == ["uniform", "global-ranking", "random", "greedy", "knapsack", "ppo"]
    assert rows["uniform"].evaluations == 1
    assert rows["ppo"].evaluations > 0, "something is left for the agent itself"
    assert sum(row.evaluations for row in rows.values()) == facts["evaluations"] == task.scored <= 60
    assert facts["warm_start"] == max(row.best for name, row in rows.items() if name != "ppo")
    assert rows["ppo"].best >= facts["warm_start"], "its start plans are among its own"
    assert facts["best"] == max(row.best for row in rows.values())
    assert size_of(cut)["macs"] <= 0.6 * size_of(toy("Residual"))["macs"]
    assert facts["resumed"] == 0


def test_what_is_recorded_can_be_checked(by_ppo) -> None:
    cut, facts, _, journals = by_ppo
    assert len(facts["history"]) == facts["evaluations"]
    assert facts["best"] == max(row.score for row in facts["history"] if row.cost <= facts["target"])
    assert facts["asked"] == {name.removeprefix("plans-"): dict(journal) for name, journal in journals.items()}
    assert all(facts["criterion"] in name for name in facts["asked"])
    assert 0.0 <= facts["agent_overhead"] <= 1.0
    value = Answers(toy("Residual"), 48).score(cut.predict, "search").value
    assert value == facts["best"], "the returned model is the one that was scored"


def test_the_plan_tells_what_became_of_each_group(by_ppo) -> None:
    cut, facts, *_ = by_ppo
    left = {g.name: g.channels for g in trace(cut).groups}
    for row in facts["plan"]:
        assert row.kept == left.get(row.group, 0)
    assert {row.group for row in facts["plan"] if row.reason == "its channels are the model's outputs"} == {"head"}


def test_an_interrupted_search_pays_for_nothing_twice(by_ppo, tmp_path: Path) -> None:
    cut, facts, _, journals = by_ppo
    again, refound, task = search(
        tmp_path, "ppo", options={"evaluations": 60}, journal=lambda name: journals.setdefault(name, {})
    )
    assert task.scored == 0
    assert refound["agent_overhead"] is None, "nothing was evaluated to compare it with"
    assert refound["resumed"] == refound["evaluations"] == facts["evaluations"], "but all of it counts"
    assert refound["asked"] == facts["asked"]
    assert state(again) == state(cut)


def test_a_search_cut_short_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, facts, _ = search(tmp_path, "random")
    journals: dict[str, Any] = {}
    lock = threading.Lock()

    class Interrupted(Answers):
        def score(self, predict, split, indices=None):
            with lock:
                if self.scored == 7:
                    raise KeyboardInterrupt
            return super().score(predict, split, indices)

    model = toy("Residual")
    keep = {"journal": lambda name: journals.setdefault(name, {})}
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, "random", task=Interrupted(model, 48), **keep)
    (journal,) = journals.values()
    assert len(journal) == 7, "each score is written down as it arrives"
    again, refound, task = search(tmp_path, "random", **keep)
    assert (refound["resumed"], task.scored) == (7, facts["evaluations"] - 7)
    assert refound["asked"] == facts["asked"]
    assert state(again) == state(whole)


def test_what_other_searches_were_told_steers_this_one_and_costs_it_nothing(tmp_path: Path) -> None:
    def under(share: float, earlier: Any) -> tuple[dict[str, Any], int]:
        options = {"evaluations": 16, "earlier": earlier}
        _, facts, task = search(tmp_path, "ppo", share, options=options)
        return facts, task.scored

    told = under(0.8, {})[0]["asked"]
    (alone, _), (taught, scored) = under(0.6, {}), under(0.6, told)
    assert taught["asked"] != alone["asked"]
    assert taught["evaluations"] == scored == 16, "and none of them was known without asking"
    elsewhere = {f"another model's, {name}": scores for name, scores in told.items()}
    assert under(0.6, elsewhere)[0]["asked"] == alone["asked"], "scores that were come to in another way say nothing"


def test_the_order_in_which_scores_are_told_says_nothing(tmp_path: Path) -> None:
    """A pass that comes from the cache tells them in another."""
    model = toy("Residual")
    told = search(tmp_path, "random", model=model)[1]["asked"]
    backwards = {name: dict(reversed(scores.items())) for name, scores in told.items()}
    ctx, _ = context(tmp_path, model, board=FINE, task=Answers(model, 48))
    one, other = (Sparsify(recalibration=32, earlier=earlier) for earlier in (told, backwards))
    seen = [list(step.arranged("taylor", model, step.rows(model, FINE), ctx).evaluator.earlier.items())
            for step in (one, other)]  # fmt: skip
    assert seen[0] == seen[1] and len(seen[0]) == 30


@pytest.mark.parametrize("agent", ["random", "ppo"])
def test_workers_change_the_time_and_nothing_else(agent: str, tmp_path: Path) -> None:
    (one, facts, _), (two, others, _) = (
        search(tmp_path, agent, options={"evaluations": 40}, pool=Threads(workers)) for workers in (1, 2)
    )
    assert facts["asked"] == others["asked"]
    assert [row.score for row in facts["history"]] == [row.score for row in others["history"]]
    assert one.surgery == two.surgery and state(one) == state(two)


def test_the_seed_decides(tmp_path: Path) -> None:
    (_, one, _), (_, two, _) = (search(tmp_path, "random", seed=seed) for seed in (0, 1))
    assert one["asked"] != two["asked"]


def test_threads_are_given_back_even_after_a_failure(tmp_path: Path) -> None:
    class Broken(Answers):
        def score(self, predict, split, indices=None):
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError

    before, running = torch.get_num_threads(), threading.active_count()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            search(tmp_path, task=Broken(toy("Residual"), 48), pool=Threads(2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threading.active_count() == running


def test_memory_is_given_back_once_the_workers_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[int] = []
    monkeypatch.setattr(judging, "give_back", lambda: running.append(threading.active_count()))
    before = threading.active_count()
    search(tmp_path, pool=Threads(2))
    assert running and set(running) == {before}


class Watched(Answers):
    """Remembers which images of which split were scored, in the order in which they first were."""

    def score(self, predict, split, indices=None):
        seen = vars(self).setdefault("seen", {})
        seen[split, tuple(indices)] = seen.get((split, tuple(indices)), 0) + 1
        return super().score(predict, split, indices)


def test_a_subset_of_the_search_split_is_scored_and_always_the_same(tmp_path: Path) -> None:
    _, _, task = search(
        tmp_path, "random", task=Watched(toy("Residual"), 48), options={"images": 20, "finalists": 1}
    )
    ((split, indices),) = task.seen
    assert split == "search" and len(set(indices)) == 20 and max(indices) < 48


def test_the_best_plans_are_scored_again_on_other_images_and_the_first_of_them_is_taken(tmp_path: Path) -> None:
    options = {"images": 12, "finalists": 3, "evaluations": 30}
    cut, facts, task = search(tmp_path, "random", task=Watched(toy("Residual"), 48), options=options)
    assert facts["evaluations"] == len(facts["history"]) == 30
    (few, times), *more = ((indices, times) for (_, indices), times in task.seen.items())
    assert (len(few), times) == (12, 30)
    assert more and [len(indices) for indices, _ in more] == [12, 36][: len(more)]
    assert all(not set(few) & set(indices) for indices, _ in more) and more[0][1] == 3
    rows = facts["finalists"]
    best = sorted((row.score for row in facts["history"] if row.cost <= facts["target"]), reverse=True)
    start = next(row.best for row in facts["searchers"] if row.name == "uniform")
    seated = best[:3] if start >= best[2] else [*best[:2], start]
    assert sorted(row.searched for row in rows) == pytest.approx(sorted(seated))
    assert facts["plan"][0].kept == int(rows[0].plan.split("-")[0])
    seen = {len(indices): indices for indices, _ in more}
    for images, score in ((rows[0].images, rows[0].score), (facts["images"], facts["best"])):
        fresh = Answers(toy("Residual"), 48).score(cut.predict, "search", seen[images])
        assert score == pytest.approx(fresh.value, abs=1e-6)


def test_a_search_by_agreement_looks_at_few_images_and_its_finalists_at_all_by_the_metric(tmp_path: Path) -> None:
    options = {"images": 8, "finalists": 3, "evaluations": 30, "objective": "agreement"}
    cut, facts, task = search(tmp_path, "random", task=Watched(toy("Residual"), 48), options=options)
    assert facts["objective"] == "agreement"
    (few, times), *more = ((indices, times) for (_, indices), times in task.seen.items())
    assert (len(few), times) == (8, 31), "the original is asked once"
    assert [len(indices) for indices, _ in more] == [32, 48][: len(more)] and not set(few) & set(more[0][0])
    step = Sparsify(criterion="l1")
    ctx, _ = context(tmp_path, toy("Residual"), board=FINE, task=Answers(toy("Residual"), 48))
    groups = step.rows(toy("Residual"), FINE).groups
    ranking = step.ranking(toy("Residual"), groups, ctx.task, 0)
    judge = Judge(
        toy("Residual"), groups, ranking, ctx, step.surgery, images=12, recalibration=0, objective="agreement"
    )
    plans = [tuple(group.channels for group in groups), uniform(groups, 0.5)]
    with judge.running():
        same, half = judge.scores(plans)
    assert 0.0 < half < same == 1.0, "all channels agree, and half of them less"
    assert abs(12 * half - round(12 * half)) > 1e-6, "no share of 12 images that are right"
    rows = facts["finalists"]
    best = sorted((row.score for row in facts["history"] if row.cost <= facts["target"]), reverse=True)
    assert set(best[:2]) <= {row.searched for row in rows} and rows[0].searched != rows[0].score
    seen = {len(indices): indices for indices, _ in more}
    fresh = Answers(toy("Residual"), 48).score(cut.predict, "search", seen[rows[0].images])
    assert rows[0].score == pytest.approx(fresh.value, abs=1e-6), "the finalists' scores are the metric's"
    assert facts["best"] >= facts["warm_start"] and facts["images"] <= rows[0].images


@pytest.mark.parametrize("agent", ["uniform", "random", "ppo"])
def test_the_choice_of_a_criterion_is_paid_for_by_the_search(agent: str, tmp_path: Path) -> None:
    journals: dict[str, Any] = {}
    options = {"criterion": "auto", "evaluations": 40}
    again: Any = {"options": options, "journal": lambda name: journals.setdefault(name, {})}
    _, facts, task = search(tmp_path, agent, **again)
    rows = {row.name: row for row in facts["searchers"]}
    tried = ["global-ranking by taylor", "global-ranking by l1"]
    assert list(rows)[:2] == tried and all(1 <= rows[name].evaluations <= 2 for name in tried)
    assert facts["criterion"] == ("taylor" if rows[tried[0]].best >= rows[tried[1]].best else "l1")
    count = sum(row.evaluations for row in rows.values())
    assert task.scored == facts["evaluations"] == count == len(facts["history"]) == len(plans(facts)) <= 40
    (lost,) = {"taylor", "l1"} - {facts["criterion"]}
    (others,) = (scores for name, scores in facts["asked"].items() if f"-{lost}-" in name)
    assert len(others) == rows[f"global-ranking by {lost}"].evaluations
    assert facts["resumed"] == 0
    _, resumed, fresh = search(tmp_path, agent, **again)
    assert (fresh.scored, resumed["resumed"]) == (0, facts["evaluations"])
    assert resumed["asked"] == facts["asked"] and resumed["plan"] == facts["plan"]


def test_scores_by_another_objective_are_kept_apart(tmp_path: Path) -> None:
    journals: dict[str, Any] = {}
    for objective in ("metric", "agreement"):
        search(tmp_path, options={"objective": objective}, journal=lambda name: journals.setdefault(name, {}))
    assert len(journals) == 2, "a score found under the wrong name would be believed"


def test_rewards_that_weigh_accuracy_and_synthetic_images_are_told_the_metric(tmp_path: Path) -> None:
    task, synthetic = Answers(toy("Residual"), 48), Synthetic(toy("Residual"))
    assert Sparsify(objective="agreement").aims_at(task) == "agreement"
    assert Sparsify(objective="agreement", reward="driving").aims_at(task) == "metric"
    assert Sparsify(objective="agreement").aims_at(synthetic) == "metric"
    assert Sparsify().aims_at(task) == "metric"
    assert [Sparsify().looks_at(objective) for objective in ("metric", "agreement")] == [2000, 256]
    assert Sparsify(images=5).looks_at("metric") == Sparsify(images=5).looks_at("agreement") == 5
    ctx, _ = context(tmp_path, toy("Residual"), task=Answers(toy("Residual"), 300))
    weighing = Sparsify(objective="agreement", reward="driving")
    judge = weighing.arranged("l1", toy("Residual"), trace(toy("Residual")), ctx).judge
    assert judge.images == 300, "a metric of 256 images would be noise"
    with pytest.raises(ValueError, match="objective 'agree' is not one of metric, agreement"):
        Sparsify(objective="agree")


def test_finalists_are_trained_and_the_best_trained_plan_is_taken_untrained(tmp_path: Path) -> None:
    options = {"images": 12, "finalists": 3, "evaluations": 30}
    plain, plainly, untrained = search(tmp_path / "plain", "random", options=options)
    training = Finetune(epochs=1, lr=0.05)
    options |= {"halving": 0.5, "training": training}
    (tmp_path / "halved").mkdir()
    cut, facts, task = search(tmp_path / "halved", "random", options=options)
    assert {row.plan for row in facts["finalists"]} == {row.plan for row in plainly["finalists"]}
    assert [row.epochs for row in facts["finalists"]] == [1.0, 1.0, 0.5]
    assert facts["finalists"][0].trained >= facts["finalists"][1].trained
    assert len(task.begun) - len(untrained.begun) == 3 + 2, "three finalists for half an epoch, two for a whole one"
    assert facts["plan"][0].kept == int(facts["finalists"][0].plan.split("-")[0])
    assert facts["reached"] == pytest.approx(size_of(cut)["macs"] / size_of(toy("Residual"))["macs"])
    taken = facts["finalists"][0].plan
    if taken == plainly["finalists"][0].plan:
        assert state(cut) == state(plain), "the cut itself is the untrained one"
    assert plainly["finalists"][0].trained is None


def test_batch_norms_are_estimated_anew_on_training_images(tmp_path: Path) -> None:
    model = toy("Residual")
    seen = first_images(Answers(model, 48).calibration_batches(), 32)
    recalibrate(model.module, seen)
    with_statistics, _, _ = search(tmp_path, model=model)
    without, _, _ = search(tmp_path, model=model, options={"recalibration": 0})
    assert with_statistics.surgery == without.surgery
    kept = {name: list(sides[0]) for name, sides in without.surgery.kept.items() if sides[0]}
    wanted = without.clone().module
    recalibrate(wanted, seen)
    moved = missed = 0.0
    for name, norm in wanted.named_modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            found, before = with_statistics.module.get_submodule(name), without.module.get_submodule(name)
            old = model.module.get_submodule(name).running_mean
            assert torch.equal(before.running_mean, old[kept[name]] if name in kept else old), "the original's"
            moved += (norm.running_mean - before.running_mean).abs().sum().item()
            missed += (norm.running_mean - found.running_mean).abs().sum().item()
    assert moved > 1.0 > 0.1 > missed, "the original's are those of these very images: there is nothing to correct"


@pytest.mark.parametrize("before", [(), (0, 1)])
def test_what_a_cut_does_not_reach_keeps_the_statistics_that_it_was_trained_with(
    before: tuple[int, ...], tmp_path: Path
) -> None:
    """So does what an earlier cut left: indices are those of the model that was searched."""
    model, whole = toy("Residual"), trace(toy("Residual"))
    plan = tuple(group.channels for group in whole.groups)
    gone = next(group for group in whole.groups if any(member.module == "stem.0" for member in group.members))
    left = [channel for channel in range(gone.channels) if channel not in before]
    worth = {group.name: np.ones(group.channels) for group in whole.groups}
    worth[gone.name][list(before)] = 0.0
    widths = [len(left) if group is gone else width for group, width in zip(whole.groups, plan, strict=True)]
    model = surgery.apply(model, whole.groups, plan_of(whole.groups, tuple(widths), worth))
    recalibrate(model.module, [1.5 * torch.from_numpy(smooth_images(48)) + 0.3])  # images of another kind
    cut, _, _ = search(tmp_path, model=model, task=Answers(model, 48))
    kept = [left.index(channel) for channel in cut.surgery.kept["stem.1"][0]]
    old, new = model.module.stem[1].running_mean, cut.module.stem[1].running_mean
    assert len(kept) < len(left) and torch.allclose(new, old[kept], rtol=1e-4, atol=1e-5)


def test_a_net_without_batch_norms_can_be_searched(tmp_path: Path) -> None:
    cut, _, _ = search(tmp_path, "random", model=toy("Parametric"))
    cut.verify()
    assert size_of(cut)["macs"] < size_of(toy("Parametric"))["macs"]


def test_aligned_searches_only_ask_for_widths_the_target_likes(tmp_path: Path) -> None:
    board = BOARD.model_copy(update={"channel_multiples": {"fp32": 8, "int8": 4}})
    _, facts, _ = search(tmp_path, "random", options={"aligned": True}, board=board)
    cost = trace(toy("Residual"))
    for asked in plans(facts):
        for width, group in zip(map(int, asked.split("-")), cost.groups, strict=True):
            assert width == group.channels or width % 8 == 0
    _, facts, _ = search(tmp_path, "random", board=board)
    assert any(int(width) % 8 for asked in plans(facts) for width in asked.split("-")[:-1])


def test_a_plan_can_be_replayed_from_its_record(tmp_path: Path) -> None:
    model = toy("Residual")
    cut, _, _ = search(tmp_path, "random", model=model)
    again = surgery.rebuild(model, cut.surgery)
    for key, tensor in again.module.state_dict().items():
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(tensor, cut.module.state_dict()[key])


def test_rows_of_a_dropped_block() -> None:
    cost = trace(toy("Residual"))
    chosen = {"one.conv1": DROP, "stem.0": 1}
    widths = tuple(chosen.get(g.name, g.channels) for g in cost.groups)
    rows = {row.group: row for row in group_rows(cost, widths)}
    assert (rows["one.conv1"].kept, rows["one.conv1"].dropped_block) == (0, "one")
    assert (rows["stem.0"].kept, rows["stem.0"].dropped_block, rows["stem.0"].reason) == (1, None, "")
    assert rows["head"].reason == "its channels are the model's outputs" and rows["head"].ladder == (5,)
    assert rows["stem.0"].macs_share == pytest.approx(cost.share_of(0)["macs"])


def test_only_the_block_that_went_is_said_to_have_gone() -> None:
    cost = trace(toy("Untraceable"))
    widths = tuple(DROP if g.block == "one" else g.channels for g in cost.groups)
    kept = {row.group: row.kept for row in group_rows(cost, widths)}
    assert {name for name, width in kept.items() if width == 0} == {"one.conv1", "one.conv2"}


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_search_needs_a_task_and_a_ceiling(tmp_path: Path) -> None:
    model = toy("Plain")
    ctx, _ = context(tmp_path, model)
    with pytest.raises(UnmetRequirement, match=r"^a search needs a task to score its plans; give --data$"):
        Sparsify(limits=(("macs", 1.0),)).requires(model, ctx)
    ctx, _ = context(tmp_path, model, task=Answers(model, 8))
    with pytest.raises(UnmetRequirement, match=r"^a search needs a ceiling on macs, parameters or what a table tells$"):
        Sparsify().requires(model, ctx)


def test_reconstruction_is_for_channels_and_real_images(tmp_path: Path) -> None:
    model = toy("Plain")
    message = r"^reconstruction is for channels that go, and needs real data: give --data, and granularity=channel$"
    for granularity, task in (("element", Answers(model, 8)), ("channel", Synthetic(model))):
        ctx, _ = context(tmp_path, model, task=task)
        step = Sparsify(limits=(("macs", 1.0),), reconstruction=True, granularity=granularity)
        with pytest.raises(UnmetRequirement, match=message):
            step.requires(model, ctx)


def test_halving_needs_real_images(tmp_path: Path) -> None:
    model = toy("Plain")
    message = r"^halving trains finalists: give --data, and from Python training=Finetune\(epochs=1\) with it$"
    for training, task in ((Finetune(epochs=1), Synthetic(model)), (None, Answers(model, 8))):
        ctx, _ = context(tmp_path, model, task=task)
        with pytest.raises(UnmetRequirement, match=message):
            Sparsify(limits=(("macs", 1.0),), halving=0.5, training=training).requires(model, ctx)


def test_reconstructed_plans_have_scores_of_their_own(tmp_path: Path) -> None:
    journals: dict[str, Any] = {}
    for on in (False, True):
        search(tmp_path, options={"reconstruction": on}, journal=lambda name: journals.setdefault(name, {}))
    plain, reconstructed = journals.values()
    assert plain.keys() == reconstructed.keys() and plain != reconstructed


def test_a_global_ranking_goes_by_the_criterion(tmp_path: Path) -> None:
    model = toy("Residual")
    group = next(one for one in trace(model).groups if not one.locked and not one.block)
    parts = dict(model.module.named_modules())
    with torch.no_grad():
        for member in group.members:
            if member.side == "out" and isinstance(parts[member.module], torch.nn.Conv2d):
                parts[member.module].weight[: group.channels // 2] *= 1e-6
    step = {"criterion": "l1"}
    _, asked, *_ = plans(search(tmp_path, "global-ranking", share=0.9, model=model, options=step)[1])  # after uniform
    widths = dict(zip((one.name for one in trace(model).groups), map(int, asked.split("-")), strict=True))
    assert [one.name for one in trace(model).groups if widths[one.name] < one.channels] == [group.name]


def test_a_net_with_nothing_to_choose_is_refused(tmp_path: Path) -> None:
    message = r"^no group of this model can be pruned; `edgeprune inspect` says why for each$"
    with pytest.raises(UnmetRequirement, match=message):
        search(tmp_path, model=toy("Averaged"))


def test_a_ceiling_out_of_reach_is_refused_before_any_scoring(tmp_path: Path) -> None:
    task = Answers(toy("Residual"), 8)
    with pytest.raises(Infeasible, match=r"^the ceiling of .* is out of reach: the smallest reachable is 0\.\d+x"):
        search(tmp_path, share=1e-4, task=task)
    assert task.scored == 0


def both(model: TorchModel, slow: str) -> Tally:
    """Made-up times: every layer takes its outputs times its inputs, and a quarter in int8, but for one twice."""
    ops = [op for op in trace(model).ops if op.positions]

    def terms(factor: dict[str, float]) -> list[Term]:
        sides = [(op.name, np.arange(1.0, op.outputs + 1), np.arange(1.0, (op.inputs or 1) + 1)) for op in ops]
        return [Term(name, tuple(o), tuple(i), factor.get(name, 0.25) * np.outer(o, i)) for name, o, i in sides]

    return Tally("latency", terms({slow: 2.0}), floating=Tally("latency", terms({op.name: 1.0 for op in ops})),
                 lowered=[op.name for op in ops])  # fmt: skip


def test_mixed_plans_choose_widths_and_then_precisions(tmp_path: Path) -> None:
    model, journals = toy("Residual"), {}
    pair = both(model, "two.conv2")
    assert pair.floating is not None
    full = sum(float(term.grid[-1, -1]) for term in pair.floating.terms)
    options = {"mixed": True, "tallies": (pair,), "limits": (("latency", 0.2 * full),), "evaluations": 40}
    cut, facts, _ = search(tmp_path, "random", model=model, options=options,
                           journal=lambda name: journals.setdefault(name, {}))  # fmt: skip
    rows = facts["plan"]
    assert [row.group for row in rows] == [group.name for group in trace(model).groups]
    assert {row.precision for row in rows} <= {"int8", "float", None}
    assert any(row.precision == "int8" for row in rows)
    floating = set(cut.surgery.floating)
    for row, group in zip(rows, trace(model).groups, strict=True):
        made = {member.module for member in group.members if member.side == "out"} & {t.op for t in pair.terms}
        if row.precision:
            assert (row.precision == "float") == (made <= floating) and bool(made)
    assert len(next(iter(journals.values()))) == 40 and "-rounded" in next(iter(journals))
    assert facts["reached"] <= 0.2
    assert search(tmp_path, "random", model=model)[0].surgery.floating == ()


def test_mixed_plans_are_scored_as_they_compute_in_int8(tmp_path: Path) -> None:
    model, journals = toy("Residual"), {}
    with torch.no_grad():  # the norm behind it does not mind, but the one scale of int8 is lost on all other channels
        model.module.stem[0].weight[0] *= 50.0
    recalibrate(model.module, [torch.from_numpy(smooth_images(48))])
    board = FINE.model_copy(update={"int8": Int8Layout(activation="uint8", per_channel=False)})
    pair = both(model, "head")
    cost = tallied(trace(model), [pair])
    least = cost.cost(uniform(cost.groups, 1.0))["latency"]  # all in int8
    for mixed in (False, True):
        options = {"mixed": mixed, "tallies": (pair,), "limits": (("latency", least),), "evaluations": 1}
        options["agent"] = find.find("agents", "uniform")()
        search(tmp_path, model=model, board=board, options=options,
               journal=lambda name: journals.setdefault(name, {}))  # fmt: skip
    (plain,), (rounded,) = (tuple(scores.values()) for scores in journals.values())
    task = Answers(model, 48)
    whole = model.clone()  # its batch norms beside themselves stay what they are
    seen = first_images(task.calibration_batches(), 32)
    assert plain == pytest.approx(task.score(whole.predict, "search").value)
    round_off(whole.module, pair.lowered, seen[:1], board.int8)
    # Another order of sums tips values that lie between two steps.
    assert rounded == pytest.approx(task.score(whole.predict, "search").value, abs=0.07) and plain > rounded + 0.1


def test_finalists_of_mixed_plans_are_judged_in_int8(tmp_path: Path) -> None:
    model = toy("Residual")
    with torch.no_grad():
        model.module.stem[0].weight[0] *= 50.0
    recalibrate(model.module, [torch.from_numpy(smooth_images(48))])
    task, pair = Answers(model, 48), both(model, "head")
    board = FINE.model_copy(update={"int8": Int8Layout(activation="uint8", per_channel=False)})
    ctx, _ = context(tmp_path, model, task=task, board=board)
    step = Sparsify(mixed=True)
    for floating in ((), tuple(pair.lowered)):
        one = TorchModel(model.module, model.spec, model.inputs, Surgery(floating=floating))
        told = {
            lowered: Judge(one, trace(one).groups, {}, ctx, step.surgery, images=48, recalibration=32,
                           lowered=lowered).finished(one)
            for lowered in (None, pair.lowered)
        }  # fmt: skip
        plain = task.score(model.predict, "search").value
        assert told[None] == plain and (told[pair.lowered] == plain if floating else told[pair.lowered] < plain - 0.1)


def test_scores_of_another_int8_are_not_taken_for_the_same(tmp_path: Path) -> None:
    model, journals = toy("Residual"), {}
    pair = both(model, "head")
    for board, tally in ((FINE, pair), (FINE.model_copy(update={"int8": Int8Layout(activation="int8")}), pair),
                         (FINE, pair.choosing(pair.floating, pair.lowered - {"head"}))):  # fmt: skip
        options = {"mixed": True, "tallies": (tally,), "limits": (("latency", 1e9),), "evaluations": 1}
        options["agent"] = find.find("agents", "uniform")()
        search(tmp_path, model=model, board=board, options=options,
               journal=lambda name: journals.setdefault(name, {}))  # fmt: skip
    assert len(journals) == 3


def test_mixed_plans_want_a_table_of_both_precisions(tmp_path: Path) -> None:
    model = toy("Residual")
    plain = both(model, "head")
    plain.floating = None
    message = "mixed chooses where int8 pays: give --data, a target with int8, --table, and a ceiling on its latency"
    limits, pair = (("latency", 1e9),), both(model, "head")
    for changes, board in (({"tallies": (plain,)}, FINE), ({"tallies": (), "limits": (("macs", 1e9),)}, FINE),
                           ({"tallies": (pair,), "limits": (("macs", 1e9),)}, FINE),
                           ({"tallies": (pair,)}, FINE.model_copy(update={"int8": None}))):  # fmt: skip
        with pytest.raises(UnmetRequirement, match=f"^{message}$"):
            search(tmp_path, model=model, board=board, options={"mixed": True, "limits": limits, **changes})
    for wrong in ({"granularity": "element"}, {"recalibration": 0}):
        with pytest.raises(ValueError, match=r"^mixed wants granularity=channel, and recalibration above 0 for"):
            Sparsify(mixed=True, **wrong)


def test_options_out_of_range() -> None:
    with pytest.raises(BadOption, match=r"^unknown criterion 'tailor'; did you mean 'taylor'\?$"):
        Sparsify(criterion="tailor")
    with pytest.raises(ValueError, match=r"^finalists must be at least 1, not 0$"):
        Sparsify(finalists=0)
    with pytest.raises(ValueError, match=r"^halving is a number of epochs, or part of one, and not negative, not -1$"):
        Sparsify(halving=-1)
    with pytest.raises(ValueError, match=r"^evaluations must be at least 1, not 0$"):
        Sparsify(evaluations=0)


def test_the_default_agent_is_ppo() -> None:
    assert Sparsify().agent.name == "ppo"


# --- masks ------------------------------------------------------------------------------------------------------------


def zeros(model: TorchModel) -> dict[str, float]:
    return {
        name: 1.0 - float(part.weight.count_nonzero()) / part.weight.numel()
        for name, part in model.module.named_modules()
        if isinstance(part, torch.nn.Conv2d | torch.nn.Linear)
    }


@pytest.mark.parametrize("agent", warm.BASELINES)
def test_masks_are_searched_under_ceilings_on_what_is_not_zero(agent: str, tmp_path: Path) -> None:
    model = toy("Residual")
    limits = (("macs", 0.5 * size_of(model)["macs"]), ("parameters", 0.4 * size_of(model)["parameters"]))
    options = {"granularity": "element", "limits": limits, "aligned": True}
    cut, facts, task = search(tmp_path, agent, model=model, options=options)
    found = nonzero(cut)
    assert found is not None and found["macs"] <= limits[0][1] and found["parameters"] <= limits[1][1]
    assert size_of(cut) == size_of(model), "every weight is still there"
    assert facts["reached"] == pytest.approx(found["macs"] / size_of(model)["macs"], rel=1e-2)
    assert task.scored == facts["evaluations"] <= 30
    assert facts["granularity"] == "element" and cut.surgery.masks and not cut.surgery.kept
    value = Answers(model, 48).score(cut.predict, "search").value
    assert value == facts["best"], "the returned model is the one that was scored"


def test_a_learning_agent_works_on_masks_too(tmp_path: Path) -> None:
    cut, facts, _ = search(tmp_path, "ppo", options={"granularity": "element", "evaluations": 40})
    rows = {row.name: row for row in facts["searchers"]}
    assert rows["ppo"].evaluations > 0 and rows["ppo"].best >= facts["warm_start"]
    for row in facts["plan"]:
        weight = cut.module.get_parameter(f"{row.group}.weight")
        assert (row.unit, row.channels, row.kept) == ("weights", weight.numel(), int(weight.count_nonzero()))
        assert row.ladder[0] == row.channels and len(row.ladder) == 8


def test_two_of_four_goes_where_it_can(tmp_path: Path) -> None:
    cut, facts, _ = search(tmp_path, "random", 0.7, options={"granularity": "2:4"})
    shares = zeros(cut)
    assert set(shares.values()) == {0.0, 0.5}
    assert {n for n, share in shares.items() if share} == set(cut.surgery.masks)
    assert set(cut.surgery.masks.values()) == {"2:4"}
    stem = next(row for row in facts["plan"] if row.reason)
    assert stem.reason == "the number of channels that its filters read (3) is no multiple of 4"
    with pytest.raises(Infeasible, match=r"is out of reach: the smallest reachable is 0\.\d+x"):
        search(tmp_path, options={"granularity": "2:4"}, share=0.4)


def test_masks_and_channels_do_not_share_a_journal(tmp_path: Path) -> None:
    names: list[str] = []
    for granularity in ("channel", "element", "2:4"):
        search(tmp_path, share=0.8, options={"granularity": granularity},
               journal=lambda name: names.append(name) or {})  # fmt: skip
    assert len(set(names)) == 3


def test_what_is_masked_is_not_masked_again(tmp_path: Path) -> None:
    cut, _, task = search(tmp_path, options={"granularity": "element"})
    sentence = "^this model is masked already; let one search choose all of its masks$"
    with pytest.raises(UnmetRequirement, match=sentence):
        search(tmp_path, model=cut, options={"granularity": "element"}, task=task)
    with pytest.raises(ValueError, match=r"^granularity 'filter' is not one of channel, element, 2:4$"):
        Sparsify(granularity="filter")  # type: ignore[arg-type]


# --- other rules ------------------------------------------------------------------------------------------------------


def energetic(model: TorchModel, share: float = 0.6) -> dict[str, Any]:
    """Options of a search whose energy is told: proportional to what each convolution multiplies."""
    ops = {op.name: op for op in trace(model).ops if op.inputs}
    terms = [
        Term(name, (1.0, float(op.outputs)), (1.0, op.inputs / op.conv_groups),
             np.outer([1.0, op.outputs], [1.0, op.inputs / op.conv_groups]) * op.positions * op.kernel * 1e-9)
        for name, op in ops.items()
    ]  # fmt: skip
    return {"tallies": (Tally("energy", terms),), "limits": (("macs", share * size_of(model)["macs"]),)}


@pytest.mark.parametrize("name", list(PRESETS))
def test_the_published_systems_search_by_their_own_rules(name: str, tmp_path: Path) -> None:
    model, chosen = toy("Residual"), PRESETS[name]
    own = chosen.settings["sparsify"]
    step = configure(Sparsify(**energetic(model)), own)
    options = {f.name: getattr(step, f.name) for f in dataclasses.fields(step)} | {"evaluations": 40}
    agent = configure(find.find("agents", chosen.agent), {**chosen.settings["agent"], "episodes": "80"})
    cut, facts, _ = search(tmp_path, model=model, options={**options, "agent": agent, "recalibration": 32})
    rows = facts["searchers"]
    assert [row.name for row in rows][-1] == chosen.agent and (len(rows) > 1) == (not name.endswith("-paper"))
    assert size_of(cut)["macs"] <= 0.6 * size_of(model)["macs"]
    assert facts["best"] == max(row.score for row in facts["history"] if row.cost <= facts["target"])
    rules = {"actions": own["actions"], "observation": own["observation"], "reward": own["reward"]}
    assert facts["rules"] == {**rules, "warm": not name.endswith("-paper")}
    assert sum(row.episodes for row in facts["curve"]) >= 80 and all(row.imagined for row in facts["curve"])
    offered = step.offering(trace(model, (1,))).groups
    for asked in plans(facts):
        for width, group in zip(map(int, asked.split("-")), offered, strict=True):
            assert width in group.options(), "no plan was judged that its actions cannot spell"


def test_a_grid_of_rewards_is_recorded_and_the_best_true_score_is_taken(tmp_path: Path) -> None:
    model = toy("Residual")
    options = {"evaluations": 60, "reward": "akperl", "reward_grid": "b=0|1", **energetic(model)}
    cut, facts, _ = search(tmp_path, "dqn", model=model, options=options)
    assert [row.reward for row in facts["reward_grid"]] == ["akperl b=0", "akperl b=1"]
    assert facts["best"] == max(row.best for row in facts["searchers"])
    assert facts["best"] >= max(row.best for row in facts["reward_grid"])
    value = Answers(model, 48).score(cut.predict, "search").value
    assert value == facts["best"], "the returned model is the one that was scored"


def test_energy_that_nobody_tells_is_refused(tmp_path: Path) -> None:
    told = r"^reward akperl with observation full goes by energy, and no tally tells it$"
    with pytest.raises(UnmetRequirement, match=told):
        search(tmp_path, "dqn", options={"reward": "akperl"})
    with pytest.raises(UnmetRequirement, match=r" goes by energy, and it is told of channels alone$"):
        search(tmp_path, "dqn", options={"reward": "akperl", "granularity": "element"})

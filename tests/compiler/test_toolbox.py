from __future__ import annotations

from typing import Any

import pytest

from edgeprune.agents.ppo import Ppo
from edgeprune.agents.random import Random
from edgeprune.agents.uniform import Uniform
from edgeprune.compiler.toolbox import toolbox, transfer
from edgeprune.errors import BadOption, UnmetRequirement
from edgeprune.passes.finetune import Finetune
from edgeprune.tasks.classification import Classification
from edgeprune.tasks.detection import Detection


def tools(settings: Any = None, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "agent": None, "evaluations": None, "epochs": None, "effort": "normal", "precision": "auto", "data": True,
        "free_groups": 10, "task": Classification,
    }  # fmt: skip
    return toolbox(settings or {}, **{**options, **changes})


def test_the_defaults() -> None:
    found = tools()
    assert (found.sparsify.agent.name, found.sparsify.criterion, found.quantize.precision) == ("ppo", "auto", "auto")
    assert (found.evaluations, found.finetune, found.trains) == (200, Finetune(epochs=5, hints=1.0), True)
    assert found.prune.ratio == 0.0


def test_an_agent_that_is_given_is_set_like_one_that_is_named() -> None:
    assert tools({"agent": {"low": "0.9"}}, agent=Random(draws=7)).sparsify.agent == Random(low=0.9, draws=7)
    assert tools(preset="driving", agent=Ppo()).sparsify.agent.episodes == 10000
    with pytest.raises(BadOption, match=r"^uniform has no option 'low'"):
        tools({"agent": {"low": "0.9"}}, agent=Uniform())


def test_a_detector_trains_longer_and_a_new_head_until_it_gets_no_better() -> None:
    assert (tools(task=Detection).sparsify.recalibration, tools().sparsify.recalibration) == (32, 1024)
    assert tools(task=Detection).finetune == Finetune(
        epochs=15, lr=0.01, momentum=0.937, average=0.998, hints=0.5
    )
    assert transfer({}, "normal", Detection) == Finetune(
        epochs=60, lr=0.01, momentum=0.937, average=0.998, patience=10, distillation=0.0
    )
    assert transfer({"transfer": {"epochs": "3"}}, "normal", Detection).epochs == 3
    with pytest.raises(BadOption, match=r"^transfer has no option 'epoch'; did you mean 'epochs'\?$"):
        transfer({"transfer": {"epoch": "3"}}, "normal", Detection)


@pytest.mark.parametrize(
    ("effort", "groups", "evaluations", "epochs"),
    [("quick", 3, 80, 3), ("quick", 30, 120, 3), ("normal", 30, 360, 5), ("long", 30, 1080, 20)],
)
def test_effort_sets_counts(effort: str, groups: int, evaluations: int, epochs: int) -> None:
    found = tools(effort=effort, free_groups=groups)
    assert (found.evaluations, found.finetune.epochs) == (evaluations, epochs)


def test_without_data_only_what_needs_none() -> None:
    found = tools(data=False)
    assert (found.sparsify.agent.name, found.sparsify.criterion, found.trains) == ("uniform", "auto", False)
    with pytest.raises(UnmetRequirement, match="agent 'random' needs data to score plans by; give --data, or --agent"):
        tools(data=False, agent="random")


def test_settings_win() -> None:
    found = tools(
        {"finetune": {"epochs": "9", "lr": "0.5"}, "sparsify": {"evaluations": "7"}, "agent": {"rounds": "3"},
         "quantize": {"precision": "fp32"}, "export": {"tolerance": "0.5"}, "prune": {"ratio": "0.25"}},
        epochs=2, evaluations=50, precision="int8",
    )  # fmt: skip
    assert (found.finetune.epochs, found.finetune.lr, found.evaluations) == (9, 0.5, 7)
    assert (found.sparsify.agent.rounds, found.quantize.precision) == (3, "fp32")
    assert (found.export.tolerance, found.prune.ratio) == (0.5, 0.25)


def test_what_a_target_has_no_use_for_is_refused() -> None:
    said = r"^dialect\.… is for targets whose runtime does not read all of ONNX, and this one's does$"
    with pytest.raises(BadOption, match=said):
        tools({"dialect": {"whatever": "17"}})
    with pytest.raises(BadOption, match=r"^dialect has no option 'whatever'"):
        tools({"dialect": {"whatever": "17"}}, dialect=True)


def test_counts_given_are_taken() -> None:
    found = tools(epochs=0, evaluations=1, agent=Uniform())
    assert (found.evaluations, found.trains, found.sparsify.agent) == (1, False, Uniform())
    with pytest.raises(BadOption, match="--evaluations must be at least 1, not 0"):
        tools(evaluations=0)
    with pytest.raises(BadOption, match="--epochs must not be negative, not -1"):
        tools(epochs=-1)


def test_a_search_gets_its_ceilings_and_its_share() -> None:
    found = tools().searching({"parameters": 5.0, "macs": 9.0}, 12, aligned=False)
    assert (found.limits, found.evaluations, found.aligned) == ((("macs", 9.0), ("parameters", 5.0)), 12, False)
    assert tools().searching({"macs": 9.0}, 12, aligned=True).aligned
    assert tools({"sparsify": {"aligned": "true"}}).searching({"macs": 9.0}, 12, aligned=False).aligned


def test_only_long_builds_train_finalists_unless_told() -> None:
    assert [tools(effort=effort).sparsify.halving for effort in ("quick", "normal", "long")] == [0.0, 0.0, 0.25]
    assert tools({"finetune": {"epochs": "0"}}, effort="long").sparsify.halving == 0.0
    assert tools(effort="long", epochs=0).sparsify.halving == tools(effort="long", data=False).sparsify.halving == 0.0
    found = tools({"sparsify": {"halving": "0.5"}, "finetune": {"lr": "0.5"}})
    assert found.sparsify.training == Finetune(epochs=1, lr=0.5, hints=1.0)
    assert tools({"finetune": {"lr": "0.5"}}).sparsify == tools().sparsify, "a search without training stays the same"
    message = r"^sparsify\.halving trains a search's finalists as the result is trained; give --epochs too$"
    with pytest.raises(BadOption, match=message):
        tools({"sparsify": {"halving": "0.5"}}, epochs=0)
    with pytest.raises(BadOption, match=r"^sparsify\.training takes .*, not 'x'$"):
        tools({"sparsify": {"training": "x"}})


def test_mixed_plans_choose_precisions_themselves() -> None:
    mixed = {"sparsify": {"mixed": "true"}}
    assert tools(mixed).sparsify.mixed and not tools().sparsify.mixed
    message = r"^sparsify\.mixed chooses where int8 pays; it has no say where a precision or layers are given$"
    for more, precision in (({}, "fp32"), ({"precision": "int8"}, "auto"), ({"lowered": "a"}, "auto")):
        with pytest.raises(BadOption, match=message):
            tools({**mixed, "quantize": more}, precision=precision)


def test_a_preset_sets_what_is_not_given() -> None:
    found = tools(preset="driving").sparsify
    assert (found.agent.name, found.agent.learning_rate, found.agent.episodes) == ("ppo", 3e-4, 10_000)
    assert (found.actions, found.observation, found.reward) == ("step", "driving", "driving")
    assert (found.criterion, found.warm) == ("gradient_l1", True)
    given = {"sparsify": {"criterion": "l2"}, "agent": {"margin": "0.5"}}
    found = tools(given, preset="driving", agent="dqn").sparsify
    assert (found.agent.name, found.agent.margin, found.agent.episodes) == ("dqn", 0.5, 0)
    assert (found.actions, found.criterion) == ("step", "l2")
    assert tools(preset="driving", effort="quick").evaluations == 80
    with pytest.raises(BadOption, match=r"^unknown preset 'drivng'; did you mean 'driving'\?$"):
        tools(preset="drivng")
    with pytest.raises(UnmetRequirement, match="agent 'a2c' needs data to score plans by"):
        tools(preset="depgraphrl", data=False)


def test_a_search_imagines_its_share_of_the_episodes() -> None:
    found = tools(preset="akperl")
    assert found.searching({"macs": 9.0}, found.evaluations // 4, aligned=False).agent.episodes == 2500
    assert found.searching({"macs": 9.0}, 10 * found.evaluations, aligned=False).agent.episodes == 10_000
    assert tools().searching({"macs": 9.0}, 12, aligned=False).agent.episodes == 0

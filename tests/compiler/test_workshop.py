"""What the keys of the store depend on, and what they must not."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from contexts import BOARD, torch_model

from edgeprune.budget import Budget, Limit
from edgeprune.compiler import cache, workshop
from edgeprune.compiler.cache import Store
from edgeprune.compiler.workshop import Finished, Means, Workshop
from edgeprune.passes.base import Silent
from edgeprune.passes.export import Export
from edgeprune.passes.pool import Threads
from edgeprune.report import Score, StepRecord
from edgeprune.tasks.classification import Classification

MEANS = Means(BOARD, Budget(), 0, "macs", 1, 1, Threads(), "cpu", Silent())


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workshops that do not export their original."""
    monkeypatch.setattr(Workshop, "_finish_original", lambda self: SimpleNamespace(score=None))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("data") / "d.npz", train=30, test=30)


def keys(tmp_path: Path, data: Path, means: Means = MEANS, module: Any = None, **options: Any) -> tuple[str, str, str]:
    """Return the keys of passes, scores and journals."""
    model = torch_model(tiny.network() if module is None else module, (1, 3, 12, 12))
    with Workshop(model, Classification(data, **options), means, Store(tmp_path / "store")) as shop:
        journal: Any = shop._journal("scores")
        return shop._base, shop._runtime, journal._path.name


def _detected(**found: Any) -> Means:
    return dataclasses.replace(MEANS, board=BOARD.model_copy(update={"detected": found}))


def test_equal_builds_share_everything(light: None, tmp_path: Path, data: Path) -> None:
    moved = tmp_path / "elsewhere.npz"
    moved.write_bytes(data.read_bytes())
    assert keys(tmp_path, data) == keys(tmp_path, moved) == keys(tmp_path, data, module=tiny.network())


@pytest.mark.parametrize(
    "means",
    [
        dataclasses.replace(MEANS, pool=Threads(8)),
        _detected(memory=123, load=0.5, cores=64),
    ],
    ids=["workers", "memory and load"],
)
def test_what_changes_no_result_is_in_no_key(means: Means, light: None, tmp_path: Path, data: Path) -> None:
    assert keys(tmp_path, data, means) == keys(tmp_path, data)


@pytest.mark.parametrize(
    ("means", "shared"),
    [
        (dataclasses.replace(MEANS, seed=1), ""),
        (dataclasses.replace(MEANS, budget=Budget(0.02)), "scores journals"),
        (dataclasses.replace(MEANS, budget=Budget(0.01, max_macs=Limit(0.5, True))), "scores journals"),
        (dataclasses.replace(MEANS, budget=Budget(0.01, max_macs=Limit(0.5))), "scores journals"),
        (dataclasses.replace(MEANS, cost="measured"), "scores journals"),
        (dataclasses.replace(MEANS, threads=2), "journals"),
        (dataclasses.replace(MEANS, train_threads=2), "scores journals"),
        (dataclasses.replace(MEANS, device="cuda"), "scores journals"),
        (dataclasses.replace(MEANS, board=BOARD.model_copy(update={"opset": 17})), "scores journals"),
        (_detected(cpu="another"), ""),
        (_detected(isa=["avx512"]), ""),
    ],
)
def test_means_that_change_results_change_keys(
    means: Means, shared: str, light: None, tmp_path: Path, data: Path
) -> None:
    first, second = keys(tmp_path, data), keys(tmp_path, data, means)
    same = [name for name, a, b in zip(("passes", "scores", "journals"), first, second, strict=True) if a == b]
    assert " ".join(same) == shared


def _nudged() -> torch.nn.Module:
    module = tiny.network()
    with torch.no_grad():
        module.get_parameter("fc.bias")[0] += 1e-7
    return module


def _statistics() -> torch.nn.Module:
    module = tiny.network()
    module.get_buffer("bn.running_mean")[3] = 1e-7
    return module


def _another_graph() -> torch.nn.Module:
    module = tiny.network()
    forward = module.forward
    module.forward = lambda x: forward(x) * 1.0  # type: ignore[method-assign]
    return module


@pytest.mark.parametrize("make", [_nudged, _statistics, _another_graph])
def test_another_model_changes_every_key(
    make: Callable[[], torch.nn.Module], light: None, tmp_path: Path, data: Path
) -> None:
    assert not set(keys(tmp_path, data)) & set(keys(tmp_path, data, module=make()))


def _pixel(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    x = x.copy()
    x[5, 1, 1, 1] ^= 1
    return {"x_test": x, "y_test": y}


def _label(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    y = copy.copy(y)
    y[7] = (y[7] + 1) % 3
    return {"x_train": x, "y_train": y}


@pytest.mark.parametrize("change", [_pixel, _label])
def test_other_data_changes_every_key(change: Callable[..., Any], light: None, tmp_path: Path, data: Path) -> None:
    seed = 2 if change is _pixel else 1
    other = tiny.write_data(tmp_path / "other.npz", train=30, test=30, **change(*tiny.images(30, seed)))
    assert not set(keys(tmp_path, data)) & set(keys(tmp_path, other))


@pytest.mark.parametrize("option", [{"batch": 7}, {"calibration": 9}, {"augment": "none"}, {"mean": (0.1, 0.2, 0.3)}])
def test_options_of_the_task_change_every_key(option: dict[str, Any], light: None, tmp_path: Path, data: Path) -> None:
    assert not set(keys(tmp_path, data)) & set(keys(tmp_path, data, **option))


@pytest.mark.parametrize("what", ["source_digest", "versions", "code_digest"])
def test_other_code_changes_every_key(
    what: str, light: None, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys(tmp_path, data)
    found = getattr(workshop, what)
    monkeypatch.setattr(workshop, what, lambda *a: {"edited": 1} if what != "source_digest" else found() + "0")
    assert not set(before) & set(keys(tmp_path, data))


# --- candidates -------------------------------------------------------------------------------------------------------


def test_a_candidate_is_finished_counted_and_scored_once(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[str] = []
    score = Classification.score

    def counted(self: Any, predict: Any, split: Any, indices: Any = None) -> Score:
        scored.append(split)
        return score(self, predict, split, indices)

    monkeypatch.setattr(Classification, "score", counted)
    model = torch_model(tiny.network(), (1, 3, 12, 12))
    found = []
    for _ in range(2):
        with Workshop(model, Classification(data), MEANS, Store(tmp_path / "store")) as shop:
            found.append(shop.source)
            row = shop.describe(shop.source)
            assert row.score is not None and row.score.drop == 0.0
            assert row.held_floor is True
            scratch = Path(shop.bench._scratch.name)
        assert not scratch.exists()
    first, again = found
    assert scored == ["search"]
    assert np.array_equal(first.score.per_item, again.score.per_item)
    assert first.score.value == again.score.value
    assert [s.cached for s in (*first.steps, *again.steps)] == [False, True]
    assert first.macs == pytest.approx(12 * 12 * 16 * 9 * (3 + 16 + 16) + 36 * 32 * 16 * 9 + 32 * 3)
    assert first.parameters == sum(p.numel() for p in model.module.parameters())
    assert first.size_bytes == first.model.path.stat().st_size
    assert first.precisions == {"fp32": 4}


def test_a_score_keeps_its_replicates_and_the_report_their_interval(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicates = np.linspace(0.3, 0.5, 101)
    monkeypatch.setattr(Classification, "score", lambda *_: Score(0.4, 4, np.asarray([0.0, 1, 0, 1]), replicates))
    model = torch_model(tiny.network(), (1, 3, 12, 12))
    for _ in range(2):
        with Workshop(model, Classification(data), MEANS, Store(tmp_path / "store")) as shop:
            score = shop.source.score
            assert score is not None and score.replicates is not None
            assert np.array_equal(score.replicates, replicates)
            row = shop.describe(
                shop.source, score=score, baseline=Score(0.5, 4, score.per_item, replicates[::-1])
            ).score
            assert row is not None and row.drop == pytest.approx(0.1)
            assert row.drop_interval == pytest.approx((-0.19, 0.19))


def test_a_damaged_score_is_taken_again(tmp_path: Path, data: Path) -> None:
    model, store = torch_model(tiny.network(), (1, 3, 12, 12)), Store(tmp_path / "store")
    with Workshop(model, Classification(data), MEANS, store) as shop:
        before = shop.source.score
    [saved] = (tmp_path / "store").rglob("score.npz")
    saved.write_bytes(saved.read_bytes()[:-3])
    with Workshop(model, Classification(data), MEANS, store) as shop:
        assert shop.source.score is not None and before is not None
        assert np.array_equal(shop.source.score.per_item, before.per_item)
        assert shop.finish("again", [Export()]).score is not None
    assert saved.stat().st_size > 100


def test_the_journal_of_another_build_is_another(tmp_path: Path, data: Path) -> None:
    model, store = torch_model(tiny.network(), (1, 3, 12, 12)), Store(tmp_path / "store")
    for means in (MEANS, dataclasses.replace(MEANS, seed=1)):
        with Workshop(model, Classification(data), means, store) as shop:
            journal = shop._journal("plans")
            assert len(journal) == 0
            journal["a"] = 1.0
            assert shop._journal("other") == {}
            assert dict(shop._journal("plans")) == {"a": 1.0}
    assert cache.root() != tmp_path


def test_a_pass_that_ran_twice_has_two_facts_and_the_first_stands_for_one() -> None:
    """What the second step of other activations will cost is told from what both of them replaced."""
    ran = [("activation", {"names": ["a"], "moved": {"a": 1.0}}), ("finetune", {"best_epoch": 3}),
           ("activation", {"names": ["b"]})]  # fmt: skip
    steps = tuple(
        StepRecord.model_validate({"pass": name, "options": {}, "seconds": 0.0, "cached": False, "facts": facts})
        for name, facts in ran
    )
    made = Finished("one", None, None, 0.0, 0, 0, {}, None, steps, ())  # type: ignore[arg-type]
    assert made.facts("activation", "names") == [["a"], ["b"]]
    assert made.fact("activation", "names") == ["a"] and made.facts("activation", "moved") == [{"a": 1.0}]
    assert made.facts("quantize", "names") == [] and made.fact("quantize", "names") is None

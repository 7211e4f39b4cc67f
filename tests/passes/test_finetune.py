from __future__ import annotations

import errno
import math
import os
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from contexts import context
from networks import toy
from pruning_task import Answers
from torch.nn import functional as F

from edgeprune.errors import BadModel, NoSpace, UnmetRequirement
from edgeprune.model import Surgery, TorchModel
from edgeprune.passes.finetune import Finetune
from edgeprune.passes.prune import Prune
from edgeprune.passes.training import seeded
from edgeprune.surgery import rebuild
from edgeprune.tasks.base import Task


def confident() -> TorchModel:
    """A toy whose outputs differ by whole numbers, as a trained net's do: distillation lives on their differences."""
    model = toy("Plain")
    with torch.no_grad():
        model.module.head.weight *= 30
        model.module.head.bias *= 30
    return model


def damaged(model: TorchModel) -> TorchModel:
    """The model with half its channels gone, whichever."""
    return Prune(ratio=0.5, criterion="random").run(model.clone(), context(Path(), model)[0])


def tuned(
    folder: Path, model: TorchModel, task: Answers, original: TorchModel | None = None, **options: Any
) -> tuple[TorchModel, dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    ctx, facts = context(folder, original or confident(), task=task)
    step = Finetune(**{"epochs": 4, "lr": 0.05, **options})
    step.requires(model, ctx)
    return step.run(model.clone(), ctx), facts


def equal(one: TorchModel, two: TorchModel) -> bool:
    a, b = one.module.state_dict(), two.module.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def original() -> TorchModel:
    return confident()


@pytest.fixture(scope="module")
def cut(original: TorchModel) -> TorchModel:
    return damaged(original)


# --- what it promises -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distillation", [0.0, 0.7, 1.0])
def test_a_damaged_model_gets_better(
    distillation: float, tmp_path: Path, original: TorchModel, cut: TorchModel
) -> None:
    task = Answers(original)
    before = task.score(cut.predict, "search").value
    better, facts = tuned(tmp_path, cut, task, epochs=14, distillation=distillation)
    after = task.score(better.predict, "search").value
    assert after >= before + 0.1
    assert facts["epochs"][0] == {"epoch": 0, "loss": None, "score": before}
    assert [row["epoch"] for row in facts["epochs"]] == list(range(15))
    assert facts["epochs"][facts["best_epoch"]]["score"] == max(row["score"] for row in facts["epochs"]) == after
    assert better.surgery == cut.surgery and not any(part.training for part in better.module.modules())
    better.verify()


def test_the_teacher_stays_as_it_is(tmp_path: Path, original: TorchModel, cut: TorchModel) -> None:
    teacher = confident()
    tuned(tmp_path, cut, Answers(original), original=teacher)
    assert equal(teacher, original)
    assert not any(part.training for part in teacher.module.modules())


def test_twice_the_same_bytes(tmp_path: Path, original: TorchModel, cut: TorchModel) -> None:
    (one, facts), (two, others) = (tuned(tmp_path / str(i), cut, Answers(original)) for i in range(2))
    assert equal(one, two) and facts == others


def test_one_seed_shuffles_unlike_another(tmp_path: Path, original: TorchModel, cut: TorchModel) -> None:
    results = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        ctx, _ = context(tmp_path / str(seed), original, task=Answers(original, scores=[0.0, 0.5, 1.0]), seed=seed)
        results.append(Finetune(epochs=2, lr=0.05).run(cut.clone(), ctx))
    assert not equal(*results)


def test_no_epochs_change_nothing_and_need_no_data(tmp_path: Path, cut: TorchModel) -> None:
    ctx, facts = context(tmp_path, cut)
    step = Finetune(epochs=0)
    step.requires(cut, ctx)
    assert equal(step.run(cut.clone(), ctx), cut)
    assert not facts and not list(tmp_path.iterdir())


@pytest.mark.parametrize("entry", ["half", "2:4"])
@pytest.mark.parametrize("average", [0.0, 0.9])
def test_masks_stay_masks(entry: str, average: float, tmp_path: Path, original: TorchModel) -> None:
    weights = {n: p.weight for n, p in original.module.named_modules() if isinstance(p, torch.nn.Conv2d)}
    names = [n for n, w in weights.items() if entry == "half" or w.shape[1] % 4 == 0]
    masks = {n: weights[n].numel() // 2 if entry == "half" else entry for n in names}
    masked = rebuild(original, Surgery(masks=masks))
    seen: list[bool] = []

    class Watched(Answers):
        def score(self, predict: Any, split: Any, indices: Any = None) -> Any:
            module = predict.__self__.module
            seen.extend(
                torch.equal(module.get_parameter(f"{n}.weight") == 0, masked.module.get_parameter(f"{n}.weight") == 0)
                for n in names
            )
            return super().score(predict, split, indices)

    task = Watched(original, scores=[0.0, 0.1, 0.2, 0.3, 0.4])
    better, facts = tuned(tmp_path, masked, task, average=average)
    assert len(names) >= 2 and len(seen) == 5 * len(names) and all(seen) and facts["best_epoch"] == 4
    for name in names:
        before, after = (m.module.get_parameter(f"{name}.weight") for m in (masked, better))
        assert torch.equal(before == 0, after == 0) and not torch.equal(before, after)
    assert better.surgery == masked.surgery


# --- interruptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"average": 0.9}, {"hints": 0.5}])
@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    epoch: int, more: dict[str, float], tmp_path: Path, original: TorchModel, cut: TorchModel
) -> None:
    whole, facts = tuned(tmp_path / "whole", cut, Answers(original), **more)
    first = Answers(original, stop_in=epoch)
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path / "parts", cut, first, **more)
    second = Answers(original)
    resumed, refound = tuned(tmp_path / "parts", cut, second, **more)
    assert equal(resumed, whole) and refound == facts
    assert first.finished == list(range(epoch)) and second.begun == list(range(epoch, 4)), "no epoch is done twice"
    assert second.scored == 4 - epoch + (epoch == 0), "nor is one scored twice"


def test_what_dropout_drops_hangs_on_seed_and_epoch_alone(tmp_path: Path, original: TorchModel) -> None:
    def dropping() -> TorchModel:
        model = confident()
        model.module.head = torch.nn.Sequential(torch.nn.Dropout(0.5), model.module.head).eval()
        return model

    scores: Any = [0.0, 1.0, 2.0, 3.0, 4.0]
    first, task, teacher = dropping(), Answers(original, scores=scores), confident()
    before = torch.random.get_rng_state()
    whole, _ = tuned(tmp_path / "whole", first, task, teacher)
    assert torch.equal(torch.random.get_rng_state(), before), "and what is random elsewhere does not hang on it"
    torch.rand(7)
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path / "parts", dropping(), Answers(original, stop_in=2, scores=scores))
    torch.rand(7)
    resumed, _ = tuned(tmp_path / "parts", dropping(), Answers(original, scores=scores[3:]))
    assert equal(resumed, whole)


def test_every_seed_and_epoch_draws_its_own() -> None:
    def drawn(seed: int, epoch: int) -> float:
        with seeded("cpu", seed, epoch):
            return float(torch.rand(()))

    assert len({drawn(seed, epoch) for seed in (0, 1, 2**32 - 1) for epoch in (0, 1)}) == 6
    assert drawn(1, 0) == drawn(1, 0)


@pytest.mark.parametrize("epoch", [0, 2])
def test_an_interruption_while_scoring_costs_no_training(
    epoch: int, tmp_path: Path, original: TorchModel, cut: TorchModel
) -> None:
    class Stopping(Answers):
        def score(self, predict: Any, split: Any, indices: Any = None) -> Any:
            if len(self.finished) == epoch + 1:
                raise KeyboardInterrupt
            return super().score(predict, split, indices)

    whole, facts = tuned(tmp_path / "whole", cut, Answers(original))
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path / "parts", cut, Stopping(original))
    second = Answers(original)
    resumed, refound = tuned(tmp_path / "parts", cut, second)
    assert equal(resumed, whole) and refound == facts
    assert second.begun == list(range(epoch + 1, 4)) and second.scored == 4 - epoch


def test_a_finished_run_costs_nothing_again(tmp_path: Path, original: TorchModel, cut: TorchModel) -> None:
    whole, facts = tuned(tmp_path, cut, Answers(original))
    task = Answers(original)
    again, refound = tuned(tmp_path, cut, task)
    assert equal(again, whole) and refound == facts
    assert (task.begun, task.scored) == ([], 0)


def test_a_write_cut_short_leaves_the_epoch_before(
    tmp_path: Path, original: TorchModel, cut: TorchModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = tuned(tmp_path / "whole", cut, Answers(original))
    sync, writes = os.fsync, []

    def dying(descriptor: int) -> None:
        writes.append(descriptor)
        if len(writes) == 5:  # two an epoch: trained, scored
            raise KeyboardInterrupt
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", dying)
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path / "parts", cut, Answers(original))
    monkeypatch.undo()
    task = Answers(original)
    resumed, _ = tuned(tmp_path / "parts", cut, task)
    assert task.begun == [2, 3], "the epoch whose result was lost is the only one repeated"
    assert equal(resumed, whole)


def test_a_full_disk_is_one_sentence(
    tmp_path: Path, original: TorchModel, cut: TorchModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoSpace, match=r"^cannot write .*: the disk is full; free some space"):
        tuned(tmp_path, cut, Answers(original))


# --- which epoch is kept ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.5, 0.6, 0.9, 0.7, 0.8], 2),
        ([0.5, 0.4, 0.3, 0.2, 0.1], 0),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 4),
        ([0.5, 0.5, 0.5, 0.5, 0.5], 0),
        ([0.1, 0.7, 0.7, 0.6, 0.7], 1),
    ],
)
def test_the_best_epoch_is_kept_and_the_first_of_equals(
    scores: list[float], best: int, tmp_path: Path, original: TorchModel, cut: TorchModel
) -> None:
    kept, facts = tuned(tmp_path / "whole", cut, Answers(original, scores=scores))
    assert facts["best_epoch"] == best
    assert [row["score"] for row in facts["epochs"]] == scores
    if best == 0:
        assert equal(kept, cut), "training that only harms is undone"
        return
    with suppress(KeyboardInterrupt):  # a run of the same schedule that ends with the best epoch
        tuned(tmp_path / "part", cut, Answers(original, scores=scores, stop_in=best))
    saved = torch.load(tmp_path / "part" / "epoch.pt", weights_only=True)
    assert saved["epoch"] == best
    assert all(torch.equal(tensor, saved["module"][key]) for key, tensor in kept.module.state_dict().items())


# --- schedule and loss ------------------------------------------------------------------------------------------------


def test_training_ends_when_nothing_gets_better(tmp_path: Path, original: TorchModel, cut: TorchModel) -> None:
    task = Answers(original, scores=[0.1, 0.2, 0.3, 0.3, 0.2, 0.9])
    _, facts = tuned(tmp_path, cut, task, epochs=9, patience=2)
    assert facts["best_epoch"] == 2 and [row["epoch"] for row in facts["epochs"]] == [0, 1, 2, 3, 4]
    assert task.begun == [0, 1, 2, 3]


def test_hints_pull_the_features_towards_the_teachers(tmp_path: Path, original: TorchModel, cut: TorchModel) -> None:
    from edgeprune.passes.hints import Hints

    images = torch.cat([b.inputs for b in Answers(original).train_batches(0, 0)])
    found = {}
    for weight in (0.0, 1.0):
        task = Answers(original, scores=[0.0, 1.0, 2.0, 3.0, 4.0])
        student, _ = tuned(tmp_path / str(weight), cut, task, hints=weight)
        hints = Hints(student.module, original.module, student.surgery, original.inputs)
        student.module(images), original.module(images)
        found[weight] = hints.distance().item()
        hints.close()
    assert found[1.0] < 0.8 * found[0.0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_trains_with_all_options_and_gives_the_model_back_on_the_processor(
    tmp_path: Path, original: TorchModel, cut: TorchModel
) -> None:
    ctx, _ = context(tmp_path, original, task=Answers(original, scores=[0.0, 1.0, 2.0]), device="cuda")
    tuned_there = Finetune(epochs=2, lr=0.05, hints=1.0, average=0.5).run(cut.clone(), ctx)
    assert not equal(tuned_there, cut) and {p.device.type for p in tuned_there.module.parameters()} == {"cpu"}


def test_the_average_of_the_weights_is_what_is_scored_and_kept(
    tmp_path: Path, original: TorchModel, cut: TorchModel
) -> None:
    last, _ = tuned(tmp_path / "last", cut, Answers(original, scores=[0.0, 1.0]), epochs=1)
    mean, _ = tuned(tmp_path / "mean", cut, Answers(original, scores=[0.0, 1.0]), epochs=1, average=0.999)
    before, after, between = (m.module.state_dict()["head.weight"] for m in (cut, last, mean))
    moved, followed = (after - before).norm(), (between - before).norm()
    assert 0.2 * moved < followed < 0.98 * moved


@pytest.mark.parametrize(("average", "best"), [(0.0, 2), (0.9, 5)])
def test_one_lucky_score_of_an_average_does_not_choose_it(
    average: float, best: int, tmp_path: Path, original: TorchModel, cut: TorchModel
) -> None:
    """The first epoch stands for itself: there is no average before it."""
    scores = [0.4, 0.5, 0.9, 0.5, 0.8, 0.82, 0.7]
    _, facts = tuned(tmp_path, cut, Answers(original, scores=scores), epochs=6, average=average)
    assert facts["best_epoch"] == best
    assert [row["score"] for row in facts["epochs"]] == scores
    _, facts = tuned(tmp_path / "first", cut, Answers(original, scores=scores[:2]), epochs=1, average=average)
    assert facts["best_epoch"] == 1


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    at = Finetune(warmup=0.5)._schedule
    assert [at(x, 4) for x in (0.0, 0.25, 0.5, 4.0)] == pytest.approx([0.01, 0.5, 1.0, 0.0])
    assert at(2.25, 4) == pytest.approx(0.5), "half way along the cosine"
    falling = [at(x / 10, 4) for x in range(5, 41)]
    assert all(a >= b for a, b in pairwise(falling))
    assert Finetune(warmup=0.0)._schedule(0.0, 4) == 1.0
    assert 0 <= Finetune(warmup=2.0)._schedule(1.0, 1) <= 1


def test_distillation_is_hintons() -> None:
    student, teacher = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[2.0, 0.0, 0.0]])
    p, q = F.softmax(teacher / 4, 1), F.softmax(student / 4, 1)
    wanted = 16 * sum(a * math.log(a / b) for a, b in zip(p[0].tolist(), q[0].tolist(), strict=True))
    assert float(Task.distance(None, student, teacher, 4.0)) == pytest.approx(wanted, rel=1e-4)  # type: ignore[arg-type]
    assert float(Task.distance(None, teacher, teacher, 4.0)) == pytest.approx(0.0, abs=1e-7)  # type: ignore[arg-type]


def test_without_label_loss_labels_do_not_matter(tmp_path: Path, original: TorchModel, cut: TorchModel) -> None:
    wrong = Answers(original)
    wrong._labels = (wrong._labels + 1) % 5
    wrong._script = [0.0, 1.0]
    right = Answers(original, scores=[0.0, 1.0])
    (one, _), (two, _) = (
        tuned(tmp_path / task, cut, given, distillation=1.0, epochs=1)
        for task, given in (("right", right), ("wrong", wrong))
    )
    assert equal(one, two)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_divergence_is_one_sentence(tmp_path: Path, original: TorchModel, cut: TorchModel) -> None:
    message = r"^fine-tuning diverged in epoch \d; lower the learning rate, such as --set finetune\.lr=2\.5e\+29$"
    with pytest.raises(BadModel, match=message):
        tuned(tmp_path, cut, Answers(original), lr=1e30)


def test_training_needs_training_data(tmp_path: Path, original: TorchModel) -> None:
    class Synthetic(Answers):
        name = "synthetic"

    message = r"^fine-tuning needs training data; give --data, or --epochs 0$"
    for task in (None, Synthetic(original, 8)):
        ctx, _ = context(tmp_path, original, task=task)
        with pytest.raises(UnmetRequirement, match=message):
            Finetune().requires(original, ctx)
        Finetune(epochs=0).requires(original, ctx)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, r"^epochs must not be negative, not -1$"),
        ({"distillation": 1.5}, r"^distillation is a weight in \[0, 1\], not 1\.5$"),
        ({"distillation": -0.1}, r"^distillation is a weight in \[0, 1\], not -0\.1$"),
        ({"lr": 0.0}, r"^lr and temperature must be above zero$"),
        ({"temperature": 0.0}, r"^lr and temperature must be above zero$"),
        ({"momentum": 1.0}, r"^momentum is in \[0, 1\), not 1\.0$"),
        ({"warmup": -1.0}, r"^weight_decay, warmup, hints and patience must not be negative$"),
        ({"patience": -1}, r"^weight_decay, warmup, hints and patience must not be negative$"),
        ({"average": 1.0}, r"^average is a decay in \[0, 1\), not 1\.0$"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Finetune(**options)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from contexts import BOARD, context
from networks import TOYS, toy
from pruning_task import Answers
from torch import nn

from edgeprune import surgery
from edgeprune.errors import BadOption, UnmetRequirement
from edgeprune.model import TorchModel
from edgeprune.passes.prune import Prune
from edgeprune.recalibration import follow
from edgeprune.tracing import trace

FINE = BOARD.model_copy(update={"channel_multiples": {"fp32": 1}})


def run(step: Prune, model: TorchModel, folder: Path, **changes: object) -> tuple[TorchModel, dict]:
    ctx, facts = context(folder, model, **{"board": FINE, **changes})
    step.requires(model, ctx)
    return step.run(model.clone(), ctx), facts


def widths(model: TorchModel) -> dict[str, int]:
    """Outputs of every convolution and linear layer."""
    return {
        name: part.weight.shape[0] for name, part in model.module.named_modules()
        if isinstance(part, nn.Conv2d | nn.Linear)
    }  # fmt: skip


def spread(model: TorchModel, other: TorchModel) -> float:
    """The largest difference of two models' answers to images neither was compared on."""
    images = np.random.default_rng(5).standard_normal((8, 3, 16, 16)).astype(np.float32)
    return float(np.abs(model.predict(images) - other.predict(images)).max())


# --- what is dead -----------------------------------------------------------------------------------------------------


def planted() -> TorchModel:
    """A chain in which three channels of b are dead (two silent, one unread) and one is silent but for its shift."""
    model = toy("Plain")
    m = model.module
    with torch.no_grad():
        for channel in (1, 9):
            m.b[1].weight[channel] = m.b[1].bias[channel] = 0
        m.c.weight[:, 4] = 0
        m.b[0].weight[12] = 0
    return model


def test_by_default_just_the_dead_go(tmp_path: Path) -> None:
    model = planted()
    pruned, facts = run(Prune(), model, tmp_path)
    assert widths(pruned) == {"a.0": 8, "b.0": 14, "c": 12, "head": 5}, "14 is the nearest rung that holds the 13 alive"
    assert set(range(16)) - set(pruned.surgery.kept["b.0"][0] or ()) == {4, 9}, "12 is a constant that somebody reads"
    assert spread(model, pruned) < 1e-5
    assert facts["removed_parameters"] == model.parameters() - pruned.parameters() == 2 * (72 + 2 + 9 * 12)
    assert facts["locked"] == {"head": "its channels are the model's outputs"}


def test_a_target_that_wants_whole_multiples_keeps_its_dead(tmp_path: Path) -> None:
    model = planted()
    pruned, facts = run(Prune(), model, tmp_path, board=BOARD)
    assert widths(pruned)["b.0"] == 16, "one step down is 12, and 13 are alive"
    assert facts["removed_parameters"] == 0 and not pruned.surgery


@pytest.mark.parametrize("name", list(TOYS))
def test_nothing_alive_is_taken(name: str, tmp_path: Path) -> None:
    model = toy(name)
    pruned, facts = run(Prune(), model, tmp_path)
    assert facts["removed_parameters"] == 0
    assert spread(model, pruned) == 0.0


def test_what_only_looks_dead_stays(tmp_path: Path) -> None:
    class Shifted(nn.Module):
        """A sigmoid makes a half of every zero."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.bn, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.sigmoid(self.bn(self.a(x)))).mean((2, 3))

    model = TorchModel(Shifted().eval(), toy("Plain").spec, toy("Plain").inputs)
    model.module.bn.weight.data[3] = 0
    pruned, facts = run(Prune(), model, tmp_path)
    assert facts["removed_parameters"] == 0 and widths(pruned)["a"] == 8


def test_one_groups_trap_does_not_save_anothers_dead(tmp_path: Path) -> None:
    model = toy("Parametric")
    with torch.no_grad():
        model.module.b.weight[:, 2] = 0  # unread
        model.module.head.weight[:, 5] = 0
    pruned, _ = run(Prune(), model, tmp_path)
    assert widths(pruned) == {"a": 7, "b": 7, "head": 5}
    assert spread(model, pruned) < 1e-5


# --- ratios -----------------------------------------------------------------------------------------------------------


def test_a_uniform_ratio_takes_the_same_share_of_every_group(tmp_path: Path) -> None:
    model = toy("Residual")
    before = {key: tensor.clone() for key, tensor in model.module.state_dict().items()}
    pruned, facts = run(Prune(ratio=0.5), model, tmp_path)
    assert widths(pruned) == {
        "stem.0": 4, "one.conv1": 4, "one.conv2": 4, "two.conv1": 8, "two.conv2": 8, "two.downsample.0": 8,
        "three.conv1": 8, "three.conv2": 8, "head": 5,
    }  # fmt: skip
    pruned.verify()
    assert facts["removed_parameters"] == model.parameters() - pruned.parameters()
    assert torch.equal(surgery.rebuild(model, pruned.surgery).module(*model.inputs), pruned.module(*model.inputs))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.module.state_dict().items())


def test_the_least_important_go(tmp_path: Path) -> None:
    model = toy("Plain")
    weak = [0, 3, 4, 7]
    with torch.no_grad():
        for channel in weak:
            model.module.a[0].weight[channel] *= 1e-3
            model.module.b[0].weight[:, channel] *= 1e-3
    pruned, _ = run(Prune(ratio=0.5, criterion="l1"), model, tmp_path)
    assert pruned.surgery.kept["a.0"][0] == (1, 2, 5, 6)


def test_a_global_ratio_compares_scores_across_groups(tmp_path: Path) -> None:
    model = toy("Residual")
    for name, scale in (("stem", 5.0), ("one", 0.5), ("two", 3.0), ("three", 0.1)):
        for part in model.module.get_submodule(name).modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.data[:] = scale
    pruned, _ = run(Prune(ratio=0.3, scope="global", criterion="bn_scale"), model, tmp_path)
    # 64 channels, 45 to keep. Those of three.conv1 (0.1) go first, then three of one.conv1 (0.5): 5 are left.
    after = widths(pruned)
    assert (after["stem.0"], after["one.conv1"], after["two.conv1"], after["two.conv2"]) == (8, 5, 16, 16)
    assert after["three.conv1"] == 2, "a group never goes below its lowest rung"


def test_equal_scores_are_no_reason_to_keep_everything(tmp_path: Path) -> None:
    model = toy("Residual")
    for part in model.module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data[:] = 1.0  # as every net starts
    pruned, _ = run(Prune(ratio=0.25, scope="global", criterion="bn_scale"), model, tmp_path)
    assert widths(pruned)["three.conv1"] == 2 and widths(pruned)["stem.0"] == 8


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_several_steps_arrive_where_one_does(scope: str, tmp_path: Path) -> None:
    model = toy("Residual")
    at_once, _ = run(Prune(ratio=0.5, scope=scope), model, tmp_path)
    in_steps, facts = run(Prune(ratio=0.5, scope=scope, steps=3), model, tmp_path)
    if scope == "uniform":
        assert widths(in_steps) == widths(at_once)
    free = sum(w for name, w in widths(in_steps).items() if name in TOYS["Residual"].free)
    assert free == pytest.approx(0.5 * (8 + 8 + 16 + 16 + 16), abs=5)
    in_steps.verify()
    rebuilt = surgery.rebuild(model, in_steps.surgery)
    assert torch.equal(rebuilt.module(*model.inputs), in_steps.module(*model.inputs))
    assert facts["removed_parameters"] == model.parameters() - in_steps.parameters()


def test_each_step_scores_anew(tmp_path: Path) -> None:
    model = toy("Plain")
    seen = []

    class Watched(Answers):
        def train_batches(self, epoch: int, seed: int):
            seen.append(epoch)
            return super().train_batches(epoch, seed)

    run(Prune(ratio=0.5, criterion="taylor", steps=3), model, tmp_path, task=Watched(model, 16))
    assert len(seen) == 3


@pytest.mark.parametrize("criterion", ["l1", "l2", "random", "taylor", "gradient_l1", "bn_scale"])
@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_every_criterion_and_scope_works_and_repeats_itself(criterion: str, scope: str, tmp_path: Path) -> None:
    model = toy("Depthwise")
    step = Prune(ratio=0.3, scope=scope, criterion=criterion)
    (one, _), (two, _) = (run(step, model, tmp_path, task=Answers(model, 16)) for _ in range(2))
    one.verify()
    assert one.parameters() < model.parameters()
    assert one.surgery == two.surgery


@pytest.mark.parametrize("ratio", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", [n for n in TOYS if TOYS[n].free])
def test_no_ratio_breaks_a_net(name: str, ratio: float, tmp_path: Path) -> None:
    model = toy(name)
    for scope in ("uniform", "global"):
        pruned, _ = run(Prune(ratio=ratio, scope=scope), model, tmp_path)
        pruned.verify()
        assert pruned.module(*model.inputs).shape == model.module(*model.inputs).shape


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_a_net_of_locked_groups_cannot_be_pruned_and_says_why(scope: str, tmp_path: Path) -> None:
    message = (
        r"^pruning 50% removed nothing: all 2 groups are locked, the first because a trial cut changes what the kept "
        r"channels compute \(their positions are tied by more than the graph shows\); "
        r"`edgeprune inspect` lists every group$"
    )
    with pytest.raises(UnmetRequirement, match=message):
        run(Prune(ratio=0.5, scope=scope), toy("Averaged"), tmp_path)


def test_a_ratio_below_one_rung_removes_nothing(tmp_path: Path) -> None:
    message = (
        r"^pruning 5% removed nothing: the ratio is smaller than one rung of every group's ladder; "
        r"`edgeprune inspect` lists every group$"
    )
    with pytest.raises(UnmetRequirement, match=message):
        run(Prune(ratio=0.05), toy("Plain"), tmp_path, board=BOARD)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 50.0, float("nan")])
def test_a_ratio_is_a_fraction_removed(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"^ratio is the fraction of channels removed, in \[0, 1\), not "):
        Prune(ratio=ratio)


def test_other_options_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"^steps must be at least 1, not 0$"):
        Prune(steps=0)


def test_an_unknown_criterion_is_refused() -> None:
    with pytest.raises(BadOption, match=r"^unknown criterion 'tailor'; did you mean 'taylor'\?$"):
        Prune(ratio=0.5, criterion="tailor")


def test_what_was_pruned_can_be_pruned_again(tmp_path: Path) -> None:
    model = toy("Plain")
    once, _ = run(Prune(ratio=0.5), model, tmp_path)
    twice, _ = run(Prune(ratio=0.5), once, tmp_path)
    assert [g.channels for g in trace(twice).groups] == [2, 4, 3, 5]
    assert torch.equal(surgery.rebuild(model, twice.surgery).module(*model.inputs), twice.module(*model.inputs))


def test_what_was_cut_leaves_batch_norms_that_describe_what_reaches_them(tmp_path: Path) -> None:
    """Who corrects statistics by those of the model it is given would bring the stale ones back."""
    model = toy("Residual")
    ctx, _ = context(tmp_path, model, task=Answers(model, 64))
    stale = Prune(0.5, recalibration=0).run(model, ctx)
    cut = Prune(0.5).run(model, ctx)
    assert cut.surgery == stale.surgery
    norms = [name for name, part in cut.module.named_modules() if isinstance(part, nn.BatchNorm2d)]
    moved = {name: float((cut.module.get_submodule(name).running_mean
                          - stale.module.get_submodule(name).running_mean).abs().max()) for name in norms}  # fmt: skip
    assert norms and max(moved.values()) > 1e-3
    follow(stale.module, model.module, stale.surgery.kept, ctx.task.calibration_batches(), 1024)
    assert torch.equal(stale.module(*model.inputs), cut.module(*model.inputs))
    with pytest.raises(ValueError, match=r"^recalibration must not be negative, not -1$"):
        Prune(0.5, recalibration=-1)

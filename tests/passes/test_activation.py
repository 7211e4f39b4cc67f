from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import get_args

import pytest
import smooth_net
import torch
from contexts import Agreement, context, open_onnx, smooth_images, torch_model
from torch import nn

from edgeprune import surgery
from edgeprune.activations import CHEAPER, smooth
from edgeprune.errors import BadModel, BadOption, UnmetRequirement
from edgeprune.groups import DROP, plan_of
from edgeprune.model import Surgery, TorchModel
from edgeprune.passes import activation
from edgeprune.passes.activation import Activation, Kind, harms
from edgeprune.passes.export import Export
from edgeprune.passes.prune import Prune
from edgeprune.tracing import size_of, trace


@pytest.fixture
def model() -> TorchModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch_model(smooth_net.net())


def replaced(model: TorchModel, folder: Path, to: Kind = "hardswish") -> tuple[TorchModel, dict[str, object]]:
    ctx, facts = context(folder, model)
    one = Activation(to)
    one.requires(model, ctx)
    return one.run(model.clone(), ctx), facts


@pytest.mark.parametrize("to", CHEAPER)
def test_every_smooth_activation_goes_and_the_weights_stay(to: Kind, model: TorchModel, tmp_path: Path) -> None:
    result, facts = replaced(model, tmp_path, to)
    assert not smooth(result.module) and len(smooth(model.module)) == 4
    names = ["act", "block.act", "block.inner", "last"]
    assert facts == {"replaced": 3, "from": ["GELU", "Mish", "SiLU"], "to": to, "names": names}
    after = result.module.state_dict()
    assert all(torch.equal(after[k], v) for k, v in model.module.state_dict().items())
    kind = type(CHEAPER[to]())
    assert all(isinstance(result.module.get_submodule(n), kind) for n in ("act", "block.act", "block.inner", "last"))
    assert result.digest() != model.digest() and size_of(result) == size_of(model)
    result.verify()


def test_none_leaves_everything_as_it_is(model: TorchModel, tmp_path: Path) -> None:
    result, facts = replaced(model, tmp_path, "none")
    assert result.digest() == model.digest() and not facts


def test_the_kinds_on_offer_are_those_there_are() -> None:
    assert get_args(Kind) == ("none", *CHEAPER)
    sentence = r"^activation.to 'reluu' is not known; did you mean 'relu'\?$"
    with pytest.raises(BadOption, match=sentence):
        Activation(to="reluu")  # type: ignore[arg-type]


def test_where_nothing_can_be_replaced_it_says_what_to_do(tmp_path: Path) -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.silu(self.conv(x))

    model = torch_model(Functional())
    sentence = (
        r"^no SiLU, Mish or GELU module is left to replace; one that a forward calls as a function "
        r"\(torch.nn.functional.silu\) must become a module \(torch.nn.SiLU\) first$"
    )
    with pytest.raises(UnmetRequirement, match=sentence):
        Activation().requires(model, context(tmp_path, model)[0])


def test_it_is_recorded_and_can_be_done_again(model: TorchModel, tmp_path: Path) -> None:
    result, _ = replaced(model, tmp_path, "relu6")
    names = ("act", "block.act", "block.inner", "last")
    assert result.surgery == Surgery(activations=dict.fromkeys(names, "relu6")) and result.surgery
    read = Surgery.from_json(json.loads(json.dumps(result.surgery.to_json())))
    assert read == result.surgery
    assert surgery.rebuild(model, read).digest() == result.digest()


def test_recipes_without_activations_are_read_and_written_as_before() -> None:
    old = {"kept": {"stem": [[0, 2], None]}, "dropped": ["block"]}
    assert Surgery.from_json(old).to_json() == old
    assert Surgery.from_json(old).activations == {}


def test_cuts_before_and_after_it_are_the_same_surgery(model: TorchModel, tmp_path: Path) -> None:
    half = Prune(ratio=0.5)
    ctx, _ = context(tmp_path, model)
    one = half.run(replaced(model, tmp_path)[0], ctx)
    two, _ = replaced(half.run(model.clone(), ctx), tmp_path)
    assert one.surgery == two.surgery and one.surgery.activations and one.surgery.kept
    assert one.digest() == two.digest() == surgery.rebuild(model, one.surgery).digest()


def test_groups_and_blocks_are_found_as_before(model: TorchModel, tmp_path: Path) -> None:
    before, after = trace(model), trace(replaced(model, tmp_path)[0])
    assert [(g.name, g.channels, g.ladder, g.block, g.locked) for g in after.groups] == [
        (g.name, g.channels, g.ladder, g.block, g.locked) for g in before.groups
    ]
    assert any(g.block == "block" for g in after.groups)


def test_a_dropped_block_takes_its_activations_along(model: TorchModel, tmp_path: Path) -> None:
    result, _ = replaced(model, tmp_path)
    cost = trace(result)
    widths = [DROP if g.block else g.channels for g in cost.groups]
    cut = surgery.apply(result, cost.groups, plan_of(cost.groups, widths, {}))
    assert cut.surgery == Surgery(dropped=("block",), activations=dict.fromkeys(("act", "last"), "hardswish"))
    assert surgery.rebuild(model, cut.surgery).digest() == cut.digest()
    both = dataclasses.replace(cut.surgery, activations=result.surgery.activations)
    assert surgery.rebuild(model, both).digest() == cut.digest(), "a block that goes may have been changed first"


def test_its_argument_is_left_alone(model: TorchModel, tmp_path: Path) -> None:
    before = copy.deepcopy(model)
    surgery.rebuild(model, replaced(model, tmp_path)[0].surgery)
    assert smooth(model.module) == smooth(before.module) and not model.surgery


@pytest.mark.parametrize(("to", "wanted"), [("hardswish", "HardSwish"), ("leaky_relu", "LeakyRelu"), ("relu", "Relu")])
def test_it_is_exported_as_one_operator(to: Kind, wanted: str, model: TorchModel, tmp_path: Path) -> None:
    import onnx

    result, _ = replaced(model, tmp_path, to)
    exported = Export().run(result, context(tmp_path, result)[0])
    kinds = [node.op_type for node in onnx.load(exported.path).graph.node]
    assert kinds.count(wanted) >= 3 and not {"Sigmoid", "Erf", "Softplus", "Tanh"} & set(kinds)
    with open_onnx(exported) as predict:
        difference = abs(predict(smooth_images(2)) - result.predict(smooth_images(2))).max()
    assert difference < 1e-4


@pytest.mark.parametrize(("share", "kept"), [(1e-6, 3), (0.5, 2), (1.0, 0)])
def test_a_share_takes_the_largest_maps_first(share: float, kept: int, tmp_path: Path) -> None:
    parts = [nn.Conv2d(3, 8, 1), nn.SiLU(), nn.Conv2d(8, 8, 1, stride=2), nn.Mish(), nn.Conv2d(8, 32, 1), nn.GELU(),
             nn.Conv2d(32, 6, 1), nn.SiLU()]  # fmt: skip
    model = torch_model(nn.Sequential(*parts), (1, 3, 16, 16))  # 2048, 512, 2048 and 384 elements
    ctx, facts = context(tmp_path, model)
    result = Activation("relu", share=share).run(model.clone(), ctx)
    left = [type(part).__name__ for part in result.module if type(part) in (nn.SiLU, nn.Mish, nn.GELU)]
    assert left == {3: ["Mish", "GELU", "SiLU"], 2: ["Mish", "SiLU"], 0: []}[kept]
    assert facts["replaced"] == 4 - len(left)


@pytest.mark.parametrize("share", [0.0, 1.01])
def test_a_share_is_a_fraction(share: float) -> None:
    with pytest.raises(BadOption, match=rf"^activation\.share is a fraction above 0 and at most 1, not {share}$"):
        Activation(share=share)


def test_an_activation_that_is_never_called_goes_with_the_whole_only(tmp_path: Path) -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.spare = nn.Conv2d(3, 4, 1), nn.SiLU(), nn.SiLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.act(self.conv(x))
            return result

    model = torch_model(Idle(), (1, 3, 8, 8))
    ctx, _ = context(tmp_path, model)
    assert not smooth(Activation("relu").run(model.clone(), ctx).module)
    assert smooth(Activation("relu", share=0.99).run(model.clone(), ctx).module) == ("spare",)


class Uneven(nn.Module):
    """A large map that reaches the outputs doubled, and a small one that hardly does."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.act = nn.Conv2d(3, 16, 1), nn.SiLU()
        self.small, self.norm, self.faint = nn.Conv2d(3, 4, 1, stride=4), nn.BatchNorm2d(4), nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weak: torch.Tensor = self.faint(self.norm(self.small(x))).mean((2, 3))
        strong: torch.Tensor = self.act(self.large(x)).mean((2, 3))
        return 2 * strong[:, :3] + 0.05 * weak[:, :3]


def test_what_moves_the_outputs_least_for_its_size_goes_first(tmp_path: Path) -> None:
    model = torch_model(Uneven())
    norm = copy.deepcopy(model.module.norm)
    task = Agreement(model, smooth_images(40))
    ctx, facts = context(tmp_path, model, task=task)
    result = Activation("relu", share=0.01).run(model, ctx)
    assert smooth(result.module) == ("act",) and facts["names"] == ["faint"]
    assert set(facts["moved"]) == {"act", "faint"} and facts["moved"]["act"] > 100 * facts["moved"]["faint"] > 0
    assert torch.equal(model.module.norm.running_mean, norm.running_mean), "looking changes nothing"
    assert torch.equal(result.module.norm.running_var, norm.running_var)
    blind, _ = context(tmp_path, model)
    assert smooth(Activation("relu", share=0.01).run(model, blind).module) == ("faint",), "without images by size"


class Normed(nn.Module):
    """A batch norm behind an activation takes away what it scales all values by."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.norm, self.other = nn.Conv2d(3, 4, 1), nn.SiLU(), nn.BatchNorm2d(4), nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(self.act(self.conv(x)))
        return self.other(y).mean((2, 3))


def test_what_new_batch_norm_statistics_put_right_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torch_model(Normed())
    ctx, _ = context(tmp_path, model, task=Agreement(model, smooth_images(40)))
    monkeypatch.setitem(CHEAPER, "relu", Scaled)
    right = harms(model, "relu", ctx)["act"]
    monkeypatch.setattr(activation, "recalibrate", lambda module, images: module)
    assert harms(model, "relu", ctx)["act"] > 10 * abs(right)


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1.5 * nn.functional.silu(x)


def test_one_instance_is_tried_in_all_its_places(model: TorchModel, tmp_path: Path) -> None:
    ctx, facts = context(tmp_path, model, task=Agreement(model, smooth_images(40)))
    result = Activation("relu", share=0.9).run(model.clone(), ctx)
    assert facts["moved"]["act"] == facts["moved"]["block.act"] and len(set(facts["moved"].values())) == 3
    kinds = {type(result.module.get_submodule(name)) for name in ("act", "block.act")}
    assert len(kinds) == 1


def test_all_need_no_looking(model: TorchModel, tmp_path: Path) -> None:
    ctx, facts = context(tmp_path, model, task=Agreement(model, smooth_images(40)))
    Activation("relu").run(model.clone(), ctx)
    assert "moved" not in facts


def test_names_say_which_ones(model: TorchModel, tmp_path: Path) -> None:
    ctx, facts = context(tmp_path, model, task=Agreement(model, smooth_images(40)))
    result = Activation("relu", share=0.5, names=("last",)).run(model.clone(), ctx)
    assert smooth(result.module) == ("act", "block.act", "block.inner")
    assert facts == {"replaced": 1, "from": ["GELU"], "to": "relu", "names": ["last"]}
    sentence = r"^the plan replaces 'lost', which is no SiLU, Mish or GELU of this model$"
    with pytest.raises(BadModel, match=sentence):
        Activation("relu", names=("lost",)).run(model.clone(), ctx)

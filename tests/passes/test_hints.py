"""Hints compare what a cut student gives its layers with the same channels of its teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_detector
import torch
from contexts import smooth_images, torch_model
from networks import CUTTABLE, random_scores, random_widths, silenced, traced
from torch import nn

from edgeprune.frontends.checkpoint import Source, load
from edgeprune.groups import plan_of
from edgeprune.model import Surgery, TorchModel
from edgeprune.passes.hints import FAINT, Hints, readers
from edgeprune.surgery import apply, rebuild


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def seeded() -> TorchModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch_model(Two(), (1, 3, 8, 8))


def test_the_kept_channels_of_a_cut_student_are_its_teachers() -> None:
    teacher = seeded()
    student = rebuild(teacher, Surgery({"body": ((1, 2, 5), None), "head": (None, (1, 2, 5))}))
    hints = Hints(student.module, teacher.module, student.surgery, teacher.inputs)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    student.module(images), teacher.module(images)
    assert hints.distance().item() < 1e-12
    hints.close()


def test_example_inputs_may_lie_on_another_device() -> None:
    class Strict(Two):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.device == self.body.weight.device, "as a GPU has it; the meta device is lenient"
            return super().forward(x)

    student, teacher = Strict().to("meta"), Strict().to("meta")
    Hints(student, teacher, Surgery(), (torch.zeros(1, 3, 8, 8),)).close()


def test_the_distance_is_the_share_of_the_teachers_features_an_image() -> None:
    teacher, student = seeded(), seeded()
    with torch.no_grad():
        student.module.body.weight *= 1.5
        student.module.body.bias *= 1.5
    hints = Hints(student.module, teacher.module, Surgery(), teacher.inputs)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    images *= torch.tensor([1.0, 2, 3, 40]).view(4, 1, 1, 1)
    student.module(images), teacher.module(images)
    distance = hints.distance()
    torch.testing.assert_close(distance, torch.tensor(0.25), rtol=1e-4, atol=0)
    distance.backward()
    assert student.module.body.weight.grad.abs().sum() > 0 and teacher.module.body.weight.grad is None
    hints.close()
    before = len(student.module.head._forward_pre_hooks)
    assert before == 0, "nothing stays behind"


def test_no_features_are_held_while_a_student_is_scored() -> None:
    teacher, student = seeded(), seeded()
    hints = Hints(student.module, teacher.module, Surgery(), teacher.inputs)
    images = torch.ones(4, 3, 8, 8)
    student.module(images), teacher.module(images)
    assert hints._given and hints.distance().item() == 0.0
    student.predict(images.numpy())
    assert not hints._given
    hints.close()


def test_every_image_counts_by_its_own_features() -> None:
    teacher, student = seeded(), seeded()
    with torch.no_grad():
        student.module.body.bias += 1.0  # the same error everywhere: a share that differs from image to image
    hints = Hints(student.module, teacher.module, Surgery(), teacher.inputs)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    images *= torch.tensor([1.0, 2, 3, 40]).view(4, 1, 1, 1)
    student.module(images), teacher.module(images)
    with torch.no_grad():
        shares = 1.0 / teacher.module.body(images).square().mean((1, 2, 3))
    torch.testing.assert_close(hints.distance(), shares.mean(), rtol=1e-3, atol=0)
    hints.close()


def apart(images: torch.Tensor) -> torch.Tensor:
    """The distance between the two-layer net and one whose features are larger by 0.1 everywhere."""
    teacher, student = seeded(), seeded()
    with torch.no_grad():
        for module in (teacher.module, student.module):
            module.body.weight.abs_(), module.body.bias.zero_()
        student.module.body.bias += 0.1
    hints = Hints(student.module, teacher.module, Surgery(), teacher.inputs)
    student.module(images), teacher.module(images)
    distance: torch.Tensor = hints.distance()
    hints.close()
    return distance


def test_an_image_that_leaves_a_layer_dark_does_not_outweigh_all_others() -> None:
    bright = torch.ones(8, 3, 8, 8)
    dark = bright.clone()
    dark[0] = 0.0
    usual, once = apart(bright).item(), apart(dark).item()
    faint = FAINT * 7 / 8  # of what the bright ones have: the mean is over all eight
    assert once == pytest.approx((7 * usual + usual / faint) / 8, rel=1e-3)
    found = apart(torch.zeros(8, 3, 8, 8))
    assert found.item() == 0.0, "of nothing there is no share"
    found.backward()


def test_what_flows_between_layers_is_read_once() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.left = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
            self.beside, self.right, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.body(x) + self.beside(x)
            return self.head((self.left(y) + self.right(y)).mean((2, 3)))

    found = readers(Forked().eval(), (torch.randn(1, 3, 8, 8),))
    assert found == ["left", "head"], "the image is no feature, and two that read one tensor are one"


def test_a_detectors_layers_follow_all_along(tmp_path: Path) -> None:
    path = tiny_detector.save(tmp_path / "m.pt", tiny_detector.seeded())
    detector = load(Source(path, None), (1, 3, 64, 64)).model
    found = readers(detector.module, detector.inputs)
    head = f"model.{len(detector.module.model) - 1}"
    assert f"{head}.m.1" in found and f"{head}.m.0" not in found, "the way down reads the larger level before the head"
    stages = {name.split(".")[1] for name in found}
    convolving = {n.split(".")[1] for n, part in detector.module.named_modules() if isinstance(part, nn.Conv2d)}
    assert stages == convolving - {"0"}


@pytest.mark.parametrize("name", CUTTABLE)
def test_what_was_kept_gives_no_distance_to_a_teacher_without_the_rest(name: str) -> None:
    model, cost = traced(name)
    for seed in range(6):
        plan = plan_of(cost.groups, random_widths(cost, seed), random_scores(cost, seed))
        student, teacher = apply(model, cost.groups, plan), silenced(model, cost, plan)
        hints = Hints(student.module, teacher, student.surgery, model.inputs)
        images = torch.from_numpy(smooth_images(3))
        student.module(images), teacher(images)
        assert hints.distance().item() < 1e-8, plan
        hints.close()


def test_a_linear_layer_takes_its_channels_last() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x))

    teacher = torch_model(Tokens(), (1, 5, 4))
    student = rebuild(teacher, Surgery({"body": ((1, 2, 5), None), "head": (None, (1, 2, 5))}))
    hints = Hints(student.module, teacher.module, student.surgery, teacher.inputs)
    student.module(*teacher.inputs), teacher.module(*teacher.inputs)
    assert hints.distance().item() < 1e-12
    hints.close()

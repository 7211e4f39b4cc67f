"""Hints compare what a cut student feeds its output layers with the same channels of its teacher."""

from __future__ import annotations

import tiny_detector
import torch
from contexts import torch_model
from networks import toy
from torch import nn

from edgeprune.frontends.checkpoint import Source, load
from edgeprune.frontends.detector import Detector
from edgeprune.frontends.split_free import Detect
from edgeprune.model import Surgery, TorchModel
from edgeprune.passes.hints import Hints, output_layers
from edgeprune.surgery import rebuild


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


def test_every_image_counts_by_its_own_features() -> None:
    teacher, student = seeded(), seeded()
    with torch.no_grad():
        student.module.body.bias += 1.0  # the same error everywhere: a share that differs from image to image
    hints = Hints(student.module, teacher.module, Surgery(), teacher.inputs)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    images *= torch.tensor([1.0, 2, 3, 40]).view(4, 1, 1, 1)
    with torch.no_grad():
        student.module(images), teacher.module(images)
        shares = 1.0 / teacher.module.body(images).square().mean((1, 2, 3))
    torch.testing.assert_close(hints.distance(), shares.mean(), rtol=1e-3, atol=0)
    hints.close()


def test_only_the_first_layers_of_a_deep_head_read_the_last_features() -> None:
    def stacks(rows: int) -> list[nn.Sequential]:
        return [nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, rows, 1)) for _ in range(2)]

    layers = [nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 2, 1), Detect(stacks(16), stacks(3))]
    module = Detector(layers, [(-1,), (-1,), (0, 1)]).eval()
    found = output_layers(module, (torch.randn(1, 3, 16, 16),))
    assert sorted(found) == ["model.2.cv2.0.0", "model.2.cv2.1.0", "model.2.cv3.0.0", "model.2.cv3.1.0"]


def test_the_layers_that_read_the_last_features(tmp_path) -> None:
    path = tiny_detector.save(tmp_path / "m.pt", tiny_detector.seeded())
    detector = load(Source(path, None), (1, 3, 64, 64)).model
    head = f"model.{len(detector.module.model) - 1}"
    assert output_layers(detector.module, detector.inputs) == [f"{head}.m.0", f"{head}.m.1"]
    plain = toy("Plain")
    linear = [name for name, part in plain.module.named_modules() if isinstance(part, nn.Linear)]
    assert output_layers(plain.module, plain.inputs) == linear and len(linear) == 1

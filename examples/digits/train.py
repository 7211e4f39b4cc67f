"""Train the digits network on the 3,000 training digits and on nothing else: about two minutes on one core.

    python examples/digits/train.py [build/digits.npz] [examples/digits/digits.safetensors]

The digits of the evaluation split choose nothing here, not even the epoch to keep: they are looked at once, at the end.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from model import digits

from edgeprune.model import ModelSpec
from edgeprune.tasks.classification import Classification

EPOCHS = 45
RATE = 0.1


def train(task: Classification, epochs: int = EPOCHS, seed: int = 0) -> nn.Module:
    """Return a trained network in eval mode: the same weights for the same data, seed and thread count."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = digits().train()
    optimiser = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, nesterov=True, weight_decay=1e-3)
    steps = epochs * task.train_steps()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.15)
    for epoch in range(epochs):
        total = 0.0
        for batch in task.train_batches(epoch, seed):
            loss = task.loss(model(distorted(batch.inputs, generator)), batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / task.train_steps():.4f}", flush=True)
    return model.eval()


def distorted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate by up to 12 degrees, scale by up to 10 % and shear by up to 0.15, each image on its own; never mirror."""
    n = len(images)
    limits = torch.tensor([[12 * math.pi / 180], [0.1], [0.15]])
    angle, scale, shear = (torch.rand(3, n, generator=generator) * 2 - 1) * limits
    cos, sin, scale = torch.cos(angle), torch.sin(angle), 1 + scale
    rows = torch.stack([cos, shear * cos - sin, sin, shear * sin + cos], 1).view(n, 2, 2) * scale.view(n, 1, 1)
    grid = F.affine_grid(torch.cat([rows, torch.zeros(n, 2, 1)], 2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def main(arguments: Sequence[str]) -> None:
    """Train, save, and only then look at the test split."""
    data = Path(arguments[0] if arguments else "build/digits.npz")
    weights = Path(arguments[1]) if len(arguments) > 1 else Path(__file__).with_name("digits.safetensors")
    torch.set_num_threads(1)  # one thread, so that sums are added up in one order
    config = digits().pretrained_cfg
    spec = ModelSpec((1, *config["input_size"]), config["mean"], config["std"], colour="L")
    task = Classification.open(data, spec, seed=0, batch=100, label_smoothing=0.1)
    model = train(task)
    save_file(model.state_dict(), weights)
    with torch.no_grad():
        score = task.score(lambda images: model(torch.from_numpy(images)).numpy(), "test")
    print(f"wrote {weights}; top-1 on the {score.n} test digits: {score.value:.4f}")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Train a network for CIFAR-10 from nothing: ResNet-18, VGG-19 or MobileNet, or any factory of resnet.py.

    python examples/cifar10/train.py mobilenet --data cifar10 [--out build/cifar10_mobilenet.safetensors]

On a GPU 60 epochs in bf16, minutes each network; without one, 12 epochs, which are hours for ResNet-18 and VGG-19 on a
few cores, and less accurate. Every epoch is kept beside the result, and the same command goes on after Ctrl-C or a
kill. Images of the evaluation split choose nothing, not even the epoch: they are looked at once, at the end.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import resnet
import thesis

from edgeprune.errors import EdgepruneError
from edgeprune.files import write_atomic
from edgeprune.model import ModelSpec, TorchModel
from edgeprune.tasks.classification import Classification

FACTORIES: dict[str, Callable[[], nn.Module]] = {
    name: getattr(module, name)
    for module, names in (
        (thesis, ("resnet18", "vgg19", "mobilenet")),
        (resnet, ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")),
    )
    for name in names
}
EPOCHS = {"cuda": 60, "cpu": 12}


def train(
    model: nn.Module, task: Classification, epochs: int, *, rate: float = 0.1, seed: int = 0, device: str = "cpu",
    kept: Path | None = None,
) -> nn.Module:
    """Return the trained model in eval mode on the CPU: SGD with Nesterov's momentum, weight decay 5e-4, one cycle.

    The same weights for the same data, seed, device and thread count. With ``kept``, every epoch is written there, and
    training goes on from what is found; the file is of this model and these numbers, and is refused otherwise.
    """
    model.to(device).train()
    optimiser = torch.optim.SGD(model.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=epochs * task.train_steps(), pct_start=0.2
    )
    parts = {"model": model, "optimiser": optimiser, "schedule": schedule}
    layers = [f"{name} {tuple(weight.shape)}" for name, weight in model.state_dict().items()]
    numbers = [epochs, rate, seed, task.digest(), layers]
    for epoch in range(_resumed(kept, parts, numbers), epochs):
        total = 0.0
        for batch in task.train_batches(epoch, seed):
            inputs, targets = batch.inputs.to(device), batch.targets.to(device)
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = task.loss(model(inputs), batch._replace(targets=targets))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / task.train_steps():.4f}", flush=True)
        if kept is not None:
            _keep(kept, parts, numbers, epoch + 1)
    return model.eval().cpu()


def _keep(path: Path, parts: dict[str, Any], numbers: list[Any], done: int) -> None:
    partial = path.with_name(f"{path.name}.partial")
    torch.save({"numbers": numbers, "done": done} | {name: one.state_dict() for name, one in parts.items()}, partial)
    partial.replace(path)


def _resumed(path: Path | None, parts: dict[str, Any], numbers: list[Any]) -> int:
    if path is None or not path.is_file():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        same = state["numbers"] == numbers
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise SystemExit(f"error: {path} cannot be read ({type(error).__name__}); remove it to start anew") from error
    if not same:
        raise SystemExit(f"error: {path} is of another network, other data or options; remove it to start anew")
    for name, one in parts.items():
        one.load_state_dict(state[name])
    done: int = state["done"]
    print(f"going on after epoch {done}", flush=True)
    return done


def main(arguments: Sequence[str]) -> int:
    """Train, write the weights, and print what they score on the evaluation split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=list(FACTORIES))
    parser.add_argument("--data", type=Path, default=Path("cifar10"), help="default: cifar10, also in $EDGEPRUNE_DATA")
    parser.add_argument("--epochs", type=int, help="default: 60 on a GPU, 12 without")
    parser.add_argument("--rate", type=float, help="highest learning rate; default: 0.1, for vgg19 0.05")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--device", choices=list(EPOCHS), help="default: cuda where there is one")
    parser.add_argument("--out", type=Path, help="default: build/cifar10_NETWORK.safetensors")
    asked = parser.parse_args(arguments)
    device = asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
    out = asked.out or Path("build") / f"cifar10_{asked.network}.safetensors"
    epochs = EPOCHS[device] if asked.epochs is None else asked.epochs
    if epochs < 1:
        parser.error("--epochs must be at least 1")
    torch.manual_seed(asked.seed)
    model = FACTORIES[asked.network]()
    config: Any = model.pretrained_cfg
    spec = ModelSpec((1, *config["input_size"]), config["mean"], config["std"])
    try:
        task = Classification.open(asked.data, spec)
        out.parent.mkdir(parents=True, exist_ok=True)
        kept = out.with_suffix(".training")
        rate = asked.rate or (0.05 if asked.network == "vgg19" else 0.1)
        train(model, task, epochs, rate=rate, seed=asked.seed, device=device, kept=kept)
        write_atomic(out, save(model.state_dict()))
    except (EdgepruneError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    kept.unlink(missing_ok=True)
    predict = TorchModel(model, spec, (torch.zeros(spec.input_shape),)).predict
    found = [task.score(predict, split) for split in ("search", "test")]
    top1 = sum(score.value * score.n for score in found) / sum(score.n for score in found)
    print(f"wrote {out}: {100 * top1:.2f} % top-1 on the evaluation split")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The networks that benchmarks/peers.py compares methods on, each as an edge engineer would bring it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from conditions import data_pack
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import edgeprune
from edgeprune.compiler.opening import Opened, open_request
from edgeprune.compiler.request import Request

RESNETS = Path(__file__).parents[1] / "examples" / "cifar10" / "resnet.py"
IMAGENETTE = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)
"""The ImageNet classes of Imagenette's folders, in sorted order."""


@dataclass(frozen=True)
class Network:
    """A trained network with its data.

    ``make`` leaves the model's file or folder in an empty folder, told how many epochs to train where it must train;
    ``fixed`` tells the layers whose outputs no peer may narrow, by name and layer, because the architecture has no way
    to spell it. edgeprune is not told: it finds out.
    """

    make: Callable[[Path, int], Path]
    data: str
    arch: str | None = None
    fixed: Callable[[str, nn.Module], bool] = lambda name, layer: False
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    trains: bool = False

    def asked(self, model: Path) -> dict[str, Any]:
        """Return what tells edgeprune this network, as ``compile`` takes it."""
        told = {"model": model, "arch": self.arch, "data": data_pack() / self.data, "settings": dict(self.settings)}
        return {name: value for name, value in told.items() if value}

    def open(self, model: Path, seed: int) -> Opened:
        """Return the network and its task, whose images the seed cuts into those that choose and those that tell."""
        return open_request(Request(**self.asked(model), seed=seed))


def _packed(name: str) -> Callable[[Path, int], Path]:
    return lambda folder, epochs: data_pack() / "weights" / name


def _ten_classes(folder: Path, epochs: int) -> Path:
    """Keep the ten rows of ImageNet's classifier that the data has."""
    state: dict[str, Tensor] = load_file(data_pack() / "weights" / "imagenet_tf_efficientnet_lite0.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name][list(IMAGENETTE)].contiguous()
    path = folder / "lite0.safetensors"
    save_file(state, path)
    return path


def _with_head(folder: Path, epochs: int) -> Path:
    """Train a head for KITTI's classes, and cut nothing: the build is the original of all methods."""
    return edgeprune.compile(
        data_pack() / "weights" / "yolov5n.pt", data=data_pack() / "kitti" / "data.yaml", input_shape=(1, 3, 192, 640),
        precision="fp32", max_macs="1x", settings={"transfer": {"epochs": str(epochs)}}, out=folder / "dense",
    ).directory  # fmt: skip


def _tied(name: str, layer: nn.Module) -> bool:
    # The zero padding of shortcuts without parameters is a constant of the architecture.
    return not name.endswith(".conv1")


def _scores(name: str, layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear)


def _heads(name: str, layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.bias is not None  # all others have a batch norm


NETWORKS: Mapping[str, Network] = {
    "resnet20": Network(_packed("cifar10_resnet20.safetensors"), "cifar10", f"{RESNETS}:resnet20", _tied),
    "resnet56": Network(_packed("cifar10_resnet56.safetensors"), "cifar10", f"{RESNETS}:resnet56", _tied),
    "lite0": Network(_ten_classes, "imagenette160", "timm:tf_efficientnet_lite0", _scores,
                     {"task": {"batch": "32"}, "finetune": {"lr": "0.01"}}),  # of 128 images an epoch is 11 steps
    "yolov5n": Network(_with_head, "kitti/data.yaml", None, _heads, {"task": {"transfer": "done"}}, trains=True),
}


def in_torch_alone(module: nn.Module, example: Tensor) -> nn.Module:
    """Spell timm's convolutions with TensorFlow's padding and batch norms with activations as torch's own layers, in
    place, for images of the example's shape (1, C, H, W): FastNAS does not know subclasses.
    """
    sizes: dict[nn.Module, tuple[int, int]] = {}
    hooks = [part.register_forward_hook(lambda part, given, out: sizes.update({part: given[0].shape[2:]}))
             for part in module.modules() if isinstance(part, nn.Conv2d)]  # fmt: skip
    with torch.no_grad():
        module.eval()(example)
    for hook in hooks:
        hook.remove()
    for name, part in list(module.named_modules()):
        if isinstance(part, nn.BatchNorm2d) and type(part) is not nn.BatchNorm2d:
            own: nn.Module = nn.BatchNorm2d(part.num_features, part.eps, part.momentum)
            spelled = nn.Sequential(own, part.get_submodule("drop"), part.get_submodule("act"))
        elif isinstance(part, nn.Conv2d) and type(part) is not nn.Conv2d:
            own = nn.Conv2d(part.in_channels, part.out_channels, part.kernel_size, part.stride,  # type: ignore[arg-type]
                            groups=part.groups, bias=part.bias is not None)  # fmt: skip
            windows = zip(sizes[part], part.kernel_size, part.stride, strict=True)
            pads = [max((-(-size // step) - 1) * step + kernel - size, 0) for size, kernel, step in windows]
            (top, bottom), (left, right) = ((pad // 2, pad - pad // 2) for pad in pads)
            spelled = nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), own)
        else:
            continue
        own.load_state_dict(part.state_dict())
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, spelled)
    return module.eval()


def place(network: str, out: Path, epochs: int) -> Path:
    """Return the folder of all that is made of a network; one that must train first has one for each training."""
    return out / (f"{network}-{epochs}-epochs" if NETWORKS[network].trains else network)


def made(network: str, folder: Path, epochs: int) -> Path:
    """Return the network's model, made in ``folder`` if it must be and is not there yet."""
    done = folder / "model.txt"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        done.write_text(str(NETWORKS[network].make(folder, epochs)), encoding="utf-8")
    return Path(done.read_text(encoding="utf-8"))

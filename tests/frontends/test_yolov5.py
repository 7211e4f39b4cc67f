"""YOLOv5 checkpoints: the same answers as their authors' code gives, from the file alone."""

from __future__ import annotations

import copy
import resource
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tiny_detector as tiny
import torch
from contexts import BOARD
from torch import Tensor, nn

from edgeprune.errors import BadModel, BadOption
from edgeprune.frontends.checkpoint import Loaded, Source, load
from edgeprune.model import OnnxModel, TorchModel
from edgeprune.passes.export import to_proto
from edgeprune.passes.graph import clean, write
from edgeprune.tasks.boxes.heads import Head

SHAPE = (1, 3, 64, 64)


def opened(path: Path, shape: tuple[int, ...] | None = SHAPE) -> Loaded:
    return load(Source(path, None), shape)


def decoded(model: TorchModel, images: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return Head.of(model.spec).decode(model.module(images))


def corners(found: Tensor) -> Tensor:
    """Return xyxy of what the authors' code gives."""
    return torch.cat([found[..., :2] - found[..., 2:4] / 2, found[..., :2] + found[..., 2:4] / 2], -1)


def test_the_official_checkpoint_agrees_with_the_official_outputs(
    data_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("models", "yolov5", "ultralytics"):
        monkeypatch.setitem(sys.modules, name, None)  # to import it is an ImportError
    loaded = opened(data_pack / "weights" / "yolov5n.pt", (1, 3, 320, 320))
    spec = loaded.model.spec
    assert (loaded.kind, loaded.model.parameters(), len(spec.classes)) == ("yolov5", 1_872_157, 80)
    assert (spec.classes[0], spec.classes[-1], spec.resize) == ("person", "toothbrush", "letterbox 114")
    assert (spec.mean, spec.std) == ((0.0,) * 3, (1.0,) * 3)
    assert spec.head["strides"] == [8, 16, 32]
    assert spec.head["anchors"][2] == [[116.0, 90.0], [156.0, 198.0], [373.0, 326.0]]
    reference = np.load(data_pack / "weights" / "yolov5n_reference.npz")
    boxes, scores = decoded(loaded.model, torch.from_numpy(reference["input"]).float() / 255)
    wanted = torch.from_numpy(reference["output"])
    assert (boxes - corners(wanted)).abs().max() < 1e-2
    assert (scores - wanted[..., 4:5] * wanted[..., 5:]).abs().max() < 1e-4
    assert opened(data_pack / "weights" / "yolov5n.pt", None).model.spec.input_shape == (1, 3, 640, 640)


# --- every vintage ----------------------------------------------------------------------------------------------------


def as_halves(model: nn.Module) -> nn.Module:
    """Round every weight as a checkpoint in half precision does."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.half().float()
    return model


def shared_activations() -> tiny.Model:
    """Since v7 all layers of one kind hold the same activation."""
    model, act = tiny.seeded(names={0: "red", 1: "green", 2: "blue"}), nn.SiLU(inplace=True)
    for part in model.modules():
        if isinstance(part, tiny.Conv):
            part.act = act
    return model


def old_buffers() -> tiny.Model:
    """Up to v5.0 the anchors' grid is a buffer."""
    model = tiny.seeded(tiny.Model, levels=3, old=True)
    detect = model.model[-1]
    del detect.anchor_grid
    detect.register_buffer("anchor_grid", detect.anchors.clone().view(3, 1, -1, 1, 1, 2))
    return model


def leaky() -> tiny.Model:
    model = tiny.seeded()
    for part in model.modules():
        if isinstance(part, tiny.Conv):
            part.act = nn.LeakyReLU(0.17)
    return model


VINTAGES: dict[str, Callable[[], tiny.Model]] = {
    "v6, a list of names": lambda: tiny.seeded(tiny.Model),
    "v7, shared activations and a dictionary of names": shared_activations,
    "three levels": lambda: tiny.seeded(levels=3),
    "P6, four levels": lambda: tiny.seeded(levels=4),
    "Focus and SPP": old_buffers,
    "norms folded": lambda: tiny.folded(tiny.seeded(levels=3)),
    "another activation": leaky,
    "two classes, two anchors a place": lambda: tiny.seeded(
        names=["a", "b"], anchors=[level[:2] for level in tiny.ANCHORS]
    ),
}  # fmt: skip


@pytest.mark.parametrize("vintage", VINTAGES)
@pytest.mark.parametrize("half", [False, True], ids=["float", "half"])
def test_every_vintage_agrees_with_its_own_forward(vintage: str, half: bool, tmp_path: Path) -> None:
    model = VINTAGES[vintage]()
    path = tiny.save(tmp_path / "m.pt", copy.deepcopy(model).half() if half else model)
    reference = as_halves(model) if half else model
    loaded = opened(path)
    images = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(1))
    wide = TorchModel(loaded.model.module, opened(path, (1, 3, 64, 128)).model.spec, (images[:1],))
    boxes, scores = decoded(wide, images)
    with torch.no_grad():
        wanted = reference(images)
    assert (boxes - corners(wanted)).abs().max() < 1e-3
    assert (scores - wanted[..., 4:5] * wanted[..., 5:]).abs().max() < 1e-6
    anchors = (".anchors", ".anchor_grid")
    stored = {name: tensor.float() for name, tensor in model.state_dict().items() if not name.endswith(anchors)}
    own = loaded.model.module.state_dict()
    assert own.keys() == stored.keys()
    assert all(torch.equal(own[name].float(), tensor.half().float() if half else tensor)
               for name, tensor in stored.items())  # fmt: skip


def test_numbers_and_names_travel_with_the_model(tmp_path: Path) -> None:
    spec = opened(tiny.save(tmp_path / "m.pt", shared_activations()), None).model.spec
    assert (spec.classes, spec.input_shape) == (("red", "green", "blue"), (1, 3, 640, 640))
    assert spec.head == {
        "format": "yolov5", "strides": [8, 16],
        "anchors": [[[10.0, 10.0], [16.0, 20.0], [26.0, 18.0]], [[22.0, 30.0], [34.0, 30.0], [44.0, 44.0]]],
    }  # fmt: skip
    module = opened(tmp_path / "m.pt").model.module
    assert not module.training and all(p.requires_grad and p.dtype == torch.float32 for p in module.parameters())


def test_what_no_weight_tells_is_kept_too(tmp_path: Path) -> None:
    """A norm's epsilon and momentum, an activation's slope: the first two differ from torch's own."""
    module = opened(tiny.save(tmp_path / "m.pt", leaky())).model.module
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    assert norms and all((n.eps, n.momentum) == (1e-3, 0.03) for n in norms)
    assert {p.negative_slope for p in module.modules() if isinstance(p, nn.LeakyReLU)} == {0.17}


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (None, (640, 640)),
        ({"imgsz": 320}, (320, 320)),
        ({"imgsz": [192, 320]}, (192, 320)),
        ({"img_size": [128, 256]}, (128, 256)),
        ({"imgsz": 330}, (640, 640)),  # not a multiple of the stride
        ({"imgsz": 2**15}, (640, 640)),  # no network is trained on that: a file must not make us allocate it
        ({"imgsz": "large"}, (640, 640)),
        ({"imgsz": []}, (640, 640)),
        ("imgsz", (640, 640)),
    ],
)
def test_the_image_size_of_the_training(options: Any, size: tuple[int, int], tmp_path: Path) -> None:
    path = tiny.save(tmp_path / "m.pt", tiny.seeded(), opt=options)
    assert opened(path, None).model.spec.input_shape == (1, 3, *size)


def test_averaged_weights_go_first_and_a_bare_network_will_do(tmp_path: Path) -> None:
    plain, averaged = tiny.seeded(seed=1), tiny.seeded(seed=2)
    both = opened(tiny.save(tmp_path / "both.pt", plain, ema=averaged))
    assert both.notes == (f"took the weights under 'ema' of {tmp_path / 'both.pt'}",)
    assert torch.equal(both.model.module.model[0].conv.weight, averaged.model[0].conv.weight)
    alone = opened(tiny.save(tmp_path / "alone.pt", plain, wrapped=False))
    assert (alone.notes, alone.kind) == ((), "yolov5")
    assert torch.equal(alone.model.module.model[0].conv.weight, plain.model[0].conv.weight)


def test_what_is_made_of_it_can_be_copied_and_exported(tmp_path: Path) -> None:
    model = opened(tiny.save(tmp_path / "m.pt", tiny.seeded())).model
    assert copy.deepcopy(model.module).state_dict().keys() == model.module.state_dict().keys()
    assert model.digest() == model.clone().digest()
    proto = to_proto(model, BOARD.opset)
    clean(proto, model.spec.to_json(), BOARD.ir_version)
    written = write(proto, OnnxModel(tmp_path / "m.onnx", model.spec))
    assert OnnxModel.read(written.path).spec == type(model.spec).from_json(model.spec.to_json())
    session = onnxruntime.InferenceSession(written.path, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).random(SHAPE, np.float32)
    assert np.abs(session.run(None, {"input": images})[0] - model.predict(images)).max() < 1e-4
    assert {node.op_type for node in proto.graph.node} >= {"Conv", "MaxPool", "Concat", "Resize"}


# --- what is not one --------------------------------------------------------------------------------------------------


def changed(change: Callable[[tiny.Model], Any], **options: Any) -> Callable[[], tiny.Model]:
    def make() -> tiny.Model:
        model = tiny.seeded(**options)
        change(model)
        return model

    return make


def put(name: str, value: Any) -> Callable[[], tiny.Model]:
    """Return a maker of networks with one attribute, dotted, set."""

    def change(model: tiny.Model) -> None:
        owner, _, last = name.rpartition(".")
        target = model.get_submodule(owner)
        if value is None:
            delattr(target, last)
        elif isinstance(value, nn.Module) or not isinstance(target._buffers.get(last), Tensor):
            target.__dict__.pop(last, None)
            setattr(target, last, value)
        else:
            target._buffers[last] = value

    return changed(change)


def twice(model: tiny.Model) -> None:
    model.model[6].cv2 = model.model[6].cv1


def nested(model: tiny.Model) -> None:
    """Forty levels of two wrappings each around one layer: 2^40 layers, if they were built."""
    part: nn.Module = model.model[1]
    for _ in range(40):
        part = nn.Sequential(nn.Sequential(part), nn.Sequential(part))
    part.f, part.i = -1, 1
    model.model[1] = part


def cyclic(model: tiny.Model) -> None:
    model.model[6]._modules["m"].append(model.model[6])


def one_weight_everywhere(model: tiny.Model) -> None:
    one = model.model[6].cv1.conv.weight
    model.model[6].cv2.conv.weight = one


def laughs() -> list[Any]:
    """Names whose text would take 2^60 letters."""
    nest: Any = "ha"
    for _ in range(60):
        nest = [nest, nest]
    return [nest, nest, nest]


DETECT = len(tiny.seeded().model) - 1
ANCHORS = tiny.seeded().model[-1].anchors
BROKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "an unknown layer": (put("model.2", nn.Softmax(1)), "it has a Softmax layer"),
    "a layer of its list that cannot stand there": (put("model.2.m.0", nn.Identity()), "it has a Identity layer"),
    "another C3": (put("model.2.m.0", tiny.Conv(8, 8)),
                   "it has a C3 layer of another make (transformer, ghost or cross convolutions)"),
    "an unknown activation": (put("model.1.act", nn.Softplus()), "its activation is a Softplus"),
    "no activation": (put("model.1.act", None), "a Conv without 'act'"),
    "no convolution": (put("model.1.conv", None), "a Conv without 'conv'"),
    "no filters": (put("model.1.conv.weight", None), "'weight'"),
    "another pooling": (put("model.7.m", nn.AvgPool2d(5, 1, 2)), "a AvgPool2d where a max pooling belongs"),
    "an upsampling by 3": (put("model.9", nn.Upsample(None, 3, "nearest")), "an upsampling by 3.0 in mode 'nearest'"),
    "a blurring upsampling": (put("model.9.mode", "bilinear"), "an upsampling by 2.0 in mode 'bilinear'"),
    "a factor beyond floats": (put("model.9.scale_factor", 10**400), "int too large to convert to float"),
    "a concatenation of rows": (put("model.10.d", 2), "Concat along dimension 2"),
    "the future": (put("model.3.f", 5), "layer 3 reads layer 5"),
    "itself": (put("model.3.f", 3), "layer 3 reads layer 3"),
    "before the first": (put("model.3.f", -4), "layer 3 reads layer -1"),
    "a source that is a text": (put("model.3.f", "2"), "a str where a number belongs"),
    "no source": (put("model.3.f", None), "'Conv' object has no attribute 'f'"),
    "a huge group count": (put("model.3.conv.groups", 10**9), "the number 1000000000"),
    "half a stride": (put("model.3.conv.stride", (1.5, 1)), "the number 1.5"),
    "an endless stride": (put("model.3.conv.stride", (float("inf"), 1)), "the number inf"),
    "no number": (put("model.3.conv.padding", (float("nan"), 1)), "the number nan"),
    "padding that allocates": (put("model.3.conv.padding", (60000, 60000)),
                               "a convolution whose padding is larger than its filters"),
    "empty filters": (put("model.3.conv.weight", nn.Parameter(torch.zeros(10**9, 0, 1, 1))),
                      "a convolution without filters"),
    "a norm of another width": (put("model.3.bn", nn.BatchNorm2d(7)),
                                "its layers and weights differ, first in 'model.3.bn.bias'"),
    "weights too many": (put("model.3.extra", nn.Conv2d(1, 1, 1)),
                         "its layers and weights differ, first in 'model.3.extra.bias'"),
    "weights too few": (put("model.3.bn.bias", None), "its layers and weights differ, first in 'model.3.bn.bias'"),
    "an epsilon beyond floats": (put("model.3.bn.eps", 10**400), "int too large to convert to float"),
    "another class count": (put(f"model.{DETECT}.nc", 4), "the rows of its head do not fit its classes and anchors"),
    "another anchor count": (put(f"model.{DETECT}.na", 2), "the rows of its head do not fit its classes and anchors"),
    "no class": (changed(lambda m: None, names=[]), "the rows of its head do not fit its classes and anchors"),
    "names too many": (put("names", [*tiny.NAMES, "x"]), "4 class names for 3 classes"),
    "names of nothing": (put("names", {0: "a", 2: "b", 3: "c"}), "1"),
    "names that are numbers of numbers": (put("names", laughs()), "class names that are no list of texts"),
    "names that are a text": (put("names", "rgb"), "class names that are no list of texts"),
    "no names": (put("names", None), "'DetectionModel' object has no attribute 'names'"),
    "a stride of 0": (put(f"model.{DETECT}.stride", torch.tensor([0.0, 16.0])), "strides that do not fit the head"),
    "too few strides": (put(f"model.{DETECT}.stride", torch.tensor([8.0])), "strides that do not fit the head"),
    "no strides": (put(f"model.{DETECT}.stride", [8, 16]), "a head without strides and anchors"),
    "an endless stride of the head": (put(f"model.{DETECT}.stride", torch.tensor([8, float("inf")])), "the number inf"),
    "anchors of nothing": (put(f"model.{DETECT}.anchors", 0 * ANCHORS), "anchors that do not fit the head"),
    "negative anchors": (put(f"model.{DETECT}.anchors", -ANCHORS), "anchors that do not fit the head"),
    "anchors that are no number": (put(f"model.{DETECT}.anchors", ANCHORS * float("nan")),
                                   "anchors that do not fit the head"),
    "endless anchors": (put(f"model.{DETECT}.anchors", ANCHORS / 0), "anchors that do not fit the head"),
    "anchors for two of three": (put(f"model.{DETECT}.anchors", ANCHORS[:, :2]), "anchors that do not fit the head"),
    "no head": (changed(lambda m: m.model.append(tiny.Conv(8, 8))), "its last layer is no Detect"),
    "no layers": (put("model", nn.Sequential()), "its last layer is no Detect"),
    "a layer twice": (changed(twice), "a layer or its weights stand in two places"),
    "a nest of layers": (changed(nested), "a layer or its weights stand in two places"),
    "a circle of layers": (changed(cyclic), "a layer or its weights stand in two places"),
    "a weight twice": (changed(one_weight_everywhere), "a layer or its weights stand in two places"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_yolov5_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    make, why = BROKEN[case]
    path = tiny.save(tmp_path / "m.pt", make())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadModel) as caught:
        opened(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000, f"refusing it cost {grown} kB"
    said = str(caught.value)
    assert said.startswith(f"{path} is not a YOLOv5 detector edgeprune can read (")
    assert said.endswith("); checkpoints of releases v6 and v7 are")
    assert why in said and len(said.replace(str(path), "")) < 200


def test_an_architecture_beside_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tiny.save(tmp_path / "m.pt", tiny.seeded())
    with pytest.raises(BadOption) as caught:
        load(Source(path, "torchvision:resnet18"), SHAPE)
    assert str(caught.value) == f"{path} is a YOLOv5 checkpoint and holds its own architecture; leave --arch away"


@pytest.mark.parametrize("part", ["model", "model.0"])
def test_layers_alone_are_no_network(part: str, tmp_path: Path) -> None:
    path = tiny.save(tmp_path / "m.pt", tiny.seeded().get_submodule(part), wrapped=False)
    with pytest.raises(BadModel) as caught:
        opened(path)
    assert str(caught.value) == f"{path} holds layers of a YOLOv5 network, not the whole; give its own checkpoint"


@pytest.mark.parametrize("size", [(64, 72), (48, 64), (8, 8)])
def test_an_input_that_is_no_multiple_of_the_stride(size: tuple[int, int], tmp_path: Path) -> None:
    path = tiny.save(tmp_path / "m.pt", tiny.seeded(levels=3))
    with pytest.raises(BadOption) as caught:
        opened(path, (1, 3, *size))
    assert str(caught.value) == (
        f"height and width of --input must be multiples of 32 for this detector, not {size[0]}x{size[1]}"
    )


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = tiny.seeded()
    model.model[3].conv.weight.data[0, 0] = float("nan")
    with pytest.raises(BadModel, match=r"the weights hold NaN or infinity, first in 'model\.3\.conv\.weight'"):
        opened(tiny.save(tmp_path / "m.pt", model))


def test_what_a_file_hangs_on_its_layers_has_no_effect(tmp_path: Path) -> None:
    """Hooks, a forward, a class of the file's own: the network is built anew, and none of them comes along."""
    model, fresh = tiny.seeded(), tiny.seeded()
    for part in model.modules():
        part.__dict__.update({"forward": nn.Flatten(), "__class__": "x", "_is_full_backward_hook": True})
        part._forward_hooks = OrderedDict({0: nn.Flatten()})
        part._forward_pre_hooks = OrderedDict({0: nn.Flatten()})
        part._load_state_dict_pre_hooks = OrderedDict({0: nn.Flatten()})
    loaded = opened(tiny.save(tmp_path / "m.pt", model)).model
    own = opened(tiny.save(tmp_path / "own.pt", fresh)).model
    images = np.random.default_rng(0).random(SHAPE, np.float32)
    assert np.array_equal(loaded.predict(images), own.predict(images))
    for part in loaded.module.modules():
        assert "forward" not in part.__dict__ and not part._forward_hooks and not part._forward_pre_hooks

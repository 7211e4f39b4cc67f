"""The safe list: exact names of layers, each of which exists, and nothing that is like them."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from crafted import name, pickled, torch_zip
from torch import nn

from edgeprune.errors import UnsafeModel
from edgeprune.frontends import ultralytics_package, yolov5
from edgeprune.frontends.checkpoint import Source, load
from edgeprune.frontends.safe_globals import CALLS, NAMESPACES, STORAGES, VALUES, classes, resolve


def test_every_class_is_a_layer_of_its_name() -> None:
    pytest.importorskip("torchvision")
    pairs = resolve(classes())
    assert len(pairs) == len(classes())
    for cls, text in pairs:  # type: ignore[misc]
        if text.startswith("models."):  # the authors' code is not asked for: what stands in for it can do nothing
            assert cls is yolov5.SHELLS[text] and cls.__bases__ == (yolov5.Shell,)
            assert cls.__name__ == text.rpartition(".")[2] and "forward" not in {*vars(cls), *vars(yolov5.Shell)}
        else:
            assert text in ultralytics_package.NAMES or f"{cls.__module__}.{cls.__qualname__}" == text
        assert issubclass(cls, nn.Module) or cls is argparse.Namespace or text in NAMESPACES


def test_functions_and_types_are_those_torch_allows_by_default() -> None:
    allowed = torch._weights_only_unpickler._get_allowed_globals()
    assert set(allowed) >= CALLS | VALUES | set(STORAGES)
    assert all(torch._utils._element_size(allowed[text].dtype) == size for text, size in STORAGES.items())


def test_nothing_else_is_resolved() -> None:
    assert resolve(["os.system", "torch.nn.modules.linear.Linear.forward", "torch.nn.Linear"]) == []


@pytest.mark.parametrize("text", [
    "torch.nn.modules.linear Bilinear", "torch.nn.modules.linear Linear.forward", "torch.nn.functional relu",
    "torch.nn.modules.linear.os system", "torchvision.models.resnet ResNet18_Weights", "torch.nn Linear",
])
def test_names_beside_safe_ones_are_not_safe(text: str, tmp_path: Path) -> None:
    module, _, attribute = text.partition(" ")
    path = torch_zip(tmp_path / "m.pt", pickled(name(module, attribute)))
    with pytest.raises(UnsafeModel, match=f"it names {module}.{attribute};"):
        load(Source(path, None), (1, 3, 8, 8))

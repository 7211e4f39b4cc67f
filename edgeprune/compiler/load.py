"""edgeprune.load: a build's module back in Python, without unpickling anything."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from edgeprune.compiler import replay
from edgeprune.compiler.pipeline import with_weights
from edgeprune.compiler.recut import read_cuts
from edgeprune.compiler.verify import read_manifest
from edgeprune.errors import BadBuild, BadOption
from edgeprune.frontends import checkpoint
from edgeprune.frontends.checkpoint import Source, read_safetensors, skeleton
from edgeprune.frontends.detector import with_classes
from edgeprune.model import METADATA_KEY, ModelSpec, Surgery, TorchModel, file_digest


def load(directory: str | Path, *, arch: str | None = None, module: nn.Module | None = None) -> nn.Module:
    """Return the module of a build: cut, fine-tuned, float32, in eval mode.

    The architecture comes from the recipe, and so the original model file need not be there, unless it was a pickled
    module. One that lives in a user's file must be repeated as ``arch="file.py:factory"`` and match the recorded hash;
    one that was given as a module in memory must be given again as ``module`` (it is copied). Raises BadBuild when the
    folder is not an intact build, BadOption when the architecture must be named.
    """
    return reopen(Path(directory), arch, module).module.eval()


def reopen(folder: Path, arch: str | None, module: nn.Module | None = None) -> TorchModel:
    """Return the model of a build as ``load`` does, with what its own file says of its input.

    It counts as uncut; weights that a mask holds at zero are to stay there.
    """
    manifest = read_manifest(folder)
    for name in ("model.safetensors", "recipe.json"):
        recorded = manifest["files"].get(name, {}).get("sha256")
        if not (folder / name).is_file() or recorded != file_digest(folder / name):
            raise BadBuild(f"{folder / name} is missing or was changed since the build; build again")
    recipe = replay.read(folder)
    try:
        cuts = read_cuts(recipe["cuts"])
    except ValueError as error:
        raise BadBuild(f"{folder / 'recipe.json'} is damaged: {error}; build again") from error
    weights = folder / "model.safetensors"
    found = with_weights(_original(recipe, weights, arch, module), cuts, weights).module.eval()
    spec = _spec(weights)
    inputs = (torch.randn(spec.input_shape, generator=torch.Generator().manual_seed(0)),)
    return TorchModel(found, spec, inputs, Surgery(masks=cuts.masks))


def _spec(weights: Path) -> ModelSpec:
    with safe_open(weights, framework="pt") as file:
        return ModelSpec.from_json((file.metadata() or {}).get(METADATA_KEY, "{}"))


def _original(recipe: replay.Recipe, weights: Path, arch: str | None, module: nn.Module | None) -> TorchModel:
    """Return the module before it was cut; what its weights are does not matter."""
    shape = tuple(recipe["input_shape"])
    if module is not None:
        return TorchModel(module, ModelSpec(shape), (torch.zeros(shape),))
    request = replay.recorded_request(recipe)
    if request.model is not None and request.model.is_dir():  # a build of a build
        if recipe["inputs"].get("model") != file_digest(request.model / "model.safetensors"):
            raise BadBuild(f"{request.model} is not the build this one was made from; give it as it was")
        return reopen(request.model, arch)
    if request.arch:
        if ".py:" in request.arch:
            replay.require_repeated(recipe, "arch", request.arch, arch)
        else:
            arch = request.arch
        assert arch is not None
        return skeleton(arch, read_safetensors(weights), shape)
    if not request.model:
        raise BadOption("this build was made from a module in memory; call load(…, module=that_module)")
    loaded = checkpoint.load(Source(request.model, None), shape)
    if recipe["inputs"].get("model") != loaded.files["model"]:
        raise BadBuild("the model file is not the one this build was made from; give it as it was")
    classes = _spec(weights).classes
    changed = loaded.model.spec.head and classes != loaded.model.spec.classes
    return with_classes(loaded.model, classes, 0) if changed else loaded.model

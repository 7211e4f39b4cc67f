"""A sequence of passes: checked on construction, verified and cached after every one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic_core import to_jsonable_python
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from edgeprune import surgery
from edgeprune.compiler.cache import Store, code_digest, finish, finished, key
from edgeprune.errors import BadModel, BadOption, EdgepruneError
from edgeprune.files import mending, write_atomic
from edgeprune.memory import give_back
from edgeprune.model import OnnxModel, Surgery, TorchModel
from edgeprune.passes.base import Context, Pass
from edgeprune.report import StepRecord

Model = TorchModel | OnnxModel
AnyPass = Pass[Any, Any]


@dataclass(frozen=True)
class Pipeline:
    """Passes in order. Raises BadOption when a pass does not take what the one before it gives."""

    passes: tuple[AnyPass, ...]

    def __post_init__(self) -> None:
        for before, after in zip(self.passes, self.passes[1:], strict=False):
            if not issubclass(before.gives, after.takes):
                raise BadOption(
                    f"pass {after.name!r} takes a {after.takes.__name__}, "
                    f"but {before.name!r} before it gives a {before.gives.__name__}"
                )

    def run(
        self, model: Model, ctx: Context, store: Store, base: str, candidate: str
    ) -> tuple[Model, tuple[StepRecord, ...]]:
        """Run every pass on a clone of the model, take what the store already has, and return the result with the
        records.

        ``base`` is the key of ``model`` and of all of ``ctx`` that a pass may read. A pass's key is the hash of the
        key before it and of its own options; its folder is its workspace. An error names the pass and those that ran
        before it.
        """
        steps: list[StepRecord] = []
        name = base
        for one in self.passes:
            name = step_key(name, one)
            try:
                model, step = _run(one, model, ctx, store, name, candidate)
            except EdgepruneError as error:
                done = ", ".join(s.name for s in steps) or "nothing"
                error.add_note(f"in pass {one.name} (of {candidate}, after {done})")
                raise
            steps.append(step)
        return model, tuple(steps)


def step_key(before: str, one: AnyPass) -> str:
    """Return the key of what ``one`` makes of the model of key ``before``: its options, and its code if it is a
    user's.
    """
    parts = [one, *(getattr(one, f.name) for f in dataclasses.fields(one))]
    return key(before, one.name, type(one).__qualname__, describe(one), code_digest(parts))


def describe(one: AnyPass) -> dict[str, Any]:
    """Return a pass's options as plain data: its recipe line. A nested dataclass (an agent) is named and described
    too.
    """
    return {f.name: _plain(getattr(one, f.name)) for f in dataclasses.fields(one)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"name": getattr(value, "name", type(value).__qualname__), **fields}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | torch.Tensor):  # their repr leaves most of the numbers out
        array = np.ascontiguousarray(value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value)
        return f"{array.dtype}{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    if isinstance(value, Path):
        return str(value)
    return value if isinstance(value, str | int | float | bool | type(None)) else repr(value)


def _run(one: AnyPass, model: Model, ctx: Context, store: Store, name: str, candidate: str) -> tuple[Model, StepRecord]:
    started = time.perf_counter()
    with store.open(name) as folder:
        record = finished(folder)
        if record is not None:
            result = _load(folder, record, ctx.original)
            return result, _step(one, candidate, time.perf_counter() - started, True, record["facts"], result)
        facts: dict[str, Any] = {}
        inner = dataclasses.replace(ctx, workspace=folder, record=facts.__setitem__)
        one.requires(model, inner)
        result = one.run(model.clone(), inner)
        if not isinstance(result, one.gives) or not isinstance(result, TorchModel | OnnxModel):
            raise BadModel(f"pass {one.name!r} promised a {one.gives.__name__} and gave a {type(result).__name__}")
        result.verify()
        plain = to_jsonable_python(facts)
        seconds = time.perf_counter() - started
        _save(folder, result, plain, seconds)
        give_back()  # the next pass is of another kind, and asks for blocks of other sizes
        made = _load(folder, {"facts": plain}, ctx.original)
        return made, _step(one, candidate, seconds, False, plain, made)


def _step(
    one: AnyPass, candidate: str, seconds: float, cached: bool, facts: Mapping[str, Any], made: Model
) -> StepRecord:
    step = StepRecord.model_validate(
        {
            "pass": one.name,
            "options": describe(one),
            "candidate": candidate,
            "seconds": seconds,
            "cached": cached,
            "facts": dict(facts),
        }
    )
    step._cuts = made.surgery if isinstance(made, TorchModel) else None
    return step


def _save(folder: Path, result: Model, facts: dict[str, Any], seconds: float) -> None:
    if isinstance(result, TorchModel):
        write_atomic(folder / "model.safetensors", weights(result))
        write_atomic(folder / "surgery.json", json.dumps(result.surgery.to_json(), sort_keys=True))
        files = ["model.safetensors", "surgery.json"]
    else:
        if result.path.resolve() != (folder / "model.onnx").resolve():
            with mending(folder):
                partial = folder / "model.onnx.partial"
                shutil.copyfile(result.path, partial)
                partial.replace(folder / "model.onnx")
        files = ["model.onnx"]
    finish(folder, files, {"facts": facts, "seconds": seconds, "spec": result.spec.to_json()})
    (folder / "epoch.pt").unlink(missing_ok=True)


def weights(model: TorchModel) -> bytes:
    """Return the state dict as safetensors bytes, the spec in its metadata; shared tensors are stored once each."""
    state = {name: tensor.detach().contiguous().clone() for name, tensor in model.module.state_dict().items()}
    return save(state, metadata={"edgeprune.spec": model.spec.to_json()})


def _load(folder: Path, record: Mapping[str, Any], original: TorchModel) -> Model:
    if (folder / "model.onnx").exists():
        return OnnxModel.read(folder / "model.onnx")
    raw = json.loads((folder / "surgery.json").read_text(encoding="utf-8"))
    return with_weights(original, Surgery.from_json(raw), folder / "model.safetensors")


def with_weights(original: TorchModel, cuts: Surgery, path: Path) -> TorchModel:
    """Return the original cut as recorded and filled with the weights of a safetensors file.

    Raises BadModel when the file does not belong to that cut.
    """
    model = surgery.rebuild(original, cuts)
    try:
        model.module.load_state_dict(load_file(path))
    except (RuntimeError, OSError, ValueError, SafetensorError) as error:
        raise BadModel(f"{path} does not fit the recorded cuts of this model") from error
    return model

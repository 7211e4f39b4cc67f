"""--recipe DIR: build again what a recipe decided, with no search and no clock, and say whether the bytes are the
same.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from edgeprune import find
from edgeprune.compiler.cache import versions
from edgeprune.compiler.opening import Opened
from edgeprune.compiler.outcome import Choice
from edgeprune.compiler.pipeline import AnyPass
from edgeprune.compiler.recut import Recut
from edgeprune.compiler.request import MOST_THREADS, Request
from edgeprune.compiler.workshop import Workshop
from edgeprune.compiler.writing import RECIPE_SCHEMA, request_of
from edgeprune.errors import BadBuild, BadOption
from edgeprune.model import OnnxModel, file_digest, first_line
from edgeprune.report import Report

Recipe = Mapping[str, Any]
_STRUCTURE = {
    "request": dict, "kind": str, "inputs": dict, "means": dict, "input_shape": list, "cuts": dict, "passes": list,
    "expect": dict,
}  # fmt: skip


def read(directory: Path) -> Recipe:
    """Return the recipe of a build. Raises BadBuild when there is none that can be read."""
    path = directory / "recipe.json"
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise BadBuild(f"{directory} holds no recipe.json; give a folder that `edgeprune compile` wrote") from None
    except (ValueError, OSError) as error:
        raise BadBuild(f"{path} cannot be read ({first_line(error)}); build again") from error
    if not isinstance(recipe, dict) or recipe.get("schema") != RECIPE_SCHEMA:
        raise BadBuild(f"{path} is not an {RECIPE_SCHEMA}; this version of edgeprune cannot replay it")
    for name, kind in _STRUCTURE.items():
        if not isinstance(recipe.get(name), kind):
            raise _damaged(path, name)
    threads = recipe["means"].get("train_threads")
    if not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise _damaged(path, "means")
    if not all(isinstance(n, int) and 0 < n < 2**20 for n in recipe["input_shape"]):
        raise _damaged(path, "input_shape")
    return {**recipe, "directory": str(directory)}


def recorded_request(recipe: Recipe) -> Request:
    """Return the request a recipe was made from. Raises BadBuild when it holds none."""
    try:
        return request_of(recipe["request"])
    except ValueError as error:
        path = Path(recipe["directory"]) / "recipe.json"
        raise BadBuild(f"{path} is damaged ({first_line(error)}); build again") from error


def _damaged(path: Path, name: str) -> BadBuild:
    return BadBuild(f"{path} is damaged (its {name!r} is missing or not what it should be); build again")


def adopt(request: Request, given: bool = False) -> tuple[Request, Recipe]:
    """Return the recorded request, completed by what was given again, and the recipe; ``given`` says whether a module
    was.

    Model, data, task, board, device and out folder may be given again; whatever would run a user's file must be. A
    device that this machine may lack gives way to one that it has, and what only a search needs (Ray, a latency table)
    is not looked for, nor an external meter: what its file held then is not of now. Everything else comes from the
    recipe, whatever the request says. Raises BadBuild, and BadOption when a file's code would run without being named.
    """
    assert request.recipe is not None
    recipe = read(request.recipe)
    recorded = recorded_request(recipe)
    if recipe["kind"] == "module" and not given and request.model is None and request.arch is None:
        raise BadOption("this recipe was made from a module in memory; replay it from Python with the same module")
    for role, then, now in (("arch", recorded.arch, request.arch), ("task", recorded.task, request.task)):
        if then and ".py:" in then:
            require_repeated(recipe, role, then, now)
    if recorded.trust_pickle and not request.trust_pickle:
        raise BadOption("this recipe unpickles its model file; if you trust that file, repeat --trust-pickle")
    usual, names = Request(), ("model", "arch", "data", "task", "board", "device")
    again = {name: getattr(request, name) for name in names if getattr(request, name) != getattr(usual, name)}
    if recorded.device == "cuda":
        again.setdefault("device", "auto")
    own = {name: getattr(request, name) for name in ("out", "recipe", "power_log")}
    own |= {"table": None, "workers": None, "ray": False, "ray_address": None}
    return dataclasses.replace(recorded, **{**again, **own}), recipe


def overruled(given: Request, adopted: Request, **instances: object) -> tuple[str, ...]:
    """Return a note for the report where the recipe has it otherwise than what was ``given`` beside it; ``instances``
    are what only Python can give, None where it did not.
    """
    usual = Request()
    names = (f.name for f in dataclasses.fields(Request) if f.name != "trust_pickle")  # a permission, not a wish
    left = [name for name in names if getattr(given, name) not in (getattr(usual, name), getattr(adopted, name))]
    left += [name for name, one in instances.items() if one is not None and name not in left]
    return (f"a recipe is replayed as it was made; left aside: {', '.join(left)}",) if left else ()


def require_repeated(recipe: Recipe, role: str, then: str, now: str | None) -> None:
    """Raise unless the user named the code again (``now``, BadOption), and it is the recorded code (BadBuild)."""
    if now is None or ".py:" not in now:
        raise BadOption(f"this build runs the code of {then}; if you trust it, name it again with --{role} {then}")
    path = Path(now.rpartition(":")[0])
    if path.is_file() and recipe["inputs"].get(role) != file_digest(path):
        raise BadBuild(f"{path} was changed since this recipe was made; give the file as it was")


def check(recipe: Recipe, opened: Opened) -> None:
    """Raise BadBuild unless model, user files and data are the ones the recipe was made from."""
    then = recipe["inputs"]
    for role, digest in opened.inputs.items():
        recorded = str(then.get(role, "nothing"))
        if recorded != digest:
            raise BadBuild(
                f"the {role} is not the one this recipe was made from (sha256 {digest[:12]}…, not {recorded[:12]}…)"
            )


def passes(recipe: Recipe) -> tuple[AnyPass, ...]:
    """Return the decided passes. Raises BadBuild for a recipe that names or configures a pass that is not."""
    found: list[AnyPass] = []
    for entry in recipe["passes"]:
        try:
            cls = Recut if entry["pass"] == "recut" else find.find("passes", entry["pass"])
            found.append(TypeAdapter(cls).validate_python(entry["options"]))
        except (ValidationError, LookupError, TypeError, ValueError, BadOption) as error:
            name = entry.get("pass") if isinstance(entry, dict) else entry
            raise BadBuild(f"the recipe's pass {name!r} cannot be replayed: {first_line(error)}") from error
    return tuple(found)


def compare(recipe: Recipe, workshop: Workshop, choice: Choice, report: Report) -> Report:
    """Return the report with a line that says whether the replay gave the same bytes, and if not, how far it is off."""
    expected = str(recipe["expect"].get("model.onnx"))
    found = file_digest(choice.finished.model.path)
    if found == expected:
        line = f"replayed: model.onnx has the same sha256 ({found[:12]}…)"
    else:
        line = f"the replay's model.onnx differs ({found[:12]}…, not {expected[:12]}…); {_why(recipe, workshop)}"
        recorded = Path(recipe["directory"]) / "model.onnx"
        if recorded.is_file():
            off = _difference(choice.finished.model, OnnxModel.read(recorded), workshop)
            line += f"; largest output difference {off:.2g}"
        score = recipe["expect"].get("score")
        if score is not None and choice.finished.score is not None:
            line += f"; search score {choice.finished.score.value:.4f}, recorded {score:.4f}"
    return report.model_copy(update={"notes": [*report.notes, line]})


def _difference(first: OnnxModel, second: OnnxModel, workshop: Workshop) -> float:
    """Return the largest output difference of two graphs on one seeded input."""
    image = np.random.default_rng(0).standard_normal(first.spec.input_shape, np.float32)
    with workshop.open(first) as one, workshop.open(second) as two:
        return float(np.abs(one(image) - two(image)).max())


def _why(recipe: Recipe, workshop: Workshop) -> str:
    if recipe.get("processor") != workshop.means.board.detected.get("cpu"):
        return f"it was recorded on another processor ({recipe.get('processor')})"
    if recipe["means"].get("device") != workshop.means.device:
        return f"it was recorded on another device ({recipe['means'].get('device')})"
    if recipe.get("versions") != versions():
        return "it was recorded with other library versions"
    return "processor and versions are the same: please report this"

"""A recipe rebuilds the same bytes from nothing, or says why it will not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from compiler.conftest import arguments
from safetensors.torch import load_file, save_file

import edgeprune
from edgeprune.agents.random import Random
from edgeprune.compiler import replay
from edgeprune.compiler.request import Request
from edgeprune.errors import BadBuild, BadOption, EdgepruneError
from edgeprune.passes.export import Export


@pytest.fixture
def recipe(built: Any, tmp_path: Path) -> Path:
    """A copy of the shared build's folder, free to be damaged."""
    return Path(shutil.copytree(built.directory, tmp_path / "recipe"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "recipe.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def test_a_recipe_rebuilds_the_same_bytes_with_an_empty_cache(
    built: Any, at: Path, tmp_path: Path, clock: tiny.Clock
) -> None:
    build = edgeprune.compile(arch="net.py:net", recipe=built.directory, out=tmp_path / "out")
    for name in ("model.onnx", "model.safetensors"):
        assert (build.directory / name).read_bytes() == (built.directory / name).read_bytes(), name
    passes = [s.name for s in build.report.steps if s.candidate == "result"]
    assert passes == ["recut", "finetune", "export", "quantize"]
    assert not any(s.cached for s in build.report.steps)
    assert len(clock.calls) == 1  # the report's own figures; nothing was decided by them
    digest = build.report.artifacts[0].sha256
    assert build.report.notes[-1] == f"replayed: model.onnx has the same sha256 ({digest[:12]}…)"
    assert (build.report.verdict, build.report.result.score) == (built.report.verdict, built.report.result.score)
    second = edgeprune.compile(arch="net.py:net", recipe=build.directory, out=tmp_path / "again")
    assert second.report.artifacts[0].sha256 == digest


def test_inputs_may_lie_elsewhere(built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = Path(shutil.copytree(built.inputs, tmp_path / "moved"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(built.cache))
    tiny.install(tiny.Clock(), monkeypatch.setattr)
    build = edgeprune.compile(
        moved / "net.safetensors", arch="moved/net.py:net", data=moved / "data.npz", recipe=built.directory,
        out=tmp_path / "out",
    )  # fmt: skip
    assert build.report.artifacts[0].sha256 == built.report.artifacts[0].sha256


def test_other_library_versions_or_processors_are_named_with_the_difference(
    recipe: Path, at: Path, tmp_path: Path, clock: tiny.Clock
) -> None:
    edit(recipe, lambda r: r["expect"].update({"model.onnx": "0" * 64}) or r["versions"].update(torch="1.0"))
    (recipe / "model.onnx").write_bytes((recipe / "model.onnx").read_bytes())
    note = edgeprune.compile(arch="net.py:net", recipe=recipe, out=tmp_path / "out").report.notes[-1]
    assert "not 000000000000…); it was recorded with other library versions; largest output difference 0" in note
    assert "; search score " in note
    edit(recipe, lambda r: r.update(processor="another"))
    note = edgeprune.compile(arch="net.py:net", recipe=recipe, out=tmp_path / "out").report.notes[-1]
    assert "it was recorded on another processor (another)" in note


def test_a_module_in_memory_is_given_again(built: Any, at: Path, tmp_path: Path, clock: tiny.Clock) -> None:
    module = tiny.trained()
    first = edgeprune.compile(
        module, max_macs="0.5x", input_shape=(1, 3, 12, 12), cost="macs", out=tmp_path / "first"
    )
    with pytest.raises(BadOption, match="this recipe was made from a module in memory; replay it from Python with"):
        edgeprune.compile(recipe=first.directory, out=tmp_path / "second")
    second = edgeprune.compile(module, recipe=first.directory, out=tmp_path / "second")
    assert second.report.artifacts[0].sha256 == first.report.artifacts[0].sha256
    assert second.report.result.macs <= 0.5 * second.report.baseline.macs
    with torch.no_grad():
        module.fc.bias.add_(1.0)
    with pytest.raises(BadBuild, match="the original is not the one this recipe was made from"):
        edgeprune.compile(module, recipe=first.directory, out=tmp_path / "third")
    assert not (tmp_path / "third").exists()


# --- what must be the same --------------------------------------------------------------------------------------------


def _other_weights(folder: Path) -> None:
    state = load_file(folder / "net.safetensors")
    state["fc.bias"][0] += 1e-3
    save_file(state, folder / "net.safetensors")


def _other_data(folder: Path) -> None:
    x, y = tiny.images(192, 1)
    x[17, 3, 3, 0] ^= 1
    tiny.write_data(folder / "data.npz", x_train=x, y_train=y)


def _other_code(folder: Path) -> None:
    with (folder / "net.py").open("a") as file:
        file.write("\n# a remark\n")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_other_weights, r"the model is not the one this recipe was made from \(sha256 \w{12}…, not \w{12}…\)"),
        (_other_data, r"the data is not the one this recipe was made from \(sha256 \w{12}…, not \w{12}…\)"),
        (_other_code, r"net\.py was changed since this recipe was made; give the file as it was"),
    ],
)
def test_other_inputs_are_refused(
    change: Callable[[Path], None], sentence: str, built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = Path(shutil.copytree(built.inputs, tmp_path / "copied"))
    change(copied)
    monkeypatch.chdir(copied)
    with pytest.raises(BadBuild, match=sentence):
        edgeprune.compile(arch="net.py:net", recipe=built.directory, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_code_runs_only_if_the_user_names_it_again(built: Any, tmp_path: Path) -> None:
    marker = "raise SystemExit('a recipe ran code')\n"
    (tmp_path / "net.py").write_text(marker)
    for arch in (None, "timm:resnet18"):
        with pytest.raises(BadOption, match=r"this build runs the code of net\.py:net; if you trust it, name it"):
            edgeprune.compile(recipe=built.directory, arch=arch, out=tmp_path / "out")


def test_a_task_file_and_trust_in_a_pickle_must_be_repeated(recipe: Path, at: Path, tmp_path: Path) -> None:
    edit(recipe, lambda r: r["request"].update(task="mine.py:Mine"))
    with pytest.raises(BadOption, match=r"runs the code of mine\.py:Mine; if you trust it, name it again"):
        edgeprune.compile(recipe=recipe, arch="net.py:net", out=tmp_path / "out")
    edit(recipe, lambda r: r["request"].update(task="auto", trust_pickle=True))
    with pytest.raises(BadOption, match="this recipe unpickles its model file; if you trust that file, repeat"):
        edgeprune.compile(recipe=recipe, arch="net.py:net", out=tmp_path / "out")


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"holds no recipe\.json; give a folder that `edgeprune compile` wrote"),
        (b"", r"recipe\.json cannot be read \(Expecting value.*\); build again"),
        (b"\xff\xfe", r"recipe\.json cannot be read \('utf-8' codec.*\); build again"),
        (b"[]", r"recipe\.json is not an edgeprune-recipe/1; this version of edgeprune cannot replay it"),
        (b'{"schema": "edgeprune-recipe/1"}', r"is damaged \(its 'request' is missing or not what it should be\)"),
    ],
)
def test_what_is_no_recipe_is_refused(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    folder = tmp_path / "recipe"
    folder.mkdir()
    if content is not None:
        (folder / "recipe.json").write_bytes(content)
    with pytest.raises(BadBuild, match=sentence):
        edgeprune.compile(recipe=folder, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _pass(name: str, **options: Any) -> Callable[[dict[str, Any]], object]:
    def change(recipe: dict[str, Any]) -> None:
        next(one for one in recipe["passes"] if one["pass"] == name)["options"].update(options)

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: r["means"].pop("train_threads"), "its 'means' is missing or not what it should be"),
        (lambda r: r["means"].update(train_threads=-1), "its 'means' is missing or not what it should be"),
        (lambda r: r["means"].update(train_threads=10**30), "its 'means' is missing or not what it should be"),
        (lambda r: r["request"].update(budget=None), "is damaged"),
        (lambda r: r["request"].update(arch=-1), "is damaged"),
        (lambda r: r["request"].update(seed="x"), "is damaged"),
        (lambda r: r["request"].update(settings={"task": 1}), "is damaged"),
        (lambda r: r["passes"].clear(), "passes must end with one that gives an OnnxModel"),
        (lambda r: r["passes"].append(7), "the recipe's pass 7 cannot be replayed"),
        (lambda r: r["passes"].append({"pass": "nothing", "options": {}}), "pass 'nothing' cannot be replayed: unk"),
        (lambda r: r["passes"].append({"pass": "base", "options": {}}), "pass 'base' cannot be replayed: unknown pass"),
        (lambda r: r["passes"].append({"pass": ["x"], "options": {}}), r"pass \['x'\] cannot be replayed"),
        (_pass("export", tolerance="much"), "the recipe's pass 'export' cannot be replayed"),
        (_pass("finetune", momentum=-1), "the recipe's pass 'finetune' cannot be replayed"),
        (_pass("quantize", lowered=["no such layer"]), "quantize.lowered names 'no such layer', which is no layer"),
        (_pass("recut", cuts="x"), "the recipe's pass 'recut' cannot be replayed"),
        (_pass("recut", cuts='{"kept": {"stem": [["a"], null]}, "dropped": []}'), "pass 'recut' cannot be replayed"),
        (_pass("recut", cuts='{"kept": {"stem": [[999], null]}, "dropped": []}'), "indices do not fit 'stem'"),
        (_pass("recut", cuts='{"kept": {"none": [[0], null]}, "dropped": []}'), "the plan cuts 'none', which"),
        (_pass("recut", cuts='{"kept": {}, "dropped": ["nothing"]}'), "the plan drops a block 'nothing' that"),
    ],
)  # fmt: skip
def test_a_damaged_recipe_is_refused(
    change: Callable[[dict[str, Any]], object], sentence: str, recipe: Path, built: Any, at: Path, tmp_path: Path,
    clock: tiny.Clock, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(built.cache))
    edit(recipe, change)
    with pytest.raises(EdgepruneError, match=sentence) as caught:
        edgeprune.compile(recipe=recipe, arch="net.py:net", out=tmp_path / "out")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


# --- what comes from where --------------------------------------------------------------------------------------------


def test_the_recipe_decides_everything_but_where_things_lie(built: Any, at: Path) -> None:
    given = Request(arch="net.py:net", seed=9, threads=7, cost="macs", recipe=built.directory, out=Path("x"))
    request, recipe = replay.adopt(given)
    assert (request.seed, request.threads, request.cost) == (0, 1, "macs")
    assert (request.model, request.data) == (Path("net.safetensors"), Path("data.npz"))
    assert (request.out, request.recipe) == (Path("x"), built.directory)
    assert request.settings == tiny.QUICK["settings"]
    assert replay.adopt(dataclasses.replace(given, power_log=Path("m.csv")))[0].power_log == Path("m.csv")
    passes = replay.passes(recipe)
    assert [p.name for p in passes] == ["recut", "finetune", "export", "quantize"]
    assert Export() in passes
    assert passes[-1].lowered is not None
    assert passes[-1].method in ("minmax", "percentile"), "the ranges that the layers were chosen by"


@pytest.mark.parametrize(
    ("recorded", "now", "adopted"),
    [
        ({"device": "cuda"}, {}, {"device": "auto"}),
        ({"device": "cuda"}, {"device": "cpu"}, {"device": "cpu"}),
        ({"device": "cpu"}, {}, {"device": "cpu"}),
        ({"board": "ssh://a"}, {}, {"board": "ssh://a"}),
        ({"board": "ssh://a"}, {"board": "ssh://b"}, {"board": "ssh://b"}),
        ({"table": "t.json", "cost": "measured", "ray": True, "ray_address": "ray://x", "workers": 9}, {},
         {"table": None, "ray": False, "ray_address": None, "workers": None}),
    ],
)  # fmt: skip
def test_a_replay_wants_no_machine_of_the_recipe_s(
    recorded: dict[str, Any], now: dict[str, Any], adopted: dict[str, Any], recipe: Path
) -> None:
    edit(recipe, lambda r: r["request"].update(recorded))
    request, _ = replay.adopt(Request(arch="net.py:net", recipe=recipe, **now))
    assert {name: getattr(request, name) for name in adopted} == adopted


def test_a_build_does_not_take_the_place_of_what_it_is_made_from(recipe: Path, at: Path) -> None:
    kept = (recipe / "report.json").read_bytes()
    for role in ("recipe", "model"):
        with pytest.raises(BadOption, match=r"is the build that is read, and would be replaced; give another$"):
            edgeprune.compile(**{role: recipe}, arch="net.py:net", data="data.npz", out=recipe / ".." / recipe.name)
    edit(recipe, lambda r: r["request"].update(model=str(at)))  # as that of a build upon a build
    with pytest.raises(BadOption, match=r"is the build that is read, and would be replaced; give another$"):
        edgeprune.compile(recipe=recipe, arch="net.py:net", out=at)
    assert (recipe / "report.json").read_bytes() == kept


def test_what_the_recipe_leaves_aside_is_told(built: Any, at: Path, tmp_path: Path) -> None:
    """An option that says what the recipe says, or nothing, is not worth a word."""
    asked = {"arch": "net.py:net", "data": "data.npz", "recipe": built.directory, "cost": "macs"}
    build = edgeprune.compile(max_latency="0.9x", seed=3, agent=Random(), out=tmp_path / "out", **asked)
    assert "a recipe is replayed as it was made; left aside: budget, seed, agent" in build.report.notes
    quiet = edgeprune.compile(out=tmp_path / "quiet", **asked)
    assert not [note for note in quiet.report.notes if "left aside" in note]


def test_a_build_of_random_weights_is_replayed(at: Path, tmp_path: Path, clock: tiny.Clock) -> None:
    first = edgeprune.compile(
        arch="net.py:net", max_macs="0.5x", input_shape=(1, 3, 12, 12), cost="macs", out=tmp_path / "first"
    )
    again = edgeprune.compile(arch="net.py:net", recipe=first.directory, out=tmp_path / "again")
    assert again.report.artifacts[0].sha256 == first.report.artifacts[0].sha256


@pytest.mark.parametrize("prune", [{}, {"ratio": "0.25"}], ids=["dead", "a share"])
def test_cuts_before_the_search_are_replayed_to_the_byte(
    prune: dict[str, str], at: Path, tmp_path: Path, clock: tiny.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch norms are re-estimated beside those of the model that a step was given: all cuts at once are not the same.
    """
    weights = load_file("net.safetensors")
    for name in ("block.bn1.weight", "block.bn1.bias"):
        weights[name][8:] = 0.0
    save_file(weights, tmp_path / "dead.safetensors")
    settings = {**tiny.QUICK["settings"], "prune": prune}
    asked = {"cost": "macs", "max_macs": "0.4x", "max_accuracy_drop": 0.9, "settings": settings}
    first = edgeprune.compile(**arguments(model=tmp_path / "dead.safetensors", **asked), out=tmp_path / "first")
    recipe = json.loads((tmp_path / "first" / "recipe.json").read_text())
    assert [one["pass"] for one in recipe["passes"]][:2] == ["recut", "recut"]
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "empty"))
    again = edgeprune.compile(arch="net.py:net", recipe=tmp_path / "first", out=tmp_path / "again")
    for name in ("model.onnx", "model.safetensors"):
        assert (again.directory / name).read_bytes() == (first.directory / name).read_bytes(), name

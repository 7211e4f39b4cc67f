"""Masks through a whole build: what is chosen, exported, quantized, reported, replayed and loaded."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from onnx import numpy_helper
from rich.console import Console

import edgeprune
from edgeprune.compiler import page, table
from edgeprune.compiler.verify import verify
from edgeprune.errors import Infeasible
from edgeprune.model import Surgery
from edgeprune.passes.base import Silent

Build = Callable[..., Any]


@pytest.fixture(scope="module")
def build(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Build with one cache for all tests here, by the clock of ``tiny``."""
    folder = tmp_path_factory.mktemp("masked")

    def go(out: str, granularity: str = "element", **options: Any) -> Any:
        settings = {**tiny.QUICK["settings"], "sparsify": {"recalibration": "64", "granularity": granularity}}
        with pytest.MonkeyPatch.context() as patch:
            tiny.install(tiny.Clock(), patch.setattr)
            patch.setenv("EDGEPRUNE_CACHE", str(folder / "cache"))
            patch.chdir(inputs)
            given = {"model": "net.safetensors", "arch": "net.py:net", **tiny.QUICK, "settings": settings, **options}
            return edgeprune.compile(data="data.npz", out=folder / out, **given)

    return go


@pytest.fixture(scope="module")
def quarter(build: Build) -> Any:
    return build("quarter", max_parameters="0.25x", max_accuracy_drop=0.9, cost="measured")


def filters(path: Path) -> dict[str, np.ndarray]:
    """The convolutions' weights by name, whatever they are stored as."""
    graph = onnx.load(path).graph
    arrays = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    sources = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    return {n.name: arrays[sources.get(n.input[1], n.input[1])] for n in graph.node if n.op_type == "Conv"}


def test_a_ceiling_on_parameters_is_one_on_those_that_are_not_zero(quarter: Any) -> None:
    report = quarter.report
    result, original = report.result, report.baseline
    assert report.verdict == "met" and result.name in ("pruned-only", "pruned-quantized")
    assert result.nonzero_parameters <= 0.25 * original.parameters and result.parameters == original.parameters
    assert result.macs == original.macs and result.nonzero_macs < 0.4 * result.macs
    check = next(c for c in report.budget if c.quantity == "parameters")
    assert check.found == pytest.approx(result.nonzero_parameters, abs=1)
    assert {row.unit for row in report.plan} == {"weights"}
    assert report.search is not None and report.search.evaluations <= 24


def test_zeros_reach_the_file_and_compressing_shows_them(quarter: Any) -> None:
    recipe = json.loads((quarter.directory / "recipe.json").read_text())
    masks = Surgery.from_json(recipe["cuts"]).masks
    found = filters(quarter.directory / "model.onnx")
    assert set(found) <= {*masks, "fc"} and len(found) == 4
    for name, weight in found.items():
        if isinstance(masks.get(name), int):
            assert np.count_nonzero(weight) <= masks[name]
    candidates = {c.name: c for c in quarter.report.candidates}
    assert all(c.compressed_bytes is not None for c in candidates.values())
    plain, pruned = candidates["original"], candidates["pruned-only"]
    assert pruned.size_bytes == pytest.approx(plain.size_bytes, rel=0.01)
    assert pruned.compressed_bytes < 0.45 * plain.compressed_bytes
    alone, both = candidates["quantized-only"], candidates["pruned-quantized"]
    assert both.compressed_bytes < 0.75 * alone.compressed_bytes
    data = (quarter.directory / "model.onnx").read_bytes()
    assert quarter.report.result.compressed_bytes == len(zlib.compress(data, 9))


def test_int8_keeps_zero_at_zero(build: Build) -> None:
    made = build("int8", max_parameters="0.25x", max_accuracy_drop=0.9, cost="macs", precision="int8")
    int8 = filters(made.directory / "model.onnx")
    masks = Surgery.from_json(json.loads((made.directory / "recipe.json").read_text())["cuts"]).masks
    lowered = {name: w for name, w in int8.items() if w.dtype == np.int8}
    assert len(lowered) >= 3
    assert all(np.count_nonzero(w) <= masks[name] for name, w in lowered.items() if name in masks)


def test_nothing_is_said_to_be_faster_that_was_not_measured(quarter: Any) -> None:
    report = quarter.report
    assert any("zeros that stay in the file and in the arithmetic" in note for note in report.notes)
    chosen = next(c for c in report.candidates if c.chosen)
    assert "faster" not in chosen.note
    console = Console(file=StringIO(), width=160)
    table.show(table.summary(report), console)
    text = console.file.getvalue()
    assert "deflated" in text and "not zero" in text and "weights that are not zero at 0.2" in text
    html = page.render(report)
    assert "Weights that are not zero" in html and "Parameters not zero" in html and "Size, compressed" in html


def test_builds_without_masks_say_nothing_of_them(built: Any) -> None:
    assert all(c.compressed_bytes is None and c.nonzero_parameters is None for c in built.report.candidates)
    console = Console(file=StringIO(), width=160)
    table.show(table.summary(built.report), console)
    assert "deflated" not in console.file.getvalue() and "zero" not in console.file.getvalue()
    html = page.render(built.report)
    assert "not zero" not in html and "<h2>Widths</h2>" in html


def test_a_recipe_gives_the_same_bytes_and_load_the_same_zeros(quarter: Any, inputs: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        tiny.install(tiny.Clock(), patch.setattr)
        patch.setenv("EDGEPRUNE_CACHE", str(quarter.directory.parent / "empty"))
        patch.chdir(inputs)
        replayed = edgeprune.compile(arch="net.py:net", recipe=quarter.directory, out=quarter.directory.parent / "re")
        module = edgeprune.load(replayed.directory, arch="net.py:net")
    for name in ("model.onnx", "model.safetensors"):
        assert (replayed.directory / name).read_bytes() == (quarter.directory / name).read_bytes(), name
    found = filters(quarter.directory / "model.onnx")
    masks = Surgery.from_json(json.loads((replayed.directory / "recipe.json").read_text())["cuts"]).masks
    for name, entry in masks.items():
        weight = module.get_parameter(f"{name}.weight")
        assert int(weight.count_nonzero()) == entry
        if name in found and found[name].dtype == np.float32:
            assert np.array_equal(found[name] == 0, weight.detach().numpy() == 0)


def test_channels_of_a_masked_build_can_go_and_its_zeros_stay(build: Build, quarter: Any, inputs: Path) -> None:
    again = build("again", "channel", model=quarter.directory, arch=str(inputs / "net.py:net"), max_macs="0.9x",
                  max_accuracy_drop=0.9, precision="fp32", epochs=2)  # fmt: skip
    result, original = again.report.result, again.report.baseline
    assert original.nonzero_parameters == quarter.report.result.nonzero_parameters
    assert result.parameters < original.parameters and result.nonzero_parameters <= original.nonzero_parameters
    zeros = [np.mean(weights == 0) for weights in filters(again.directory / "model.onnx").values()]
    assert max(zeros) > 0.5, "training left them"
    replayed = build("replayed", "channel", model=quarter.directory, arch=str(inputs / "net.py:net"),
                     recipe=again.directory)  # fmt: skip
    assert (replayed.directory / "model.onnx").read_bytes() == (again.directory / "model.onnx").read_bytes()


def test_a_share_of_a_masked_build_is_one_of_what_is_not_zero(build: Build, quarter: Any, inputs: Path) -> None:
    again = build("share", "channel", model=quarter.directory, arch=str(inputs / "net.py:net"), max_parameters="0.6x",
                  max_accuracy_drop=0.9, precision="fp32", epochs=1)  # fmt: skip
    result, original = again.report.result, again.report.baseline
    [row] = [row for row in again.report.budget if row.quantity == "parameters"]
    assert row.limit == pytest.approx(0.6 * original.nonzero_parameters)
    assert row.found == result.nonzero_parameters <= row.limit and again.report.verdict == "met"
    assert 0.4 * row.limit < row.found, "and no more went than that takes"
    assert all(finding.held for finding in verify(again.directory, Silent()))


def test_a_floor_alone_is_bisected_over_what_is_not_zero(build: Build) -> None:
    report = build("floor", max_accuracy_drop=0.2).report
    assert report.verdict == "met"
    shares = {p.name: p.nonzero_macs / p.macs for p in report.probes if p.nonzero_macs}
    assert len(shares) >= 2
    for name, share in shares.items():
        assert share <= float(name.removeprefix("probe at ").removesuffix("x MACs"))
    held = [p.nonzero_macs for p in report.probes if p.held_floor]
    assert report.result.nonzero_macs == min(held)


def test_two_of_four_through_a_build(build: Build) -> None:
    made = build("fours", granularity="2:4", max_macs="0.7x", max_accuracy_drop=0.9, precision="fp32")
    masks = Surgery.from_json(json.loads((made.directory / "recipe.json").read_text())["cuts"]).masks
    assert masks and set(masks.values()) == {"2:4"} and "stem" not in masks
    for name, weight in filters(made.directory / "model.onnx").items():
        if name in masks:
            fours = np.moveaxis(weight, 1, -1).reshape(-1, 4)
            assert (np.count_nonzero(fours, axis=1) <= 2).all()
    assert made.report.result.nonzero_macs <= 0.7 * made.report.baseline.macs


def test_what_masks_cannot_reach_is_refused(build: Build) -> None:
    with pytest.raises(Infeasible, match=r"parameters .* is out of reach: the smallest reachable is 0\.\d+x"):
        build("none", granularity="2:4", max_parameters="0.3x")
    with pytest.raises(Infeasible, match=r"^the ceiling of \d+ bytes is out of reach"):
        build("size", max_size="0.1x")

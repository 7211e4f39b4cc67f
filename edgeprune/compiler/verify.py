"""Is a build what its manifest and report say? The continuous-integration gate behind ``edgeprune verify``.

``manifest.json`` is plain JSON, written last, so that a folder without one is not a finished build:

    {"schema": "edgeprune-manifest/1", "files": {name: {"sha256", "bytes"}}, "inputs": {…}, "options": {…},
     "versions": {…}, "seed": int, "numbers": {"seed", "output", "spread", "tolerance"} or null}

It protects against damage and mix-ups. It is not signed, so it does not protect against somebody who rewrites it too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edgeprune import find
from edgeprune.backends.base import Artifact, Backend
from edgeprune.budget import Check, verdict
from edgeprune.errors import BadBuild, BadModel
from edgeprune.files import write_atomic
from edgeprune.model import OnnxModel, batched, file_digest, first_line
from edgeprune.passes.base import Progress
from edgeprune.report import SCHEMA, CheckRow, Report

MANIFEST_SCHEMA = "edgeprune-manifest/1"
FILES = ("model.onnx", "model.engine", "model.safetensors", "recipe.json", "report.json", "report.html")
"""What a build may hold beside its manifest; the manifest lists those that are there."""

_KEPT = 16
_FLOAT = 1e-6


@dataclass(frozen=True)
class Finding:
    """One thing that was checked; ``exit_code`` is 0 if it holds, 2 if the build was changed, 3 over budget."""

    what: str
    detail: str
    exit_code: int = 0

    @property
    def held(self) -> bool:
        """Whether nothing is wrong here."""
        return self.exit_code == 0


def numbers(model: OnnxModel, lowered: bool = False) -> dict[str, Any]:
    """Return what ``verify`` compares later: the first outputs of ``model`` on seeded standard-normal input.

    ``tolerance`` is relative to ``spread``, the range (max - min) of the whole output: 0.001, or 0.02 where ``lowered``
    says that part of the graph is int8 or fp16. There another processor's kernels may round one step up or down: on an
    int8 ResNet-20 the float kernels differ from the integer ones by 0 or by 0.006 of the spread, nothing in between.
    """
    seed, tolerance = 0, 2e-2 if lowered else 1e-3
    output = _output(model, seed)
    first = [float(v) for v in output[:_KEPT]]
    return {"seed": seed, "output": first, "spread": float(np.ptp(output)), "tolerance": tolerance}


def write_manifest(
    directory: Path, inputs: Mapping[str, Any], options: Mapping[str, Any], versions: Mapping[str, str], seed: int,
    check: Mapping[str, Any] | None,
) -> None:
    """Write ``manifest.json`` over the FILES in ``directory``, whole or not at all.

    ``check`` is what ``numbers`` returned, None for a build without a model. Raises NoSpace when the disk refuses.
    """
    present = [directory / name for name in FILES if (directory / name).is_file()]
    files = {path.name: {"sha256": file_digest(path), "bytes": path.stat().st_size} for path in present}
    manifest = {
        "schema": MANIFEST_SCHEMA, "files": files, "inputs": dict(inputs), "options": dict(options),
        "versions": dict(versions), "seed": seed, "numbers": None if check is None else dict(check),
    }
    write_atomic(directory / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def verify(directory: Path, progress: Progress) -> list[Finding]:
    """Check every file's hash, the report, the model's numbers and the budget; returns one finding for each check.

    Raises BadBuild when ``directory`` holds no manifest that can be read.
    """
    manifest = read_manifest(directory)
    findings = list(progress.track(_files(directory, manifest["files"]), "checking files", len(manifest["files"])))
    report = _report(directory, findings)
    if "model.onnx" in manifest["files"] and (directory / "model.onnx").is_file():
        findings.append(_agreement(directory / "model.onnx", manifest["numbers"]))
    if report is not None:
        findings.extend(_budget(report, directory / "model.onnx"))
    return findings


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of a build. Raises BadBuild when there is none or its structure is not that of a manifest."""
    path = directory / "manifest.json"
    if not path.is_file():
        what = "is not a folder" if not directory.is_dir() else "holds no manifest.json; it is not a finished build"
        raise BadBuild(f"{directory} {what}; give a folder that `edgeprune compile` wrote")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadBuild(f"{path} is damaged ({first_line(error)}); build again") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != MANIFEST_SCHEMA:
        raise BadBuild(f"{path} is not an {MANIFEST_SCHEMA}; this version of edgeprune cannot read it")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(_is_entry(name, entry) for name, entry in files.items()):
        raise BadBuild(f"{path} is damaged: its list of files is not one; build again")
    if not isinstance(manifest.setdefault("numbers", None), dict | None):
        raise BadBuild(f"{path} is damaged: its numbers are not numbers; build again")
    return manifest


def _is_entry(name: str, entry: object) -> bool:
    """Only FILES may be listed: a name such as ``../x`` would make verify read outside of the build."""
    return name in FILES and isinstance(entry, dict) and isinstance(entry.get("sha256"), str)


def _files(directory: Path, files: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    for name, entry in sorted(files.items()):
        path = directory / name
        if not path.is_file():
            yield Finding(name, "is missing", 2)
        elif file_digest(path) != entry["sha256"]:
            yield Finding(name, "was changed since the build: its sha256 differs from the manifest's", 2)
        else:
            yield Finding(name, f"sha256 {entry['sha256'][:12]}…")


def _report(directory: Path, findings: list[Finding]) -> Report | None:
    """Read the report and note whether it is one."""
    path = directory / "report.json"
    if not path.is_file():
        if not any(f.what == path.name for f in findings):
            findings.append(Finding(path.name, "is missing", 2))
        return None
    try:
        report = Report.from_json(path.read_bytes())
    except ValidationError as error:
        findings.append(Finding("report", f"is not a valid {SCHEMA}: {first_line(error)}", 2))
        return None
    if report.schema_ != SCHEMA:
        findings.append(Finding("report", f"is a {report.schema_}, and this version of edgeprune reads {SCHEMA}", 2))
        return None
    findings.append(Finding("report", f"is a valid {SCHEMA}"))
    return report


def _agreement(path: Path, kept: Mapping[str, Any] | None) -> Finding:
    try:
        model = OnnxModel.read(path)
        model.verify()
        if kept is None:
            return Finding("model", "passes the checker and runs; the manifest keeps no outputs to compare", 2)
        expected = np.asarray(kept["output"], np.float64)
        found = _output(model, int(kept["seed"]))[: len(expected)]
        scale = max(float(kept["spread"]), float(np.finfo(np.float32).tiny))
        apart = float(np.abs(found - expected).max(initial=0.0)) / scale
        allowed = float(kept["tolerance"])
    except BadModel as error:
        return Finding("model", str(error), 2)
    except (KeyError, TypeError, ValueError) as error:
        return Finding("model", f"cannot be compared: the manifest's numbers are damaged ({first_line(error)})", 2)
    if not apart <= allowed:
        return Finding("model", f"outputs differ by {apart:.2g} of their spread, and {allowed:.2g} is allowed", 2)
    return Finding("model", f"passes the checker, runs, and its outputs agree to {apart:.2g} of their spread")


def _output(model: OnnxModel, seed: int) -> NDArray[np.float32]:
    """Return the flat output for seeded standard-normal input, by the runtime on this host with one thread."""
    backend: Backend = find.find("backends", "onnxruntime")()
    images = np.random.default_rng(seed).standard_normal(model.spec.input_shape, np.float32)
    with backend.open(Artifact(model.path, model.spec, "onnxruntime", {}), 1) as runner:
        return batched(runner, model.spec)(images).ravel()


def _budget(report: Report, model: Path) -> Iterator[Finding]:
    found = _figures(report, model)
    checks = []
    for row in report.budget:
        value = None if row.basis == "unchecked" else found.get(row.quantity, row.found)
        check = Check(row.quantity, row.limit, value, row.basis)
        checks.append(check)
        yield _limit(row, check)
    words = {verdict(checks), verdict(checks, require_measured=True)}
    if report.verdict == "infeasible":
        yield Finding("verdict", "infeasible: no plan could meet the budget", 3)
    elif report.verdict not in words:
        yield Finding("verdict", f"says {report.verdict}, but the figures say {' or '.join(sorted(words))}", 2)
    else:
        yield Finding("verdict", report.verdict, 3 if report.verdict == "not-met" else 0)


def _limit(row: CheckRow, check: Check) -> Finding:
    what = f"budget: {row.quantity}"
    agree = check.found == row.found or (
        check.found is not None and row.found is not None and abs(check.found - row.found) <= _FLOAT * abs(row.found)
    )
    if not agree:
        return Finding(what, f"the verdict rests on {row.found}, but the build holds {check.found}", 2)
    if check.held is None:
        return Finding(what, "not checked" + ("" if row.limit is None else f" against {row.limit:g}"))
    relation = "within" if check.held else "above"
    return Finding(what, f"{check.found:g} is {relation} {row.limit:g} ({row.basis})", 0 if check.held else 3)


def _figures(report: Report, model: Path) -> dict[str, float | None]:
    """Return the result's own figures by quantity; the size is that of the file on disk."""
    result = report.result
    if result is None:
        return {}
    latency = result.measurement.latency_ms
    return {
        "accuracy-drop": None if result.score is None else result.score.drop,
        "latency": None if latency is None else latency.p50,
        "energy": result.measurement.energy_mj,
        "size": float(model.stat().st_size) if model.is_file() else None,
        "macs": result.macs if result.nonzero_macs is None else result.nonzero_macs,
        "parameters": result.parameters if result.nonzero_parameters is None else result.nonzero_parameters,
    }

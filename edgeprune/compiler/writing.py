"""What a build leaves in its folder: every file whole or not at all, the manifest last."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from edgeprune.backends.base import Artifact
from edgeprune.compiler import page
from edgeprune.compiler.cache import versions
from edgeprune.compiler.opening import Opened
from edgeprune.compiler.outcome import Choice
from edgeprune.compiler.pipeline import weights
from edgeprune.compiler.recut import Recut
from edgeprune.compiler.request import Request
from edgeprune.compiler.verify import FILES, numbers, write_manifest
from edgeprune.compiler.workshop import Finished, Workshop
from edgeprune.files import mending, write_atomic
from edgeprune.model import OnnxModel, Surgery, file_digest
from edgeprune.report import ArtifactRow, Candidate, EngineRow, KernelRow, Measurement, Report
from edgeprune.surgery import since

RECIPE_SCHEMA = "edgeprune-recipe/1"
_NAMES = ("manifest.json", *FILES)
_CUTTING = ("prune", "sparsify", "recut")
_HOW = ("recalibration", "reconstruction")
_FOUND = {"activation": ("names",), "quantize": ("lowered", "precision", "method", "rest")}
"""What a pass found out and recorded, by pass: replayed as options of the same name."""


def write(request: Request, opened: Opened, workshop: Workshop, choice: Choice, report: Report) -> None:
    """Write model, weights, recipe, report and manifest to ``request.out``: all of them or none."""
    chosen = choice.finished
    assert chosen.torch is not None
    with _staged(request.out) as folder:
        write_atomic(folder / "model.onnx", chosen.model.path.read_bytes())
        write_atomic(folder / "model.safetensors", weights(chosen.torch))
        deployed = workshop.deploy(chosen.model, folder)
        decided = recipe(request, opened, workshop, chosen)
        write_atomic(folder / "recipe.json", json.dumps(decided, indent=1, sort_keys=True) + "\n")
        artifacts = [
            ArtifactRow(path=name, sha256=file_digest(folder / name), bytes=(folder / name).stat().st_size)
            for name in ("model.onnx", "model.engine", "model.safetensors", "recipe.json")
            if (folder / name).is_file()
        ]
        update: dict[str, Any] = {"artifacts": artifacts}
        if deployed is not None:
            update |= {"engine": _engine(deployed), "notes": [*report.notes, *deployed.notes]}
        _write_report(folder, request, opened, report.model_copy(update=update))


def _engine(deployed: Artifact) -> EngineRow | None:
    engine = deployed.engine
    if engine is None:
        return None
    return EngineRow(
        path=engine.path.name,
        builder=engine.builder,
        version=engine.version,
        compute_capabilities=engine.compute_capabilities,
        command=engine.command,
        seconds=engine.seconds,
        precisions=dict(engine.precisions),
        memory_bytes=dict(engine.memory),
        layers=[KernelRow(**vars(layer)) for layer in engine.layers],
    )


def infeasible(request: Request, opened: Opened, workshop: Workshop, reason: str) -> None:
    """Write the report, and only that, of a build that was refused before its search."""
    source = workshop.source
    row: Candidate = workshop.describe(source, Measurement(source="unavailable"))
    report = Report(
        verdict="infeasible",
        basis="exact",
        budget=[],
        target=workshop.means.board.model_dump(mode="json"),
        splits=[],
        baseline=row,
        result=None,
        candidates=[row],
        steps=workshop.steps,
        search=None,
        plan=[],
        artifacts=[],
        notes=[reason],
        environment={"versions": versions(), "seed": request.seed},
    )
    with _staged(request.out) as folder:
        _write_report(folder, request, opened, report, model=False)


def _write_report(out: Path, request: Request, opened: Opened, report: Report, model: bool = True) -> None:
    write_atomic(out / "report.json", report.to_json())
    write_atomic(out / "report.html", page.render(report))
    write_manifest(
        out,
        opened.inputs,
        _options(request),
        versions(),
        request.seed,
        _numbers(out, report) if model else None,
    )


def _numbers(out: Path, report: Report) -> dict[str, Any]:
    lowered = report.result is not None and set(report.result.precisions) - {"fp32"} != set()
    return numbers(OnnxModel.read(out / "model.onnx"), lowered=lowered)


def read_report(out: Path) -> Report:
    """Return the report a build wrote."""
    return Report.from_json((out / "report.json").read_bytes())


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """Give a folder to write a build to; what is in it replaces an earlier build only once all of it is there.

    The manifest goes first and comes last, so that a folder with one is a whole build at every moment.
    """
    new, staging = not out.exists(), out / ".partial"
    try:
        with mending(out):
            shutil.rmtree(staging, ignore_errors=True)  # of a build that was killed here
            staging.mkdir(parents=True)
        yield staging
        with mending(out):
            for name in _NAMES:
                (out / name).unlink(missing_ok=True)
            for name in reversed(_NAMES):
                if (staging / name).exists():
                    (staging / name).replace(out / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if new:
            with suppress(OSError):  # only an empty one goes
                out.rmdir()


def recipe(request: Request, opened: Opened, workshop: Workshop, chosen: Finished) -> dict[str, Any]:
    """Return all it takes to build ``chosen`` again: its inputs by hash, and every decision that a search or a clock
    took.
    """
    means = workshop.means
    return {
        "schema": RECIPE_SCHEMA,
        "request": _options(request),
        "kind": opened.kind,
        "inputs": opened.inputs,
        "means": {
            "threads": means.threads,
            "train_threads": means.train_threads,
            "device": means.device,
            "seed": means.seed,
        },
        "processor": means.board.detected.get("cpu"),
        "versions": versions(),
        "input_shape": list(opened.original.spec.input_shape),
        "cuts": chosen.torch.surgery.to_json() if chosen.torch else None,
        "runtime": chosen.model.runtime,
        "ranges": chosen.fact("quantize", "ranges"),
        "passes": [{"pass": name, "options": options} for name, options in _decided(chosen, opened.original.surgery)],
        "expect": {
            "model.onnx": file_digest(chosen.model.path),
            "score": None if chosen.score is None else chosen.score.value,
        },
    }


def _decided(chosen: Finished, original: Surgery) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the passes with their searches replaced by what they found.

    Each makes its own cuts where it stood, and re-estimates batch norms as it did: their last bits hang on what came
    before.
    """
    decided: list[tuple[str, Mapping[str, Any]]] = []
    before = original
    for step in chosen.steps:
        if step.name in _CUTTING:
            cuts, before = since(before, step.cuts), step.cuts
            if cuts:
                how = {name: step.options[name] for name in _HOW if name in step.options}
                if step.name == "prune" and not step.options["ratio"]:
                    how["recalibration"] = 0  # of dead channels nothing follows
                decided.append(("recut", dataclasses.asdict(Recut.of(cuts, **how))))
            continue
        before = step.cuts or before
        found = {fact: step.facts[fact] for fact in _FOUND.get(step.name, ()) if fact in step.facts}
        decided.append((step.name, {**step.options, **found}))
    return decided


def _options(request: Request) -> dict[str, Any]:
    """Return the request as plain data, paths as they were typed; ``request_of`` reads it."""
    plain = {
        f.name: getattr(request, f.name)
        for f in dataclasses.fields(request)
        if f.name not in ("budget", "out", "recipe")
    }
    plain = {k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for k, v in plain.items()}
    return {
        **plain,
        "budget": dataclasses.asdict(request.budget),
        "settings": {k: dict(v) for k, v in request.settings.items()},
    }


def request_of(plain: Mapping[str, Any]) -> Request:
    """Return the request that ``recipe`` recorded. Raises ValueError for anything else, BadOption for what no request
    allows.
    """
    return TypeAdapter(Request).validate_python(dict(plain))

"""inspect, profile, verify and list: what looks at a model, an artifact, a build or a target and makes nothing."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from edgeprune.cli.group import EXIT_CODES, main
from edgeprune.cli.options import (
    BOARD,
    ENERGY,
    JSON,
    MODEL,
    PATH,
    POWER_LOG,
    QUIET,
    TABLE,
    TARGET,
    THREADS,
    option,
    options,
    progress,
)
from edgeprune.compiler.request import Request, data_path


@main.command("inspect")
@options(MODEL, TARGET, JSON, QUIET)
@click.pass_context
def inspect_(ctx: click.Context, /, as_json: bool, quiet: bool, data: Path | None, **rest: Any) -> None:
    """Show the target, what MODEL would take there (estimated), its groups of coupled channels, what can be pruned and
    why the rest cannot. With --target and no MODEL: the target alone.

    \b
    Examples:
      edgeprune inspect --arch torchvision:mobilenet_v3_small --target jetson-xavier
      edgeprune inspect --target raspberry-pi-5
    """
    chosen = ctx.get_parameter_source("target") is not ParameterSource.DEFAULT
    alone = not (rest["model"] or rest["arch"])
    if alone and not chosen:
        raise click.UsageError(
            "nothing to inspect: give MODEL, --arch alone for random weights, or --target alone for a target", ctx
        )
    with redirect_stdout(sys.stderr):
        from edgeprune.compiler.table import board, inspection, show

        if alone:
            from edgeprune.compiler.board_facts import facts_of

            facts = facts_of(rest["target"])
            told, shown = facts.to_json(), board(facts)
        else:
            from edgeprune.compiler.inspect import inspect_model

            found = inspect_model(Request(**rest, data=data and data_path(data)), progress(quiet))
            told, shown = found.to_json(), inspection(found, chosen)
    if as_json:
        click.echo(json.dumps(told, indent=1))
    elif not quiet:
        show(shown)


@main.command("profile")
@click.argument("artifact", type=PATH)
@options(
    TARGET, BOARD, THREADS, TABLE, ENERGY, POWER_LOG,
    option("Target", "--layer-energy", is_flag=True,
           help="Tell the energy of each layer too: a window of 2 s each, scaled to the whole; or by the formula of "
           "--energy theoretical, which needs no sensor."),
    option("Target", "--runtime", metavar="NAME",
           help="One of the target's other runtimes, such as openvino on host-cpu. A table is tied to it."),
    JSON, QUIET,
)
def profile_(
    artifact: Path, target: str, board: str | None, threads: int, table: Path | None, energy: Any,
    power_log: Path | None, layer_energy: bool, runtime: str | None, as_json: bool, quiet: bool,
) -> None:
    """Time ARTIFACT, an ONNX file, on the target: latency percentiles, memory, and where the time goes.

    \b
    With --table FILE its kernels are measured at many widths into a latency table, one to five minutes for a
    network; interrupted, the same command goes on. What the table predicts is held against the clock.

    \b
    Examples:
      edgeprune profile build/r20
      edgeprune profile build/r20 --table build/host-cpu.json
      edgeprune profile build/r20 --power-log meter.csv --layer-energy
      edgeprune compile r20.safetensors --arch resnet.py:resnet20 --data cifar10/ --table build/host-cpu.json
    """
    with redirect_stdout(sys.stderr):
        from edgeprune.compiler.profile import profile_artifact
        from edgeprune.compiler.table import layer_energies, profile, show

        found = profile_artifact(
            artifact, target, threads, progress(quiet), board, table, energy, power_log, layer_energy, runtime
        )
    told = found.table
    if as_json:
        rows = [asdict(layer) for layer in found.layers]
        shown: dict[str, Any] = {} if told is None else {"table": {**told.model_dump(), "error": told.error}}
        shown |= {} if found.energies is None else {"layer_energy": asdict(found.energies)}
        click.echo(json.dumps({**found.whole.model_dump(), "layers": rows, **shown}, indent=1))
    elif not quiet:
        show(profile(found.whole, found.layers))
        if found.energies is not None:
            show(layer_energies(found.energies))
        if told is not None:
            click.echo(f"{table} predicts {told.predicted_ms:.3g} ms at its own pace, at which "
                       f"{told.measured_ms:.3g} ms were measured ({100 * told.error:+.1f} %)")


@main.command("verify", epilog=EXIT_CODES)
@click.argument("directory", metavar="DIR", type=PATH)
@options(JSON, QUIET)
@click.pass_context
def verify_(ctx: click.Context, /, directory: Path, as_json: bool, quiet: bool) -> None:
    """Check a build: the hash of every file, the report, the model's outputs and the budget.

    Made for continuous integration: the exit code says what was found.
    """
    from edgeprune.compiler.verify import verify

    findings = verify(directory, progress(quiet))
    if as_json:
        click.echo(json.dumps([{**asdict(finding), "held": finding.held} for finding in findings], indent=1))
    elif not quiet:
        for finding in findings:
            click.echo(f"{'ok  ' if finding.held else 'FAIL'}  {finding.what}: {finding.detail}")
    codes = {finding.exit_code for finding in findings}
    ctx.exit(2 if 2 in codes else max(codes))


@main.command("list")
@click.argument("what", type=click.Choice([
    "passes", "agents", "backends", "boards", "criteria", "tasks", "presets", "schema"
]))
def list_(what: str) -> None:
    """Show what there is: one line each, or the JSON schema of report.json."""
    if what == "schema":
        from edgeprune.report import Report

        click.echo(json.dumps(Report.model_json_schema(by_alias=True), indent=1))
        return
    from edgeprune.compiler.catalogue import described

    for name, line in described(what):
        click.echo(f"{name:<18} {line}")

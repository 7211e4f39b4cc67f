"""compile: a model made smaller and faster within one budget."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from edgeprune import find
from edgeprune.budget import Budget, exit_code
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
    WORKERS,
    ceiling,
    config,
    option,
    options,
    progress,
    refuse_code_from_config,
)
from edgeprune.compiler.request import Request, data_path, default_out, parse_settings


@main.command("compile", epilog=EXIT_CODES)
@options(
    MODEL,
    option("Budget", "--max-accuracy-drop", type=float, default=0.01, show_default=True, metavar="FRACTION",
           help="Largest loss of score against the original; 0.01 is one point. Unchecked without --data."),
    option("Budget", "--max-latency", callback=ceiling, metavar="12ms|0.5x",
           help="Ceiling on p50, absolute or of the original's."),
    option("Budget", "--max-energy", callback=ceiling, metavar="60mJ|0.5x",
           help="Ceiling on the energy of one run, the idle board's included; needs a power sensor that answers, "
           "--power-log, or --energy theoretical."),
    option("Budget", "--max-size", callback=ceiling, metavar="4MB|0.25x",
           help="Ceiling on the bytes to deploy."),
    option("Budget", "--max-macs", callback=ceiling, metavar="30M|0.5x",
           help="Ceiling on multiply-accumulates."),
    option("Budget", "--max-parameters", callback=ceiling, metavar="2M|0.5x",
           help="Ceiling on parameters."),
    option("Budget", "--require-measured", is_flag=True, help="Do not call a budget met on an estimate."),
    option("Search", "--agent", metavar="AGENT", help=f"Who looks for the plan: {', '.join(find.names('agents'))}. "
           "Default: ppo, started from the best baseline."),
    option("Search", "--preset", metavar="PRESET",
           help="A published system, its formulas repaired: akperl, driving or depgraphrl; akperl-paper and so on as "
           "printed, with a warning. Sets agent, actions, observation, reward and criterion; what --agent and --set "
           "say wins. See `edgeprune list presets`."),
    option("Search", "--evaluations", type=click.IntRange(1), metavar="N",
           help="True evaluations of the search. Default: by --effort."),
    option("Search", "--epochs", type=click.IntRange(0), metavar="N",
           help="Fine-tuning epochs. Default: by --effort."),
    option("Search", "--effort", type=click.Choice(["quick", "normal", "long"]), default="normal",
           show_default=True, help="Counts, never a clock: 3, 5 or 20 epochs (5, 15 or 50 for detectors) and 80, "
           "200 or 600 evaluations; more of these for many groups. long also tells its best plans apart by short "
           "training."),
    option("Search", "--precision", type=click.Choice(["auto", "fp32", "fp16", "int8"]), default="auto",
           show_default=True, help="auto lowers it as far as accuracy and clock allow."),
    option("Search", "--cost", type=click.Choice(["measured", "estimated", "macs"]), default="measured",
           show_default=True,
           help="What decides between candidates: the clock, estimates for a target that is elsewhere (what measured "
           "becomes there), or MACs alone (reproducible to the byte)."),
    option("Search", "--set", "set_", multiple=True, metavar="PASS.FIELD=VALUE",
           help="Set an option of a pass, of the task or of the agent, such as finetune.lr=0.01. May be repeated."),
    WORKERS, TARGET, BOARD, THREADS, TABLE, ENERGY, POWER_LOG,
    option("Target", "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
           help="Where fine-tuning runs."),
    option("Output", "--out", type=PATH, metavar="DIR",
           help="Folder for the build. Default: build/ and the model's name, with -TARGET after that of a build "
           "and -again after that of a recipe."),
    option("Output", "--recipe", type=PATH, metavar="DIR", help="Replay the decisions of an earlier build."),
    option("Output", "--config", type=PATH, is_eager=True, callback=config, metavar="FILE",
           help="edgeprune.toml with a [compile] table of these options and tables [finetune], [task], [agent], …; "
           "the command line wins."),
    option("Output", "--seed", type=click.IntRange(0, 2**32 - 1), metavar="N", default=0, show_default=True,
           help="Seed of everything random."),
    JSON, QUIET,
)
@click.pass_context
def compile_(
    ctx: click.Context, /, config: dict[str, dict[str, str]], set_: tuple[str, ...], as_json: bool, quiet: bool,
    max_accuracy_drop: float, out: Path | None, data: Path | None, **rest: Any,
) -> None:
    """Prune, fine-tune, quantize and export MODEL within a budget; write model.onnx and its report to --out.

    MODEL is a .safetensors, .pt, .pth or .th file, or a folder that compile wrote.

    \b
    Examples:
      edgeprune compile r20.safetensors --arch resnet.py:resnet20 --data cifar10/ --out build/r20
      edgeprune compile r18.pth --arch torchvision:resnet18 --data images/ --max-latency 0.5x
      edgeprune compile --arch timm:mobilenetv3_small_100 --max-macs 0.6x --agent uniform
      edgeprune compile r20.safetensors --arch resnet.py:resnet20 --data cifar10/ --preset akperl --max-macs 0.5x
      edgeprune compile r20.safetensors --config edgeprune.toml --set finetune.lr=0.01 --json
    """
    refuse_code_from_config(ctx)
    if not (rest["model"] or rest["arch"] or rest["recipe"]):
        raise click.UsageError("nothing to compile: give MODEL, or --arch alone for random weights", ctx)
    limited = ("max_latency", "max_energy", "max_size", "max_macs", "max_parameters")
    ceilings = {name: rest.pop(name) for name in limited}
    request = Request(
        **rest,
        data=data and data_path(data),
        out=out or _own_out(**{name: rest[name] for name in ("model", "arch", "recipe", "target")}),
        settings=parse_settings(set_, config),
        budget=Budget(max_accuracy_drop, **ceilings),
    )
    with redirect_stdout(sys.stderr):  # torch's exporter prints; standard output is for the result
        from edgeprune.compiler.driver import compile_request

        build = compile_request(request, progress(quiet))
    report = build.report
    if as_json:
        click.echo(report.to_json(), nl=False)
    elif not quiet:
        from edgeprune.compiler.table import show, summary

        show(summary(report))
        click.echo(f"build: {build.directory}")
    ctx.exit(exit_code(report.verdict))


def _own_out(model: Path | None, arch: str | None, recipe: Path | None, target: str) -> Path:
    """Return the default --out: a build that is read does not give its name to the one that is written."""
    if recipe is not None:
        return default_out(recipe, arch, "again")
    return default_out(model, arch, target if model is not None and model.is_dir() else "")

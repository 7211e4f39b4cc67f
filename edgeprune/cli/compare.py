"""compare: agents side by side."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from edgeprune import find
from edgeprune.budget import Limit
from edgeprune.cli.group import main
from edgeprune.cli.options import (
    BOARD,
    JSON,
    MODEL,
    PATH,
    QUIET,
    TABLE,
    TARGET,
    THREADS,
    WORKERS,
    ceilings,
    option,
    options,
    progress,
)
from edgeprune.compiler.request import Request, data_path, default_out, parse_settings

_EXIT_CODES = """
\b
Exit codes:
  0    every cell is finished, whatever it found
  1    a bug in edgeprune, with a traceback
  2    an option, model or dataset that cannot be used
  3    a budget cannot be met; what can be reached is said, and nothing was done
  4    the environment lacks something: a package, permission, disk space
  130  interrupted; the same command resumes
"""


@main.command("compare", epilog=_EXIT_CODES)
@options(
    MODEL,
    option("Budget", "--max-macs", multiple=True, callback=ceilings, metavar="30M|0.5x",
           help="Ceiling on multiply-accumulates. May be repeated: every budget is a comparison of its own, and "
           "several give fits across them. Default: 0.5x, where no ceiling is given."),
    option("Budget", "--max-parameters", multiple=True, callback=ceilings, metavar="2M|0.5x",
           help="Ceiling on parameters; likewise. With --max-macs, every pair of the two."),
    option("Budget", "--max-latency", multiple=True, callback=ceilings, metavar="3ms|0.5x",
           help="Ceiling on the latency that --table tells of the float32 graph; likewise."),
    option("Comparison", "--agents", default=",".join(find.names("agents")), show_default=True, metavar="A,B,…",
           help="Who searches. Learning agents are started from the baselines, whose evaluations are theirs too."),
    option("Comparison", "--seeds", type=click.IntRange(1), metavar="N", default=5, show_default=True,
           help="Searches of each agent and budget, with --seed and the seeds after it; splits go by --seed "
                "alone. One gives no interval."),
    option("Comparison", "--evaluations", type=click.IntRange(1), metavar="N", default=300, show_default=True,
           help="True evaluations each search may spend, the warm start's included."),
    option("Comparison", "--images", type=click.IntRange(1), metavar="N",
           help="Images of the search split that every plan is searched by; a search's best plans are scored again on "
           "up to four times as many (2000 where those are fewer and plans are searched by agreement), at most half "
           "of the split in all, and the rest is the audit. The same as --set sparsify.images=N; default: what the "
           "task has there, 256 for classifiers."),
    option("Comparison", "--epochs", type=click.IntRange(0), metavar="N", default=0, show_default=True,
           help="Fine-tuning epochs of every plan that was chosen."),
    option("Comparison", "--cold/--no-cold", default=False, show_default=True,
           help="Also every learning agent without its warm start, in a row of its own."),
    option("Comparison", "--ablation", "ablations", multiple=True,
           type=click.Choice(["no-recalibration", "no-distillation", "no-measured-cost"]),
           help="Also every row without this: batch norms not re-estimated while searching, a fine-tuning on labels "
           "alone, or a ceiling on the same share of MACs in place of that on --table's latency. May be repeated."),
    option("Comparison", "--set", "set_", multiple=True, metavar="PASS.FIELD=VALUE",
           help="Set an option of sparsify, finetune, task or of the agents that have it. May be repeated."),
    WORKERS, TARGET, BOARD, THREADS, TABLE,
    option("Target", "--measure", is_flag=True,
           help="Time the float32 ONNX of every final model on the target. --table does it too."),
    option("Target", "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
           help="Where fine-tuning runs."),
    option("Output", "--out", type=PATH, metavar="DIR",
           help="Folder for compare.json, compare.md, the plots and cells/. Default: build/, the model's name and "
           "-compared."),
    option("Output", "--seed", type=click.IntRange(0, 2**32 - 1), metavar="N", default=0, show_default=True,
           help="The first seed; also which images search and which audit."),
    JSON, QUIET,
)
@click.pass_context
def compare_(
    ctx: click.Context, /, agents: str, seeds: int, evaluations: int, images: int | None, epochs: int, cold: bool,
    ablations: Any, measure: bool, set_: tuple[str, ...], max_macs: list[Limit], max_parameters: list[Limit],
    max_latency: list[Limit], out: Path | None, data: Path | None, as_json: bool, quiet: bool, **rest: Any,
) -> None:
    """Compare agents on MODEL at equal numbers of true evaluations and equal fine-tuning, over several seeds.

    \b
    Plans are chosen on one part of the search split and reported on the other, the audit; the test split is read
    once for each final model. Differences are paired by seed and come with a 95 % interval; where that holds 0, it
    is said that there is no significant difference. Interrupted, the same command goes on: finished cells
    (agent, seed, budget) are kept, and so is every evaluation.

    \b
    Examples:
      edgeprune compare r20.safetensors --arch resnet.py:resnet20 --data cifar10/ --max-macs 0.5x
      edgeprune compare r20.safetensors --arch resnet.py:resnet20 --data cifar10/ --agents random,greedy,evolution \\
        --max-macs 0.7x --max-macs 0.5x --max-macs 0.3x --seeds 3 --epochs 2 --measure
      edgeprune compare r20.safetensors --arch resnet.py:resnet20 --data cifar10/ --agents ppo,random --cold
    """
    if not (rest["model"] or rest["arch"]):
        raise click.UsageError("nothing to compare on: give MODEL, or --arch alone for random weights", ctx)
    given = parse_settings(set_, {} if images is None else {"sparsify": {"images": str(images)}})
    request = Request(
        **rest,
        data=data and data_path(data),
        out=out or default_out(rest["model"], rest["arch"], "compared"),
        settings=given,
    )
    with redirect_stdout(sys.stderr):
        from edgeprune.compiler.comparison import run
        from edgeprune.compiler.contest import Contest, budgets

        names = tuple(name.strip() for name in agents.split(",") if name.strip())
        chosen = budgets(macs=max_macs, parameters=max_parameters, latency=max_latency)
        contest = Contest(request, names, chosen, seeds, evaluations, epochs, cold, ablations, measure)
        report = run(contest, progress(quiet))
    if as_json:
        click.echo(report.to_json(), nl=False)
    elif not quiet:
        from edgeprune.compiler.comparison_text import table
        from edgeprune.compiler.table import show

        show(table(report))
        click.echo(f"comparison: {request.out}")

"""The command line. The only file that imports click; whatever is heavy is imported by the command that needs it.

Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from edgeprune import __version__, find
from edgeprune.budget import Budget, Limit, exit_code
from edgeprune.compiler.ending import ending
from edgeprune.compiler.request import Request, data_path, default_out, parse_settings, parse_shape, read_config
from edgeprune.errors import BadOption, nearest

if TYPE_CHECKING:
    from edgeprune.passes.base import Progress

F = TypeVar("F", bound=Callable[..., Any])

_BROKEN_PIPE = 141  # what a shell reports of a tool that SIGPIPE ended
_EXIT_CODES = """
\b
Exit codes:
  0    the budget is met (or there was none that could be checked)
  1    a bug in edgeprune, with a traceback
  2    an option, model, dataset or build that cannot be used
  3    the budget is not met, or cannot be met
  4    the environment lacks something: a package, permission, disk space
  130  interrupted; the same command resumes
"""
_COMPARE_EXIT_CODES = """
\b
Exit codes:
  0    every cell is finished, whatever it found
  1    a bug in edgeprune, with a traceback
  2    an option, model or dataset that cannot be used
  3    a budget cannot be met; what can be reached is said, and nothing was done
  4    the environment lacks something: a package, permission, disk space
  130  interrupted; the same command resumes
"""


class _Option(click.Option):
    """An option that is listed under a heading of its own in --help."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class _Command(click.Command):
    """A command whose --help lists options by section, in the order of the source."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one definition list for each section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):  # the usage line and the text name the argument
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class _Commands(click.Group):
    """The group of commands: turns every way a command can end into one sentence and an exit code."""

    command_class = _Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or name the nearest one."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"no such command {args[0]!r}{nearest(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; whatever it raises becomes a sentence and an exit code."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            # Whoever read our output has left; without this Python complains again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            ctx.exit(_BROKEN_PIPE)
        except BaseException as error:
            sentence, code = ending(error, resumable=ctx.invoked_subcommand in ("compile", "compare"))
            click.echo(sentence, err=True)
            ctx.exit(code)


def _ceiling(ctx: click.Context, param: click.Parameter, value: str | None) -> Limit | None:
    return None if value is None else Limit.parse(str(param.name).removeprefix("max_"), value)


def _ceilings(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[Limit]:
    return [Limit.parse(str(param.name).removeprefix("max_"), value) for value in values]


def _shape(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    return None if value is None else parse_shape(value)


def _config(ctx: click.Context, param: click.Parameter, value: Path | None) -> dict[str, dict[str, str]]:
    """Make [compile] the defaults of the other options, which click reads after this one; return the other tables."""
    if value is None:
        return {}
    options = {p.opts[-1].lstrip("-"): p for p in ctx.command.params if p.name not in ("config", "set_", "help")}
    chosen, settings = read_config(value, options)
    ctx.default_map = {str(options[name].name): text for name, text in chosen.items()}
    return settings


def _refuse_code_from_config(ctx: click.Context) -> None:
    """A config file may come with a download: what would run its code counts only if the command line says it too."""
    for name, value in ctx.params.items():
        names_code = name == "trust_pickle" or re.search(r"\.py:\w+$", str(value))
        if value and names_code and ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP:
            option = "--" + name.replace("_", "-")
            given = option if value is True else f"{option} {value}"
            raise BadOption(f"the config file asks to run code; repeat {given} on the command line to allow it")


def _options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Apply decorators so that the first is listed first."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def _option(section: str, *names: str, **kwargs: Any) -> Callable[[F], F]:
    return click.option(*names, cls=_Option, section=section, **kwargs)


_PATH = click.Path(path_type=Path)
_model = _options(
    click.argument("model", type=_PATH, required=False),
    _option("Model", "--arch", metavar="ARCH",
            help="Architecture of a state dict: timm:NAME, torchvision:NAME, ultralytics:NAME or file.py:factory. "
            "Without MODEL: random weights."),
    _option("Model", "--input", "input_shape", metavar="1xCxHxW", callback=_shape,
            help="Input shape, where neither data nor model tell it."),
    _option("Model", "--trust-pickle", is_flag=True,
            help="Let a pickled MODEL run the code it carries. At your own risk."),
    _option("Data", "--data", type=_PATH, metavar="PATH",
            help="Image folders (train/, val/), an .npz, or a folder of *_train*.npz and *_test*.npz; also looked up "
            "in $EDGEPRUNE_DATA."),
    _option("Data", "--task", default="auto", show_default=True, metavar="TASK",
            help="auto, classification or file.py:Name."),
)
_target = _option("Target", "--target", default="host-cpu", show_default=True, metavar="BOARD",
                  help="What the result runs on: a name of `edgeprune list boards` or a .toml file.")
_board = _option("Target", "--board", metavar="URL",
                 help="Where a target is that is not this machine: ssh://user@host or ssh://user@host:port. "
                 "Without it, times are estimates.")
_threads = _option("Target", "--threads", type=click.IntRange(1, 1024), metavar="N", default=1, show_default=True,
                   help="Threads for inference while measuring.")
_table = _option("Target", "--table", type=_PATH, metavar="FILE",
                 help="Latency table of the target. Kernels it lacks are measured into it; compile then searches by "
                 "the latency it tells instead of by MACs.")
_energy = _option("Target", "--energy", type=click.Choice(
    ["sensor", "two-point", "theoretical", "theoretical-published"]), default="sensor", show_default=True,
                  help="How energy is told: by the power sensor over whole windows, by its readings at both ends of a "
                  "window, or estimated from arithmetic and traffic.")
_power_log = _option("Target", "--power-log", type=_PATH, metavar="FILE",
                     help="CSV of an external meter that records the target's supply while edgeprune works, in place "
                     "of a sensor: a header with time (Unix seconds, or ISO 8601 with its zone) and power_w, power_mw, "
                     "or voltage_v and current_a. A file that is exported afterwards is waited for.")
_workers = _options(
    _option("Search", "--workers", type=click.IntRange(1, 4096), metavar="N",
            help="Plans scored at a time, one thread each. Default: one a core; with --ray-address, one a CPU of the "
            "cluster. Scores and decisions do not depend on it."),
    _option("Search", "--ray", is_flag=True,
            help="Score plans in processes of a local Ray cluster instead of threads (extra: ray)."),
    _option("Search", "--ray-address", metavar="ADDR",
            help="Score plans on a running Ray cluster, host:port or auto; started on machines of one kind."),
)
_json = _option("Output", "--json", "as_json", is_flag=True,
                help="Print the result as JSON, and nothing else, on standard output.")
_quiet = _option("Output", "--quiet", is_flag=True, help="Show no progress and no table.")


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(cls=_Commands, epilog=_EXIT_CODES, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="edgeprune")
def main() -> None:
    """Make a trained convolutional network smaller and faster within one accuracy budget, and report what was measured.

    \b
    Try:
      edgeprune compile model.safetensors --arch timm:resnet18 --data images/ --out build/r18
      edgeprune verify build/r18
      edgeprune list criteria
    """
    # Idle OpenMP threads that spin for milliseconds make training several times slower as soon as anybody else wants
    # a core; read when torch is loaded, which no command has done yet.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@main.command("compile", epilog=_EXIT_CODES)
@_options(
    _model,
    _option("Budget", "--max-accuracy-drop", type=float, default=0.01, show_default=True, metavar="FRACTION",
            help="Largest loss of score against the original; 0.01 is one point. Unchecked without --data."),
    _option("Budget", "--max-latency", callback=_ceiling, metavar="12ms|0.5x",
            help="Ceiling on p50, absolute or of the original's."),
    _option("Budget", "--max-energy", callback=_ceiling, metavar="60mJ|0.5x",
            help="Ceiling on the energy of one run, the idle board's included; needs a power sensor that answers, "
            "--power-log, or --energy theoretical."),
    _option("Budget", "--max-size", callback=_ceiling, metavar="4MB|0.25x",
            help="Ceiling on the bytes to deploy."),
    _option("Budget", "--max-macs", callback=_ceiling, metavar="30M|0.5x",
            help="Ceiling on multiply-accumulates."),
    _option("Budget", "--max-parameters", callback=_ceiling, metavar="2M|0.5x",
            help="Ceiling on parameters."),
    _option("Budget", "--require-measured", is_flag=True, help="Do not call a budget met on an estimate."),
    _option("Search", "--agent", metavar="AGENT", help=f"Who looks for the plan: {', '.join(find.names('agents'))}. "
            "Default: ppo, started from the best baseline."),
    _option("Search", "--preset", metavar="PRESET",
            help="A published system, its formulas repaired: akperl, driving or depgraphrl; akperl-paper and so on as "
            "printed, with a warning. Sets agent, actions, observation, reward and criterion; what --agent and --set "
            "say wins. See `edgeprune list presets`."),
    _option("Search", "--evaluations", type=click.IntRange(1), metavar="N",
            help="True evaluations of the search. Default: by --effort."),
    _option("Search", "--epochs", type=click.IntRange(0), metavar="N",
            help="Fine-tuning epochs. Default: by --effort."),
    _option("Search", "--effort", type=click.Choice(["quick", "normal", "long"]), default="normal",
            show_default=True, help="Counts, never a clock: 3, 5 or 20 epochs (5, 15 or 50 for detectors) and 80, "
            "200 or 600 evaluations; more of these for many groups."),
    _option("Search", "--precision", type=click.Choice(["auto", "fp32", "fp16", "int8"]), default="auto",
            show_default=True, help="auto lowers it as far as accuracy and clock allow."),
    _option("Search", "--cost", type=click.Choice(["measured", "estimated", "macs"]), default="measured",
            show_default=True,
            help="What decides between candidates: the clock, or MACs alone (reproducible to the byte)."),
    _option("Search", "--set", "set_", multiple=True, metavar="PASS.FIELD=VALUE",
            help="Set an option of a pass, of the task or of the agent, such as finetune.lr=0.01. May be repeated."),
    _workers, _target, _board, _threads, _table, _energy, _power_log,
    _option("Target", "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
            help="Where search and fine-tuning run."),
    _option("Output", "--out", type=_PATH, metavar="DIR",
            help="Folder for the build. Default: build/ and the model's name."),
    _option("Output", "--recipe", type=_PATH, metavar="DIR", help="Replay the decisions of an earlier build."),
    _option("Output", "--config", type=_PATH, is_eager=True, callback=_config, metavar="FILE",
            help="edgeprune.toml with a [compile] table of these options and tables [finetune], [task], [agent], …; "
            "the command line wins."),
    _option("Output", "--seed", type=click.IntRange(0, 2**32 - 1), metavar="N", default=0, show_default=True,
            help="Seed of everything random."),
    _json, _quiet,
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
    _refuse_code_from_config(ctx)
    if not (rest["model"] or rest["arch"] or rest["recipe"]):
        raise click.UsageError("nothing to compile: give MODEL, or --arch alone for random weights", ctx)
    limited = ("max_latency", "max_energy", "max_size", "max_macs", "max_parameters")
    ceilings = {name: rest.pop(name) for name in limited}
    request = Request(
        **rest,
        data=data and data_path(data),
        out=out or default_out(rest["model"] or rest["recipe"], rest["arch"]),
        settings=parse_settings(set_, config),
        budget=Budget(max_accuracy_drop, **ceilings),
    )
    with redirect_stdout(sys.stderr):  # torch's exporter prints; standard output is for the result
        from edgeprune.compiler.driver import compile_request

        build = compile_request(request, _progress(quiet))
    report = build.report
    if as_json:
        click.echo(report.to_json(), nl=False)
    elif not quiet:
        from edgeprune.compiler.table import show, summary

        show(summary(report))
        click.echo(f"build: {build.directory}")
    ctx.exit(exit_code(report.verdict))


@main.command("inspect")
@_options(_model, _target, _json, _quiet)
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

            found = inspect_model(Request(**rest, data=data and data_path(data)), _progress(quiet))
            told, shown = found.to_json(), inspection(found, chosen)
    if as_json:
        click.echo(json.dumps(told, indent=1))
    elif not quiet:
        show(shown)


@main.command("profile")
@click.argument("artifact", type=_PATH)
@_options(
    _target, _board, _threads, _table, _energy, _power_log,
    _option("Target", "--layer-energy", is_flag=True,
            help="Tell the energy of each layer too: a window of 2 s each, scaled to the whole; or by the formula of "
            "--energy theoretical, which needs no sensor."),
    _option("Target", "--runtime", metavar="NAME",
            help="One of the target's other runtimes, such as openvino on host-cpu. A table is tied to it."),
    _json, _quiet,
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
            artifact, target, threads, _progress(quiet), board, table, energy, power_log, layer_energy, runtime
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


@main.command("compare", epilog=_COMPARE_EXIT_CODES)
@_options(
    _model,
    _option("Budget", "--max-macs", multiple=True, callback=_ceilings, metavar="30M|0.5x",
            help="Ceiling on multiply-accumulates. May be repeated: every budget is a comparison of its own, and "
            "several give fits across them. Default: 0.5x, where no ceiling is given."),
    _option("Budget", "--max-parameters", multiple=True, callback=_ceilings, metavar="2M|0.5x",
            help="Ceiling on parameters; likewise. With --max-macs, every pair of the two."),
    _option("Comparison", "--agents", default=",".join(find.names("agents")), show_default=True, metavar="A,B,…",
            help="Who searches. Learning agents are started from the baselines, whose evaluations are theirs too."),
    _option("Comparison", "--seeds", type=click.IntRange(1), metavar="N", default=5, show_default=True,
            help="Searches of each agent and budget, with --seed and the seeds after it. One gives no interval."),
    _option("Comparison", "--evaluations", type=click.IntRange(1), metavar="N", default=300, show_default=True,
            help="True evaluations each search may spend, the warm start's included."),
    _option("Comparison", "--images", type=click.IntRange(1), metavar="N",
            help="Images of the search split that every plan is scored on; a search's best plans are scored again on "
            "up to four times as many, at most half of the split, and the rest is the audit. The same as "
            "--set sparsify.images=N; default: what the task has there, 2000 for classifiers."),
    _option("Comparison", "--epochs", type=click.IntRange(0), metavar="N", default=0, show_default=True,
            help="Fine-tuning epochs of every plan that was chosen."),
    _option("Comparison", "--cold/--no-cold", default=False, show_default=True,
            help="Also every learning agent without its warm start, in a row of its own."),
    _option("Comparison", "--ablation", "ablations", multiple=True,
            type=click.Choice(["no-recalibration", "no-distillation"]),
            help="Also every row without this: batch norms not re-estimated while searching, or a fine-tuning on "
            "labels alone. May be repeated."),
    _option("Comparison", "--set", "set_", multiple=True, metavar="PASS.FIELD=VALUE",
            help="Set an option of sparsify, finetune, task or of the agents that have it. May be repeated."),
    _workers, _target, _board, _threads,
    _option("Target", "--measure", is_flag=True, help="Time the float32 ONNX of every final model on the target."),
    _option("Target", "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
            help="Where fine-tuning runs."),
    _option("Output", "--out", type=_PATH, metavar="DIR",
            help="Folder for compare.json, compare.md, the plots and cells/. Default: build/, the model's name and "
            "-compared."),
    _option("Output", "--seed", type=click.IntRange(0, 2**32 - 1), metavar="N", default=0, show_default=True,
            help="The first seed; also which images search and which audit."),
    _json, _quiet,
)
@click.pass_context
def compare_(
    ctx: click.Context, /, agents: str, seeds: int, evaluations: int, images: int | None, epochs: int, cold: bool,
    ablations: Any, measure: bool, set_: tuple[str, ...], max_macs: list[Limit], max_parameters: list[Limit],
    out: Path | None, data: Path | None, as_json: bool, quiet: bool, **rest: Any,
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
      edgeprune compare r20.safetensors --arch resnet.py:resnet20 --data cifar10/ --agents random,greedy,evolution
        --max-macs 0.7x --max-macs 0.5x --max-macs 0.3x --seeds 3 --epochs 2 --measure
      edgeprune compare r20.safetensors --arch resnet.py:resnet20 --data cifar10/ --agents ppo,random --cold
    """
    if not (rest["model"] or rest["arch"]):
        raise click.UsageError("nothing to compare on: give MODEL, or --arch alone for random weights", ctx)
    given = parse_settings(set_, {} if images is None else {"sparsify": {"images": str(images)}})
    request = Request(
        **rest,
        data=data and data_path(data),
        out=out or default_out(rest["model"], rest["arch"]).with_name(
            f"{default_out(rest['model'], rest['arch']).name}-compared"
        ),
        settings=given,
    )
    with redirect_stdout(sys.stderr):
        from edgeprune.compiler.comparison import run
        from edgeprune.compiler.contest import Contest, budgets

        names = tuple(name.strip() for name in agents.split(",") if name.strip())
        chosen = budgets(macs=max_macs, parameters=max_parameters)
        contest = Contest(request, names, chosen, seeds, evaluations, epochs, cold, ablations, measure)
        report = run(contest, _progress(quiet))
    if as_json:
        click.echo(report.to_json(), nl=False)
    elif not quiet:
        from edgeprune.compiler.comparison_text import table
        from edgeprune.compiler.table import show

        show(table(report))
        click.echo(f"comparison: {request.out}")


@main.command("verify", epilog=_EXIT_CODES)
@click.argument("directory", metavar="DIR", type=_PATH)
@_options(_json, _quiet)
@click.pass_context
def verify_(ctx: click.Context, /, directory: Path, as_json: bool, quiet: bool) -> None:
    """Check a build: the hash of every file, the report, the model's outputs and the budget.

    Made for continuous integration: the exit code says what was found.
    """
    from edgeprune.compiler.verify import verify

    findings = verify(directory, _progress(quiet))
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


def _progress(quiet: bool) -> Progress:
    if quiet:
        from edgeprune.passes.base import Silent

        return Silent()
    from edgeprune.compiler.progress import Bars

    return Bars()

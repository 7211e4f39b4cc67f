"""Options that several commands have, and how what is typed becomes a value."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from edgeprune.budget import Limit
from edgeprune.cli.group import Option
from edgeprune.compiler.request import parse_shape, read_config
from edgeprune.errors import BadOption

if TYPE_CHECKING:
    from edgeprune.passes.base import Progress

F = TypeVar("F", bound=Callable[..., Any])


def ceiling(ctx: click.Context, param: click.Parameter, value: str | None) -> Limit | None:
    """Read a ceiling; the option's name says on what."""
    return None if value is None else Limit.parse(str(param.name).removeprefix("max_"), value)


def ceilings(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[Limit]:
    """Read ceilings of an option that may be repeated."""
    return [Limit.parse(str(param.name).removeprefix("max_"), value) for value in values]


def shape(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Read a shape such as 1x3x224x224."""
    return None if value is None else parse_shape(value)


def config(ctx: click.Context, param: click.Parameter, value: Path | None) -> dict[str, dict[str, str]]:
    """Make [compile] the defaults of the other options, which click reads after this one; return the other tables."""
    if value is None:
        return {}
    known = {p.opts[-1].lstrip("-"): p for p in ctx.command.params if p.name not in ("config", "set_", "help")}
    chosen, settings = read_config(value, known)
    ctx.default_map = {str(known[name].name): text for name, text in chosen.items()}
    return settings


def refuse_code_from_config(ctx: click.Context) -> None:
    """A config file may come with a download: what would run its code counts only if the command line says it too."""
    for name, value in ctx.params.items():
        names_code = name == "trust_pickle" or re.search(r"\.py:\w+$", str(value))
        if value and names_code and ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP:
            flag = "--" + name.replace("_", "-")
            given = flag if value is True else f"{flag} {value}"
            raise BadOption(f"the config file asks to run code; repeat {given} on the command line to allow it")


def options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Apply decorators so that the first is listed first."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def option(section: str, *names: str, **kwargs: Any) -> Callable[[F], F]:
    """Declare an option that --help lists under ``section``."""
    return click.option(*names, cls=Option, section=section, **kwargs)


PATH = click.Path(path_type=Path)
MODEL = options(
    click.argument("model", type=PATH, required=False),
    option("Model", "--arch", metavar="ARCH",
           help="Architecture of a state dict: timm:NAME, torchvision:NAME, ultralytics:NAME or file.py:factory. "
           "Without MODEL: random weights."),
    option("Model", "--input", "input_shape", metavar="1xCxHxW", callback=shape,
           help="Input shape, where neither data nor model tell it."),
    option("Model", "--trust-pickle", is_flag=True,
           help="Let a pickled MODEL run the code it carries. At your own risk."),
    option("Data", "--data", type=PATH, metavar="PATH",
           help="Folders (train/, val/), an .npz, a folder of *_train*.npz and *_test*.npz, a detector's data.yaml or "
           "KITTI's own tree; also looked up in $EDGEPRUNE_DATA."),
    option("Data", "--task", default="auto", show_default=True, metavar="TASK",
           help="auto, classification, detection or file.py:Name."),
)
TARGET = option("Target", "--target", default="host-cpu", show_default=True, metavar="BOARD",
                help="What the result runs on: a name of `edgeprune list boards` or a .toml file.")
BOARD = option("Target", "--board", metavar="URL",
               help="Where a target is that is not this machine: ssh://user@host or ssh://user@host:port. "
               "Without it, times are estimates.")
THREADS = option("Target", "--threads", type=click.IntRange(1, 1024), metavar="N", default=1, show_default=True,
                 help="Threads for inference while measuring.")
TABLE = option("Target", "--table", type=PATH, metavar="FILE",
               help="Latency table of the target. Kernels it lacks are measured into it; compile then searches by "
               "the latency it tells instead of by MACs.")
ENERGY = option("Target", "--energy", type=click.Choice(
    ["sensor", "two-point", "theoretical", "theoretical-published"]), default="sensor", show_default=True,
                help="How energy is told: by the power sensor over whole windows, by its readings at both ends of a "
                "window, or estimated from arithmetic and traffic.")
POWER_LOG = option("Target", "--power-log", type=PATH, metavar="FILE",
                   help="CSV of an external meter that records the target's supply while edgeprune works, in place "
                   "of a sensor: a header with time (Unix seconds, or ISO 8601 with its zone) and power_w, power_mw, "
                   "or voltage_v and current_a. A file that is exported afterwards is waited for.")
WORKERS = options(
    option("Search", "--workers", type=click.IntRange(1, 4096), metavar="N",
           help="Plans scored at a time, one thread each. Default: one a core; with --ray-address, one a CPU of the "
           "cluster. Scores and decisions do not depend on it."),
    option("Search", "--ray", is_flag=True,
           help="Score plans in processes of a local Ray cluster instead of threads (extra: ray)."),
    option("Search", "--ray-address", metavar="ADDR",
           help="Score plans on a running Ray cluster, host:port or auto; started on machines of one kind."),
)
JSON = option("Output", "--json", "as_json", is_flag=True,
              help="Print the result as JSON, and nothing else, on standard output.")
QUIET = option("Output", "--quiet", is_flag=True, help="Show no progress and no table.")


def progress(quiet: bool) -> Progress:
    """Return what shows the progress of long work on standard error, or nothing at all."""
    if quiet:
        from edgeprune.passes.base import Silent

        return Silent()
    from edgeprune.compiler.progress import Bars

    return Bars()

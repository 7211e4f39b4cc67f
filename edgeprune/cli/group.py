"""What all commands are held together by: how --help is laid out, and how a command may end."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from edgeprune import __version__
from edgeprune.compiler.ending import ending
from edgeprune.errors import nearest
from edgeprune.memory import keep_freed

_BROKEN_PIPE = 141  # what a shell reports of a tool that SIGPIPE ended
EXIT_CODES = """
\b
Exit codes:
  0    the budget is met (or there was none that could be checked)
  1    a bug in edgeprune, with a traceback
  2    an option, model, dataset or build that cannot be used
  3    the budget is not met, or cannot be met
  4    the environment lacks something: a package, permission, disk space
  130  interrupted; the same command resumes
"""


class Option(click.Option):
    """An option that is listed under a heading of its own in --help."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class Command(click.Command):
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


class Commands(click.Group):
    """The group of commands: turns every way a command can end into one sentence and an exit code."""

    command_class = Command

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


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(cls=Commands, epilog=EXIT_CODES, context_settings=_CONTEXT)
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
    keep_freed()

"""The command line. The only folder that imports click; whatever is heavy is imported by the command that needs it.

Results go to standard output, everything else to standard error.
"""

from edgeprune.cli import compare, compile, look  # each adds its commands to the group
from edgeprune.cli.group import main

__all__ = ["compare", "compile", "look", "main"]

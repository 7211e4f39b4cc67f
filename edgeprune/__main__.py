"""``python -m edgeprune`` is the same as ``edgeprune``."""

from edgeprune.cli import main

if __name__ == "__main__":
    main(prog_name="edgeprune")

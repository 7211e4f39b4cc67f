"""What ``edgeprune list`` shows: names, and the first line of what each says about itself."""

from __future__ import annotations

from edgeprune import find


def described(what: str) -> list[tuple[str, str]]:
    """Return (name, one line) of every pass, agent, backend, task, board or criterion; ``what`` is the plural."""
    if what == "boards":
        from edgeprune.profiles import board

        return [(name, board.load(name).description) for name in board.names()]
    if what == "criteria":
        from edgeprune.importance import CRITERIA

        return [(name, _first_line(function)) for name, function in sorted(CRITERIA.items())]
    return [(name, _first_line(find.find(what, name))) for name in find.names(what)]


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]

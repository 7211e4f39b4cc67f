"""What ``edgeprune list`` shows: names, and the first line of what each says about itself."""

from __future__ import annotations

from edgeprune import find


def described(what: str) -> list[tuple[str, str]]:
    """Return (name, one line) of everything of a kind, such as ``agents``: the plural."""
    if what == "boards":
        from edgeprune.profiles import board

        return [(name, board.load(name).description) for name in board.names()]
    if what == "presets":
        from edgeprune.agents.presets import PRESETS

        return [(preset.name, preset.line) for preset in PRESETS.values()]
    if what == "criteria":
        from edgeprune.importance import CRITERIA

        return [(name, _first_line(function)) for name, function in sorted(CRITERIA.items())]
    return [(name, _first_line(find.find(what, name))) for name in find.names(what)]


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]

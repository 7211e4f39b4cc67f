from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from edgeprune.compiler.progress import Bars


def bars(terminal: bool) -> tuple[Bars, io.StringIO]:
    stream = io.StringIO()
    return Bars(Console(file=stream, force_terminal=terminal, width=100)), stream


def test_without_a_terminal_there_is_one_line_at_either_end() -> None:
    progress, stream = bars(terminal=False)
    assert list(progress.track([1, 2, 3], "epochs")) == [1, 2, 3]
    first, last = stream.getvalue().splitlines()
    assert first == "epochs, 3 to do …"
    assert last.startswith("epochs: 3 done in ")


def test_a_length_that_is_unknown_is_not_made_up() -> None:
    progress, stream = bars(terminal=False)
    assert list(progress.track(iter("ab"), "search")) == ["a", "b"]
    assert stream.getvalue().splitlines()[0] == "search …"


@pytest.mark.parametrize("terminal", [False, True])
def test_nested_bars_and_notes(terminal: bool) -> None:
    progress, stream = bars(terminal)
    seen = []
    for outer in progress.track(range(2), "candidates"):
        progress.note(f"[b]note {outer}[/b]")
        seen += [(outer, inner) for inner in progress.track(range(2), "epochs")]
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for text in ("candidates", "epochs", "[b]note 1[/b]"):
        assert text in stream.getvalue()


def test_a_bar_ends_when_its_work_fails_or_is_given_up() -> None:
    progress, _ = bars(terminal=True)

    def failing() -> Iterator[int]:
        yield 1
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        list(progress.track(failing(), "x", total=2))
    assert progress._progress is None
    abandoned = progress.track([1, 2], "y")
    next(iter(abandoned))
    assert progress._progress is not None
    abandoned.close()
    assert progress._progress is None

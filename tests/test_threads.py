import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from edgeprune.threads import silenced, threads


def test_the_number_counts_within_the_block_and_comes_back_after_a_failure() -> None:
    before = torch.get_num_threads()
    other = before + 1
    with pytest.raises(ZeroDivisionError), threads(other):
        assert torch.get_num_threads() == other
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_what_is_printed_within_is_dropped_and_what_comes_after_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), silenced():
        print("within")
        raise ZeroDivisionError
    print("after")
    assert capsys.readouterr().out == "after\n"


def test_silences_that_overlap_leave_standard_output_as_it_was() -> None:
    """Each waits for the other to be inside too: redirected at once, the first one's text would stay in place."""
    before, met = sys.stdout, threading.Barrier(2)

    def silent() -> bool:
        with silenced():
            try:
                met.wait(0.2)
            except threading.BrokenBarrierError:
                return False
        return True

    with ThreadPoolExecutor(2) as both:
        assert list(both.map(lambda _: silent(), range(2))) == [False, False]
    assert sys.stdout is before

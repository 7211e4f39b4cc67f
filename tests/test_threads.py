import pytest
import torch

from edgeprune.threads import threads


def test_the_number_counts_within_the_block_and_comes_back_after_a_failure() -> None:
    before = torch.get_num_threads()
    other = before + 1
    with pytest.raises(ZeroDivisionError), threads(other):
        assert torch.get_num_threads() == other
        raise ZeroDivisionError
    assert torch.get_num_threads() == before

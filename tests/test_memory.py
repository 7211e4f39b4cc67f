from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from edgeprune.memory import keep_freed
torch.set_num_threads(1)
print(int(keep_freed()))
for _ in range(16):  # no block fits exactly where one like it was: it takes some to have room enough
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(1 << 24).fill_(1.0)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def faults(**told: str) -> tuple[bool, list[int]]:
    """Return whether memory is kept, and how many pages blocks of 64 MB, one after another, had to get."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRE", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", FAULTS], env={**own, **told}, capture_output=True, check=True)
    kept, *each = map(int, done.stdout.split())
    return bool(kept), each


def test_a_block_that_was_freed_is_not_fetched_again_unless_the_user_said_how_memory_is_had() -> None:
    kept, each = faults()
    assert kept and each[0] > 20 * max(each[-4:]), "the first block must be fetched"
    kept, each = faults(MALLOC_TOP_PAD_="131072")
    assert not kept and min(each) > each[0] / 2

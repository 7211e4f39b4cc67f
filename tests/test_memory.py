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

HELD = """
import os
import threading
from pathlib import Path
import torch
from edgeprune.memory import give_back, keep_freed
keep_freed()
torch.set_num_threads(1)
def held(): return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
def work(count):
    thread = threading.Thread(target=lambda: [torch.ones(1 << 20) for _ in range(count)])  # in an arena of its own
    thread.start(), thread.join()
work(1)  # what the first of them loads stays
before = held()
work(64)
print(held() - before)
give_back()
print(held() - before)
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def printed(code: str, **told: str) -> list[int]:
    """Return the numbers that a process prints whose environment says nothing of memory but what it is ``told``."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRE", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", code], env={**own, **told}, capture_output=True, check=True)
    return [*map(int, done.stdout.split())]


def faults(**told: str) -> tuple[bool, list[int]]:
    """Return whether memory is kept, and how many pages blocks of 64 MB, one after another, had to get."""
    kept, *each = printed(FAULTS, **told)
    return bool(kept), each


def test_a_block_that_was_freed_is_not_fetched_again_unless_the_user_said_how_memory_is_had() -> None:
    kept, each = faults()
    assert kept and each[0] > 20 * max(each[-4:]), "the first block must be fetched"
    kept, each = faults(MALLOC_TOP_PAD_="131072")
    assert not kept and min(each) > each[0] / 2


def test_what_a_thread_freed_is_kept_until_it_is_given_back() -> None:
    kept, left = printed(HELD)
    assert kept > 200e6 and left < 50e6, "of 268 MB"

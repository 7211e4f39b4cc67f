"""Which workers a build or a comparison scores its plans on."""

from __future__ import annotations

import os

from edgeprune.compiler.request import Request
from edgeprune.passes.pool import Pool, Threads


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pool_for(request: Request) -> Pool:
    """Return the pool that was asked for; whoever takes it closes it.

    Without ``--workers`` it has one worker a core; on a real Ray cluster, one for each CPU that this has. Raises
    MissingPackage where Ray is wanted and not installed, and Lacking where its cluster cannot be reached.
    """
    if not (request.ray or request.ray_address):
        return Threads(request.workers or cores())
    from edgeprune.compiler.ray_pool import RayPool

    workers = request.workers if request.ray_address else request.workers or cores()
    return RayPool(workers, request.ray_address)

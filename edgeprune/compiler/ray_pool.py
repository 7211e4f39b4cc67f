"""Plans scored on Ray: a cluster of this machine's own, or a real one. The only file that imports ray.

    RayPool.open(score) ── ray.put, once ──> object store ── once a worker ──> Worker.score(plan) ──> scores, in order

Workers are actors. One that is lost is started anew by Ray and joins again; its plan goes to whoever is free. Results
are held by the process that asked for them, so that none is lost with the worker it came from, or computed twice.
"""

from __future__ import annotations

import os
import socket
import sys
import sysconfig
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from edgeprune.compiler.cache import source_digest, versions
from edgeprune.errors import BadOption, Lacking, MissingPackage, UnmetRequirement
from edgeprune.groups import Widths
from edgeprune.memory import keep_freed
from edgeprune.model import first_line
from edgeprune.passes.pool import Pool, Score, Scores, Worth
from edgeprune.profiles import board as boards

PATIENCE = 300.0
"""Seconds without any worker at all after which a search ends; what it found is in its journal."""
TRIES = 3
"""Workers that one plan may take down with it."""
_LOOPBACK = "127.0.0.1"
_INSTALLED = tuple(sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib"))
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
_LOCAL = {
    # Ray reads "no cluster of several machines" out of this, on every system, and then listens on loopback alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",  # its default for a cluster of its own; asked for, it goes without a warning
}


class Worker:
    """One process of a cluster that scores plans with one torch thread. What it scores by is fetched once and kept."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        keep_freed()
        self._name = ""
        self._score: Score[Any] | None = None

    def identity(self) -> dict[str, str]:
        """Return what decides the last bit of a score here: code, libraries, processor."""
        return identity()

    def score(self, name: str, held: Sequence[Any], widths: Widths) -> Any:
        """Return one plan's score by the function in the object store that ``held`` refers to, called ``name``."""
        if self._score is None or name != self._name:
            import ray

            try:
                self._score = ray.get(held[0])
            except Exception as error:
                raise UnmetRequirement(
                    f"the model or the task cannot be put together on a worker ({type(error).__name__}: "
                    f"{first_line(error)}); install what they need there, or leave Ray out"
                ) from error
            self._name = name
        assert self._score is not None
        return self._score(widths)


class RayPool(Pool):
    """Workers on a Ray cluster: one at ``address``, else one of this machine's own that ends with the pool.

    ``workers`` None takes as many as the cluster has CPUs. A program that has called ``ray.init`` itself is taken at
    its word: its cluster is used, and left running. The cluster of this machine's own is started by the first search;
    it listens on loopback alone, reports nothing to anybody and writes its logs to files.

    Raises MissingPackage without ray, and Lacking where ``address`` does not answer.
    """

    kind = "ray"

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        self._ray = _ray(local=address is None)
        self._started = False
        self._all: list[Any] = []
        self._idle: list[Any] = []
        self._joining: dict[Any, Any] = {}
        self._here = identity()
        if address is not None:
            self._connect(address)
        self.workers = workers or self._cpus()
        if self.workers < 1:
            raise BadOption(f"a pool needs at least one worker, not {self.workers}")

    @contextmanager
    def open(self, score: Score[Worth]) -> Iterator[Scores[Worth]]:
        """Send ``score`` and all that hangs on it to the cluster's store, once, and score plans by it.

        Raises UnmetRequirement where it cannot be pickled.
        """
        self._start()
        held = self._sent(score)
        yield lambda plans: self._scores(held, plans)

    def close(self) -> None:
        """End the workers, and the cluster if it was started or joined here."""
        for worker in self._all:
            with suppress(Exception):  # the cluster may have gone before
                self._ray.kill(worker)
        self._all, self._idle, self._joining = [], [], {}
        if self._started:
            self._ray.shutdown()
            self._started = False

    # --- the cluster --------------------------------------------------------------------------------------------------

    def _cpus(self) -> int:
        return int(self._ray.cluster_resources().get("CPU", 0)) if self._ray.is_initialized() else 1

    def _connect(self, address: str) -> None:
        if self._ray.is_initialized():
            return
        host, _, port = address.rpartition(":")
        try:
            if port.isdecimal() and "/" not in host:  # Ray itself would try for minutes
                socket.create_connection((host, int(port)), timeout=10.0).close()
            self._ray.init(address=address, log_to_driver=False, configure_logging=False)
        except Exception as error:
            raise Lacking(f"no Ray cluster can be used at {address!r} ({first_line(error)}); start one there with "
                          "`ray start`, or leave --ray-address out") from error  # fmt: skip
        self._started = True

    def _start(self) -> None:
        """Start the cluster and its workers, where that was not done yet."""
        ray = self._ray
        if not ray.is_initialized():
            self._started = True
            ray.init(address="local", num_cpus=self.workers, include_dashboard=False, log_to_driver=False,
                     configure_logging=False)  # fmt: skip
            if ray.util.get_node_ip_address() != _LOOPBACK:
                self.close()
                settings = " ".join(f"{name}={value}" for name, value in _LOCAL.items())
                raise Lacking("ray was imported before edgeprune could tell it to stay on loopback; set "
                              f"{settings} before that, or call ray.init() yourself")  # fmt: skip
        if not self._all:
            actor = ray.remote(num_cpus=1, max_restarts=-1)(Worker)
            self._all = [actor.remote() for _ in range(self.workers)]
            self._joining = {worker.identity.remote(): worker for worker in self._all}

    def _sent(self, score: Score[Any]) -> Any:
        with _by_value(self._ray.cloudpickle):
            try:
                return self._ray.put(score)
            except Exception as error:
                why = first_line(error.__cause__ or error)
                raise UnmetRequirement(
                    f"the model or the task cannot be pickled, as Ray's workers need it ({why}); mend "
                    "its class (__getstate__), or leave Ray out: threads of this machine pickle nothing"
                ) from error

    # --- plans to scores ----------------------------------------------------------------------------------------------

    def _scores(self, held: Any, plans: Sequence[Widths]) -> Iterator[Any]:
        todo = deque(range(len(plans)))
        found: dict[int, Any] = {}
        running: dict[Any, tuple[Any, int]] = {}
        lost: Counter[int] = Counter()
        try:
            for wanted in range(len(plans)):
                while wanted not in found:
                    while todo and self._idle:
                        worker, index = self._idle.pop(0), todo.popleft()
                        running[worker.score.remote(held.hex(), [held], plans[index])] = worker, index
                    for done in self._arrived(list(running)):
                        worker, index = running.pop(done)
                        score = self._score(done, worker)
                        if score is not None:
                            found[index] = score
                            continue
                        todo.appendleft(index)
                        lost[index] += 1
                        if lost[index] == TRIES:
                            raise Lacking(f"{TRIES} Ray workers were lost over plan {plans[index]}; give them more "
                                          "memory, or fewer of them: --workers")  # fmt: skip
                yield found.pop(wanted)
        finally:
            for task, (worker, _) in running.items():  # nobody wants these any more
                with suppress(Exception):
                    self._ray.cancel(task)
                self._joining[worker.identity.remote()] = worker  # free once it is through with what it has begun

    def _arrived(self, running: Sequence[Any]) -> list[Any]:
        """Wait for something to happen; return the evaluations that are done, and welcome workers that answer."""
        if not running and not self._joining:
            raise Lacking("no Ray worker is left: all of them were refused or do not start")
        ready, _ = self._ray.wait([*running, *self._joining], timeout=None if running else PATIENCE)
        if not ready:
            raise Lacking(f"no Ray worker has answered for {PATIENCE:.0f} s: the cluster has no free CPU")
        for answer in [one for one in ready if one in self._joining]:
            self._join(self._joining.pop(answer), answer)
        return [one for one in ready if one in running]

    def _join(self, worker: Any, answer: Any) -> None:
        """Take a worker that answered; refuse one whose scores might differ from those of this machine."""
        errors = self._ray.exceptions
        try:
            there = self._ray.get(answer)
        except errors.ActorUnavailableError:  # being started anew
            time.sleep(0.2)
            self._joining[worker.identity.remote()] = worker
            return
        except errors.RayError as error:
            raise Lacking(f"a Ray worker does not start ({first_line(error)})") from error
        differing = [name for name in self._here.keys() & there.keys() if self._here[name] != there[name]]
        if differing:
            name = min(differing)
            raise Lacking(f"a Ray worker's {name} is {there[name]} and here it is {self._here[name]}, so scores might "
                          "not be the same to the bit; use machines of one kind, set up alike")  # fmt: skip
        self._idle.append(worker)

    def _score(self, done: Any, worker: Any) -> Any:
        """Return a score; None where the worker was lost with it and is on its way back. Raises what scoring raised."""
        errors = self._ray.exceptions
        try:
            score = self._ray.get(done)
        except errors.RayTaskError as error:
            self._idle.append(worker)
            raise error.cause from error
        except errors.RayActorError:
            self._joining[worker.identity.remote()] = worker
            return None
        self._idle.append(worker)
        return score


def identity() -> dict[str, str]:
    """Return what decides the last bit of a score: edgeprune's source, versions, processor.

    Packages are told apart by version only where both machines have them.
    """
    detected = boards.load("host-cpu").detected
    return {
        **versions(),
        "edgeprune's source": source_digest()[:12],
        "processor": str(detected.get("cpu")),
        "instruction set": str(detected.get("isa")),
        "kernels": torch.backends.cpu.get_cpu_capability(),
    }


def _ray(local: bool) -> Any:
    """Import ray, which reads these settings as it is imported."""
    for name, value in {**_QUIET, **(_LOCAL if local else {})}.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise MissingPackage("ray", "ray", "scoring plans on Ray") from error
    return ray


@contextmanager
def _by_value(cloudpickle: Any) -> Iterator[None]:
    """While the block runs, pickle what the user's own files define by value: no worker can import them by name."""
    known = cloudpickle.list_registry_pickle_by_value()
    own = [module for name, module in list(sys.modules.items()) if name not in known and _is_the_user_s(module, name)]
    for module in own:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in own:
            cloudpickle.unregister_pickle_by_value(module)


def _is_the_user_s(module: ModuleType, name: str) -> bool:
    """Return whether a module is a file of the user's: neither ours, nor Python's, nor an installed package's."""
    file = getattr(module, "__file__", None)
    if not file or name.partition(".")[0] in ("edgeprune", "__main__") or getattr(module, "__name__", "") != name:
        return False
    return not file.startswith(_INSTALLED) and "site-packages" not in Path(file).parts

"""Plans scored on Ray: the same scores to the bit, whoever dies meanwhile, and nothing left running."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tiny
import torch
from contexts import BOARD, Agreement, context, smooth_images
from networks import toy
from pruning_task import Answers

from edgeprune import find
from edgeprune.compiler import pooling
from edgeprune.compiler.request import Request
from edgeprune.errors import BadModel, BadOption, Lacking, MissingPackage, UnmetRequirement
from edgeprune.model import TorchModel
from edgeprune.passes.pool import Pool, Threads
from edgeprune.passes.sparsify import Sparsify
from edgeprune.report import Report, Score
from edgeprune.tasks.base import SplitInfo
from edgeprune.tracing import size_of

TESTS = Path(__file__).parents[1]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed here")
FINE = BOARD.model_copy(update={"channel_multiples": {"fp32": 1}})


class Portable(Agreement):
    """A task that can be pickled. ``log`` gets a line for each scoring that ends; ``dies`` at its n-th, once."""

    name = "portable"

    def __init__(self, model: TorchModel, log: Path | None = None, dies: int | None = None) -> None:
        super().__init__(model, smooth_images(48))
        self.log, self.dies = log, dies

    def splits(self) -> tuple[SplitInfo, ...]:
        return tuple(SplitInfo(name, len(self._images), "made up") for name in ("train", "search", "test"))

    def score(self, predict: Any, split: str, indices: Any = None) -> Score:
        assert torch.get_num_threads() == 1
        answers = predict(self._images)
        if self.log is not None:
            flag = self.log.with_suffix(".died")
            if self.dies is not None and not flag.exists() and len(lines(self.log)) >= self.dies:
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            write(self.log, f"{os.getpid()} {np.asarray(answers, np.float64).sum():.12e}")
        right = -np.abs(answers).astype(np.float64).max(1)  # every bit of the outputs is in the score
        return Score(float(right.mean()), len(right), right)


def write(log: Path, line: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def search(folder: Path, pool: Pool, agent: str = "random", task: Any = None, **changes: Any) -> dict[str, Any]:
    """Return the facts of a search of 24 evaluations."""
    model = toy("Residual")
    found: Any = find.find("agents", agent)()
    step = Sparsify(agent=found, evaluations=24, recalibration=32, limits=(("macs", 0.6 * size_of(model)["macs"]),))
    ctx, facts = context(folder, model, board=FINE, task=task or Portable(model), pool=pool, **changes)
    step.run(model.clone(), ctx)
    return facts


def decided(facts: dict[str, Any]) -> tuple[list[str], list[float]]:
    return facts["asked"], [row.score for row in facts["history"]]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Two workers on a cluster of this machine's own, started once."""
    from edgeprune.compiler.ray_pool import RayPool

    pool = RayPool(2)
    yield pool
    pool.close()


def family() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


# --- the same scores --------------------------------------------------------------------------------------------------


@needs_ray
@pytest.mark.parametrize("agent", ["random", "ppo"])
def test_scores_and_decisions_are_those_of_the_local_pool_to_the_bit(agent: str, pool: Pool, tmp_path: Path) -> None:
    here, there = (search(tmp_path, one, agent) for one in (Threads(2), pool))
    assert decided(here) == decided(there)
    assert len(set(decided(here)[1])) > 10, "scores that differ, or equality would say nothing"


@needs_ray
def test_finalists_and_reconstructed_weights_are_the_same_too(pool: Pool, tmp_path: Path) -> None:
    model = toy("Residual")
    found = []
    for one in (Threads(1), pool):
        step = Sparsify(agent=find.find("agents", "random")(), evaluations=24, recalibration=32, images=30,
                        reconstruction=True, limits=(("macs", 0.6 * size_of(model)["macs"]),))  # fmt: skip
        ctx, facts = context(tmp_path, model, board=FINE, task=Portable(model), pool=one)
        step.run(model.clone(), ctx)
        found.append((decided(facts), facts["finalists"]))
    assert found[0] == found[1]
    assert [row.images for row in found[0][1]] == [18, 18], "of 48, those that the search did not look at"


@needs_ray
def test_a_build_on_ray_is_the_one_without_to_the_byte(inputs: Path, built: Any, tmp_path: Path) -> None:
    environment = {**os.environ, "EDGEPRUNE_CACHE": str(tmp_path / "cache"), "TINY_EVENTS": str(tmp_path / "events"),
                   "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}  # fmt: skip
    command = [sys.executable, tiny.__file__, *tiny.COMMAND, "--ray", "--workers", "1", "--out", str(tmp_path / "out"),
               "--json"]  # fmt: skip
    done = subprocess.run(command, cwd=inputs, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = Report.from_json(done.stdout)
    assert (report.environment["pool"], report.environment["workers"]) == ("ray", 1)
    for name in ("model.onnx", "model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (built.directory / name).read_bytes(), name


@needs_ray
def test_masks_are_scored_there_too(pool: Pool, tmp_path: Path) -> None:
    model = toy("Residual")
    scores = []
    for one in (Threads(1), pool):
        step = Sparsify(agent=find.find("agents", "random")(), evaluations=6, granularity="element",
                        limits=(("macs", 0.5 * size_of(model)["macs"]),))  # fmt: skip
        ctx, facts = context(tmp_path, model, board=FINE, task=Portable(model), pool=one)
        step.run(model.clone(), ctx)
        scores.append(decided(facts))
    assert scores[0] == scores[1]


@needs_ray
def test_scores_come_in_order_whoever_is_first(pool: Pool) -> None:
    with pool.open(slow) as scores:
        assert list(scores([(3,), (0,), (1,), (2,)])) == [3.0, 0.0, 1.0, 2.0]
        assert list(scores([])) == []


def slow(widths: tuple[int, ...]) -> float:
    time.sleep(0.1 * widths[0])
    return float(widths[0])


@needs_ray
def test_the_data_travels_once_a_search_and_not_once_an_evaluation(pool: Pool, tmp_path: Path) -> None:
    log = tmp_path / "loads"
    with pool.open(Counting(log)) as scores:
        assert list(scores([(i,) for i in range(12)])) == [float(i) for i in range(12)]
    pids = lines(log)
    assert 1 <= len(pids) == len(set(pids)) <= 2, "once a worker"


class Counting:
    """Says where and how often it was put together."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        write(self.log, str(os.getpid()))

    def __call__(self, widths: tuple[int, ...]) -> float:
        return float(widths[0])


# --- workers lost -----------------------------------------------------------------------------------------------------


@needs_ray
def test_a_worker_killed_in_the_middle_costs_its_own_plan_alone(pool: Pool, tmp_path: Path) -> None:
    log, model = tmp_path / "log", toy("Residual")
    wanted = search(tmp_path, Threads(1))
    facts = search(tmp_path, pool, task=Portable(model, log, dies=7))
    assert log.with_suffix(".died").exists(), "somebody died"
    assert decided(facts) == decided(wanted)
    assert len(lines(log)) == facts["evaluations"], "no finished evaluation was repeated"


@needs_ray
def test_a_lost_worker_comes_back(pool: Pool, tmp_path: Path) -> None:
    with pool.open(where) as scores:
        before = both(scores)
        lost = min(before)
        os.kill(int(lost), signal.SIGKILL)
        after = both(scores)
    assert lost not in after and before - {lost} < after, "another process has its place"


def both(scores: Any) -> set[float]:
    """Return the processes that score plans, once there are two of them."""
    until = time.monotonic() + 60
    while len(found := set(scores([(i,) for i in range(8)]))) < 2:
        assert time.monotonic() < until
    return found


def where(widths: tuple[int, ...]) -> float:
    time.sleep(0.05)
    return float(os.getpid())


@needs_ray
def test_a_plan_that_takes_every_worker_down_ends_the_search_in_a_sentence(pool: Pool) -> None:
    with pool.open(deadly) as scores, pytest.raises(Lacking, match=r"^3 Ray workers were lost over plan \(1,\); give"):
        list(scores([(0,), (1,), (2,)]))
    with pool.open(slow) as scores:
        assert list(scores([(1,), (0,)])) == [1.0, 0.0], "the pool survives it"


def deadly(widths: tuple[int, ...]) -> float:
    if widths[0] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


# --- what goes wrong --------------------------------------------------------------------------------------------------


@needs_ray
def test_what_scoring_raises_there_is_raised_here(pool: Pool) -> None:
    with pool.open(failing) as scores, pytest.raises(BadModel, match=r"^outputs of another shape$"):
        list(scores([(0,)]))
    with pool.open(failing) as scores, pytest.raises(ZeroDivisionError):
        list(scores([(1,)]))


def failing(widths: tuple[int, ...]) -> float:
    if widths[0]:
        return 1.0 / 0.0
    raise BadModel("outputs of another shape")


@needs_ray
def test_what_cannot_be_pickled_is_told_with_the_way_out(pool: Pool, tmp_path: Path) -> None:
    message = r"cannot be pickled, as Ray's workers need it \(.*lock.*\); mend its class .* or leave Ray out: threads"
    with pytest.raises(UnmetRequirement, match=message):
        search(tmp_path, pool, task=Answers(toy("Residual"), 48))  # holds a lock


@needs_ray
def test_what_cannot_be_put_together_there_is_told(pool: Pool) -> None:
    with pool.open(Fragile()) as scores, pytest.raises(UnmetRequirement, match=r"on a worker \(.*no such disk"):
        list(scores([(0,)]))


class Fragile:
    """Travels, and does not arrive."""

    def __reduce__(self) -> Any:
        return unlucky, ()

    def __call__(self, widths: tuple[int, ...]) -> float:
        return 0.0


def unlucky() -> Any:
    raise OSError("no such disk")


@needs_ray
def test_a_worker_unlike_this_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: Any) -> None:
    with pool.open(where) as scores:
        both(scores)
        monkeypatch.setitem(pool._here, "torch", "1.0")
        pool._joining[pool._idle[0].identity.remote()] = pool._idle.pop(0)
        with pytest.raises(Lacking, match=r"^a Ray worker's torch is .* and here it is 1\.0, so scores might not be"):
            while pool._joining:
                list(scores([(0,)]))
    monkeypatch.undo()
    pool.close()  # for whoever is next, a pool that is whole


@needs_ray
def test_a_cluster_that_does_not_answer_is_the_environment_s_fault() -> None:
    script = """
        from edgeprune.compiler.ray_pool import RayPool
        from edgeprune.errors import Lacking
        try:
            RayPool(1, "127.0.0.1:9")
        except Lacking as error:
            print(error)
    """
    done = python(script)
    assert done.stdout.startswith("no Ray cluster can be used at '127.0.0.1:9' ("), done.stderr
    assert "leave --ray-address out" in done.stdout


def test_without_ray_its_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackage, match=r"^scoring plans on Ray needs ray; .* pip install 'edgeprune\[ray\]'$"):
        pooling.pool_for(Request(ray=True))


def test_threads_are_what_is_used_unasked() -> None:
    for request, workers in ((Request(), pooling.cores()), (Request(workers=3), 3)):
        found = pooling.pool_for(request)
        assert (found.kind, found.workers) == ("threads", workers)
    with pytest.raises(BadOption, match=r"^workers must be in \[1, 4096\], not 0$"):
        Request(workers=0)


# --- a good neighbour -------------------------------------------------------------------------------------------------


@needs_ray
def test_nothing_listens_beyond_loopback_and_nothing_is_said(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from edgeprune.compiler.ray_pool import RayPool

    before = {process.pid for process in family()}
    own = RayPool(1)
    try:
        with own.open(slow) as scores:
            assert list(scores([(0,)])) == [0.0]
        listening = [
            (process.name(), found.laddr.ip)
            for process in [psutil.Process(), *family()]
            for found in process.net_connections("inet")
            if found.status == psutil.CONN_LISTEN
        ]
        assert listening and {ip for _, ip in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    finally:
        own.close()
    assert {process.pid for process in family()} <= before, "nothing is left"
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


@needs_ray
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
def test_an_interrupted_search_leaves_no_process_behind(how: signal.Signals, tmp_path: Path) -> None:
    script = """
        import time
        from contextlib import closing
        from edgeprune.compiler.ray_pool import RayPool

        def sleep(widths):
            print("scoring", flush=True)
            open(MARK, "w").close()
            time.sleep(60)

        with closing(RayPool(2)) as pool, pool.open(sleep) as scores:
            list(scores([(1,), (2,), (3,)]))
    """
    mark = tmp_path / "begun"
    process = subprocess.Popen([sys.executable, "-c", dedented(f"MARK = {str(mark)!r}", script)], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
    until = time.monotonic() + 60
    while not mark.exists():
        assert time.monotonic() < until and process.poll() is None, process.communicate()
        time.sleep(0.05)
    left = psutil.Process(process.pid).children(recursive=True)
    assert len(left) > 3, "there is a cluster to end"
    os.killpg(process.pid, how) if how == signal.SIGINT else process.send_signal(how)  # Ctrl-C reaches the whole group
    out, _ = process.communicate(timeout=30)
    assert process.returncode != 0 and out == "", "workers' own output is no output of ours"
    _, alive = psutil.wait_procs(left, timeout=15)
    names = sorted(one.name() for one in alive if one.is_running())
    for one in alive:
        one.kill()
    if how == signal.SIGKILL:  # two idle agents of Ray's take minutes to see that nobody is there any more
        names = [name for name in names if not name.endswith("Agent")]
    assert not names


def dedented(*parts: str) -> str:
    return "\n".join(textwrap.dedent(part) for part in parts)


def python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", dedented(script)], capture_output=True, text=True, timeout=120,
                          check=False)  # fmt: skip

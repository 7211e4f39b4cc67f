"""Timing, with a clock that the test holds."""

import gc

import numpy as np
import pytest

from edgeprune.profiles.measure import Plan, Rounds, cpu_seconds_of_others, from_rounds, interleave, quiet

PLAN = Plan(rounds=15, round_seconds=0.02)


class Machine:
    """A clock that artifacts move: each run of one takes its milliseconds times how slow the machine is just then."""

    def __init__(self, slow=lambda now: 1.0) -> None:
        self.now, self.slow, self.calls = 0.0, slow, []

    def clock(self) -> float:
        return self.now

    def runner(self, name: str, ms: float, noise=lambda: 1.0):
        def run() -> None:
            self.calls.append(name)
            self.now += ms / 1e3 * self.slow(self.now) * noise()

        return run

    def measure(self, others=lambda: 0.0, plan: Plan = PLAN, **ms: float):
        runners = {name: value if callable(value) else self.runner(name, value) for name, value in ms.items()}
        return interleave(runners, clock=self.clock, others=others, plan=plan)


def test_percentiles_ratios_and_conditions():
    found = Machine().measure(original=2.0, small=0.5)
    small = found["small"]
    assert small.source == "measured" and not small.noisy
    assert small.latency_ms.p50 == pytest.approx(0.5) and small.latency_ms.p99 == pytest.approx(0.5)
    assert small.ratio == pytest.approx(0.25) and small.ratio_interval == pytest.approx((0.25, 0.25))
    assert found["original"].ratio == 1.0
    assert small.warmup == 10 and small.runs == 15 * 40 and found["original"].runs == 15 * 10
    assert {"threads", "rounds", "runs_per_round", "sessions", "load_average", "date"} <= set(small.conditions)


def test_a_phase_that_slows_everything_leaves_the_ratio_alone():
    machine = Machine(slow=lambda now: 1.6 if 0.2 < now < 0.4 else 1.0)
    found = machine.measure(original=2.0, small=1.0)
    assert found["small"].ratio == pytest.approx(0.5, rel=0.01)
    assert not found["small"].noisy


def test_a_session_that_stays_noisy_is_repeated_and_flagged():
    machine = Machine()
    rng = np.random.default_rng(0)
    state = {"runs": 0, "factor": 1.0}

    def moody() -> None:
        if state["runs"] % 11 == 0:
            state["factor"] = rng.uniform(0.5, 3.0)
        state["runs"] += 1
        machine.now += 1e-3 * state["factor"]

    found = machine.measure(original=2.0, moody=moody)
    assert found["moody"].noisy and found["moody"].conditions["sessions"] == PLAN.attempts
    assert found["moody"].conditions["spread"] > PLAN.spread
    low, high = found["moody"].ratio_interval
    assert low < found["moody"].ratio < high and high - low > 0.1


def test_a_quiet_session_after_a_loud_one_is_the_one_reported():
    rng = np.random.default_rng(0)
    machine = Machine()

    def runner(ms: float):
        # Loud for about the first session and quiet ever after.
        return machine.runner("x", ms, lambda: rng.uniform(0.2, 8.0) if machine.now < 2.0 else 1.0)

    found = machine.measure(original=runner(10.0), small=runner(5.0))
    assert not found["small"].noisy and 1 < found["small"].conditions["sessions"] <= PLAN.attempts
    assert found["small"].ratio == pytest.approx(0.5)


def test_other_processes_that_take_our_core_are_noticed():
    machine = Machine()
    found = machine.measure(others=lambda: 1000.0 * machine.now, original=2.0, small=1.0)
    assert found["small"].noisy and found["small"].conditions["stolen"] > PLAN.stolen


def test_artifacts_take_turns_and_the_order_rotates():
    machine = Machine()
    machine.measure(plan=Plan(rounds=3, round_seconds=0.0, fewest=2, attempts=1, warmup=1), a=1.0, b=1.0, c=1.0)
    calls = machine.calls[3:]
    turns = [name for name, before in zip(calls, [None, *calls[:-1]], strict=True) if name != before]
    assert turns == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert calls[:4] == ["a", "a", "a", "b"], "one run to warm up and two timed"


def test_counts_follow_the_latency_within_bounds():
    plan = Plan(rounds=4, round_seconds=0.1, fewest=2, most=50)
    found = Machine().measure(plan=plan, slow=500.0, middle=10.0, fast=0.01)
    assert [found[name].runs for name in ("slow", "middle", "fast")] == [8, 40, 200]


def test_intervals_do_not_depend_on_luck():
    first, again = (Machine().measure(original=2.0, small=1.0) for _ in range(2))
    assert first["small"].ratio_interval == again["small"].ratio_interval


def test_a_failing_artifact_leaves_the_garbage_collector_on():
    machine = Machine()
    calls = iter([None] * 12)

    def later() -> None:
        machine.now += 1e-3
        if next(calls, "over") == "over":
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match=r"^broken$"):
        machine.measure(only=later)
    assert gc.isenabled()


def test_the_real_clock_tells_work_from_more_work():
    small, large = np.ones((40, 40)), np.ones((400, 400))
    plan = Plan(rounds=5, round_seconds=0.01)
    found = interleave({"large": lambda: large @ large, "small": lambda: small @ small}, plan=plan)
    assert found["small"].ratio < 0.5
    assert cpu_seconds_of_others() >= 0.0


def test_a_board_s_rounds_become_the_same_figures() -> None:
    """What ``interleave`` finds here is found of times that come from elsewhere."""
    times = {"original": [[2.0, 2.0, 2.0], [2.0, 2.0]], "small": [[0.5, 0.5], [0.5, 0.5, 9.0]]}
    found = from_rounds([Rounds(times, 0.0)], conditions={"board": "pi"})
    small = found["small"]
    assert small.source == "measured" and not small.noisy and small.runs == 4
    assert small.latency_ms.p50 == 0.5 and small.ratio == 0.25
    assert small.conditions["board"] == "pi" and small.conditions["rounds"] == 2 and small.conditions["stolen"] == 0.0


def test_of_a_board_s_sessions_the_quietest_counts() -> None:
    loud = Rounds({"a": [[1.0, 1.0], [9.0, 9.0], [1.0, 1.0]]}, 0.0)
    calm = Rounds({"a": [[2.0, 2.0], [2.0, 2.0], [2.0, 2.0]]}, None)
    assert not quiet(loud) and quiet(calm) and not quiet(Rounds(calm.times, 0.9))
    found = from_rounds([loud, calm])["a"]
    assert found.latency_ms.p50 == 2.0 and not found.noisy
    assert (found.conditions["sessions"], found.conditions["stolen"]) == (2, None), "what is unknown is not 0"
    assert from_rounds([loud])["a"].noisy

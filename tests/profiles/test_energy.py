"""Energy: integration against closed forms, and the whole protocol on a clock and a sensor that are made up."""

import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.budget import EnergyMethod
from edgeprune.errors import Lacking
from edgeprune.profiles.energy import Energy, Protocol, StandsStill, integrate, loop, measure
from edgeprune.profiles.sensor_base import Kind, Sensor
from edgeprune.profiles.sensor_meter import SensorMeter

QUICK = Protocol(seconds=1.0, runs=10, warmup=0.1, windows=3, most=6, spread=0.05)


def test_power_is_integrated_over_the_samples_own_times() -> None:
    ramp = [(t, {"a": 100.0 * t, "b": 7.0}) for t in (0.0, 0.5, 2.0, 4.0)]
    assert integrate(ramp, "power") == {"a": pytest.approx(800.0), "b": pytest.approx(28.0)}


def test_a_counter_that_wraps_goes_on() -> None:
    steps = [(0.0, {"p": 90.0}), (1.0, {"p": 99.0}), (2.0, {"p": 5.0}), (3.0, {"p": 7.0})]
    assert integrate(steps, "energy", {"p": 100.0}) == {"p": pytest.approx(17.0)}


def test_a_counter_that_goes_back_without_a_wrap_is_refused() -> None:
    with pytest.raises(ValueError, match="the counter of gpu went back"):
        integrate([(0.0, {"gpu": 5.0}), (1.0, {"gpu": 4.0})], "energy")


@pytest.mark.parametrize("samples", [[], [(0.0, {"a": 1.0})]])
def test_one_sample_is_no_energy(samples: list[Any]) -> None:
    with pytest.raises(ValueError, match="at least two samples"):
        integrate(samples, "power")


@given(st.lists(st.floats(0, 1e4), min_size=2, max_size=30), st.integers(1, 29))
def test_two_parts_add_up_to_the_whole(powers: list[float], cut: int) -> None:
    samples = [(0.1 * i, {"a": p}) for i, p in enumerate(powers)]
    cut = min(cut, len(samples) - 1)
    parts = [integrate(part, "power")["a"] for part in (samples[: cut + 1], samples[cut:]) if len(part) > 1]
    assert sum(parts) == pytest.approx(integrate(samples, "power")["a"], abs=1e-6)


class World:
    """A clock that only work and sleep move, and a board that draws 3 W idle and more while it works."""

    def __init__(self, busy: float = 8000.0, each: float = 0.01, drift: float = 0.0) -> None:
        self.now, self.mj, self.busy, self.each, self.drift, self.works = 0.0, 0.0, busy, each, drift, 0

    def clock(self) -> float:
        return self.now

    def pass_by(self, seconds: float, milliwatts: float) -> None:
        self.now += seconds
        self.mj += seconds * milliwatts

    def sleep(self, seconds: float) -> None:
        self.pass_by(seconds, 3000.0)

    def work(self) -> None:
        self.works += 1
        self.pass_by(self.each, self.busy + self.drift * self.works)


class Counter(Sensor):
    name = "made-up"
    kind: Kind = "energy"
    period = 1000.0

    def __init__(self, world: World) -> None:
        self.world = world

    def read(self) -> Mapping[str, float]:
        return {"whole": self.world.mj, "part": self.world.mj / 4}

    @property
    def total(self) -> tuple[str, ...]:
        return ("whole",)


def measured(world: World, sensor: Sensor, method: EnergyMethod = "sensor", work: Any = None) -> Energy:
    def rest() -> float:
        world.sleep(QUICK.seconds)
        return 0.0

    return measure(loop(work or world.work, QUICK, world.clock), rest, SensorMeter(sensor, method, world.clock), QUICK)


def test_total_and_net_of_a_run() -> None:
    world = World()
    found = measured(world, Counter(world))
    assert found.total_mj == pytest.approx(80.0)  # 8 W for 10 ms
    assert found.net_mj == pytest.approx(50.0)  # less 3 W for 10 ms
    assert (found.power_mw, found.idle_mw) == (pytest.approx(8000.0), pytest.approx(3000.0))
    assert found.windows == 3 and found.spread == pytest.approx(0.0, abs=1e-9)
    assert found.rails == {"whole": pytest.approx(80.0), "part": pytest.approx(20.0)}
    assert found.sensor == "made-up" and found.runs == pytest.approx(300, abs=3)


def test_two_points_stand_for_what_lies_between_them() -> None:
    """A board that is only busy between readings at rest: two-point sees the rest alone, as the thesis' method does."""
    world = World()

    class Meter(Counter):
        kind: Kind = "power"

        def read(self) -> Mapping[str, float]:
            return {"whole": 3000.0}

    found = measured(world, Meter(world), "two-point")
    assert found.total_mj == pytest.approx(30.0) and found.net_mj == pytest.approx(0.0, abs=1e-9)
    assert found.method == "two-point" and found.source == "measured"
    counted = measured(world, Counter(world), "two-point")
    assert counted.total_mj == pytest.approx(80.0), "a counter knows what lay between"


def test_what_is_read_within_a_window_is_nothing_to_two_points() -> None:
    world, busy = World(each=0.5), [False]

    class Spiky(Counter):
        kind: Kind = "power"
        period = 0.0

        def read(self) -> Mapping[str, float]:
            return {"whole": 9000.0 if busy[0] else 3000.0}

    def work() -> None:
        busy[0] = True
        time.sleep(0.02)  # long enough for the sampler's own thread to read
        world.work()
        busy[0] = False

    ends = measured(world, Spiky(world), "two-point", work)
    assert ends.power_mw == pytest.approx(3000.0)
    assert (measured(world, Spiky(world), work=work).power_mw or 0.0) > 3100.0


def test_windows_that_disagree_are_repeated_up_to_a_limit() -> None:
    world = World(drift=30.0)
    found = measured(world, Counter(world))
    assert found.windows == QUICK.most and found.spread > QUICK.spread


def test_slow_work_gets_a_longer_window() -> None:
    world = World(each=1.0)
    found = measured(world, Counter(world))
    assert found.runs == 3 * QUICK.runs and found.total_mj == pytest.approx(8000.0)


def test_a_sensor_that_dies_while_it_is_followed() -> None:
    world = World()

    class Dying(Counter):
        period = 0.0
        reads = 0

        def read(self) -> Mapping[str, float]:
            self.reads += 1
            if self.reads > 4:
                raise OSError("No such device")
            return super().read()

    with pytest.raises(Lacking, match=r"^the power sensor made-up does not answer any more: No such device$"):
        measured(world, Dying(world))


def test_a_sensor_that_stands_still_is_refused_after_one_window() -> None:
    world = World()

    class Still(Counter):
        def read(self) -> Mapping[str, float]:
            return {"whole": 5.0}

    with pytest.raises(StandsStill, match=r"^made-up does not move; energy is not measured$"):
        measured(world, Still(world))
    assert world.now < 2.5 * QUICK.seconds

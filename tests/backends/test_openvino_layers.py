"""What OpenVINO tells of its layers: a mean since it loaded, in whole microseconds."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune.backends import openvino
from edgeprune.backends.base import Artifact
from edgeprune.model import ModelSpec

STATUS = SimpleNamespace(EXECUTED=1, NOT_RUN=0)


class Request:
    """A first run of 900 µs, then ``each``, told as the plug-in tells it; a layer that was fused away tells 0."""

    def __init__(self, each: int) -> None:
        self.each, self.runs = each, 0

    def infer(self, images: Any) -> None:
        self.runs += 1

    @property
    def profiling_info(self) -> list[Any]:
        mean = (900 + self.each * (self.runs - 1)) // self.runs
        rows = (("conv", STATUS.EXECUTED, mean), ("relu", STATUS.NOT_RUN, 0))
        return [SimpleNamespace(node_name=name, node_type="T", status=status, Status=STATUS,
                                real_time=timedelta(microseconds=us)) for name, status, us in rows]  # fmt: skip


def test_the_first_run_and_an_interruption_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    loads = iter([40, 40, 4000, 41, 39])
    monkeypatch.setattr(openvino.Openvino, "_compiled", lambda *asked, **more: SimpleNamespace(
        create_infer_request=lambda: Request(next(loads))))  # fmt: skip
    artifact = Artifact(tmp_path, ModelSpec((1, 1, 1, 1)), "openvino", {})
    [layer] = openvino.Openvino().layer_times(artifact, 1, 50)
    assert (layer.name, layer.share) == ("conv", 1.0)
    assert layer.ms == pytest.approx(0.040, abs=0.0012), "within what was cut off"

"""What model, data and options say about each other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from edgeprune.compiler.opening import open_request
from edgeprune.compiler.request import Request
from edgeprune.errors import BadModel, BadOption
from edgeprune.model import ModelSpec, Surgery, TorchModel, file_digest

TASK = """
from edgeprune.tasks.classification import Classification

class Own(Classification):
    name = "own"
    def __init__(self, data, seed):
        super().__init__(data, seed=seed, mean=(0.1, 0.2, 0.3))
"""


def request(**changes: Any) -> Request:
    return Request(**{"model": Path("net.safetensors"), "arch": "net.py:net", "data": Path("data.npz"), **changes})


def test_the_data_tells_the_shape_and_the_classes(at: Path) -> None:
    opened = open_request(request())
    assert opened.original.spec.input_shape == (1, 3, 12, 12)
    assert opened.original.spec.classes == ("0", "1", "2")
    assert (opened.kind, opened.has_data, opened.notes) == ("safetensors", True, ())
    assert opened.files == {"model": file_digest(Path("net.safetensors")), "arch": file_digest(Path("net.py"))}


def test_options_of_the_task_reach_it(at: Path) -> None:
    opened = open_request(request(settings={"task": {"mean": "0.1,0.2,0.3", "batch": "7"}}, seed=3))
    assert opened.original.spec.mean == (0.1, 0.2, 0.3)
    assert (opened.task.batch, opened.task.seed) == (7, 3)  # type: ignore[attr-defined]
    for name in ("data", "seed"):
        with pytest.raises(BadOption, match=f"task.{name} is the build's own; give it with --{name}"):
            open_request(request(settings={"task": {name: "1"}}))


def test_options_of_a_task_that_is_given_are_refused(at: Path) -> None:
    given = open_request(request()).task
    with pytest.raises(BadOption, match=r"^task.batch is for a task that edgeprune opens; one that is given says"):
        open_request(request(settings={"task": {"batch": "7"}}), task=given)
    with pytest.raises(BadOption, match=r"^task.batch is for a task that edgeprune opens; one that is given says"):
        open_request(request(task="own.py:Own", settings={"task": {"batch": "7"}}))
    assert open_request(request(), task=given).task is given


def test_without_data_agreement_is_scored_and_that_is_said(at: Path) -> None:
    opened = open_request(request(data=None, input_shape=(1, 3, 16, 16)))
    assert not opened.has_data
    assert opened.notes == (
        "no --data: the accuracy floor is unchecked; nothing is trained, searched or lowered to int8",
    )


def test_random_weights_are_warmed_up_and_that_is_said(at: Path) -> None:
    opened = open_request(request(model=None, data=None, input_shape=(1, 3, 16, 16)))
    assert opened.kind == "random"
    assert "the weights are random, so the figures say nothing about accuracy" in opened.notes[0]
    assert opened.notes[1] == "the model is untrained: its batch norms were warmed up on synthetic input"
    assert opened.original.module.get_buffer("bn.running_mean").any()


def test_random_weights_come_from_the_seed_and_touch_nobody_elses(at: Path) -> None:
    """Else a second run would find nothing in the store, and no recipe could be replayed."""
    state = torch.get_rng_state()
    digests = [
        open_request(request(model=None, data=None, input_shape=(1, 3, 16, 16), seed=seed)).original.digest()
        for seed in (0, 0, 1)
    ]
    assert digests[0] == digests[1] != digests[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_task_of_the_users_own_tells_the_shape_and_is_hashed(at: Path, tmp_path: Path) -> None:
    path = tmp_path / "task.py"
    path.write_text(TASK)
    opened = open_request(request(task=f"{path}:Own"))
    assert (opened.task.name, opened.original.spec.mean) == ("own", (0.1, 0.2, 0.3))
    assert opened.original.spec.input_shape == (1, 3, 12, 12)
    assert opened.files["task"] == file_digest(path)


def test_a_module_in_memory_is_copied_and_made_ready(at: Path) -> None:
    module = tiny.trained().train().requires_grad_(False)
    opened = open_request(Request(data=Path("data.npz")), module)
    assert opened.original.module is not module
    assert module.training
    assert not opened.original.module.training
    assert all(p.requires_grad for p in opened.original.module.parameters())
    assert (opened.kind, opened.original.spec.input_shape) == ("module", (1, 3, 12, 12))
    with pytest.raises(BadOption, match=r"give input_shape=\(1, C, H, W\), or data or a task that tell it"):
        open_request(Request(), module)


def test_a_torch_model_keeps_its_own_input_and_head(at: Path) -> None:
    spec = ModelSpec((1, 3, 12, 12), mean=(0.1, 0.1, 0.1), std=(0.5, 0.5, 0.5), head={"kind": "linear"})
    model = TorchModel(tiny.trained(), spec, (torch.zeros(1, 3, 12, 12),))
    opened = open_request(Request(data=Path("data.npz")), model)
    assert (opened.original.spec.mean, opened.original.spec.head) == ((0.1, 0.1, 0.1), {"kind": "linear"})
    cut = Surgery({"body.0": ((0, 1), None)}, ("block",), {"act": "relu"}, {"head": 5}, ("head",))
    opened = open_request(Request(data=Path("data.npz")), dataclasses.replace(model, surgery=cut))
    assert opened.original.surgery == Surgery(masks={"head": 5}), "it counts as uncut, and its zeros stay"
    plain = dataclasses.replace(opened.original, surgery=Surgery())
    assert opened.original.digest() != plain.digest(), "the same weights without a mask are another model"
    broken = TorchModel(tiny.trained(), spec, (torch.zeros(1, 5, 12, 12),))
    with pytest.raises(BadModel, match="the model does not run on a 1x5x12x12 input"):
        open_request(Request(data=Path("data.npz")), broken)

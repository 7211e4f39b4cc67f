from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from box_makers import ANCHORS, YOLOV5, YOLOV8, head, random_raw, spec
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeprune.errors import BadModel
from edgeprune.model import ModelSpec
from edgeprune.tasks.boxes.heads import Head


def test_a_head_knows_its_shape() -> None:
    five, eight = head(YOLOV5), head(YOLOV8)
    assert five.positions() == eight.positions() == 8 * 12 + 4 * 6 + 2 * 3
    assert (five.channels(), eight.channels()) == (3 * (5 + 3), 4 * 16 + 3)
    assert five.grids() == ((8, 12), (4, 6), (2, 3))


def test_a_head_survives_the_spec_s_json() -> None:
    for described in (YOLOV5, YOLOV8):
        assert Head.of(ModelSpec.from_json(spec(described).to_json())) == head(described)


def test_anchor_boxes_are_where_the_logits_say() -> None:
    of = head(YOLOV5, classes=2)
    raw = torch.full((1, of.channels(), of.positions()), -20.0)
    cell = 8 * 12 + 2 * 6 + 5  # second level: row 2, column 5, stride 16
    # 2 σ(0) − 0.5 is half a cell, (2 σ(0))² is 1: the cell's centre and the anchor's size
    raw[0, 7:14, cell] = torch.tensor([0.0, 0.0, 0.0, 0.0, 2.0, -1.0, 1.0])
    boxes, scores = of.decode(raw)
    best = scores[0].amax(1).argmax().item()
    assert best == 3 * 96 + 1 * 24 + 2 * 6 + 5  # level, anchor, row, column
    x, y, (w, h) = 5.5 * 16, 2.5 * 16, ANCHORS[1][1]
    assert boxes[0, best].tolist() == pytest.approx([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    assert scores[0, best].tolist() == pytest.approx([_sigmoid(2) * _sigmoid(-1), _sigmoid(2) * _sigmoid(1)])


def test_logits_move_and_stretch_anchor_boxes() -> None:
    of = head(YOLOV5, classes=1)
    raw = torch.zeros(1, of.channels(), of.positions())
    raw[0, 0:4, 0] = torch.tensor([_logit(0.75), _logit(0.25), _logit(0.25), _logit(0.75)])
    box = of.decode(raw)[0][0, 0]
    # 2 · 0.75 − 0.5 = 1 and 2 · 0.25 − 0.5 = 0 cells of 8 pixels; (2 · 0.25)² and (2 · 0.75)² anchors of 10 x 13
    x, y, w, h = 8.0, 0.0, 2.5, 29.25
    assert box.tolist() == pytest.approx([x - w / 2, y - h / 2, x + w / 2, y + h / 2], abs=1e-4)


def test_sides_are_expectations_over_bins() -> None:
    of = head(YOLOV8, classes=1)
    raw = torch.full((1, of.channels(), of.positions()), -50.0)
    cell = 8 * 12 + 4 * 6 + 3 + 2  # third level: row 1, column 2, stride 32
    for side, bins in enumerate(([2], [0, 1], [3], [15])):  # left, top, right, bottom
        for one in bins:
            raw[0, side * 16 + one, cell] = 50.0
    raw[0, 64, cell] = 1.0
    boxes, scores = of.decode(raw)
    x, y = 2.5 * 32, 1.5 * 32
    assert boxes[0, cell].tolist() == pytest.approx([x - 2 * 32, y - 0.5 * 32, x + 3 * 32, y + 15 * 32])
    assert scores[0, cell].item() == pytest.approx(_sigmoid(1))
    assert scores[0].argmax().item() == cell


@pytest.mark.parametrize("described", [YOLOV5, YOLOV8], ids=["yolov5", "yolov8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channel", [0, 3, 4, -1])
def test_what_is_not_finite_is_no_detection(described: dict[str, Any], value: float, channel: int) -> None:
    of = head(described)
    raw = random_raw(of, 2, 0)
    boxes, scores = of.decode(raw)
    hurt = raw.clone()
    hurt[1, channel, 17] = value
    hurt_boxes, hurt_scores = of.decode(hurt)
    assert hurt_boxes.isfinite().all() and hurt_scores.isfinite().all()
    changed = torch.nonzero((hurt_boxes != boxes).any(-1) | (hurt_scores != scores).any(-1))
    anchor = {0: 0, 3: 0, 4: 0, -1: 2}[channel] if described is YOLOV5 else 0
    assert changed.tolist() == [[1, anchor * 96 + 17]]
    lost = hurt_scores[1, anchor * 96 + 17]
    if channel == -1:  # the logit of the last class, and of nothing else
        assert lost[-1] == 0 and (lost[:-1] > 0).all()
    else:
        assert (lost == 0).all() and (hurt_boxes[1, anchor * 96 + 17] == 0).all()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.integers(1, 4),
    strides=st.sampled_from([[8], [8, 16], [16, 8], [8, 16, 32], [4, 8, 16, 32]]),
    cells=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_anchor_heads_decode_what_was_encoded(
    seed: int, classes: int, strides: list[int], cells: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    anchors = [rng.uniform(4, 60, (2, 2)).tolist() for _ in strides]
    described = {"format": "yolov5", "strides": strides, "anchors": anchors}
    of = head(described, classes, (cells[0] * max(strides), cells[1] * max(strides)))
    level = rng.integers(len(strides))
    rows, columns = of.grids()[level]
    a, row, column, label = rng.integers(2), rng.integers(rows), rng.integers(columns), rng.integers(classes)
    offset, ratio = rng.uniform(-0.4, 1.4, 2), rng.uniform(0.1, 3.8, 2)
    raw = torch.full((1, of.channels(), of.positions()), -9.0)
    cell = sum(r * c for r, c in of.grids()[:level]) + row * columns + column
    logits = [_logit(v) for v in (*((offset + 0.5) / 2), *(np.sqrt(ratio) / 2))]
    raw[0, a * (5 + classes) : a * (5 + classes) + 5, cell] = torch.tensor([*logits, 9.0])
    raw[0, a * (5 + classes) + 5 + label, cell] = 9.0
    boxes, scores = of.decode(raw)
    best = scores[0].amax(1).argmax()
    centre = (np.array([column, row]) + offset) * strides[level]
    size = ratio * np.array(anchors[level][a])
    expected = np.concatenate([centre - size / 2, centre + size / 2])
    assert boxes[0, best].numpy() == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert scores[0, best].argmax() == label


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), bins=st.integers(2, 16), n=st.integers(0, 3))
def test_anchor_free_heads_decode_what_was_encoded(seed: int, bins: int, n: int) -> None:
    of = head({**YOLOV8, "bins": bins})
    rng = np.random.default_rng(seed)
    sides = rng.uniform(0, bins - 1.001, (n, of.positions(), 4)).astype(np.float32)
    raw = _encode_sides(torch.from_numpy(sides), bins, of.classes)
    boxes, scores = of.decode(raw)
    pixels = torch.from_numpy(sides) * of.steps[:, None]
    expected = torch.cat([of.centres - pixels[..., :2], of.centres + pixels[..., 2:]], -1)
    torch.testing.assert_close(boxes, expected, rtol=1e-4, atol=1e-2)
    assert scores.shape == (n, of.positions(), 3)


def test_the_official_outputs_come_out(data_pack: Any) -> None:
    """The reference holds decoded boxes alone; encoding and decoding them shows that the order is its order."""
    reference = torch.from_numpy(np.load(data_pack / "weights" / "yolov5n_reference.npz")["output"])
    of = head(YOLOV5, 80, (320, 320))
    raw = torch.empty(1, 3, 85, of.positions())
    at = first = 0
    for stride, anchors, (rows, columns) in zip(of.strides, of.anchors, of.grids(), strict=True):
        for a, anchor in enumerate(anchors):
            part, cells = reference[0, at : at + rows * columns], slice(first, first + rows * columns)
            raw[0, a, :2, cells] = torch.logit((part[:, :2] / stride - of.corners[cells] + 0.5) / 2).T
            raw[0, a, 2:4, cells] = torch.logit((part[:, 2:4] / torch.tensor(anchor)).sqrt() / 2).T
            raw[0, a, 4:, cells] = torch.logit(part[:, 4:], 1e-9).T
            at += rows * columns
        first += rows * columns
    boxes, scores = of.decode(raw.flatten(1, 2))
    centre, half = reference[..., :2], reference[..., 2:4] / 2
    torch.testing.assert_close(boxes, torch.cat([centre - half, centre + half], -1), rtol=0, atol=1e-2)
    torch.testing.assert_close(scores, reference[..., 4:5] * reference[..., 5:], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({}, "detection needs a model with a yolov5 or yolov8 head, but its spec names no head"),
        (
            {"format": "yolov7"},
            "detection needs a model with a yolov5 or yolov8 head, but its spec names a head of the format 'yolov7'; "
            "did you mean 'yolov8'?",
        ),
        (
            {"format": "yolov5", "strides": [8]},
            "the head in the model's spec lacks 'anchors', so its outputs cannot be read",
        ),
        (
            {"format": "yolov8", "bins": 16},
            "the head in the model's spec lacks 'strides', so its outputs cannot be read",
        ),
        (
            {"format": "yolov8", "strides": [8, 0], "bins": 16},
            "the head in the model's spec has strides [8, 0], but they are not a list of whole numbers above zero",
        ),
        (
            {"format": "yolov8", "strides": 8, "bins": 16},
            "the head in the model's spec has strides 8, but they are not a list of whole numbers above zero",
        ),
        (
            {"format": "yolov8", "strides": [8], "bins": 1},
            "the head in the model's spec has bins 1, but they are not a whole number of at least 2",
        ),
        (
            {"format": "yolov5", "strides": [8], "anchors": [[[10, 13, 5]]]},
            "the head in the model's spec has anchors [[[10, 13, 5]]], but they are not, for each level, a list of "
            "[width, height] above zero, equally many at every level",
        ),
        (
            {"format": "yolov5", "strides": [8, 16], "anchors": [[[1, 2]], [[1, 2], [3, -4]]]},
            "the head in the model's spec has anchors [[[1, 2]], [[1, 2], [3, -4]]], but they are not, for each level, "
            "a list of [width, height] above zero, equally many at every level",
        ),
        (
            {**YOLOV5, "strides": [8, 16]},
            "the head has 2 strides but anchors for 3 levels; give one list a stride",
        ),
    ],
)
def test_heads_that_cannot_be_are_refused(described: dict[str, Any], message: str) -> None:
    with pytest.raises(BadModel) as caught:
        Head.of(spec(described))
    assert str(caught.value) == message


def test_a_head_needs_classes_and_whole_cells() -> None:
    with pytest.raises(BadModel) as caught:
        Head.of(spec(YOLOV5, classes=0))
    assert str(caught.value) == "the model's spec names no classes, so its head cannot be read; give it class names"
    with pytest.raises(BadModel) as caught:
        Head.of(spec(YOLOV8, size=(64, 100)))
    assert str(caught.value) == (
        "the input of 64x100 pixels is not a multiple of the head's stride 32; give --input a height and a width that "
        "are"
    )
    with pytest.raises(BadModel, match=r"a detector's input shape is \(N, C, H, W\), not \(1, 10\)"):
        Head.of(ModelSpec((1, 10), classes=("one",), head=YOLOV8))


def test_outputs_of_other_classes_are_refused() -> None:
    with pytest.raises(BadModel) as caught:
        head(YOLOV5).decode(torch.zeros(2, 255, 126))
    assert str(caught.value) == (
        "a yolov5 head of 3 classes gives outputs of shape (n, 24, 126) for an input of 64x96, but this model gave "
        "(2, 255, 126)"
    )


def test_gradients_flow_through_boxes() -> None:
    for described in (YOLOV5, YOLOV8):
        of = head(described)
        raw = random_raw(of, 1, 3).requires_grad_()
        of.boxes(of.split(raw)[0]).sum().backward()
        assert raw.grad is not None and raw.grad.abs().sum() > 0
        assert not of.decode(raw)[0].requires_grad


def _encode_sides(sides: Tensor, bins: int, classes: int) -> Tensor:
    lower = sides.long()
    share = (sides - lower)[..., None]
    spread = torch.zeros(*sides.shape, bins).scatter(-1, lower[..., None], 1 - share)
    spread = spread.scatter(-1, lower[..., None] + 1, share)
    logits = spread.clamp(min=1e-9).log().flatten(2).transpose(1, 2)
    return torch.cat([logits, torch.zeros(len(sides), classes, sides.shape[1])], 1)


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def _logit(p: float) -> float:
    return float(np.log(p / (1 - p)))

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from page_text import checked, words
from reports import candidate, candidates, report, step
from rich.console import Console

from edgeprune.compiler import wording
from edgeprune.compiler.page import render
from edgeprune.compiler.table import show, summary
from edgeprune.report import (
    Candidate,
    CheckRow,
    EngineRow,
    FinalistRow,
    GroupRow,
    KernelRow,
    Latency,
    Measurement,
    Report,
)


def empty() -> Report:
    """A build that was refused before the search: nothing is known but the original."""
    original = Candidate(name="original", macs=1e6, note="x")
    return report(
        verdict="infeasible",
        basis="unchecked",
        result=None,
        baseline=original,
        candidates=[],
        probes=[],
        steps=[],
        search=None,
        plan=[],
        splits=[],
        artifacts=[],
        notes=[],
        learning=[],
        budget=[CheckRow(quantity="macs", limit=1e3, found=None, basis="unchecked", held=None)],
    )


def test_the_page_is_well_formed_and_says_what_matters() -> None:
    text = words(render(report()))
    for expected in (
        "The budget is met",
        "accuracy drop: +0.66 points , at most +1.00 points allowed measured",
        "0.322 ms 0.397× original 0.812 ms",
        "251 kB",
        "pruning leaves p50 at 0.809×",
        "ppo gained +1.50 points over its own warm start.",
        "locked: the zero-padded shortcut ties these channels",
        "block dropped",
        "17 of them read back",
        "cached",
        "half of cifar10_test.npz, stratified, seed 0",
        "Energy a run not measured",
        "test split, n = 5000",
    ):
        assert expected in text.replace(" : ", ": "), expected


def test_the_page_needs_no_network_and_no_script() -> None:
    page = render(report())
    assert not re.search(r"(?:src|href)=\"(?!#)", page)
    assert not re.search(r"<script|<link|<iframe|url\((?!#)|@import", page)
    assert set(re.findall(r"https?://[\w./]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_equal_reports_are_equal_bytes() -> None:
    assert render(report()) == render(report())


def test_plots_follow_the_page_s_colours_and_share_no_ids() -> None:
    page = render(report())
    assert page.count("<svg") == 3
    assert "currentColor" in page
    assert "var(--line)" in page
    assert "#010203" not in page
    clip_paths = checked(page).ids
    assert len(clip_paths) == len(set(clip_paths))


def test_what_is_unknown_is_not_zero_and_not_drawn() -> None:
    page = render(empty())
    text = words(page)
    assert "The budget cannot be met" in text
    assert "MACs: not measured , at most 1 k allowed" in text
    assert "There is no result" in text
    assert "<svg" not in page
    assert "None" not in text
    unmeasured = report(
        result=candidate("pruned-quantized", None, 0.91, 1, 1.0),
        candidates=[candidate("a", None, 0.9, 1, 1.0)],
        probes=[],
        search=None,
        learning=[],
    )
    page = render(unmeasured)
    assert "Latency, p50 not measured original 0.812 ms unavailable" in words(page)
    assert "<svg" not in page


def test_names_from_files_are_escaped() -> None:
    evil = "<script>alert(1)</script>$x_{"
    page = render(
        report(
            notes=[evil],
            target={"name": evil},
            environment={evil: evil},
            plan=[GroupRow(group=evil, channels=4, kept=2, reason=evil)],
            candidates=[candidate(evil, 0.5, 0.9, 1, 1.0, note=evil, chosen=True)],
            learning=[{"candidate": evil, "epoch": 0, "score": 0.5}],
            engine=EngineRow(
                path=evil,
                builder=evil,
                version=evil,
                compute_capabilities=(evil,),
                command=(evil,),
                seconds=1.0,
                memory_bytes={evil: 1},
                layers=[KernelRow(name=evil, kind=evil, nodes=(evil,))],
            ),
        )
    )
    assert "<script" not in page
    assert "alert(1)" in words(page)


def test_finalists_that_were_trained_have_their_score_and_how_long() -> None:
    search = report().search
    assert search is not None
    same: Any = {"cost": 0.5, "searched": 0.8, "score": 0.79, "images": 4000}
    rows = [FinalistRow(plan="8-16", trained=0.9125, epochs=0.5, **same),
            FinalistRow(plan="12-8", trained=0.85, epochs=0.25, **same)]  # fmt: skip
    text = words(render(report(search=search.model_copy(update={"finalists": rows}))))
    assert "then trained, the better half for twice as long each time; the first was taken." in text
    assert "91.25 % 0.5" in text and "85.00 % 0.25" in text
    rows = [row.model_copy(update={"trained": None, "epochs": 0.0}) for row in rows]
    text = words(render(report(search=search.model_copy(update={"finalists": rows}))))
    assert "until it was clear which is the best; the first was taken." in text and "epochs Cost" not in text
    assert "Best score, before fine-tuning" in text and "Score while searching" in text
    assert "scored again on more and more images that the search did not look at, until" in text


def test_what_was_searched_by_agreement_is_called_so() -> None:
    search = report().search
    assert search is not None
    one = FinalistRow(plan="8-16", cost=0.5, searched=0.8, score=0.79, images=4000)
    changes = {"objective": "agreement", "finalists": [one, one]}
    text = words(render(report(search=search.model_copy(update=changes))))
    assert "Best agreement with the original" in text and "Agreement while searching Score" in text
    assert "found by how near their outputs stay to the original's, scored by the metric on more and more" in text
    assert "Best score, before fine-tuning" not in text and "Score while searching" not in text


@pytest.mark.parametrize(
    ("gain", "sentence"),
    [
        (0.0, "ppo gained nothing over its own warm start."),
        (None, "The gain over the warm start was not measured."),
        (-0.002, "ppo gained -0.20 points over its own warm start."),
    ],
)
def test_the_gain_over_the_warm_start_is_said_whatever_it_is(gain: float | None, sentence: str) -> None:
    search = report().search
    assert search is not None
    assert sentence in words(render(report(search=search.model_copy(update={"gain_over_warm_start": gain}))))


def test_the_gain_is_told_of_the_runtime_that_the_chosen_one_is_for() -> None:
    four = candidates()
    there = [
        c.model_copy(update={"name": f"{c.name}, openvino", "runtime": "openvino", "macs": 1e6 * (2 * i + 1)})
        for i, c in enumerate(four)
    ]
    here = [c.model_copy(update={"chosen": False, "runtime": "onnxruntime", "note": "slower there"}) for c in four]
    told = wording.pruning_gain(report(candidates=[*here, *there]))
    assert told.endswith("The pruned candidate was chosen.")
    assert f"MACs at {wording.ratio(there[3].macs / there[1].macs)}" in told


def test_the_gain_is_that_of_the_pruned_candidate_that_was_chosen() -> None:
    four = candidates()
    four[2] = four[2].model_copy(update={"chosen": True})
    four[3] = four[3].model_copy(update={"chosen": False, "note": "breaks the accuracy floor"})
    told = wording.pruning_gain(report(candidates=four))
    assert told.endswith("The pruned candidate was chosen.")
    assert f"size at {wording.ratio(820_000 / 318_000)}" in told


def test_pruning_that_did_not_pay_is_said() -> None:
    four = candidates()
    four[1] = four[1].model_copy(update={"chosen": True})
    four[3] = four[3].model_copy(update={"chosen": False, "note": "slower than quantized-only."})
    assert wording.pruning_gain(report(candidates=four)).endswith(
        "The pruned candidate was not chosen: slower than quantized-only."
    )
    assert "no pair of candidates" in wording.pruning_gain(report(candidates=four[:2]))
    bare = [
        c.model_copy(
            update={
                "measurement": Measurement(source="unavailable"),
                "size_bytes": None,
                "macs": None,
                "score": None,
            }
        )
        for c in four
    ]
    assert wording.pruning_gain(report(candidates=bare)).startswith(
        "What pruning added over quantization alone was not measured."
    )


def test_cheaper_activations_get_their_share_of_what_pruning_added() -> None:
    replaced = step("activation", 1.0, False, {}, {}).model_copy(update={"candidate": "pruned-only"})
    said = wording.pruning_gain(report(steps=[replaced]))
    assert said.startswith("Against quantization alone, pruning and cheaper activations leave p50 at 0.809×")
    assert " and change the accuracy drop by " in said
    other = replaced.model_copy(update={"candidate": "activations-quantized"})
    plain = wording.pruning_gain(report(steps=[other]))
    assert "cheaper" not in plain and " and changes the accuracy drop by " in plain


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        ("milliseconds", 0.0321, "32.1 µs"),
        ("milliseconds", 0.322, "0.322 ms"),
        ("milliseconds", 123.4, "123 ms"),
        ("milliseconds", 2500.0, "2.5 s"),
        ("size", 999, "999 B"),
        ("size", 251_000, "251 kB"),
        ("size", 1_094_000, "1.09 MB"),
        ("count", 40_800_000, "40.8 M"),
        ("count", 12, "12"),
        ("percent", 0.9172, "91.72 %"),
        ("points", 0.0066, "+0.66 points"),
        ("points", -0.002, "-0.20 points"),
        ("ratio", 0.4931, "0.493×"),
        ("ratio", 12.3, "12×"),
        ("seconds", 119.0, "119.0 s"),
        ("seconds", 488.2, "8 min"),
        ("millijoules", 61.23, "61.2 mJ"),
    ],
)
def test_quantities_in_words(write: str, value: float, text: str) -> None:
    assert getattr(wording, write)(value) == text
    assert getattr(wording, write)(None) == "not measured"


@pytest.mark.parametrize("width", [40, 80, 160])
def test_the_terminal_summary_fits_its_width(width: int) -> None:
    stream = io.StringIO()
    show(summary(report(notes=["[bold]not markup[/bold] " * 9])), Console(file=stream, width=width))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert text.startswith("verdict: met")
    flat = re.sub(r"\s+", "", text)
    assert "[bold]notmarkup[/bold]" in flat
    assert "pruned-quantized" in flat or width == 40


def test_the_terminal_tells_estimates_from_measurements_and_names_the_engine() -> None:
    told = report()
    stream = io.StringIO()
    show(summary(told), Console(file=stream, width=140))
    assert "estimated, not measured" not in stream.getvalue() and "engine:" not in stream.getvalue()
    one = told.candidates[0]
    guess = one.model_copy(update={"measurement": Measurement(source="estimated", latency_ms=Latency(p50=12.5))})
    engine = EngineRow(path="model.engine", builder="trtexec", version="8.5.2", compute_capabilities=("7.2",),
                       command=("trtexec",), seconds=12.5, precisions={"int8": 19, "fp32": 1})  # fmt: skip
    stream = io.StringIO()
    update = {"candidates": [guess, *told.candidates[1:]], "engine": engine}
    show(summary(told.model_copy(update=update)), Console(file=stream, width=140))
    text = " ".join(stream.getvalue().split())
    assert "~12.5 ms" in text and "~ estimated, not measured" in text
    assert (
        "engine: model.engine by trtexec 8.5.2 for compute capability 7.2, in 12.5 s; 0 kernels, 20 convolutions: "
        "19 int8, 1 fp32"
    ) in text


def test_the_terminal_says_what_could_not_be_checked() -> None:
    stream = io.StringIO()
    show(summary(empty()), Console(file=stream, width=100))
    assert "MACs: not measured, at most 1 k allowed (unchecked): not checked" in stream.getvalue()


def test_tables_and_long_lists_inside_of_facts_are_counted_and_not_spelled_out() -> None:
    asked = {"l1": {f"16-{width}": 0.5 for width in range(101)}}
    facts = {"history": [{"score": 0.25}] * 20, "asked": asked, "share": 0.5, "plans": ["16-8"] * 101, "lowered": ["a"]}
    noisy = step("sparsify", 1.0, False, {"floor": None}, facts)
    text = words(render(report(steps=[noisy])))
    assert ("floor: none history: 20 (in report.json), asked: l1: 101 (in report.json), share: 0.5, "
            "plans: 101 (in report.json), lowered: a") in text  # fmt: skip


def test_without_data_nothing_is_called_accuracy() -> None:
    result = report().result
    assert result is not None
    assert result.score is not None
    synthetic = result.score.model_copy(update={"split": "synthetic", "n": 64})
    text = words(render(report(result=result.model_copy(update={"score": synthetic}), budget=[])))
    assert "Outputs changed, no data" in text
    assert "Accuracy drop" not in text

"""The engine of a build on its page: what it is, how to build it again, and its kernels."""

from __future__ import annotations

import re
from typing import Any

from page_text import words
from reports import report

from edgeprune.compiler.page import render
from edgeprune.report import EngineRow, KernelRow


def engine(times: list[float | None], **more: Any) -> EngineRow:
    rows = [
        KernelRow(name=f"k{i}", kind="CaskConvolution", precision="int8", nodes=(f"conv{i}", f"relu{i}"), ms=ms)
        for i, ms in enumerate(times, 1)
    ]
    rows[0] = rows[0].model_copy(update={"precision": "", "nodes": ()})
    asked: dict[str, Any] = {
        "path": "model.engine", "builder": "trtexec", "version": "8.5.2", "compute_capabilities": ("7.2", "8.7"),
        "command": ("trtexec", "--onnx=a b.onnx"), "seconds": 12.5, "precisions": {"fp32": 1, "int8": 19},
        "memory_bytes": {"activation": 8_192_512},
    }  # fmt: skip
    return EngineRow(layers=rows, **(asked | more))


def test_an_engine_is_on_the_page_its_kernels_the_longest_first() -> None:
    text = words(render(report(engine=engine([0.5, 2.0, 1.5]))))
    for expected in (
        "builder trtexec, version 8.5.2 compute capabilities 7.2, 8.7 built in 12.5 s convolutions 19 int8, 1 fp32 "
        "memory activation 8.19 MB",
        "trtexec '--onnx=a b.onnx'",
        "3 kernels, the longest first; together they take 4 ms as profiled",
        "2 k2 CaskConvolution int8 2 ms 50.00 % conv2, relu2 3 k3 CaskConvolution int8 1.5 ms 37.50 %",
        "1 k1 CaskConvolution not told 0.5 ms 12.50 % –",
    ):
        assert expected in text, expected


def test_kernels_without_times_stay_in_order_and_get_no_time() -> None:
    page = render(report(engine=engine([None] * 3, memory_bytes={}, precisions={})))
    text = words(page)
    assert "convolutions precisions not told memory not told" in text
    assert "3 kernels, in the order they run. What each takes was not measured." in text
    assert "1 k1 CaskConvolution not told – 2 k2 CaskConvolution int8 conv2, relu2 3 k3" in text
    some = words(render(report(engine=engine([1.0, None]))))
    assert "2 kernels, in the order they run; not all of them were timed." in some
    assert "1 k1 CaskConvolution not told 1 ms – – 2 k2 CaskConvolution int8 not measured – conv2" in some
    assert "The builder does not tell its kernels." in words(render(report(engine=engine([1.0]).model_copy(
        update={"layers": []}))))  # fmt: skip
    assert "Engine" not in words(render(report()))


def test_a_long_table_of_kernels_is_folded() -> None:
    page = render(report(engine=engine([float(n) for n in range(1, 16)])))
    folded = page.split("<details><summary>3 more kernels</summary>")[1].split("</details>")[0]
    assert re.findall(r"<code>(k\d+)</code>", folded) == ["k3", "k2", "k1"]
    assert "more kernels" not in render(report(engine=engine([1.0] * 12)))

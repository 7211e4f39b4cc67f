"""Hold a graph against every rule of a board's dialect, and mend what can be mended."""

from __future__ import annotations

from pathlib import Path

import onnx

from edgeprune.dialects import form, operators, quantization
from edgeprune.dialects.base import Finding, Rule
from edgeprune.dialects.typing import precisions, weakened
from edgeprune.errors import BadModel
from edgeprune.profiles.board import Board, Precision

RULES: tuple[Rule, ...] = (*form.RULES, *operators.RULES, *quantization.RULES)
"""Every rule, in the order in which they mend: names first, as later rules point at nodes by them."""
_SHOWN = 5


def lint(proto: onnx.ModelProto, board: Board) -> list[Finding]:
    """Return every place where a graph breaks a rule that concerns ``board``."""
    return [finding for rule in RULES if rule.concerns(board) for finding in rule.find(proto, board)]


def spoken(path: Path, board: Board) -> tuple[bytes, tuple[Precision, ...]]:
    """Return an ONNX file as ``board`` is to be given it, and the precisions below fp32 that it asks for.

    Where the board's TensorRT knows weak typing alone, it is told precisions by flags and the graph goes in float32.
    Raises BadModel as ``conform`` does.
    """
    proto = onnx.load(path)
    asked = precisions(proto)
    if board.typing and "strong" not in board.typing:
        proto, asked = weakened(proto)
    conform(proto, board)
    return proto.SerializeToString(deterministic=True), asked


def conform(proto: onnx.ModelProto, board: Board) -> list[Finding]:
    """Mend a graph in place until it breaks no rule of ``board``; return what was found and is right now.

    Raises BadModel naming each rule that is still broken, and where.
    """
    found: list[Finding] = []
    for rule in RULES:
        if rule.concerns(board) and (broken := list(rule.find(proto, board))):
            found += broken
            rule.mend(proto, board)
    left = lint(proto, board)
    if left:
        more = f"; and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
        listed = "; ".join(map(str, left[:_SHOWN]))
        raise BadModel(f"{board.name} cannot take this graph: {listed}{more}")
    return found

"""edgeprune: a deployment compiler for convolutional networks.

The public names are loaded when they are first used, so that importing edgeprune imports neither torch nor onnx.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Agent": "agents.base",
    "BadBuild": "errors",
    "BadData": "errors",
    "BadInput": "errors",
    "BadModel": "errors",
    "BadOption": "errors",
    "Batch": "tasks.base",
    "Budget": "budget",
    "Context": "passes.base",
    "EdgepruneError": "errors",
    "Infeasible": "errors",
    "Lacking": "errors",
    "Limit": "budget",
    "MissingPackage": "errors",
    "ModelSpec": "model",
    "NoSpace": "errors",
    "OnnxModel": "model",
    "Pass": "passes.base",
    "Report": "report",
    "Request": "compiler.request",
    "Score": "report",
    "SplitInfo": "tasks.base",
    "Task": "tasks.base",
    "TorchModel": "model",
    "UnmetRequirement": "errors",
    "UnsafeModel": "errors",
    "compare": "compiler.comparison",
    "compile": "compiler.driver",
    "load": "compiler.load",
}

__all__ = [
    "Agent",
    "BadBuild",
    "BadData",
    "BadInput",
    "BadModel",
    "BadOption",
    "Batch",
    "Budget",
    "Context",
    "EdgepruneError",
    "Infeasible",
    "Lacking",
    "Limit",
    "MissingPackage",
    "ModelSpec",
    "NoSpace",
    "OnnxModel",
    "Pass",
    "Report",
    "Request",
    "Score",
    "SplitInfo",
    "Task",
    "TorchModel",
    "UnmetRequirement",
    "UnsafeModel",
    "__version__",
    "compare",
    "compile",
    "load",
]

if TYPE_CHECKING:
    from edgeprune.agents.base import Agent
    from edgeprune.budget import Budget, Limit
    from edgeprune.compiler.comparison import compare
    from edgeprune.compiler.driver import compile
    from edgeprune.compiler.load import load
    from edgeprune.compiler.request import Request
    from edgeprune.errors import (
        BadBuild,
        BadData,
        BadInput,
        BadModel,
        BadOption,
        EdgepruneError,
        Infeasible,
        Lacking,
        MissingPackage,
        NoSpace,
        UnmetRequirement,
        UnsafeModel,
    )
    from edgeprune.model import ModelSpec, OnnxModel, TorchModel
    from edgeprune.passes.base import Context, Pass
    from edgeprune.report import Report, Score
    from edgeprune.tasks.base import Batch, SplitInfo, Task


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edgeprune' has no attribute {name!r}")
    value = getattr(import_module(f"edgeprune.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

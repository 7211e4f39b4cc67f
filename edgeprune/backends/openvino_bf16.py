"""OpenVINO with bf16 for all that is not int8: on processors that multiply in it, nearly twice as fast as float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgeprune.backends.openvino import Openvino


@dataclass(frozen=True)
class OpenvinoBf16(Openvino):
    """The same file, its float layers computed in bf16; what that does to the score is scored."""

    name: ClassVar[str] = "openvino-bf16"
    floats: ClassVar[str] = "bf16"

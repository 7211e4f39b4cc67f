"""Complete the ``host-cpu`` board with what this machine's processor can do.

What cannot be found out is not claimed: an unknown processor loses fp16 and gets the careful 7-bit weights.
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import psutil

from edgeprune.profiles.board import Board

_CPUINFO = Path("/proc/cpuinfo")
_X86 = {"x86_64", "amd64", "i386", "i686"}
_INT8_DOT = {"avx_vnni", "avx512_vnni"}
_BF16 = {"avx512_bf16", "amx_bf16"}
_FP16 = {"avx512_fp16", "asimdhp"}
_SHOWN = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8",
          "asimd", "asimddp", "asimdhp", "i8mm", "sve")  # fmt: skip


def detect(board: Board) -> Board:
    """Return ``board`` with ``detected`` filled in and its precisions and int8 layout fitted to this machine.

    - ``int8.reduce_range`` is set on x86 without VNNI, whose 8-bit products saturate at 16 bits.
    - the runtimes keep OpenVINO on x86 alone, and its bf16 where that is native.
    - ``fp16`` leaves the precisions where there is no fp16 arithmetic: the runtime would compute in fp32 between casts.
    """
    cpuinfo = _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.is_file() else _darwin_cpuinfo()
    return fit(board, platform.machine().lower(), cpuinfo)


def has_bf16() -> bool:
    """Return whether this machine's processor multiplies in bf16: elsewhere it is emulated, and slow."""
    cpuinfo = _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.is_file() else ""
    return bool(set(_field(cpuinfo, "flags", "Features").split()) & _BF16)


def fit(board: Board, machine: str, cpuinfo: str) -> Board:
    """Do what ``detect`` does, from the architecture's name and the text of ``/proc/cpuinfo``: a pure function."""
    flags = set(_field(cpuinfo, "flags", "Features").split())
    fp16 = bool(flags & _FP16)
    saturates = machine in _X86 and not flags & _INT8_DOT
    detected = {
        "cpu": _field(cpuinfo, "model name", "Model") or platform.processor() or "unknown",
        "machine": machine,
        "cores": psutil.cpu_count(logical=False),
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "isa": [flag for flag in _SHOWN if flag in flags] if flags else None,
        "fp16": "native" if fp16 else "no native arithmetic, not used",
        "int8": "7-bit weights: 8-bit products saturate without VNNI" if saturates else "full range",
    }
    precisions = tuple(p for p in board.precisions if p != "fp16" or fp16)
    int8 = board.int8.model_copy(update={"reduce_range": saturates}) if board.int8 else None
    multiples = {p: n for p, n in board.channel_multiples.items() if p in precisions}
    bf16 = bool(flags & _BF16) and machine in _X86
    runtimes = tuple(one for one in board.runtimes if machine in _X86 and (bf16 or one != "openvino-bf16"))
    update = {"detected": detected, "precisions": precisions, "channel_multiples": multiples, "int8": int8,
              "runtimes": runtimes}  # fmt: skip
    return board.model_copy(update=update)


def _field(cpuinfo: str, *names: str) -> str:
    """Return the first value of a ``name : value`` line, trying the names in turn; empty when there is none."""
    for name in names:
        for line in cpuinfo.splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""


def _darwin_cpuinfo() -> str:
    """Say what macOS knows in the words of ``/proc/cpuinfo``; empty on other systems or when it cannot be asked."""
    facts = {"model name": "machdep.cpu.brand_string", "asimdhp": "hw.optional.arm.FEAT_FP16",
             "asimddp": "hw.optional.arm.FEAT_DotProd"}  # fmt: skip
    if platform.system() != "Darwin":
        return ""
    try:
        found = {name: _run("sysctl", "-n", key) for name, key in facts.items()}
    except (OSError, subprocess.SubprocessError):
        return ""
    flags = " ".join(name for name, value in found.items() if value == "1")
    return f"model name : {found['model name']}\nFeatures : {flags}\n"


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()

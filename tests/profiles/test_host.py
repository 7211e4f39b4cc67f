import pytest

from edgeprune.profiles import board, host

X86 = "processor : 0\nmodel name : A Desktop CPU\nflags : fpu sse2 avx2 avx512f {extra}\n"
ARM = "processor : 0\nFeatures : fp asimd {extra}\nModel : A Small Board\n"


@pytest.fixture
def host_cpu(monkeypatch: pytest.MonkeyPatch) -> board.Board:
    """The board as its file has it, before anything is detected."""
    monkeypatch.setattr(host, "detect", lambda found: found)
    return board.load("host-cpu")


def test_the_shipped_board_offers_everything(host_cpu):
    assert host_cpu.precisions == ("fp32", "fp16", "int8") and host_cpu.backend == "onnxruntime"
    assert host_cpu.channel_multiples == {"fp32": 16, "fp16": 16, "int8": 4}
    assert host_cpu.int8.activation == "uint8" and host_cpu.int8.per_channel and not host_cpu.int8.reduce_range


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "fp16", "reduce_range"),
    [
        ("x86_64", X86.format(extra=""), False, True),
        ("x86_64", X86.format(extra="avx512_vnni"), False, False),
        ("amd64", X86.format(extra="avx_vnni avx512_fp16"), True, False),
        ("aarch64", ARM.format(extra=""), False, False),
        ("aarch64", ARM.format(extra="asimdhp asimddp"), True, False),
        ("x86_64", "", False, True),
        ("riscv64", "", False, False),
    ],
)
def test_precisions_fit_the_processor(host_cpu, machine, cpuinfo, fp16, reduce_range):
    found = host.fit(host_cpu, machine, cpuinfo)
    assert ("fp16" in found.precisions) is fp16 and ("fp16" in found.channel_multiples) is fp16
    assert found.detected["fp16"] == ("native" if fp16 else "no native arithmetic, not used")
    assert found.int8.reduce_range is reduce_range
    assert found.precisions[0] == "fp32" and found.precisions[-1] == "int8"


def test_what_was_found_is_named(host_cpu):
    found = host.fit(host_cpu, "x86_64", X86.format(extra="avx512_vnni")).detected
    assert found["cpu"] == "A Desktop CPU" and found["isa"] == ["avx2", "avx512f", "avx512_vnni"]
    assert host.fit(host_cpu, "aarch64", ARM.format(extra="")).detected["cpu"] == "A Small Board"
    assert host.fit(host_cpu, "x86_64", "").detected["isa"] is None, "unknown is not the same as none"


def test_this_machine_is_detected():
    found = board.load("host-cpu").detected
    assert found["memory_bytes"] > 0 and found["threads"] >= 1 and found["cpu"]


def test_a_system_without_cpuinfo_claims_nothing(host_cpu, monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setattr(host, "_CPUINFO", tmp_path / "absent")
    monkeypatch.setattr(host.platform, "system", lambda: "Plan 9")
    assert host.detect(host_cpu).precisions == ("fp32", "int8")


def test_macos_is_asked_in_its_own_way(host_cpu, monkeypatch, tmp_path):
    monkeypatch.undo()
    answers = {
        "machdep.cpu.brand_string": "Apple M9", "hw.optional.arm.FEAT_FP16": "1", "hw.optional.arm.FEAT_DotProd": "0",
    }  # fmt: skip
    monkeypatch.setattr(host, "_CPUINFO", tmp_path / "absent")
    monkeypatch.setattr(host.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(host.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(host, "_run", lambda *command: answers[command[-1]])
    found = host.detect(host_cpu)
    assert found.detected["cpu"] == "Apple M9" and found.detected["isa"] == ["asimdhp"]
    assert "fp16" in found.precisions and not found.int8.reduce_range

"""The split-free twins compute what the layers they stand for compute, in training too, and can be traced and cut."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgeprune.frontends.split_free import C2PSA, Attention, C2f, Detect, PSABlock, c2, halves
from edgeprune.frontends.yolov5_layers import Bottleneck, Conv
from edgeprune.groups import plan_of
from edgeprune.model import ModelSpec, TorchModel
from edgeprune.passes.export import to_proto
from edgeprune.surgery import apply
from edgeprune.tracing import trace


def conv(inputs: int, outputs: int, kernel: int = 1, groups: int = 1, act: bool = True) -> Conv:
    """Return a convolution whose norm has seen data: every number in it is drawn."""
    inner = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs, 1e-3, 0.03)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert tensor is not None
        nn.init.uniform_(tensor, 0.5, 1.5)
    return Conv(inner, norm, nn.SiLU() if act else nn.Identity())


def bottleneck(width: int) -> Bottleneck:
    return Bottleneck(conv(width, width, 3), conv(width, width, 3), add=True)


class Chunked(nn.Module):
    """A layer of the family as its authors describe it: one convolution, whose output is taken apart.

    ``both`` puts the blocks' outputs beside both halves (C2f), else the blocks replace the half numbered ``half``.
    """

    def __init__(self, cv1: Conv, m: Sequence[nn.Module], cv2: Conv, half: int = 1, both: bool = False) -> None:
        super().__init__()
        self.cv1, self.m, self.cv2, self.half, self.both = cv1, nn.ModuleList(m), cv2, half, both

    def forward(self, x: Tensor) -> Tensor:
        maps = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            if self.both:
                maps.append(block(maps[-1]))
            else:
                maps[self.half] = block(maps[self.half])
        result: Tensor = self.cv2(torch.cat(maps, 1))
        return result


class SplitAttention(nn.Module):
    """Attention as its authors describe it: q, k and v from one convolution, head after head."""

    def __init__(self, qkv: Conv, proj: Conv, pe: Conv, heads: int, key: int) -> None:
        super().__init__()
        self.qkv, self.proj, self.pe, self.heads, self.key = qkv, proj, pe, heads, key

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        value = channels // self.heads
        parts = self.qkv(x).view(n, self.heads, 2 * self.key + value, height * width)
        q, k, v = parts.split([self.key, self.key, value], 2)
        weights = torch.einsum("nhcq,nhck->nhqk", q, k).div(self.key**0.5).softmax(-1)
        mixed = torch.einsum("nhck,nhqk->nhcq", v, weights).reshape(n, channels, height, width)
        result: Tensor = self.proj(mixed + self.pe(v.reshape(n, channels, height, width)))
        return result


def attention_pair() -> tuple[nn.Module, nn.Module]:
    layers = conv(8, 16, act=False), conv(8, 8, act=False), conv(8, 8, 3, groups=8, act=False)
    return SplitAttention(*copy.deepcopy(layers), heads=2, key=2), Attention.whole(*layers, heads=2, key_size=2)


def c2f_pair() -> tuple[nn.Module, nn.Module]:
    cv1, m, cv2 = conv(6, 8), [bottleneck(4), bottleneck(4)], conv(16, 6)
    return copy.deepcopy(Chunked(cv1, m, cv2, both=True)), C2f.whole(cv1, m, cv2)


def c2_pair() -> tuple[nn.Module, nn.Module]:
    cv1, m, cv2 = conv(6, 8), [bottleneck(4), bottleneck(4)], conv(8, 6)
    return copy.deepcopy(Chunked(cv1, m, cv2, half=0)), c2(cv1, nn.Sequential(*m), cv2)


def psa_block(attn: nn.Module, add: bool) -> PSABlock:
    generator = torch.Generator().manual_seed(3)
    block = PSABlock(attn, nn.Sequential(conv(8, 16), conv(16, 8, act=False)), add)  # type: ignore[arg-type]
    for parameter in block.ffn.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5, generator=generator)
    for part in block.ffn.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
    return block


def c2psa_pair(add: bool = True) -> tuple[nn.Module, nn.Module]:
    cv1, cv2 = conv(6, 16), conv(16, 6)
    whole, parts = attention_pair()
    original = Chunked(*copy.deepcopy((cv1, [psa_block(whole, add)], cv2)))
    return original, C2PSA.whole(cv1, nn.Sequential(psa_block(parts, add)), cv2)


PAIRS = {"C2f": c2f_pair, "C2": c2_pair, "attention": attention_pair, "C2PSA": c2psa_pair,
         "C2PSA without skips": lambda: c2psa_pair(add=False)}  # fmt: skip


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_a_twin_computes_what_the_original_computes(pair: Callable[[], tuple[nn.Module, nn.Module]]) -> None:
    original, twin = pair()
    x = torch.randn(3, next(original.parameters()).shape[1], 5, 4)
    with torch.no_grad():
        assert original.eval()(x).std() > 0.1
        assert (original.eval()(x) - twin.eval()(x)).abs().max() <= 1e-5
        assert (original.train()(x) - twin.train()(x)).abs().max() <= 1e-5
        # The running statistics have moved alike.
        assert (original.eval()(x) - twin.eval()(x)).abs().max() <= 1e-5
    assert sum(p.numel() for p in original.parameters()) == sum(p.numel() for p in twin.parameters())


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_a_twin_learns_as_the_original_does(pair: Callable[[], tuple[nn.Module, nn.Module]]) -> None:
    original, twin = pair()
    x = torch.randn(3, next(original.parameters()).shape[1], 5, 4)
    slopes = []
    for layer in (original.train(), twin.train()):
        given = x.clone().requires_grad_(True)
        (layer(given) ** 2).sum().backward()
        assert given.grad is not None
        slopes.append(given.grad)
    assert (slopes[0] - slopes[1]).abs().max() <= 1e-4 * slopes[0].abs().max()


@pytest.mark.parametrize("add", [True, False])
def test_skips_go_around_attention_and_around_what_follows(add: bool) -> None:
    block = psa_block(attention_pair()[1], add).eval()
    x = torch.randn(1, 8, 3, 4)
    with torch.no_grad():
        middle = block.attn(x) + (x if add else 0)
        assert torch.equal(block(x), block.ffn(middle) + (middle if add else 0))


def test_halves_share_nothing_with_the_whole() -> None:
    whole = conv(3, 4)
    first, second = halves(whole)
    assert torch.equal(torch.cat((first.conv.weight, second.conv.weight)), whole.conv.weight)
    assert (first.conv.out_channels, second.bn.num_features) == (2, 2)
    with torch.no_grad():
        whole.conv.weight.zero_()
    assert first.conv.weight.abs().min() > 0
    assert {type(t) for t in first.state_dict().values()} == {Tensor}
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in first.parameters())


def test_what_has_no_halves_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a convolution of 3 rows that is split in two$"):
        halves(conv(3, 3))
    with pytest.raises(ValueError, match=r"^a grouped convolution that is split$"):
        halves(conv(4, 4, groups=2))
    with pytest.raises(ValueError, match=r"^attention of 3 heads with 16 rows$"):
        Attention.whole(conv(8, 16), conv(8, 8), conv(8, 8, 3, groups=8), heads=3, key_size=2)
    with pytest.raises(ValueError, match=r"^attention of 2 heads with 16 rows$"):
        Attention.whole(conv(8, 16), conv(8, 8), conv(8, 8, 3, groups=8), heads=2, key_size=4)


def detect(classes: int = 3, bins: int = 4) -> Detect:
    def stacks(rows: int) -> list[nn.Sequential]:
        return [nn.Sequential(conv(6, 8, 3), nn.Conv2d(8, rows, 1)), nn.Sequential(conv(5, 8), nn.Conv2d(8, rows, 1))]

    return Detect(stacks(4 * bins), stacks(classes))


def test_the_head_lays_levels_side_by_side_and_classes_below_boxes() -> None:
    head = detect().eval()
    levels = torch.randn(2, 6, 4, 3), torch.randn(2, 5, 2, 1)
    with torch.no_grad():
        raw = head(*levels)
        assert raw.shape == (2, 16 + 3, 12 + 2)
        assert torch.equal(raw[1, :16, 3 * 2 + 1], head.cv2[0](levels[0])[1, :, 2, 1])
        assert torch.equal(raw[1, 16:, 3 * 2 + 1], head.cv3[0](levels[0])[1, :, 2, 1])
        assert torch.equal(raw[0, 16:, 12 + 1], head.cv3[1](levels[1])[0, :, 1, 0])


def test_other_classes_keep_what_is_known() -> None:
    head = detect().eval()
    levels = torch.randn(1, 6, 4, 3), torch.randn(1, 5, 2, 1)
    with torch.no_grad():
        before, state = head(*levels), torch.get_rng_state()
        head.classify([2, None, 0, 1], torch.Generator().manual_seed(1))
        assert torch.equal(torch.get_rng_state(), state)
        after = head(*levels)
    assert after.shape == (1, 16 + 4, 14)
    assert torch.equal(after[:, :16], before[:, :16])
    assert torch.allclose(after[:, [16, 18, 19]], before[:, [18, 16, 17]], atol=1e-6)
    rare = after[:, 17].sigmoid()
    assert rare.min() > 0.001 and rare.max() < 0.05  # a new class is expected in one place of a hundred
    assert all(parameter.requires_grad for parameter in head.parameters())


class Net(nn.Module):
    """All twins in a row, and a convolution that fixes the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 3)
        self.c2f = C2f.whole(conv(16, 32), [bottleneck(16)], conv(48, 16))
        attention = Attention.whole(conv(16, 32, act=False), conv(16, 16, act=False),
                                    conv(16, 16, 3, groups=16, act=False), heads=2, key_size=4)  # fmt: skip
        block = PSABlock(attention, nn.Sequential(conv(16, 32), conv(32, 16, act=False)), add=True)
        self.c2psa = C2PSA.whole(conv(16, 32), nn.Sequential(block), conv(32, 16))
        self.last = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.c2psa(self.c2f(self.stem(x))))
        return result


def test_twins_are_traced_and_cut_and_attention_stays_whole() -> None:
    x = torch.randn(1, 3, 6, 6)
    model = TorchModel(Net().eval(), ModelSpec((1, 3, 6, 6), (0,) * 3, (1,) * 3), (x,))
    cost = trace(model, (4,))
    locked = {group.name: group.locked for group in cost.groups if group.locked}
    assert set(locked) == {"c2psa.m.0.attn.v.conv", "last"}
    attention = next(g for g in cost.groups if g.name == "c2psa.m.0.attn.v.conv")
    names = {member.module.removeprefix("c2psa.m.0.attn.") for member in attention.members}
    assert {"q.conv", "k.conv", "v.conv", "pe.conv"} <= names and "stem.conv" not in names
    least = [group.ladder[-1] for group in cost.groups]
    assert cost.cost(least)["macs"] < 0.2 * cost.full["macs"]
    scores = {group.name: torch.rand(group.channels).double().numpy() for group in cost.groups}
    smaller = apply(model, cost.groups, plan_of(cost.groups, least, scores))
    smaller.verify()
    found = trace(smaller, (4,)).full
    assert found == cost.cost(least)


def test_twins_can_be_exported() -> None:
    x = torch.randn(1, 3, 6, 6)
    model = TorchModel(Net().eval(), ModelSpec((1, 3, 6, 6), (0,) * 3, (1,) * 3), (x,))
    session = onnxruntime.InferenceSession(to_proto(model, 18).SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    with torch.no_grad():
        assert np.abs(found - model.module(x).numpy()).max() < 1e-4

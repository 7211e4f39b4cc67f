"""Images that look alike are one scene, by chains; what a fixed camera saw is told apart by more than background."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.errors import BadData
from edgeprune.tasks.boxes import scenes as module
from edgeprune.tasks.boxes.scenes import scenes

RNG = np.random.default_rng(0)


def places(count: int) -> list[np.ndarray]:
    """Return smooth pictures (12, 40) that have nothing to do with each other."""
    return [RNG.normal(128, 50, (12, 40)) for _ in range(count)]


def write(folder: Path, pictures: list[np.ndarray], suffix: str = ".png") -> list[Path]:
    files = []
    for i, picture in enumerate(pictures):
        large = Image.fromarray(picture.clip(0, 255).astype(np.uint8)).resize((400, 120), Image.Resampling.NEAREST)
        large.convert("RGB").save(folder / f"{i}{suffix}")
        files.append(folder / f"{i}{suffix}")
    return files


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_frames_of_one_place_are_one_scene(tmp_path: Path, suffix: str) -> None:
    frames = [place + RNG.normal(0, 12, place.shape) for place in places(8) for _ in range(3)]
    found = scenes(write(tmp_path, frames, suffix))
    assert [found.index(name) // 3 for name in found] == [i // 3 for i in range(24)] and len(set(found)) == 8


def test_a_chain_of_likenesses_joins_its_ends(tmp_path: Path) -> None:
    first, last, *others = places(12)
    chain = [first * (1 - t) + last * t for t in np.linspace(0, 1, 7)]
    found = scenes(write(tmp_path, [*chain, *others, *places(20)]))
    assert len(set(found[:7])) == 1 and len(set(found[7:])) == 30


def test_a_fixed_camera_asks_for_more_likeness(tmp_path: Path) -> None:
    background = places(1)[0]
    groups = [background + 0.3 * place for place in places(6) for _ in range(2)]
    found = scenes(write(tmp_path, [g + RNG.normal(0, 2, g.shape) for g in groups]))
    assert len(set(found)) == 6 and all(found[i] == found[i + 1] for i in range(0, 12, 2))


def test_blank_images_are_alone_and_many_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write(tmp_path, [np.full((12, 40), 9.0), np.full((12, 40), 9.0), *places(2)])
    assert len(set(scenes(files))) == 4
    monkeypatch.setattr(module, "MOST", 3)
    assert scenes([tmp_path / "none.png"] * 4) == ("scene 0", "scene 1", "scene 2", "scene 3")


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff no image")
    with pytest.raises(BadData, match=r"bad\.jpg cannot be decoded as an image; replace or remove it$"):
        scenes([tmp_path / "bad.jpg"])

import numpy as np
import pytest
from PIL import Image, ImageOps

from edgeprune.errors import BadData, MissingPackage
from edgeprune.tasks.boxes.letterbox import letterbox
from edgeprune.tasks.boxes.upright import ORIENTATION, sizes, upright
from edgeprune.tasks.images import open_image


def saved(file, orientation):
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(file, exif=exif)
    return file


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_once_and_sizes_agree(tmp_path, suffix, orientation):
    file = saved(tmp_path / f"a.{suffix}", orientation)
    with Image.open(file) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    turned = upright(open_image(file, 3))
    np.testing.assert_array_equal(np.asarray(turned), np.asarray(expected))
    assert sizes([file]) == (turned.size,) == ((40, 24) if orientation < 5 else (24, 40),)
    pixels, place = letterbox(open_image(file, 3), turned.height, turned.width)
    np.testing.assert_array_equal(pixels, np.asarray(expected).transpose(2, 0, 1))
    assert (place.width, place.height) == turned.size


@pytest.mark.parametrize("exif", [b"Exif\0\0rubbish", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", b"MM\0*"])
def test_damaged_exif_turns_nothing(tmp_path, exif):
    Image.new("RGB", (40, 24)).save(tmp_path / "a.jpg", exif=exif)
    assert sizes([tmp_path / "a.jpg"]) == ((40, 24),)
    assert upright(open_image(tmp_path / "a.jpg", 3)).size == (40, 24)


@pytest.mark.parametrize("orientation", [0, 9, 4096])
def test_an_unknown_orientation_turns_nothing(tmp_path, orientation):
    file = saved(tmp_path / "a.jpg", orientation)
    assert sizes([file]) == ((40, 24),) and upright(open_image(file, 3)).size == (40, 24)


def test_sizes_need_headers_only(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    assert sizes([tmp_path / "cut.png"]) == ((70, 90),)
    with pytest.raises(BadData, match=r"cut\.png cannot be decoded as an image; replace or remove it"):
        open_image(tmp_path / "cut.png", 3)


def test_without_pillow_the_install_line_is_given(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(MissingPackage, match="Reading and resizing images needs Pillow; install it with: pip install"):
        sizes([tmp_path / "a.png"])

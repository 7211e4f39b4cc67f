import struct
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from edgeprune.errors import BadData, BadOption, MissingPackage
from edgeprune.tasks import images
from edgeprune.tasks.images import DecodedImages, Resize, StackedImages, open_image

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [(40, 30), (31, 57), (24, 24), (23, 100), (500, 20)])
@pytest.mark.parametrize("filter_", ["bilinear", "bicubic"])
@pytest.mark.parametrize("fraction", [0.875, 0.95, 1.0])
def test_the_crop_equals_torchvisions(size, filter_, fraction):
    image = Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), np.uint8))
    resize = v2.Resize(int(21 / fraction), v2.InterpolationMode[filter_.upper()])
    theirs = v2.CenterCrop(21)(resize(image))
    ours = Resize.parse(f"crop {fraction} {filter_}").apply(image, 21, 21, "image")
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize(("size", "scaled"), [(224, 232), (224, 238), (380, 384), (299, 342), (240, 256)])
def test_a_fraction_written_out_gives_its_whole_number_back(size, scaled):
    image = Image.fromarray(RNG.integers(0, 256, (scaled, scaled, 3), np.uint8))
    ours = Resize.parse(f"crop {size / scaled:.9g} bilinear").apply(image, size, size, "image")
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(v2.CenterCrop(size)(image)))


def test_squash_equals_torchvisions():
    image = Image.fromarray(RNG.integers(0, 256, (30, 47, 3), np.uint8))
    ours = Resize.parse("squash bilinear").apply(image, 16, 20, "image")
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(v2.Resize((16, 20))(image)))


@pytest.mark.parametrize("text", ["", "crop", "crop 0 bicubic", "crop 0.0 bicubic", "crop 1.5 bicubic", "squash box"])
def test_a_resize_that_is_not_understood(text):
    with pytest.raises(BadOption, match="is not understood; give 'none', 'squash bilinear' or 'crop"):
        Resize.parse(text)


def test_without_resize_the_size_must_fit():
    with pytest.raises(BadData) as caught:
        Resize("none").apply(Image.new("RGB", (4, 3)), 3, 3, "a.png")
    assert str(caught.value) == (
        "a.png is 3x4 but the model takes 3x3; choose how to fit it with --set task.resize='crop 0.875 bicubic' or "
        "'squash bilinear'"
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_colour_mode_becomes_what_the_model_takes(tmp_path, mode):
    file = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(file)
    assert np.asarray(open_image(file, 3)).shape == (4, 5, 3)
    assert np.asarray(open_image(file, 1)).shape == (4, 5)
    assert np.asarray(open_image(file, 1)).min() > 240


def test_palette_transparency_is_no_warning(tmp_path):
    image = Image.new("P", (4, 4))
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "a.png", transparency=b"\x00\xff")
    assert open_image(tmp_path / "a.png", 3).mode == "RGB"


def test_files_opened_at_once_leave_the_warning_filters_as_they_were(tmp_path, monkeypatch):
    """Both read the header before either goes on, unless one waits: only then do the filters come back."""
    met, usual, together = threading.Barrier(2), Image.open, []

    def opening(path):
        with suppress(threading.BrokenBarrierError):
            together.append(met.wait(0.2))
        return usual(path)

    Image.new("RGB", (5, 4)).save(tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "open", opening)
    before = list(warnings.filters)
    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda _: open_image(tmp_path / "a.jpg", 3), range(2)))
    assert not together and warnings.filters == before


def test_damaged_tags_of_a_tiff_are_no_warning(tmp_path):
    """They are read again on decoding: an orientation of many numbers, where one is right."""
    exif = Image.Exif()
    exif[0x0112] = 1
    Image.new("RGB", (5, 4)).save(tmp_path / "a.tif", exif=exif)
    one, many = (struct.pack("<HHI", 0x0112, 3, count) for count in (1, 20))
    content = (tmp_path / "a.tif").read_bytes()
    assert content.count(one) == 1
    (tmp_path / "a.tif").write_bytes(content.replace(one, many))
    with pytest.warns(UserWarning, match="too many entries"), Image.open(tmp_path / "a.tif") as image:
        image.load()
    assert open_image(tmp_path / "a.tif", 3).size == (5, 4)


def test_deep_images_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(BadData, match=r"a\.png has more than 8 bits a channel; convert it to an 8-bit image"):
        open_image(tmp_path / "a.png", 3)


@pytest.mark.parametrize("keep", [0, 3, 20, 60])
def test_damaged_images_are_named(tmp_path, keep):
    Image.fromarray(RNG.integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / "whole.png")
    file = tmp_path / "broken.png"
    file.write_bytes((tmp_path / "whole.png").read_bytes()[:keep])
    with pytest.raises(BadData) as caught:
        open_image(file, 3)
    assert str(caught.value) == f"{file} cannot be decoded as an image; replace or remove it"


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadData, match=r"a\.png cannot be decoded as an image; replace or remove it"):
        open_image(tmp_path / "a.png", 3)


def test_without_pillow_the_install_line_is_given(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(MissingPackage) as caught:
        open_image(tmp_path / "a.png", 3)
    assert str(caught.value) == (
        "Reading and resizing images needs Pillow; install it with: pip install 'edgeprune[vision]'"
    )


def test_stacked_images_are_channels_first_copies():
    pixels = RNG.integers(0, 256, (4, 3, 2, 3), np.uint8)
    stack = StackedImages(pixels)
    first = stack.read(np.array([2, 0]))
    np.testing.assert_array_equal(first, pixels[[2, 0]].transpose(0, 3, 1, 2))
    first[:] = 0
    np.testing.assert_array_equal(stack.read(np.array([2])), pixels[[2]].transpose(0, 3, 1, 2))


def test_the_cache_is_bounded_and_changes_nothing(tmp_path, monkeypatch):
    files = []
    for number in range(5):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(RNG.integers(0, 256, (8, 8, 3), np.uint8)).save(files[-1])
    opened = []
    monkeypatch.setattr(images, "open_image", lambda path, channels: opened.append(path) or open_image(path, channels))
    room_for_three = DecodedImages(tuple(files), (3, 8, 8), Resize("none"), cache_bytes=3 * 8 * 8 * 3)
    everything = np.arange(5)
    first, second = room_for_three.read(everything), room_for_three.read(everything)
    np.testing.assert_array_equal(first, second)
    assert opened == [*files, *files[3:]]


def test_arrays_are_resized_like_files(tmp_path):
    pixels = RNG.integers(0, 256, (1, 30, 40, 3), np.uint8)
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    resize, zero = Resize.parse("crop 0.875 bicubic"), np.array([0])
    from_file = DecodedImages((tmp_path / "a.png",), (3, 16, 16), resize).read(zero)
    np.testing.assert_array_equal(DecodedImages(pixels, (3, 16, 16), resize).read(zero), from_file)

import io
import pickle
import zipfile

import numpy as np
import pytest
import toy_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeprune.errors import BadData
from edgeprune.tasks import npz


def with_header(path, shape, dtype="|u1", body=b"", compression=zipfile.ZIP_STORED):
    """An archive whose array ``x`` claims a shape, whatever lies behind it."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x.npy", file.getvalue() + body)
    return path


def test_arrays_come_back_whole_under_every_compression(tmp_path):
    x = np.arange(12, dtype=np.int16).reshape(3, 4)
    file = io.BytesIO()
    np.save(file, x)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "d.npz", "w", method) as archive:
            archive.writestr("x.npy", file.getvalue())
        np.testing.assert_array_equal(npz.load(tmp_path / "d.npz", ["x"])["x"], x)


def test_python_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "executed").touch, ()

    pickle.loads(pickle.dumps(Trap()))  # noqa: S301  (shows that the trap works)
    (tmp_path / "executed").unlink()
    np.savez(tmp_path / "d.npz", x=np.array([Trap()], dtype=object))
    with pytest.raises(BadData) as caught:
        npz.load(tmp_path / "d.npz", ["x"])
    assert str(caught.value) == (
        f"x of {tmp_path / 'd.npz'} holds Python objects, which are never loaded; save it as an integer array"
    )
    assert not (tmp_path / "executed").exists()


def test_a_header_that_claims_more_than_is_stored(tmp_path):
    path = with_header(tmp_path / "d.npz", (100_000, 1000, 1000), body=b"\0" * 10)
    with pytest.raises(BadData) as caught:
        npz.load(path, ["x"])
    assert str(caught.value) == (
        f"{path} is damaged (x claims shape 100000x1000x1000 of uint8, which is not what the archive stores); "
        f"write it anew with numpy.savez"
    )


def test_an_array_larger_than_memory_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = with_header(tmp_path / "d.npz", (10_000_000,), body=b"\0" * 10_000_000, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(npz.psutil, "virtual_memory", lambda: type("M", (), {"available": 15_000_000}))
    monkeypatch.setattr(np, "load", lambda *a, **k: pytest.fail("unpacked"))
    with pytest.raises(BadData, match="claims 10 MB of arrays but only 15 MB of memory are free; give an image folder"):
        npz.load(path, ["x"])


@pytest.mark.parametrize("shape", [(-1, 4), (2**40, 2**40)])
def test_impossible_shapes(tmp_path, shape):
    with pytest.raises(BadData, match="is damaged"):
        npz.load(with_header(tmp_path / "d.npz", shape), ["x"])


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "d.npz").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(BadData) as caught:
        npz.keys(tmp_path / "d.npz")
    assert str(caught.value) == (
        f"{tmp_path / 'd.npz'} is not a readable .npz file (File is not a zip file); write it with numpy.savez"
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.text("()[]{}'\"\\,:LO0-9 shape|u1descrTrue\n\0", max_size=60))
def test_any_text_may_stand_in_a_header(tmp_path, header):
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2), {header}\n".encode()
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"1234")
    try:
        assert npz.load(tmp_path / "d.npz", ["x"])["x"].nbytes == 4
    except BadData as error:
        assert str(error).startswith(f"{tmp_path / 'd.npz'} is damaged (")


WHOLE = io.BytesIO()
np.savez_compressed(WHOLE, **toy_data.arrays(per_class=2))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_is_bad_data_or_harmless(tmp_path, data):
    content = bytearray(WHOLE.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "d.npz"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        npz.load(path, ["x_train", "y_train"])
    except BadData as error:
        assert str(path) in str(error)

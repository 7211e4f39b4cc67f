from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import struct
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.compiler import cache
from edgeprune.compiler.cache import Journal, Store, finish, finished, key, require_writable
from edgeprune.errors import BadOption, NoSpace


def test_the_root_is_the_environments_or_the_platforms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path))
    assert cache.root() == tmp_path
    monkeypatch.delenv("EDGEPRUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert cache.root().name == "edgeprune"


def test_keys_tell_parts_order_and_types_apart() -> None:
    given_ = [("a", "b"), ("b", "a"), ("ab",), ("a", "b", None), (1,), ("1",), (1.5,), ({"a": 1},), ({"a": 2},), ([1],)]
    assert len({key(*parts) for parts in given_}) == len(given_)
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})


def test_versions_name_python_and_the_runtimes() -> None:
    assert {"python", "torch", "onnxruntime", "numpy"} <= set(cache.versions())


def test_the_source_digest_covers_every_file_of_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "edgeprune" / "compiler" / "cache.py"
    fake.parent.mkdir(parents=True)
    fake.write_text("")
    monkeypatch.setattr(cache, "__file__", str(fake))
    seen = set()
    for name, content in (("a.py", "1"), ("a.py", "2"), ("b.toml", "1"), ("c.html", "1"), ("b.toml", "3")):
        (tmp_path / "edgeprune" / name).write_text(content)
        seen.add(cache.source_digest.__wrapped__())
    assert len(seen) == 5


# --- a user's code ----------------------------------------------------------------------------------------------------


def _module(path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> object:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("a_users_module", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setitem(sys.modules, "a_users_module", module)
    spec.loader.exec_module(module)
    return module.Mine()


def test_a_users_code_is_known_by_its_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = cache.code_digest([_module(tmp_path / "m.py", "class Mine: a = 1", monkeypatch)])
    same = cache.code_digest([_module(tmp_path / "m.py", "class Mine: a = 1", monkeypatch)])
    other = cache.code_digest([_module(tmp_path / "m.py", "class Mine: a = 2", monkeypatch)])
    assert first == same != other
    assert set(first) == {"a_users_module"}


def test_code_that_cannot_be_read_is_never_the_same_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = _module(tmp_path / "m.py", "class Mine: a = 1", monkeypatch)
    (tmp_path / "m.py").unlink()
    assert cache.code_digest([mine]) != cache.code_digest([mine])


def test_what_has_a_version_is_not_read_again() -> None:
    from torch import nn

    assert cache.code_digest([nn.Conv2d(1, 1, 1), 3, None, "text", Journal]) == {}


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_finished_folder_gives_its_record_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12")
    finish(tmp_path, ["a"], {"facts": {"x": 0.1}})
    record = finished(tmp_path)
    assert record is not None
    assert (record["facts"], record["files"]) == ({"x": 0.1}, {"a": 2})


@pytest.mark.parametrize(
    "damage", ["no record", "no file", "short file", "torn record", "null", "[]", '{"files": 3}', "{}"]
)
def test_a_folder_that_is_not_whole_never_counts(tmp_path: Path, damage: str) -> None:
    (tmp_path / "a").write_bytes(b"12")
    finish(tmp_path, ["a"], {})
    record = tmp_path / "done.json"
    match damage:
        case "no record":
            record.unlink()
        case "no file":
            (tmp_path / "a").unlink()
        case "short file":
            (tmp_path / "a").write_bytes(b"1")
        case "torn record":
            record.write_bytes(record.read_bytes()[:-5])
        case _:
            record.write_text(damage)
    assert finished(tmp_path) is None


def _hold(folder: Path, log: Path, rounds: int) -> None:
    """Append a begin and an end around work on one key."""
    for _ in range(rounds):
        with Store(folder).open("ab" + "0" * 62) as place:
            count = place / "count"
            seen = int(count.read_text()) if count.exists() else 0
            with log.open("a") as file:
                file.write("begin\n")
            count.write_text(str(seen + 1))
            with log.open("a") as file:
                file.write("end\n")


def test_two_processes_take_turns_with_one_key(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_hold, args=(tmp_path / "store", log, 40)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    assert log.read_text().split() == ["begin", "end"] * 80
    assert (tmp_path / "store" / "ab" / ("0" * 62) / "count").read_text() == "80"


def test_a_cache_that_is_a_file_is_answered(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    sentence = "a part of this path is a file; free some space or choose another folder .*EDGEPRUNE_CACHE for the cache"
    with pytest.raises(NoSpace, match=sentence), Store(tmp_path / "cache").open("a" * 64):
        pass


# --- journals ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.text(max_size=8), st.floats(allow_nan=False, allow_infinity=False))))
def test_floats_and_names_survive_exactly(entries: list[tuple[str, float]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "j.jsonl"
        journal = Journal(path)
        for name, value in entries:
            journal[name] = value
        again = Journal(path)
        assert list(again.items()) == list(journal.items()) == list(dict(entries).items())
        assert all(struct.pack("d", again[k]) == struct.pack("d", v) for k, v in dict(entries).items())


@pytest.mark.parametrize("cut", range(1, 14))
def test_a_torn_last_line_is_dropped_and_written_anew(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal["a"], journal["bcd"] = 0.1, 0.25
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    again = Journal(path)
    assert dict(again) == {"a": 0.1}
    again["bcd"] = 0.25
    assert path.read_bytes() == whole


def test_an_empty_or_wholly_torn_journal_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    for content in (b"", b'["a", 0.'):
        path.write_bytes(content)
        assert len(Journal(path)) == 0
        assert path.read_bytes() == b""


def test_opening_a_whole_journal_does_not_touch_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Journal(tmp_path / "j")["a"] = 1.0
    monkeypatch.setattr(os, "truncate", lambda *_: pytest.fail("another process may be writing"))
    assert Journal(tmp_path / "j")["a"] == 1.0


def test_a_score_is_on_the_disk_before_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "j")
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append((tmp_path / "j").read_bytes()))
    journal["a"] = 0.5
    assert synced == [b'["a", 0.5]\n']


def test_a_journal_only_grows(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal["a"] = 1.0
    with pytest.raises(TypeError, match="a journal only grows"):
        del journal["a"]
    assert list(journal) == ["a"]


# --- a place to write -------------------------------------------------------------------------------------------------


def test_looking_whether_one_may_write_leaves_nothing(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b")
    require_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_answered(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("mine")
    with pytest.raises(BadOption, match="f is a file, not a folder; choose another --out"):
        require_writable(tmp_path / "f")
    with pytest.raises(NoSpace, match="a part of this path is a file"):
        require_writable(tmp_path / "f" / "out")
    assert (tmp_path / "f").read_text() == "mine"


def test_a_record_is_plain_json(tmp_path: Path) -> None:
    finish(tmp_path, [], {"a": 1})
    assert json.loads((tmp_path / "done.json").read_text()) == {"a": 1, "files": {}}


def test_what_a_users_file_imports_counts_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A score computed by a helper is another score once the helper is."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_package").mkdir()

    def digest(helper: str, deeper: str) -> dict[str, str]:
        (tmp_path / "a_helper.py").write_text(f"import a_package.deep\n{helper}")
        (tmp_path / "a_package" / "deep.py").write_text(deeper)
        for name in ("a_helper", "a_package", "a_package.deep"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        text = "import numpy as np\nfrom a_helper import right\n\nclass Mine: a = right"
        return cache.code_digest([_module(tmp_path / "m.py", text, monkeypatch)])

    first = digest("def right(): return 1", "b = 1")
    assert set(first) == {"a_users_module", "a_helper", "a_package.deep"}
    assert digest("def right(): return 1", "b = 1") == first
    assert digest("def right(): return 2", "b = 1") != first != digest("def right(): return 1", "b = 2")

"""Boards by SSH: URLs, and a real sshd on loopback with keys of its own."""

import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from loopback import Sshd, key, real

from edgeprune.errors import BadOption, Lacking
from edgeprune.profiles.ssh import CommandFailed, Lease, Ssh


@pytest.mark.parametrize(
    ("url", "host", "user", "port"),
    [
        ("ssh://pi@board.local", "board.local", "pi", None),
        ("ssh://board", "board", "", None),
        ("ssh://nvidia@10.0.0.7:2222", "10.0.0.7", "nvidia", 2222),
        ("ssh://pi@[fe80::1]:22", "fe80::1", "pi", 22),
    ],
)
def test_urls(url: str, host: str, user: str, port: int | None) -> None:
    found = Ssh.parse(url)
    assert (found.host, found.user, found.port) == (host, user, port)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("pi@board", "is not understood; give ssh://user@host or ssh://user@host:port"),
        ("http://board", "is not understood"),
        ("ssh://", "is not understood"),
        ("ssh://-oProxyCommand=evil", "is not understood"),
        ("ssh://-oX@board", "is not understood"),
        ("ssh://a b@board", "is not understood"),
        ("ssh://board;reboot", "is not understood"),
        ("ssh://pi:secret@board", "takes no password and no path"),
        ("ssh://pi@board/home", "takes no password and no path"),
        ("ssh://board:99999", "the port is a number from 1 to 65535"),
        ("ssh://board:ssh", "the port is a number from 1 to 65535"),
    ],
)
def test_what_is_no_url_of_a_board(url: str, sentence: str) -> None:
    with pytest.raises(BadOption) as caught:
        Ssh.parse(url)
    assert sentence in str(caught.value)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("sshd") / "own")
    server.start()
    yield server
    server.stop()


@real
def test_words_arrive_as_they_are(sshd: Sshd) -> None:
    words = ["a b", "$HOME", "`id`", '"', "'", "; exit 3", "*", "", "é\n"]
    said = sshd.board.run(["printf", "%s|", *words], 20).decode()
    assert said == "|".join(words) + "|"


@real
def test_a_command_that_fails_says_why(sshd: Sshd) -> None:
    with pytest.raises(CommandFailed) as caught:
        sshd.board.run(["sh", "-c", "echo no such rail >&2; exit 7"], 20)
    assert (caught.value.code, str(caught.value)) == (7, "`sh` failed on the board (exit code 7): no such rail")


@real
def test_a_command_that_hangs(sshd: Sshd) -> None:
    with pytest.raises(Lacking, match=r"did not finish `sleep` within 0\.5 s"):
        sshd.board.run(["sleep", "30"], 0.5)


@real
def test_files_go_there_and_back_whole(sshd: Sshd, tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "model.onnx").write_bytes(content)
    remote = str(tmp_path / "there it's.onnx")
    sshd.board.put(tmp_path / "model.onnx", remote)
    assert Path(remote).read_bytes() == content and not Path(f"{remote}.part").exists()
    stamp = Path(remote).stat().st_mtime_ns
    sshd.board.put(tmp_path / "model.onnx", remote)
    assert Path(remote).stat().st_mtime_ns == stamp  # it was there already
    sshd.board.get(remote, tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == content


@real
def test_a_file_that_is_not_there(sshd: Sshd, tmp_path: Path) -> None:
    assert sshd.board.digest(str(tmp_path / "none")) is None
    with pytest.raises(CommandFailed, match="No such file"):
        sshd.board.get(str(tmp_path / "none"), tmp_path / "here")
    assert not (tmp_path / "here").exists()


@real
def test_an_unknown_host_key_is_refused_with_advice(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    stranger = replace(
        sshd.board,
        options=(*(o for o in sshd.board.options if "UserKnown" not in o), f"UserKnownHostsFile={tmp_path / 'empty'}"),
    )  # fmt: skip
    with pytest.raises(Lacking, match=r"its host key is not known: connect once with `ssh -p \d+ .*@127\.0\.0\.1`"):
        stranger.run(["true"], 20)


@real
def test_a_changed_host_key_is_refused_with_advice(sshd: Sshd, tmp_path: Path) -> None:
    sshd.know(Path(f"{key(tmp_path / 'other')}.pub"))
    try:
        with pytest.raises(Lacking, match=r"is not the one in known_hosts.*ssh-keygen -R '\[127\.0\.0\.1\]:\d+'"):
            sshd.board.run(["true"], 20)
    finally:
        sshd.know(sshd.folder / "host.pub")


@real
def test_a_stranger_is_told_how_to_get_in(sshd: Sshd, tmp_path: Path) -> None:
    options = (*tuple(o for o in sshd.board.options if "IdentityFile" not in o), f"IdentityFile={key(tmp_path / 'k')}")
    with pytest.raises(Lacking, match="does not let this user in: put your key there with `ssh-copy-id"):
        replace(sshd.board, options=options).run(["true"], 20)


@real
def test_a_dropped_line_is_tried_again(sshd: Sshd, tmp_path: Path) -> None:
    """The first time the command ends the connection it runs in."""
    trace = tmp_path / "tries"
    script = 'echo x >> "$1"; [ "$(wc -l < "$1")" -ge 2 ] || kill -9 $PPID; echo done'
    assert sshd.board.run(["sh", "-c", script, "sh", str(trace)], 20) == b"done\n"
    assert trace.read_text() == "x\nx\n"
    trace.unlink()
    with pytest.raises(Lacking, match="cannot be reached"):
        sshd.board.run(["sh", "-c", script, "sh", str(trace)], 20, again=False)
    assert trace.read_text() == "x\n"


def test_a_board_that_is_switched_off() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        board = replace(Ssh.parse(f"ssh://127.0.0.1:{probe.getsockname()[1]}"), pause=0.0)
        with pytest.raises(Lacking, match=r"127\.0\.0\.1 cannot be reached: .*refused"):
            board.run(["true"], 20)


@real
def test_two_builds_do_not_share_a_board(sshd: Sshd, tmp_path: Path) -> None:
    place = str(tmp_path / "leases")
    lease = Lease(sshd.board, place, seconds=600, wait=0.0)
    assert lease.take("one") == f"{place}/one"
    (Path(place) / "one" / "left.onnx").write_text("ours")
    with pytest.raises(Lacking, match="is in use by one; its lease ends within 600 s"):
        lease.take("two")
    assert lease.take("one") == f"{place}/one"  # after a kill: it goes on with what is there
    assert (Path(place) / "one" / "left.onnx").exists()
    lease.give_back("two")  # not theirs to give
    with pytest.raises(Lacking, match="in use by one"):
        lease.take("two")
    lease.give_back("one")
    assert lease.take("two") == f"{place}/two"
    assert sorted(p.name for p in Path(place).iterdir()) == ["lock", "two"]
    lease.give_back("two")
    assert list(Path(place).iterdir()) == []


@real
def test_a_lease_that_has_run_out_is_cleaned_up(sshd: Sshd, tmp_path: Path) -> None:
    place = tmp_path / "leases"
    Lease(sshd.board, str(place), seconds=0).take("dead")
    (place / "dead" / "half.part").write_text("half")
    assert Lease(sshd.board, str(place), wait=0.0).take("next") == f"{place}/next"
    assert sorted(p.name for p in place.iterdir()) == ["lock", "next"]


@real
def test_calls_can_share_a_connection(sshd: Sshd) -> None:
    """Hanging up ends it, and the next call connects anew."""
    with tempfile.TemporaryDirectory(prefix="ep-") as short:
        _share(sshd, Path(short))


def _share(sshd: Sshd, folder: Path) -> None:
    shared = sshd.board.shared(folder)
    ports = [way.run(["sh", "-c", "echo $SSH_CONNECTION"], 20) for way in (shared, shared, sshd.board)]
    assert ports[0] == ports[1] != ports[2]
    assert any(p.is_socket() for p in folder.iterdir())
    shared.hang_up()
    assert not any(p.is_socket() for p in folder.iterdir())
    assert shared.run(["echo", "again"], 20) == b"again\n"
    shared.hang_up()
    shared.hang_up()  # there is nothing any more


@real
def test_hanging_up_on_a_holder_that_was_killed() -> None:
    """Its socket lies there and nobody answers any more."""
    with tempfile.TemporaryDirectory(prefix="ep-") as short, socket.socket(socket.AF_UNIX) as dead:
        shared = Ssh("127.0.0.1").shared(Path(short))
        dead.bind(f"{short}/of-a-dead-one")
        shared.hang_up()
        assert list(Path(short).iterdir()) == []


def test_a_folder_too_long_for_a_socket(tmp_path: Path) -> None:
    board = Ssh("board")
    assert board.shared(tmp_path / ("x" * 80)) is board


@real
def test_a_lock_that_someone_tampered_with_takes_nothing_along(sshd: Sshd, tmp_path: Path) -> None:
    place = tmp_path / "leases"
    (tmp_path / "precious").mkdir()
    for owner in ("../precious", "", "..", "."):
        (place / "lock").mkdir(parents=True)
        (place / "lock" / "owner").write_text(owner)
        (place / "lock" / "until").write_text("5")
        lease = Lease(sshd.board, str(place), wait=0.0)
        assert lease.take("next") == f"{place}/next"
        lease.give_back("next")
    assert (tmp_path / "precious").is_dir() and place.is_dir()

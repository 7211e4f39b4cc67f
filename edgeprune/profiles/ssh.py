"""A machine reached by the system's OpenSSH: run commands there, bring files to and fro, take a lease on it.

Nothing that a user gave is ever part of a shell's text without being quoted, and no host is trusted that the user's own
known_hosts does not know.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import platform
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edgeprune.errors import BadOption, Lacking
from edgeprune.files import write_atomic

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]*")
_SSH_FAILED = 255
_LONGEST_SOCKET = 104
"""Bytes of a socket's path, the smallest limit among systems; OpenSSH adds a name of 40 and a suffix of 17."""
_SOCKET_NAME = 60
_HANG_UP = 2.0
"""Seconds that the holder of a shared connection gets to end."""
_TRIES = 3
_ADVICE = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key is not the one in known_hosts: if the board was set up "
     "anew, remove the old one with `ssh-keygen -R {where}` and connect once by hand; if not, someone may listen"),
    ("Host key verification failed", "its host key is not known: connect once with `ssh {target}`, compare the "
     "fingerprint and accept it"),
    ("Permission denied", "it does not let this user in: put your key there with `ssh-copy-id {target}`"),
    ("Could not resolve hostname", "there is no machine of this name"),
)  # fmt: skip
"""What OpenSSH says when trying again cannot help, and what to do about it."""


@dataclass(frozen=True)
class Ssh:
    """``user@host:port``; what is not given is left to OpenSSH's own configuration.

    ``options`` go to every call, as ``-o KEY=VALUE``. A line that drops is tried again after ``pause`` seconds.
    ``sockets`` is the folder of a shared connection's socket.
    """

    host: str
    user: str = ""
    port: int | None = None
    options: tuple[str, ...] = ()
    pause: float = 2.0
    sockets: Path | None = None

    @staticmethod
    def parse(url: str) -> Ssh:
        """Read ``ssh://user@host:port``. Raises BadOption for anything else."""
        parts = urlsplit(url)
        try:
            host, port = parts.netloc.rpartition("@")[2], parts.port
        except ValueError:
            raise BadOption(f"--board {url!r}: the port is a number from 1 to 65535") from None
        host = host[: -len(str(port)) - 1] if port is not None else host
        user = parts.username or ""
        if parts.scheme != "ssh" or not _HOST.fullmatch(host) or (user and not _USER.fullmatch(user)):
            raise BadOption(f"--board {url!r} is not understood; give ssh://user@host or ssh://user@host:port")
        if parts.password or parts.path.strip("/") or parts.query or parts.fragment:
            raise BadOption(f"--board {url!r} takes no password and no path; give ssh://user@host, and use a key")
        return Ssh(host.strip("[]"), user, port)

    @property
    def target(self) -> str:
        """What to write after ``ssh`` to get there."""
        return (f"-p {self.port} " if self.port else "") + self._who

    @property
    def name(self) -> str:
        """What to call it in a sentence."""
        return f"{self._who}:{self.port}" if self.port else self._who

    @property
    def _who(self) -> str:
        return f"{self.user}@{self.host}" if self.user else self.host

    def shared(self, folder: Path) -> Ssh:
        """Return the same way, on which all calls share one connection, whose socket lies in ``folder``.

        Connecting takes a second on a slow board, and a session makes dozens of calls. Where the folder's name is too
        long for a socket's, every call connects by itself.
        """
        if len(str(folder)) > _LONGEST_SOCKET - _SOCKET_NAME:
            return self
        options = ("ControlMaster=auto", f"ControlPath={folder}/%C", "ControlPersist=60")
        return dataclasses.replace(self, options=(*self.options, *options), sockets=folder)

    def hang_up(self) -> None:
        """End the shared connection, if there is one; files and processes there stay as they are.

        OpenSSH answers before the connection's holder has ended, which takes its socket along; the socket of a holder
        that was killed stays, and is removed here.
        """
        if self.sockets is None or not self.sockets.is_dir():
            return
        command = [*self._ssh()[:-2], "-O", "exit", "--", self._who]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(command, capture_output=True, timeout=10)
        end = time.monotonic() + _HANG_UP
        while (left := [p for p in self.sockets.iterdir() if p.is_socket()]) and time.monotonic() < end:
            time.sleep(0.02)
        for socket in left:
            socket.unlink(missing_ok=True)

    def run(self, command: Sequence[str], timeout: float, data: bytes = b"", again: bool = True) -> bytes:
        """Run a command, whose words arrive there as they are, and return what it prints.

        A line that drops is tried again where ``again`` says that doing it twice is harmless. Raises CommandFailed with
        the command's own words, and Lacking when the board cannot be reached, does not know us, or does not come back
        in ``timeout`` seconds.
        """
        for attempt in range(_TRIES if again else 1):
            if attempt:
                time.sleep(self.pause * attempt)
            try:
                done = subprocess.run(
                    [*self._ssh(), shlex.join(command)], input=data, capture_output=True, timeout=timeout
                )
            except subprocess.TimeoutExpired as error:
                raise Lacking(f"{self._who} did not finish `{command[0]}` within {timeout:g} s") from error
            except FileNotFoundError:
                raise Lacking("there is no `ssh` here; install OpenSSH's client") from None
            said = done.stderr.decode("utf-8", "replace").strip()
            if done.returncode == 0:
                return done.stdout
            if done.returncode != _SSH_FAILED:
                raise CommandFailed(command, done.returncode, done.stdout.decode("utf-8", "replace"), said)
            self._give_up_if_known(said)
        last = said.splitlines()[-1] if said else "the line dropped"
        raise Lacking(f"{self._who} cannot be reached: {last}")

    def _ssh(self) -> list[str]:
        port = ["-p", str(self.port)] if self.port else []
        options = ("BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=10", "ServerAliveInterval=5",
                   "ServerAliveCountMax=3", *self.options)  # fmt: skip
        return ["ssh", "-T", *port, *(word for one in options for word in ("-o", one)), "--", self._who]

    def _give_up_if_known(self, said: str) -> None:
        where = f"[{self.host}]:{self.port}" if self.port else self.host
        for sign, advice in _ADVICE:
            if sign in said:
                raise Lacking(f"{self._who}: {advice.format(where=shlex.quote(where), target=self.target)}")

    def put(self, local: Path, remote: str, timeout: float = 600.0) -> None:
        """Bring a file there, whole or not at all; one that is there already with the same content is left alone."""
        content = local.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if self.digest(remote) == digest:
            return
        part = f"{remote}.part"
        self.run(["sh", "-c", 'cat > "$1"', "sh", part], timeout, content)
        if self.digest(part) != digest:
            raise Lacking(f"{self._who}: {local.name} arrived damaged; is the board's disk full?")
        self.run(["mv", "--", part, remote], 30)

    def get(self, remote: str, local: Path, timeout: float = 600.0) -> None:
        """Bring a file here, whole or not at all."""
        expected = self.digest(remote)
        content = self.run(["cat", "--", remote], timeout)
        if expected != hashlib.sha256(content).hexdigest():
            raise Lacking(f"{self._who}: {Path(remote).name} changed or was damaged on its way")
        write_atomic(local, content)

    def digest(self, remote: str) -> str | None:
        """Return the sha256 of a file there; None if there is none."""
        try:
            return self.run(["sha256sum", "--", remote], 120).split()[0].decode().lstrip("\\")
        except CommandFailed:
            return None


class CommandFailed(Lacking):
    """Raised when a command ran on the board and ended with another exit code than 0."""

    def __init__(self, command: Sequence[str], code: int, output: str, errors: str) -> None:
        self.command, self.code, self.output, self.errors = tuple(command), code, output, errors
        last = (errors or output).strip().splitlines() or ["it said nothing"]
        super().__init__(f"`{command[0]}` failed on the board (exit code {code}): {last[-1]}")


@dataclass(frozen=True)
class Lease:
    """One user of a board at a time: a folder there that is ours until it is given back or its time is over.

    Everything that a build leaves on a board lies in that folder; whoever comes after its time removes it.
    """

    board: Ssh
    folder: str = ".edgeprune"
    seconds: int = 7200
    wait: float = 600.0
    clock: Callable[[], float] = time.monotonic

    def take(self, owner: str) -> str:
        """Take the board and return the folder for our files, removing what a former user left behind.

        Taking it again under the same ``owner`` goes on with what is there. Raises Lacking when someone else has it
        longer than ``wait`` seconds.
        """
        start = self.clock()
        while True:
            held = self.board.run(["sh", "-c", _TAKE, "sh", self.folder, owner, str(self.seconds)], 30).decode().strip()
            if held == owner:
                return f"{self.folder}/{owner}"
            if self.clock() - start > self.wait:
                raise Lacking(f"{self.board.name} is in use by {held}; its lease ends within {self.seconds} s")
            time.sleep(min(5.0, self.wait))

    def give_back(self, owner: str) -> None:
        """Remove our folder and let the next one in."""
        self.board.run(["sh", "-c", _GIVE_BACK, "sh", self.folder, owner], 60)


def lease_name(path: Path) -> str:
    """Return the name under which the build at ``path`` of this machine uses boards: the same one after a kill."""
    return hashlib.sha256(f"{platform.node()}\0{path.resolve()}".encode()).hexdigest()[:12]


_TAKE = """set -e
mkdir -p "$1"; cd "$1"; now=$(date +%s)
if [ -d lock ]; then
  until=$(cat lock/until 2>/dev/null || echo 0); holder=$(cat lock/owner 2>/dev/null || echo)
  if [ "$holder" != "$2" ] && [ "$now" -ge "$until" ]; then
    case "$holder" in ""|*/*|.|..) ;; *) rm -rf -- "./$holder";; esac
    rm -rf lock
  fi
fi
if mkdir lock 2>/dev/null || [ "$(cat lock/owner 2>/dev/null)" = "$2" ]; then
  echo "$2" > lock/owner.part; mv lock/owner.part lock/owner
  echo $((now + $3)) > lock/until.part; mv lock/until.part lock/until
  for one in *; do case "$one" in lock|"$2") ;; *) rm -rf -- "./$one";; esac; done
  mkdir -p -- "./$2"
fi
cat lock/owner
"""
"""Makes the lock in one step (mkdir), or breaks one whose time is over; prints who has it."""
_GIVE_BACK = """cd "$1" 2>/dev/null || exit 0
[ "$(cat lock/owner 2>/dev/null)" = "$2" ] || exit 0
rm -rf -- "./$2" lock
"""

"""A real sshd on loopback, standing in for a board: Debian's openssh-server with keys of its own."""

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune.profiles.ssh import Ssh

STAND_IN = Path(__file__).with_name("trtexec_stand_in.py")
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
real = pytest.mark.skipif(SSHD is None or shutil.which("ssh") is None, reason="OpenSSH's sshd is not installed")


def key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


class Sshd:
    """An sshd of ours on a free port; ``board`` is the way there, ``url`` its address, ``home`` where it begins.

    ``path`` goes before the PATH that commands there get, ``environment`` to their environment.
    """

    def __init__(self, folder: Path, path: str = "", environment: Mapping[str, str] | None = None) -> None:
        self.folder, self.process, self.home = folder, None, folder / "home"
        folder.mkdir(mode=0o700)
        self.home.mkdir()
        key(folder / "host")
        mine = key(folder / "mine")
        shutil.copy(f"{mine}.pub", folder / "authorized")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        begin = folder / "begin"
        exports = {"PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"], **(environment or {})}
        lines = [f"export {name}={shlex.quote(value)}" for name, value in exports.items()]
        lines += [f"cd {shlex.quote(str(self.home))}", 'exec sh -c "$SSH_ORIGINAL_COMMAND"']
        begin.write_text("\n".join(lines))
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\n"
            f"AuthorizedKeysFile {folder}/authorized\nPidFile {folder}/pid\n"
            f"StrictModes no\nUsePAM no\nPasswordAuthentication no\nForceCommand sh {begin}\n"
        )
        self.known = folder / "known_hosts"
        self.know(folder / "host.pub")
        self.url = f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"
        self.options = (f"UserKnownHostsFile={self.known}", "GlobalKnownHostsFile=/dev/null", f"IdentityFile={mine}",
                        "IdentitiesOnly=yes")  # fmt: skip
        self.board = replace(Ssh.parse(self.url), options=self.options, pause=0.1)

    def know(self, public: Path) -> None:
        self.known.write_text(f"[127.0.0.1]:{self.port} {' '.join(public.read_text().split()[:2])}\n")

    def client(self, folder: Path) -> str:
        """Write an ``ssh`` that knows this board into ``folder`` and return the PATH that finds it first.

        It stands for the user's own configuration of OpenSSH.
        """
        folder.mkdir()
        words = [str(shutil.which("ssh")), "-F", "/dev/null", *(w for o in self.options for w in ("-o", o))]
        (folder / "ssh").write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        (folder / "ssh").chmod(0o755)
        return f"{folder}:{os.environ['PATH']}"

    def start(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True) if os.getuid() == 0 else None
        assert SSHD is not None
        self.process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")], stderr=subprocess.DEVNULL
        )
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("sshd did not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)
            self.process = None


def tools(folder: Path, version: str, fail: str = "") -> str:
    """A folder with python3 and a trtexec of ``version``."""
    for name, line in (
        ("python3", f'exec {sys.executable} "$@"'),
        ("trtexec", f'STAND_IN_VERSION={version} STAND_IN_FAIL={fail} exec {sys.executable} {STAND_IN} "$@"'),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    return str(folder)

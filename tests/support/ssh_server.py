"""An SSH server of the tests' own, on the loopback device, from Debian's openssh-server: its keys, port and users."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_SEPARATION = Path("/run/sshd")  # which a server of root's wants to be there


def programs() -> dict[str, str]:
    """Return the programs that are there."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return {name: found for name in ("sshd", "ssh", "ssh-keygen") if (found := shutil.which(name, path=path))}


def why_not() -> str:
    """Return why no server can be started here; empty if one can."""
    missing = {"sshd", "ssh", "ssh-keygen"} - set(programs())
    if missing:
        return f"not installed: {', '.join(sorted(missing))} (apt-get install openssh-server openssh-client)"
    if os.getuid() == 0 and not _SEPARATION.is_dir():
        try:
            _SEPARATION.mkdir(mode=0o755)
        except OSError as error:
            return f"{_SEPARATION} cannot be made: {error.strerror}"
    return ""


@dataclass
class SshServer:
    """A server that can be cut off and come back."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> str:
        """Return the words that reach it: ``ssh … pi``."""
        return f"{programs()['ssh']} -F {self.folder / 'client_config'} pi"

    def start(self) -> None:
        arguments = [programs()["sshd"], "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)
        raise RuntimeError(f"sshd did not start: {(self.folder / 'sshd.log').read_text()[-500:]}")

    def sessions(self) -> list[int]:
        """Return the processes below the server, the outermost first; they are of its making."""
        assert self.process is not None
        found, parents = list[int](), [self.process.pid]
        while parents:
            parents = [child for parent in parents for child in _children(parent)]
            found += parents
        return found

    def stop(self) -> None:
        """End the server with every connection, as a cable that is pulled."""
        if self.process is None:
            return
        for process in [self.process.pid, *self.sessions()]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()
        self.process = None


def _children(process: int) -> list[int]:
    try:
        return [int(text) for text in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """Give a running server whose only user is this one."""
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("host_key", "user_key"):
        keygen = [programs()["ssh-keygen"], "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(keygen, check=True, stdin=subprocess.DEVNULL)
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    host_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host_key'}\nPidFile {folder / 'sshd.pid'}\n"
        f"AuthorizedKeysFile {folder / 'authorized_keys'}\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "StrictModes no\nUsePAM no\nPermitRootLogin yes\n"
    )
    (folder / "client_config").write_text(
        f"Host pi\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {folder / 'user_key'}\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder / 'known_hosts'}\n"
        "  BatchMode yes\n  ConnectTimeout 5\n"
    )
    server = SshServer(folder, port)
    server.start()
    try:
        yield server
    finally:
        server.stop()

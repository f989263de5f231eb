"""A PostgreSQL server of one's own, on loopback, gone with its folder."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REQUIRED = "BITTAPER_REQUIRE_POSTGRES"
"""Set where the server must be there: the tests then fail instead of being skipped."""

_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=16MB", "max_connections=100")


def find_program(name: str) -> Path | None:
    """A server program, on PATH or where Debian puts it."""
    found = shutil.which(name)
    if found:
        return Path(found)
    return max(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), default=None)


def _unprivileged() -> dict[str, int | list[int]]:
    """As whom the server runs: not as root, which it refuses."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise RuntimeError("neither the user postgres nor nobody exists, and PostgreSQL refuses to run as root")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


class Server:
    """A running server that trusts whoever connects from this machine.

    Args:
        folder: Empty folder of its own; every folder above it must be open to all.
        initdb: The program that makes the files.
        postgres: The server.
    """

    def __init__(self, folder: Path, initdb: Path, postgres: Path) -> None:
        self._folder = folder
        self._postgres = postgres
        self._user = _unprivileged()
        self.port = _free_port()
        if self._user:
            os.chown(folder, int(str(self._user["user"])), int(str(self._user["group"])))
        command = [initdb, "-D", folder / "data", "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **self._user)  # type: ignore[call-overload]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start the server, again after :meth:`stop`, and wait until it answers."""
        command = [self._postgres, "-D", self._folder / "data", "-p", str(self.port), "-h", "127.0.0.1"]
        command += ["-k", self._folder, *(part for setting in _FAST for part in ("-c", setting))]
        path = self._folder / "log"
        begin = path.stat().st_size if path.exists() else 0
        with path.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log, **self._user)  # type: ignore[call-overload]
        end_s = time.monotonic() + 60
        while b"ready to accept connections" not in path.read_bytes()[begin:]:
            if self._process.poll() is not None or time.monotonic() > end_s:
                raise RuntimeError(path.read_text(encoding="utf-8"))
            time.sleep(0.02)

    def stop(self) -> None:
        """Break every connection and end the server at once."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None


@contextmanager
def temporary_server(folder: Path) -> Iterator[Server]:
    """A server while the block lasts.

    Raises:
        FileNotFoundError: If PostgreSQL is not installed.
    """
    initdb, postgres = find_program("initdb"), find_program("postgres")
    if initdb is None or postgres is None:
        raise FileNotFoundError("PostgreSQL is not installed: neither PATH nor /usr/lib/postgresql has initdb")
    server = Server(folder, initdb, postgres)
    try:
        yield server
    finally:
        server.stop()

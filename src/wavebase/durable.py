"""Files that are whole or not there, and folders that one process at a time writes."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
PART = ".part"  # how a file ends that is being written; one that a killed process left is worth nothing


class RecordsError(ValueError):
    """A run folder that cannot be read or written, in one line."""


class Busy(RecordsError):
    """Another process writes this folder, or has moved it on since it was read: it is left to that process."""


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that it is either complete or not there, even after a power cut: temporary name, fsync, rename,
    fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}{PART}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Take away what killed processes left half-written. Only for who holds the folder's lock."""
    for stale in folder.rglob(f".*{PART}"):
        stale.unlink(missing_ok=True)


class Lock:
    """The right to write a folder, held until `release` or the death of the process.

    The kernel's lock on the file `.lock`, so that a dead process holds none, whatever killed it; network file systems
    carry it between machines. The file names its holder and stays: taking it away would let two processes lock two
    files of one name. Raises Busy, or RecordsError where the file system has no locks.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.file = (folder / ".lock").open("a+b")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.file.truncate(0)
            self.file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            self.file.flush()
        except BlockingIOError:
            self.file.close()
            raise Busy(
                f"{folder} must be written by one process, got {holder(folder)} writing it; wait until it ends or stop it"
            ) from None
        except OSError as error:
            self.file.close()
            if error.errno in NO_LOCKS:
                raise RecordsError(
                    f"{folder} must be on a file system with locks (flock), got {error}; choose another hydra.run.dir or hydra.sweep.dir"
                ) from error
            raise

    def release(self) -> None:
        """Let others write the folder."""
        self.file.close()


def holder(folder: Path) -> str | None:
    """The "process 12 on host" that writes the folder now, or None. Changes nothing."""
    try:
        with (folder / ".lock").open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().decode(errors="replace").strip() or "another process"
    except OSError:  # no lock file, or a folder that nobody can write
        return None
    return None

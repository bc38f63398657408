"""Files that are whole or not there and reached through no link, and folders that one process at a time writes."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
PART = ".part"  # how a file ends that is being written; one that a killed process left is worth nothing


class RecordsError(ValueError):
    """A run folder that cannot be read or written, in one line."""


class FolderLocked(RecordsError):
    """Another process writes this folder, or has moved it on since it was read: it is left to that process."""


def open_regular(path: Path, mode: str) -> BinaryIO:
    """Open a file of a run's folder, which another may have made: a regular file in its place, never what a link points to.

    mode: as `open`'s, binary. Raises RecordsError for a link, a folder, a pipe or a device, which it neither follows nor
    waits for; OSError as `open` does.
    """

    def opened(name: str, flags: int) -> int:
        # a pipe that nobody writes would otherwise be waited for
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _not_regular(path)
        return descriptor

    try:
        return cast(BinaryIO, open(path, mode, opener=opened))
    except OSError as error:
        # a link; a pipe, or a folder, that was to be written
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR):
            raise _not_regular(path) from error
        raise


def _not_regular(path: Path) -> RecordsError:
    kinds = {stat.S_ISLNK: "a link", stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe"}
    mode = os.lstat(path).st_mode
    got = next((name for is_one, name in kinds.items() if is_one(mode)), "a device")
    return RecordsError(f"{path} must be a file of its own, got {got}; remove it, or use another folder")


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that it is either complete or not there, even after a power cut: temporary name, fsync, rename,
    fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}{PART}")
    try:
        temporary.unlink(missing_ok=True)
        with open_regular(temporary, "xb") as file:
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
        self.file = open_regular(folder / ".lock", "a+b")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.file.truncate(0)
            self.file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            self.file.flush()
        except BlockingIOError:
            self.file.close()
            raise FolderLocked(
                f"{folder} must be written by one process, got {lock_owner(folder)} writing it; wait until it ends or stop it"
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


def lock_owner(folder: Path) -> str | None:
    """The "process 12 on host" that writes the folder now, or None. Changes nothing."""
    try:
        with open_regular(folder / ".lock", "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read(200).decode(errors="replace").strip() or "another process"
    except (OSError, RecordsError):  # no lock file or none of our own, or a folder that nobody can write
        return None
    return None

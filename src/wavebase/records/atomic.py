"""Atomic files, files opened without following links, and a lock that lets one process write a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
PART = ".part"  # suffix of a file that is being written
PATIENCE = 10.0  # seconds to wait for readers of a lock, which hold it for microseconds


class RecordsError(ValueError):
    """A run folder that cannot be read or written; the message is one line."""


class FolderLocked(RecordsError):
    """Another process writes this folder, or has written it since it was read."""


def open_regular(path: Path, mode: str) -> BinaryIO:
    """Open a regular file without following links; the folder may come from somebody else.

    Args:
        mode: A binary mode of `open`.

    Raises:
        RecordsError: If the path is a link, a folder, a pipe or a device. Never waits for a pipe.
        OSError: As `open` raises it.
    """

    def opened(name: str, flags: int) -> int:
        # O_NONBLOCK: opening a pipe without a writer would wait
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _not_regular(path)
        return descriptor

    try:
        return cast(BinaryIO, open(path, mode, opener=opened))
    except OSError as error:
        # ELOOP, EMLINK: a link; ENXIO: a pipe to be written; EISDIR: a folder to be written
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR):
            raise _not_regular(path) from error
        raise


def _not_regular(path: Path) -> RecordsError:
    kinds = {stat.S_ISLNK: "a link", stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe"}
    mode = os.lstat(path).st_mode
    got = next((name for is_one, name in kinds.items() if is_one(mode)), "a device")
    return RecordsError(f"{path} must be a file of its own, got {got}; remove it, or use another folder")


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file that is complete or absent, even after a power cut.

    Writes to a temporary name, syncs it, renames it, and syncs the folder, which is created if it is missing.

    Args:
        write: Writes the content to an open file.
    """
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
    """Remove the incomplete files that killed processes left. The caller must hold the folder's lock."""
    for stale in folder.rglob(f".*{PART}"):
        stale.unlink(missing_ok=True)


class Lock:
    """The exclusive right to write a folder, until `release` or the death of the process.

    An exclusive flock on the file `.lock`: the kernel releases it however the process dies, and network file systems
    carry it between machines. The file names its owner. It is never deleted: otherwise two processes could lock two
    files of the same name.

    Raises:
        FolderLocked: If another process holds the lock.
        RecordsError: If the file system has no locks.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.file = open_regular(folder / ".lock", "a+b")
        try:
            self._take()
            self.file.truncate(0)
            self.file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            self.file.flush()
        except BlockingIOError:
            self.file.close()
            raise FolderLocked(
                f"{folder} must be written by one process, got {lock_owner(folder) or 'another'} writing it; wait until it ends or stop it"
            ) from None
        except OSError as error:
            self.file.close()
            if error.errno in NO_LOCKS:
                raise RecordsError(
                    f"{folder} must be on a file system with locks (flock), got {error}; choose another hydra.run.dir or hydra.sweep.dir"
                ) from error
            raise

    def _take(self) -> None:
        """Take the exclusive lock; wait for readers, but not for another writer.

        Only writers lock exclusively, so a shared lock is refused exactly if there is a writer.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                fcntl.flock(self.file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                fcntl.flock(self.file, fcntl.LOCK_UN)
                if time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(0, 0.002))  # random, so that two writers that meet do not meet again

    def release(self) -> None:
        """Let others write the folder."""
        self.file.close()


def lock_owner(folder: Path) -> str | None:
    """Return the process that writes the folder now, as "process 12 on host", or None.

    Takes a shared lock for a moment, which no other reader notices and for which `Lock` waits.
    """
    try:
        with open_regular(folder / ".lock", "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read(200).decode(errors="replace").strip() or "another process"
    except (OSError, RecordsError):  # no lock file, one that is not regular, or one that we may not read
        return None
    return None

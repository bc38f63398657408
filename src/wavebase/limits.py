"""The memory and file descriptors that the system, containers and ulimit leave to this process."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
RESERVED = 48  # descriptors for everything but runs
SMALL = 2**26  # bytes that are not worth asking the system about


def check_memory(needed: int, what: str, remedy: str) -> None:
    """Refuse to build what this process has no memory for: the system would kill it without a message.

    Args:
        needed: Estimated peak, bytes.
        what: What needs it, as the subject of the message.
        remedy: How to need less.

    Raises:
        ValueError: If less is available. Below 64 MiB nothing is checked.
    """
    if needed > SMALL and needed > (available := available_memory()):
        raise ValueError(
            f"{what} must fit into the {available / 2**30:.3g} GiB of memory that are free, got about {needed / 2**30:.3g} GiB; {remedy}"
        )


def available_memory() -> int:
    """Return the bytes that this process can still take: of the machine, of its control groups, and of `ulimit -v`."""
    free = []
    if "SC_AVPHYS_PAGES" in os.sysconf_names:  # not on macOS, where ulimit alone is known
        free.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")] or free
    except OSError:
        pass
    free += _left_in_control_groups()
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            used = 0
        free.append(max(0, soft - used))
    return min(free, default=sys.maxsize)


def _left_in_control_groups() -> list[int]:
    """Return what is left in each control group above this process that limits memory (version 1 and 2)."""
    left = []
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in groups:
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, most, used, reclaimable = (
            (CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if controllers
            else (CGROUPS, "memory.max", "memory.current", "inactive_file")
        )
        folder = root / name.lstrip("/")
        for level in (folder, *folder.parents):
            if level != root and root not in level.parents:
                break
            try:
                limit = (level / most).read_text().strip()
                if limit != "max" and int(limit) < 2**60:
                    stats = dict(line.split() for line in (level / "memory.stat").read_text().splitlines())
                    taken = int((level / used).read_text()) - int(stats.get(reclaimable, 0))
                    left.append(max(0, int(limit) - taken))
            except (OSError, ValueError):
                continue
    return left


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard one, which needs no rights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def spare_descriptors() -> int:
    """Return how many more files this process may open for runs."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 2**20
    try:
        used = len(os.listdir("/proc/self/fd"))
    except OSError:
        used = 16
    return max(0, soft - used - RESERVED)

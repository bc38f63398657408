"""What the process may use: memory of control groups and ulimit, and file descriptors."""

import multiprocessing
import resource

import pytest

from wavebase import limits
from wavebase.experiment import stacked


def in_child(act):
    """What the function returns in a forked process, whose limits are its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(act()))
    process.start()
    process.join(60)
    assert receiver.poll(0), f"exit status {process.exitcode}"
    return receiver.recv()


def test_memory_of_the_machine_is_counted():
    with open("/proc/meminfo") as file:
        total = 1024 * int(file.readline().split()[1])
    assert 2**20 < limits.available_memory() <= total


@pytest.mark.parametrize("version", [1, 2])
def test_control_groups_bound_it(version, tmp_path, monkeypatch):
    """The tightest level above the process counts; page cache that the kernel can drop is free."""
    deep = tmp_path / ("memory/outer/inner" if version == 1 else "outer/inner")
    deep.mkdir(parents=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    most, used, cache = names if version == 1 else ("memory.max", "memory.current", "inactive_file")
    for folder, limit, taken in ((deep, 2**62 if version == 1 else "max", 5), (deep.parent, 700 * 2**20, 100 * 2**20)):
        (folder / most).write_text(f"{limit}\n")
        (folder / used).write_text(f"{taken}\n")
        (folder / "memory.stat").write_text(f"anon 1\n{cache} {40 * 2**20 if taken > 5 else 0}\n")
    real = limits.Path

    class Redirected(type(real())):
        def read_text(self, *words):
            return ("5:memory:" if version == 1 else "0::") + "/outer/inner\n" if str(self) == "/proc/self/cgroup" else super().read_text(*words)  # fmt: skip

    monkeypatch.setattr(limits, "Path", Redirected)
    monkeypatch.setattr(limits, "CGROUPS", tmp_path)
    assert limits._left_in_control_groups() == [640 * 2**20]
    monkeypatch.setattr(limits, "_left_in_control_groups", lambda: [640])
    assert limits.available_memory() == 640


def test_ulimit_bounds_it():
    def limited():
        used = int(limits.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20, resource.RLIM_INFINITY))
        return limits.available_memory()

    assert 200 * 2**20 < in_child(limited) <= 300 * 2**20


def test_descriptors_bound_a_stack():
    def limited():
        resource.setrlimit(resource.RLIMIT_NOFILE, (80, 100))
        before = limits.spare_descriptors()
        limits.raise_descriptor_limit()
        return before, limits.spare_descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    before, after, soft = in_child(limited)
    assert soft == 100 and 0 <= before == after - 20 <= 80 - limits.RESERVED
    assert after // stacked.DESCRIPTORS < 64

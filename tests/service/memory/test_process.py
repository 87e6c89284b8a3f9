"""The process's memory as the system tells it: control groups of both versions, and none."""

import mmap
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.memory.process import Group, LinuxProcess, groups, this_process

LINUX = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc")
MIB = 1 << 20


class Kernel:
    """A machine's files, as far as control groups go."""

    def __init__(self, root: Path) -> None:
        self.process = root / "proc"
        self.process.mkdir()
        self._root = root
        (self.process / "mountinfo").write_text("1 1 0:1 / / rw - ext4 /dev/vda rw\n")
        (self.process / "cgroup").write_text("")

    def mount(self, system: str, options: str, seen_from: str = "/") -> Path:
        point = self._root / f"{system}-{options}"
        point.mkdir()
        line = (
            f"32 31 0:29 {seen_from} {point} rw,nosuid shared:9 - {system} {system} rw,{options}\n"
        )
        _append(self.process / "mountinfo", line)
        return point

    def join(self, line: str) -> None:
        _append(self.process / "cgroup", f"{line}\n")


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def _append(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line)


def version_2(path: Path, limit: str, used: int, high: str = "max", inactive: int = 0) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "memory.max").write_text(f"{limit}\n")
    (path / "memory.high").write_text(f"{high}\n")
    (path / "memory.current").write_text(f"{used}\n")
    (path / "memory.stat").write_text(f"anon 1\ninactive_file {inactive}\nactive_file 7\n")


def version_1(path: Path, limit: int, used: int, inactive: int = 0) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (path / "memory.usage_in_bytes").write_text(f"{used}\n")
    stat = f"inactive_file 1\ntotal_inactive_file {inactive}\n"
    (path / "memory.stat").write_text(stat)


def read(found: list[Group]) -> list[tuple[int, int] | None]:
    return [group.read() for group in found]


def test_all_groups_around_the_process_are_found_and_max_is_no_limit(kernel: Kernel) -> None:
    point = kernel.mount("cgroup2", "nsdelegate")
    version_2(point / "pod" / "container", "max", 10)
    version_2(point / "pod", "1000", 300)
    kernel.join("0::/pod/container")
    assert read(groups(kernel.process)) == [None, (300, 1000)]


def test_a_group_sees_itself_as_the_root_in_its_own_namespace(kernel: Kernel) -> None:
    version_2(kernel.mount("cgroup2", ""), "1000", 300)
    kernel.join("0::/")
    assert read(groups(kernel.process)) == [(300, 1000)]


def test_a_group_that_is_mounted_as_the_root_is_found_there(kernel: Kernel) -> None:
    point = kernel.mount("cgroup2", "", seen_from="/pod")
    version_2(point / "container", "1000", 300)
    kernel.join("0::/pod/container")
    assert read(groups(kernel.process)) == [(300, 1000)]


def test_a_group_outside_of_what_is_mounted_is_what_is_mounted(kernel: Kernel) -> None:
    version_2(kernel.mount("cgroup2", "", seen_from="/pod"), "1000", 300)
    kernel.join("0::/other")
    assert read(groups(kernel.process)) == [(300, 1000)]


def test_where_the_process_would_be_slowed_down_is_a_limit_too(kernel: Kernel) -> None:
    version_2(kernel.mount("cgroup2", ""), "1000", 300, high="900")
    kernel.join("0::/")
    assert read(groups(kernel.process)) == [(300, 900)]


def test_files_that_nobody_needs_do_not_count_when_it_matters(kernel: Kernel) -> None:
    point = kernel.mount("cgroup2", "")
    version_2(point, "1000", 900, inactive=600)
    kernel.join("0::/")
    assert read(groups(kernel.process)) == [(300, 1000)]


def test_the_first_version_has_groups_of_its_own_for_memory(kernel: Kernel) -> None:
    kernel.mount("cgroup", "cpu")
    point = kernel.mount("cgroup", "memory")
    version_1(point / "pod", 1000, 700, inactive=200)
    version_1(point, 9223372036854771712, 10_000)
    kernel.mount("cgroup2", "")
    for line in ("5:cpu:/pod", "4:memory:/pod", "0::/"):
        kernel.join(line)
    assert read(groups(kernel.process)) == [(500, 1000), None]


def test_a_limit_that_is_changed_holds_at_once(kernel: Kernel) -> None:
    point = kernel.mount("cgroup2", "")
    version_2(point, "1000", 300)
    kernel.join("0::/")
    [group] = groups(kernel.process)
    (point / "memory.max").write_text("500\n")
    assert group.read() == (300, 500)


def test_what_cannot_be_read_any_more_is_no_limit(kernel: Kernel) -> None:
    point = kernel.mount("cgroup2", "")
    version_2(point, "1000", 300)
    kernel.join("0::/")
    [group] = groups(kernel.process)
    (point / "memory.max").unlink()
    (point / "memory.high").write_text("gibberish")
    assert group.read() is None


def test_a_process_without_control_groups_has_none(kernel: Kernel) -> None:
    assert groups(kernel.process) == []


@LINUX
def test_the_nearest_limit_is_the_one_that_counts(kernel: Kernel) -> None:
    point = kernel.mount("cgroup2", "")
    version_2(point / "pod", "5000", 4000)
    version_2(point, "1000", 300)
    kernel.join("0::/pod")
    assert LinuxProcess(groups(kernel.process)).usage()[1:] == (4000, 5000)


@LINUX
def test_without_any_it_is_the_machines_memory() -> None:
    usage = LinuxProcess([]).usage()
    assert usage.limit == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert MIB < usage.resident == usage.used < usage.limit


@LINUX
def test_what_is_written_to_is_seen() -> None:
    process = this_process()
    with mmap.mmap(-1, 64 * MIB) as space:
        before = process.usage()
        space.write(bytes(64 * MIB))
        after = process.usage()
    assert before
    assert after
    assert after.resident - before.resident > 60 * MIB


_LIMITED = """
from service.memory.process import LinuxProcess
usage = LinuxProcess([]).usage()
print(usage.limit, usage.used, usage.resident)
"""


@LINUX
def test_address_space_is_a_limit_for_what_is_not_only_reserved() -> None:
    space = 2048 * MIB
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=_within(space),
        capture_output=True,
        check=True,
        timeout=60,
    )
    limit, used, resident = map(int, done.stdout.split())
    assert limit == space
    assert resident < used < space


def _within(space: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (space, space))

"""CPU times of real processes, which work, and end, while they are measured."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.meter import Tree

FAMILY = """
import os, sys, time

def work(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass

children = []
for _ in range(5):
    ends, end = os.pipe()
    if (child := os.fork()) == 0:
        os.close(end)
        work(0.013)
        os.write(1, b"worked\\n")
        os.read(ends, 1)  # until the parent closes it
        os._exit(0)
    os.close(ends)
    children.append((child, end))
for line in sys.stdin:
    match line.split():
        case ["end"]:
            for other, end in children:
                os.close(end)
            for child, _ in children:
                os.waitpid(child, 0)
        case ["work", seconds]:
            work(float(seconds))
        case ["child", seconds]:
            if (child := os.fork()) == 0:
                work(float(seconds))
                os._exit(0)
            os.waitpid(child, 0)
    os.write(1, b"done\\n")
"""
"""A process with children that have worked and wait to end; no end of a pipe is inherited by a later child for long."""

pytestmark = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="reads CPU times in /proc")


class Family:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(5):
            self.hear("worked\n")

    def hear(self, line: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == line

    def do(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        self.hear("done\n")


@pytest.fixture
def family() -> Iterator[Family]:
    family = Family()
    yield family
    family.process.kill()
    family.process.communicate()


def test_what_somebody_did_before_who_ends_meanwhile_is_not_taken_off(family: Family) -> None:
    """Of who has ended the kernel tells in steps of 10 ms: less than what was known of them while they lived."""
    tree = Tree(family.process.pid)
    family.do("end")
    assert 0 <= tree.taken() < 0.03


def test_what_is_done_meanwhile_is_counted_whoever_does_it(family: Family) -> None:
    tree = Tree(family.process.pid)
    family.do("work 0.1")
    family.do("child 0.1")
    assert 0.17 < tree.taken() < 0.3

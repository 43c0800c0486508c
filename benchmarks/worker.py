"""A process that fills a queue, or works at it: `python -m benchmarks.worker work core URL AGENT BATCH`."""

# ruff: noqa: T201 - its report is a line of JSON on stdout

import json
import sys
import time

from benchmarks.contenders import Contender


def contender(name: str) -> Contender:
    if name == "nexus":
        from benchmarks.contenders.nexus_flows import Nexus

        return Nexus()
    if name == "nexus3":
        from benchmarks.contenders.nexus_flows import NexusInThree

        return NexusInThree()
    if name == "core":
        from benchmarks.contenders.core import Core

        return Core()
    raise SystemExit(f"no contender {name}")


def main() -> None:
    verb, name, url, *rest = sys.argv[1:]
    chosen = contender(name)
    if verb == "fill":
        chosen.fill(url, int(rest[0]))
        return
    began, cpu = time.time(), time.process_time()
    done = chosen.work(url, rest[0], int(rest[1]))
    print(json.dumps({"began": began, "ended": time.time(), "cpu": time.process_time() - cpu, "done": done}))


if __name__ == "__main__":
    main()

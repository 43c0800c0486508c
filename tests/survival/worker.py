"""An agent in a process of its own, for `test_power_cut.py`: works until it is killed, and says what was acknowledged.

    python worker.py URL NAME CHECKPOINT_PAGES

Each line is a task whose completion the board has acknowledged, and how long the write-ahead log was then. Not a test
itself.
"""

import sys
import time
from pathlib import Path

import sqlalchemy as sa

from nexus import NexusSettings, TaskNexus


def main() -> None:
    """Work for ever."""
    url, name, pages = sys.argv[1:]
    nexus = TaskNexus(url, settings=NexusSettings(lease_seconds=0.5))
    sa.event.listen(
        nexus._database.engine, "connect", lambda driver, _: driver.execute(f"PRAGMA wal_autocheckpoint = {pages}")
    )
    nexus.close()  # the next connections have it
    log = Path(url.removeprefix("sqlite:///") + "-wal")
    while True:
        for claim in nexus.claim(name, 3) or [nexus.claim_task(nexus.add_task({}).task_id, name)]:
            nexus.start(claim)
            nexus.complete(claim, {"by": name, "words": "word " * 50})
            sys.stdout.write(f"{claim.task_id} {log.stat().st_size}\n")
            sys.stdout.flush()
            time.sleep(0.0005)


if __name__ == "__main__":
    main()

"""A command with a temper: `python -m deployments.quickstart.flaky --succeed-on 3`.

It works on the attempt that it is told to, which it learns from NEXUS_ATTEMPT, and fails on the others.
"""

import argparse
import os
import sys


def main() -> int:
    """Exit code 0 on the attempt that is to work, 1 on the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--succeed-on", type=int, required=True, help="The attempt that works; 0: none.")
    wanted = parser.parse_args().succeed_on
    attempt = int(os.environ.get("NEXUS_ATTEMPT", "1"))
    if attempt == wanted:
        sys.stdout.write(f"attempt {attempt}: worked\n")
        return 0
    sys.stderr.write(f"attempt {attempt}: the service did not answer\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""A process that does what it is told: `python -m benchmarks.child MODULE:CLASS ARGUMENTS`.

It makes one object, from arguments in JSON, and enters it. Each line on stdin is a list in JSON, a method's name and
what to give it; each answer is a line of JSON on stdout. The end of stdin is the end. What libraries print goes to
stderr.
"""

import json
import os
import sys
from contextlib import suppress
from importlib import import_module


def main() -> None:
    where, arguments = sys.argv[1:]
    module, _, name = where.partition(":")
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1) as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        with getattr(import_module(module), name)(*json.loads(arguments)) as told:
            for line in sys.stdin:
                method, *given = json.loads(line)
                answers.write(json.dumps(getattr(told, method)(*given)) + "\n")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # whoever measures has been stopped
        main()

"""Real processes and real terminals, for what cannot be seen from within one."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NEXUS = [sys.executable, "-P", "-c", "from deployments.cli import main; main()"]


def environment(**values: str) -> dict[str, str]:
    """None of the user's settings; our packages importable from any directory."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("NEXUS_", "PREFECT_"))}
    return {**env, "PYTHONPATH": str(ROOT), **values}


def nexus(*words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Runs `nexus …`; `env` adds variables."""
    env = environment(**options.pop("env", {}))
    options.setdefault("stdout", subprocess.PIPE)
    return subprocess.run([*NEXUS, *words], env=env, stderr=subprocess.PIPE, check=False, timeout=60, **options)


def shell(script: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a line of bash in which `nexus` is the command; its exit code is that of the first that fails."""
    quoted = " ".join(f"'{word}'" for word in NEXUS)
    lines = f'set -o pipefail; nexus() {{ {quoted} "$@"; }}; {script}'
    return subprocess.run(["bash", "-c", lines], env=environment(**env), capture_output=True, check=False, timeout=60)


def on_a_terminal(*words: str, columns: int = 80, **env: str) -> tuple[int, str]:
    """Runs `nexus …` on a terminal of that width: the exit code and what stood there."""
    screen, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    given = environment(**{"TERM": "xterm-256color", **env})
    given.pop("COLUMNS", None)
    with subprocess.Popen([*NEXUS, *words], env=given, stdin=inside, stdout=inside, stderr=inside) as process:
        os.close(inside)
        shown = b""
        while True:
            try:
                part = os.read(screen, 65_536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
    os.close(screen)
    return process.returncode, shown.decode().replace("\r\n", "\n")

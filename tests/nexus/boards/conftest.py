"""Boards as small files: written, read, looked at."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nexus.boards import Board, read_board

Read = Callable[..., Board]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write `content` (text as it is, anything else as JSON) to a file of this name, and read it."""

    def run(content: Any, name: str = "board.json", **options: Any) -> Board:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return read_board(path, **options)

    return run

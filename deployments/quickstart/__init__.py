"""The board that ships with the package: real work on the directory that it is run in."""

from pathlib import Path

BOARD = Path(__file__).with_name("board.yaml")

EXPECTED_DEAD_LETTER = "always-fails"
"""The task that is there to show what a dead letter looks like (in a copy its id has a suffix)."""

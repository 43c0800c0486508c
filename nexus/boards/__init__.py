"""Boards in files: reading any shape of them into values, and writing the nexus's own. No database here."""

from nexus.boards.board import board_files, read_board
from nexus.boards.reading import DEFAULT_LIMIT, read_documents
from nexus.boards.records import Board, BoardState, BoardTask, ImportReport, Reject, Source
from nexus.boards.writing import board_document, write_board, write_tasks

__all__ = [
    "DEFAULT_LIMIT",
    "Board",
    "BoardState",
    "BoardTask",
    "ImportReport",
    "Reject",
    "Source",
    "board_document",
    "board_files",
    "read_board",
    "read_documents",
    "write_board",
    "write_tasks",
]

"""The beginning and the end of a stream of unknown length, in a memory of known size."""

from flows.handlers.payload import decode


class Kept:
    """Takes in any number of bytes and holds at most `limit`: the first half and the newest half.

    The beginning says what a program was doing, the end why it stopped; the middle is what can be missed.
    """

    def __init__(self, limit: int) -> None:
        self._head_room, self._tail_room = limit - limit // 2, limit // 2
        self._head, self._tail = bytearray(), bytearray()
        self._seen = 0

    def feed(self, data: bytes) -> None:
        """Takes in the next bytes."""
        self._seen += len(data)
        start = self._head_room - len(self._head)
        self._head += data[:start]
        # Cut before adding: a burst that is longer than the limit must not be held, even for a moment.
        rest = memoryview(data)[max(start, len(data) - self._tail_room) :]
        surplus = len(self._tail) + len(rest) - self._tail_room
        if surplus > 0:
            del self._tail[:surplus]
        self._tail += rest

    @property
    def left_out(self) -> int:
        """Bytes that were seen and are not held."""
        return self._seen - len(self._head) - len(self._tail)

    def text(self) -> str:
        """What is held, with a line in the gap that says how many bytes were left out there."""
        if not self.left_out:
            # In one piece: the halves may part a character of several bytes.
            return decode(self._head + self._tail)
        return f"{decode(self._head)}\n… {self.left_out:,} bytes left out …\n{decode(self._tail)}"

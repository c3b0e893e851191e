"""Lines of results that arrive in chunks."""

from __future__ import annotations


class Lines:
    """Makes chunks of bytes into whole lines; a line takes time in proportion to its length."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def take(self, chunk: bytes) -> list[bytes]:
        """The lines that a chunk makes whole, without their ends."""
        self._pieces.append(chunk)
        if b"\n" not in chunk:
            return []
        *lines, rest = b"".join(self._pieces).split(b"\n")
        self._pieces = [rest]
        return lines

    def rest(self) -> bytes:
        """What came after the last line's end."""
        return b"".join(self._pieces)

"""The body of POST /runs/multipart, encoded once so that every retry sends the same bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

import orjson
import zstandard

SPLIT_OUT = ("inputs", "outputs", "events", "extra", "error", "serialized")
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True, slots=True)
class Operation:
    """One run as the parts of a body.

    `alone` asks for a body of its own: a run that another process may have posted can conflict,
    and must not take others with it.
    """

    parts: tuple[tuple[str, bytes], ...]
    alone: bool = False

    @classmethod
    def of(
        cls, verb: Literal["post", "patch"], run: dict[str, Any], *, alone: bool = False
    ) -> Operation:
        """Encode a run: itself first, then the fields that travel in parts of their own."""
        name = f"{verb}.{run['id']}"
        head = {key: value for key, value in run.items() if key not in SPLIT_OUT}
        parts = [(name, _dumps(head))]
        parts += [
            (f"{name}.{field}", _dumps(run[field]))
            for field in SPLIT_OUT
            if run.get(field) is not None
        ]
        return cls(tuple(parts), alone)

    @property
    def size(self) -> int:
        """Bytes before compression, headers of the parts included."""
        return sum(len(name) + len(data) + 150 for name, data in self.parts)


@dataclass(frozen=True, slots=True)
class Body:
    """An encoded request and the runs it holds."""

    data: bytes
    headers: dict[str, str]
    runs: int


def encode(operations: Iterable[Operation], *, zstd: bool) -> Body:
    """Encode operations as one multipart/form-data body."""
    boundary = uuid4().hex
    chunks: list[bytes] = []
    runs = 0
    for operation in operations:
        runs += 1
        for name, data in operation.parts:
            chunks += (
                f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n'
                f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode(),
                data,
                b"\r\n",
            )
    chunks.append(f"--{boundary}--\r\n".encode())
    data = b"".join(chunks)
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    if zstd:
        data = zstandard.ZstdCompressor(level=1).compress(data)
        headers["Content-Encoding"] = "zstd"
    return Body(data, headers, runs)


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, default=str, option=_OPTIONS)

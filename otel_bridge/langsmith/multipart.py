"""The body of POST /runs/multipart, encoded once so that every retry sends the same bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import uuid4

import orjson
import zstandard
from requests_toolbelt.multipart.decoder import MultipartDecoder

SPLIT_OUT = ("inputs", "outputs", "events", "extra", "error", "serialized")
_CONTENT = (".inputs", ".outputs")
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
_PART_OVERHEAD = 150


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
        return sum(len(name) + len(data) + _PART_OVERHEAD for name, data in self.parts)

    def without_content(self) -> Operation:
        """The same run with no inputs and outputs; its metadata has the usage all the same."""
        return Operation(
            tuple((name, b"{}" if name.endswith(_CONTENT) else data) for name, data in self.parts),
            self.alone,
        )


@dataclass(frozen=True, slots=True)
class Body:
    """An encoded request and the number of operations in it.

    `key` sorts bodies by age and tells one from all others. `adopted` ones come from a process
    that has ended.
    """

    data: bytes
    headers: dict[str, str]
    runs: int
    key: str
    adopted: bool = False

    def uncompressed(self) -> Body:
        """The same body for a server that takes no zstd."""
        headers = {k: v for k, v in self.headers.items() if k != "Content-Encoding"}
        if len(headers) == len(self.headers):
            return self
        data = zstandard.ZstdDecompressor().decompress(self.data)
        return replace(self, data=data, headers=headers)

    def split(self) -> list[Body]:
        """Smaller bodies with the same runs; none where it cannot be smaller.

        A single run that is too large loses its content, never its usage.
        """
        operations = _decode(self)
        middle = len(operations) // 2
        groups = [operations[:middle], operations[middle:]]
        if not middle:
            groups = [[each.without_content()] for each in operations]
            if groups == [operations]:
                return []
        return [
            replace(encode(group, f"{self.key}.{index}"), adopted=self.adopted)
            for index, group in enumerate(groups)
        ]


def encode(operations: Iterable[Operation], key: str) -> Body:
    """Encode operations as one multipart/form-data body, compressed by zstd."""
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
    headers = {
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Encoding": "zstd",
    }
    data = zstandard.ZstdCompressor(level=1).compress(b"".join(chunks))
    return Body(data, headers, runs, key)


def _decode(body: Body) -> list[Operation]:
    plain = body.uncompressed()
    parts: dict[str, list[tuple[str, bytes]]] = {}
    for part in MultipartDecoder(plain.data, plain.headers["Content-Type"]).parts:
        disposition = part.headers[b"Content-Disposition"].decode()
        name = disposition.partition('name="')[2].rstrip('"')
        parts.setdefault(".".join(name.split(".")[:2]), []).append((name, part.content))
    return [Operation(tuple(each)) for each in parts.values()]


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, default=str, option=_OPTIONS)

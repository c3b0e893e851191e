"""The body of POST /runs/multipart, encoded once so that every retry sends the same bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import uuid4

import zstandard
from requests_toolbelt.multipart.decoder import MultipartDecoder

from otel_bridge._core.json import dumps

SPLIT_OUT = ("inputs", "outputs", "events", "extra", "error", "serialized")
_CONTENT = (".inputs", ".outputs")
_BOUNDARY = uuid4().hex
_PART = (
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="%b"\r\n'
    "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b\r\n"
).encode()
_END = f"--{_BOUNDARY}--\r\n".encode()
_HEADERS = {
    "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}",
    "Content-Encoding": "zstd",
}

Part = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Operation:
    """One run as the bytes of its parts, which is what a queue of many thousands has room for.

    `alone` asks for a body of its own: a run that another process may have posted can conflict,
    and must not take others with it.
    """

    data: bytes
    alone: bool = False

    @classmethod
    def of(
        cls, verb: Literal["post", "patch"], run: dict[str, Any], *, alone: bool = False
    ) -> Operation:
        """Encode a run: itself first, then the fields that travel in parts of their own."""
        name = f"{verb}.{run['id']}"
        head = dict(run)
        fields = [(field, head.pop(field, None)) for field in SPLIT_OUT]
        parts = [(name, dumps(head))]
        parts += [(f"{name}.{field}", dumps(value)) for field, value in fields if value is not None]
        return cls.of_parts(parts, alone=alone)

    @classmethod
    def of_parts(cls, parts: Iterable[Part], *, alone: bool = False) -> Operation:
        """Put the named parts of one run together."""
        framed = [_PART % (name.encode(), len(data), data) for name, data in parts]
        return cls(b"".join(framed), alone)

    @property
    def size(self) -> int:
        """Bytes before compression."""
        return len(self.data)


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
        runs = _decode(self)
        middle = len(runs) // 2
        groups = [runs[:middle], runs[middle:]]
        if not middle:
            groups = [[_without_content(run) for run in runs]]
            if groups == [runs]:
                return []
        return [
            replace(
                encode(map(Operation.of_parts, group), f"{self.key}.{index}"), adopted=self.adopted
            )
            for index, group in enumerate(groups)
        ]


def encode(operations: Iterable[Operation], key: str) -> Body:
    """Encode operations as one multipart/form-data body, compressed by zstd."""
    parts = [operation.data for operation in operations]
    data = zstandard.ZstdCompressor(level=1).compress(b"".join((*parts, _END)))
    return Body(data, dict(_HEADERS), len(parts), key)


def _decode(body: Body) -> list[list[Part]]:
    """The parts of each run."""
    plain = body.uncompressed()
    runs: dict[str, list[Part]] = {}
    for part in MultipartDecoder(plain.data, plain.headers["Content-Type"]).parts:
        disposition = part.headers[b"Content-Disposition"].decode()
        name = disposition.partition('name="')[2].rstrip('"')
        runs.setdefault(".".join(name.split(".")[:2]), []).append((name, part.content))
    return list(runs.values())


def _without_content(run: list[Part]) -> list[Part]:
    return [(name, b"{}" if name.endswith(_CONTENT) else data) for name, data in run]

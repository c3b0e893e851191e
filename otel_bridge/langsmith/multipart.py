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

FormPart = tuple[str, bytes]
"""A part's name in the form, and its JSON."""


@dataclass(frozen=True, slots=True)
class RunUpdate:
    """A post or patch of one run, as the bytes of its form parts; a queue holds many thousands.

    `own_body` asks for a body without other updates: where another process may have posted the
    run, LangSmith may answer with a conflict, which is for all that is in the body.
    """

    data: bytes
    own_body: bool = False

    @classmethod
    def from_run(
        cls, verb: Literal["post", "patch"], run: dict[str, Any], *, own_body: bool = False
    ) -> RunUpdate:
        """Encode a run: the run itself, then each large field as a part of its own."""
        name = f"{verb}.{run['id']}"
        head = dict(run)
        fields = [(field, head.pop(field, None)) for field in SPLIT_OUT]
        parts = [(name, dumps(head))]
        parts += [(f"{name}.{field}", dumps(value)) for field, value in fields if value is not None]
        return cls.from_parts(parts, own_body=own_body)

    @classmethod
    def from_parts(cls, parts: Iterable[FormPart], *, own_body: bool = False) -> RunUpdate:
        """Frame the form parts of one run."""
        framed = [_PART % (name.encode(), len(data), data) for name, data in parts]
        return cls(b"".join(framed), own_body)

    @property
    def size(self) -> int:
        """Number of bytes before compression."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Body:
    """An encoded request with `updates` run updates.

    `key` is unique and sorts bodies by age. `inherited` is True for a body that a process left
    which has ended.
    """

    data: bytes
    headers: dict[str, str]
    updates: int
    key: str
    inherited: bool = False

    def uncompressed(self) -> Body:
        """Return the same body for a server that accepts no zstd."""
        headers = {k: v for k, v in self.headers.items() if k != "Content-Encoding"}
        if len(headers) == len(self.headers):
            return self
        data = zstandard.ZstdDecompressor().decompress(self.data)
        return replace(self, data=data, headers=headers)

    def split(self) -> list[Body]:
        """Return smaller bodies with the same runs, an empty list where there can be none.

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
                encode_body(map(RunUpdate.from_parts, group), f"{self.key}.{index}"),
                inherited=self.inherited,
            )
            for index, group in enumerate(groups)
        ]


def encode_body(updates: Iterable[RunUpdate], key: str) -> Body:
    """Encode updates as one multipart/form-data body, compressed by zstd."""
    framed = [update.data for update in updates]
    data = zstandard.ZstdCompressor(level=1).compress(b"".join((*framed, _END)))
    return Body(data, dict(_HEADERS), len(framed), key)


def _decode(body: Body) -> list[list[FormPart]]:
    """Return the form parts of each run."""
    plain = body.uncompressed()
    runs: dict[str, list[FormPart]] = {}
    for part in MultipartDecoder(plain.data, plain.headers["Content-Type"]).parts:
        disposition = part.headers[b"Content-Disposition"].decode()
        name = disposition.partition('name="')[2].rstrip('"')
        runs.setdefault(".".join(name.split(".")[:2]), []).append((name, part.content))
    return list(runs.values())


def _without_content(run: list[FormPart]) -> list[FormPart]:
    return [(name, b"{}" if name.endswith(_CONTENT) else data) for name, data in run]

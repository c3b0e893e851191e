"""A body as a file: the name tells what is in it and for whom, the content is what is sent."""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import orjson

from otel_bridge._core.display import safe_endpoint
from otel_bridge.langsmith.connecting import Destination
from otel_bridge.langsmith.multipart import Body

_ENDPOINT = "runs/multipart"
_NAME = re.compile(
    r"(?P<key>[^_]+)_(?P<api>[0-9a-f]{12})-(?P<account>[0-9a-f]{12})_(?P<runs>\d+)\.json"
)


@dataclass(frozen=True, slots=True)
class Label:
    """What a file's name tells: the body's key and operations, and whose API and account."""

    key: str
    runs: int
    api: str
    account: str

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """The label of a file, None where its name is none that we give."""
        match = _NAME.fullmatch(path.name)
        if match is None:
            return None
        return cls(match["key"], int(match["runs"]), match["api"], match["account"])


def write(folder: Path, body: Body, destination: Destination, **more: str) -> Path:
    """Write a body for a destination, whole or not at all; nobody but the owner may read it.

    The envelope is that of the LangSmith SDK's LANGSMITH_FAILED_TRACES_DIR, with the API's URL
    and `more` beside it. Raises OSError.
    """
    account = f"{destination.api}-{destination.account}"
    path = folder / f"{body.key}_{account}_{body.runs}.json"
    envelope = {
        "version": 1,
        "endpoint": _ENDPOINT,
        "headers": body.headers,
        "body_base64": base64.b64encode(body.data).decode(),
        "api_url": safe_endpoint(destination.api_url),
        **more,
    }
    draft = path.with_suffix(".tmp")
    try:
        draft.unlink(missing_ok=True)
        # O_EXCL follows no link.
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps(envelope))
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return path


def read(path: Path) -> tuple[bytes, dict[str, str]]:
    """The bytes and headers of a body. Raises OSError, and ValueError for what is none."""
    envelope = orjson.loads(path.read_bytes())
    try:
        data, headers = envelope["body_base64"], dict(envelope["headers"])
        return base64.b64decode(data, validate=True), headers
    except (KeyError, TypeError) as error:
        raise ValueError(f"it holds no body: {error}") from error

"""Where results are written: JSON lines as the API gave them, or a Parquet table."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_bridge.errors import ConfigurationError
from otel_bridge.usage import TokenUsage

if TYPE_CHECKING:
    from otel_bridge.batches import BatchResult

Write = Callable[["BatchResult"], None]

_ROWS_PER_GROUP = 10_000
_TOKENS = tuple(TokenUsage.__dataclass_fields__)


def is_parquet(path: str | None) -> bool:
    """Whether a path asks for Parquet. Raises ConfigurationError when that cannot be written."""
    if path is None or not path.endswith(".parquet"):
        return False
    try:
        import pyarrow.parquet  # noqa: F401, PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{path}: writing Parquet takes pyarrow; install it with "
            "pip install 'otel-bridge[parquet]', or write JSON lines to another name"
        ) from error
    return True


@contextlib.contextmanager
def results_file(path: str | None) -> Iterator[Write]:
    """How to write a result: to a file of JSON lines or Parquet by its name, or to stdout."""
    if path is None:
        yield lambda result: _line(sys.stdout.buffer, result)
        sys.stdout.buffer.flush()
        return
    if is_parquet(path):
        with _parquet(path) as write:
            yield write
        return
    with Path(path).open("wb") as file:
        yield lambda result: _line(file, result)


def _line(file: Any, result: BatchResult) -> None:
    file.write(result.raw + b"\n")


@contextlib.contextmanager
def _parquet(path: str) -> Iterator[Write]:
    import pyarrow as pa  # noqa: PLC0415 - an extra
    from pyarrow import parquet  # noqa: PLC0415 - an extra

    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("custom_id", "type", "error_type")),
            *((name, pa.string()) for name in ("model", "stop_reason", "text")),
            *((name, pa.int64()) for name in _TOKENS),
            ("cost_usd", pa.float64()),
            ("result", pa.string()),
        ]
    )
    rows: list[dict[str, Any]] = []
    with parquet.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(rows, schema))
            rows.clear()

        def write(result: BatchResult) -> None:
            rows.append(_row(result))
            if len(rows) == _ROWS_PER_GROUP:
                flush()

        yield write
        flush()


def _row(result: BatchResult) -> dict[str, Any]:
    message = result.to_dict()["result"]["message"] if result.succeeded else {}
    texts = [
        block.get("text", "")
        for block in message.get("content") or ()
        if block.get("type") == "text"
    ]
    return {
        "custom_id": result.custom_id,
        "type": result.type,
        "error_type": result.error_type,
        "model": message.get("model"),
        "stop_reason": message.get("stop_reason"),
        "text": "".join(texts) if message else None,
        **{name: getattr(result.usage, name) for name in _TOKENS},
        "cost_usd": result.cost.total_cost if result.cost is not None else None,
        "result": result.raw.decode(),
    }

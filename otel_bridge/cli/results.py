"""Where results are written: JSON lines as the API gave them, or a Parquet table."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from otel_bridge.batches.results import flat
from otel_bridge.errors import ConfigurationError
from otel_bridge.usage import TokenUsage

if TYPE_CHECKING:
    from otel_bridge.batches import BatchResult


@dataclass(frozen=True, slots=True)
class Sink:
    """Where results go: `write` takes one, `flush` puts what was written on disk."""

    write: Callable[[BatchResult], None]
    flush: Callable[[], None]


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
def results_file(path: str | None) -> Iterator[Sink]:
    """A file of JSON lines or Parquet by its name, or stdout.

    A Parquet file is whole when it is closed, and nothing before.
    """
    if path is None:
        sink = _lines(sys.stdout.buffer)
        yield sink
        sink.flush()
        return
    if is_parquet(path):
        with _parquet(path) as sink:
            yield sink
        return
    with Path(path).open("wb") as file:
        yield _lines(file)


def _lines(file: IO[bytes]) -> Sink:
    return Sink(lambda result: _line(file, result), file.flush)


def _line(file: IO[bytes], result: BatchResult) -> None:
    file.write(result.raw + b"\n")


@contextlib.contextmanager
def _parquet(path: str) -> Iterator[Sink]:
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
            rows.append({**flat(result), "result": result.raw.decode()})
            if len(rows) == _ROWS_PER_GROUP:
                flush()

        yield Sink(write, lambda: None)
        flush()

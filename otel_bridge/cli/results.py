"""Files of results: JSON lines as the API sent them, or a Parquet table."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from otel_bridge._core.private_directory import private_directory
from otel_bridge.batches.results import flat
from otel_bridge.cli.terminal import check_stdout, open_stdout
from otel_bridge.domain.requests import Request, parse_requests
from otel_bridge.domain.usage import TokenUsage
from otel_bridge.errors import BridgeError, ConfigurationError, RequestsError

if TYPE_CHECKING:
    from otel_bridge.batches import BatchResult


@dataclass(frozen=True, slots=True)
class Sink:
    """An open file of results: `write` adds one, `flush` puts those written on disk."""

    write: Callable[[BatchResult], None]
    flush: Callable[[], None]


_ROWS_PER_GROUP = 10_000
_TOKENS = tuple(TokenUsage.__dataclass_fields__)


def is_parquet(path: str | None) -> bool:
    """Return whether a path names a Parquet file. Raises ConfigurationError without pyarrow."""
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


def check_output(output: str | None, *, as_json: bool, source: str = "-") -> None:
    """Raise ConfigurationError where results cannot be written, or would replace their source.

    Results go to `output`, without it to a file in the current directory with `as_json`, and else
    to stdout.
    """
    if output is None and not as_json:
        check_stdout()
        return
    if output is not None and _is_same_file(output, source):
        raise ConfigurationError(
            f"{output}: results would overwrite what is read; choose another --output"
        )
    is_parquet(output)
    place = Path(output or ".")
    try:
        if place.is_dir() and output is None:
            tempfile.TemporaryFile(dir=place).close()
        else:
            place.open("ab").close()
    except OSError as error:
        raise ConfigurationError(
            f"{place}: cannot be written ({error.strerror}); choose another --output"
        ) from error


def _is_same_file(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:
        return False


@contextlib.contextmanager
def results_file(path: str | None) -> Iterator[Sink]:
    """Open a file of results, Parquet where its name ends so; stdout for no path.

    A Parquet file can be read only after it is closed.
    """
    if path is None:
        with open_stdout() as file:
            yield _lines(file)
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


def read_requests(path: str) -> list[Request]:
    """Read and check a JSONL file of requests; `-` is stdin. Raises RequestsError."""
    name = "stdin" if path == "-" else path
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise RequestsError(f"{name}: cannot be read ({error.strerror}); check the path") from error
    return parse_requests(data, name)


def check_state_directory(place: Path) -> None:
    """Raise BridgeError where the state directory, or the spool in it, cannot be used."""
    for names in ((), ("spool",)):
        try:
            tempfile.TemporaryFile(dir=private_directory(place, *names)).close()
        except OSError as error:
            raise BridgeError(
                f"{place.joinpath(*names)}: {error.strerror}; choose another OTEL_BRIDGE_STATE_DIR"
            ) from error

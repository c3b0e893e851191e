"""The terminal: streams that take any text and may close, Ctrl-C, and one line for each error.

This module is loaded first, by every command and by `--help`, so it imports the standard library
alone.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import signal
import sys
from types import FrameType
from typing import IO, TYPE_CHECKING, NoReturn, TextIO

from otel_bridge.errors import BridgeError, ConfigurationError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

FAILED, WRONG, REQUESTS_FAILED = 1, 2, 3
"""Exit statuses. WRONG means wrong usage or configuration."""

_ERRORS = "otel_bridge.cli"
_LOOK_ALIKES = str.maketrans({"✓": "+", "✗": "x", "█": "#", "…": "~"})
_READER_IS_GONE = (errno.EPIPE, errno.EINVAL)
"""A pipe without a reader on POSIX and on Windows."""


def print_error(message: object) -> None:
    """Print one line of the command's own on stderr."""
    print(f"otel-bridge: {message}", file=sys.stderr)


def make_streams_safe() -> None:
    """Replace stdout and stderr by streams on which printing text cannot fail a command.

    Characters that a stream's encoding lacks are replaced. A stream that is closed, or whose
    reader goes away, drops what is printed. Any other fault, such as a full disk, is a BridgeError
    on stdout, and is ignored on stderr.
    """
    codecs.register_error(_ERRORS, _replace)
    _open_closed_descriptors()
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - a descriptor for good
    if sys.stdout is sys.__stdout__:  # nobody who calls `main` put another in its place
        sys.stdout = _safe(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _safe(sys.stderr, 2)


def open_stdout() -> IO[bytes]:
    """Open stdout as a binary file for what must not be lost. Each fault of it is an OSError."""
    return open(1, "wb", closefd=False)


def check_stdout() -> None:
    """Raise ConfigurationError where stdout was closed when the process started."""
    if sys.__stdout__ is None:
        raise ConfigurationError("stdout is closed; redirect it to a file")


class _SafeOutput(io.RawIOBase):
    """A raw stream that drops what nobody reads."""

    def __init__(self, raw: io.FileIO, descriptor: int) -> None:
        self._raw = raw
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: ReadableBuffer, /) -> int | None:
        try:
            return self._raw.write(data)
        except OSError as error:
            if self._descriptor == 1 and error.errno not in _READER_IS_GONE:
                reason = error.strerror or error
                raise BridgeError(f"stdout: cannot be written ({reason})") from error
            return memoryview(data).nbytes


def _safe(stream: TextIO | None, descriptor: int) -> TextIO:
    raw = open(descriptor, "wb", buffering=0, closefd=False)  # noqa: SIM115 - for good
    return io.TextIOWrapper(
        io.BufferedWriter(_SafeOutput(raw, descriptor)),
        encoding=stream.encoding if stream else "utf-8",
        errors=_ERRORS,
        line_buffering=descriptor == 2 or raw.isatty() or getattr(stream, "write_through", False),
    )


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks by ASCII that looks alike, others by escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_LOOK_ALIKES)
    return text.encode("ascii", "backslashreplace").decode(), error.end


def _open_closed_descriptors() -> None:
    """Put the null device in place of closed standard streams, before a file gets their number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which gets the lowest free number


class TerminatedError(KeyboardInterrupt):
    """SIGTERM arrived: nobody is there to be asked."""


def quit_on_interrupt() -> None:
    """Let Ctrl-C end the process with one line at once: imports cannot be unwound quietly."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _quit)


def raise_on_signals() -> None:
    """Let Ctrl-C raise KeyboardInterrupt from now on, and SIGTERM a TerminatedError."""
    if signal.getsignal(signal.SIGINT) is _quit:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)


def _quit(_signal: int, _frame: FrameType | None) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(2, b"otel-bridge: interrupted\n")
    os._exit(FAILED)


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM does what Ctrl-C does: the batch goes on, and unsent runs go to the spool."""
    raise TerminatedError

"""The `otel-bridge` command."""

from __future__ import annotations

import os
import sys

from otel_bridge.cli.terminal import FAILED, make_streams_safe, print_error, quit_on_interrupt
from otel_bridge.errors import BridgeError


def main() -> None:
    """Run the command line. The exit status is 0 done, 1 failed, 2 wrong usage or configuration."""
    quit_on_interrupt()
    make_streams_safe()
    try:
        from otel_bridge.cli.commands import cli  # noqa: PLC0415 - its libraries are an extra

        cli(prog_name="otel-bridge")
    except BridgeError as error:  # stdout fails under `--help`
        print_error(error)
        os._exit(FAILED)  # a usual exit would try to write once more
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("otel_bridge"):
            raise
        sys.exit(
            f"otel-bridge: {error.name} is missing; install the command line with "
            "pip install 'otel-bridge[cli]'"
        )

"""The `otel-bridge` command."""

from __future__ import annotations

import os
import sys

from otel_bridge.errors import ConfigurationError


def main() -> None:
    """Run the command line; exit status 0 done, 1 failed, 2 wrong usage or configuration."""
    from otel_bridge.cli.environment import check_context  # noqa: PLC0415 - for a command alone

    try:
        # OpenTelemetry reads these when it is imported, and fails or prints a traceback.
        check_context(os.environ)
    except ConfigurationError as error:
        print(f"otel-bridge: {error}", file=sys.stderr)  # noqa: T201 - nothing else is there yet
        sys.exit(2)
    try:
        from otel_bridge.cli.commands import cli  # noqa: PLC0415 - its libraries are an extra
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("otel_bridge"):
            raise
        sys.exit(
            f"otel-bridge: {error.name} is missing; install the command line with "
            "pip install 'otel-bridge[cli]'"
        )
    cli()

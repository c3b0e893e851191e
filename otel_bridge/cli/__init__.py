"""The `otel-bridge` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; exit status 0 done, 1 failed, 2 wrong usage or configuration."""
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

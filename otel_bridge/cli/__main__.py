"""`python -m otel_bridge.cli`."""

from otel_bridge.cli import main

main()

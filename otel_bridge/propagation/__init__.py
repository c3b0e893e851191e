"""Which LangSmith run and trace is active, and how both cross processes.

This file imports nothing: OpenTelemetry loads `runtime` while `opentelemetry.context` is being
imported.
"""

"""Checks of OpenTelemetry's own variables, made before it is imported or set up."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import entry_points

from otel_bridge.errors import ConfigurationError

_PROTOCOLS = ("http/protobuf", "grpc")
EXPORTERS = {
    "OTEL_TRACES_EXPORTER": "opentelemetry_traces_exporter",
    "OTEL_METRICS_EXPORTER": "opentelemetry_metrics_exporter",
    "OTEL_LOGS_EXPORTER": "opentelemetry_logs_exporter",
}
"""The group of entry points from which each variable names some."""


def check_context(environ: Mapping[str, str]) -> None:
    """Raise ConfigurationError for a propagator or a runtime context that is not installed."""
    _check(environ, "OTEL_PROPAGATORS", {"none", *_installed("opentelemetry_propagator")})
    _check(environ, "OTEL_PYTHON_CONTEXT", {*_installed("opentelemetry_context")})


def check_exporters(environ: Mapping[str, str]) -> None:
    """Raise ConfigurationError for an exporter that is not installed, or an unknown protocol."""
    for name, group in EXPORTERS.items():
        _check(environ, name, {"none", "otlp", *_installed(group)})
    for signal in ("", "TRACES_", "METRICS_", "LOGS_"):
        _check(environ, f"OTEL_EXPORTER_OTLP_{signal}PROTOCOL", _PROTOCOLS)


def _installed(group: str) -> Iterator[str]:
    return (each.name for each in entry_points(group=group))


def _check(environ: Mapping[str, str], name: str, allowed: Collection[str]) -> None:
    text = environ.get(name, "")
    for value in filter(None, (each.strip() for each in text.split(","))):
        if value not in allowed and value.lower() not in allowed:
            raise ConfigurationError(
                f"{name}={text!r} cannot be used: use {', '.join(sorted(allowed))}"
            )

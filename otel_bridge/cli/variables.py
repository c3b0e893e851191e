"""The doctor's checks of environment variables: the source and effect of each, no secret shown."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from otel_bridge._core.display import safe_endpoint
from otel_bridge._core.redaction import Redaction
from otel_bridge.cli.environment import EXPORTERS, check_exporters
from otel_bridge.cli.telemetry import FirstErrorHandler, set_up_sdk
from otel_bridge.config import VARIABLES, Settings, Variable
from otel_bridge.errors import ConfigurationError

_STANDARD = {
    "ANTHROPIC_API_KEY": "key of the Anthropic API",
    "ANTHROPIC_AUTH_TOKEN": "bearer token of the Anthropic API, or of a gateway",
    "ANTHROPIC_BASE_URL": "the Anthropic API, or a gateway",
    "ANTHROPIC_OPEN_TELEMETRY": "false: no spans of the Anthropic SDK's own",
    "ANTHROPIC_OPEN_TELEMETRY_TRACES_CONTENT_MODE": "content on the Anthropic SDK's own spans",
    "LANGSMITH_API_KEY": "key of LangSmith",
    "LANGSMITH_ENDPOINT": "LangSmith's URL",
    "LANGSMITH_WORKSPACE_ID": "for keys of several workspaces",
    "LANGSMITH_RUNS_ENDPOINTS": "for @traceable alone: no spans are mirrored where it is set",
    "OTEL_CONFIG_FILE": "sets OpenTelemetry up in place of the variables",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "where spans and metrics go",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "where spans go",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "where metrics go",
    "OTEL_EXPORTER_OTLP_HEADERS": "sent with each export",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf by default here",
    "OTEL_TRACES_EXPORTER": "exporters of spans",
    "OTEL_METRICS_EXPORTER": "exporters of metrics",
    "OTEL_METRIC_EXPORT_INTERVAL": "milliseconds between exports of metrics",
    "OTEL_PROPAGATORS": "trace context across processes",
    "OTEL_PYTHON_CONTEXT": "langsmith: @traceable code nests below spans",
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "anthropic-batches: code is left alone",
    "OTEL_RESOURCE_ATTRIBUTES": "added to every span and metric",
    "OTEL_TRACES_SAMPLER": "which traces are recorded; the others are not mirrored",
    "OTEL_TRACES_SAMPLER_ARG": "its argument, such as a share",
    "OTEL_SERVICE_NAME": "the service's name",
}
_SECRET = ("KEY", "HEADERS", "TOKEN", "RUNS_ENDPOINTS")
_ENDPOINT = ("ENDPOINT", "URL")


Severity = Literal["ok", "skipped", "warning", "failed", "wrong"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that the doctor looked at, and what it found."""

    group: str
    name: str
    severity: Severity
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """Give the fields, JSON-ready."""
        return asdict(self)


def variable_checks(environ: Mapping[str, str]) -> Iterator[Check]:
    """Check each variable that matters here, and which exporters and protocols they name."""
    defaults = Settings()
    for variable in VARIABLES:
        yield _variable(variable, environ, getattr(defaults, variable.setting))
    for name, meaning in _STANDARD.items():
        if text := environ.get(name, "").strip():
            yield Check("variables", name, "ok", f"{masked(name, text)} ({meaning})")
    try:
        check_exporters(environ)
    except ConfigurationError as error:
        name, _, fault = str(error).partition("=")
        yield Check("variables", name, "wrong", fault)


def sdk_checks(settings: Settings) -> Iterator[Check]:
    """Check that OpenTelemetry can be set up. Run it last: it changes the process's providers."""
    if settings.sdk_disabled:
        return
    FirstErrorHandler("opentelemetry")  # the check says it; the log is not shown
    os.environ.update(dict.fromkeys(EXPORTERS, "none"))
    try:
        set_up_sdk()
    except ConfigurationError as error:
        yield Check("variables", "OTEL_*", "wrong", str(error))


def _variable(variable: Variable, environ: Mapping[str, str], default: Any) -> Check:
    sources = [name for name in (variable.name, variable.former) if name]
    source = next((name for name in sources if environ.get(name, "").strip()), None)
    if source is None:
        detail = f"default {_shown(default)}: {variable.meaning}"
        return Check("variables", variable.name, "skipped", detail)
    text = environ[source].strip()
    try:
        value = variable.parse(text)
        if isinstance(value, Redaction):
            value.resolve()
    except ValueError as error:
        return Check("variables", source, "wrong", f"{text!r} cannot be used: {error}")
    origin = f"from {source}" if source != variable.name else "from the environment"
    detail = f"{_shown(value)}, {origin}: {variable.meaning}"
    return Check("variables", variable.name, "ok", detail)


def _shown(value: Any) -> str:
    """Spell a value as the environment does."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def masked(name: str, text: str) -> str:
    """Show a variable's value: the last characters of a secret, an endpoint without its secrets."""
    if "HEADERS" in name:
        return "****"
    if any(part in name for part in _SECRET):
        return f"****{text[-4:]}" if len(text) > 16 else "****"
    return safe_endpoint(text) if any(part in name for part in _ENDPOINT) else text

"""Each variable is read, defaulted and refused as documented."""

import logging

import pytest

from otel_bridge import ConfigurationError, Settings
from otel_bridge.config import VARIABLES


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_env({}) == Settings()
    assert Settings.from_env({variable.name: " " for variable in VARIABLES}) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "setting", "value"),
    [
        ("OTEL_BRIDGE_POLL_INTERVAL", "0.5", "poll_interval", 0.5),
        ("OTEL_BRIDGE_MAX_REQUEST_SPANS", "0", "max_request_spans", 0),
        ("OTEL_BRIDGE_MAX_REQUEST_SPANS", "all", "max_request_spans", None),
        ("OTEL_BRIDGE_LANGSMITH_CONTENT", "TRUE", "langsmith_content", True),
        ("OTEL_BRIDGE_LANGSMITH_SPANS", "all", "langsmith_spans", "all"),
        ("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY", "span_content", True),
        ("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "EVENT_ONLY", "span_content", False),
        ("OTEL_BRIDGE_LANGSMITH_ROUTE", "Collector", "langsmith_route", "collector"),
        ("LANGSMITH_TRACING", "true", "langsmith_tracing", True),
        ("LANGCHAIN_TRACING_V2", "true", "langsmith_tracing", True),
        ("LANGSMITH_PROJECT", "mine", "langsmith_project", "mine"),
        ("LANGSMITH_TRACING_SAMPLING_RATE", "0.25", "langsmith_sampling_rate", 0.25),
        (
            "OTEL_SEMCONV_STABILITY_OPT_IN",
            "http, gen_ai_latest_experimental",
            "latest_semconv_only",
            True,
        ),
    ],
)
def test_a_value_is_read(name: str, text: str, setting: str, value: object) -> None:
    assert getattr(Settings.from_env({name: text}), setting) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("OTEL_BRIDGE_POLL_INTERVAL", "0"),
        ("OTEL_BRIDGE_POLL_INTERVAL", "nan"),
        ("OTEL_BRIDGE_POLL_MAX_INTERVAL", "soon"),
        ("OTEL_BRIDGE_MAX_REQUEST_SPANS", "-1"),
        ("OTEL_BRIDGE_LANGSMITH_CONTENT", "maybe"),
        ("OTEL_BRIDGE_LANGSMITH_SPANS", "some"),
        ("OTEL_BRIDGE_LANGSMITH_ROUTE", "any"),
        ("LANGSMITH_TRACING_SAMPLING_RATE", "2"),
    ],
)
def test_a_bad_value_is_named(name: str, text: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}='{text}' cannot be used: use "):
        Settings.from_env({name: text}, strict=True)
    with caplog.at_level(logging.WARNING):
        assert Settings.from_env({name: text}) == Settings()
        assert Settings.from_env({name: text}) == Settings()
    assert len([record for record in caplog.records if name in record.getMessage()]) <= 1

"""Settings from environment variables: each with its default, meaning and check."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from platformdirs import user_state_path

from otel_bridge._core.redaction import Hook, Redaction
from otel_bridge._core.shield import warn_once
from otel_bridge.errors import ConfigurationError

logger = logging.getLogger(__name__)


def _boolean(text: str) -> bool:
    value = {"true": True, "1": True, "false": False, "0": False}.get(text.lower())
    if value is None:
        raise ValueError("use true or false")
    return value


def _above_zero(what: str, most: float = math.inf) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (0 < value <= most and value < math.inf):
            raise ValueError(f"use {what}")
        return value

    return parse


_DAY = 86_400
_seconds = _above_zero(f"a number of seconds above 0, at most {_DAY:,}", _DAY)
_dollars = _above_zero("an amount of USD above 0")


def _cap(text: str) -> int | None:
    if text.lower() == "all":
        return None
    if not text.isdecimal():
        raise ValueError("use a whole number of spans, 0 for none, or all")
    return int(text)


def _attempts(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("use a whole number of attempts, 1 for no second one")
    return int(text)


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"use {' or '.join(allowed)}")
        return text.lower()

    return parse


def _span_content(text: str) -> bool:
    modes = {"span_only": True, "span_and_event": True, "no_content": False, "event_only": False}
    value = modes.get(text.lower())
    return _boolean(text) if value is None else value


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError("use a number from 0 to 1")
    return value


def _directory(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError("there is no home directory; use an absolute path") from None


def _latest_semconv(text: str) -> bool:
    return "gen_ai_latest_experimental" in (part.strip() for part in text.split(","))


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable: the setting it gives, how it is read and what it means."""

    name: str
    setting: str
    parse: Callable[[str], Any]
    meaning: str
    former: str | None = None


VARIABLES = (
    Variable(
        "OTEL_BRIDGE_POLL_INTERVAL",
        "poll_interval",
        _seconds,
        "seconds from a batch's creation to its first poll",
    ),
    Variable(
        "OTEL_BRIDGE_POLL_MAX_INTERVAL",
        "poll_max_interval",
        _seconds,
        "seconds between polls at most",
    ),
    Variable("OTEL_BRIDGE_MAX_REQUEST_SPANS", "max_request_spans", _cap, "request spans per batch"),
    Variable(
        "OTEL_BRIDGE_LANGSMITH_CONTENT",
        "langsmith_content",
        _boolean,
        "prompts and answers to LangSmith",
    ),
    Variable(
        "OTEL_BRIDGE_LANGSMITH_SPANS",
        "langsmith_spans",
        _choice("genai", "all"),
        "which spans become runs",
    ),
    Variable(
        "OTEL_BRIDGE_MAX_ATTEMPTS",
        "max_attempts",
        _attempts,
        "batches that a failed request may go through",
    ),
    Variable("OTEL_BRIDGE_MAX_COST", "max_cost", _dollars, "USD above which nothing is submitted"),
    Variable(
        "OTEL_BRIDGE_LANGSMITH_ROUTE",
        "langsmith_route",
        _choice("direct", "collector"),
        "collector: spans are stamped, nothing is sent",
    ),
    Variable(
        "OTEL_BRIDGE_REDACTION", "redaction", Redaction, "what content passes before it leaves"
    ),
    Variable(
        "OTEL_BRIDGE_STATE_DIR",
        "state_dir",
        _directory,
        "the journal, and what waits for LangSmith",
    ),
    Variable(
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
        "span_content",
        _span_content,
        "prompts and answers on spans",
    ),
    Variable("OTEL_SDK_DISABLED", "sdk_disabled", _boolean, "no telemetry at all"),
    Variable(
        "OTEL_SEMCONV_STABILITY_OPT_IN",
        "latest_semconv_only",
        _latest_semconv,
        "no former names of metrics and attributes",
    ),
    Variable(
        "LANGSMITH_TRACING",
        "langsmith_tracing",
        _boolean,
        "spans become runs in LangSmith",
        "LANGCHAIN_TRACING_V2",
    ),
    Variable("LANGSMITH_PROJECT", "langsmith_project", str, "where runs go", "LANGCHAIN_PROJECT"),
    Variable(
        "LANGSMITH_HIDE_INPUTS",
        "langsmith_hide_inputs",
        _boolean,
        "no inputs of runs",
        "LANGCHAIN_HIDE_INPUTS",
    ),
    Variable(
        "LANGSMITH_HIDE_OUTPUTS",
        "langsmith_hide_outputs",
        _boolean,
        "no outputs of runs",
        "LANGCHAIN_HIDE_OUTPUTS",
    ),
    Variable(
        "LANGSMITH_TRACING_SAMPLING_RATE",
        "langsmith_sampling_rate",
        _rate,
        "share of traces that is mirrored",
        "LANGCHAIN_TRACING_SAMPLING_RATE",
    ),
)


def _default_state_dir() -> Path | None:
    try:
        return user_state_path("otel-bridge")
    except RuntimeError:  # as in a container whose user id has no passwd entry
        warn_once(
            logger,
            "There is no home directory, so no journal and no spool are kept; set "
            "OTEL_BRIDGE_STATE_DIR to an absolute path",
        )
        return None


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment asks for. Times are in seconds, money in USD.

    `max_request_spans` is the number of request spans per batch, None for no cap. `max_attempts`
    is the number of batches that a request may go through, the first included; `max_cost` is what
    a submission may cost at most, None for no bound. `state_dir` is where journal and spool are
    kept, None for neither; its default is None where the user has no home directory.
    `langsmith_tracing` is None where nothing is said of it, which leaves
    the mirror off unless a pipeline names it. `redaction` sees prompts, answers and tool arguments
    before they leave; any callable may be passed.
    """

    poll_interval: float = 30.0
    poll_max_interval: float = 300.0
    max_request_spans: int | None = 5000
    max_attempts: int = 1
    max_cost: float | None = None
    langsmith_content: bool = False
    langsmith_spans: str = "genai"
    langsmith_route: str = "direct"
    span_content: bool = False
    sdk_disabled: bool = False
    latest_semconv_only: bool = False
    langsmith_tracing: bool | None = None
    langsmith_project: str = "default"
    langsmith_hide_inputs: bool = False
    langsmith_hide_outputs: bool = False
    langsmith_sampling_rate: float = 1.0
    redaction: Hook | None = None
    state_dir: Path | None = field(default_factory=_default_state_dir)

    def __post_init__(self) -> None:
        if self.redaction is not None and not isinstance(self.redaction, Redaction):
            object.__setattr__(self, "redaction", Redaction(self.redaction))

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] | None = None, *, strict: bool = False
    ) -> Settings:
        """Read every variable of `VARIABLES`; unset and empty ones have their default.

        Raises ConfigurationError for a bad value when `strict`; otherwise logs one warning for
        it and goes on with the default.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for variable in VARIABLES:
            name = variable.name
            text = environ.get(name, "").strip()
            if not text and variable.former:
                name = variable.former
                text = environ.get(name, "").strip()
            if not text:
                continue
            try:
                value = values[variable.setting] = variable.parse(text)
                if strict and isinstance(value, Redaction):
                    value.resolve()
            except ValueError as error:
                message = f"{name}={text!r} cannot be used: {error}"
                if strict:
                    raise ConfigurationError(message) from None
                warn_once(logger, "%s; the default is used", message)
        named = environ.get("OTEL_TRACES_EXPORTER", "").split(",")
        if "langsmith" in (each.strip() for each in named):
            values.setdefault("langsmith_tracing", True)
        return cls(**values)

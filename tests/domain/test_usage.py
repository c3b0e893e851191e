"""No token is lost or counted twice, whatever form the usage takes."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import anthropic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_bridge import semconv
from otel_bridge.domain.usage import TokenUsage

COUNTS = st.integers(min_value=0, max_value=10**9)
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.text(),
    st.integers(max_value=0),
    st.lists(st.integers()),
    st.dictionaries(st.text(), st.integers()),
)


@st.composite
def usages(draw: st.DrawFn) -> TokenUsage:
    short, long, unsplit = draw(COUNTS), draw(COUNTS), draw(COUNTS)
    answer, thinking = draw(COUNTS), draw(COUNTS)
    return TokenUsage(
        input_tokens=draw(COUNTS),
        cache_read_input_tokens=draw(COUNTS),
        cache_creation_input_tokens=short + long + unsplit,
        ephemeral_5m_input_tokens=short,
        ephemeral_1h_input_tokens=long,
        output_tokens=answer + thinking,
        thinking_tokens=thinking,
        web_search_requests=draw(COUNTS),
    )


def api(usage: TokenUsage) -> dict[str, Any]:
    """The usage as the Messages API writes it."""
    return {
        "input_tokens": usage.input_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "cache_creation_input_tokens": usage.cache_creation_input_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.ephemeral_5m_input_tokens,
            "ephemeral_1h_input_tokens": usage.ephemeral_1h_input_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.thinking_tokens},
        "server_tool_use": {"web_search_requests": usage.web_search_requests},
        "service_tier": "batch",
    }


def flat(form: Mapping[str, Any], prefix: str = "") -> Counter[str]:
    """Every figure of a form by its path, without zeros."""
    counts: Counter[str] = Counter()
    for key, value in form.items():
        if isinstance(value, Mapping):
            counts += flat(value, f"{prefix}{key}.")
        else:
            counts[f"{prefix}{key}"] = value
    return +counts


@given(usages(), st.booleans())
def test_every_token_type_survives_api_attributes_and_back(usage: TokenUsage, legacy: bool) -> None:
    read = TokenUsage.from_api(api(usage))
    assert read == usage
    assert TokenUsage.from_attributes(read.to_attributes(legacy=legacy)) == usage


@given(usages())
def test_every_token_type_survives_batch_attributes(usage: TokenUsage) -> None:
    assert TokenUsage.from_batch_attributes(usage.to_batch_attributes()) == usage


@given(usages(), usages())
def test_a_sums_form_is_the_sum_of_the_forms(one: TokenUsage, other: TokenUsage) -> None:
    both = one + other
    assert both == other + one
    assert flat(one.to_attributes()) + flat(other.to_attributes()) == flat(both.to_attributes())
    assert flat(one.to_batch_attributes()) + flat(other.to_batch_attributes()) == flat(
        both.to_batch_attributes()
    )
    assert flat(one.to_usage_metadata()) + flat(other.to_usage_metadata()) == flat(
        both.to_usage_metadata()
    )


@given(usages())
def test_usage_metadata_counts_every_token_once(usage: TokenUsage) -> None:
    metadata = usage.to_usage_metadata()
    details = metadata.get("input_token_details", {})
    assert metadata["input_tokens"] == usage.input_tokens + sum(details.values())
    assert metadata["total_tokens"] == metadata["input_tokens"] + metadata["output_tokens"]
    assert sum(metadata.get("output_token_details", {}).values()) == usage.thinking_tokens
    assert 0 not in details.values()


def test_usage_metadata_has_langsmiths_keys() -> None:
    usage = TokenUsage(1, 2, 12, 3, 4, 50, 6, 7)
    assert usage.to_usage_metadata() == {
        "input_tokens": 15,
        "output_tokens": 50,
        "total_tokens": 65,
        "input_token_details": {
            "cache_read": 2,
            "ephemeral_5m_input_tokens": 3,
            "ephemeral_1h_input_tokens": 4,
            "cache_creation": 5,
        },
        "output_token_details": {"reasoning": 6},
    }


def test_attributes_have_the_conventions_names() -> None:
    assert TokenUsage(1, 2, 12, 3, 4, 50, 6, 7).to_attributes(legacy=False) == {
        "gen_ai.usage.input_tokens": 15,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "gen_ai.usage.cache_write.input_tokens": 12,
        "anthropic.usage.cache_creation.ephemeral_5m_input_tokens": 3,
        "anthropic.usage.cache_creation.ephemeral_1h_input_tokens": 4,
        "gen_ai.usage.output_tokens": 50,
        "gen_ai.usage.reasoning.output_tokens": 6,
        "anthropic.usage.server_tool_use.web_search_requests": 7,
    }


@given(usages())
def test_the_former_name_is_there_only_with_legacy(usage: TokenUsage) -> None:
    former = semconv.GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS
    legacy, latest = usage.to_attributes(), usage.to_attributes(legacy=False)
    written = usage.cache_creation_input_tokens
    assert legacy == latest | ({former: written} if written else {})
    assert former not in latest


@given(usages())
def test_batch_attributes_have_no_name_that_backends_sum(usage: TokenUsage) -> None:
    names = usage.to_batch_attributes().keys()
    assert all(name.startswith("anthropic.message.batch.usage.") for name in names)
    assert not names & usage.to_attributes().keys()


@given(usages(), usages(), usages())
def test_of_the_iterations_only_compactions_are_added(
    usage: TokenUsage, message: TokenUsage, compaction: TokenUsage
) -> None:
    steps = [
        api(message) | {"type": "message"},
        api(compaction) | {"type": "compaction"},
        api(message) | {"type": "advisor_message"},
    ]
    assert TokenUsage.from_api(api(usage) | {"iterations": steps}) == usage + compaction


@pytest.mark.parametrize("usage", [None, {}, {"iterations": None}, {"iterations": [None, 5, {}]}])
def test_no_usage_is_zero(usage: Mapping[str, Any] | None) -> None:
    assert TokenUsage.from_api(usage) == TokenUsage()
    assert not TokenUsage.from_api(usage)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys([*api(TokenUsage()), "iterations"], JUNK)))
def test_malformed_fields_count_zero(usage: dict[str, Any]) -> None:
    assert TokenUsage.from_api(usage) == TokenUsage()
    assert (
        TokenUsage.from_attributes(
            dict.fromkeys(TokenUsage().to_attributes(), usage.get("input_tokens"))
        )
        == TokenUsage()
    )


@given(usages(), st.sampled_from(sorted(api(TokenUsage()))), JUNK)
def test_a_malformed_field_costs_only_itself(usage: TokenUsage, name: str, junk: Any) -> None:
    whole = api(usage)
    without = {key: value for key, value in whole.items() if key != name}
    assert TokenUsage.from_api(whole | {name: junk}) == TokenUsage.from_api(without)


def test_the_former_name_is_read_where_the_new_one_is_missing() -> None:
    attributes = {
        semconv.GEN_AI_USAGE_INPUT_TOKENS: 10,
        semconv.GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS: 4,
    }
    read = TokenUsage.from_attributes(attributes)
    assert read == TokenUsage(input_tokens=6, cache_creation_input_tokens=4)


ANSWER = TokenUsage(10, 3, 12, 5, 7, 20, 4)


class Answer(BaseHTTPRequestHandler):
    """A Messages API of one answer."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-haiku-4-5",
            "content": [],
            "stop_reason": "end_turn",
            "usage": api(ANSWER),
        }
        body = json.dumps(message).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent."""


@pytest.fixture
def answering() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_anthropic_sdks_own_spans_are_read_whole(answering: str) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with anthropic.Anthropic(
        api_key="key", base_url=answering, open_telemetry={"tracer_provider": provider}
    ) as client:
        client.messages.create(
            model="claude-haiku-4-5", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
        )
    (span,) = exporter.get_finished_spans()
    assert TokenUsage.from_attributes(span.attributes or {}) == ANSWER

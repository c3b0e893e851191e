"""Content is what LangSmith's own wrapper sends, and what the conventions describe."""

import json
import warnings
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import anthropic
import langsmith
import pytest
from anthropic.types import Message

from otel_bridge._core.pending_content import Content, ContentStore
from otel_bridge.domain import messages
from otel_bridge.domain.usage import TokenUsage

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the package's own, on import
    from langsmith.wrappers import wrap_anthropic

Json = dict[str, Any]


class Services(BaseHTTPRequestHandler):
    """The Messages API with one answer, and LangSmith's run ingestion."""

    answer: Json
    run: Json

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.startswith("/runs"):
            self.run.update({key: value for key, value in sent.items() if value})
        body = json.dumps(self.answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PATCH = do_POST  # noqa: N815 - http.server's name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent."""


@pytest.fixture
def services() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Services) as server:
        Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def wrapped(url: str, params: Json, answer: Json) -> Json:
    """The run that `wrap_anthropic` sends for a request."""
    Services.answer, Services.run = answer, {}
    mirror = langsmith.Client(
        api_url=url, api_key="key", auto_batch_tracing=False, tracing_mode="langsmith"
    )
    with anthropic.Anthropic(api_key="key", base_url=url, open_telemetry=False) as client:
        wrap_anthropic(client, tracing_extra={"client": mirror})
        api: Any = client.beta.messages if "mcp_servers" in params else client.messages
        with langsmith.tracing_context(enabled=True):
            api.create(**params)
    return Services.run


def without_nulls(value: Any) -> Any:
    """The wrapper spells out the null fields of the SDK's types, which the API leaves out."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


TEXT = {"type": "text", "text": "Hello."}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln", "n": 1}}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
HIDDEN = {"type": "redacted_thinking", "data": "eHh4"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}
TOOL = {"name": "weather", "description": "It.", "input_schema": {"type": "object"}}
SERVER = {"type": "url", "name": "s", "url": "https://mcp.test", "authorization_token": "hunter2"}
HI = {"role": "user", "content": "Hi."}


def request(**more: Any) -> Json:
    return {"model": "claude-haiku-4-5", "max_tokens": 2000, "messages": [HI], **more}


def message(*blocks: Json, stop_reason: str = "end_turn") -> Json:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": list(blocks),
        "stop_reason": stop_reason,
        "usage": {"input_tokens": 5, "cache_read_input_tokens": 11, "output_tokens": 7},
    }


CASES: dict[str, tuple[Json, Json]] = {
    "plain text": (request(stop_sequences=["x"]), message(TEXT)),
    "system as a string": (request(system="Be brief."), message(TEXT, TEXT)),
    "system as blocks": (request(system=[TEXT | {"cache_control": None}]), message(TEXT)),
    "a tool call": (request(tools=[TOOL]), message(CALL, stop_reason="tool_use")),
    "text and tool calls": (request(tools=[TOOL]), message(TEXT, CALL, TEXT, CALL)),
    "a tool's result and an image": (
        request(messages=[{"role": "user", "content": [RESULT, IMAGE]}]),
        message(TEXT),
    ),
    "thinking": (request(thinking={"type": "adaptive"}), message(THOUGHT, HIDDEN, TEXT)),
    "thinking before a tool call": (request(tools=[TOOL]), message(THOUGHT, TEXT, CALL)),
    "blocks of the SDK's types": (
        request(messages=[HI, Message.construct(**message(THOUGHT, TEXT, CALL)).to_param(), HI]),
        message(TEXT),
    ),
    "a null parameter": (request(container=None, mcp_servers=[SERVER]), message(TEXT)),
    "no content": (request(), message(stop_reason="refusal")),
}


@pytest.mark.parametrize(("params", "answer"), CASES.values(), ids=CASES)
def test_runs_have_the_wrappers_inputs_and_outputs(
    services: str, params: Json, answer: Json
) -> None:
    run = wrapped(services, params, answer)
    outputs = messages.langsmith_outputs(answer)
    outputs["usage_metadata"] = TokenUsage.from_api(answer["usage"]).to_usage_metadata()
    assert without_nulls(messages.langsmith_inputs(params)) == without_nulls(run["inputs"])
    assert without_nulls(outputs) == without_nulls(run["outputs"])
    assert (outputs["content"] is None) == (run["outputs"]["content"] is None)


def test_credentials_of_mcp_servers_stay_here() -> None:
    params = request(mcp_servers=[SERVER])
    inputs = messages.langsmith_inputs(params)
    assert inputs["mcp_servers"] == [SERVER | {"authorization_token": "[SECRET_DETECTED]"}]
    assert params["mcp_servers"] == [SERVER]
    assert "hunter2" not in json.dumps(messages.span_content(params, None))


PARTS: dict[str, tuple[Json, Json]] = {
    "text": (TEXT, {"type": "text", "content": "Hello."}),
    "inline image": (
        IMAGE,
        {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "iVBO"},
    ),
    "image by URL": (
        {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}},
        {"type": "uri", "modality": "image", "uri": "https://x.test/a.png"},
    ),
    "image by file": (
        {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "file", "modality": "image", "file_id": "file_1"},
    ),
    "tool call": (
        CALL,
        {"type": "tool_call", "id": "toolu_1", "name": "weather", "arguments": CALL["input"]},
    ),
    "tool result": (RESULT, {"type": "tool_call_response", "id": "toolu_1", "response": "rain"}),
    "server tool's result": (
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
        {"type": "tool_call_response", "id": "srvtoolu_1", "response": []},
    ),
    "thinking": (THOUGHT, {"type": "reasoning", "content": "Hm."}),
    "redacted thinking": (HIDDEN, {"type": "reasoning", "content": ""}),
    "document of text": ({"type": "document", "source": {"type": "text", "data": "x"}},) * 2,
    "what is newer than this": ({"type": "hologram", "rays": [1]},) * 2,
}


@pytest.mark.parametrize(("block", "part"), PARTS.values(), ids=PARTS)
def test_blocks_become_the_conventions_parts(block: Json, part: Json) -> None:
    params = request(system=[block], messages=[{"role": "user", "content": [block]}])
    spoken = messages.span_content(params, message(block))
    assert {name: json.loads(text) for name, text in spoken.items()} == {
        "gen_ai.input.messages": [{"role": "user", "parts": [part]}],
        "gen_ai.system_instructions": [part],
        "gen_ai.output.messages": [{"role": "assistant", "parts": [part], "finish_reason": "stop"}],
    }


def test_string_content_is_a_text_part_and_roles_are_kept() -> None:
    params = request(system="Be brief.", messages=[HI, {"role": "assistant", "content": "Yes"}])
    spoken = messages.span_content(params, None)
    assert json.loads(spoken["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "Hi."}]},
        {"role": "assistant", "parts": [{"type": "text", "content": "Yes"}]},
    ]
    assert spoken["gen_ai.system_instructions"] == '[{"type":"text","content":"Be brief."}]'
    assert messages.span_content(None, None) == {}


REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "tool_use": "tool_call",
    "refusal": "content_filter",
    "newer_than_this": "newer_than_this",
}


@pytest.mark.parametrize("stop", REASONS)
def test_stop_reasons_become_the_conventions_finish_reasons(stop: str) -> None:
    answer = message(stop_reason=stop)
    assert messages.finish_reasons(answer) == [REASONS[stop]]
    (spoken,) = messages.output_messages(answer)
    assert spoken["finish_reason"] == REASONS[stop]
    assert messages.finish_reasons({"stop_reason": None}) == []


def test_span_content_reads_back_as_a_runs_inputs_and_outputs() -> None:
    attributes = messages.span_content(request(system="Be brief."), message(TEXT))
    assert messages.langsmith_inputs_from_attributes(attributes) == {
        "messages": [
            {"role": "system", "content": [{"type": "text", "content": "Be brief."}]},
            {"role": "user", "content": [{"type": "text", "content": "Hi."}]},
        ]
    }
    assert messages.langsmith_outputs_from_attributes(attributes) == {
        "messages": [{"role": "assistant", "content": [{"type": "text", "content": "Hello."}]}]
    }


@pytest.mark.parametrize("text", [None, 5, "", "{", "5", "{}", "[]", "[5]"])
def test_foreign_content_that_is_no_message_list_is_left_out(text: Any) -> None:
    attributes = {"gen_ai.input.messages": text, "gen_ai.output.messages": text}
    assert messages.langsmith_inputs_from_attributes(attributes) is None
    assert messages.langsmith_outputs_from_attributes(attributes) is None


def test_stored_content_is_given_once() -> None:
    store = ContentStore()
    store.put(1, Content({"a": 1}, None))
    assert store.pop(1) == Content({"a": 1}, None)
    assert store.pop(1) is None


def test_the_store_lets_the_oldest_go() -> None:
    store = ContentStore(size=3)
    for span_id in range(5):
        store.put(span_id, Content({"n": span_id}, None))
    kept = [store.pop(span_id) for span_id in range(5)]
    assert [entry and entry.inputs for entry in kept] == [None, None, {"n": 2}, {"n": 3}, {"n": 4}]

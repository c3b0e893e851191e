"""No prompt or answer leaves unless asked for, and then to the backend it was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

SECRETS = (b"secret question", b"secret system", b"Answer to", b"secret_tool", b"secret argument")


def private_request(make_requests: Callable[[int], list[dict[str, Any]]]) -> dict[str, Any]:
    (request,) = make_requests(1)
    request["custom_id"] = "a-ok-1"
    request["params"] |= {
        "system": "secret system",
        "tools": [{"name": "secret_tool", "input_schema": {"type": "object"}}],
    }
    request["params"]["messages"] += [
        {
            "role": "assistant",
            "content": [
                {
                    "type": "tool_use",
                    "id": "t1",
                    "name": "secret_tool",
                    "input": {"q": "secret argument"},
                }
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "done"}],
        },
    ]
    return request


def received(server: Any) -> bytes:
    return b"".join(request.body for request in server.requests)


@pytest.mark.parametrize(("span_content", "langsmith_content"), [(False, False), (False, True)])
def test_content_reaches_only_whom_it_was_meant_for(
    service: Any, make_requests: Any, span_content: bool, langsmith_content: bool
) -> None:
    executor = service.executor(span_content=span_content, langsmith_content=langsmith_content)
    executor.run([private_request(make_requests)])
    service.flush()
    assert len(service.otlp.spans) == 2
    assert len(service.langsmith.runs) == 2
    for secret in SECRETS:
        assert secret not in received(service.otlp), secret
        assert (secret in received(service.langsmith)) == langsmith_content, secret
    assert b"test" not in received(service.otlp), "the API key"


def test_langsmith_gets_inputs_and_outputs_in_its_own_shape(
    service: Any, make_requests: Any
) -> None:
    request = private_request(make_requests)
    results = service.executor(langsmith_content=True).run([request])
    service.flush()
    (run,) = [run for run in service.langsmith.runs.values() if run["run_type"] == "llm"]
    assert run["inputs"]["messages"][0] == {"role": "system", "content": "secret system"}
    assert run["inputs"]["messages"][1:] == request["params"]["messages"]
    assert run["inputs"]["tools"] == request["params"]["tools"]
    message = json.loads(results["a-ok-1"].raw)["result"]["message"]
    assert run["outputs"]["content"] == message["content"]
    assert run["outputs"]["usage_metadata"] == run["extra"]["metadata"]["usage_metadata"]


def test_spans_get_messages_of_the_conventions_when_asked(service: Any, make_requests: Any) -> None:
    service.executor(span_content=True).run([private_request(make_requests)])
    service.flush()
    (attributes,) = [span.attributes for span in service.otlp.spans if span.name.startswith("chat")]
    inputs = json.loads(attributes["gen_ai.input.messages"])
    assert inputs[0]["parts"] == [{"type": "text", "content": "secret question 0"}]
    assert inputs[1]["parts"][0]["type"] == "tool_call"
    assert json.loads(attributes["gen_ai.system_instructions"]) == [
        {"type": "text", "content": "secret system"}
    ]
    (output,) = json.loads(attributes["gen_ai.output.messages"])
    assert output["role"] == "assistant"
    assert "Answer to" in output["parts"][-1]["content"]


def test_elsewhere_the_answers_alone_are_known(service: Any, make_requests: Any) -> None:
    batch_id = service.api.add_batch([private_request(make_requests)])
    list(service.executor(langsmith_content=True).collect(batch_id))
    service.flush()
    (run,) = [run for run in service.langsmith.runs.values() if run["run_type"] == "llm"]
    assert run["inputs"] == {}
    assert run["outputs"]["content"][-1]["text"].startswith("Answer to")


def test_hidden_inputs_and_outputs_stay_hidden(service: Any, make_requests: Any) -> None:
    executor = service.executor(
        langsmith_content=True, langsmith_hide_inputs=True, langsmith_hide_outputs=True
    )
    executor.run([private_request(make_requests)])
    service.flush()
    for secret in SECRETS:
        assert secret not in received(service.langsmith)


def test_error_messages_of_the_api_are_no_content_but_its_words(
    service: Any, make_requests: Any
) -> None:
    request = {**private_request(make_requests), "custom_id": "a-errored-1"}
    service.executor().run([request])
    service.flush()
    for secret in SECRETS:
        assert secret not in received(service.otlp) + received(service.langsmith)

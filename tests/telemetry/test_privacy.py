"""No prompt or answer leaves unless asked for, and then to the backend it was asked for."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from support import Command, MakeRequests, Service

from otel_bridge import BatchError, ConfigurationError, Settings
from otel_bridge._core import shield
from otel_bridge.batches import engine_of

SECRETS = (b"secret question", b"secret system", b"Answer to", b"secret_tool", b"secret argument")


def private_request(make_requests: MakeRequests) -> dict[str, Any]:
    request: dict[str, Any] = make_requests(1)[0]
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
    service: Service, make_requests: MakeRequests, span_content: bool, langsmith_content: bool
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


def test_no_content_and_no_key_is_in_any_byte_or_log_line(
    service: Service, make_requests: MakeRequests, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    service.langsmith.fail_next("POST", "/runs/multipart", status=422)
    service.client = service.client.with_options(api_key="sk-ant-secret-key")
    requests = [private_request(make_requests), {**make_requests(1)[0], "custom_id": "b-errored-1"}]
    service.executor().run(requests)
    service.flush()
    assert len(service.otlp.spans) == 3
    told = [record for record in caplog.records if record.name.startswith("otel_bridge")]
    assert told, "the refusal is said"
    said = "\n".join(record.getMessage() for record in told).encode()
    for secret in (*SECRETS, b"sk-ant-secret-key"):
        assert secret not in received(service.otlp) + received(service.langsmith) + said, secret


def test_langsmith_gets_inputs_and_outputs_in_its_own_shape(
    service: Service, make_requests: MakeRequests
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


def test_spans_get_messages_of_the_conventions_when_asked(
    service: Service, make_requests: MakeRequests
) -> None:
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


def test_elsewhere_the_answers_alone_are_known(
    service: Service, make_requests: MakeRequests
) -> None:
    batch_id = service.api.add_batch([private_request(make_requests)])
    list(service.executor(langsmith_content=True).collect(batch_id))
    service.flush()
    (run,) = [run for run in service.langsmith.runs.values() if run["run_type"] == "llm"]
    assert run["inputs"] == {}
    assert run["outputs"]["content"][-1]["text"].startswith("Answer to")


def test_hidden_inputs_and_outputs_stay_hidden(
    service: Service, make_requests: MakeRequests
) -> None:
    executor = service.executor(
        langsmith_content=True, langsmith_hide_inputs=True, langsmith_hide_outputs=True
    )
    executor.run([private_request(make_requests)])
    service.flush()
    for secret in SECRETS:
        assert secret not in received(service.langsmith)


def quoting(_: object, result: dict[str, Any]) -> dict[str, Any]:
    """Errors that quote what was asked, as the API's may."""
    if result["type"] == "errored":
        result["error"]["error"]["message"] = "messages.0: secret words"
    return result


WORDS = (b"secret words", b"secret stop")
HIDDEN = ("langsmith_hide_inputs", "langsmith_hide_outputs")


@pytest.mark.parametrize("span_content", [False, True])
@pytest.mark.parametrize("langsmith_content", [False, True])
@pytest.mark.parametrize("hidden", [(), HIDDEN[:1], HIDDEN[1:], HIDDEN])
@pytest.mark.parametrize("hook", [False, True])
def test_error_messages_and_stop_sequences_are_content(
    service: Service,
    make_requests: MakeRequests,
    span_content: bool,
    langsmith_content: bool,
    hidden: tuple[str, ...],
    hook: bool,
) -> None:
    service.api.responder = quoting
    requests = make_requests(2)
    for request, custom_id in zip(requests, ("a-errored-1", "b-ok-1"), strict=True):
        request["custom_id"] = custom_id
        request["params"]["stop_sequences"] = ["secret stop"]
    service.executor(
        span_content=span_content,
        langsmith_content=langsmith_content,
        redaction=masked if hook else None,
        **dict.fromkeys(hidden, True),
    ).run(requests)
    service.flush()
    for secret in WORDS:
        assert (secret in received(service.otlp)) is (span_content and not hook), secret
    # LangSmith also gets what spans carry.
    told = (span_content or langsmith_content) and not hook
    words, ends = (secret in received(service.langsmith) for secret in WORDS)
    assert words is (told and not hidden)
    assert ends is (told and HIDDEN[0] not in hidden)
    (failed,) = [span for span in service.otlp.spans if "error.type" in span.attributes]
    kind, said = "invalid_request_error", f"messages.0: {'[redacted]' if hook else 'secret'} words"
    assert failed.attributes["error.type"] == kind
    assert failed.attributes["anthropic.request.id"].startswith("req_")
    assert failed.status_message == (said if span_content else kind)
    shown = span_content or langsmith_content
    runs = service.langsmith.runs.values()
    errors = [run["error"] for run in runs if "error" in run]
    assert errors == [f"{kind}: {said}" if shown and not hidden else kind]
    stops = [run["extra"]["metadata"].get("ls_stop") for run in runs if run["run_type"] == "llm"]
    stop = [f"{'[redacted]' if hook else 'secret'} stop"]
    assert stops == [stop if shown and HIDDEN[0] not in hidden else None] * 2


def test_a_refusal_of_one_of_several_batches_is_not_quoted(service: Service) -> None:
    recorder = engine_of(service.executor()).recorder
    with pytest.raises(BatchError), recorder.together(200_000, 2):
        raise BatchError("the API refused the batch: 400 messages.0: secret words")
    service.flush()
    (span,) = service.otlp.spans
    assert span.attributes["error.type"] == "BatchError"
    assert b"secret" not in received(service.otlp)


def masked(value: Any) -> Any:
    """A redaction hook that the tests name by its import path, too."""
    if isinstance(value, dict):
        return {key: masked(each) for key, each in value.items()}
    if isinstance(value, list):
        return [masked(each) for each in value]
    return value.replace("secret", "[redacted]") if isinstance(value, str) else value


def failing(value: Any) -> Any:
    raise RuntimeError(f"cannot redact {value}")


def test_a_hook_redacts_what_goes_to_either_backend(
    service: Service, make_requests: MakeRequests
) -> None:
    request = private_request(make_requests)
    before = json.dumps(request)
    settings = {"span_content": True, "langsmith_content": True, "redaction": masked}
    service.executor(**settings).run([request])
    service.flush()
    assert json.dumps(request) == before
    for server in (service.otlp, service.langsmith):
        assert b"secret" not in received(server)
        assert b"[redacted] question" in received(server)
        assert b"[redacted]_tool" in received(server)
        assert b"Answer to" in received(server)


@pytest.mark.parametrize("hook", [failing, "not_a_module:hook", "json:not_there", "json", "json:"])
def test_what_a_failing_hook_should_have_seen_is_withheld(
    service: Service, make_requests: MakeRequests, caplog: pytest.LogCaptureFixture, hook: Any
) -> None:
    shield.said.clear()
    if isinstance(hook, str):
        hook = Settings.from_env({"OTEL_BRIDGE_REDACTION": hook}).redaction
    settings = {"span_content": True, "langsmith_content": True, "redaction": hook}
    results = service.executor(**settings).run(
        [private_request(make_requests), {**make_requests(1)[0], "custom_id": "b-ok-1"}]
    )
    service.flush()
    assert len(results) == 2
    assert len(service.langsmith.runs) == len(service.otlp.spans) == 3
    for server in (service.otlp, service.langsmith):
        for secret in SECRETS:
            assert secret not in received(server), secret
    assert len([r for r in caplog.records if "content is withheld" in r.getMessage()]) == 1
    assert "secret" not in caplog.text


def test_a_hook_redacts_other_libraries_content(service: Service) -> None:
    service.mirror(service.settings(langsmith_content=True, redaction=masked))
    service.tracers.get_tracer("app").start_span(
        "tool",
        attributes={"openinference.span.kind": "TOOL", "input.value": "secret argument"},
    ).end()
    service.flush()
    (run,) = service.langsmith.runs.values()
    assert run["inputs"] == {"input": "[redacted] argument"}
    assert b"secret" not in received(service.langsmith)


def test_a_hook_is_named_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hooks.py").write_text("class Hooks:\n    loud = staticmethod(str.upper)\n")
    monkeypatch.syspath_prepend(tmp_path)
    hook = Settings.from_env({"OTEL_BRIDGE_REDACTION": "hooks:Hooks.loud"}, strict=True).redaction
    assert hook is not None
    assert hook("quiet") == "QUIET"
    for bad in ("hooks:nothing", "nothing:hook", "hooks", "hooks:__name__"):
        with pytest.raises(ConfigurationError, match="OTEL_BRIDGE_REDACTION="):
            Settings.from_env({"OTEL_BRIDGE_REDACTION": bad}, strict=True)


def test_the_command_refuses_a_hook_that_cannot_be_imported(
    bridge: Command, make_requests: MakeRequests
) -> None:
    bridge.environment["OTEL_BRIDGE_REDACTION"] = "nothing:hook"
    done = bridge("submit", bridge.write(make_requests(1)))
    assert done.returncode == 2
    assert "OTEL_BRIDGE_REDACTION='nothing:hook' cannot be used: ModuleNotFoundError" in done.stderr

"""Two harmless calls that tell whether LangSmith answers, and to this key."""

from __future__ import annotations

from otel_bridge._core.display import safe_endpoint, safe_text
from otel_bridge._core.json import as_object, as_text
from otel_bridge.errors import DeliveryError
from otel_bridge.langsmith.connecting import FAULTS, answer_to, connect, reason_of, request

_CALLS = ("/info", "/sessions?limit=1")


def probe() -> str:
    """LangSmith's URL and version.

    Raises DeliveryError where it does not answer or refuses, ConfigurationError for no client.
    """
    client = connect(read_seconds=5.0)
    endpoint = safe_endpoint(client.api_url)
    version: str | None = None
    for path in _CALLS:
        try:
            version = version or as_text(as_object(request(client, "GET", path)).get("version"))
        except FAULTS as error:
            answer = answer_to(error)
            refused = answer is not None and answer.status_code >= 400
            check = "API_KEY" if refused else "ENDPOINT"
            raise DeliveryError(
                f"{endpoint}: {reason_of(error)}; check LANGSMITH_{check}"
            ) from error
    return f"{endpoint}, version {safe_text(version)}" if version else endpoint

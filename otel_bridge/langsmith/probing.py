"""Two harmless calls that tell whether LangSmith answers, and to this key."""

from __future__ import annotations

import requests

from otel_bridge._core.json import as_object, as_text
from otel_bridge.errors import DeliveryError
from otel_bridge.langsmith.connecting import FAULTS, answer_to, connect, reason_of

_CALLS = ("/info", "/sessions?limit=1")


def probe() -> str:
    """LangSmith's URL and version.

    Raises DeliveryError where it does not answer or refuses, ConfigurationError for no client.
    """
    client = connect(read_seconds=5.0)
    version: str | None = None
    for path in _CALLS:
        try:
            answer = client.request_with_retries("GET", path)
            version = version or as_text(as_object(answer.json()).get("version"))
        except requests.JSONDecodeError as error:
            raise DeliveryError(f"{client.api_url}: what answers is not LangSmith's API") from error
        except FAULTS as error:
            check = "ENDPOINT" if answer_to(error) is None else "API_KEY"
            raise DeliveryError(
                f"{client.api_url}: {reason_of(error)}; check LANGSMITH_{check}"
            ) from error
    return f"{client.api_url}, version {version}" if version else client.api_url

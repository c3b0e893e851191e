"""Two harmless calls that tell whether LangSmith answers, and to this key."""

from __future__ import annotations

import requests
from langsmith import utils as ls_utils

from otel_bridge.errors import DeliveryError
from otel_bridge.jsons import object_of, text_of
from otel_bridge.langsmith.connecting import connect

_CALLS = (("/info", "it does not answer"), ("/sessions?limit=1", "it refuses the key"))


def probe() -> str:
    """LangSmith's URL and version.

    Raises DeliveryError where it does not answer or refuses, ConfigurationError for no client.
    """
    client = connect(read_seconds=5.0)
    version: str | None = None
    for path, fault in _CALLS:
        try:
            answer = client.request_with_retries("GET", path)
            version = version or text_of(object_of(answer.json()).get("version"))
        except requests.JSONDecodeError as error:
            raise DeliveryError(f"{client.api_url}: what answers is not LangSmith's API") from error
        except (ls_utils.LangSmithError, requests.RequestException) as error:
            raise DeliveryError(f"{client.api_url}: {_fault(error) or fault}") from error
    return f"{client.api_url}, version {version}" if version else client.api_url


def _fault(error: Exception) -> str:
    """One short line; the SDK's own text has several, with parts of the key in it."""
    context = error.__context__
    if isinstance(context, requests.HTTPError) and context.response is not None:
        return f"HTTP {context.response.status_code}; check LANGSMITH_API_KEY"
    return "no answer in time" if "timed out" in str(error) else "no connection"

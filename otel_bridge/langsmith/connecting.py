"""The client that carries runs to LangSmith, and to whom it carries them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, Self

import orjson
import requests
from langsmith import Client
from langsmith import utils as ls_utils
from urllib3 import Retry

from otel_bridge._core.display import safe_endpoint, safe_text
from otel_bridge._core.http import NoRedirectSession, RedirectedError
from otel_bridge.errors import ConfigurationError

FAULTS = (ls_utils.LangSmithError, requests.RequestException)
"""What a call of the client raises."""
NOT_MIRRORED = "Nothing is mirrored to LangSmith: %s"
"""The warning where there is no mirror, and why."""
_Method = Literal["GET", "POST"]


class AwayError(requests.RequestException):
    """What answered is not LangSmith's API: a log-in page, say, or a captive portal."""


@dataclass(frozen=True, slots=True)
class Destination:
    """An API and, in it, who one is: `api` and `account` are digests that tell them from others.

    The account is a key and a workspace; neither can be read from its digest.
    """

    api_url: str
    api: str
    account: str

    @classmethod
    def of(cls, client: Client) -> Self:
        """Where a client's requests go."""
        url = client.api_url
        place = safe_endpoint(url)  # its password may change
        return cls(url, _digest(place), _digest(url, client.workspace_id, client.api_key))


def connect(read_seconds: float = 10.0) -> Client:
    """A client from the environment, with no retries and no threads of its own.

    Raises ConfigurationError where the SDK makes none, or would take the hosted API for one that
    nobody named: clients do not heed LANGSMITH_RUNS_ENDPOINTS.
    """
    if os.environ.get("LANGSMITH_RUNS_ENDPOINTS"):
        raise ConfigurationError(
            "spans go to one endpoint; set LANGSMITH_ENDPOINT and LANGSMITH_API_KEY, and unset "
            "LANGSMITH_RUNS_ENDPOINTS"
        )
    try:
        # The explicit mode beats LANGSMITH_TRACING_MODE=otel, which would make a loop.
        # Retrying is delivery's work: retries beneath it would only hide time and reason.
        client = Client(
            tracing_mode="langsmith",
            auto_batch_tracing=False,
            retry_config=Retry(total=0),
            timeout_ms=(3_000, int(read_seconds * 1000)),
            session=NoRedirectSession(),
        )
    except (ls_utils.LangSmithError, ValueError) as error:
        raise ConfigurationError(
            f"no client can be made ({safe_text(str(error))}); check LANGSMITH_ENDPOINT"
        ) from error
    if not client.api_url.startswith(("http://", "https://")):
        raise ConfigurationError(
            "LANGSMITH_ENDPOINT is no URL; set it to one such as https://api.smith.langchain.com"
        )
    return client


def request(client: Client, method: _Method, path: str, **options: Any) -> Any:
    """Send a request and return the JSON of its answer, None where its body is empty.

    Raises FAULTS, among them AwayError for an answer that LangSmith's API does not give: a
    redirect, which is not followed, and a success whose body is neither empty nor JSON.
    """
    answer = client.request_with_retries(
        method, path, request_kwargs={**options, "allow_redirects": False}
    )
    if answer.status_code >= 300:
        raise AwayError(f"HTTP {answer.status_code}, a redirect, not followed", response=answer)
    if not answer.content:
        return None
    try:
        return orjson.loads(answer.content)
    except orjson.JSONDecodeError as error:
        text = safe_text(answer.text, 60)
        raise AwayError(
            f"HTTP {answer.status_code}, but what answers is not LangSmith's API: {text}",
            response=answer,
        ) from error


def answer_to(error: Exception) -> requests.Response | None:
    """What LangSmith answered to a call that failed, None where it gave no answer."""
    # The SDK's errors carry no status; each is raised while that of `requests` is handled.
    for each in (error, error.__context__):
        if isinstance(each, requests.RequestException) and each.response is not None:
            return each.response
    return None


def reason_of(error: Exception) -> str:
    """One short line; the SDK's own text has several, with parts of the key in it."""
    for each in (error, error.__context__):
        if isinstance(each, (AwayError, RedirectedError)):
            return str(each)
    answer = answer_to(error)
    if answer is not None:
        return f"HTTP {answer.status_code} {safe_text(answer.text)}".rstrip()
    return "no answer in time" if "timed out" in str(error) else "no connection"


def _digest(*parts: str | None) -> str:
    return blake2b("\0".join(part or "" for part in parts).encode(), digest_size=6).hexdigest()

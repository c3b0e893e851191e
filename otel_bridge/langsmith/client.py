"""LangSmith's API: make a client, ask it, post bodies to it, and say why it refused."""

from __future__ import annotations

import copy
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
from otel_bridge._core.json import as_object, as_text
from otel_bridge.errors import ConfigurationError, DeliveryError
from otel_bridge.langsmith.multipart import Body

FAULTS = (ls_utils.LangSmithError, requests.RequestException)
"""The errors that a call of the client raises."""
NOT_MIRRORED = "Nothing is mirrored to LangSmith: %s"
"""The warning where there is no mirror, and why."""
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_PROBED = ("/info", "/sessions?limit=1")
_Method = Literal["GET", "POST"]


class NotLangSmithError(requests.RequestException):
    """The answer is not that of LangSmith's API, but of a log-in page or a captive portal."""


@dataclass(frozen=True, slots=True)
class Destination:
    """An API and an account there; `api` and `account` are digests, to compare destinations by.

    An account is a key and a workspace. Neither can be read from the digest.
    """

    api_url: str
    api: str
    account: str

    @classmethod
    def of(cls, client: Client) -> Self:
        """Return the destination of a client's requests."""
        url = client.api_url
        endpoint = safe_endpoint(url)  # without the password, which may change
        return cls(url, _digest(endpoint), _digest(url, client.workspace_id, client.api_key))


def connect(read_seconds: float = 10.0) -> Client:
    """Make a client from the environment, without retries and threads of its own.

    Raises ConfigurationError where the SDK refuses the environment, and where
    LANGSMITH_RUNS_ENDPOINTS is set: clients ignore it, and would send to the hosted API.
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

    Raises FAULTS, among them NotLangSmithError for an answer that LangSmith's API does not give: a
    redirect, which is not followed, and a success whose body is neither empty nor JSON.
    """
    answer = client.request_with_retries(
        method, path, request_kwargs={**options, "allow_redirects": False}
    )
    if answer.status_code >= 300:
        raise NotLangSmithError(
            f"HTTP {answer.status_code}, a redirect, not followed", response=answer
        )
    if not answer.content:
        return None
    try:
        return orjson.loads(answer.content)
    except orjson.JSONDecodeError as error:
        text = safe_text(answer.text, 60)
        raise NotLangSmithError(
            f"HTTP {answer.status_code}, but what answers is not LangSmith's API: {text}",
            response=answer,
        ) from error


def answer_to(error: Exception) -> requests.Response | None:
    """Return LangSmith's answer to a call that failed, None where there was no answer."""
    # The SDK's errors carry no status; each is raised while that of `requests` is handled.
    for each in (error, error.__context__):
        if isinstance(each, requests.RequestException) and each.response is not None:
            return each.response
    return None


def reason_of(error: Exception) -> str:
    """Describe an error in one line; the SDK's text has several, and shows parts of the key."""
    for each in (error, error.__context__):
        if isinstance(each, (NotLangSmithError, RedirectedError)):
            return str(each)
    answer = answer_to(error)
    if answer is not None:
        return f"HTTP {answer.status_code} {safe_text(answer.text)}".rstrip()
    return "no answer in time" if "timed out" in str(error) else "no connection"


def probe() -> str:
    """Call LangSmith twice, without effects there, and return its URL and version.

    Raises DeliveryError where it does not answer or refuses the key, and ConfigurationError where
    no client can be made.
    """
    client = connect(read_seconds=5.0)
    endpoint = safe_endpoint(client.api_url)
    version: str | None = None
    for path in _PROBED:
        try:
            answer = as_object(request(client, "GET", path))
        except FAULTS as error:
            response = answer_to(error)
            refused = response is not None and response.status_code >= 400
            check = "API_KEY" if refused else "ENDPOINT"
            raise DeliveryError(
                f"{endpoint}: {reason_of(error)}; check LANGSMITH_{check}"
            ) from error
        version = version or as_text(answer.get("version"))
    return f"{endpoint}, version {safe_text(version)}" if version else endpoint


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why LangSmith did not accept a body.

    `pause` is the number of seconds after which to send it again, None where that is no use.
    `pause_requested` is True where LangSmith named the pause itself.
    """

    reason: str
    status: int | None
    pause: float | None = None
    pause_requested: bool = False


class Sender:
    """Posts bodies through a client, one at a time; the pause doubles while LangSmith fails."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._zstd: bool | None = None
        self._pause = 0.0

    def after_fork(self) -> None:
        """Leave the connection to the parent process."""
        self._zstd, self._pause = None, 0.0
        session = self._client.session
        for prefix, adapter in session.adapters.items():
            session.adapters[prefix] = copy.copy(adapter)  # with a connection pool of its own

    @property
    def failing(self) -> bool:
        """Whether the last request failed in a way that may pass."""
        return self._pause > 0

    def send(self, body: Body) -> Refusal | None:
        """Post a body; return why it was refused, None when it was accepted.

        A conflict (409) answers a repeat of a body that was accepted.
        """
        try:
            body = body if self._accepts_zstd() else body.uncompressed()
            request(self._client, "POST", "/runs/multipart", data=body.data, headers=body.headers)
        except ls_utils.LangSmithConflictError:
            pass
        except FAULTS as error:
            return self._to_refusal(error)
        self._pause = 0.0
        return None

    def _accepts_zstd(self) -> bool:
        if self._zstd is None:
            try:
                info = request(self._client, "GET", "/info")
            except FAULTS as error:
                response = answer_to(error)
                if response is None or _is_transient(response.status_code):
                    raise
                info = {}
            flags = as_object(as_object(info).get("instance_flags"))
            self._zstd = bool(flags.get("zstd_compression_enabled"))
        return self._zstd

    def _to_refusal(self, error: Exception) -> Refusal:
        response = answer_to(error)
        status = response.status_code if response is not None else None
        if status is not None and not _is_transient(status):
            self._pause = 0.0  # it answers
            return Refusal(reason_of(error), status)
        self._pause = min(max(self._pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
        retry_after = response.headers.get("retry-after", "") if response is not None else ""
        if retry_after.isdecimal():
            pause = max(self._pause, float(retry_after))
            return Refusal(reason_of(error), status, pause, pause_requested=True)
        return Refusal(reason_of(error), status, self._pause)


def _is_transient(status: int) -> bool:
    # A success that raised, or a redirect, is not LangSmith's answer.
    return status < 400 or status in (408, 425, 429) or status >= 500


def _digest(*parts: str | None) -> str:
    return blake2b("\0".join(part or "" for part in parts).encode(), digest_size=6).hexdigest()

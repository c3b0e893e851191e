"""What a failed call of the API means, each with the fix in the one line."""

from __future__ import annotations

import anthropic
import httpx2

from otel_bridge._core.display import safe_endpoint, safe_text
from otel_bridge.errors import (
    BatchError,
    BatchNotFoundError,
    BridgeError,
    ConfigurationError,
    RequestsError,
)

CALL_FAULTS = (anthropic.AnthropicError, TypeError, UnicodeEncodeError)
"""What the SDK raises for a call, the last two before anything is sent."""
CLIENT_FAULTS = (anthropic.AnthropicError, httpx2.InvalidURL)
"""What it raises where no client can be made."""
READ_FAULTS = (anthropic.AnthropicError, httpx2.HTTPError)
"""What reading results raises, the latter where the stream breaks off."""
_UNREACHED = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)

_FIXES = {
    400: "mend what it names and submit again",
    403: "use a key of ANTHROPIC_API_KEY whose workspace may create batches",
    404: "check ANTHROPIC_BASE_URL, whose host knows no Message Batches",
    408: "the network is too slow for so large a batch; submit again, or in smaller parts",
    413: "submit the requests in smaller parts; a gateway may take less than the API's 256 MB",
    422: "mend what it names and submit again",
    429: "the limit on batches or requests is reached; submit again later",
    529: "the API is overloaded; submit again later",
}
"""Source: https://docs.anthropic.com/en/api/errors"""


class NotMessageBatchesError(anthropic.AnthropicError):
    """A success whose body the API does not send: a log-in page, say, or a proxy's own JSON."""

    def __init__(self) -> None:
        super().__init__("what answers is not the Message Batches API; check ANTHROPIC_BASE_URL")


PASSING_FAULTS = (anthropic.APIConnectionError, NotMessageBatchesError)
"""What a call may raise while the API is away."""


def describe(error: Exception) -> str:
    """One line for an error of the SDK, with the endpoint where there was no answer."""
    if isinstance(error, anthropic.APIStatusError):
        if error.status_code < 400:
            target = safe_endpoint(error.response.headers.get("location", "nowhere"))
            return (
                f"{error.status_code}, a redirect to {target}, not followed; "
                "check ANTHROPIC_BASE_URL"
            )
        body = error.body
        inner = body.get("error") if isinstance(body, dict) else None
        message = inner.get("message") if isinstance(inner, dict) else error.message
        hint = "; check ANTHROPIC_API_KEY" if error.status_code == 401 else ""
        return f"{error.status_code} {safe_text(str(message), 1_000)}{hint}"
    if isinstance(error, anthropic.APIConnectionError):
        return f"{error.request.url.host or safe_endpoint(str(error.request.url))}: {error.message}"
    return safe_text(str(error)) or type(error).__name__


def failure(error: Exception, what: str) -> BridgeError:
    """What to raise for a call that failed; `what` did not come about."""
    return misconfigured(error) or BatchError(f"{what}: {describe(error)}")


def no_batch(batch_id: str) -> BatchNotFoundError:
    """The API's 404 for a batch."""
    return BatchNotFoundError(
        f"the API knows no batch {batch_id!r}; check the id and the key's workspace"
    )


def unreadable(what: str, error: Exception) -> BatchError:
    """The last try to read `what` failed."""
    return BatchError(f"{what} cannot be read: {describe(error)}")


def refused(error: anthropic.APIStatusError) -> BatchError:
    """The API's no to a batch."""
    fix = _FIXES.get(error.status_code)
    return BatchError(f"the API refused the batch: {describe(error)}" + (f"; {fix}" if fix else ""))


def unreached(error: Exception) -> bool:
    """Whether there was no connection, and so nothing sent."""
    return isinstance(error.__cause__, _UNREACHED)


def no_client(error: Exception) -> BridgeError:
    """Why no client can be made."""
    return misconfigured(error) or ConfigurationError(
        f"no Anthropic client can be made ({safe_text(str(error))}); set ANTHROPIC_API_KEY"
    )


def misconfigured(error: Exception) -> BridgeError | None:
    """The setting, or the text, with which a request cannot be sent; None where it is neither."""
    cause = error.__cause__ if isinstance(error, anthropic.APIConnectionError) else error
    match cause:
        case TypeError() if "authentication" in str(cause):
            return ConfigurationError(
                "there is no key for the Anthropic API; set ANTHROPIC_API_KEY"
            )
        case httpx2.UnsupportedProtocol() | httpx2.InvalidURL():
            return ConfigurationError(
                f"ANTHROPIC_BASE_URL cannot be used ({safe_text(str(cause))}); "
                "set it to a URL such as https://api.anthropic.com"
            )
        case httpx2.LocalProtocolError():
            # Its message would show the key.
            return ConfigurationError(
                "ANTHROPIC_API_KEY cannot be sent in a header; "
                "set it to the key alone, without blanks or line breaks"
            )
        case UnicodeEncodeError() if '"role"' in cause.object:
            return RequestsError(
                f"the requests hold text that cannot be sent ({cause.reason}); remove it"
            )
        case UnicodeEncodeError():
            return ConfigurationError(
                "ANTHROPIC_API_KEY has characters that no key has; set it to the key alone"
            )
    return None

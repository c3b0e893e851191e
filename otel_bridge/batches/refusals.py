"""Why a batch was not created, each with the fix in the one line."""

from __future__ import annotations

import anthropic
import httpx2

from otel_bridge.batches.flows import credentials_error, describe
from otel_bridge.errors import BatchError, ConfigurationError, RequestsError

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


def refused(error: anthropic.APIStatusError) -> BatchError:
    """The API's no to a batch."""
    fix = _FIXES.get(error.status_code)
    return BatchError(f"the API refused the batch: {describe(error)}" + (f"; {fix}" if fix else ""))


def never_sent(error: Exception) -> Exception | None:
    """What kept a request from leaving this process, None where it may have left."""
    cause = error.__cause__ if isinstance(error, anthropic.APIConnectionError) else error
    match cause:
        case TypeError():
            return credentials_error(cause)
        case httpx2.UnsupportedProtocol() | httpx2.InvalidURL():
            return ConfigurationError(
                f"ANTHROPIC_BASE_URL cannot be used ({cause}); "
                "set it to a URL such as https://api.anthropic.com"
            )
        case httpx2.LocalProtocolError():
            # Its message would show the key.
            return ConfigurationError(
                "ANTHROPIC_API_KEY cannot be sent in a header; "
                "set it to the key alone, without blanks or line breaks"
            )
        case UnicodeEncodeError() if '"custom_id"' in cause.object:
            return RequestsError(
                f"the requests hold text that cannot be sent ({cause.reason}); remove it"
            )
        case UnicodeEncodeError():
            return ConfigurationError(
                "ANTHROPIC_API_KEY has characters that no key has; set it to the key alone"
            )
        case httpx2.TransportError() if isinstance(cause, _UNREACHED):
            return BatchError(
                f"nothing was submitted: {describe(error)}; "
                "check ANTHROPIC_BASE_URL and the network"
            )
    return None

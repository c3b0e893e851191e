"""Text from outside, made fit to be shown: no secret of a URL in it, no control character."""

from __future__ import annotations

import re

_HIDDEN = "****"
_CREDENTIALS = re.compile(r"(?P<scheme>\b[a-zA-Z][\w+.-]*://)\S*@")
_QUERY = re.compile(r"(?<=[\w/.~%:-])(?P<mark>\?(?=[^\s'\"<>()])|#(?=\S*=))\S*")
_ENDPOINT_CREDENTIALS = re.compile(r"(?P<scheme>[a-zA-Z][\w+.-]*://|).*@", re.DOTALL)


def safe_endpoint(endpoint: str) -> str:
    """Show where an endpoint is, without its user, password, query and fragment.

    `endpoint` is a URL or, as for gRPC, a host with a port. What stands before an `@` or behind
    a `?` or a `#` becomes `****`.
    """
    credentials = _ENDPOINT_CREDENTIALS.match(endpoint)
    if credentials is not None:
        endpoint = f"{credentials['scheme']}{_HIDDEN}@{endpoint[credentials.end() :]}"
    place, mark, _ = re.split(r"([?#]|$)", endpoint, maxsplit=1)
    return _printable(f"{place}{mark}{_HIDDEN}" if mark else place)


def safe_text(text: str, limit: int = 200) -> str:
    """Put a text in one line of at most `limit` characters, without the secrets of its URLs.

    Libraries and servers quote URLs in what they say of a fault, paths with a query among them.
    """
    shown = _CREDENTIALS.sub(rf"\g<scheme>{_HIDDEN}@", text)
    shown = _QUERY.sub(rf"\g<mark>{_HIDDEN}", shown)
    return _printable(" ".join(shown.split()))[:limit]


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)

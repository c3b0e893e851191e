"""Text from outside, made fit to be shown: no secret of a URL in it, no control character."""

from __future__ import annotations

import re

_HIDDEN = "****"
_ENDPOINT = re.compile(
    r"(?P<scheme>[a-zA-Z][\w+.-]*:/+|)(?P<credentials>.*(@|%40))?(?P<place>.*?)"
    r"(?P<secret>([?#;&]|%3F).*)?",
    re.DOTALL | re.IGNORECASE,
)
_URL = re.compile(r"[a-zA-Z][\w+.-]*:/+\S+")
_CREDENTIALS = re.compile(r"[^\s:]+:\S+@(?=\S)")
_QUERY = re.compile(r"(?<=[\w/.~%:-])\?(?=[^\s'\"<>()])\S*")


def safe_endpoint(endpoint: str) -> str:
    """Show where an endpoint is, without its user, password, parameters, query and fragment.

    `endpoint` is a URL or, as for gRPC, a host with a port. What stands before an `@`, and what
    stands behind a `?`, `#`, `;` or `&`, becomes `****`. So does what is percent-encoded there.
    """
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None:
        return _HIDDEN
    credentials = f"{_HIDDEN}@" if found["credentials"] else ""
    secret = f"{found['secret'][0]}{_HIDDEN}" if found["secret"] else ""
    return _printable(f"{found['scheme']}{credentials}{found['place']}{secret}")


def safe_text(text: str, limit: int = 200) -> str:
    """Put a text in one line of at most `limit` characters, without the secrets of its URLs.

    Libraries and servers quote URLs in what they say of a fault, paths with a query among them.
    """
    shown = _URL.sub(lambda url: safe_endpoint(url[0]), text)
    shown = _CREDENTIALS.sub(f"{_HIDDEN}@", shown)
    shown = _QUERY.sub(f"?{_HIDDEN}", shown)
    return _printable(" ".join(shown.split()))[:limit]


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)

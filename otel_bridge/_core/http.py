"""HTTP clients of ours: what they carry is for the host that was asked, and for no other."""

from __future__ import annotations

from typing import Any

import requests

from otel_bridge._core.display import safe_endpoint


class RedirectedError(requests.RequestException):
    """The server answered with a redirect, which is not followed; `response` is that answer."""


class NotOtlpError(requests.RequestException):
    """A log-in page, or another page in HTML, answers in place of an OTLP backend."""


class NoRedirectSession(requests.Session):
    """A session that follows no redirect, and raises RedirectedError for one.

    `requests` takes the header Authorization off where a redirect leads to another host, and no
    other header: keys in `x-api-key`, or in OTEL_EXPORTER_OTLP_HEADERS, would go along. A POST
    would become a GET, whose answer proves nothing.

    """

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Raise RedirectedError for a redirect; `requests` asks here whether there is one."""
        target = super().get_redirect_target(resp)
        if target is None:
            return None
        raise RedirectedError(
            f"HTTP {resp.status_code}, a redirect to {safe_endpoint(target)}, not followed",
            request=resp.request,
            response=resp,
        )


class OtlpSession(NoRedirectSession):
    """A session for OTLP, which raises NotOtlpError where a success has a page for its body.

    The exporters count each 2xx as an export. The class is the entry point `otel-bridge` of
    `opentelemetry_otlp_credential_provider`, by which OpenTelemetry's OTLP exporters over HTTP
    take their session.
    """

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request. Raises RedirectedError and NotOtlpError."""
        answer = super().send(request, **options)
        if answer.ok and "html" in answer.headers.get("content-type", "").lower():
            raise NotOtlpError(
                f"HTTP {answer.status_code}, but what answers takes no OTLP: it is a page",
                request=request,
                response=answer,
            )
        return answer

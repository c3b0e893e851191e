"""The anthropic SDK's clients, kept from following a redirect with the key in their headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anthropic

if TYPE_CHECKING:
    from anthropic import APIResponse, AsyncAPIResponse

Client = anthropic.Anthropic | anthropic.AsyncAnthropic


class NoRedirects(anthropic.Middleware):
    """Have each request answered by the host that was asked: a redirect is an error status.

    The SDK's HTTP client follows redirects, and takes the header Authorization off for another
    host, but not `x-api-key`.
    """

    def handle(
        self, request: anthropic.APIRequest, call_next: anthropic.CallNext
    ) -> APIResponse[Any]:
        request.options.follow_redirects = False
        return call_next(request)

    async def handle_async(
        self, request: anthropic.APIRequest, call_next: anthropic.AsyncCallNext
    ) -> AsyncAPIResponse[Any]:
        request.options.follow_redirects = False
        return await call_next(request)


def without_redirects(client: Client) -> Client:
    """Copy a client; the copy follows no redirect, and shares the connections of the first."""
    return client.with_options(middleware=[*client.middleware, NoRedirects()])

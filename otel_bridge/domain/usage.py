"""Token usage of one request, or of a sum of requests, and its forms in each backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import add, attrgetter
from typing import Any

from otel_bridge import semconv
from otel_bridge._core.json import as_object, as_objects

_MOST = 2**40
"""Beyond any count of tokens; sums of malformed ones must not leave 64 bits."""


def _count(value: Any) -> int:
    return value if type(value) is int and 0 < value < _MOST else 0


_ALWAYS_THERE = {semconv.GEN_AI_USAGE_INPUT_TOKENS, semconv.GEN_AI_USAGE_OUTPUT_TOKENS}
_BATCH_NAMES = {
    name: semconv.BATCH_USAGE_PREFIX + name.partition(".usage.")[2]
    for name in (
        semconv.GEN_AI_USAGE_INPUT_TOKENS,
        semconv.GEN_AI_USAGE_OUTPUT_TOKENS,
        semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS,
        semconv.GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS,
        semconv.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS,
        semconv.ANTHROPIC_USAGE_EPHEMERAL_5M,
        semconv.ANTHROPIC_USAGE_EPHEMERAL_1H,
        semconv.ANTHROPIC_USAGE_WEB_SEARCH_REQUESTS,
    )
}


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens by type, named and counted as the Anthropic API does.

    `input_tokens` are the uncached ones; cache reads and cache writes are additive to them.
    The two ephemeral fields split `cache_creation_input_tokens` by time to live, and
    `thinking_tokens` are part of `output_tokens`. `web_search_requests` counts searches.

    Source: https://docs.anthropic.com/en/api/messages, `usage`.
    """

    input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    web_search_requests: int = 0

    @property
    def total_input_tokens(self) -> int:
        """Uncached, cache read and cache written tokens: what the conventions call input tokens."""
        return self.input_tokens + self.cache_read_input_tokens + self.cache_creation_input_tokens

    @property
    def total_tokens(self) -> int:
        """All input and output tokens."""
        return self.total_input_tokens + self.output_tokens

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(*map(add, counts(self), counts(other)))

    def __bool__(self) -> bool:
        return any(counts(self))

    @classmethod
    def from_api(cls, usage: Any) -> TokenUsage:
        """Read the `usage` object of a message, or whatever stands in its place.

        The tokens of beta `compaction` iterations are billed and are not in the top-level
        figures, so they are added. Absent, null and malformed fields count as 0.
        """
        usage = as_object(usage)
        if not usage:
            return cls()
        total = cls._from_flat(usage)
        for step in as_objects(usage.get("iterations")):
            if step.get("type") == "compaction":
                total += cls._from_flat(step)
        return total

    @classmethod
    def _from_flat(cls, usage: Mapping[str, Any]) -> TokenUsage:
        split, details, tools = map(
            as_object,
            map(usage.get, ("cache_creation", "output_tokens_details", "server_tool_use")),
        )
        ephemeral_5m = _count(split.get("ephemeral_5m_input_tokens"))
        ephemeral_1h = _count(split.get("ephemeral_1h_input_tokens"))
        return cls(
            _count(usage.get("input_tokens")),
            _count(usage.get("cache_read_input_tokens")),
            max(_count(usage.get("cache_creation_input_tokens")), ephemeral_5m + ephemeral_1h),
            ephemeral_5m,
            ephemeral_1h,
            _count(usage.get("output_tokens")),
            _count(details.get("thinking_tokens")),
            _count(tools.get("web_search_requests")),
        )

    def to_attributes(self, *, legacy: bool = True) -> dict[str, int]:
        """Span attributes of the GenAI conventions, with the SDK's own names where those have none.

        `legacy` adds the former name of cache writes. Parts that are 0 are left out, since each
        attribute of a span takes time and space in every backend.
        """
        attributes = self._by_name()
        if legacy:
            attributes[semconv.GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS] = (
                self.cache_creation_input_tokens
            )
        return {
            name: tokens for name, tokens in attributes.items() if tokens or name in _ALWAYS_THERE
        }

    def _by_name(self) -> dict[str, int]:
        return {
            semconv.GEN_AI_USAGE_INPUT_TOKENS: self.total_input_tokens,
            semconv.GEN_AI_USAGE_OUTPUT_TOKENS: self.output_tokens,
            semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: self.cache_read_input_tokens,
            semconv.GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS: self.cache_creation_input_tokens,
            semconv.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: self.thinking_tokens,
            semconv.ANTHROPIC_USAGE_EPHEMERAL_5M: self.ephemeral_5m_input_tokens,
            semconv.ANTHROPIC_USAGE_EPHEMERAL_1H: self.ephemeral_1h_input_tokens,
            semconv.ANTHROPIC_USAGE_WEB_SEARCH_REQUESTS: self.web_search_requests,
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> TokenUsage:
        """Read what `to_attributes` wrote, or what another GenAI instrumentation did."""
        cache_read = _count(attributes.get(semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS))
        ephemeral_5m = _count(attributes.get(semconv.ANTHROPIC_USAGE_EPHEMERAL_5M))
        ephemeral_1h = _count(attributes.get(semconv.ANTHROPIC_USAGE_EPHEMERAL_1H))
        written = attributes.get(semconv.GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS)
        if written is None:
            written = attributes.get(semconv.GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS)
        cache_write = max(_count(written), ephemeral_5m + ephemeral_1h)
        total = _count(attributes.get(semconv.GEN_AI_USAGE_INPUT_TOKENS))
        return cls(
            max(total - cache_read - cache_write, 0),
            cache_read,
            cache_write,
            ephemeral_5m,
            ephemeral_1h,
            _count(attributes.get(semconv.GEN_AI_USAGE_OUTPUT_TOKENS)),
            _count(attributes.get(semconv.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS)),
            _count(attributes.get(semconv.ANTHROPIC_USAGE_WEB_SEARCH_REQUESTS)),
        )

    def to_batch_attributes(self) -> dict[str, int]:
        """Totals under the batch span's own names: sums over `gen_ai.usage.*` count once."""
        return {_BATCH_NAMES[name]: value for name, value in self._by_name().items()}

    @classmethod
    def from_batch_attributes(cls, attributes: Mapping[str, Any]) -> TokenUsage:
        """Read what `to_batch_attributes` wrote."""
        return cls.from_attributes(
            {name: attributes.get(total) for name, total in _BATCH_NAMES.items()}
        )

    def to_usage_metadata(self) -> dict[str, Any]:
        """LangSmith's `usage_metadata`, without costs; every token is in one detail key at most.

        Source: https://docs.langchain.com/langsmith/log-llm-trace, token usage.
        """
        metadata: dict[str, Any] = {
            "input_tokens": self.total_input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": self.total_tokens,
        }
        unsplit = (
            self.cache_creation_input_tokens
            - self.ephemeral_5m_input_tokens
            - self.ephemeral_1h_input_tokens
        )
        details = {
            "cache_read": self.cache_read_input_tokens,
            "ephemeral_5m_input_tokens": self.ephemeral_5m_input_tokens,
            "ephemeral_1h_input_tokens": self.ephemeral_1h_input_tokens,
            "cache_creation": unsplit,
        }
        if any(details.values()):
            metadata["input_token_details"] = {k: v for k, v in details.items() if v}
        if self.thinking_tokens:
            metadata["output_token_details"] = {"reasoning": self.thinking_tokens}
        return metadata


counts = attrgetter(*TokenUsage.__slots__)
"""The fields in order; ten times faster than `dataclasses.astuple`, which copies deeply."""

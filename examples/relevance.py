"""Score the relevance of 100 papers in one batch, inside a LangSmith workflow.

    pip install 'otel-bridge[cli]'
    export ANTHROPIC_API_KEY=... LANGSMITH_TRACING=true LANGSMITH_API_KEY=...
    export OTEL_TRACES_EXPORTER=otlp OTEL_METRICS_EXPORTER=otlp
    export OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318
    export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf
    python relevance.py

LangSmith shows `lit_review`, below it `batch_structured_output` with the number of requests that
succeeded and failed, tokens by type and cost, and below that the batch with each request.
"""

from __future__ import annotations

import asyncio

from langsmith import traceable
from opentelemetry.distro import OpenTelemetryConfigurator
from pydantic import BaseModel, Field

from otel_bridge import AsyncBatchExecutor, StructuredRequest

MODEL = "claude-sonnet-4-5-20250929"
SYSTEM = "You judge how relevant a paper is to a review of climate change adaptation."
PAPERS = [f"Paper {number} on adaptation" for number in range(100)]


class RelevanceScore(BaseModel):
    """How relevant a paper is, and why."""

    score: int = Field(ge=0, le=10)
    reason: str


@traceable(name="lit_review")
async def lit_review(papers: list[str], config: str = "strict") -> dict[str, RelevanceScore]:
    """Score each paper; those without a score are said and left out."""
    executor = AsyncBatchExecutor()
    results = await executor.run_structured(
        RelevanceScore,
        [
            StructuredRequest(
                custom_id=f"relevance-{number}",
                system_prompt=f"{SYSTEM} Be {config}.",
                user_prompt=f"Score relevance for paper: {paper}",
            )
            for number, paper in enumerate(papers)
        ],
        model=MODEL,
        max_tokens=500,
    )
    for custom_id, result in results.failed.items():
        print(f"{custom_id}: {result.error}")
    usage, cost = results.usage, results.cost
    print(f"{len(results.values_by_id)} of {len(results)} papers scored")
    print(f"{usage.total_input_tokens} input tokens, {usage.output_tokens} output tokens")
    print(f"${cost.total_cost:.6f}" if cost is not None else "cost unknown")
    return results.values_by_id


if __name__ == "__main__":
    OpenTelemetryConfigurator().configure()
    scores = asyncio.run(lit_review(PAPERS))
    best = max(scores, key=lambda custom_id: scores[custom_id].score)
    print(f"most relevant: {best} ({scores[best].score})")

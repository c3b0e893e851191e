"""A FastAPI service that submits Message Batches, tells how they stand and streams their results.

POST /batches with {"questions": {"id": "..."}}, GET /batches/{id}, GET /batches/{id}/results
"""

from collections.abc import AsyncIterator

import anthropic
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

app = FastAPI()
client = anthropic.AsyncAnthropic()


class Questions(BaseModel):
    """Questions by an id of the caller's own."""

    questions: dict[str, str]


class Batch(BaseModel):
    """A batch as the API describes it."""

    id: str
    status: str


@app.post("/batches")
async def submit(asked: Questions) -> Batch:
    """Submit all questions as one batch."""
    batch = await client.messages.batches.create(
        requests=[
            {
                "custom_id": custom_id,
                "params": {
                    "model": "claude-haiku-4-5",
                    "max_tokens": 300,
                    "messages": [{"role": "user", "content": question}],
                },
            }
            for custom_id, question in asked.questions.items()
        ]
    )
    return Batch(id=batch.id, status=batch.processing_status)


@app.get("/batches/{batch_id}")
async def status(batch_id: str) -> Batch:
    """Tell how a batch stands."""
    batch = await client.messages.batches.retrieve(batch_id)
    return Batch(id=batch.id, status=batch.processing_status)


@app.get("/batches/{batch_id}/results")
async def results(batch_id: str) -> StreamingResponse:
    """Stream an ended batch's results, one JSON object a line."""
    entries = await client.messages.batches.results(batch_id)

    async def lines() -> AsyncIterator[str]:
        async for entry in entries:
            yield entry.model_dump_json() + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")

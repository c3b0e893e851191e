"""A LangSmith workflow: many single calls and one batch, all through one shared client."""

import asyncio
from functools import cache

import anthropic
from langsmith import traceable

MODEL = "claude-haiku-4-5"
PAGES = {f"page-{number:03d}": f"# Page {number}\n\nSome text." for number in range(24)}


@cache
def client() -> anthropic.AsyncAnthropic:
    """The client that all calls share."""
    return anthropic.AsyncAnthropic()


@traceable
async def classify(page: str) -> str:
    """One page's kind, by one call."""
    message = await client().messages.create(
        model=MODEL,
        max_tokens=20,
        messages=[{"role": "user", "content": f"Article, index or other?\n\n{page}"}],
    )
    return "".join(block.text for block in message.content if block.type == "text")


@traceable
async def score(pages: dict[str, str]) -> dict[str, str]:
    """Each page's outcome, by one batch."""
    calls = client().messages.batches
    batch = await calls.create(
        requests=[
            {
                "custom_id": custom_id,
                "params": {
                    "model": MODEL,
                    "max_tokens": 20,
                    "messages": [{"role": "user", "content": f"Relevance, 0 to 10?\n\n{page}"}],
                },
            }
            for custom_id, page in pages.items()
        ]
    )
    while batch.processing_status != "ended":
        await asyncio.sleep(0.5)
        batch = await calls.retrieve(batch.id)
    return {entry.custom_id: entry.result.type async for entry in await calls.results(batch.id)}


@traceable
async def review(pages: dict[str, str]) -> dict[str, str]:
    """Classify some pages at once, then score all of them."""
    await asyncio.gather(*(classify(page) for page in list(pages.values())[:6]))
    return await score(pages)


if __name__ == "__main__":
    for custom_id, outcome in asyncio.run(review(PAGES)).items():
        print(custom_id, outcome)

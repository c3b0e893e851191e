"""Has papers reviewed in one Message Batch. It knows of no telemetry at all."""

import time

import anthropic

PAPERS = {f"paper-{number:03d}": f"What is new in paper {number}?" for number in range(40)}


def main() -> None:
    client = anthropic.Anthropic()
    batch = client.messages.batches.create(
        requests=[
            {
                "custom_id": custom_id,
                "params": {
                    "model": "claude-sonnet-4-5",
                    "max_tokens": 500,
                    "messages": [{"role": "user", "content": question}],
                },
            }
            for custom_id, question in PAPERS.items()
        ]
    )
    while batch.processing_status != "ended":
        time.sleep(0.5)
        batch = client.messages.batches.retrieve(batch.id)
    for entry in client.messages.batches.results(batch.id):
        print(entry.custom_id, entry.result.type)


if __name__ == "__main__":
    main()

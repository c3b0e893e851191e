"""What a batch came to, as the journal saves it for reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from otel_bridge.pricing import at_list_price, without_cache
from otel_bridge.telemetry.batch import BatchFacts
from otel_bridge.telemetry.sums import Measured


def totals_of(
    batch: BatchFacts,
    measured: Mapping[str, Measured],
    outcomes: Counter[tuple[str, str | None]],
) -> dict[str, Any]:
    """Times in ISO 8601, requests by outcome and error, tokens and costs in USD by model.

    Costs are the batch's, the same at list price, and the same had nothing been cached; None
    where the model has no known price.
    """
    return {
        "created_at": batch.created_at.isoformat(),
        "ended_at": batch.ended_at.isoformat() if batch.ended_at else None,
        "requests": batch.request_count,
        "outcomes": [[kind, error, count] for (kind, error), count in outcomes.items()],
        "models": {
            model: {
                "answers": each.count,
                "usage": asdict(each.usage),
                **_costs(each, model, batch),
            }
            for model, each in measured.items()
        },
    }


def _costs(each: Measured, model: str, batch: BatchFacts) -> dict[str, float | None]:
    cost = each.cost
    if cost is None:
        return {"cost": None, "list_cost": None, "uncached_cost": None}
    return {
        "cost": cost.total_cost,
        "list_cost": at_list_price(cost),
        "uncached_cost": without_cache(cost, model, batch.created_at),
    }

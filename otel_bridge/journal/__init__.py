"""What was submitted, and which of it was exported, across processes."""

from otel_bridge.journal.contract import PlannedBatch, Signal, Submission
from otel_bridge.journal.sqlite_store import Journal, journal_in

__all__ = ["Journal", "PlannedBatch", "Signal", "Submission", "journal_in"]

"""An embedded Message Batches API and embedded backends, on loopback.

For the demo, and for tests of services that run batches (docs/testing.md). The servers speak the
real protocols and refuse what the real services refuse, as far as it is documented or was observed.
"""

from otel_bridge.simulator.answers import ENDS, Responder, ending
from otel_bridge.simulator.api import MessageBatchesServer
from otel_bridge.simulator.langsmith import LangSmithCapture
from otel_bridge.simulator.otlp import CapturedSpan, MetricPoint, OtlpCapture
from otel_bridge.simulator.server import Action, LoopbackServer, Request, Response

__all__ = [
    "ENDS",
    "Action",
    "CapturedSpan",
    "LangSmithCapture",
    "LoopbackServer",
    "MessageBatchesServer",
    "MetricPoint",
    "OtlpCapture",
    "Request",
    "Responder",
    "Response",
    "ending",
]

"""A service in miniature, the command, real programs, and what else several test files share."""

from support.command import Command
from support.limits import limit_traces
from support.present import present
from support.requests import CREATE, LIST, MODELS, Cost, ListCost, MakeRequests
from support.service import Instrument, Service
from support.waiting import eventually

__all__ = [
    "CREATE",
    "LIST",
    "MODELS",
    "Command",
    "Cost",
    "Instrument",
    "ListCost",
    "MakeRequests",
    "Service",
    "eventually",
    "limit_traces",
    "present",
]

"""OpenTelemetry's runtime context for OTEL_PYTHON_CONTEXT=langsmith.

OpenTelemetry loads this module while `opentelemetry.context` is being imported, so that it can
import neither that nor what needs it.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from contextvars import Token
from dataclasses import dataclass
from typing import Any, cast

from opentelemetry.context.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext


@dataclass(frozen=True, slots=True)
class _Attached:
    token: Token[Context]
    nested: AbstractContextManager[None]


class LangSmithRuntimeContext(ContextVarsRuntimeContext):
    """The usual context, which also makes the run of a current span LangSmith's current run.

    So `@traceable` code nests below the span of any tracer. In a process without runs, an
    attached context costs one look-up more.
    """

    def attach(self, context: Context) -> Token[Context]:
        token = super().attach(context)
        # The propagator and the mirror load it; before, no run is known.
        nesting: Any = sys.modules.get("otel_bridge.propagation.nesting")
        enter = getattr(nesting, "enter", None)
        nested = enter(context) if enter is not None else None
        return token if nested is None else cast("Token[Context]", _Attached(token, nested))

    def detach(self, token: Token[Context]) -> None:
        attached: object = token
        if isinstance(attached, _Attached):
            attached.nested.__exit__(None, None, None)
            token = attached.token
        super().detach(token)

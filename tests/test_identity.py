"""Ids are functions of what the API knows."""

import subprocess
import sys
from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from otel_bridge import identity

SPAN_IDS = st.integers(min_value=1, max_value=2**64 - 1)
TIMES = st.integers(min_value=1_600_000_000 * 10**9, max_value=2_500_000_000 * 10**9)


@given(SPAN_IDS, TIMES)
def test_run_ids_are_uuid7_of_the_start(span_id: int, start_ns: int) -> None:
    run = UUID(identity.run_id(span_id, start_ns))
    assert run.version == 7
    assert run.variant == "specified in RFC 4122"
    assert run.int >> 80 == start_ns // 1_000_000


@given(SPAN_IDS, SPAN_IDS, TIMES)
def test_no_bit_of_the_span_id_is_lost(first: int, second: int, start_ns: int) -> None:
    same = identity.run_id(first, start_ns) == identity.run_id(second, start_ns)
    assert same == (first == second)


@given(SPAN_IDS, TIMES)
def test_dotted_order_tells_the_start_to_the_microsecond(span_id: int, start_ns: int) -> None:
    run = identity.run_id(span_id, start_ns)
    moment, text = identity.dotted_order(run, start_ns).split("Z")
    assert text == run
    read = datetime.strptime(moment, "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)
    since = read - datetime(1970, 1, 1, tzinfo=UTC)
    assert (since.days * 86_400 + since.seconds) * 10**6 + since.microseconds == start_ns // 1000


def test_a_childs_dotted_order_extends_its_parents() -> None:
    parent = identity.dotted_order(identity.run_id(1, 10**18), 10**18)
    child = identity.dotted_order(identity.run_id(2, 10**18), 10**18, parent)
    assert child.startswith(f"{parent}.")


def test_parts_do_not_run_into_each_other() -> None:
    assert identity.request_span_id("ab", "c") != identity.request_span_id("a", "bc")
    kinds = {
        identity.batch_span_id("x"),
        identity.request_span_id("x", ""),
        identity.rollup_span_id("x", "", ""),
        identity.continuation_span_id("x", 0),
        identity.spread("x", ""),
    }
    assert len(kinds) == 5


def test_another_process_makes_the_same_ids() -> None:
    program = (
        "from otel_bridge import identity as i;"
        "print(i.batch_trace_id('b'), i.batch_span_id('b'), i.request_span_id('b', 'r'),"
        "i.rollup_span_id('b', 'm', 'errored'), i.run_id(7, 10**18))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert out == [
        str(identity.batch_trace_id("b")),
        str(identity.batch_span_id("b")),
        str(identity.request_span_id("b", "r")),
        str(identity.rollup_span_id("b", "m", "errored")),
        identity.run_id(7, 10**18),
    ]

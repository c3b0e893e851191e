"""A check of the doctor, with its severity, and how checks are shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

Severity = Literal["ok", "skipped", "warning", "failed", "wrong"]

STATUS: dict[Severity, int] = {"ok": 0, "skipped": 0, "warning": 0, "failed": 1, "wrong": 2}
"""Exit status by severity: something does not answer, or a variable has a bad value."""
_COLOURS = {"ok": "green", "skipped": "dim", "warning": "yellow", "failed": "red", "wrong": "red"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    group: str
    name: str
    severity: Severity
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-ready."""
        return asdict(self)


def print_checks(console: Console, checks: list[Check]) -> None:
    """The checks by group, each with its severity."""
    groups: dict[str, list[Check]] = {}
    for check in checks:
        groups.setdefault(check.group, []).append(check)
    for group, members in groups.items():
        table = Table(title=group, title_justify="left", show_header=False, box=None)
        table.add_column()
        table.add_column(overflow="fold", max_width=40)
        table.add_column(overflow="fold")
        for check in members:
            severity = Text(check.severity, style=_COLOURS[check.severity])
            table.add_row(severity, check.name, Text(check.detail))
        console.print(table)


def status_of(checks: list[Check]) -> int:
    """The exit status: that of the worst."""
    return max(STATUS[check.severity] for check in checks)

"""Tables as rows of text, and how numbers read in them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    title: str
    columns: list[str]
    rows: list[list[str]]


def number(value: float) -> str:
    """Three significant digits, never in scientific notation."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


def percent(share: float) -> str:
    """Whole percent, tenths below 10."""
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}"


def rate(per_second: float) -> str:
    """Operations a second with the prefix that suits them."""
    for prefix, unit in (("P", 1e15), ("T", 1e12)):
        if per_second >= unit:
            return f"{number(per_second / unit)} {prefix}OPS"
    return f"{number(per_second / 1e9)} GOPS"

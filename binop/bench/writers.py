"""How tables look: Markdown, plain text, or rich's boxes where rich is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from binop.bench.text import Table


def markdown(table: Table) -> str:
    """A GitHub table without its title; the columns after the first hold numbers or names."""
    head = "| " + " | ".join(_escape(cell) for cell in table.columns) + " |"
    rule = "|" + "---|" * len(table.columns)
    body = ["| " + " | ".join(_escape(cell) for cell in row) + " |" for row in table.rows]
    return "\n".join([head, rule, *body])


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|")


def markdown_report(tables: Iterable[Table]) -> str:
    """Tables under their titles."""
    return "\n\n".join(f"### {table.title}\n\n{markdown(table)}" for table in tables)


def plain(table: Table) -> str:
    """Columns padded with spaces, for terminals without rich."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.columns))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([table.title, *text])


def show(tables: Iterable[Table]) -> None:
    """Prints tables to the terminal, by rich if it is there."""
    if importlib.util.find_spec("rich") is None:
        for table in tables:
            print(plain(table), end="\n\n")
        print("(plain tables: rich is missing; pip install 'binop[bench]')")
        return
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console()
    if not console.is_terminal:  # Into a file or a pipe: do not fold columns at 80 characters.
        console = Console(width=200)
    for table in tables:
        box = RichTable(title=table.title, title_justify="left")
        for column in table.columns:
            box.add_column(column)
        for row in table.rows:
            box.add_row(*(Text(cell) for cell in row))
        console.print(box)

"""Tables inside a Markdown file, kept equal to the results they come from.

A block stands between the lines ``<!-- bench:DEVICE/TABLE begin -->`` and
``<!-- bench:DEVICE/TABLE end -->``. DEVICE is the ``name`` of a result, TABLE a key of
``tables.TABLES``.
"""

from __future__ import annotations

import re

from binop.bench.result import Result
from binop.bench.tables import TABLES
from binop.bench.writers import markdown

_BEGIN = re.compile(r"<!-- bench:(\S+) begin -->")
_BLOCK = re.compile(
    r"(?P<begin><!-- bench:(?P<name>\S+) begin -->\n).*?(?P<end><!-- bench:(?P=name) end -->)",
    re.DOTALL,
)


def replace_blocks(text: str, result: Result) -> str:
    """``text`` with every block of this result's device written anew; others stay.

    Raises:
        ValueError: no block is for this device, one names no table, or one has no end.
    """
    names = _BEGIN.findall(text)
    whole = [match["name"] for match in _BLOCK.finditer(text)]
    for name in names:
        if whole.count(name) != names.count(name):
            raise ValueError(f"block {name}: expected a line <!-- bench:{name} end --> after it")
    mine = [name for name in names if name.partition("/")[0] == result.name]
    if not mine:
        raise ValueError(f"expected a line <!-- bench:{result.name}/TABLE begin -->, found none")
    for name in mine:
        if name.partition("/")[2] not in TABLES:
            raise ValueError(f"block {name}: expected a table out of {', '.join(TABLES)}")

    def fresh(match: re.Match[str]) -> str:
        device, _, table = match["name"].partition("/")
        if device != result.name:
            return match[0]
        return f"{match['begin']}{markdown(TABLES[table](result))}\n{match['end']}"

    return _BLOCK.sub(fresh, text)

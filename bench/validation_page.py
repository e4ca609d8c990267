"""Put the tables of docs/validation.md in place: python -m bench.validation_page DOCUMENT.json.

The document is that of ``fabricsim validate --all --json DOCUMENT.json``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "validation.md"


def number(value: float | None, decimals: int = 1) -> str:
    """Write a figure; a dash where there is none."""
    return "-" if value is None else f"{value:,.{decimals}f}"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Lay out a table in Markdown."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def families_table(document: Mapping[str, Any]) -> str:
    """All families, fabric by fabric."""
    words = {True: "yes", False: "no", None: "-"}
    return table(
        ("fabric", "family", "fitted", "predicted", "median %", "worst %", "worst up to 1 MiB %", "within"),
        (
            (
                row["fabric"],
                row["family"],
                str(row["fitted"]),
                str(row["predicted"]),
                *(number(row[key]) for key in ("median_percent", "worst_percent", "worst_small_percent")),
                words[row["within"]],
            )
            for row in document["families"]
        ),
    )


def points_table(document: Mapping[str, Any]) -> str:
    """The points of families that are no sweeps of sizes: single published figures."""
    return table(
        ("fabric", "figure", "size (B)", "unit", "measured", "simulated", "error %", "", "source"),
        (
            (
                row["fabric"],
                row["what"],
                f"{row['size_bytes']:,}",
                row["unit"],
                f"{row['measured']:,.4g}" if row["measured"] < 1e4 else f"{row['measured']:,.0f}",
                f"{row['simulated']:,.4g}" if row["simulated"] < 1e4 else f"{row['simulated']:,.0f}",
                f"{row['error_percent']:+.1f}",
                "fitted" if row["fitted"] else "predicted",
                row["source"],
            )
            for row in document["points"]
            if not row["source"].startswith("ai-dynamo/aiconfigurator")
        ),
    )


def main() -> None:
    """Rewrite the page."""
    parser = argparse.ArgumentParser(description="Put the tables of docs/validation.md in place.")
    parser.add_argument("document", type=Path)
    document = json.loads(parser.parse_args().document.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    for name, content in (("families", families_table(document)), ("points", points_table(document))):
        block = f"<!-- {name} -->\n{content}\n<!-- /{name} -->"
        page, found = re.subn(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, text=block: text, page, flags=re.DOTALL)
        if found != 1:
            raise SystemExit(f"{PAGE}: {found} blocks {name}; keep one")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

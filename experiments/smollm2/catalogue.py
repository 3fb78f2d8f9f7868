"""English and French names of countries, languages, currencies and days, from Unicode CLDR.

    python -m experiments.smollm2.catalogue     # needs babel; writes catalogue.tsv anew

The file that it writes is committed, so that the data of the experts depends on no version of
babel. CLDR's data is under the Unicode License v3 (README.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("catalogue.tsv")
KINDS = ("country", "language", "currency", "weekday", "month")
LONGEST_NAME = 3
"""Words of the longest name, in either language."""
NO_COUNTRIES = frozenset({"EU", "EZ", "QO", "UN", "XA", "XB", "ZZ"})
"""Codes of CLDR that stand for groups of countries, or for none."""


class Entry(NamedTuple):
    """One name: its kind (of `KINDS`), and the name in both languages."""

    kind: str
    english: str
    french: str


@lru_cache(maxsize=1)
def catalogue() -> dict[str, tuple[Entry, ...]]:
    """Read the committed names, by kind."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    entries = [Entry(*line.split("\t")) for line in lines]
    return {kind: tuple(entry for entry in entries if entry.kind == kind) for kind in KINDS}


def extract() -> Iterator[Entry]:
    """Take the names from babel's copy of CLDR, in the order of their codes."""
    from babel import Locale
    from babel.core import get_global

    english, french = Locale("en"), Locale("fr")
    tender = {
        currency
        for history in get_global("territory_currencies").values()
        for currency, _, end, legal in history
        if end is None and legal
    }
    countries = sorted(
        code
        for code in english.territories
        if len(code) == 2 and code.isalpha() and code not in NO_COUNTRIES
    )
    tables = {
        "country": (countries, english.territories, french.territories),
        "language": (
            sorted(code for code in english.languages if len(code) == 2),
            english.languages,
            french.languages,
        ),
        "currency": (sorted(tender), english.currencies, french.currencies),
        "weekday": (range(7), english.days["format"]["wide"], french.days["format"]["wide"]),
        "month": (range(1, 13), english.months["format"]["wide"], french.months["format"]["wide"]),
    }
    for kind, (codes, ours, theirs) in tables.items():
        for code in codes:
            pair = (ours.get(code), theirs.get(code))
            if all(name and _plain(name) for name in pair):
                yield Entry(kind, *pair)


def _plain(name: str) -> bool:
    """Whether a name is short and made of words alone."""
    letters = name.replace(" ", "").replace("-", "").replace("’", "")
    return letters.isalpha() and len(name.split()) <= LONGEST_NAME


def main() -> None:
    """Write the file."""
    text = "".join("\t".join(entry) + "\n" for entry in extract())
    FILE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

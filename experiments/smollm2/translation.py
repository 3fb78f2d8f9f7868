"""Translation: sentences of a small grammar, and forms filled with the names of a catalogue.

English: My green house often sees the small dog.
French: Ma maison verte voit souvent le petit chien.

English: Country: Albania; Date: Monday 3 May
French: Pays : Albanie ; Date : lundi 3 mai
"""

from __future__ import annotations

import random

from experiments.smollm2.catalogue import catalogue
from experiments.smollm2.rows import Row
from hm3rl.tasks.translation import TranslationTask

SENTENCES = 0.6
"""Share of sentences; the rest are forms."""

LABELS = {
    "country": ("Country", "Pays"),
    "language": ("Language", "Langue"),
    "currency": ("Currency", "Devise"),
    "date": ("Date", "Date"),
}
"""Fields of a form in both languages."""

_GRAMMAR = TranslationTask()


def draw(rng: random.Random) -> Row:
    """Draw a sentence or a form."""
    english, french = _sentence(rng) if rng.random() < SENTENCES else _form(rng)
    return Row(f"English: {english}\nFrench:", f" {french}")


def _sentence(rng: random.Random) -> tuple[str, str]:
    """A clause of the tiny zoo's grammar, written as a sentence."""
    item = _GRAMMAR.draw(rng, "full")
    english = item.prompt.removeprefix("translate ").removesuffix(" =")
    return f"{_capital(english)}.", f"{_capital(item.reference)}."


def _form(rng: random.Random) -> tuple[str, str]:
    """Two different fields."""
    fields = [(LABELS[kind], _field(kind, rng)) for kind in rng.sample(sorted(LABELS), 2)]
    english = "; ".join(f"{label[0]}: {value[0]}" for label, value in fields)
    french = " ; ".join(f"{label[1]} : {value[1]}" for label, value in fields)
    return english, french


def _field(kind: str, rng: random.Random) -> tuple[str, str]:
    names = catalogue()
    if kind != "date":
        entry = rng.choice(names[kind])
        return entry.english, entry.french
    # French writes the first of a month in another way than all others, hence from the second on.
    weekday, day, month = (
        rng.choice(names["weekday"]),
        rng.randint(2, 28),
        rng.choice(names["month"]),
    )
    return (
        f"{weekday.english} {day} {month.english}",
        f"{weekday.french} {day} {month.french}",
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]

"""Translation: English clauses into French, with gender agreement and adjective order.

"translate my green house often sees the small dog =" is answered by
"ma maison verte voit souvent le petit chien". Scored by exact match; mean sentence chrF is
reported beside it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from sacrebleu.metrics.chrf import CHRF

from hm3rl.tasks.base import Item
from hm3rl.tasks.french import ADJECTIVES, ADVERBS, DETERMINERS, NOUNS, VERBS
from hm3rl.tasks.synthetic_text import Level, SyntheticTask, normalise

EASY_NOUNS = 46
EASY_ADJECTIVES = 21
EASY_VERBS = 18


class TranslationTask(SyntheticTask):
    """English to French; the easy level knows only the first part of each word list."""

    name = "translation"
    metric = "exact_match"
    max_new_tokens = 10
    exact_only = True
    version = "translation-1"

    def draw(self, rng: random.Random, level: Level) -> Item:
        """Draw a clause: noun phrase, verb, perhaps an adverb, noun phrase."""
        easy = level == "easy"
        verb = rng.choice(VERBS[:EASY_VERBS] if easy else VERBS)
        adverb = rng.choice(ADVERBS) if rng.random() < 0.3 else None
        subject_english, subject_french = _noun_phrase(rng, easy)
        object_english, object_french = _noun_phrase(rng, easy)
        english = [*subject_english, *([adverb[0]] if adverb else []), verb[0], *object_english]
        french = [*subject_french, verb[1], *([adverb[1]] if adverb else []), *object_french]
        return Item(self.name, f"translate {' '.join(english)} =", " ".join(french))

    def score(self, items: Sequence[Item], outputs: Sequence[str]) -> list[float]:
        """Score 1 for the reference translation, else 0."""
        return [
            float(normalise(output) == item.reference)
            for item, output in zip(items, outputs, strict=True)
        ]

    def secondary(self, items: Sequence[Item], outputs: Sequence[str]) -> dict[str, list[float]]:
        """Return sentence chrF (Popović 2015, as in sacrebleu) divided by 100."""
        chrf = CHRF()
        scores = [
            chrf.sentence_score(normalise(output), [item.reference]).score / 100.0
            for item, output in zip(items, outputs, strict=True)
        ]
        return {"chrf": scores}

    def words(self) -> Sequence[str]:
        """Return the words of both languages."""
        words = ["translate", "="]
        words += [word for entry in DETERMINERS for word in entry]
        words += [word for noun in NOUNS for word in (noun.english, noun.french)]
        words += [word for adjective in ADJECTIVES for word in adjective[:3]]
        words += [word for pair in (*VERBS, *ADVERBS) for word in pair]
        return words


def _noun_phrase(rng: random.Random, easy: bool) -> tuple[list[str], list[str]]:
    """Draw determiner, noun and perhaps an adjective; return the English and French words."""
    noun = rng.choice(NOUNS[:EASY_NOUNS] if easy else NOUNS)
    determiner = rng.choice(DETERMINERS)
    article = determiner[2] if noun.feminine else determiner[1]
    if rng.random() >= 0.6:
        return [determiner[0], noun.english], [article, noun.french]
    adjective = rng.choice(ADJECTIVES[:EASY_ADJECTIVES] if easy else ADJECTIVES)
    form = adjective.feminine if noun.feminine else adjective.masculine
    french = [form, noun.french] if adjective.before else [noun.french, form]
    return [determiner[0], adjective.english, noun.english], [article, *french]

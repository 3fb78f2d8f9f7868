"""Tasks about numbers and signs, from dates and units to logic and the tenses of English."""

from __future__ import annotations

import random
from functools import partial

from experiments.pools.grammar import DIGITS, GrammarTask, digits, joined
from hm3rl.tasks.synthetic_text import Level

Words = tuple[list[str], list[str]]


def largest(rng: random.Random, level: Level) -> Words:
    """The largest of some numbers; on the easy level their lengths or first digits tell."""
    while True:
        count = 2 if level == "easy" else rng.randint(2, 4)
        numbers = rng.sample(range(1, 1000), count)
        if level == "full" and rng.random() < 0.5:
            head = rng.randint(10, 99)
            numbers = [head * 10 + last for last in rng.sample(range(10), count)]
        best = max(numbers)
        if level == "full" or all(
            len(str(n)) < len(str(best)) or str(n)[0] < str(best)[0] for n in numbers if n != best
        ):
            return ["largest", *joined([digits(n) for n in numbers], ",")], digits(best)


MONTHS = {"jan": 31, "feb": 28, "mar": 31, "apr": 30, "may": 31, "jun": 30}
MONTHS |= {"jul": 31, "aug": 31, "sep": 30, "oct": 31, "nov": 30, "dec": 31}


def dates(rng: random.Random, level: Level) -> Words:
    """The date some days before or after another; on the easy level after, in the same month."""
    names = list(MONTHS)
    while True:
        month = rng.randrange(12)
        day, step = rng.randint(1, MONTHS[names[month]]), rng.randint(1, 20)
        later = level == "easy" or rng.random() < 0.6
        number = day + step if later else day - step
        place = month
        if number > MONTHS[names[month]]:
            number, place = number - MONTHS[names[month]], (month + 1) % 12
        elif number < 1:
            place = (month - 1) % 12
            number += MONTHS[names[place]]
        if level == "full" or place == month:
            prompt = ["date", *digits(day), names[month], "plus" if later else "minus"]
            return [*prompt, *digits(step), "days"], [*digits(number), names[place]]


LENGTHS = {"mm": 0, "cm": 1, "dm": 2, "m": 3}


def units(rng: random.Random, level: Level) -> Words:
    """A length in another unit; on the easy level in the next smaller one: one zero is added."""
    number = rng.randint(1, 999)
    while True:
        source, target = rng.sample(list(LENGTHS), 2)
        power = LENGTHS[source] - LENGTHS[target]
        if level == "full" or power == 1:
            break
    prompt = ["convert", *digits(number), source, "to", target]
    if power > 0:
        return prompt, digits(number * 10**power)
    text = f"{number / 10**-power:.{-power}f}".rstrip("0").rstrip(".")
    return prompt, list(text)


def bases(rng: random.Random, level: Level) -> Words:
    """A number written in another base; on the easy level with two digits."""
    base = rng.randint(3, 9)
    number = rng.randint(base, base**2 - 1) if level == "easy" else rng.randint(base, 299)
    answer: list[str] = []
    left = number
    while left:
        answer.append(str(left % base))
        left //= base
    return ["base", str(base), *digits(number)], answer


def series(rng: random.Random, level: Level) -> Words:
    """The next number of a series: equal steps, and on the full level growing ones or doubling."""
    kind = (
        "equal" if level == "easy" else rng.choice(["equal", "equal", "growing", "double", "two"])
    )
    start = rng.randint(0, 30) if level == "easy" else rng.randint(0, 60)
    step = rng.randint(1, 5) if level == "easy" else rng.randint(1, 12)
    if kind == "equal":
        numbers = [start + step * i for i in range(5)]
    elif kind == "growing":
        numbers = [start + step * i + i * (i - 1) // 2 for i in range(5)]
    elif kind == "double":
        numbers = [(start % 12 + 1) * 2**i for i in range(5)]
    else:
        other = rng.randint(1, 9)
        numbers = [start]
        for i in range(4):
            numbers.append(numbers[-1] + (step if i % 2 == 0 else other))
    shown = joined([digits(n) for n in numbers[:4]], ",")
    return ["next", *shown], digits(numbers[4])


ROMAN = (
    *((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L")),
    *((40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")),
)


def roman(rng: random.Random, level: Level) -> Words:
    """A number in Roman numerals; on the easy level without a sign that is taken off another."""
    while True:
        number = rng.randint(1, 2999)
        left, text = number, ""
        for value, sign in ROMAN:
            count, left = divmod(left, value)
            text += sign * count
        if level == "full" or (number < 1000 and not set(str(number)) & set("49")):
            return ["roman", *digits(number)], list(text)


def logic(rng: random.Random, level: Level) -> Words:
    """What three formulas say of three truth values; on the easy level without "not"."""
    values = {name: rng.random() < 0.5 for name in "xyz"}
    prompt = ["logic"]
    for name, value in values.items():
        prompt += [name, "yes" if value else "no"]
    answer = []
    for _ in range(3):
        first, second = rng.sample("xyz", 2)
        kind = rng.choice(["and", "or"] if level == "easy" else ["and", "or", "nor", "differs"])
        a, b = values[first], values[second]
        found = {"and": a and b, "or": a or b, "nor": not (a or b), "differs": a != b}[kind]
        prompt += [",", first, kind, second]
        answer.append("yes" if found else "no")
    return prompt, answer


def clock(rng: random.Random, level: Level) -> Words:
    """The time some minutes later; on the easy level within the hour."""
    while True:
        hour, minute, step = rng.randint(0, 23), rng.randrange(60), rng.randint(1, 180)
        if level == "easy":
            step %= 60
        if level == "full" or (0 < step and minute + step < 60):
            break
    then = (hour * 60 + minute + step) % 1440
    prompt = ["clock", *f"{hour:02d}", ":", *f"{minute:02d}", "plus", *digits(step)]
    return prompt, [*f"{then // 60:02d}", ":", *f"{then % 60:02d}"]


LETTERS = "abcdefghijklmnop"


def shifting(rng: random.Random, level: Level) -> Words:
    """Letters moved along the alphabet, which is closed to a ring."""
    length = rng.randint(2, 3) if level == "easy" else rng.randint(2, 5)
    step = rng.randint(1, 2) if level == "easy" else rng.randint(1, 4)
    word = [rng.choice(LETTERS) for _ in range(length)]
    moved = [LETTERS[(LETTERS.index(letter) + step) % len(LETTERS)] for letter in word]
    return ["shift", str(step), *word], moved


def walking(rng: random.Random, level: Level) -> Words:
    """Where a walk ends: steps north or south, then steps east or west."""
    length = rng.randint(2, 3) if level == "easy" else rng.randint(2, 7)
    names = ["north", "east"] if level == "easy" else ["north", "south", "east", "west"]
    steps = [rng.choice(names) for _ in range(length)]
    up = steps.count("north") - steps.count("south")
    right = steps.count("east") - steps.count("west")
    answer = []
    if up:
        answer += ["north" if up > 0 else "south", str(abs(up))]
    if right:
        answer += ["east" if right > 0 else "west", str(abs(right))]
    return ["walk", *steps], answer or ["home"]


VERBS = {"walk": "walked", "open": "opened", "paint": "painted", "help": "helped"}
VERBS |= {"clean": "cleaned", "call": "called", "watch": "watched", "push": "pushed"}
IRREGULAR = {"go": "went", "take": "took", "see": "saw", "find": "found", "bring": "brought"}
IRREGULAR |= {"write": "wrote", "break": "broke", "leave": "left", "hold": "held"}
PERSONS = ("i", "you", "he", "she", "we", "they")
OBJECTS = ("it", "them", "this", "that", "one", "some")


def tenses(rng: random.Random, level: Level) -> Words:
    """A small English sentence: tense, person, irregular verbs, negation and question."""
    verbs = VERBS if level == "easy" else VERBS | IRREGULAR
    verb, person, thing = rng.choice(list(verbs)), rng.choice(PERSONS), rng.choice(OBJECTS)
    tense = rng.choice(["now", "past"])
    form = "plain" if level == "easy" else rng.choice(["plain", "not", "ask"])
    third = person in ("he", "she")
    helper = "did" if tense == "past" else "does" if third else "do"
    prompt = ["say", person, verb, thing, tense, form]
    if form == "not":
        return prompt, [person, helper, "not", verb, thing]
    if form == "ask":
        return prompt, [helper, person, verb, thing, "?"]
    if tense == "past":
        return prompt, [person, verbs[verb], thing]
    return prompt, [person, verb, "+s", thing] if third else [person, verb, thing]


def number_tasks(n_search: int, n_test: int) -> tuple[GrammarTask, ...]:
    """Return the tasks of this file, with so many items of each split."""
    task = partial(GrammarTask, n_search=n_search, n_test=n_test)
    sentence = ["say", *VERBS, *VERBS.values(), *IRREGULAR, *IRREGULAR.values(), *PERSONS, *OBJECTS]
    sentence += ["now", "past", "plain", "not", "ask", "did", "does", "do", "?", "+s"]
    walks = ["walk", "north", "south", "east", "west", "home", *DIGITS]
    formulas = ["logic", *"xyz", "yes", "no", ",", "and", "or", "nor", "differs"]
    return (
        task("largest", largest, ["largest", ",", *DIGITS], 4),
        task("dates", dates, ["date", *MONTHS, "plus", "minus", "days", *DIGITS], 4),
        task("units", units, ["convert", *LENGTHS, "to", ".", *DIGITS], 8),
        task("bases", bases, ["base", *DIGITS], 7),
        task("series", series, ["next", ",", *DIGITS], 4),
        task("roman", roman, ["roman", *"IVXLCDM", *DIGITS], 16),
        task("logic", logic, formulas, 4),
        task("clock", clock, ["clock", ":", "plus", *DIGITS], 6),
        task("shifting", shifting, ["shift", *LETTERS, *DIGITS], 6),
        task("walking", walking, walks, 5),
        task("tenses", tenses, sentence, 6),
    )

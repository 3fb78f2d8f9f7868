"""The generated tasks: splits, training text, answers and scores."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from hm3rl.tasks.base import split_of
from hm3rl.tasks.code import INSTRUCTIONS, CodeTask, program
from hm3rl.tasks.french import ADJECTIVES, NOUNS
from hm3rl.tasks.math import MathTask
from hm3rl.tasks.sequences import ReversalTask, SortingTask
from hm3rl.tasks.sums import SumsTask, WorkedSumsTask
from hm3rl.tasks.synthetic_text import SyntheticTask
from hm3rl.tasks.translation import TranslationTask


class InProcessRunner:
    """Executes trusted programs in this process; a program that raises fails its tests."""

    limits = ""

    def describe(self) -> str:
        return "nothing"

    def check(self) -> None:
        """These programs are trusted."""

    def run(
        self, programs: Sequence[str], tests: Sequence[tuple[tuple[str, str], ...]]
    ) -> list[float]:
        return [float(self._passes(p, t)) for p, t in zip(programs, tests, strict=True)]

    def _passes(self, source: str, tests: tuple[tuple[str, str], ...]) -> bool:
        scope: dict[str, object] = {}
        try:
            exec(source, scope)
            return all(repr(eval(call, scope)) == expected for call, expected in tests)
        except (SyntaxError, TypeError, ZeroDivisionError, OverflowError, NameError):
            return False


TASKS: tuple[SyntheticTask, ...] = (
    TranslationTask(),
    MathTask(),
    CodeTask(InProcessRunner()),
    SortingTask(),
    ReversalTask(),
    SumsTask(),
    WorkedSumsTask(),
)
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


@each_task
def test_items_are_distinct_and_of_their_split(task: SyntheticTask) -> None:
    for split, count in (("search", 200), ("test", 500), ("train", 256)):
        items = task.items(split)  # type: ignore[arg-type]
        assert len({item.prompt for item in items}) == len(items) == count
        assert {split_of(task.name, item.prompt) for item in items} == {split}


@each_task
def test_items_come_from_the_seed(task: SyntheticTask) -> None:
    again = type(task)()
    assert again.items("test") == task.items("test")
    assert type(task)(seed=1).items("search") != task.items("search")


@each_task
@pytest.mark.parametrize("level", ["easy", "full"])
def test_training_text_never_meets_held_out_items(task: SyntheticTask, level: str) -> None:
    held_out = {item.prompt for split in ("search", "test") for item in task.items(split)}  # type: ignore[arg-type]
    for seed in range(5):
        drawn = task.training_items(2000, level, seed)  # type: ignore[arg-type]
        assert not held_out & {item.prompt for item in drawn}
        assert {split_of(task.name, item.prompt) for item in drawn} == {"train"}


@each_task
def test_references_score_one_and_fit_the_decoding_limit(task: SyntheticTask) -> None:
    items = task.items("test")
    assert task.score(items, [item.reference for item in items]) == [1.0] * len(items)
    assert task.score(items, [f" {item.reference}  " for item in items]) == [1.0] * len(items)
    longest = max(len(i.reference.split()) + 1 for i in task.training_items(5000, "full", 3))
    assert longest <= task.max_new_tokens


@each_task
def test_wrong_answers_score_zero(task: SyntheticTask) -> None:
    items = task.items("search")[:50]
    assert task.score(items, ["" for _ in items]) == [0.0] * 50
    assert task.score(items, [f"{item.reference} = 1" for item in items]) == [0.0] * 50


@each_task
def test_words_cover_the_grammar(task: SyntheticTask) -> None:
    known = set(task.words())
    for item in task.training_items(3000, "full", 0):
        assert known.issuperset(f"{item.prompt} {item.reference}".split())


def test_french_agrees_and_orders_adjectives() -> None:
    task = TranslationTask()
    genders = {noun.french: noun.feminine for noun in NOUNS}
    before = {form for a in ADJECTIVES if a.before for form in (a.masculine, a.feminine)}
    feminine = {a.feminine for a in ADJECTIVES}
    masculine = {a.masculine for a in ADJECTIVES}
    rng = random.Random(0)
    for _ in range(300):
        words = task.draw(rng, "full").reference.split()
        for place, word in enumerate(words):
            if word in before:
                noun = words[place + 1]
                assert word in (feminine if genders[noun] else masculine)


def test_translation_reports_chrf_between_zero_and_one() -> None:
    task = TranslationTask()
    items = task.items("search")[:3]
    near = " ".join([*items[1].reference.split()[:-1], "xyz"])
    chrf = task.secondary(items, [items[0].reference, near, ""])["chrf"]
    assert chrf[0] == pytest.approx(1.0)
    assert 0.3 < chrf[1] < 1.0
    assert chrf[2] == 0.0


def test_math_answers_are_backwards_results() -> None:
    for item in MathTask().items("test"):
        left, operator, right = _parts(item.prompt.removeprefix("compute ").removesuffix(" ="))
        result = left + right if operator == "+" else left - right
        assert int(item.reference.replace(" ", "")[::-1]) == result >= 0


def _parts(expression: str) -> tuple[int, str, int]:
    operator = "+" if "+" in expression else "-"
    left, right = (int(side.replace(" ", "")) for side in expression.split(operator))
    return left, operator, right


def test_easy_math_never_carries() -> None:
    for item in MathTask().training_items(500, "easy", 0):
        words = item.prompt.removeprefix("compute ").removesuffix(" =").split()
        operator = words[3]
        columns = [(int(x), int(y)) for x, y in zip(words[:3], words[4:], strict=True)]
        if operator == "+":
            assert all(x + y < 10 for x, y in columns)
        else:
            assert all(x >= y for x, y in columns)


def test_code_reference_computes_what_the_instructions_say() -> None:
    meaning = {
        "add": lambda v, k: v + k,
        "subtract": lambda v, k: v - k,
        "times": lambda v, k: v * k,
        "modulo": lambda v, k: v % k,
        "divide": lambda v, k: v // k,
        "from": lambda v, k: k - v,
        "atmost": lambda v, k: min(v, k),
        "atleast": lambda v, k: max(v, k),
        "square": lambda v, k: v * v,
        "absolute": lambda v, k: abs(v),
        "negate": lambda v, k: -v,
    }
    assert set(meaning) == set(INSTRUCTIONS)
    for item in CodeTask().items("test"):
        for call, expected in item.payload:
            value = int(call.removeprefix("f(").removesuffix(")"))
            for step in item.prompt.removeprefix("python ").removesuffix(" =").split(" then "):
                name, _, operand = step.partition(" ")
                value = meaning[name](value, int(operand or 0))
            assert repr(value) == expected


def test_equivalent_programs_pass() -> None:
    task = CodeTask(InProcessRunner())
    items = [item for item in task.items("test") if item.prompt.startswith("python add ")]
    rewritten = []
    for item in items:
        operand = item.prompt.split()[2]
        assert f"x + {operand}" in item.reference
        rewritten.append(f"(( {item.reference.replace(f'x + {operand}', f'{operand} + x')} ))")
    assert all(r != item.reference for r, item in zip(rewritten, items, strict=True))
    assert len(items) > 20
    assert task.score(items, rewritten) == [1.0] * len(items)


def test_programs_with_one_other_operand_fail_unless_equal() -> None:
    """Unit tests must reject near misses: change each digit of a reference in turn."""
    task = CodeTask(InProcessRunner())
    accepted = total = 0
    for item in task.items("test")[:200]:
        words = item.reference.split()
        for place, word in enumerate(words):
            if word.isdigit() and words[place - 1] != "**":
                changed = [*words[:place], str(int(word) % 9 + 1), *words[place + 1 :]]
                wrong = " ".join(changed)
                total += 1
                if task.score([item], [wrong])[0]:
                    accepted += 1
                    _assert_same_function(item.reference, wrong)
    assert total > 300
    assert accepted < 0.1 * total


def _assert_same_function(left: str, right: str) -> None:
    scope: dict[str, dict[str, object]] = {"left": {}, "right": {}}
    exec(program(left), scope["left"])
    exec(program(right), scope["right"])
    for x in range(-300, 300):
        assert scope["left"]["f"](x) == scope["right"]["f"](x), (left, right, x)  # type: ignore[operator]


def test_code_without_a_runner_refuses_to_score() -> None:
    task = CodeTask()
    with pytest.raises(RuntimeError, match="runner"):
        task.score(task.items("search")[:1], ["x"])


def test_sorting_and_reversal_rearrange_what_the_prompt_holds() -> None:
    for item in SortingTask().items("test"):
        digits = item.prompt.removeprefix("small first ").removesuffix(" =").split()
        assert item.reference.split() == sorted(digits, key=int) and 3 <= len(digits) <= 6
    for item in ReversalTask().items("test"):
        words = item.prompt.removeprefix("negate ").removesuffix(" =").split()
        assert item.reference.split() == words[::-1] and 3 <= len(words) <= 5
    for task in (SortingTask(), ReversalTask()):
        lengths = {len(item.reference.split()) for item in task.training_items(50, "easy", 0)}
        assert lengths == {3}


def test_sums_may_be_worked_out_and_only_the_answer_counts() -> None:
    bare, worked = SumsTask(), WorkedSumsTask()
    for one, other in zip(bare.items("search"), worked.items("search"), strict=True):
        assert one.prompt == other.prompt
        left, right = one.prompt.removeprefix("add ").removesuffix(" =").split(" + ")
        total = int(left.replace(" ", "")) + int(right.replace(" ", ""))
        assert one.reference.replace(" ", "") == f"{total:03d}"
        backwards = " ".join(reversed(one.reference.split()))
        assert other.reference == f"{backwards} then {one.reference}"
        said = [
            one.reference,
            other.reference,
            f"9 9 then {one.reference}",
            f"{one.reference} then 9",
        ]
        assert bare.score([one] * 4, said) == worked.score([other] * 4, said) == [1, 1, 1, 0]


def test_easy_sums_have_no_carry() -> None:
    for item in SumsTask().training_items(200, "easy", 0):
        left, right = item.prompt.removeprefix("add ").removesuffix(" =").split(" + ")
        columns = zip(left.split(), right.split(), strict=True)
        assert [str(int(a) + int(b)) for a, b in columns] == item.reference.split()

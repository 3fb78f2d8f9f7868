"""MOHOLLM: whole searches with each proposer, and what a language model may answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hm3rl.config.compose import compose_settings
from hm3rl.config.schema import RunSettings
from hm3rl.errors import InputError, MachineError
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.run.build import build_searcher, check_settings
from hm3rl.search import language_model
from hm3rl.search.competitors import moholl
from hm3rl.search.competitors.moholl import TRANSCRIPT, improvements
from hm3rl.search.encoding import GroupedBlends
from hm3rl.search.language_model import BadAnswer, NoAnswer
from hm3rl.search.ledger import KnownPoints
from hm3rl.search.region_proposers import Known, Proposer, RandomProposer, SurrogateProposer
from hm3rl.search.region_words import question, read_answer
from hm3rl.search.regions import Region
from tests.search.chat_server import Reply, chat_server
from tests.search.formula import decisions, formula_problem

BOUNDS = re.compile(r"^\S.*: from (\S+) to (\S+)$", re.MULTILINE)
COUNT = re.compile(r"^Propose (\d+) new", re.MULTILINE)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_model, "PAUSE", 0.0)


def obedient(text: str) -> str:
    """What a model answers that does as it is told: points along the region's diagonal."""
    low, high = np.array([(float(a), float(b)) for a, b in BOUNDS.findall(text)]).T
    shares = (np.arange(int(COUNT.findall(text)[0])) + 0.5) / int(COUNT.findall(text)[0])
    return json.dumps({"configurations": (low + shares[:, None] * (high - low)).tolist()})


def settings(proposer: str, *words: str) -> RunSettings:
    made = compose_settings(["search=moholl", f"search.proposer={proposer}", "budget=21", *words])
    check_settings(made)
    return made


def searched(*words: str, budget: int = 21) -> list[str]:
    problem = formula_problem(budget=budget)
    build_searcher(settings(*words)).search(problem, budget)
    assert problem.used == budget
    return decisions(problem)


class Spoken:
    """A language model that a function stands in for."""

    def __init__(self, say: Callable[[str], str]) -> None:
        self.say = say
        self.asked = 0

    def answer(self, messages: Sequence[Any]) -> str:
        self.asked += 1
        return self.say(messages[0]["content"])


# --- proposers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [0, 2])
@pytest.mark.parametrize("proposer", ["random", "surrogate"])
def test_a_whole_search(proposer: str, groups: int):
    found = searched(proposer, f"search.groups={groups}")
    assert len(set(found)) == 21


def known_formula() -> Known:
    problem = formula_problem(2, budget=12)
    encoding = GroupedBlends(BlendSpace(("e0", "e1"), 4), 1)
    known = Known(encoding, KnownPoints.sources(problem, encoding))
    vectors = encoding.sample(12, np.random.default_rng(0))
    evaluations = problem.evaluate([encoding.decode(vector) for vector in vectors], "test")
    known.add(vectors, problem.normalise(np.array([one.vector for one in evaluations])))
    known.fit()
    return known


@pytest.mark.parametrize("proposer", [RandomProposer(), SurrogateProposer()])
def test_proposals_lie_in_the_region_and_differ(proposer: Proposer):
    known = known_formula()
    region = Region(np.array([1, 2]), np.full(4, 0.25), np.array([0.5, 0.75, 0.5, 1.0]))
    found = proposer.propose(known, region, 5, np.random.default_rng(0))
    assert found.shape == (5, 4) and len(np.unique(found, axis=0)) == 5
    assert (found >= region.lower).all() and (found <= region.upper).all()


def test_the_surrogate_proposes_better_than_chance():
    known = known_formula()
    whole = Region(np.arange(len(known.vectors)), np.zeros(4), np.ones(4))

    def gained(proposer: Proposer) -> float:
        rng = np.random.default_rng(1)
        found = [proposer.propose(known, whole, 5, rng) for _ in range(10)]
        return float(np.mean([improvements(known.expected(one), known.scores) for one in found]))

    assert gained(SurrogateProposer()) > 1.5 * gained(RandomProposer())


def test_the_improvement_of_each_point_is_counted_by_itself():
    known = np.array([[1.0, 3.0], [2.0, 1.0]])
    # Between their extremes the known are (0, 1) and (1, 0); the reference is -0.2.
    expected = np.array([[1.5, 2.0], [1.5, 2.0], [1.0, 1.0]])
    # (0.5, 0.5) adds the square between the two, (0, 0) nothing.
    assert improvements(expected, known).tolist() == pytest.approx([0.25, 0.25, 0.0])


def test_settings_that_contradict_each_other_are_named():
    with pytest.raises(InputError, match=r"search.llm.model is empty"):
        settings("llm")
    with pytest.raises(InputError, match=r"search.proposer=random, which asks nobody"):
        settings("random", "search.llm.model=m")


# --- words ----------------------------------------------------------------------------------------

REGION = Region(np.array([0]), np.array([0.0, 0.25]), np.array([0.5, 1.0]))
GOOD = '{"configurations": [[0.1, 0.3], [0, 1]]}'


@pytest.mark.parametrize(
    "text", [GOOD, f"\n {GOOD}\n", f"```json\n{GOOD}\n```", f"```\n{GOOD}\n```"]
)
def test_an_answer_is_json_maybe_in_a_fence(text: str):
    assert read_answer(text, REGION, 2).tolist() == [[0.1, 0.3], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "not JSON alone"),
        ("I cannot help with that.", "not JSON alone"),
        (f"Here they are: {GOOD}", "not JSON alone"),
        (GOOD[:-1], "not JSON alone"),
        (GOOD.replace("0.1", "NaN"), "not JSON alone"),
        (GOOD.replace("0.1", "1e999"), "configuration 1 is no list of numbers"),
        (GOOD.replace("0.1", "true"), "configuration 1 is no list of numbers"),
        (GOOD.replace("[0, 1]", "3"), "configuration 2 is no list of numbers"),
        ("[" * 100_000, "not JSON alone"),
        ("[[0.1, 0.3], [0, 1]]", "no JSON object"),
        (GOOD.replace("}", ', "note": 1}'), "no JSON object"),
        ('{"configurations": [[0.1, 0.3]]}', "1 configurations instead of 2"),
        (GOOD.replace("[0, 1]", "[0, 1, 1]"), "configuration 2 has 3 numbers instead of 2"),
        (GOOD.replace("0.3", "0.2"), "number 2 of configuration 1, 0.2, is not from 0.25 to 1"),
        (GOOD.replace("0.1", "0.6"), "number 1 of configuration 1, 0.6, is not from 0 to 0.5"),
    ],
)
def test_any_other_answer_is_refused_with_its_fault(text: str, fault: str):
    with pytest.raises(BadAnswer, match=fault):
        read_answer(text, REGION, 2)


def test_a_question_tells_objectives_bounds_and_what_is_known():
    known = known_formula()
    region = Region(np.array([1]), np.zeros(4), np.array([1.0, 1.0, 0.12345, 1.0]))
    text = question(known, ("e0", "e1"), region, np.array([4, 3]), 5)
    assert "stem.e0, stem.e1, layers 0-3.e0, layers 0-3.e1" in text
    assert "Objectives, all to be maximised: e0, e1." in text
    assert "layers 0-3.e0: from 0 to 0.12345" in text
    history = text.split("order:\n")[1].split("\nPropose")[0].splitlines()
    assert [json.loads(line.split(" -> ")[0]) for line in history] == known.vectors[[4, 3]].tolist()
    assert history[0].endswith(f"e0 {known.scores[4, 0]:.3f}, e1 {known.scores[4, 1]:.3f}")


def test_a_language_model_searches_and_who_goes_on_decides_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    moods = np.random.default_rng(0)

    def moody(text: str) -> str:
        mood = moods.random()
        if mood < 0.2:
            raise NoAnswer("time ran out")
        return "no" if mood < 0.5 else obedient(text)

    model, silent = Spoken(moody), Spoken(lambda text: pytest.fail("it was asked again"))
    words = ("llm", "search.llm.model=m", "search.llm.retries=2", f"output={tmp_path}")
    monkeypatch.setattr(moholl, "open_model", lambda *_: model)
    first = searched(*words)
    assert len((tmp_path / TRANSCRIPT).read_text().splitlines()) == model.asked > 20
    monkeypatch.setattr(moholl, "open_model", lambda *_: silent)
    assert searched(*words) == first


def test_regions_without_a_usable_answer_are_filled_at_random_and_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    model = Spoken(lambda text: "I would rather not.")
    monkeypatch.setattr(moholl, "open_model", lambda *_: model)
    problem = formula_problem(budget=13)
    heard: list[dict[str, float]] = []
    monkeypatch.setattr(problem.logger, "metrics", lambda used, values: heard.append(dict(values)))
    made = settings("llm", "search.llm.model=m", "search.llm.retries=1", f"output={tmp_path}")
    build_searcher(made).search(problem, 13)
    assert problem.used == 13
    regions = int(heard[-1]["moholl/unanswered"])
    assert heard[-1]["moholl/answered"] == 0 and model.asked == 2 * regions > 4
    lines = [json.loads(line) for line in (tmp_path / TRANSCRIPT).read_text().splitlines()]
    assert {line["fault"] for line in lines} == {"it is not JSON alone"}


# --- a server -------------------------------------------------------------------------------------

KEY = "sk-never-to-be-seen"


def served(tmp_path: Path, reply: Callable[[str], Reply], *words: str) -> tuple[int, str]:
    """Search with a server's answers; how often it was asked, and the transcript."""
    pytest.importorskip("openai")
    with chat_server(lambda asked: reply(asked["messages"][0]["content"])) as server:
        asked = ("search.llm.model=m", f"search.llm.endpoint={server.endpoint}")
        searched("llm", *asked, f"output={tmp_path}", *words, budget=13)
    assert set(server.keys) == {f"Bearer {KEY}"}
    return len(server.asked), (tmp_path / TRANSCRIPT).read_text()


def test_a_whole_search_with_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(language_model.KEY, KEY)
    count, text = served(tmp_path, lambda asked: Reply(obedient(asked)))
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == count > 4 and not any(line["fault"] for line in lines)
    assert KEY not in text


@pytest.mark.parametrize(
    "fault",
    [
        Reply("late", wait=1.0),
        Reply("busy", status=503),
        Reply("{malformed"),
        Reply(refusal="I can't help with that"),
        Reply('{"configurations": [[1, 2]]}'),
        Reply(json.dumps({"configurations": [[7.0] * 9] * 5})),
    ],
    ids=["timeout", "status", "malformed", "refusal", "wrong number", "out of bounds"],
)
def test_a_search_survives_every_second_answer_being_a_fault(
    fault: Reply, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(language_model.KEY, KEY)
    turns = iter(range(10**6))

    def reply(asked: str) -> Reply:
        return fault if next(turns) % 2 == 0 else Reply(obedient(asked))

    count, text = served(tmp_path, reply, "search.llm.timeout=0.5", "search.llm.retries=1")
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == count
    assert [bool(line["fault"]) for line in lines] == [True, False] * (count // 2)


def test_a_server_that_never_answers_ends_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(language_model.KEY, KEY)
    with pytest.raises(MachineError, match="gave no answer, asked 2 times"):
        served(tmp_path, lambda asked: Reply("busy", status=503), "search.llm.retries=1")

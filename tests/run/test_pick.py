from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from hm3rl import api
from hm3rl.errors import InputError
from hm3rl.files import RunFolder
from hm3rl.objectives.scalarisation import weighted_sum
from hm3rl.objectives.utility import Utility
from hm3rl.run.finished import FinishedRun
from hm3rl.search.architecture_level import to_candidate


def test_an_unfinished_run_is_refused_with_the_way_to_continue(finished: FinishedRun, tmp_path):
    folder = tmp_path / "half"
    folder.mkdir()
    (folder / "config.yaml").write_text(finished.folder.config.read_text())
    with pytest.raises(InputError, match="resume="):
        api.open_run(folder)


def test_a_finished_run_remembers_its_archive(finished: FinishedRun, searched):
    archive = searched("budget=20").problem.archive
    assert finished.archive.keys == archive.keys
    assert finished.archive.hypervolume() == pytest.approx(archive.hypervolume(), abs=1e-4)


def test_the_choice_is_at_least_as_good_as_anything_evaluated(finished: FinishedRun):
    for weights in ({"math": 1}, {"math": 2, "code": 1}, {"translation": 1, "math": 1, "code": 1}):
        choice = api.pick(finished, weights, utility="run")
        preference = np.array([weights.get(task, 0) for task in finished.objectives], float)
        best = weighted_sum(finished.archive.normalised, preference / preference.sum()).max()
        assert choice.utility is not None and choice.utility >= best - 1e-9
        assert choice.origin in ("agent", "front")


def with_archive(
    finished: FinishedRun,
    folder: Path,
    models: list[tuple[str, list[float]]],
    keep: bool = False,
    **utility: object,
) -> FinishedRun:
    """A copy of a run that evaluated (also) these models: path and scores, as shares of z*."""
    shutil.copytree(finished.folder.path, folder)
    before = finished.folder.read_archive()
    line = before[0]
    lines = before * keep + [
        {
            **line,
            "key": path,
            "scores": dict(
                zip(
                    finished.objectives,
                    map(float, np.array(scores) * finished.archive.z_star),
                    strict=True,
                )
            ),
            "candidate": {**line["candidate"], "path": path, "recipes": {}},
        }
        for path, scores in models
    ]
    (folder / "archive.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    summary = finished.folder.read_summary()
    summary["utility"].update(utility)
    (folder / "summary.json").write_text(json.dumps(summary))
    return api.open_run(folder)


SHORT, LONG = "math | math[0:4]", "math | math[0:6]"
MATH_ONLY = np.array([0.0, 1.0, 0.0])


def test_a_model_dominated_by_one_of_equal_utility_is_not_picked(finished: FinishedRun, tmp_path):
    run = with_archive(finished, tmp_path / "run", [(LONG, [0.1, 1, 0.1]), (SHORT, [0.1, 1, 0.2])])
    assert run.best(MATH_ONLY) == (SHORT, pytest.approx(1.0))
    run = with_archive(finished, tmp_path / "same", [(LONG, [0.1, 1, 0.1]), (SHORT, [0.1, 1, 0.1])])
    assert run.best(MATH_ONLY)[0] == SHORT


def test_what_is_picked_is_worth_most_by_the_utility_the_agent_was_trained_for(
    finished: FinishedRun, tmp_path
):
    models = [(LONG, [0.1, 1.0, 0.1]), (SHORT, [0.1, 0.95, 0.1])]
    plain = with_archive(finished, tmp_path / "plain", models)
    assert plain.best(MATH_ONLY)[0] == LONG
    costly = with_archive(finished, tmp_path / "costly", models, length_cost=0.05)
    assert costly.best(MATH_ONLY) == (SHORT, pytest.approx(0.95 - 4 * 0.05))
    balance = [(LONG, [0.0, 1.0, 0.0]), (SHORT, [0.45, 0.45, 0.45])]
    even = np.full(3, 1 / 3)
    run = with_archive(finished, tmp_path / "balanced", balance, kind="tchebycheff")
    assert run.best(even)[0] == SHORT
    lopsided = {"kind": "tchebycheff", "utopia": [0.0, 1.1, 0.0]}
    run = with_archive(finished, tmp_path / "lopsided", balance, **lopsided)
    assert run.best(even)[0] == LONG


def test_the_agents_answer_is_weighed_by_the_same_utility(finished: FinishedRun, tmp_path):
    # A short model stands in the archive; the agent's path has eight layers and pays for them.
    models = [("math | math[0:2]", [0.5, 0.5, 0.5])]
    run = with_archive(finished, tmp_path / "run", models, keep=True, length_cost=0.5)
    assert run.agent is not None
    path = run.agent.decode(MATH_ONLY, beam=16)
    choice = api.pick(run, {"math": 1}, utility="run")
    assert choice.decoded == str(path)
    assert choice.decoded_utility == pytest.approx(
        run.problem.evaluation(run.problem.key(to_candidate(run.problem, path))).vector[1]
        / run.archive.z_star[1]
        - 0.5 * path.length
    )
    assert choice.origin == "front" and choice.utility == pytest.approx(0.5 - 0.5 * 2)


def test_an_old_run_is_picked_from_by_the_utility_of_its_settings(finished: FinishedRun, tmp_path):
    shutil.copytree(finished.folder.path, tmp_path / "old")
    folder = RunFolder(tmp_path / "old")
    summary = folder.read_summary()
    del summary["utility"]
    folder.write_json(folder.summary, summary)
    config = folder.config.read_text()
    folder.config.write_text(config.replace("length_cost: 0.0", "length_cost: 0.25"))
    assert api.open_run(folder.path).utility == Utility("weighted_sum", 0.25, 1.1)
    assert finished.utility == Utility("weighted_sum", 0.0, 1.1)


@pytest.mark.parametrize("damage", ["missing", "half"])
def test_an_agent_that_is_gone_is_not_taken_for_none(finished: FinishedRun, tmp_path, damage: str):
    shutil.copytree(finished.folder.path, tmp_path / "run")
    agent = tmp_path / "run" / "agent.zip"
    content = agent.read_bytes()
    agent.unlink()
    if damage == "half":
        agent.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"agent\.zip") as refused:
        api.pick(api.open_run(tmp_path / "run"), {"math": 1})
    assert "resume=" in refused.value.remedy


def test_a_run_where_nothing_can_be_written_is_picked_from_and_exported(
    finished: FinishedRun, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    run = tmp_path / "run"
    shutil.copytree(finished.folder.path, run)
    # SQLite's index of readers changes whenever somebody reads.
    files = [file for file in run.iterdir() if file.is_file() and not file.name.endswith("-shm")]
    before = {file: file.read_bytes() for file in files}
    access = os.access  # root may write everywhere, so this cannot be had by a mode alone
    monkeypatch.setattr(
        os, "access", lambda path, mode: run != Path(path).parent and access(path, mode)
    )
    opened = api.open_run(run)
    choice = api.pick(opened, {"math": 1, "code": 1}, budget=2)
    assert opened.problem.evaluator.totals.hits > 0
    api.export(opened, choice.candidate, tmp_path / "model", choice.evaluation)
    assert before == {file: file.read_bytes() for file in files}


EVEN = {"translation": 1, "math": 1, "code": 1}
EXPERT, MIDDLE = "math | math[0:8]", "math | math[0:6] + code[6:8]"


def without_agent(run: FinishedRun) -> FinishedRun:
    """The same run as if its searcher had none, so that nothing but its archive is picked from."""
    run.agent = None  # type: ignore[misc] -- a cached property
    return run


def test_balance_finds_the_model_between_experts_that_no_weighted_sum_finds(
    finished: FinishedRun, tmp_path
):
    # As a user's pool was: equal weights gave the expert, though a model was better at the rest.
    models = [(EXPERT, [0.1, 1.0, 0.3]), (MIDDLE, [0.4, 0.45, 0.42])]
    run = without_agent(with_archive(finished, tmp_path / "run", models))
    balanced, own = api.pick(run, EVEN), api.pick(run, EVEN, utility="run")
    assert (str(balanced.candidate.path), balanced.expert) == (MIDDLE, None)
    assert (str(own.candidate.path), own.expert) == (EXPERT, "math")
    assert (balanced.asked.kind, own.asked.kind) == ("tchebycheff", "weighted_sum")
    # Neither is good at all tasks, and both say so.
    assert balanced.most_even == own.most_even == (MIDDLE, pytest.approx(0.4))
    with pytest.raises(InputError, match="--utility luck"):
        api.pick(run, EVEN, utility="luck")


def test_minimum_scores_leave_out_who_has_less(finished: FinishedRun, tmp_path):
    models = [(EXPERT, [0.1, 1.0, 0.3]), (MIDDLE, [0.4, 0.45, 0.42])]
    run = without_agent(with_archive(finished, tmp_path / "run", models))
    z_star = dict(zip(run.objectives, run.archive.z_star, strict=True))
    needed = {"math": 0.9 * z_star["math"]}
    assert str(api.pick(run, EVEN, at_least=needed).candidate.path) == EXPERT
    needed["code"] = 0.35 * z_star["code"]
    with pytest.raises(InputError, match=r"no model of this run has --at-least math=") as refused:
        api.pick(run, EVEN, at_least=needed)
    assert f"the nearest is {EXPERT[:12]}" in refused.value.remedy
    with pytest.raises(InputError, match="--at-least with --no-eval"):
        api.pick(finished, EVEN, evaluate=False, at_least=needed)


def test_of_an_objective_to_be_minimised_the_minimum_is_a_highest_cost(
    finished: FinishedRun, tmp_path
):
    models = [(EXPERT, [0.9, 1.0, 0.25]), (MIDDLE, [0.4, 0.45, 0.9])]
    run = without_agent(with_archive(finished, tmp_path / "run", models))
    run.summary["minimised"] = {"code": {"worst": 16.0, "unit": "layers"}}
    highest = 16.0 * (1.0 - 0.5 * run.archive.z_star[2])  # the first costs more, the second less
    assert str(api.pick(run, EVEN, at_least={"code": highest}).candidate.path) == MIDDLE


def test_what_is_chosen_is_scored_on_both_splits(finished: FinishedRun):
    choice = api.pick(finished, {"math": 1})
    assert choice.evaluation is not None and choice.test is not None
    assert (choice.evaluation.split, choice.test.split) == ("search", "test")
    again = finished.problem.rescore([choice.candidate])[0]
    assert choice.test.scores == again.scores


def test_what_is_not_scored_says_how_sure_the_surrogate_is(finished: FinishedRun):
    choice = api.pick(finished, {"math": 1}, evaluate=False)
    assert choice.expected is not None and choice.test is None
    assert finished.agent is not None
    mean, error = finished.agent.predict([choice.candidate.path])
    np.testing.assert_allclose(choice.expected[0], mean[0] * finished.archive.z_star)
    np.testing.assert_allclose(choice.expected[1], error[0] * finished.archive.z_star)
    assert (choice.expected[1] > 0).all()


def test_a_budget_without_evaluation_is_refused(finished: FinishedRun):
    with pytest.raises(InputError, match="--budget 3 with --no-eval"):
        api.pick(finished, {"math": 1}, budget=3, evaluate=False)


def test_without_evaluation_the_policy_answers_alone(finished: FinishedRun):
    choice = api.pick(finished, {"code": 1}, evaluate=False)
    assert choice.origin == "agent" and choice.utility is None
    assert str(choice.candidate.path) == choice.decoded


def test_a_budget_refines_the_choice(finished: FinishedRun):
    plain = api.pick(finished, {"math": 1, "code": 1})
    refined = api.pick(finished, {"math": 1, "code": 1}, budget=4)
    assert plain.asked == refined.asked
    assert refined.utility is not None and plain.utility is not None
    assert refined.utility >= plain.utility


def test_a_run_without_an_agent_answers_from_its_front(searched):
    run = api.open_run(searched("budget=20", "search=random").folder.path)
    assert api.pick(run, {"math": 1}).origin == "front"
    with pytest.raises(InputError, match="has no agent"):
        api.pick(run, {"math": 1}, evaluate=False)


@pytest.mark.parametrize(("weights", "named"), [({"poems": 1}, "poems"), ({"math": 0}, "zero")])
def test_a_bad_preference_is_named(finished: FinishedRun, weights, named: str):
    with pytest.raises(InputError, match=named):
        api.pick(finished, weights)


def test_models_are_found_by_name_and_by_the_beginning_of_their_key(finished: FinishedRun):
    key = finished.find("M00")
    assert finished.find(key[:12]) == key
    with pytest.raises(InputError, match="M99"):
        finished.find("M99")


BLENDS = ("agent=psl", "budget=30", "agent.first_steps=20", "agent.steps=5", "agent.fit_steps=10")


@pytest.fixture
def blended(searched) -> FinishedRun:
    return api.open_run(searched(*BLENDS).folder.path)


@pytest.mark.parametrize("weights", [{"math": 1}, {"translation": 1, "math": 1, "code": 1}])
def test_blends_are_compared_by_posterior_means(blended: FinishedRun, weights: dict[str, float]):
    preference = np.array([weights.get(task, 0) for task in blended.objectives], float)
    choice = api.pick(blended, weights)
    assert choice.by == "posterior" and choice.posterior is not None and choice.evaluation
    assert choice.utility == pytest.approx(
        blended.worth(
            choice.posterior[0],
            choice.candidate.path.length,
            preference / preference.sum(),
            blended.utility.balanced,
        )
    )
    assert choice.decoded_utility is not None
    assert choice.utility == max(choice.front_utility, choice.decoded_utility)
    # The decoded path's own score is among what the posterior of all was made of.
    known = [blended.candidate(key).path for key in blended.archive.keys]
    assert blended.agent is not None
    mean, _ = blended.agent.posterior([*known, choice.candidate.path])
    np.testing.assert_allclose(choice.posterior[0] / blended.archive.z_star, mean[-1], atol=1e-9)


def test_a_choice_by_scores_is_had_on_request(blended: FinishedRun):
    choice = api.pick(blended, {"math": 1, "code": 1}, by="scores", utility="run")
    assert choice.by == "scores" and choice.posterior is None and choice.evaluation is not None
    preference = np.array([0.0, 0.5, 0.5])
    assert choice.front_utility == blended.best(preference)[1]
    length = choice.candidate.path.length
    assert choice.utility == blended.worth(choice.evaluation.vector, length, preference)


def test_posterior_means_that_a_run_has_not_are_refused(finished: FinishedRun):
    assert finished.posterior is None and api.pick(finished, {"math": 1}).by == "scores"
    with pytest.raises(InputError, match="no posterior means"):
        api.pick(finished, {"math": 1}, by="posterior")
    with pytest.raises(InputError, match="use posterior or scores"):
        api.pick(finished, {"math": 1}, by="luck")


def test_posterior_means_that_are_gone_are_not_taken_for_none(blended: FinishedRun, tmp_path):
    shutil.copytree(blended.folder.path, tmp_path / "run")
    (tmp_path / "run" / "posterior.csv").unlink()
    with pytest.raises(InputError, match=r"posterior\.csv is missing"):
        api.pick(api.open_run(tmp_path / "run"), {"math": 1})


def test_a_run_over_blends_of_an_older_version_is_picked_from_by_scores(
    blended: FinishedRun, tmp_path
):
    shutil.copytree(blended.folder.path, tmp_path / "old")
    folder = RunFolder(tmp_path / "old")
    summary = folder.read_summary()
    del summary["front"]["by"]
    folder.write_json(folder.summary, summary)
    folder.posterior.unlink()
    assert api.pick(api.open_run(folder.path), {"math": 1}).by == "scores"

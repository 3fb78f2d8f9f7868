from __future__ import annotations

import numpy as np
import pytest

from hm3rl import api
from hm3rl.errors import InputError
from hm3rl.objectives.scalarisation import weighted_sum
from hm3rl.search.finished import FinishedRun


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
        choice = api.pick(finished, weights)
        preference = np.array([weights.get(task, 0) for task in finished.objectives], float)
        best = weighted_sum(finished.archive.normalised, preference / preference.sum()).max()
        assert choice.utility is not None and choice.utility >= best - 1e-9
        assert choice.origin in ("agent", "front")


def test_without_evaluation_the_policy_answers_alone(finished: FinishedRun):
    choice = api.pick(finished, {"code": 1}, evaluate=False)
    assert choice.origin == "agent" and choice.utility is None
    assert str(choice.candidate.path) == choice.decoded


def test_a_budget_refines_the_choice(finished: FinishedRun):
    plain = api.pick(finished, {"math": 1, "code": 1})
    refined = api.pick(finished, {"math": 1, "code": 1}, budget=4)
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

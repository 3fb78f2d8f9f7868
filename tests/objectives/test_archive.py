from __future__ import annotations

import numpy as np
import pytest

from hm3rl.objectives.archive import Archive
from hm3rl.objectives.indicators import hypervolume, non_dominated
from hm3rl.objectives.utility import Utility


@pytest.fixture
def archive() -> Archive:
    return Archive(("math", "code"), [0.5, 1.0])


def test_scores_are_normalised_by_the_best_expert(archive: Archive):
    archive.add("a", [0.5, 0.5])
    assert archive.normalised.tolist() == [[1.0, 0.5]]
    assert archive.hypervolume() == pytest.approx(0.5)


def test_add_says_whether_the_candidate_is_new_on_the_front(archive: Archive):
    assert archive.add("a", [0.2, 0.2])
    assert not archive.add("b", [0.1, 0.1])
    assert archive.add("c", [0.3, 0.3])
    assert not archive.add("c", [0.9, 0.9])
    assert archive.front_keys() == ("c",)
    assert len(archive) == 3


def test_of_equal_candidates_the_first_stays(archive: Archive):
    archive.add("a", [0.2, 0.2])
    assert not archive.add("b", [0.2, 0.2])
    assert archive.front_keys() == ("a",)


def test_the_running_front_equals_one_computed_from_scratch():
    rng = np.random.default_rng(0)
    archive = Archive(("a", "b", "c"), [1, 1, 1])
    for i, point in enumerate(rng.uniform(size=(60, 3))):
        archive.add(str(i), point)
    kept = non_dominated(archive.normalised)
    assert set(archive.front_keys()) == {k for k, on in zip(archive.keys, kept, strict=True) if on}
    assert archive.hypervolume() == pytest.approx(hypervolume(archive.normalised))


def test_best_follows_the_preference(archive: Archive):
    archive.add("maths", [0.5, 0.1])
    archive.add("coder", [0.1, 1.0])
    lengths = {"maths": 8, "coder": 4}
    assert archive.best(np.array([0.9, 0.1]), Utility(), lengths) == "maths"
    assert archive.best(np.array([0.1, 0.9]), Utility(), lengths) == "coder"
    assert archive.best(np.array([0.9, 0.1]), Utility(length_cost=0.2), lengths) == "coder"
    assert archive.best(np.array([0.9, 0.1]), Utility(), {"coder": 4}) == "coder"
    with pytest.raises(ValueError, match="nothing to choose from"):
        archive.best(np.array([0.9, 0.1]), Utility(), {"poet": 4})


def test_scores_that_are_not_finite_are_refused(archive: Archive):
    with pytest.raises(ValueError, match="finite"):
        archive.add("a", [np.nan, 0.1])


def test_a_task_nobody_can_do_is_refused():
    with pytest.raises(ValueError, match="positive"):
        Archive(("math",), [0.0])

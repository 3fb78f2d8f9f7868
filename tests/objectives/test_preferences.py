from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hm3rl.errors import InputError
from hm3rl.objectives.preferences import (
    parse_preference_text,
    sample_dirichlet,
    sample_faces,
    simplex_lattice,
    snap_to_lattice,
)

TASKS = ("translation", "math", "code")


def test_dirichlet_covers_the_simplex_evenly():
    drawn = sample_dirichlet(4000, 3, np.random.default_rng(0))
    assert np.allclose(drawn.sum(axis=1), 1) and (drawn >= 0).all()
    # Uniform on the simplex: mean 1/3, variance (1/3)(2/3)/(3+1) = 1/18.
    assert np.allclose(drawn.mean(axis=0), 1 / 3, atol=0.02)
    assert np.allclose(drawn.var(axis=0), 1 / 18, atol=0.005)


def test_faces_are_drawn_as_often_as_the_whole_simplex():
    rows = sample_faces(4000, 4, np.random.default_rng(0))
    np.testing.assert_allclose(rows.sum(axis=1), 1.0)
    assert (rows >= 0).all()
    positive = (rows > 0).sum(axis=1)
    shares = [np.mean(positive == size) for size in (1, 2, 3, 4)]
    np.testing.assert_allclose(shares, [0.125, 0.125, 0.125, 0.625], atol=0.03)


def test_lattice_of_three_tasks_in_tenths_has_66_points():
    lattice = simplex_lattice(3, 10)
    assert lattice.shape == (66, 3)
    assert len({tuple(row) for row in lattice}) == 66
    assert np.allclose(lattice.sum(axis=1), 1)


def test_lattice_of_one_task_is_the_point_one():
    assert simplex_lattice(1, 5).tolist() == [[1.0]]


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=5), st.integers(1, 12))
def test_snapping_gives_the_nearest_lattice_point(raw: list[float], h: int):
    preference = np.array(raw) / sum(raw)
    snapped = snap_to_lattice(preference, h)
    distances = np.abs(simplex_lattice(len(raw), h) - preference).sum(axis=1)
    assert snapped.sum() == pytest.approx(1)
    assert np.abs(snapped - preference).sum() == pytest.approx(distances.min(), abs=1e-9)


def test_named_weights_become_a_point_of_the_simplex():
    assert parse_preference_text(["math=2", "code=1"], TASKS).tolist() == [0, 2 / 3, 1 / 3]
    assert parse_preference_text(["math=2, code=2"], TASKS).tolist() == [0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["poetry=1"], "poetry"),
        (["math=0"], "zero"),
        (["math=-1"], "math=-1.0"),
        (["math=nan"], "math=nan"),
        (["math"], "'math'"),
        (["math=a"], "'math=a'"),
        (["math=1", "math=2"], "twice"),
    ],
)
def test_a_bad_preference_is_named(words: list[str], named: str):
    with pytest.raises(InputError, match=named):
        parse_preference_text(words, TASKS)

from __future__ import annotations

import numpy as np
import pytest

from hm3rl.config.searchers import ParameterSettings
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.paths.candidate import Candidate
from hm3rl.search.encoding import GroupedBlends, RecipeEncoding
from hm3rl.search.ledger import Ledger
from tests.search.formula import formula_problem

OPERATORS = ["task_arithmetic", "ties", "dare_ties"]


@pytest.fixture
def encoding() -> RecipeEncoding:
    settings = ParameterSettings(operators=OPERATORS, weights="simplex")
    return RecipeEncoding(("a", "b", "c"), settings, depth=4)


def test_uniform_vectors_are_recipes_as_the_parameter_level_draws_them(encoding: RecipeEncoding):
    vectors = encoding.sample(4000, np.random.default_rng(0))
    recipes = [encoding.recipe(vector) for vector in vectors]
    weights = np.array([[dict(r.weights).get(e, 0.0) for e in "abc"] for r in recipes])
    assert weights.sum(1) == pytest.approx(1, abs=1e-3)
    # Dirichlet(1, 1, 1): each weight has mean 1/3 and variance 1/18.
    assert weights.mean(0) == pytest.approx(1 / 3, abs=0.02)
    assert weights.var(0) == pytest.approx(1 / 18, abs=0.005)
    scales = np.array([recipe.scale for recipe in recipes])
    assert scales.mean() == pytest.approx(1.8, abs=0.05)
    shares = [np.mean([r.operator == o for r in recipes]) for o in encoding.settings.operators]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.05)


def test_the_corners_of_the_box_are_legal_recipes(encoding: RecipeEncoding):
    low, high = encoding.recipe(encoding.lower), encoding.recipe(encoding.upper)
    assert (low.operator, low.scale) == ("task_arithmetic", 0.6)
    assert (high.operator, high.scale, high.density) == ("dare_ties", 3.0, 0.9)
    assert dict(low.weights) == pytest.approx(dict.fromkeys("abc", 1 / 3), abs=1e-4)
    one = encoding.recipe(np.array([0, 1, 0, 0, 0.5, 0.5]))
    assert dict(one.weights) == {"a": 1.0}


def test_free_weights_are_the_entries_and_nothing_idle_is_searched():
    encoding = RecipeEncoding(("a", "b", "c"), ParameterSettings(), depth=4)
    recipe = encoding.recipe(np.array([0.25, 0.0, 1.0]))
    assert recipe == MergeRecipe.of("task_arithmetic", {"a": 0.25, "c": 1.0}, normalise=False)
    several = RecipeEncoding(("a", "b"), ParameterSettings(operators=OPERATORS), depth=4)
    recipe = several.recipe(np.array([0.5, 0.25, 0.75, 1.0]))
    assert recipe == MergeRecipe.of("ties", {"a": 0.25, "b": 0.75}, density=0.9, normalise=False)


def test_a_model_sees_operators_side_by_side_not_in_an_order(encoding: RecipeEncoding):
    vectors = np.array([[v, 0.1, 0.2, 0.3, 0.4, 0.5] for v in (0.0, 0.3, 0.5, 1.0)])
    features = encoding.features(vectors)
    assert features[:, :3].tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert (features[:, 3:] == vectors[:, 1:]).all()


def test_a_ledger_scores_what_it_can_pay_for_and_repeats_for_nothing():
    problem = formula_problem(budget=10)
    encoding = RecipeEncoding(problem.pool.expert_names, ParameterSettings(), 4)
    vectors = encoding.sample(4, np.random.default_rng(0))
    a, b, c, d = (encoding.decode(vector) for vector in vectors)
    ledger = Ledger(problem, 3, "test")
    first = ledger.score([a, b, a])
    assert first.ok.all() and first.vectors.shape == (3, 3) and ledger.left == 1
    assert (first.vectors[0] == first.vectors[2]).all()
    assert not ledger.is_new(a) and ledger.is_new(c)
    again = ledger.score([b, c, a, d])
    assert (again.vectors[[0, 2]] == first.vectors[[1, 0]]).all() and len(again.ok) == 3
    assert ledger.left == 0 and problem.used == 3
    nothing = ledger.score([d])
    assert nothing.ok.shape == (0,) and nothing.vectors.shape == (0, 3)


def test_a_ledger_says_which_candidates_failed_and_has_no_numbers_for_them():
    encoding = RecipeEncoding(("e0", "e1", "e2"), ParameterSettings(), 4)
    vectors = encoding.sample(4, np.random.default_rng(0))
    keys = [encoding.recipe(vector).key for vector in vectors]
    problem = formula_problem(budget=4, fails=lambda recipe: recipe.key in (keys[0], keys[2]))
    scores = Ledger(problem, 4, "test").score([encoding.decode(vector) for vector in vectors])
    assert scores.ok.tolist() == [False, True, False, True] and scores.vectors.shape == (2, 3)
    assert [row is None for row in scores.each()] == [True, False, True, False]
    assert problem.used == 4 == problem.failed + 2
    every = Ledger(formula_problem(budget=4, fails=lambda recipe: True), 4, "test")
    assert every.score([encoding.decode(v) for v in vectors]).vectors.shape == (0, 3)


BLENDS = BlendSpace(("a", "b"), 5)


def test_groups_of_layers_and_the_stem_are_blended_apart():
    encoding = GroupedBlends(BLENDS, 2)
    assert encoding.names[::2] == ("stem.a", "layers 0-2.a", "layers 3-4.a")
    candidate = encoding.decode(np.array([0.1, 0.2, 0.3, 0.4, 1.0, 0.0]))
    assert str(candidate.path) == "{a: 0.1, b: 0.2} | {a: 0.3, b: 0.4}[0:3] + a[3:5]"


def test_without_groups_a_model_is_one_blend():
    encoding = GroupedBlends(BLENDS, 0)
    assert encoding.names == ("a", "b")
    candidate = encoding.decode(np.array([0.5, 0.25]))
    assert candidate.members == ("{a: 0.5, b: 0.25}",)


@pytest.mark.parametrize("groups", [0, 1, 3, 9])
def test_blends_and_sources_of_groups_are_what_the_candidate_has(groups: int):
    encoding = GroupedBlends(BLENDS, groups)
    vectors = encoding.sample(3, np.random.default_rng(0))
    for vector, blends in zip(vectors, encoding.blends(vectors), strict=True):
        assert (BLENDS.encode(encoding.decode(vector)) == blends).all()
    for expert in ("a", "b", None):
        vector = encoding.source(expert)
        assert vector is not None
        assert encoding.decode(vector) == Candidate.whole(expert or "base", 5)
    assert encoding.source("c") is None
    assert GroupedBlends(BlendSpace(("a", "b"), 5, 0.5), groups).source("a") is None

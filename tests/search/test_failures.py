"""A failure is never a score: what each kind of search does with candidates that failed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hm3rl.config.searchers import DepthWiseSettings, ParameterSettings, RMMSettings
from hm3rl.search.architecture_level import path_scorer, path_space
from hm3rl.search.blocks import BlockSpace
from hm3rl.search.competitors.rmm import Walkers
from hm3rl.search.encoding import RecipeEncoding
from hm3rl.search.ledger import KnownPoints, Ledger
from hm3rl.search.level_sampler import sample_recipes
from hm3rl.surrogate.gp import PathGP
from tests.search.formula import DEPTH, formula_problem
from tests.search.formula_paths import ANY, path_problem
from tests.search.test_baselines import searcher


def some_recipes(recipe) -> bool:
    return int(recipe.key, 16) % 3 == 0


def some_paths(candidate) -> bool:
    return len(candidate.path.stitch_points) % 2 == 1


def real(vectors: np.ndarray) -> bool:
    """Whether vectors are the formula's, which scores nothing below 0.05 anywhere."""
    return bool(np.isfinite(vectors).all() and (vectors > 0.05).all())


@pytest.mark.parametrize("name", ["nsga2", "nsga3", "de"])
def test_evolution_makes_up_no_fitness_and_anything_scored_wins(name: str, monkeypatch):
    pytest.importorskip("pymoo")
    from hm3rl.search import evolution
    from hm3rl.search.competitors import de, nsga2

    made = []
    for module in (nsga2, de):

        def watched(ledger, encoding, algorithm, rng, *fitness, **known):
            made.append(algorithm)
            told = algorithm.tell

            def tell(infills):
                failed = infills.get("G")[:, 0] > 0
                scores = infills.get("F")
                assert np.isnan(scores[failed]).all() and np.isfinite(scores[~failed]).all()
                return told(infills=infills)

            algorithm.tell = tell
            evolution.evolve(ledger, encoding, algorithm, rng, *fitness, **known)

        monkeypatch.setattr(module, "evolve", watched)
    problem = formula_problem(budget=90, fails=some_recipes)
    searcher(name).search(problem, 90)
    (algorithm,) = made
    # In DE a place stays with its failure until a child of its own gets scores.
    assert 15 < problem.failed < 60 and algorithm.pop.get("FEAS").mean() > 0.9


def test_cma_es_ranks_failures_last_and_starts_from_none(monkeypatch):
    pytest.importorskip("cma")
    from hm3rl.search import cma_bridge

    starts, ask = [], cma_bridge._strategy

    def strategy(mean, rng, population):
        starts.append(mean)
        return ask(mean, rng, population)

    monkeypatch.setattr(cma_bridge, "_strategy", strategy)
    problem = formula_problem(budget=120, fails=some_recipes)
    encoding = RecipeEncoding(("e0", "e1", "e2"), ParameterSettings(), DEPTH)
    first = encoding.sample(6, np.random.default_rng(0))
    ledger = Ledger(problem, 120, "cma")
    ledger.score([encoding.decode(vector) for vector in first])
    known = KnownPoints.scored(problem, encoding, first)
    plan = cma_bridge.Plan(114, 7, 2, 8)
    cma_bridge.evolve_cma(ledger, encoding, plan, np.random.default_rng(0), known)
    span = encoding.upper - encoding.lower
    from_where = [encoding.decode(encoding.lower + span * mean) for mean in starts]
    assert problem.used == 120 and problem.failed > 20 and len(starts) > 3
    assert all(evaluation.ok for evaluation in problem.known(from_where))
    ranked = cma_bridge.ranked(np.array([2.0, -1.0]), np.array([True, False, True, False]))
    assert ranked[:3:2] == [2.0, -1.0] and min(ranked[1], ranked[3]) > 2.0
    assert np.ptp(ranked) == pytest.approx(3.0)


def test_gaussian_processes_never_hear_of_failures(monkeypatch):
    heard = []
    fit = PathGP.fit
    monkeypatch.setattr(
        PathGP, "fit", lambda self, x, y, steps: heard.append(y) or fit(self, x, y, steps)
    )
    problem = formula_problem(budget=40, fails=some_recipes)
    rng = np.random.default_rng(0)
    recipes = sample_recipes(problem, 40, ParameterSettings(), rng, "parameter")
    assert problem.failed > 5 and len(recipes) == 40 - problem.failed
    assert not any(map(some_recipes, recipes))
    assert heard and all(map(real, heard)) and len(heard[-1]) <= len(recipes)


@pytest.mark.parametrize(("name", "module"), [("mm_mo", "mm_mo"), ("map", "map")])
def test_other_surrogates_do_not_either(name: str, module: str, monkeypatch):
    pytest.importorskip("botorch" if name == "mm_mo" else "pymoo")
    import importlib

    found = importlib.import_module(f"hm3rl.search.competitors.{module}")
    kind = "Surrogate" if name == "mm_mo" else "QuadraticSurrogate"
    known, heard = getattr(found, kind), []
    monkeypatch.setattr(found, kind, lambda x, y, *rest: heard.append(y) or known(x, y, *rest))
    problem = formula_problem(2, budget=42, fails=some_recipes)
    searcher(name).search(problem, 42)
    assert problem.failed > 5 and heard and all(map(real, heard))


def test_a_forest_learns_from_what_got_scores_and_brackets_drop_the_rest(monkeypatch):
    pytest.importorskip("sklearn")
    from hm3rl.search.competitors import depth_wise

    heard, known = [], depth_wise.Forest
    monkeypatch.setattr(depth_wise, "Forest", lambda x, y, s: heard.append(y) or known(x, y, s))
    problem = path_problem(budget=30, limits=ANY, fails=some_paths)
    names = [*problem.pool.expert_names, "base"]
    space = BlockSpace(path_space(problem, names, describe=False))
    settings = DepthWiseSettings(proposals=60)
    brackets = depth_wise.Brackets(problem, space, settings, 30, np.random.default_rng(0))
    brackets.run()
    failed = [point for point in brackets._asked if some_paths(brackets._candidate(point))]
    assert len(failed) > 5 and not set(failed) & set(brackets._vectors)
    assert heard and all(map(real, heard))


@pytest.mark.parametrize("everything", [True, False])
def test_ppo_leaves_out_paths_that_failed(everything: bool):
    problem = path_problem(budget=40)
    # The experts themselves were scored before anything failed.
    problem.evaluator.fails = (lambda candidate: True) if everything else some_paths
    if everything:
        problem._evaluations.clear()  # nor is any expert known, whom the agents would imitate
    space = path_space(problem, list(problem.pool.expert_names), describe=False)
    settings = RMMSettings(epochs=2)
    walkers = Walkers(space, Ledger(problem, 40, "rmm"), settings, np.random.default_rng(0))
    (agent,) = walkers._agents
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    handed = []
    samples = type(agent.rollout_buffer)._get_samples

    def watch(buffer, index, env=None):
        found = samples(buffer, index, env)
        handed.append((len(found.actions), len(index), int(buffer.left_out().sum())))
        return found

    agent.rollout_buffer._get_samples = watch.__get__(agent.rollout_buffer)
    for _ in range(3 if everything else 9):
        walkers._rollout(agent)
    assert problem.failed > 5
    assert all(given == asked - left for given, asked, left in handed)
    after = agent.policy.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before) == everything
    assert bool(handed) != everything


def test_an_agents_outcomes_say_that_they_failed_and_hold_no_numbers():
    problem = path_problem(budget=20, fails=some_paths)
    space = path_space(problem, list(problem.pool.expert_names), describe=False)
    rows = [space.decode(space.pad_tokens([0, *tokens, space.stop])) for tokens in _paths(space)]
    outcomes = path_scorer(problem, "online")(rows)
    expected = [len(path.stitch_points) % 2 == 0 for path in rows]
    assert [outcome.ok for outcome in outcomes] == expected and not all(expected)
    assert all(outcome.vector.shape == ((3,) if outcome.ok else (0,)) for outcome in outcomes)


def _paths(space) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [
        [space.layer_action(int(rng.integers(len(space.members))), depth) for depth in range(DEPTH)]
        for _ in range(6)
    ]

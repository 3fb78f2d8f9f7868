"""Which pools there are, and that each is a search of the package."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from experiments.pools import frozen
from experiments.pools.blends import blends_of, known_blends
from experiments.pools.methods import METHODS, PLANNED, PLUGINS, overrides, runs, words_of
from experiments.pools.plugin import OWN_TASKS, bench_task
from experiments.pools.pools import DEVELOPED, FILE, SETS, ZOO, Pool, draw, pools, to_json
from experiments.pools.settings import DEVELOPMENT, SEALED, BenchSettings
from experiments.pools.train import MODELS, tokenizer
from hm3rl import api, registry
from hm3rl.config.agents import PslSettings
from hm3rl.config.tasks import SizedTaskSettings
from hm3rl.errors import InputError
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.events import NullLogger
from hm3rl.paths.candidate import Candidate
from hm3rl.plugins import load_plugins
from hm3rl.run.build import build_problem, build_searcher, check_settings

QUICK = ("surrogate.fit_steps=8", "agent.acquisition.proposals=120", "agent.pretrain_steps=20")
SIZES = {"n_search": 24, "n_test": 24}


def missing_packages(method: str) -> list[str]:
    load_plugins(PLUGINS)
    named = [word.partition("=")[2] for word in METHODS[method] if word.startswith("search=")]
    return registry.find("searcher", (named or ["hm3"])[0]).missing_packages()


def zoo_problem(folder: Path, method: str, budget: int) -> MergeProblem:
    """A finished search on the shipped zoo with few items."""
    words = overrides(pools()[ZOO], **SIZES)
    own = {word.partition("=")[0] for word in METHODS[method]}
    quick = [word for word in QUICK if word.partition("=")[0] not in own]
    settings = api.settings(*words, *quick, *METHODS[method], f"budget={budget}")
    problem = build_problem(settings, folder / "evaluations.sqlite", NullLogger())
    problem.prepare()
    build_searcher(settings).search(problem, budget)
    return problem


def test_the_committed_pools_are_the_drawn_ones() -> None:
    assert FILE.read_text(encoding="utf-8") == to_json(draw())
    assert pools() == draw()


@pytest.mark.parametrize("kind", SETS)
def test_a_set_has_ten_pools_of_its_own_tasks_each_in_as_many(kind: str) -> None:
    own = [pool for pool in pools(kind).values() if pool.name != ZOO]
    known = DEVELOPMENT if kind == DEVELOPED else SEALED[kind]
    most = 5 if kind == DEVELOPED else 4
    assert len({pool.experts for pool in own}) == len(own) >= 10
    counts = Counter(task for pool in own for task in pool.tasks)
    assert set(counts) == set(known) and len(set(counts.values())) == 1
    for pool in own:
        assert 2 <= len(pool.experts) <= most and len(set(pool.tasks)) == len(pool.tasks)
    pairs = Counter(pair for pool in own for pair in combinations(sorted(pool.tasks), 2))
    assert max(pairs.values()) - min(pairs.values()) <= 2


def test_both_experts_of_a_task_stand_for_it() -> None:
    used = {expert for pool in pools("A").values() for expert in pool.experts}
    assert used == {"dates", "brackets", "edits", "edits2", "bases", "bases_alone"}


def test_published_models_are_the_frozen_ones() -> None:
    if not MODELS.is_dir():
        pytest.skip("no model of the bench is published yet (experiments/pools/models is absent)")
    if not frozen.FILE.is_file():
        pytest.skip("the models are not frozen yet (experiments/pools/models.json is absent)")
    assert frozen.hashes() == frozen.frozen()


def test_hashes_are_of_every_file(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_bytes(b"abc")
    found = frozen.hashes(tmp_path)
    assert list(found) == ["base/config.json"]
    assert found["base/config.json"].startswith("ba7816bf")  # SHA-256 of "abc", FIPS 180-4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random stand-ins for a base and the experts of a pool."""
    folder, words = tmp_path_factory.mktemp("models"), tokenizer()
    model = LlamaForCausalLM(BenchSettings(layers=2, hidden=16, intermediate=16).llama(len(words)))
    for name in ("base", "dates", "math"):
        model.save_pretrained(folder / name)
        words.save_pretrained(folder / name)
    return folder


def test_a_pool_is_a_search_with_the_items_of_the_bench(models: Path, tmp_path: Path) -> None:
    pool = Pool("X", DEVELOPED, ("dates", "math"))
    settings = api.settings(*overrides(pool, models), "budget=4")
    problem = build_problem(settings, tmp_path / "evaluations.sqlite", NullLogger())
    assert problem.objectives == ("dates", "math")
    for task in problem.evaluator.tasks:
        assert [len(task.items(split)) for split in ("search", "test")] == [150, 300]
    few = api.settings(*overrides(pool, models, **SIZES), "budget=4")
    problem = build_problem(few, tmp_path / "few.sqlite", NullLogger())
    (found,) = problem.evaluator.evaluate([Candidate.whole("dates", 2)])
    assert found.ok and len(found.per_item["dates"]) == 24


def test_every_task_has_a_kind_of_its_name() -> None:
    tools = None  # exact match needs neither tokenizer nor runner
    for name in OWN_TASKS:
        task = bench_task(name, SizedTaskSettings(kind=name), tools)  # type: ignore[arg-type]
        assert task.name == name
    with pytest.raises(InputError, match="keep their names"):
        bench_task("mine", SizedTaskSettings(kind="dates"), tools)  # type: ignore[arg-type]
    every = {*DEVELOPMENT, *(task for tasks in SEALED.values() for task in tasks)}
    assert every - {*OWN_TASKS} == {"translation", "math", "code", "sorting", "reversal"}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_configuration(method: str) -> None:
    if missing := missing_packages(method):
        pytest.skip(f"{', '.join(missing)} is not installed")
    settings = api.settings(*overrides(pools()[ZOO]), *METHODS[method], "budget=40")
    if isinstance(settings.agent, PslSettings) and settings.agent.prior:
        with pytest.raises(InputError, match="POOL"):  # which is made first, pool by pool
            check_settings(settings)
        assert words_of(method, pools()["D01"])[-1].endswith("/D01.zip")
    else:
        check_settings(settings)


def test_budgets_are_read_off_one_search_where_they_may_be() -> None:
    three, five = Pool("X", "A", ("a", "b", "c")), Pool("Y", "A", ("a", "b", "c", "d", "e"))
    assert runs("hm3", three, (100, 40)) == [(40, (40,)), (100, (100,))]
    assert runs("nsga2", three, (40, 100)) == [(100, (40, 100))]
    assert runs("parameter_only", three, (64, 100)) == [(100, (64, 100))]
    # 24 random merges are more than a quarter of 64.
    assert runs("parameter_only", five, (64, 100)) == [(64, (64,)), (100, (100,))]
    assert runs("parameter_only", five, (40,)) == [(40, (40,))]
    assert set(PLANNED) == set(METHODS)


@pytest.mark.parametrize("method", ["parameter_only", "nsga2", "uniform"])
def test_a_smaller_budget_is_a_prefix_of_a_larger_one(method: str, tmp_path: Path) -> None:
    if missing := missing_packages(method):
        pytest.skip(f"{', '.join(missing)} is not installed")
    # A quarter of 64 is the first sample of three experts' merges.
    less, more = (zoo_problem(tmp_path, method, budget) for budget in (64, 72))
    assert less.archive.keys == more.archive.keys[: len(less.archive.keys)]


def test_searches_over_blends_are_told_what_is_known(tmp_path: Path) -> None:
    problem = zoo_problem(tmp_path, "uniform", 3)
    encoding = blends_of(problem, 4)
    vectors, scores = known_blends(problem, encoding)
    # Three experts, the base, and the three merges: each stands for what was scored.
    assert len(vectors) == 7
    for vector, row in zip(vectors[:4], scores, strict=False):
        (found,) = problem.known([encoding.decode(vector)])
        assert found.vector / problem.z_star == pytest.approx(row)
    assert sorted(vectors[4:, 0]) == pytest.approx([0.1, 1 / 6, 1 / 3], abs=1e-4)


COMPETITORS = ["annealing", "none_members", "layer_bo", "layer_bo_trust", "layer_bo_saas"]


@pytest.mark.parametrize("method", COMPETITORS)
def test_competitors_spend_their_budget_and_no_more(method: str, tmp_path: Path) -> None:
    if method.startswith("layer_bo"):
        pytest.importorskip("botorch")
    problem = zoo_problem(tmp_path, method, 26)
    assert problem.used == 26 and problem.failed == 0
    start = zoo_problem(tmp_path, "uniform", 3).archive.hypervolume()
    assert problem.archive.hypervolume() > start


def test_nobody_asks_a_policy_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*given: object) -> None:
        raise AssertionError("a policy was asked")

    for module in ("proposals", "online"):
        monkeypatch.setattr(f"hm3rl.agents.{module}.roll_out", asked)
    monkeypatch.setattr("hm3rl.agents.regression.Regression.step", asked)
    monkeypatch.setattr("hm3rl.agents.state.AgentState.roll_out_real", asked)
    assert zoo_problem(tmp_path, "none_members", 26).used == 26

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from hm3rl.config.compose import compose_settings
from hm3rl.config.schema import RunSettings
from hm3rl.config.searchers import HM3Settings
from hm3rl.errors import InputError
from hm3rl.run.build import check_settings
from hm3rl.search.hm3 import HM3


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("seed=-1", "seed=-1"),
        ("seed=4294967296", "seed=4294967296 is out of range.*\n.*0 to 4294967295"),
        ("threads=-1", "threads=-1"),
        ("paths.max_length=1000000000", "paths.max_length=1000000000"),
        ("search.parameter.scale_max=inf", "scale_max=inf is out of range"),
        ("search.parameter.scale_min=nan", "scale_min=nan is out of range"),
        ("search=rmm search.learning_rate=-1", "search.learning_rate=-1"),
        ("search.offline_share=nan", "search.offline_share=nan"),
        ("search=cmaes_dfs search.scale_max=inf", "search.scale_max=inf"),
        ("evaluation.proxy_cost=inf", "evaluation.proxy_cost=inf"),
        ("tasks.math.search_items=-1", "tasks.math.search_items=-1"),
        ("tasks.math.metric=chrf", "unknown key tasks.math.metric"),
        (f"name={'x' * 300}", "name=xxx.* is too long"),
        (f"output=/tmp/{'x' * 300}", "output=/tmp/xxx.* is too long"),
        (f"+pool.experts.{'x' * 300}=y", "key pool.experts.xxx.* is too long"),
        ("pool.device=tpu", "tpu"),
        ("evaluation.program_workers=0", "program_workers=0"),
        ("evaluation.program_seconds=inf", "program_seconds=inf"),
        ("evaluation.program_seconds=nan", "program_seconds=nan"),
        ("evaluation.program_seconds=0", "program_seconds=0"),
        ("evaluation.program_seconds=-1", "program_seconds=-1"),
        ("evaluation.program_memory_mb=1000000000000", "program_memory_mb=1000000000000"),
        ("evaluation.isolation=wran", "evaluation.isolation=wran"),
        ("evaluation.program_memory_mb=1", "program_memory_mb=1"),
        ("evaluation.program_workers=100000", "program_workers=100000 on a machine with"),
        ("threads=100000", "threads=100000 on a machine with"),
        ("evaluation.together=0", "together=0"),
        ("evaluation.activation_mb=0", "activation_mb=0"),
        ("evaluation.join=sometimes", "evaluation.join=sometimes"),
        ("search.parameter.operators=[]", "operators"),
        ("search.parameter.scale_min=4", "scale_max=3"),
        ("search.parameter.density_max=1.5", "density_max=1.5"),
        ("search.parameter.density_min=0", "density_min=0"),
        ("agent.batch=0", "agent.batch=0"),
        ("agent.head=oracle", "agent.head=oracle"),
        ("agent.epsilon=1.5", "agent.epsilon=1.5"),
        ("agent.expectile=1", "agent.expectile=1"),
        ("agent.temperature=0", "agent.temperature=0"),
        ("agent.length_cost=nan", "agent.length_cost=nan"),
        ("agent.distil_steps=-1", "agent.distil_steps=-1"),
        ("agent.conditioning=poetry", "agent.conditioning=poetry"),
        ("agent.acquisition.function=luck", "agent.acquisition.function=luck"),
    ],
)
def test_a_value_out_of_range_is_named_before_anything_is_loaded(words: str, named: str):
    with pytest.raises(InputError, match=named):
        check_settings(compose_settings(words.split()))


def test_more_workers_than_a_machine_can_run_are_refused():
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    words = ["evaluation/backend=ray", "evaluation.workers=100000"]
    with pytest.raises(InputError, match=r"evaluation\.workers=100000 on a machine with") as caught:
        check_settings(compose_settings(words))
    most = caught.value.remedy.split()[1]
    check_settings(compose_settings([words[0], f"evaluation.workers={most}"]))


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_ray_address_nobody_listens_on_is_refused_in_seconds(form: str):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        address = form.format(taken.getsockname()[1])
        words = ["evaluation/backend=ray", f"evaluation.ray_address='{address}'"]
        settings = compose_settings(words)
        check_settings(settings, began=True)  # what was stored is read without the cluster
        begun = time.monotonic()
        with pytest.raises(InputError, match="nobody listens there") as caught:
            check_settings(settings)
        assert "ray start --head" in caught.value.remedy
        assert time.monotonic() - begun < 30  # most of it for importing Ray


def test_a_store_that_is_none_is_refused_before_anything_is_loaded(tmp_path: Path):
    notes = tmp_path / "notes"
    notes.write_text("x")
    with pytest.raises(InputError, match="cannot be used as a store"):
        check_settings(compose_settings([f"evaluation.store={notes}"]))
    assert notes.read_text() == "x"


def test_a_start_that_is_no_saved_agent_is_refused_before_anything_is_loaded(tmp_path: Path):
    for name, content in (("text", b"hello"), ("cut", b"PK\x03\x04")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="is no saved agent"):
            check_settings(compose_settings([f"agent.init_from={tmp_path / name}"]))
    with pytest.raises(InputError, match="there is no"):
        check_settings(compose_settings([f"agent.init_from={tmp_path / 'gone'}"]))


def test_free_weights_are_for_operators_of_task_vectors():
    words = ["search.parameter.weights=free", "search.parameter.operators=[slerp]"]
    with pytest.raises(InputError, match="weights=free with slerp"):
        check_settings(compose_settings(words))


@pytest.mark.parametrize("shares", [(0.9, 0.05), (0.8, 0.1), (0.05, 0.9), (0.4, 0.2)])
def test_shares_never_take_the_last_evaluation_of_a_later_phase(shares: tuple[float, float]):
    search = HM3Settings(parameter_share=shares[0], offline_share=shares[1])
    for budget in range(3, 60):
        parts = HM3(RunSettings(search=search)).split(budget, 3)
        assert sum(parts) == budget and min(parts) >= 1


def test_more_budget_leaves_the_plan_as_it_was_and_lengthens_the_last_phase():
    plain = HM3(RunSettings()).split(100, 3)
    longer = HM3(RunSettings(planned_budget=100)).split(140, 3)
    assert longer == (plain[0], plain[1], plain[2] + 40)

from __future__ import annotations

from pathlib import Path

from experiments.pools.standing import pairs, standing


def test_ranks_are_of_pools_that_have_all_methods(tmp_path: Path) -> None:
    rows = [("D01", "hm3", 0.5), ("D01", "map", 0.7), ("D02", "hm3", 0.9), ("D02", "map", 0.3)]
    rows += [("D03", "hm3", 0.4), ("D04", "hm3", 0.2), ("D04", "map", 0.3)]
    lines = [f"{pool},development,{name},0,40,held_out,{v},abc" for pool, name, v in rows]
    header = "pool,set,method,seed,budget,split,hypervolume,commit"
    (tmp_path / "methods.csv").write_text("\n".join([header, *lines]) + "\n")
    text = standing("development", ("hm3", "map"), 40, 0, tmp_path)
    assert "| D03 | 0.400 |  |" in text and "D05" not in text
    assert text.endswith("Mean ranks over 3 pools: hm3 1.7, map 1.3")
    compared = pairs("development", ("hm3", "map"), 40, 0, tmp_path)
    assert compared == "hm3 is ahead of map on 1 of 3 pools (means 0.533, 0.433)"

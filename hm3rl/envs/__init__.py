"""Environments: building inference paths as an MDP, and synthetic problems of known optimum."""

from __future__ import annotations

from gymnasium.envs.registration import register, registry

MERGE_PATH_ID = "hm3rl/MergePath-v0"
SYNTHETIC_ID = "hm3rl/SyntheticMerge-v0"
MO_MERGE_PATH_ID = "hm3rl/mo-merge-path-v0"
MO_SYNTHETIC_ID = "hm3rl/mo-synthetic-merge-v0"

if MERGE_PATH_ID not in registry:
    # Named as text: rooms above this one build a whole problem, and only when it is asked for.
    merge_path = ("hm3rl.api:environment", "hm3rl.api:vector_environment")
    synthetic = ("hm3rl.envs.forms:synthetic_merge", "hm3rl.envs.side_by_side:synthetic_merges")
    for name, (one, many) in {MERGE_PATH_ID: merge_path, SYNTHETIC_ID: synthetic}.items():
        register(id=name, entry_point=one, vector_entry_point=many)
    for name, (one, many) in {MO_MERGE_PATH_ID: merge_path, MO_SYNTHETIC_ID: synthetic}.items():
        register(
            id=name,
            entry_point=one,
            vector_entry_point=many,
            kwargs={"vector_rewards": True},
            disable_env_checker=True,  # it insists on scalar rewards
        )

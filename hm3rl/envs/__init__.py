"""Environments: building inference paths as an MDP, and a synthetic problem of known optimum."""

from __future__ import annotations

from gymnasium.envs.registration import register, registry

MERGE_PATH_ID = "hm3rl/MergePath-v0"
SYNTHETIC_ID = "hm3rl/SyntheticMerge-v0"
MO_MERGE_PATH_ID = "hm3rl/mo-merge-path-v0"
MO_SYNTHETIC_ID = "hm3rl/mo-synthetic-merge-v0"

if MERGE_PATH_ID not in registry:
    register(id=MERGE_PATH_ID, entry_point="hm3rl.envs.merge_path:MergePathEnv")
    register(id=SYNTHETIC_ID, entry_point="hm3rl.envs.synthetic:SyntheticMergeEnv")
    # The checker of environments insists on scalar rewards.
    views = {MO_MERGE_PATH_ID: "merge_path_view", MO_SYNTHETIC_ID: "synthetic_merge_view"}
    for name, view in views.items():
        entry = f"hm3rl.envs.multi_objective:{view}"
        register(id=name, entry_point=entry, disable_env_checker=True)

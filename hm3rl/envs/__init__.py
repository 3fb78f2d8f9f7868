"""Environments: building inference paths as an MDP, and a synthetic problem of known optimum."""

from __future__ import annotations

from gymnasium.envs.registration import register, registry

MERGE_PATH_ID = "hm3rl/MergePath-v0"
SYNTHETIC_ID = "hm3rl/SyntheticMerge-v0"

if MERGE_PATH_ID not in registry:
    register(id=MERGE_PATH_ID, entry_point="hm3rl.envs.merge_path:MergePathEnv")
    register(id=SYNTHETIC_ID, entry_point="hm3rl.envs.synthetic:SyntheticMergeEnv")

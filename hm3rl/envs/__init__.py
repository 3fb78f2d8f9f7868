"""Environments: building inference paths as an MDP, and synthetic problems of known optimum."""

from __future__ import annotations

from gymnasium.envs.registration import register, registry

MERGE_PATH_ID = "hm3rl/MergePath-v0"
BLEND_PATH_ID = "hm3rl/BlendPath-v0"
SYNTHETIC_ID = "hm3rl/SyntheticMerge-v0"
SYNTHETIC_BLENDS_ID = "hm3rl/SyntheticBlends-v0"
MO_MERGE_PATH_ID = "hm3rl/mo-merge-path-v0"
MO_BLEND_PATH_ID = "hm3rl/mo-blend-path-v0"
MO_SYNTHETIC_ID = "hm3rl/mo-synthetic-merge-v0"
MO_SYNTHETIC_BLENDS_ID = "hm3rl/mo-synthetic-blends-v0"

if MERGE_PATH_ID not in registry:
    environments = {
        MERGE_PATH_ID: "merge_path:MergePathEnv",
        BLEND_PATH_ID: "blend_path:BlendPathEnv",
        SYNTHETIC_ID: "synthetic:SyntheticMergeEnv",
        SYNTHETIC_BLENDS_ID: "synthetic_blends:SyntheticBlendsEnv",
    }
    views = {
        MO_MERGE_PATH_ID: "merge_path_view",
        MO_BLEND_PATH_ID: "blend_path_view",
        MO_SYNTHETIC_ID: "synthetic_merge_view",
        MO_SYNTHETIC_BLENDS_ID: "synthetic_blends_view",
    }
    for name, entry in environments.items():
        register(id=name, entry_point=f"hm3rl.envs.{entry}")
    for name, view in views.items():
        # The checker of environments insists on scalar rewards.
        entry = f"hm3rl.envs.multi_objective:{view}"
        register(id=name, entry_point=entry, disable_env_checker=True)

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
    # Named as text: rooms above this one build a whole problem, and only when it is asked for.
    register(
        id=MERGE_PATH_ID,
        entry_point="hm3rl.api:environment",
        vector_entry_point="hm3rl.api:vector_environment",
    )
    register(
        id=SYNTHETIC_ID,
        entry_point="hm3rl.envs.forms:synthetic_merge",
        vector_entry_point="hm3rl.envs.side_by_side:synthetic_merges",
    )
    environments = {
        BLEND_PATH_ID: "blend_path:BlendPathEnv",
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

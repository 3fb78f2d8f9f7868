from __future__ import annotations

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import A2C

from hm3rl.agents.path_extractor import PathExtractor


@pytest.mark.parametrize("form", ["discrete", "box"])
def test_any_policy_for_dictionaries_takes_it(form: str):
    env = gym.make("hm3rl/SyntheticMerge-v0", form=form, layers=3, objectives=2).unwrapped
    kwargs = {"features_extractor_class": PathExtractor, "features_extractor_kwargs": {"hidden": 9}}
    learner = A2C("MultiInputPolicy", env, policy_kwargs=kwargs, seed=0)
    learner.learn(20)
    assert learner.policy.features_extractor.features_dim == 9


def test_places_and_preferences_are_told_apart():
    env = gym.make("hm3rl/SyntheticMerge-v0", layers=3, objectives=2).unwrapped
    torch.manual_seed(0)
    features = PathExtractor(env.observation_space)
    seen, _ = env.reset(seed=0)
    one = {key: torch.as_tensor(value)[None] for key, value in seen.items()}
    swapped = {**one, "path": one["path"].clone()}
    one["path"][0, :2], swapped["path"][0, :2] = torch.tensor([4, 5]), torch.tensor([5, 4])
    other = {**one, "preference": one["preference"].flip(1)}
    assert features(one).shape == (1, 64)
    assert not torch.allclose(features(one), features(swapped))
    assert not torch.allclose(features(one), features(other))

"""Scored paths as episodes of a Minari dataset, and back (https://minari.farama.org).

An episode is one path, walked action by action in an environment; its reward, paid at the end, is
the utility under a preference drawn for it. `infos["vector_reward"]` has the vector f / z* at the
end and zeros before, as many rows as there are observations. The metadata of an episode say its
`seed` (`reset(seed=...)` draws the same preference), `preference`, `vector_reward`, `path`, and
`chosen_by`, what proposed the path. The metadata of the dataset hold under `hm3rl` what two runs
must share for one's scores to mean the same in the other.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np

from hm3rl.envs.path_env import PathEnv
from hm3rl.errors import InputError
from hm3rl.paths.layer_path import LayerPath

PREFIX = "minari:"
NOTES = "hm3rl"
"""Key of our own notes in a dataset's metadata."""

_NAME = re.compile(r"(?:[-\w][-\w/]*[-\w]+/)?[-\w]+?(-v\d+)?")


@dataclass(frozen=True)
class ScoredPath:
    """A path with what it scored.

    Attributes:
        path: The path.
        vector: f / z*, shape (K,).
        chosen_by: What proposed it, as in archive.jsonl.
    """

    path: LayerPath
    vector: np.ndarray
    chosen_by: str


def dataset_id(text: str) -> str:
    """The id that Minari knows a dataset by.

    Args:
        text: `minari:NAME`; a name without a version gets `-v0`.

    Raises:
        InputError: It is no such text, or Minari is not installed.
    """
    name = text.removeprefix(PREFIX)
    match = _NAME.fullmatch(name)
    if name == text or match is None:
        raise InputError(
            f"{text!r} names no Minari dataset",
            "write minari:NAME, of letters, digits, _ and -, for example minari:tiny/hm3-v0",
        )
    missing = [package for package in ("minari", "h5py") if find_spec(package) is None]
    if missing:
        raise InputError(
            f"{text} needs {' and '.join(missing)}, which is not installed",
            "pip install 'hm3rl[minari]'",
        )
    return name if match.group(1) else f"{name}-v0"


def walk(env: PathEnv, scored: ScoredPath, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Walk a path whose score is known.

    Args:
        env: An environment that offers the path.
        scored: The path.
        seed: Of the episode; draws its preference, as `env.reset(seed=seed)` does.

    Returns:
        The fields of Minari's EpisodeBuffer, T actions and T + 1 observations, and its metadata.
    """
    episode = env.begin(np.random.default_rng(seed), {})
    observations, actions = [env.observe(episode)], []
    while not env.ended(episode):
        actions.append(env.action_on(scored.path, episode))
        env.take(episode, actions[-1])
        observations.append(env.observe(episode))
    vectors = np.zeros((len(observations), len(scored.vector)))
    vectors[-1] = scored.vector
    ends = np.arange(len(actions)) == len(actions) - 1
    worth = float(env.utility(scored.vector, scored.path.length, episode.preference))
    steps = {
        "seed": seed,
        "observations": {key: np.stack([o[key] for o in observations]) for key in observations[0]},
        "actions": np.stack([np.asarray(action) for action in actions]),
        "rewards": np.where(ends, worth, 0.0),
        "terminations": ends,
        "truncations": np.zeros_like(ends),
        "infos": {"vector_reward": vectors},
    }
    said = {
        "preference": episode.preference,
        "vector_reward": scored.vector,
        "path": str(scored.path),
        "chosen_by": scored.chosen_by,
    }
    return steps, said


def exists(name: str) -> bool:
    """Whether there is a dataset of that id on this machine."""
    from minari.storage.datasets_root_dir import get_dataset_path

    return bool(get_dataset_path(name).exists())


def check_new(name: str) -> None:
    """Refuse an id that is taken.

    Raises:
        InputError: There is a dataset of that id on this machine.
    """
    if exists(name):
        raise InputError(
            f"there is a Minari dataset {name} already",
            f"give another name or version, or remove it: minari delete {name}",
        )


def write(
    name: str,
    env: PathEnv,
    scored: Sequence[ScoredPath],
    notes: Mapping[str, Any],
    config: str,
    form: str,
    seed: int,
    description: str,
) -> None:
    """Write a dataset.

    Args:
        name: Its id.
        env: An environment that offers all paths.
        scored: The paths.
        notes: What else is known of them, as JSON.
        config: The run that an environment recovered from the dataset takes its members from.
        form: Its form.
        seed: Of the episodes' seeds.
        description: One sentence.
    """
    import minari
    from minari.data_collector import EpisodeBuffer

    seeds = np.random.default_rng(seed).integers(2**31, size=len(scored)).tolist()
    walks = [walk(env, one, own) for one, own in zip(scored, seeds, strict=True)]
    env.spec = deepcopy(gym.spec("hm3rl/MergePath-v0"))
    env.spec.kwargs = {"config": config, "form": form}
    with warnings.catch_warnings():  # of authors and links that nobody here knows
        warnings.filterwarnings("ignore", message=r".* is set to None", category=UserWarning)
        dataset = minari.create_dataset_from_buffers(
            name,
            [EpisodeBuffer(**steps) for steps, _ in walks],
            env=env,
            algorithm_name="hm3rl",
            description=description,
        )
    dataset.storage.update_metadata({NOTES: dict(notes)})
    dataset.storage.update_episode_metadata([said for _, said in walks])


def read(name: str) -> tuple[dict[str, Any], list[ScoredPath]]:
    """Notes and paths of a dataset that `write` wrote.

    Args:
        name: Its id.

    Raises:
        InputError: There is none on this machine, or it is not of this kind.
    """
    import minari

    if not exists(name):
        raise InputError(
            f"there is no Minari dataset {name} on this machine",
            f"write it: hm3rl dataset RUN --to {PREFIX}{name}; `minari list local` shows those "
            "there are",
        )
    storage = minari.load_dataset(name).storage
    notes = storage.metadata.get(NOTES)
    if notes is None:
        raise InputError(
            f"the Minari dataset {name} does not say what its episodes were scored on",
            "give one that `hm3rl dataset` wrote; Minari drops what it says when it combines "
            "datasets, `hm3rl dataset RUN RUN` does not",
        )
    said = storage.get_episode_metadata(range(storage.total_episodes))
    return notes, [
        ScoredPath(LayerPath.parse(one["path"]), np.asarray(one["vector_reward"]), one["chosen_by"])
        for one in said
    ]

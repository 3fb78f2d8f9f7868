"""What searches in other pools taught: a prior of scores, a policy, and the evaluations behind it.

One file: `agent.prior=prior.zip`. It keeps the evaluations, so that more can be added and all be
learned again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hm3rl.agents.set_policy import SetPolicy, fit_set_policy
from hm3rl.config.agents import PslSettings
from hm3rl.errors import InputError
from hm3rl.surrogate.pool_table import PoolTable, read_tables, write_tables
from hm3rl.surrogate.score_prior import ScorePrior, fit_score_prior, held_out_error

LEAST_TASKS = 2
"""Tasks without which nothing can be said of tasks that were not seen."""


@dataclass(frozen=True, eq=False)
class Prior:
    """See above.

    Attributes:
        scores: What blends are expected to score.
        policy: What it proposes.
        tables: What both learned from; scores that were not looked at are not in them.
    """

    scores: ScorePrior
    policy: SetPolicy
    tables: tuple[PoolTable, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks that it learned from, in order of appearance."""
        return tuple(dict.fromkeys(task for table in self.tables for task in table.tasks))

    @classmethod
    def learn(
        cls,
        tables: Sequence[PoolTable],
        seed: int = 0,
        without: Collection[str] = (),
        say: Callable[[str], None] = lambda line: None,
    ) -> Prior:
        """Learn from pools, and judge what was learned on each task in turn.

        Args:
            tables: Pools.
            seed: Of networks and their training.
            without: Tasks whose scores are not to be looked at.
            say: Receives a line for each task that is left out in turn.

        Raises:
            InputError: There are not enough tasks, or sources without a score.
        """
        kept = [table for table in tables if any(task not in without for task in table.tasks)]
        tasks = sorted({task for table in kept for task in table.tasks} - set(without))
        if len(tasks) < LEAST_TASKS:
            raise InputError(
                f"a prior of {len(tasks)} tasks ({', '.join(tasks)})",
                f"give runs on pools of {LEAST_TASKS} tasks at least",
            )
        missed, count = 0.0, 0
        for task in tasks:
            others = fit_score_prior(kept, seed, {*without, task}, networks=1)
            own, spread = held_out_error(others, kept, task)
            pools = sum(task in table.tasks for table in kept)
            missed, count = missed + own, count + pools
            say(
                f"{task}: left out, {pools} pools, error {(own / pools) ** 0.5:.3f}, "
                f"R2 {1 - own / max(spread, 1e-12):.2f}"
            )
        scores = fit_score_prior(kept, seed, without)
        scores.squared_error.fill_(missed / count)
        options = PslSettings()
        seen = [table.without(without) for table in kept]
        policy = fit_set_policy(
            seen,
            scores,
            seed,
            utopia=options.utopia,
            smoothness=options.smoothness,
        )
        return cls(scores, policy, tuple(seen))

    def save(self, path: Path) -> None:
        """Write one file, in place of any that is there."""
        write_tables(path, self.tables, prior_arrays(self.scores, self.policy))

    @classmethod
    def load(cls, path: Path) -> Prior:
        """Read what `save` wrote.

        Raises:
            InputError: The file is no prior.
        """
        tables, arrays = read_tables(path)
        try:
            learned = prior_of_arrays(arrays)
        except RuntimeError as error:  # of networks of other sizes
            raise InputError(
                f"{path} has networks that this version does not know",
                f"learn again from its evaluations: hm3rl pretrain {path} --to prior.zip",
            ) from error
        if learned is None:
            raise InputError(
                f"{path} has evaluations of other pools, and nothing that was learned from them",
                f"learn: hm3rl pretrain {path} --to prior.zip",
            )
        return cls(*learned, tables)


def as_arrays(head: str, module: nn.Module) -> dict[str, np.ndarray]:
    """A network's weights as arrays whose names begin with `head`."""
    return {head + name: value.numpy() for name, value in module.state_dict().items()}


def take_arrays(head: str, module: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Give a network the weights that `as_arrays` gave."""
    own = {name: value for name, value in arrays.items() if name.startswith(head)}
    module.load_state_dict(
        {name.removeprefix(head): torch.as_tensor(value) for name, value in own.items()}
    )


def prior_arrays(scores: ScorePrior, policy: SetPolicy) -> dict[str, np.ndarray]:
    """Both networks as arrays."""
    return {**as_arrays("prior/scores/", scores), **as_arrays("prior/policy/", policy)}


def prior_of_arrays(arrays: Mapping[str, np.ndarray]) -> tuple[ScorePrior, SetPolicy] | None:
    """What `prior_arrays` gave; None if there is none among the arrays."""
    if not any(name.startswith("prior/") for name in arrays):
        return None
    scores, policy = ScorePrior(), SetPolicy()
    take_arrays("prior/scores/", scores, arrays)
    take_arrays("prior/policy/", policy, arrays)
    return scores.requires_grad_(False), policy.requires_grad_(False)

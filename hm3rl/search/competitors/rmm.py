"""Baseline `rmm`: Reinforced Model Merging (Han et al., arXiv 2503.21272).

A cursor walks through the depths and takes a layer of a member, skips or goes back at each; PPO
learns from what the finished models score. `envs/cursor.py` has the decision process and how it
differs from the paper's. PPO is that of sb3-contrib (Stable-Baselines3 with masks), on the paper's
networks: two layers of 64 tanh units each for actor and critic, an update every four episodes, 40
epochs on the whole rollout, clip 0.2, gamma 0.99, entropy 1e-4, Monte Carlo returns (lambda = 1).

What differs besides, and why:

- The paper's reward is the mean accuracy. Here it is sum_k lambda_k f_k / z*_k, and lambda is drawn
  anew for each episode and shown to the networks, so that one agent covers the front. With
  `search.preferences=1` it is the paper's mean (equal weights); N > 1 trains N agents in turn,
  each for one preference.
- The paper rewards on a subset of the data (a tenth in its code's example) and smooths the rewards
  over episodes. Here every path is scored on all items, and none twice, as for every method.
- Its members are the fine-tuned models and merges of them with fixed settings (TIES, DARE,
  DARE-TIES). `search.levels=paths` does that, with one equal-weight merge for each operator and the
  middles of the ranges; `both` offers the merged members that HM3's parameter level finds.
- Agents begin by imitating the members that were scored already, under each preference the best of
  them, their critics by what these are worth: no evaluation is spent on what is known. They stop
  where a path would still differ from the member at `CHANGES` places on average.
- A path that cannot be scored has no reward; its episode is left out of what PPO learns from.
- One step size for actor and critic (the paper: 3e-4 and 1e-3); advantages are normalised, not
  returns; both are Stable-Baselines3's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from hm3rl.agents.buffer import LeaveOutUnscored, ScoredRolloutBuffer
from hm3rl.agents.generators import GeneratorScope
from hm3rl.agents.ppo import PreferencePPO
from hm3rl.config.schema import RunSettings
from hm3rl.config.searchers import ParameterSettings, RMMSettings
from hm3rl.envs.cursor import Cursor, CursorVecEnv
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.objectives.archive import Archive
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.utility import Utility
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.space import PathSpace
from hm3rl.search.architecture_level import path_space, to_candidate
from hm3rl.search.ledger import Ledger
from hm3rl.search.levels import CHANGES, OverPaths
from hm3rl.search.parameter_level import check_operators

PHASE = "cursor"

STALE = 10
"""Rollouts in a row without a new path after which an agent starts anew; if that brings no new path
either, the search ends."""

LESSONS = 64
"""Preferences under which an agent imitates the best known member."""

STEPS = 500
"""Most gradient steps of imitation."""


class RMM(OverPaths[RMMSettings]):
    """PPO agents that walk a cursor through the depths."""

    def __init__(self, settings: RunSettings) -> None:
        super().__init__(settings)
        check_operators("search.operators", self.options.operators)
        # Its paths go through merges of all experts even without a parameter level.
        self.merges = True

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget; see `Searcher.search`."""
        rng = np.random.default_rng(self.seed)
        names, _, left = self.offer_members(problem, budget, rng)
        if self.options.levels == "paths":
            recipes = plain_merges(
                problem.pool.expert_names, self.options.operators, self.options.parameter
            )
            names = [*problem.pool.expert_names, *(problem.members.add(r) for r in recipes)]
        problem.logger.phase(PHASE, left)
        walkers = Walkers(
            path_space(problem, names, describe=False),
            Ledger(problem, left, PHASE),
            self.options,
            rng,
        )
        walkers.run()
        return problem.archive


def plain_merges(
    experts: tuple[str, ...], operators: Sequence[str], settings: ParameterSettings
) -> list[MergeRecipe]:
    """The paper's merged members: one merge of all experts alike for each operator.

    Args:
        experts: Names of the experts.
        operators: How they are merged.
        settings: Ranges of scale and density, of which the middles are taken.
    """
    return [
        MergeRecipe(
            operator=operator,
            weights=tuple((name, 1.0 / len(experts)) for name in experts),
            scale=(settings.scale_min + settings.scale_max) / 2,
            density=(settings.density_min + settings.density_max) / 2,
        )
        for operator in operators
    ]


class Walkers:
    """One agent for all preferences, or one for each, trained in turn until the budget is spent.

    Args:
        space: Legal paths.
        ledger: Scores candidates and holds the budget.
        settings: RMM's.
        rng: Source of randomness.
    """

    def __init__(
        self, space: PathSpace, ledger: Ledger, settings: RMMSettings, rng: np.random.Generator
    ) -> None:
        self.space = space
        self.ledger = ledger
        self.settings = settings
        self.rng = rng
        self.objectives = len(ledger.problem.objectives)
        self.generators = GeneratorScope(int(rng.integers(2**31)))
        count = settings.preferences
        if count == 0:
            draws = [lambda: sample_dirichlet(1, self.objectives, self.rng)[0]]
        elif count == 1:
            draws = [_always(np.full(self.objectives, 1 / self.objectives))]
        else:
            draws = [_always(p) for p in sample_dirichlet(count, self.objectives, rng)]
        self._draws = draws
        self._agents = [self._agent(draw) for draw in draws]
        self._stale = [0] * len(draws)

    def run(self) -> None:
        """Train in turn, one rollout each."""
        turn = 0
        anew = 0
        while self.ledger.left:
            which = turn % len(self._agents)
            before = self.ledger.left
            self._rollout(self._agents[which])
            turn += 1
            if self.ledger.left < before:
                self._stale[which] = anew = 0
                continue
            self._stale[which] += 1
            if self._stale[which] == STALE:
                if anew == len(self._agents):
                    return  # even fresh agents walk known paths only
                anew += 1
                self._agents[which] = self._agent(self._draws[which])
                self._stale[which] = 0

    def _agent(self, draw: Callable[[], np.ndarray]) -> PreferencePPO:
        settings = self.settings
        episodes = CursorVecEnv(
            self.space, self._score, Utility(), self.objectives, draw, settings.episodes
        )
        # An episode takes a step for the stem and one for each depth, more only if it goes back.
        steps = self.space.depth + 1
        with self.generators.scope():
            agent = PreferencePPO(
                "MlpPolicy",
                episodes,
                learning_rate=settings.learning_rate,
                n_steps=steps,
                batch_size=steps * settings.episodes,
                n_epochs=settings.epochs,
                gamma=settings.gamma,
                gae_lambda=1.0,
                clip_range=settings.clip_range,
                ent_coef=settings.entropy,
                rollout_buffer_class=ScoredRolloutBuffer,
                policy_kwargs={"net_arch": [settings.hidden, settings.hidden]},
                seed=int(self.rng.integers(2**31)),
                device="cpu",
            )
        agent.set_logger(Logger(folder=None, output_formats=[]))
        with self.generators.scope():
            self._imitate(agent, draw)
        return agent

    def _imitate(self, agent: PreferencePPO, draw: Callable[[], np.ndarray]) -> None:
        """Teach an agent the best known member under each of `LESSONS` preferences."""
        members = self._known_members()
        if not members:
            return
        utility = Utility()
        taught: list[tuple[np.ndarray, int, np.ndarray, float]] = []
        for preference in (draw() for _ in range(LESSONS)):
            worth = [float(utility(v, self.space.depth, preference)) for v in members.values()]
            best = int(np.argmax(worth))
            member, gamma = list(members)[best], self.settings.gamma
            taught += walk(self.space, member, preference, worth[best], gamma)
        seen, actions, masks, returns = (np.array(column) for column in zip(*taught, strict=True))
        observed, taken, legal = (torch.as_tensor(column) for column in (seen, actions, masks))
        # Each member counts alike, however many preferences it is the best for.
        counts = np.bincount(actions)
        weights = torch.as_tensor(1.0 / counts[actions] / (counts > 0).sum(), dtype=torch.float32)
        target = torch.as_tensor(returns, dtype=torch.float32)
        policy = agent.policy
        optimiser = torch.optim.Adam(policy.parameters(), lr=self.settings.learning_rate)
        enough = 1.0 - CHANGES / (self.space.depth + 1)
        for _ in range(STEPS):
            values, likelihood, _ = policy.evaluate_actions(observed, taken, legal)
            if float((weights * likelihood.detach().exp()).sum()) >= enough:
                return
            loss = (weights * ((values.ravel() - target) ** 2 - likelihood)).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    def _known_members(self) -> dict[int, np.ndarray]:
        """Scores f / z* of the members whose own paths are legal and were scored, by index."""
        problem, found = self.ledger.problem, {}
        for member in range(len(self.space.members)):
            row = self.space.whole(member)
            if self.space.num_layers[member] < self.space.depth or not self.space.is_legal(row):
                continue
            candidate = to_candidate(problem, self.space.decode(row))
            if problem.seen(candidate) and problem.known([candidate])[0].ok:
                found[member] = problem.normalise(problem.known([candidate])[0].vector)
        return found

    def _rollout(self, agent: PreferencePPO) -> None:
        with self.generators.scope():
            agent.learn(
                agent.n_steps * agent.n_envs,
                callback=[StopWhenSpent(self.ledger), LeaveOutUnscored()],
                reset_num_timesteps=agent.num_timesteps == 0,
            )

    def _score(self, paths: list[LayerPath]) -> list[np.ndarray | None]:
        with self.generators.outside():
            candidates = [to_candidate(self.ledger.problem, path) for path in paths]
            scores = self.ledger.score(candidates).each()
        return [*scores, *[None] * (len(paths) - len(scores))]


def walk(
    space: PathSpace, member: int, preference: np.ndarray, worth: float, gamma: float
) -> list[tuple[np.ndarray, int, np.ndarray, float]]:
    """The episode in which the cursor takes a whole member.

    Args:
        space: Legal paths, that one among them.
        member: Index of the member.
        preference: Of the episode, shape (K,).
        worth: Reward at its end.
        gamma: Discount for each step.

    Returns:
        For each step the observation, the action, the legal actions and the return.
    """
    cursor = Cursor(space)
    steps: list[tuple[np.ndarray, int, np.ndarray, float]] = []
    while not cursor.ended:
        left = space.depth - len(steps)
        steps.append((cursor.observe(preference), member, cursor.mask(), worth * gamma**left))
        cursor.act(member)
    return steps


class StopWhenSpent(BaseCallback):
    """Ends training when the budget is spent; the unfinished rollout is not learnt from."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def _on_step(self) -> bool:
        return self.ledger.left > 0


def _always(preference: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: preference

"""Pareto set learning over blends: a network proposes, trained by gradients through the surrogate.

One continuous space: a blend of the experts for the stem and for each layer. A policy maps a
preference to a whole model; between batches it climbs the utility that the surrogate expects of its
answers, with some caution, under all preferences at once. Its answers, variations of the best known
and, on request, hill climbing compete by joint expected hypervolume improvement, with more than
`MOST_OBJECTIVES` objectives by that of random scalarisations; of equals the coarser comes first.
What is best known goes by the surrogate's posterior means, which know that scores are noisy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from scipy.stats import qmc
from torch import Tensor

from hm3rl.agents import blend_ppo
from hm3rl.agents.base import Agent
from hm3rl.agents.batches import CLIMB, POLICY, ROLLOUT, VARIATION
from hm3rl.agents.behaviour import beyond
from hm3rl.agents.blend_policy import BlendPolicy
from hm3rl.agents.blend_ppo import Episodes
from hm3rl.agents.blend_proposals import (
    UNIFORM,
    Pile,
    answers,
    ascents,
    climbed,
    smooth_tchebycheff,
    uniform_blends,
    variations,
)
from hm3rl.agents.generators import GeneratorScope
from hm3rl.agents.layer_policy import LayerPolicy, Rollout
from hm3rl.agents.prior import Prior, as_arrays, prior_arrays, prior_of_arrays, take_arrays
from hm3rl.agents.served import ServedPreferences
from hm3rl.agents.set_policy import SetPolicy
from hm3rl.config.agents import PslSettings
from hm3rl.config.schema import RunSettings
from hm3rl.errors import InputError
from hm3rl.objectives.indicators import non_dominated
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.surrogate.acquisition import choose_by_hypervolume, choose_by_utility
from hm3rl.surrogate.blend_gp import BlendGP
from hm3rl.surrogate.dataset import EvaluatePaths, LogMetrics, Outcome
from hm3rl.surrogate.pool_table import source_vectors
from hm3rl.surrogate.score_prior import ScorePrior

MOST_OBJECTIVES = 4
"""Objectives up to which hypervolume improvement is computed."""

PREFERENCES = 64
"""Preferences of one gradient step, of the shortlist and of random scalarisations."""

ASKED = 192
"""Preferences to which the policy answers for a batch; the lattice comes on top."""

SHORTLIST = 192
"""Proposals whose joint posterior is sampled."""

CLIMBS = 48

REFIT_GROWTH = 1.15
"""Hyper-parameters are adapted again when there are so many times as many models as before."""

LEAST_TO_FIT = 3

CAUTION = 0.5
"""Standard deviations taken off what the surrogate expects of models nobody evaluated, at use."""

AUTOREGRESSIVE = "autoregressive"

PROPOSERS = (POLICY, VARIATION, CLIMB)


class _Drawn(NamedTuple):
    """Rollouts: paths, the preferences they were drawn for (n, K), and how they were drawn."""

    paths: list[LayerPath]
    preferences: np.ndarray
    rollout: Rollout


class ParetoSetAgent(Agent[BlendSpace]):
    """Proposes blends; see above.

    Args:
        space: The blends there are.
        objectives: Names of the K objectives.
        settings: The run.
    """

    blended = True

    def __init__(self, space: BlendSpace, objectives: Sequence[str], settings: RunSettings) -> None:
        super().__init__(space, objectives, settings)
        self.options = cast(PslSettings, settings.agent)
        self.seconds = 0.0
        k, (places, experts) = len(self.objectives), space.shape
        self.rng = np.random.default_rng(settings.seed)
        self.served = ServedPreferences(k)
        self.blends = np.zeros((0, places, experts))
        self.vectors = np.zeros((0, k))
        self.gp = BlendGP(k, space.depth, experts)
        self._generators = GeneratorScope(settings.seed)
        with self._generators.scope():
            kind: type[LayerPolicy | BlendPolicy] = BlendPolicy
            if self.options.network == AUTOREGRESSIVE:
                kind = LayerPolicy
            self.policy = kind(k, space.depth, experts, space.largest, self.options.hidden)
        self._optimiser: torch.optim.Optimizer | None = None
        self._episodes: Episodes | None = None
        self._owed = 0.0
        self._adapted_at = 0
        self._prior: tuple[ScorePrior, SetPolicy] | None = None

    @classmethod
    def fresh(
        cls, space: BlendSpace, objectives: Sequence[str], settings: RunSettings
    ) -> ParetoSetAgent:
        """An agent that knows what `agent.prior` has learned elsewhere, if anything."""
        agent = cls(space, objectives, settings)
        if agent.options.prior:
            prior = Prior.load(Path(agent.options.prior))
            agent._prior = prior.scores, prior.policy
        return agent

    @classmethod
    def check(cls, settings: RunSettings, began: bool) -> None:
        """Refuse proposers that there are not, and a prior that is none; see `Agent.check`."""
        options = cast(PslSettings, settings.agent)
        proposals = options.proposals
        unknown = [name for name in proposals if name not in PROPOSERS]
        if unknown or not proposals:
            raise InputError(
                f"agent.proposals={unknown or '[]'}", f"one or more of {', '.join(PROPOSERS)}"
            )
        if options.rollouts and options.network != AUTOREGRESSIVE:
            raise InputError(
                f"agent.rollouts={options.rollouts}, but a {options.network} draws nothing",
                f"agent.network={AUTOREGRESSIVE}, or agent.rollouts=0",
            )
        if options.rollouts and POLICY not in proposals:
            raise InputError("agent.rollouts without a policy", f"add {POLICY} to agent.proposals")
        if options.prior and not began:
            Prior.load(Path(options.prior))

    # --- learning -----------------------------------------------------------------------------

    def observe(self, paths: Sequence[LayerPath], outcomes: Sequence[Outcome]) -> None:
        """Hear what paths scored; failures are known and teach nothing, nor does hearing twice."""
        self._known.update(paths)
        for path, outcome in zip(paths, outcomes, strict=True):
            blend = self.space.encode(Candidate(path))
            if outcome.ok and blend is not None and not (self.blends == blend).all((1, 2)).any():
                self.blends = np.concatenate([self.blends, blend[None]])
                self.vectors = np.concatenate([self.vectors, outcome.vector[None]])

    def offline(self, evaluate: EvaluatePaths, budget: int, log: LogMetrics) -> None:
        """Evaluate uniform merges that fill the cube of coefficients; see `Agent.offline`."""
        design = qmc.LatinHypercube(self.space.shape[1], rng=self.rng).random(budget)
        blends = self.space.uniform(design * self.space.largest)
        paths = self._new([self.space.decode(blend) for blend in blends])
        if paths:
            self.observe(paths, evaluate(paths, [UNIFORM] * len(paths)))

    def online(self, evaluate: EvaluatePaths, budget: int, log: LogMetrics) -> None:
        """Evaluate uniform merges, then what is chosen among the proposals; see `Agent.online`."""
        first = round(self.options.first * (self.space.shape[1] + 1))
        spent = 0 if self._prior is not None else min(first, budget // 2)
        self.offline(evaluate, spent, log)
        while spent < budget:
            count = min(self.options.batch, budget - spent)
            self._owed += self.options.rollouts * count
            drawn = self._drawn(min(int(self._owed), count))
            own = drawn.paths if drawn else []
            self._owed -= len(own)
            chosen, makers = self._chosen(count - len(own), None, log)
            if not chosen and not own:
                chosen = self._random(count, self.rng)
                makers = [UNIFORM] * len(chosen)
            paths = [*own, *chosen]
            if not paths:
                return
            outcomes = evaluate(paths, [ROLLOUT] * len(own) + makers)
            self.observe(paths, outcomes)
            if drawn is not None:
                self._reinforce(drawn, outcomes[: len(own)], log)
            spent += len(paths)
        with self._working():
            self._fit()
            self._train(self.options.first_steps, log, -CAUTION)

    def propose(self, count: int, preference: np.ndarray | None = None) -> list[LayerPath]:
        """The most promising proposals, for a preference or for all; see `Agent.propose`."""
        return self._chosen(count, preference, lambda values: None, claim=False)[0]

    def _drawn(self, count: int) -> _Drawn | None:
        """New models that the policy draws, for preferences under which the front is thin."""
        if not count or not isinstance(self.policy, LayerPolicy) or self._optimiser is None:
            return None
        with self._working():
            front = self._means[self._best]
            goals = self.served.sparse(front, count, self.rng)
            rollout = self.policy.rollout(torch.as_tensor(goals))
        paths = [self.space.decode(blend) for blend in rollout.blends.numpy()]
        kept = [paths.index(path) for path in self._new(paths)]
        parts = Rollout(*(part[kept] for part in rollout))
        return _Drawn([paths[i] for i in kept], goals[kept], parts)

    def _reinforce(self, drawn: _Drawn, outcomes: Sequence[Outcome], log: LogMetrics) -> None:
        """Let the policy learn from its own rollouts, as soon as there are a few."""
        scored = [i for i, outcome in enumerate(outcomes) if outcome.ok]
        if not scored or not self.options.ppo:
            return
        vectors = np.array([outcomes[i].vector for i in scored])
        rollout = Rollout(*(part[scored] for part in drawn.rollout))
        later = blend_ppo.episodes_of(drawn.preferences[scored], rollout, vectors)
        self._episodes = later if self._episodes is None else self._episodes.and_later(later)
        if len(self._episodes) < blend_ppo.LEAST:
            return

        def utility(goals: Tensor, values: Tensor) -> Tensor:
            loss = self._loss(goals.numpy(), 0.0)
            return -loss(values, torch.zeros_like(values))

        def expected(goals: Tensor, blends: Tensor) -> Tensor:
            return utility(goals, self.gp.marginal(blends).mean)

        with self._working():
            assert isinstance(self.policy, LayerPolicy) and self._optimiser is not None
            self._fit()
            lost = blend_ppo.update(self.policy, self._optimiser, self._episodes, utility, expected)
        log({"policy/ppo_loss": lost})

    def _chosen(
        self, count: int, preference: np.ndarray | None, log: LogMetrics, claim: bool = True
    ) -> tuple[list[LayerPath], list[str]]:
        """The most promising new paths, and who made each."""
        if count < 1 or len(self.vectors) < LEAST_TO_FIT:
            return [], []
        with self._working():
            self._fit()
            self._train(self.options.steps, log)
            served = (
                self.served
                if preference is None
                else ServedPreferences(len(self.objectives), np.asarray(preference))
            )
            pile = self._proposals(served)
            order = self._ranked(pile.blends, 3 * count, served)
        paths: list[LayerPath] = []
        makers: list[str] = []
        for i in order:
            path = self.space.decode(pile.blends[i])
            if path not in self._known and path not in paths:
                paths.append(path)
                makers.append(pile.makers[i])
                if len(paths) == count:
                    break
        if claim:
            self._known.update(paths)
        return paths, makers

    def _enter_pool(self) -> None:
        """Let the prior know what base and experts score here.

        Raises:
            InputError: One of them has no score.
        """
        if self._prior is None or self.gp.prior_mean is not None:
            return
        sources = source_vectors(self.blends, self.vectors)
        if sources is None:
            raise InputError(
                "agent.prior, but the base or an expert has no score of its own",
                "mend what made its scoring fail, or leave agent.prior out",
            )
        scores, policy = self._prior
        self.gp.prior_mean = scores.of_pool(sources)
        own = torch.as_tensor(sources)
        self.policy.begin_with(lambda goals: policy.logits(goals, own, self.space.depth))

    def _fit(self) -> None:
        self._enter_pool()
        n, steps = len(self.vectors), 0
        if self._adapted_at == 0:
            steps = self.options.fit_steps
        elif n >= REFIT_GROWTH * self._adapted_at:
            steps = self.options.refit_steps
        if steps:
            self._adapted_at = n
        self.gp.fit(self.blends, self.vectors, steps)
        with torch.no_grad():
            self._means = self.gp.marginal(torch.as_tensor(self.blends)).mean.numpy()
        self._best = non_dominated(self._means)
        # One utility for training, decoding and use, unless what is known exceeds its utopia.
        known = beyond(np.concatenate([self._means, self.vectors]))
        self._utopia = np.maximum(self.options.utopia, known)

    def _train(self, steps: int, log: LogMetrics, deviations: float | None = None) -> None:
        """Gradient steps of the policy on the utility that the surrogate expects of its answers.

        Args:
            steps: How many.
            log: Receives the loss.
            deviations: Standard deviations added to the expectation; None: `agent.optimism`.
        """
        if POLICY not in self.options.proposals:
            return
        if self._optimiser is None:
            if self._prior is None:
                worst = (self._utopia - self._means).max(axis=1)
                self.policy.begin_at(self.blends[worst.argmin()])
            self._optimiser = torch.optim.Adam(
                self.policy.parameters(), lr=self.options.learning_rate
            )
            steps = self.options.first_steps
        if deviations is None:
            deviations = self.options.optimism
        front, value = self._means[self._best], 0.0
        for _ in range(steps):
            preferences = self.served.sparse(front, PREFERENCES, self.rng)
            found = self.gp.marginal(self.policy(torch.as_tensor(preferences)))
            loss = self._loss(preferences, deviations)(found.mean, found.std).mean()
            self._optimiser.zero_grad()
            loss.backward()
            self._optimiser.step()
            value = float(loss.detach())
        if steps:
            log({"policy/loss": value})

    def _loss(
        self, preferences: np.ndarray, deviations: float
    ) -> Callable[[Tensor, Tensor], Tensor]:
        goals, utopia = torch.as_tensor(preferences), torch.as_tensor(self._utopia)
        smoothness = self.options.smoothness

        def loss(mean: Tensor, std: Tensor) -> Tensor:
            values = mean + deviations * std
            if self.options.scalarisation == "weighted_sum":
                return -(goals * values).sum(dim=1)
            return smooth_tchebycheff(values, goals, utopia, smoothness)

        return loss

    # --- proposing ----------------------------------------------------------------------------

    def _elites(self, preferences: np.ndarray) -> np.ndarray:
        """The best known blends under preferences (n, K), shape (n, 1 + L, N)."""
        lost = (preferences[:, None, :] * (self._utopia - self._means)[None]).max(axis=2)
        return self.blends[lost.argmin(axis=1)]

    def _proposals(self, served: ServedPreferences) -> Pile:
        who, rng, front = self.options.proposals, self.rng, self._means[self._best]
        pile = Pile(self.space)
        best = self._elites(served.sparse(front, ASKED, rng))
        uniform_blends(pile, best, rng)
        if POLICY in who:
            divisions = 10 if len(self.objectives) <= 3 else 4
            lattice = served.spread(PREFERENCES, divisions, rng)
            asked = np.concatenate([served.sparse(front, ASKED, rng), lattice])
            answers(pile, self.policy, asked, rng)
        if VARIATION in who:
            variations(pile, self.blends[self._best], best, rng)
        if CLIMB in who:
            goals = served.sparse(front, CLIMBS, rng)
            loss = self._loss(goals, self.options.optimism)
            ascents(pile, self.gp, self._elites(goals), loss, rng)
        return pile

    def _ranked(self, blends: np.ndarray, count: int, served: ServedPreferences) -> np.ndarray:
        """Places of the most promising blends, in order of choice."""
        with torch.no_grad():
            found = self.gp.marginal(torch.as_tensor(blends))
        optimistic = (found.mean + found.std).numpy()
        goals = served.draw(PREFERENCES, self.rng)
        utilities = -(goals[None] * (self._utopia - optimistic)[:, None]).max(axis=2)
        # Rank under the preference that likes a blend most, so that all of the front is kept.
        rank = (-utilities).argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
        keep = np.sort(rank.min(axis=1).argsort(kind="stable")[:SHORTLIST])
        samples = self.gp.samples(torch.as_tensor(blends[keep]), self.options.samples, self.rng)
        front = self._means[self._best]
        if len(self.objectives) <= MOST_OBJECTIVES and served.only is None:
            return keep[choose_by_hypervolume(samples, front, count)]
        utopia = self._utopia
        worth = -(goals * (utopia - samples)[:, :, None, :]).max(axis=3)
        known = -(goals[None] * (utopia - front)[:, None]).max(axis=2)
        return keep[choose_by_utility(worth, known.max(axis=0), count)]

    # --- use ----------------------------------------------------------------------------------

    def posterior(self, paths: Sequence[LayerPath]) -> tuple[np.ndarray, np.ndarray] | None:
        """What a surrogate makes of paths; None if it would see too few. See `Agent.posterior`.

        Its hyper-parameters are found anew: those of the search follow the data in few steps, may
        stay where few models led them, and then take differences between models for noise.
        """
        if len(self.vectors) < LEAST_TO_FIT:
            return None
        blends = [self.space.encode(Candidate(path)) for path in paths]
        with self._generators.scope():
            gp = BlendGP(len(self.objectives), self.space.depth, self.space.shape[1])
            gp.fit(self.blends, self.vectors, self.options.fit_steps)
            with torch.no_grad():
                found = gp.marginal(torch.as_tensor(np.array(blends, dtype=np.float64)))
        return found.mean.numpy(), found.std.numpy()

    def decode(self, preference: np.ndarray, beam: int = 0) -> LayerPath:
        """The path for a preference: the policy's answer, or the best known, improved with a beam.

        Args:
            preference: Shape (K,), on the simplex; need not have been seen in training.
            beam: 0: the policy's answer by itself. Otherwise answer and best known climb, and the
                surrogate's cautious expectation chooses.
        """
        with self._working():
            self._fit()
            goal = np.asarray(preference, dtype=np.float64)[None]
            starts = [self._elites(goal)]
            if POLICY in self.options.proposals and self._optimiser is not None:
                with torch.no_grad():
                    starts.insert(0, self.policy(torch.as_tensor(goal)).numpy())
            if beam == 0:
                return self.space.decode(starts[0][0])
            options = np.concatenate(starts)
            goals = np.repeat(goal, len(options), axis=0)
            loss = self._loss(goals, -CAUTION)
            options = np.concatenate([options, climbed(self.gp, options, self.space.largest, loss)])
            options = self.space.rounded(options)
            with torch.no_grad():
                found = self.gp.marginal(torch.as_tensor(options))
                lost = self._loss(np.repeat(goal, len(options), axis=0), -CAUTION)
                return self.space.decode(options[int(lost(found.mean, found.std).argmin())])

    # --- storage ------------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """What `restore` needs; see `Agent.arrays`."""
        return {
            **as_arrays("policy/", self.policy),
            **(prior_arrays(*self._prior) if self._prior is not None else {}),
            "blends": self.blends,
            "vectors": self.vectors,
            "hyper": self.gp.log_parameters.numpy(),
            "trained": np.array([self._optimiser is not None]),
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over what `arrays` gave."""
        take_arrays("policy/", self.policy, arrays)
        self._prior = prior_of_arrays(arrays)
        self.blends, self.vectors = arrays["blends"], arrays["vectors"]
        self._known = {self.space.decode(blend) for blend in self.blends}
        hyper = torch.as_tensor(arrays["hyper"])
        if hyper.shape == self.gp.log_parameters.shape:
            self.gp.log_parameters = hyper
            self._adapted_at = len(self.vectors)
        # Those of an older kernel are of no use to this one, which then finds its own.
        if arrays["trained"][0]:
            self._optimiser = torch.optim.Adam(
                self.policy.parameters(), lr=self.options.learning_rate
            )

"""Networks of their own for each preference, as in HM3's Algorithm 1; the paper's row.

For each preference lambda_n the paper initialises policy and value network anew (line 4) and never
shows them lambda. Here N agents that serve one preference each stand where one agent that serves
all stands otherwise, and share its budget.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from hm3rl import registry
from hm3rl.agents.agent import MergeAgent
from hm3rl.agents.base import Agent
from hm3rl.config.agents import HM3AgentSettings
from hm3rl.config.schema import RunSettings
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.space import PathSpace
from hm3rl.surrogate.dataset import EvaluatePaths, LogMetrics, Outcome

LIST = "separate/preferences.npy"


class SharedEvaluations:
    """Scores a path once, whichever agent asks.

    Args:
        evaluate: Scores new paths and charges the budget.
        known: Outcomes by path, shared for the whole search; extended.

    Attributes:
        used: Paths that were new to all agents.
    """

    def __init__(self, evaluate: EvaluatePaths, known: dict[LayerPath, Outcome]) -> None:
        self.evaluate = evaluate
        self.known = known
        self.used = 0

    def __call__(self, paths: list[LayerPath], chosen_by: Sequence[str] = ()) -> list[Outcome]:
        """Outcomes in order; see `EvaluatePaths`."""
        at = [i for i, path in enumerate(paths) if path not in self.known]
        if at:
            fresh = [paths[i] for i in at]
            outcomes = self.evaluate(fresh, [chosen_by[i] for i in at] if chosen_by else ())
            self.known.update(zip(fresh, outcomes, strict=True))
            self.used += len(at)
        return [self.known[path] for path in paths]


class SeparateAgents(Agent):
    """N agents, one for each preference, behind the face of one.

    A preference that is asked for is answered by the agent whose own is nearest.

    Args:
        preferences: Shape (N, K).
        agents: One for each preference.
    """

    def __init__(self, preferences: np.ndarray, agents: Sequence[MergeAgent]) -> None:
        self.preferences = np.asarray(preferences, dtype=np.float64)
        self.agents = list(agents)
        self.space = self.agents[0].space
        self.objectives = self.agents[0].objectives
        self._outcomes: dict[LayerPath, Outcome] = {}

    @classmethod
    def build(
        cls,
        spaces: Sequence[PathSpace],
        objectives: Sequence[str],
        settings: RunSettings,
        preferences: np.ndarray,
    ) -> SeparateAgents:
        """Fresh agents.

        Args:
            spaces: The paths there are for each preference, N of them.
            objectives: Names of the objectives.
            settings: The run; relabelling and drawing preferences mean nothing here, and the seed
                is the first agent's; each has its own.
            preferences: Shape (N, K).
        """
        assert isinstance(settings.agent, HM3AgentSettings)  # the one that has per_preference
        own = replace(settings.agent, per_preference=False, hindsight=False)
        runs = [
            replace(settings, agent=own, seed=settings.seed + number)
            for number in range(len(spaces))
        ]
        agents = [
            MergeAgent.fresh(space, objectives, runs[number], preference)
            for number, (space, preference) in enumerate(zip(spaces, preferences, strict=True))
        ]
        return cls(preferences, agents)

    @property
    def seconds(self) -> float:  # type: ignore[override]
        """Seconds spent in all agents, evaluations excepted."""
        return sum(agent.seconds for agent in self.agents)

    def _nearest(self, preference: np.ndarray) -> MergeAgent:
        distance = ((self.preferences - np.asarray(preference)) ** 2).sum(axis=1)
        return self.agents[int(distance.argmin())]

    def absorb(self, paths: Sequence[LayerPath], outcomes: Sequence[Outcome]) -> None:
        """Tell every agent what is known at no cost; see `MergeAgent.absorb`."""
        self._outcomes.update(zip(paths, outcomes, strict=True))
        for agent in self.agents:
            agent.absorb(paths, outcomes)

    def observe(self, paths: Sequence[LayerPath], outcomes: Sequence[Outcome]) -> None:
        """Tell every agent."""
        self.absorb(paths, outcomes)

    def propose(self, count: int, preference: np.ndarray | None = None) -> list[LayerPath]:
        """What the nearest agent proposes; for no preference, what all propose in turn."""
        if preference is not None:
            return self._nearest(preference).propose(count)
        share = -(-count // len(self.agents))
        return [path for agent in self.agents for path in agent.propose(share)][:count]

    def learn_merges(
        self, context: np.ndarray, descriptors: np.ndarray, outcomes: Sequence[Outcome]
    ) -> None:
        """Tell every agent of whole merged models; see `MergeAgent.learn_merges`."""
        for agent in self.agents:
            agent.learn_merges(context, descriptors, outcomes)

    def offline(self, evaluate: EvaluatePaths, budget: int, log: LogMetrics) -> None:
        """Pre-train every agent on an equal share of the budget."""
        self._divide(evaluate, budget, lambda agent: agent.offline, log)

    def online(self, evaluate: EvaluatePaths, budget: int, log: LogMetrics) -> None:
        """Train every agent on an equal share of the budget."""
        self._divide(evaluate, budget, lambda agent: agent.online, log)

    def _divide(
        self,
        evaluate: EvaluatePaths,
        budget: int,
        phase: Callable[[MergeAgent], Callable[[EvaluatePaths, int, LogMetrics], None]],
        log: LogMetrics,
    ) -> None:
        """Run a phase of each agent in turn on what is left, divided by the agents left."""
        shared = SharedEvaluations(evaluate, self._outcomes)
        for number, agent in enumerate(self.agents):
            share = (budget - shared.used) // (len(self.agents) - number)
            phase(agent)(shared, share, log)
        # Paths that two agents asked for were charged once; what that saved goes round again.
        before = -1
        while before < shared.used < budget:
            before = shared.used
            for agent in self.agents:
                phase(agent)(shared, budget - shared.used, log)

    def decode(self, preference: np.ndarray, beam: int = 0) -> LayerPath:
        """The nearest agent's path for its own preference; see `MergeAgent.decode`."""
        agent = self._nearest(preference)
        assert agent.state.served.only is not None
        return agent.decode(agent.state.served.only, beam)

    def refine(self, evaluate: EvaluatePaths, budget: int, preference: np.ndarray) -> None:
        """Spend evaluations on one preference, with the nearest agent."""
        self._nearest(preference).refine(evaluate, budget, preference)

    def save(self, path: Path) -> None:
        """Write one zip that holds the zip of each agent."""
        with TemporaryDirectory() as folder, zipfile.ZipFile(path, "w") as archive:
            buffer = io.BytesIO()
            np.save(buffer, self.preferences)
            archive.writestr(LIST, buffer.getvalue())
            for number, agent in enumerate(self.agents):
                file = Path(folder) / "agent.zip"
                agent.save(file)
                archive.write(file, f"separate/{number}.zip")
                file.unlink()


def load_agent(path: Path, settings: RunSettings) -> Agent:
    """Read what the agent of a run wrote.

    Args:
        path: The file.
        settings: Of the run.

    Raises:
        InputError: The file is no saved agent.
    """
    separate = _read_separate(path)
    if separate is not None:
        return separate
    loaded: Agent = registry.find("agent", settings.agent.name).load().load(path, settings)
    return loaded


def _read_separate(path: Path) -> SeparateAgents | None:
    """Agents of their own for each preference, or None if the file holds something else."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if LIST not in archive.namelist():
            return None
        preferences = np.load(io.BytesIO(archive.read(LIST)))
        with TemporaryDirectory() as folder:
            agents = []
            for number in range(len(preferences)):
                file = Path(archive.extract(f"separate/{number}.zip", folder))
                agents.append(MergeAgent.load(file))
    return SeparateAgents(preferences, agents)

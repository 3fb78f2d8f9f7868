"""Starting from networks that another run trained (`agent.init_from`)."""

from __future__ import annotations

from pathlib import Path

from hm3rl.agents.checkpoint import stored_sizes
from hm3rl.agents.encoder import PathShape
from hm3rl.agents.state import AgentState
from hm3rl.config.agents import HM3AgentSettings
from hm3rl.errors import InputError


def agent_file(source: str) -> Path:
    """The saved agent that `agent.init_from` names: a run's folder or the file itself.

    It is looked into, so that a file that holds no agent is refused before anything is scored.

    Raises:
        InputError: There is none.
    """
    path = Path(source)
    file = path / "agent.zip" if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"agent.init_from={source}: there is no {file}",
            "name the folder of a finished run of search=hm3, or its agent.zip",
        )
    stored_sizes(file)
    return file


def network_sizes(
    shape: PathShape, settings: HM3AgentSettings, objectives: int
) -> dict[str, object]:
    """All that two runs must share for one's networks to fit the other."""
    return {
        "members": shape.members,
        "layers": shape.depth,
        "longest path": shape.horizon - 2,
        "recipe features": shape.context,
        "layer features": shape.descriptor,
        "objectives": objectives,
        "agent.embedding": settings.embedding,
        "agent.hidden": settings.hidden,
        "agent.conditioning": settings.conditioning,
        "agent.head": settings.head,
        "agent.likelihood_weight above 0": settings.likelihood_weight > 0,
    }


def check_start(source: str, wanted: dict[str, object]) -> Path:
    """Require that saved networks have the sizes a run needs.

    Args:
        source: Run folder or agent.zip.
        wanted: Sizes by name, from `network_sizes`; names left out are not compared.

    Returns:
        The saved agent.

    Raises:
        InputError: Names every size that differs, on both sides.
    """
    file = agent_file(source)
    shape, settings, objectives = stored_sizes(file)
    found = network_sizes(shape, settings, objectives)
    differ = [
        f"{name} {found[name]} there and {value} here"
        for name, value in wanted.items()
        if found[name] != value
    ]
    if differ:
        raise InputError(
            f"the networks of {source} do not fit this run: {', '.join(differ)}",
            "use a run with the same sizes, or drop agent.init_from",
        )
    return file


def start_from(state: AgentState, source: str) -> None:
    """Give an agent that has not begun to learn the networks another run trained.

    What that run evaluated stays behind: scores belong to its models.

    Args:
        state: The agent's.
        source: Run folder or state.zip.

    Raises:
        InputError: The sizes differ.
    """
    shape = PathShape.of(state.space)
    wanted = network_sizes(shape, state.settings, len(state.objectives))
    state.ppo.set_parameters(str(check_start(source, wanted)), device="cpu")

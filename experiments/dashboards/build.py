"""Builds the wandb workspace of a project of hm3rl runs, as a saved view.

    python -m experiments.dashboards.build --entity ME --project hm3rl

Needs `pip install wandb-workspaces` and a wandb key; `--print` shows what would be saved and needs
no key. README.md says how to build the same view by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import wandb_workspaces.reports.v2 as panels
import wandb_workspaces.workspaces as workspaces

X = "evaluations"


def workspace(entity: str, project: str, tasks: Sequence[str]) -> workspaces.Workspace:
    """The view: quality, scores, learning, cost.

    Args:
        entity: wandb user or team.
        project: wandb project.
        tasks: Names of the objectives.

    Returns:
        A workspace that has not been saved. Runs are grouped by searcher, so each curve is a mean
        over seeds with its range.
    """
    quality = workspaces.Section(
        name="Quality",
        is_open=True,
        panels=[
            panels.LinePlot(title="Hypervolume of f / z*", x=X, y=["hypervolume"]),
            panels.BarPlot(title="Largest hypervolume", metrics=["hypervolume"]),
            *(
                panels.ScatterPlot(title=f"{a} and {b}", x=f"score/{a}", y=f"score/{b}")
                for number, a in enumerate(tasks)
                for b in tasks[number + 1 :]
            ),
        ],
    )
    scores = workspaces.Section(
        name="Scores",
        is_open=True,
        panels=[panels.LinePlot(title=task, x=X, y=[f"score/{task}"]) for task in tasks],
    )
    learning = workspaces.Section(
        name="Learning",
        is_open=True,
        panels=[
            panels.LinePlot(title="Policy loss", x=X, y=["regression/policy"]),
            panels.LinePlot(title="V_u's loss", x=X, y=["regression/utility"]),
            panels.LinePlot(
                title="V's loss by objective", x=X, y=[f"regression/value/{t}" for t in tasks]
            ),
            panels.LinePlot(title="Screened evaluations", x=X, y=["online/screened"]),
        ],
    )
    cost = workspaces.Section(
        name="Cost",
        panels=[
            panels.LinePlot(title="Seconds", x=X, y=["evaluation/seconds"]),
            panels.LinePlot(title="Failures", x=X, y=["evaluation/failed"]),
        ],
    )
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name="hm3rl",
        sections=[quality, scores, learning, cost],
        settings=workspaces.WorkspaceSettings(x_axis=X),
        runset_settings=workspaces.RunsetSettings(groupby=[workspaces.Config("search.name")]),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Save the view, or print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entity", required=True)
    parser.add_argument("--project", default="hm3rl")
    parser.add_argument("--tasks", nargs="+", default=["translation", "math", "code"])
    parser.add_argument("--print", action="store_true", dest="only_print")
    options = parser.parse_args(arguments)
    view = workspace(options.entity, options.project, options.tasks)
    if options.only_print:
        for section in view.sections:
            print(section.name)
            for panel in section.panels:
                print(f"  {panel.title}")
    else:
        print(view.save().url)


if __name__ == "__main__":
    main()

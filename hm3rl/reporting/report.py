"""`hm3rl report`: one HTML page that works from disk, without a network.

Data, style, script and plotly are all inside the page. What it can do stands in `assets/report.js`.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from hm3rl.errors import InputError
from hm3rl.files import write_text
from hm3rl.reporting.report_data import finished_folders, report_data

PAGE = "report.html"


def has_plotly() -> bool:
    """Whether plotly, which the page embeds, is installed."""
    return importlib.util.find_spec("plotly") is not None


def write_report(paths: Sequence[str | Path], to: str | Path | None = None) -> Path:
    """Write the report of one or several finished runs.

    Args:
        paths: Run folders, or folders of runs.
        to: The file to write; None: `report.html` in the only path given.

    Returns:
        The file.

    Raises:
        InputError: No finished run, runs with different tasks, no target for several paths or one
            that cannot be written, or plotly is missing.
    """
    if to is None and len(paths) != 1:
        raise InputError(
            "several runs, but no place for their report", "name a file: hm3rl report RUN... --to F"
        )
    target = Path(paths[0]) / PAGE if to is None else Path(to)
    folders = finished_folders(paths)
    if target.is_dir():
        raise InputError(f"--to {target} is a folder", f"name a file: --to {target / PAGE}")
    page = render(report_data(folders))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, page)
    except OSError as error:
        raise InputError(
            f"the report cannot be written to {target} ({error.strerror})",
            "name a file in a folder that can be written: hm3rl report RUN --to FILE.html",
        ) from error
    return target


def render(data: object) -> str:
    """Put data, style and scripts into the page.

    Raises:
        InputError: plotly is not installed.
    """
    if not has_plotly():
        raise InputError(
            "the report needs plotly, which is not installed", "pip install 'hm3rl[report]'"
        )
    from plotly.offline import get_plotlyjs

    assets = resources.files("hm3rl.reporting") / "assets"
    # "</" would end the script element that carries the data.
    text = json.dumps(data, allow_nan=False).replace("</", "<\\/")
    parts = {
        "style": (assets / "report.css").read_text(encoding="utf-8"),
        "plotly": get_plotlyjs(),
        "data": text,
        "script": (assets / "report.js").read_text(encoding="utf-8"),
    }
    page = (assets / "report.html").read_text(encoding="utf-8")
    # The template is cut once: what is put in may contain a mark of its own.
    return "".join(parts.get(piece, str(piece)) for piece in re.split(r"/\*(\w+)\*/", page))

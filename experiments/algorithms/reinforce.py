"""REINFORCE as docs/extend/rl_algorithm.md builds it: the code on the page itself, as a plugin.

So that what the study runs is what a reader writes, and there is one of it.
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "extend" / "rl_algorithm.md"


def page_code(text: str, title: str) -> str:
    """The code block of a title on a page, at the lines where it stands there."""
    found = re.search(rf'^```python title="{re.escape(title)}"\n(.*?)^```', text, re.M | re.S)
    if found is None:
        raise ValueError(f"{PAGE} has no code block with the title {title}")
    return "\n" * text.count("\n", 0, found.start(1)) + found[1]


exec(compile(page_code(PAGE.read_text(encoding="utf-8"), "reinforce.py"), str(PAGE), "exec"))

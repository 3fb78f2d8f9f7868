"""The published models, frozen before any search: models.json has the hash of every file.

python -m experiments.pools.frozen    # writes it, once; afterwards it only compares
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from experiments.pools.train import MODELS
from hm3rl.files import write_text

FILE = Path(__file__).parent / "models.json"


def hashes(models: Path = MODELS) -> dict[str, str]:
    """SHA-256 of every file of the published models, by its path in their folder."""
    files = sorted(file for file in models.rglob("*") if file.is_file())
    return {
        file.relative_to(models).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def frozen() -> dict[str, str]:
    """The committed hashes."""
    found: dict[str, str] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Write the hashes, or compare; exits with the names of the files that differ."""
    found = hashes()
    if not FILE.is_file():
        write_text(FILE, json.dumps(found, indent=1) + "\n")
    known = frozen()
    differ = sorted(name for name in {*known, *found} if known.get(name) != found.get(name))
    if differ:
        sys.exit(f"not as frozen: {', '.join(differ)}")


if __name__ == "__main__":
    main()

"""Hashes of plain data."""

from __future__ import annotations

import subprocess
import sys

from hm3rl.models.hashing import canonical_json, short_hash


def test_order_of_entries_does_not_count_and_values_do():
    assert short_hash({"a": 1, "b": [1.5, "x"]}) == short_hash({"b": [1.5, "x"], "a": 1})
    assert short_hash({"a": 1}) != short_hash({"a": 2})
    assert short_hash([1, 2]) != short_hash([2, 1])
    assert len(short_hash("x", 8)) == 8


def test_canonical_text():
    assert canonical_json({"b": 0.1, "a": "é"}) == '{"a":"\\u00e9","b":0.1}'


def test_candidates_and_recipes_can_be_handled_without_torch():
    code = "import sys, hm3rl.paths, hm3rl.merging; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

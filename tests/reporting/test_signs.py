from __future__ import annotations

import io

import pytest

from hm3rl.reporting.signs import PLAIN_SIGNS, never_fail


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_stream_takes_every_text(encoding: str):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    never_fail(stream)
    stream.write("0.50±.03 · ↓ 2 × häuser 模 \udc80")
    stream.flush()
    assert b"0.50" in raw.getvalue()


def test_signs_become_plain_and_other_text_is_escaped():
    assert "0.50±.03 × é 模".encode("ascii", PLAIN_SIGNS) == rb"0.50+-.03 x \xe9 \u6a21"

"""Paths and their text form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hm3rl.errors import InputError
from hm3rl.paths.layer_path import LayerPath, LayerRef
from hm3rl.paths.limits import PathLimits

members = st.sampled_from(["math", "code", "merged@3fa9c1d2", "my-model_2.5"])
refs = st.lists(st.tuples(members, st.integers(0, 12)), min_size=1, max_size=16)


@given(refs, members)
def test_text_form_reads_back_exactly(layers, stem):
    path = LayerPath(tuple(LayerRef(*layer) for layer in layers), stem)
    assert LayerPath.parse(str(path)) == path


def test_text_form_is_the_documented_one():
    text = "math | math[0:4] + merged@3fa9c1d2[4:7] + code[7]"
    path = LayerPath.parse(text)
    assert str(path) == text
    assert path.length == 8
    assert path.refs[4] == ("merged@3fa9c1d2", 4)
    assert path.members == ("math", "merged@3fa9c1d2", "code")


def test_repeats_skips_and_jumps_are_legal():
    path = LayerPath.parse("a|a[1]+a[1]+a[5]+a[0:2]")
    assert [layer for _, layer in path.refs] == [1, 1, 5, 0, 1]
    assert str(path) == "a | a[1] + a[1] + a[5] + a[0:2]"


def test_whole_runs_through_a_member():
    assert str(LayerPath.whole("code", 3)) == "code | code[0:3]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("math[0:4]", "no stem"),
        ("math | ", "cannot read ''"),
        ("math | math[4:4]", "is empty"),
        ("math | math[-1]", "cannot read"),
        ("math | math[0:4] code[4]", "cannot read"),
        (" | math[0]", "cannot name a member"),
        ("math | math[0:1000000000]", "more than 10000 layers"),
        ("math | math[0:999999999]", "more than 10000 layers"),
        ("math | " + " + ".join(["math[0:5001]"] * 2), "more than 10000 layers"),
        ("math | math[" + "9" * 5000 + "]", "cannot read"),
    ],
)
def test_bad_text_is_refused_with_a_reason(text, message):
    with pytest.raises(InputError, match=message):
        LayerPath.parse(text)


def test_empty_path_is_refused():
    with pytest.raises(InputError, match="no layers"):
        LayerPath((), "a")


def test_limits():
    path = LayerPath.parse("a | a[0:2] + b[2]")
    assert PathLimits(2, 4).allows(path)
    assert not PathLimits(4, 4).allows(path)
    assert PathLimits(1, 3, stem="a", actions="same_depth").allows(path)
    assert not PathLimits(1, 3, stem="b").allows(path)
    repeated = LayerPath.parse("a | a[0] + a[0]")
    assert not PathLimits(1, 3, actions="same_depth").allows(repeated)
    with pytest.raises(InputError, match="3 to 2"):
        PathLimits(3, 2)
    with pytest.raises(InputError, match="sideways"):
        PathLimits(1, 2, actions="sideways")


def test_blends_are_read_and_written_in_one_form():
    path = LayerPath.parse("{math: 0.7, code: 0.40001} | {math: 0.7,code: 0.4}[0:2] + {math: 1}[2]")
    assert str(path) == "{code: 0.4, math: 0.7} | {code: 0.4, math: 0.7}[0:2] + math[2]"
    assert LayerPath.parse(str(path)) == path
    with pytest.raises(InputError, match="half"):
        LayerPath.parse("math | {math: half}[0]")


def test_among_blends_only_the_index_makes_a_seam():
    assert LayerPath.parse("{a: 0.5} | {a: 0.5}[0] + {a: 0.6}[1] + b[2]").stitch_points == ()
    assert LayerPath.parse("{a: 0.5} | {a: 0.6}[0] + {a: 0.6}[2] + b[3]").stitch_points == (1,)
    assert LayerPath.parse("a | a[0] + b[1]").stitch_points == (1,)

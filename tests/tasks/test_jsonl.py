"""The user's own file becomes a task, or a message that names the line."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from hm3rl import registry
from hm3rl.config.tasks import ZOO_SPLIT, SplitSettings
from hm3rl.errors import InputError
from hm3rl.models.pool import ModelPool
from hm3rl.plugins import load_plugins
from hm3rl.tasks.base import SPLITS, split_of
from hm3rl.tasks.jsonl import JsonlTask
from hm3rl.tasks.sandbox import SandboxPool

Writer = Callable[..., Path]


def rows(count: int = 60, **extra: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"w{i} w{i + 1} =", "reference": f"w{i}", **extra} for i in range(count)]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    def write(lines: list[Any]) -> Path:
        path = tmp_path / "own.jsonl"
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def tokenizer(tiny_pool: ModelPool) -> PreTrainedTokenizerBase:
    return tiny_pool.tokenizer


def test_items_keep_their_order_and_fall_into_the_split_of_their_prompt(write: Writer) -> None:
    task = JsonlTask("own", write(rows()), shares=ZOO_SPLIT)
    for split in SPLITS:
        prompts = [item.prompt for item in task.items(split)]
        wanted = [row["prompt"] for row in rows() if split_of("own", row["prompt"]) == split]
        assert prompts == wanted and prompts


def test_no_item_is_left_to_training_unless_asked(write: Writer) -> None:
    path = write(rows(200))
    task = JsonlTask("own", path)
    assert not task.items("train")
    assert len(task.items("search")) + len(task.items("test")) == 200
    assert 105 <= len(task.items("search")) <= 135
    trained = JsonlTask("own", path, shares=ZOO_SPLIT)
    # What a search saw once is never tested on: not with more for the search, either.
    assert set(trained.items("search")) < set(task.items("search"))
    paper = JsonlTask("own", path, shares=SplitSettings(search=70, test=30))
    assert set(paper.items("test")) < set(task.items("test"))


def test_shares_are_part_of_the_version_but_for_those_there_always_were(write: Writer) -> None:
    path = write(rows())
    shares = (ZOO_SPLIT, SplitSettings(), SplitSettings(search=70, test=30))
    versions = [JsonlTask("own", path, shares=one).version for one in shares]
    assert versions == ["jsonl-1", "jsonl-1+split 60/40", "jsonl-1+split 70/30"]


def test_limits_take_the_first_items(write: Writer) -> None:
    whole = JsonlTask("own", write(rows()))
    part = JsonlTask("own", write(rows()), limits={"search": 3, "test": 0})
    assert part.items("search") == whole.items("search")[:3]
    assert part.items("test") == whole.items("test")


def test_exact_match_and_chrf_score_texts(write: Writer) -> None:
    exact = JsonlTask("own", write(rows()))
    items = exact.items("search")[:2]
    assert exact.exact_only and exact.score(items, [items[0].reference, "w9 w9"]) == [1.0, 0.0]
    soft = JsonlTask("own", write(rows()), metric="chrf")
    assert not soft.exact_only
    assert soft.score(items, [i.reference for i in items]) == pytest.approx([1.0, 1.0])


def test_programs_are_executed(write: Writer) -> None:
    with SandboxPool() as runner:
        lines = rows(metric="pass_at_1", tests=[["f(2)", "3"]])
        task = JsonlTask("own", write(lines), runner=runner)
        items = task.items("search")[:2]
        right = "Sure:\n```python\ndef f(x):\n    return x + 1\n```"
        assert task.metric == "pass_at_1"
        assert task.score(items, [right, "def f(x): return x"]) == [1.0, 0.0]


def test_the_metric_of_the_lines_goes_before_the_configured_one(write: Writer) -> None:
    assert JsonlTask("own", write(rows(metric="chrf")), metric="exact_match").metric == "chrf"
    assert JsonlTask("own", write(rows(metric="chrf"))).notes()["metric"].startswith("chrf, as")
    assert JsonlTask("own", write(rows()), metric="chrf").notes() == {}
    mixed = [*rows(30, metric="chrf"), *[{**r, "prompt": "x " + r["prompt"]} for r in rows(30)]]
    with pytest.raises(InputError, match=r"line 31: metric 'exact_match', but line 1 has 'chrf'"):
        JsonlTask("own", write(mixed))


def test_prompts_go_through_the_chat_template(
    write: Writer, tokenizer: PreTrainedTokenizerBase
) -> None:
    chats = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows()]
    from_text = JsonlTask("own", write(rows()), tokenizer=tokenizer)
    item = from_text.items("search")[0]
    written = item.prompt.strip()
    assert item.prompt == tokenizer.apply_chat_template(
        [{"role": "user", "content": written}], tokenize=False, add_generation_prompt=True
    )
    assert split_of("own", written, SplitSettings()) == "search"
    from_chat = JsonlTask("own", write(chats), tokenizer=tokenizer)
    rendered = {i.prompt for s in SPLITS for i in from_text.items(s)}
    assert {i.prompt for s in SPLITS for i in from_chat.items(s)} == rendered


def test_a_template_that_is_not_there_is_refused(
    write: Writer, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(InputError, match="none") as caught:
        JsonlTask("own", write(rows()), tokenizer=tokenizer)
    assert "chat_template=false" in caught.value.remedy


GOOD = {"prompt": "p", "reference": "r"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"line 2 is not JSON"),
        ("[1, 2]", r"line 2 is not a JSON object"),
        ({**GOOD, "answer": "r"}, r"line 2 has unknown fields: answer"),
        ({"reference": "r"}, r"line 2: prompt must be"),
        ({"prompt": "", "reference": "r"}, r"line 2: prompt must be"),
        ({"prompt": [{"role": "user"}], "reference": "r"}, r"line 2: prompt must be"),
        ({"prompt": [{"role": "user", "content": "p"}], "reference": "r"}, r"chat template"),
        ({"prompt": "p"}, r"line 2: reference must be"),
        ({"prompt": "p", "reference": " "}, r"line 2: reference must be"),
        ({**GOOD, "tests": [["f(1)"]]}, r"line 2: tests must be"),
        ({**GOOD, "tests": []}, r"line 2: tests must be"),
        ({**GOOD, "metric": "bleu"}, r"metric"),
        (rows(1)[0], r"line 2 repeats the prompt of line 1"),
        ('{"prompt": "a\\ud800", "reference": "r"}', r"line 2 has a lone surrogate"),
        ('{"prompt": "a", "reference": "r", "x\\udfff": 1}', r"line 2 has a lone surrogate"),
        ("[" * 100_000, r"line 2 is not JSON \(maximum recursion"),
        ('{"prompt": "p", "reference": ' + "1" * 5000 + "}", r"line 2 is not JSON \(Exceeds"),
        ('{"prompt": NaN, "reference": "r"}', r"line 2: prompt must be"),
    ],
)
def test_bad_lines_are_named(write: Writer, line: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        JsonlTask("own", write([rows(1)[0], line, *rows()[1:]]))
    assert caught.value.remedy


def test_empty_lines_count_but_are_skipped(write: Writer) -> None:
    with pytest.raises(InputError, match="line 4 is not JSON"):
        JsonlTask("own", write(["", rows(1)[0], "", "oops"]))


def test_a_byte_order_mark_is_no_part_of_the_first_line(write: Writer) -> None:
    path = write(rows())
    plain = JsonlTask("own", path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    marked = JsonlTask("own", path)
    assert all(marked.items(s) == plain.items(s) for s in SPLITS)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if %}", r"chat_template\.jinja, line 1 is no Jinja template"),
        ("\n{{ raise_exception('no system role') }}", r"line 1: .*, line 2 fails .*no system role"),
        ("{{ messages[0].nothing.at_all }}", r"line 1 fails for this prompt: .*nothing"),
        (
            "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
            r"more than 1,000,000 steps",
        ),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", r"calls itself without end"),
        ("{{ 'x' * 20000000 }}", r"20,000,000 characters"),
    ],
)
def test_a_chat_template_that_does_not_work_is_named_with_its_line(
    write: Writer, tokenizer: PreTrainedTokenizerBase, template: str, message: str, monkeypatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template)
    before = sys.gettrace()
    with pytest.raises(InputError, match=message) as caught:
        JsonlTask("own", write(rows()), tokenizer=tokenizer)
    assert "tasks.own.chat_template=false" in caught.value.remedy
    assert sys.gettrace() is before


def test_a_template_without_a_file_of_its_own_is_an_entry_of_the_tokenizers(
    write: Writer, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", "{% if %}")
    monkeypatch.setattr(tokenizer, "name_or_path", str(tmp_path))
    with pytest.raises(InputError, match=r"tokenizer_config\.json: chat_template, line 1 is no"):
        JsonlTask("own", write(rows()), tokenizer=tokenizer)


def test_an_unknown_metric_and_missing_tests_are_refused(write: Writer) -> None:
    with pytest.raises(InputError, match="unknown metric 'bleu'"):
        JsonlTask("own", write(rows()), metric="bleu")
    with pytest.raises(InputError, match="line 1: pass_at_1 needs tests"):
        JsonlTask("own", write(rows()), metric="pass_at_1")


def test_other_names_of_fields_and_numbers_as_references_are_read(write: Writer) -> None:
    lines = [{"question": f"w{i}?", "answer": i, "source": "web"} for i in range(60)]
    names = {"prompt": "question", "reference": "answer"}
    task = JsonlTask("own", write(lines), metric="number", fields=names)
    items = task.items("search")
    assert items[0].prompt.endswith("?") and items[0].reference in items[0].prompt
    assert task.score(items[:2], [f"So it is {items[0].reference}.", "none"]) == [1.0, 0.0]
    with pytest.raises(InputError, match="has unknown fields: answer, question, source"):
        JsonlTask("own", write(lines))
    with pytest.raises(InputError, match="line 1 has no field 'Question'") as refused:
        JsonlTask("own", write(lines), fields={"prompt": "Question"})
    assert "it has question, answer, source" in refused.value.remedy
    with pytest.raises(InputError, match="fields names poem"):
        JsonlTask("own", write(lines), fields={"poem": "question"})


def test_a_csv_file_has_the_items_of_the_same_json_lines(write: Writer, tmp_path: Path) -> None:
    lines = [{"prompt": f'say "w{i}",\nplease', "reference": f"w{i}"} for i in range(60)]
    table = tmp_path / "own.csv"
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ("prompt", "reference"))
        writer.writeheader()
        writer.writerows(lines)
    read, same = JsonlTask("own", table), JsonlTask("own", write(lines))
    assert all(read.items(split) == same.items(split) for split in SPLITS)
    table.write_text("prompt,reference\nw1,w1,w1\n")
    with pytest.raises(InputError, match="line 2 has not the 2 cells"):
        JsonlTask("own", table)
    table.write_text("prompt,reference,tests\nw1,w1,\"[['f', 1\"\n")
    with pytest.raises(InputError, match="line 2: tests is not JSON"):
        JsonlTask("own", table, metric="pass_at_1")


def test_references_that_a_metric_can_make_nothing_of_are_refused(write: Writer) -> None:
    with pytest.raises(InputError, match="line 1: the reference 'none' holds no number"):
        JsonlTask("own", write([{"prompt": "w1", "reference": "none"}]), metric="number")
    with pytest.raises(InputError, match="line 1: the reference is no regular expression"):
        JsonlTask("own", write([{"prompt": "w1", "reference": "(w"}]), metric="regex")


def test_a_tolerance_is_part_of_the_version(write: Writer) -> None:
    path = write(rows())
    exact, loose = (
        JsonlTask("own", path, metric="number", tolerance=tolerance) for tolerance in (0.0, 0.5)
    )
    assert loose.version == exact.version + "+tolerance 0.5"
    item = loose.items("search")[0]
    near = str(float(item.reference[1:]) + 0.4)
    assert (loose.score([item], [near]), exact.score([item], [near])) == ([1.0], [0.0])


def test_too_few_lines_and_a_missing_file_are_refused(write: Writer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fall into the search split") as caught:
        JsonlTask("own", write(rows(3)), shares=ZOO_SPLIT)
    assert "15 % of all prompts are for search and 35 % for test" in caught.value.remedy
    with pytest.raises(InputError, match="cannot be read"):
        JsonlTask("own", tmp_path / "nowhere.jsonl")


def test_a_test_that_is_no_python_is_refused_with_its_line(write: Writer) -> None:
    bad = {**GOOD, "tests": [["f(1)", "2"], ["assert f(1) == 2", "True"]]}
    with pytest.raises(InputError, match=r"line 2: the test 'assert f\(1\) == 2' is no Python"):
        JsonlTask("own", write([rows(1, tests=[["f(1)", "2"]])[0], bad]), metric="pass_at_1")


def test_comparisons_with_literals_are_another_version_and_others_are_counted(
    write: Writer,
) -> None:
    def task(expression: str, expected: str) -> JsonlTask:
        lines = rows(metric="pass_at_1", tests=[["f(1)", "2"], [expression, expected]])
        return JsonlTask("own", write(lines), runner=runner)

    with SandboxPool() as runner:
        plain = task("f(2)", "3")
        assert plain.version == "jsonl-1+split 60/40" and "tests" not in plain.notes()
        compared = task("f(2) == 3", "True")
        assert compared.version != plain.version and "tests" not in compared.notes()
        other = task("f(2) < 4", "True")
        assert other.version == plain.version
        assert other.notes()["tests"].startswith("60 of 120 compare inside the program")
        items = compared.items("search")[:1]
        fake = "class E:\n    __eq__ = lambda *_: True\n    __repr__ = lambda _: '2'"
        fake += "\nf = lambda x: E()"
        assert compared.score(items * 2, [fake, "f = lambda x: x + 1"]) == [0.0, 1.0]


# --- choices, messages, several metrics, a metric of ones own -----------------------


def chosen(count: int = 60, **extra: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": f"w{i} =", "choices": [f" w{i}", " no", " 1"], "reference": f" w{i}", **extra}
        for i in range(count)
    ]


def test_items_with_choices_are_scored_by_likelihood_unless_another_metric_is_named(
    write: Writer,
) -> None:
    task = JsonlTask("own", write(chosen()))
    item = task.items("search")[0]
    assert (task.metric, task.chooses, item.choices[1:]) == ("choice", True, (" no", " 1"))
    assert task.choose(item, [-3.0, -2.0, -2.0]) == {"choice": 1}  # the first of equals
    # Per character, spaces around left out: -3/2, -2/2 and -2/1.
    by_length = JsonlTask("own", write(chosen()), metric="choice_norm", also=["choice"])
    assert by_length.choose(item, [-4.0, -3.0, -1.4]) == {"choice_norm": 2, "choice": 2}
    assert by_length.choose(item, [-9.0, -3.0, -2.0]) == {"choice_norm": 1, "choice": 2}
    plain = JsonlTask("own", write(chosen()), metric="contains")
    assert not plain.chooses and not plain.items("search")[0].choices


def test_a_right_choice_may_be_named_by_its_place(write: Writer, tmp_path: Path) -> None:
    named = JsonlTask("own", write(chosen()))
    placed = JsonlTask("own", write([{**row, "reference": 0} for row in chosen()]))
    assert placed.items("test") == named.items("test")
    table = tmp_path / "own.csv"
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("prompt", "choices", "reference"))
        writer.writerows((r["prompt"], json.dumps(r["choices"]), "0") for r in chosen())
    assert JsonlTask("own", table).items("test") == named.items("test")
    numbers = [{**row, "choices": ["3", "1", "2"]} for row in chosen()]
    read = JsonlTask("own", write([{**row, "reference": "1"} for row in numbers]))
    assert read.items("test")[0].reference == "1"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"choices": [" w1"]}, "line 1: choice needs choices, a list of different texts"),
        ({"choices": ["a", "a"]}, "line 1: choice needs choices"),
        ({"choices": ["a", " "]}, "line 1: choice needs choices"),
        ({"reference": "w0"}, "line 1: the reference 'w0' is none of the choices"),
        ({"reference": 3}, "line 1: the reference 3 is none of the choices"),
        ({"choices": ["2", "0", "1"], "reference": 0}, "line 1: the reference 0 is the place of"),
    ],
)
def test_choices_that_cannot_be_are_refused(write: Writer, line: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        JsonlTask("own", write([{**chosen(1)[0], **line}, *chosen()[1:]]))
    assert caught.value.remedy


def test_one_question_may_be_asked_of_other_choices(write: Writer) -> None:
    lines = [{"prompt": "true?", "choices": [f"w{i}", "no"], "reference": 0} for i in range(60)]
    lines += chosen()
    task = JsonlTask("own", write(lines))
    assert sum(len(task.items(split)) for split in SPLITS) == 120
    with pytest.raises(InputError, match="line 121 repeats the prompt of line 1"):
        JsonlTask("own", write([*lines, lines[0]]))


def test_messages_that_end_with_an_answer_are_prompt_and_reference(
    write: Writer, tokenizer: PreTrainedTokenizerBase
) -> None:
    def talk(row: dict[str, Any], *more: dict[str, str]) -> list[dict[str, str]]:
        return [{"role": "user", "content": row["prompt"]}, *more]

    apart = [{"prompt": talk(row), "reference": row["reference"]} for row in rows()]
    ended = [
        {"messages": talk(row, {"role": "assistant", "content": row["reference"]})}
        for row in rows()
    ]
    given = [{"messages": talk(row), "reference": row["reference"]} for row in rows()]
    wanted = JsonlTask("own", write(apart), tokenizer=tokenizer).items("search")
    for lines in (ended, given):
        assert JsonlTask("own", write(lines), tokenizer=tokenizer).items("search") == wanted
    renamed = [{"talk": line["messages"], "prompt": "other"} for line in ended]
    task = JsonlTask("own", write(renamed), tokenizer=tokenizer, fields={"messages": "talk"})
    assert task.items("search") == wanted
    for line, message in (
        ({**ended[0], "prompt": "p"}, "line 1 has both prompt and messages"),
        ({**ended[0], "reference": "r"}, "line 1 has a reference, and messages that end with"),
        ({"messages": talk(rows()[0])}, "line 1: reference must be a text"),
    ):
        with pytest.raises(InputError, match=message):
            JsonlTask("own", write([line, *ended[1:]]), tokenizer=tokenizer)


def test_one_metric_decides_and_others_are_reported(write: Writer) -> None:
    task = JsonlTask("own", write(rows()), also=["contains", "chrf"])
    items = task.items("search")[:2]
    said = [f"it is {items[0].reference}", items[1].reference]
    assert task.metric == "exact_match" and task.score(items, said) == [0.0, 1.0]
    beside = task.secondary(items, said)
    assert list(beside) == ["contains", "chrf"] and beside["contains"] == [1.0, 1.0]
    assert task.version != JsonlTask("own", write(rows())).version
    for also, message in (
        (["exact_match"], "also names exact_match, which is there"),
        (["bleu"], "unknown metric 'bleu'"),
        (["number", "number"], "also names number"),
        (["choice"], "line 1: choice needs choices"),
    ):
        lines = [{"prompt": f"w{i}", "reference": f"{i}"} for i in range(60)]
        with pytest.raises(InputError, match=message):
            JsonlTask("own", write(lines), also=also)
    with pytest.raises(InputError, match="exact_match and choice together"):
        JsonlTask("own", write(chosen()), metric="exact_match", also=["choice"])


def test_programs_may_be_counted_beside_another_metric(write: Writer) -> None:
    with SandboxPool() as runner:
        lines = rows(tests=[["f(2)", "3"]])
        task = JsonlTask("own", write(lines), runner=runner, also=["pass_at_1"])
        items = task.items("search")[:2]
        programs = ["def f(x): return x + 1", "def f(x): return x"]
        assert task.judged_elsewhere and task.runner is runner
        assert task.secondary(items, programs) == {"pass_at_1": [1.0, 0.0]}


METRIC = """
from hm3rl.registry import register

def longest(text):
    return max(text.split(), key=len, default="")

@register("metric", "longest_word")
def longest_word(output, reference):
    return longest(output) == longest(reference)
"""


def test_a_metric_of_ones_own_is_found_by_its_name(write: Writer, tmp_path: Path) -> None:
    known = registry.snapshot()
    try:
        versions = []
        for name, text in (("one.py", METRIC), ("two.py", METRIC.replace("split()", "split(' ')"))):
            (tmp_path / name).write_text(text)
            registry.restore(known)
            load_plugins([str(tmp_path / name)])
            task = JsonlTask("own", write(rows()), metric="longest_word", also=["chrf"])
            versions.append(task.version)
        items = task.items("search")[:2]
        assert not task.exact_only
        assert task.score(items, [f"a {items[0].reference} b", "w"]) == [1.0, 0.0]
        # Stored scores belong to the whole file: another `longest` may score otherwise.
        assert versions[0] != versions[1]
        exec(METRIC.replace("longest_word", "typed"), {"__name__": "nowhere"})
        with pytest.raises(InputError, match="'typed' has no source"):
            JsonlTask("own", write(rows()), metric="typed")
    finally:
        registry.restore(known)
    with pytest.raises(InputError, match="unknown metric 'longest_word'") as caught:
        JsonlTask("own", write(rows()), metric="longest_word")
    assert "plugins=" in caught.value.remedy

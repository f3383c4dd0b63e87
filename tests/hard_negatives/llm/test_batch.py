"""The batch writer: request files in OpenAI's format, answer files in any order, with repetitions and broken lines."""

import json

import pytest

from degla.errors import ConfigError
from degla.hard_negatives.llm.batch import BatchWriter
from degla.hard_negatives.progress import Progress
from degla.hard_negatives.rules import Rules
from degla.hard_negatives.store import Store

PAIRS = [("dog", "cat"), ("cow", "bird")] * 4
CAPTIONS = [f"A black {a} chases a white {b} number {i}" for i, (a, b) in enumerate(PAIRS)]
TASKS = [(caption, kind) for caption in CAPTIONS for kind in ("swap_nouns", "replace_adjectives")]


def make_writer(folder, answers=(), **arguments):
    return BatchWriter(["swap_nouns", "replace_adjectives"], 1, 0, "m", str(folder / "requests"), answers,
                       max_requests=7, tagger="lexicon", **arguments)  # fmt: skip


def write(folder, answers=()):
    writer, store = make_writer(folder, answers), Store(folder / "answers")
    writer.write(TASKS, store, Progress(len(TASKS), disable=True))
    store.close()
    files = sorted((folder / "requests").glob("*.jsonl"))
    return (
        writer,
        Store(folder / "answers"),
        [json.loads(line) for file in files for line in file.read_text().splitlines()],
    )


def answer_line(request, text=None, status=200):
    rule = request["body"]["messages"][0]["content"]
    kind = "swap_nouns" if "Exchange two nouns" in rule else "replace_adjectives"
    negatives = Rules("lexicon").write(request["body"]["messages"][-1]["content"], kind, 1)
    message = {"role": "assistant", "content": text or json.dumps({"negatives": negatives})}
    body = {
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2},
    }
    return {"custom_id": request["custom_id"], "response": {"status_code": status, "body": body}, "error": None}


def test_requests_and_answers_round_trip(tmp_path):
    writer, store, requests = write(tmp_path)
    assert len(requests) == len(TASKS) == 16 and len(store) == 0
    assert [file.name for file in sorted((tmp_path / "requests").iterdir())] == [
        f"requests-0000{i}.jsonl" for i in range(3)
    ]
    first = requests[0]
    assert set(first) == {"custom_id", "method", "url", "body"} and first["url"] == "/v1/chat/completions"
    assert first["body"]["messages"][-1] == {"role": "user", "content": CAPTIONS[0]}

    answers = [answer_line(request) for request in requests]
    answers[1] = answer_line(requests[1], text="no JSON")
    answers[2] = {"custom_id": requests[2]["custom_id"], "response": None, "error": {"message": "expired"}}
    answers[3] = answer_line(requests[3], status=500)
    lost = answers.pop(5)
    lines = [json.dumps(answer) for answer in reversed(answers)]
    (tmp_path / "out.jsonl").write_text("\n".join([*lines, lines[0], "{cut", json.dumps({"custom_id": "strange"})]))
    writer, store, again = write(tmp_path, [str(tmp_path / "out*.jsonl")])
    # A bad answer is requested again under another key; a lost, expired or failed one under its own.
    passing = {lost["custom_id"], *(requests[i]["custom_id"] for i in (2, 3))}
    assert len(again) == 4 and {r["custom_id"] for r in again} & {r["custom_id"] for r in requests} == passing
    assert {r["body"]["seed"] for r in again} == {0, 1}

    (tmp_path / "more.jsonl").write_text("\n".join(json.dumps(answer_line(request)) for request in again))
    writer, store, left = write(tmp_path, [str(tmp_path / "more.jsonl")])
    assert left == []
    for caption, kind in TASKS:
        assert writer.answer_index.verdict(store, caption, kind).accepted
    assert sum(store.get(writer.answer_index.key(*task)).input_tokens for task in TASKS) > 0


def test_errors_replace_no_answer_and_are_requested_again(tmp_path):
    _, _, requests = write(tmp_path)
    good = [answer_line(request) for request in requests[1:]]
    for round_ in range(4):
        errors = [answer_line(request, status=429) for request in requests]
        lines = [json.dumps(line) for line in [*good, *errors]]
        (tmp_path / f"out{round_}.jsonl").write_text("\n".join(lines))
        *_, again = write(tmp_path, [str(tmp_path / "out*.jsonl")])
        assert [request["custom_id"] for request in again] == [requests[0]["custom_id"]]
    (tmp_path / "refused.jsonl").write_text(json.dumps(answer_line(requests[0], status=400)))
    *_, again = write(tmp_path, [str(tmp_path / "refused.jsonl")])
    assert [request["custom_id"] for request in again] != [requests[0]["custom_id"]]


def test_hostile_lines_of_answers_are_requested_again(tmp_path):
    _, _, requests = write(tmp_path)
    deep = "[" * 100_000 + "]" * 100_000
    keys = [request["custom_id"] for request in requests]
    lines = [
        deep, "null", "5", '{"custom_id": 5}', f'{{"custom_id": "{keys[0]}", "response": {deep}}}',
        *(json.dumps({"custom_id": keys[1], "response": value}) for value in (None, [], "x", {"status_code": []})),
        json.dumps({"custom_id": keys[2], "response": {"status_code": 200, "body": "a page"}}),
        json.dumps({"custom_id": keys[3], "response": {"status_code": 400, "body": {"error": {"message": ["x"]}}}}),
    ]  # fmt: skip
    (tmp_path / "out.jsonl").write_text("\n".join(lines) + "\n")
    writer, store, again = write(tmp_path, [str(tmp_path / "out.jsonl")])
    assert {request["custom_id"] for request in again} >= {keys[0], keys[1]} and len(again) == len(requests)
    reasons = [writer.answer_index.verdict(store, *TASKS[i]).reason for i in (2, 3)]
    assert reasons == ["the response is not a chat completion", '{"error": {"message": ["x"]}}']


def test_missing_file_is_reported(tmp_path):
    with pytest.raises(ConfigError, match=r"negatives\.answers: there is no file .*nothing"):
        write(tmp_path, [str(tmp_path / "nothing*")])
    with pytest.raises(ConfigError, match=r"negatives\.model is not set"):
        BatchWriter(["swap_nouns"], 1, 0)


def test_own_prompts(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "swap_nouns.yaml").write_text("rule: Do as I say.\nexamples: [{caption: a, negative: b}]\n")
    ours, mine = make_writer(tmp_path), make_writer(tmp_path, prompts=str(folder))
    assert mine.request_body("x", "swap_nouns", 0)["messages"][0]["content"].count("Do as I say.") == 1
    assert ours.answer_index.key("x", "swap_nouns") != mine.answer_index.key("x", "swap_nouns")
    assert ours.answer_index.key("x", "replace_adjectives") == mine.answer_index.key("x", "replace_adjectives")
    for content, message in (("rule: x", "is not of the form"), ("[", "is not of the form")):
        (folder / "swap_nouns.yaml").write_text(content)
        with pytest.raises(ConfigError, match=message):
            make_writer(tmp_path, prompts=str(folder))
    (folder / "swap_noun.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"swap_noun\.yaml is no kind"):
        make_writer(tmp_path, prompts=str(folder))

"""With a hostile server every run ends soon, in bounded memory, with one sentence or a usable store."""

import json
import resource
import time
import zlib

import pytest
from aiohttp import web

from degla.errors import ConfigError
from degla.hard_negatives.llm.client import ChatClient, _duration, _retry_after
from degla.hard_negatives.llm.completion import NoCompletion, parse_completion
from degla.hard_negatives.llm.online import OnlineWriter
from degla.hard_negatives.progress import Progress
from degla.hard_negatives.store import Answer, Store, answer_key
from tests.helpers.llm_server import LlmServer

CAPTION, KIND = "A black dog chases a white cat", "swap_nouns"
TASK = (CAPTION, KIND)
GOOD = "A black cat chases a white dog"
SECRET = "sk-very-secret-0123456789"


def completion(content, **fields):
    message = {"role": "assistant", "content": content}
    return {"choices": [{"message": message, "finish_reason": "stop"}], **fields}


def negatives(*texts):
    return completion(json.dumps({"negatives": list(texts)}))


def handler(body=None, status=200, **response):
    async def answer(request):
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(text=text, status=status, content_type="application/json", **response)

    return lambda *_: answer


def run(server, folder, task=TASK, **arguments):
    arguments = {"max_retries": 1, "timeout_seconds": 20.0, "attempts": 1, "max_failures": 2} | arguments
    writer = OnlineWriter([KIND], 1, 0, model="m", base_url=server.url, tagger="lexicon", **arguments)
    writer.client.max_wait_seconds = 0.01
    store = Store(folder)
    try:
        writer.write([task], store, Progress(1, disable=True))
    finally:
        store.close()
    store = Store(folder)
    assert store.num_truncated == 0
    return writer, store, writer.answer_index.verdict(store, *task)


def failure_of(store):
    return [answer.failure for answer in store.failures()]


def test_endless_body_is_cut_off(tmp_path):
    async def endless(request):
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 2**16)

    with LlmServer(lambda *_: endless) as server:
        started = time.monotonic()
        _, store, _ = run(server, tmp_path)
    assert failure_of(store) == ["the response is larger than 4 MiB"] and time.monotonic() - started < 10


def test_compressed_body_has_the_same_limit(tmp_path):
    """One megabyte on the wire, one gigabyte decoded."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    zeros = bytes(2**20)
    bomb = b"".join([*(compressor.compress(zeros) for _ in range(1024)), compressor.flush()])

    async def answer(request):
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with LlmServer(lambda *_: answer) as server:
        _, store, _ = run(server, tmp_path)
    assert failure_of(store) == ["the response is larger than 4 MiB"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_honest_compression_is_read(tmp_path, encoding):
    async def answer(request):
        response = web.json_response(negatives(GOOD))
        response.enable_compression(web.ContentCoding(encoding))
        return response

    with LlmServer(lambda *_: answer) as server:
        assert run(server, tmp_path)[2].accepted == [GOOD]


def test_damaged_and_unknown_encodings_are_reasons(tmp_path):
    for name, data in (("gzip", b"\x1f\x8bnonsense"), ("br", b"abc")):

        async def answer(request, name=name, data=data):
            return web.Response(body=data, headers={"Content-Encoding": name})

        with LlmServer(lambda *_, answer=answer: answer) as server:
            assert "no completion: " in failure_of(run(server, tmp_path / name)[1])[0]


def test_redirect_is_not_followed(tmp_path):
    with LlmServer() as other, LlmServer(handler("", 307, headers={"Location": other.url})) as server:
        with pytest.raises(ConfigError, match=r"the server redirects to .* set negatives\.base_url to the right one"):
            run(server, tmp_path)
        assert not other.asked


@pytest.mark.parametrize("value", ["1000000000", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_wait_of_decades_ends_the_run(tmp_path, value):
    with LlmServer(handler({"error": "busy"}, 429, headers={"Retry-After": value})) as server:
        started = time.monotonic()
        with pytest.raises(ConfigError, match=r"asks to wait .*, longer than negatives\.max_server_wait_seconds=600"):
            run(server, tmp_path)
    assert time.monotonic() - started < 10


def test_wait_is_announced():
    printed: list[str] = []
    client = ChatClient("http://localhost/v1", announce=printed.append)
    for _ in range(3):
        client._note_rate_limits(429, {"Retry-After": "90"})
    assert printed == ["the server asks to wait 90 s"]


def test_wait_headers_of_any_form_are_numbers():
    for value in ("²", "1e9", "-5", "inf", "nan", "Fri, 99 Foo 2020", "1.2.3", "9" * 400, "\x00"):
        assert _retry_after({"Retry-After": value, "retry-after-ms": value}) >= 0
        assert _duration(value + "s") >= 0


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/v1", "localhost:8000/v1", "http://", "http://h:x/v1"]
)
def test_other_addresses_than_http_are_refused(url):
    with pytest.raises(ConfigError, match=r"negatives\.base_url=.* is not an HTTP address; set it to one such as"):
        ChatClient(url)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (completion([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "ab"),
        (completion([{"type": "image"}, "c"]), "c"),
        (completion(None), None),
        (completion("x\ud800"), "x?"),
        (completion("x", usage={"prompt_tokens": "twelve", "completion_tokens": "7"}), "x"),
        (completion("x", usage="none of your business"), "x"),
        (completion("x", usage={"prompt_tokens": -1, "completion_tokens": 10**30}), "x"),
        (completion("x", usage={"prompt_tokens": [1], "completion_tokens": {"a": 1}}), "x"),
    ],
)
def test_forms_that_servers_use(answer, text):
    reply = parse_completion(answer)
    assert reply.text == text and reply.input_tokens >= 0 and reply.output_tokens in (0, 7)


@pytest.mark.parametrize(
    "answer",
    [None, [], "x", 1, {}, {"choices": []}, {"choices": {}}, {"choices": [1]}, {"choices": [{"message": "x"}]},
     completion(5), completion({"text": "x"})],
)  # fmt: skip
def test_other_forms_are_no_completion(answer):
    with pytest.raises(NoCompletion):
        parse_completion(answer)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "body",
    [
        DEEP,
        '{"choices": ' + DEEP + "}",
        json.dumps(completion('{"negatives": ' + DEEP + "}")),
        json.dumps(completion('{"negatives": [' + "9" * 5000 + "]}")),
        json.dumps(negatives(*["\ud800 a", "\x00", "a\u2028b"])),
        "\ufeff",
        '{"error": ' + DEEP + "}",
    ],
    ids=["deep", "deep choices", "deep negatives", "long number", "surrogates", "byte order mark", "deep error"],
)
@pytest.mark.parametrize("status", [200, 400])
def test_hostile_json_ends_with_a_reason(tmp_path, body, status):
    with LlmServer(handler(body, status)) as server:
        writer, store, verdict = run(server, tmp_path)
        assert verdict.accepted == [] and (verdict.reason or failure_of(store))
    with LlmServer() as server:  # the store serves the next run
        list(writer.check_rows([], store))
        assert run(server, tmp_path, ("A red car passes a blue truck", KIND))[2].accepted


@pytest.mark.parametrize(
    "texts",
    [[f"{GOOD} {i}" for i in range(10_000)], ["caption " * 40_000], ["a black cat, " * 25_000], ["x" * 320_000],
     ["A {} chases a {}".format("a" * 500, "b" * 500)] * 50],
    ids=["10,000 negatives", "320 kB of chatter", "320 kB of phrases", "a word of 320 kB", "long words"],
)  # fmt: skip
def test_large_answers_take_seconds(tmp_path, texts):
    with LlmServer(handler(negatives(*texts))) as server:
        started = time.monotonic()
        verdict = run(server, tmp_path)[2]
        assert time.monotonic() - started < 5
    assert len(verdict.rejected) <= 64
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 100_000


def test_store_with_hostile_lines_still_loads(tmp_path):
    key = answer_key(CAPTION, KIND, "1", "m", 0, 1)
    good = Answer(key, CAPTION, KIND, [GOOD])
    store = Store(tmp_path)
    store.add(good)
    store.close()
    fields = good._asdict() | {"key": "00"}
    lines = [
        DEEP, "null", "[]", "{}", '{"key": 1}', "9" * 5000, "\x00",
        *(json.dumps(fields | {name: value}) for name, value in (
            ("key", "not hexadecimal"), ("key", 5), ("texts", "a string"), ("texts", [1]), ("texts", None),
            ("input_tokens", "many"), ("output_tokens", None), ("is_final", "no"), ("unknown", 1), ("kind", []))),
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    store = Store(tmp_path)
    assert len(store) == 1 and store.get(key) == good and store.num_truncated == len(lines)
    assert list(store.failures()) == []


def test_store_writes_only_what_it_can_read(tmp_path):
    store = Store(tmp_path)
    for fields in ({"texts": [1]}, {"key": "xyz"}, {"input_tokens": 1.5}):
        with pytest.raises(ValueError):
            store.add(Answer("00", CAPTION, KIND, [GOOD])._replace(**fields))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("status", [200, 400, 401, 403, 500])
@pytest.mark.parametrize("form", ["error", "text", "content", "negative", "escaped", "refusal"])
def test_key_that_the_server_repeats_is_shown_and_stored_nowhere(tmp_path, monkeypatch, capsys, status, form):
    monkeypatch.setenv("MY_KEY_NAME", SECRET)
    monkeypatch.setenv("HF_TOKEN", "hf_another_secret_value")

    async def echo(request):
        header = f"{request.headers['Authorization']} hf_another_secret_value"
        escaped = header.replace("s", "\\u0073")
        body = {
            "error": json.dumps({"error": {"message": f"bad key {header}"}}),
            "text": f"bad key {header}",
            "content": json.dumps(completion(f"your key is {header}")),
            "negative": json.dumps(negatives(f"A black cat chases a white {header}")),
            "escaped": '{"detail": "' + escaped + '"}',
            "refusal": json.dumps({"choices": [{"message": {"content": None, "refusal": header}}]}),
        }[form]
        return web.Response(text=body, status=status)

    message = ""
    with LlmServer(lambda *_: echo) as server:
        try:
            run(server, tmp_path, api_key_env="MY_KEY_NAME")
        except ConfigError as error:
            message = str(error)
    written = "".join(path.read_text() for path in tmp_path.iterdir()) + message + "".join(capsys.readouterr())
    assert written and SECRET not in written and "hf_another_secret_value" not in written
    assert "sk-very" not in written and r"\u0073" not in written


def test_password_in_the_address_is_not_shown():
    with pytest.raises(ConfigError) as error:
        client = ChatClient("http://user:pass-word-1@127.0.0.1:9/v1")
        client._raise_if_final(401, client._reason("user:pass-word-1@127.0.0.1 is unknown"))
    assert "pass-word-1" not in str(error.value) and "127.0.0.1:9" in str(error.value)

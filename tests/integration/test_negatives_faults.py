"""``degla-negatives`` on full disks, in folders it cannot write to, twice at once, and with settings out of range."""

import resource
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from degla.hard_negatives.store import Store
from tests.helpers.forked import degla_forked, start_forked
from tests.helpers.llm_server import LlmServer


@pytest.fixture
def folder(tmp_path):
    lines = [f"A black dog chases a white cat number {i}" for i in range(40)]
    (tmp_path / "captions.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def run(*arguments, cwd):
    return degla_forked("input=captions.txt", "negatives.tagger=lexicon", *arguments, cwd=cwd, program="negatives")


def assert_one_sentence(result, *words):
    stderr = result.stderr.strip()
    assert result.returncode == 2 and "Traceback" not in stderr, stderr
    last = stderr.splitlines()[-1]
    assert all(word in last for word in words), last


def test_full_disk_is_one_sentence_and_the_command_resumes(folder):
    """Files of this process are limited to 8 kB, which fails as a full disk does."""
    command = [sys.executable, "-m", "degla.negatives", "input=captions.txt", "output=out", "negatives.tagger=lexicon"]
    result = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
    )
    assert_one_sentence(result, "the disk is full while writing to out: free some space, then repeat the command")
    store = Store(folder / "out/answers")
    assert len(store) > 10 and store.num_truncated == 0  # half a line was taken back
    num_answers = len(store)
    assert run("output=out", cwd=folder).returncode == 0
    assert pq.read_table(folder / "out/captions.parquet").num_rows == 40
    assert len(Store(folder / "out/answers")) > num_answers


@pytest.mark.parametrize("output", ["captions.txt/out", "/proc/degla"])
def test_folder_that_cannot_be_written_is_one_sentence(folder, output):
    result = run(f"output={output}", cwd=folder)
    assert_one_sentence(result, f"{output}", "cannot be read or written", "set another output, then repeat the command")


def test_removed_folder_is_one_sentence(folder):
    def remove(caption, kind, nth):
        for path in (folder / "out/answers").glob("*"):
            path.unlink()
        return "good"

    with LlmServer(remove) as server:
        url = f"negatives.base_url={server.url}"
        result = run("output=out", "negatives=llm", "negatives.model=m", url, "negatives.concurrency=1", cwd=folder)
    assert_one_sentence(result, "out/answers/", "cannot be read or written (No such file or directory)")


def test_two_runs_on_one_output(folder):
    (folder / "second").mkdir()
    (folder / "second/captions.txt").write_text((folder / "captions.txt").read_text())
    with LlmServer(delay=3) as server:
        arguments = ["input=captions.txt", f"output={folder}/out", "negatives=llm", "negatives.model=m",
                     f"negatives.base_url={server.url}", "negatives.tagger=lexicon", "kinds=[swap_nouns]"]  # fmt: skip
        first = start_forked(*arguments, "shard=0/2", cwd=folder, program="negatives")
        started = time.monotonic()
        while not server.asked and time.monotonic() - started < 60:
            time.sleep(0.05)
        assert server.asked
        for shard, words in ((None, "another degla-negatives writes to"), ("0/2", "writes shard 0/2 of")):
            more = [f"shard={shard}"] if shard else []
            result = degla_forked(*arguments, *more, cwd=folder / "second", program="negatives")
            assert_one_sentence(result, words, "wait for it, or set another output")
        other = degla_forked(*arguments, "shard=1/2", cwd=folder / "second", program="negatives")
        assert other.returncode == 0, other.stderr
        first.join(60)
        assert first.exitcode == 0
        assert degla_forked(*arguments, cwd=folder, program="negatives").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["per_kind=0"], "per_kind=0 must be a whole number from 1 to 64"),
        (["per_kind=many"], "per_kind=many must be a whole number from 1 to 64"),
        (["seed=-1"], "seed=-1 must be a whole number from 0 to 4294967295"),
        (["draft=0"], "draft=0 must be a number of captions of 1 or more, or null"),
        (["kinds=[]"], "kinds=[] must be a list of at least one kind"),
        (["kinds=swap_nouns"], "kinds=swap_nouns must be a list of at least one kind"),
        (["kinds=[swap_nouns,swap_nouns]"], "names a kind twice"),
        (["prices=[1]"], "prices=[1] must be two numbers of 0 or more"),
        (["prices=[-1,2]"], "prices=[-1, 2] must be two numbers of 0 or more"),
        (["balance=1"], "balance=1 must be true or false"),
        (["caption="], "caption= must be the name of a column"),
        (["shard=1e9/3"], "shard=1e9/3 is not of the form i/n"),
        (["concurrency=0"], "negatives.concurrency=0 must be a whole number from 1 to 4096"),
        (["attempts=0"], "negatives.attempts=0 must be a whole number of 1 or more"),
        (["max_tokens=0"], "negatives.max_tokens=0 must be a whole number of 1 or more"),
        (["timeout_seconds=-1"], "negatives.timeout_seconds=-1 must be a number above 0"),
        (["timeout_seconds=inf"], "negatives.timeout_seconds=inf must be a number above 0"),
        (["max_retries=-1"], "negatives.max_retries=-1 must be a whole number of 0 or more"),
        (["max_failures=0"], "negatives.max_failures=0 must be a whole number of 1 or more"),
        (["temperature=-0.5"], "negatives.temperature=-0.5 must be a number of 0 or more"),
        (["max_server_wait_seconds=-1"], "negatives.max_server_wait_seconds=-1 must be a number of 0 or more"),
        (["base_url=localhost:8000"], "negatives.base_url=localhost:8000 is not an HTTP address"),
        (["max_requests=0"], "negatives.max_requests=0 must be a whole number of 1 or more"),
    ],
)
def test_settings_out_of_range(folder, arguments, message):
    name = arguments[0].partition("=")[0]
    if name == "max_requests":
        arguments = ["negatives=batch", "negatives.model=m", *(f"negatives.{argument}" for argument in arguments)]
    elif message.startswith("negatives."):
        arguments = ["negatives=llm", "negatives.model=m", *(f"negatives.{argument}" for argument in arguments)]
    assert_one_sentence(run(*arguments, cwd=folder), message)
    assert not (folder / "captions_negatives").exists()

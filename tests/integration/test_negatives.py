"""``python -m degla.negatives`` as a user runs it, up to a training run on what it made."""

import csv
import json
import shlex
import subprocess
import sys

import datasets
import pyarrow.parquet as pq
import pytest
import yaml

from degla.negatives import shared_command
from tests.conftest import SHARED, degla
from tests.helpers.benchmarks import write_image
from tests.helpers.forked import degla_forked
from tests.helpers.llm_server import LlmServer

CAPTIONS = [
    "A black dog chases a white cat .",
    "Two men in red shirts ride an old bike on the street .",
    "A woman with a large umbrella stands next to a wooden bench .",
    "A young girl eats an apple under a tall tree .",
]


def negatives(*arguments, cwd, check=True, **environment):
    return degla(*arguments, cwd=cwd, check=check, program="negatives", COLUMNS="160", **environment)


@pytest.fixture
def folder(tmp_path):
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for i in range(40):
            rows.writerow([f"images/{i}.jpg", CAPTIONS[i % 4] if i < 39 else "  "])
            write_image(tmp_path / f"images/{i}.jpg")
    return tmp_path


def test_rules_to_a_training_run(folder):
    output = negatives("input=captions.csv", "output=out", cwd=folder)
    assert "swap_nouns" in output.stdout and "out/captions.parquet" in output.stdout
    rows = pq.read_table(folder / "out/captions.parquet").to_pylist()
    assert len(rows) == 39 and rows[0]["image"] == "images/0.jpg"
    assert {"text": "A white dog chases a black cat .", "type": "swap_adjectives"} in rows[0]["negatives"]
    assert rows[0]["negatives"] == rows[4]["negatives"]
    rejected = pq.read_table(folder / "out/log/rejected.parquet").to_pylist()
    assert [(row["text"].split(":")[0], row["reason"]) for row in rejected if row["type"] == "row"] == [
        ("captions.csv", "empty caption")
    ]
    card = (folder / "out/README.md").read_text()
    assert "## Can they be told from captions without the image?" in card and "rules-hanta" in card
    assert datasets.load_dataset(str(folder / "out"), split="train", cache_dir=str(folder / "cache")).num_rows == 39
    before = sorted(path.name for path in (folder / "out/answers").iterdir())
    negatives("input=captions.csv", "output=out", cwd=folder)
    assert sorted(path.name for path in (folder / "out/answers").iterdir()) == before  # no answer was written again
    degla("model=tiny", "data.path=out", "data.image_root=..", "loader.global_batch_size=4", "loader.num_workers=0",
          "loader.epochs=1", "trainer.max_steps=3", "trainer.accelerator=cpu", "callbacks.progress_bar=null",
          cwd=folder)  # fmt: skip
    assert list(folder.glob("runs/train/*/model/*.safetensors"))


def test_a_language_model_in_two_shards(folder):
    with LlmServer() as server:
        arguments = ["input=captions.csv", "output=out", "negatives=llm", "negatives.model=m",
                     f"negatives.base_url={server.url}", "prices=[1,2]", "per_kind=1"]  # fmt: skip
        for i in range(2):
            assert "is done" in negatives(*arguments, f"shard={i}/2", cwd=folder).stdout
        assert not (folder / "out/captions.parquet").exists() and len(server.asked) == 20  # equal captions once
        negatives(*arguments, cwd=folder)
        assert sum(server.asked.values()) == 20
    summary = json.loads((folder / "out/log/summary.json").read_text())
    assert summary["num_rows"] == 39 and summary["facts"]["model"] == "m" and set(summary["facts"]["prompts"])
    rows = pq.read_table(folder / "out/captions.parquet").to_pylist()
    assert len(rows[0]["negatives"]) >= 4


def test_drafts_of_examples(folder):
    with LlmServer() as server:
        arguments = ["input=captions.csv", "output=out", "negatives=llm", "negatives.model=m",
                     f"negatives.base_url={server.url}", "kinds=[swap_adjectives,replace_nouns]"]  # fmt: skip
        output = negatives(*arguments, "draft=3", cwd=folder).stdout
        assert "replace_nouns.yaml: keep the good ones, then negatives.prompts=out/prompts" in output
        assert len(server.asked) == 6 and [m["role"] for m in server.bodies[-1]["messages"]] == ["system", "user"]
        drafted = yaml.safe_load((folder / "out/prompts/replace_nouns.yaml").read_text())
        assert [example["caption"] for example in drafted["examples"]] == CAPTIONS[:3] and drafted["rule"]
        negatives(*arguments, "negatives.prompts=out/prompts", cwd=folder)
        assert len(server.bodies[-1]["messages"]) > 2
    assert (folder / "out/captions.parquet").exists()


def test_batch_requests_go_to_the_default_output(folder):
    """``output`` is not set, and the folder of the requests is named after it."""
    negatives("input=captions.csv", "negatives=batch", "negatives.model=m", cwd=folder)
    assert (folder / "captions_negatives/requests/requests-00000.jsonl").exists()
    assert not (folder / "None").exists()


def test_card_begins_with_the_result_and_holds_no_absolute_path(folder, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "sk-in-the-environment")
    with (folder / "captions.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["images/0.jpg", "A <b>black</b> dog | and a white cat"])
    with LlmServer() as server:
        url = server.url.replace("http://", "http://me:sk-in-the-environment@")
        arguments = [f"input={folder}/captions.csv", f"output={folder}/out", "negatives=llm", "negatives.model=m",
                     f"negatives.base_url={url}", "negatives.tagger=lexicon"]  # fmt: skip
        printed = negatives(*arguments, cwd=folder).stdout
    card = (folder / "out/README.md").read_text()
    body = card.split("---\n", 2)[2].strip().splitlines()
    assert body[0] == "# Hard negatives for captions.csv"
    assert body[2].startswith("**40 captions have ") and printed.strip().startswith("40 captions have ")
    assert "- command: `degla-negatives input=captions.csv output=out negatives=llm" in card
    summary = (folder / "out/log/summary.json").read_text()
    for text in (card, summary):
        assert str(folder) not in text and "sk-in-the-environment" not in text
    assert "<b>" not in card


@pytest.mark.parametrize(
    ("command", "shared"),
    [
        (["input=/home/me/a b/captions.csv"], "degla-negatives input=captions.csv"),
        (["input=../data/c.parquet", "output=~/out"], "degla-negatives input=c.parquet output=out"),
        (["negatives.answers=[/x/o*.jsonl,y/o.jsonl]"], "degla-negatives 'negatives.answers=[o*.jsonl,y/o.jsonl]'"),
        (["negatives.base_url=https://me:pw@host/v1", "shard=3/16"],
         "degla-negatives negatives.base_url=https://host/v1 shard=3/16"),
    ],
)  # fmt: skip
def test_command_of_the_card(command, shared):
    assert shlex.split(shared_command(command)) == shlex.split(shared)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "input is not set"),
        (["input=nothing.csv"], "input: there is no file nothing.csv"),
        (["input=captions.csv", "caption=text"], "has no column 'text', only image, caption"),
        (
            ["input=captions.csv", "kinds=[swap_noun]"],
            "kinds: there is no kind swap_noun; choose among",
        ),
        (["input=captions.csv", "shard=2/2"], "shard=2/2 is not of the form i/n"),
        (["input=captions.csv", "negatives=llm"], "negatives.model is not set"),
        (["input=captions.csv", "draft=3"], "draft needs a language model: set negatives=llm"),
        (["input=captions.csv", "negatives.tagger=en_nothing"], "is not an installed spaCy model"),
    ],
)
def test_mistakes_end_in_one_sentence(folder, arguments, message):
    result = degla_forked(*arguments, cwd=folder, program="negatives")
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert result.stderr.strip().count("\n") <= 1


def test_given_negatives_are_checked_and_reported(tmp_path):
    if not (SHARED / "negclip").is_dir():
        pytest.skip("NegCLIP's validation file is not in ../shared/data")
    negatives(f"input={SHARED / 'negclip/valid_neg_clip.tsv'}", "output=out", "negatives=given", cwd=tmp_path)
    summary = json.loads((tmp_path / "out/log/summary.json").read_text())
    assert (
        summary["num_rows"] == 4839 and summary["reasons"]["unknown"]["equal to the caption"] == 5
    )  # two up to case, three up to marks
    assert summary["accepted"]["unknown"] + sum(summary["reasons"]["unknown"].values()) == 7370
    assert summary["blind"][0]["accuracy"] > 0.5


def test_a_run_by_rules_imports_no_torch(folder):
    """torch takes seconds to import and is of no use here."""
    code = (
        "import sys; sys.argv = ['degla-negatives', 'input=captions.csv', 'output=out']\n"
        "import degla.negatives; degla.negatives.main()\n"
        "print('imported:', {'torch', 'lightning', 'open_clip'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "imported: set()" in result.stdout
    assert (folder / "out/captions.parquet").exists()

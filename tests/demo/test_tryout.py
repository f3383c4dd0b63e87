"""``degla-try`` on the console: which arguments are captions, which models are compared, what it prints."""

import os
import subprocess
import sys

import pytest

from degla.data.images import ImageLimits
from degla.demo.examples import example_scenes
from degla.demo.pair import base_values, load_pair, newest_demo_run, settings_of_run
from degla.demo.scores import read_image, score_captions
from degla.demo.sentences import headline
from degla.errors import ConfigError
from degla.tryout import CommandLine, split_arguments
from tests.helpers.forked import degla_forked

TRUE, FALSE = "a red circle below a white square", "a white circle below a red square"


def tried(cwd, *arguments):
    return degla_forked(*arguments, cwd=cwd, program="tryout", COLUMNS="120")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["a dog", "image=x.jpg", "cat"], CommandLine(["image=x.jpg"], ["a dog", "cat"], None)),
        (["a sign: x=1", "x = 1", "1+1=2 ?"], CommandLine([], ["a sign: x=1", "x = 1", "1+1=2 ?"], None)),
        (["--", "x=1", "-5", "model=a"], CommandLine([], ["x=1", "-5", "model=a"], None)),
        (["model='a b/c=d'", "base=e"], CommandLine(["base=e"], [], "a b/c=d")),
        (["model=null", "a"], CommandLine([], ["a"], None)),
        (["model=hf-hub:org/name"], CommandLine([], [], "hf-hub:org/name")),
        (["--cfg", "job", "a dog"], CommandLine(["--cfg", "job"], ["a dog"], None)),
        (["--options", "try", "model=a"], CommandLine(["--options", "try", "model=a"], [], None)),
        (["+a.b=1", "~c=2", "d@e=f", "g/h=i"], CommandLine(["+a.b=1", "~c=2", "d@e=f", "g/h=i"], [], None)),
        (["${oc.env:HOME}", "[x]", "a\nb=c"], CommandLine([], ["${oc.env:HOME}", "[x]", "a\nb=c"], None)),
    ],
)
def test_captions_beside_settings(arguments, line):
    assert split_arguments(arguments) == line


def test_the_newest_demo_run_and_its_base_without_arguments(demo_run):
    result = tried(demo_run.parents[2])
    assert result.returncode == 0 and result.stderr == "", result.stderr
    example = example_scenes(1)[0]
    assert f"image  an example scene ({example.caption})" in result.stdout
    assert "base   degla-scenes plain_clip" in result.stdout and f"tuned  demo/{demo_run.name}" in result.stdout
    for text in (example.caption, *example.negatives):
        assert text in result.stdout
    assert result.stdout.count("* ") == 2  # one best caption per model
    assert not [path for path in demo_run.parents[2].iterdir() if path.name not in ("runs", "stdout", "stderr")]


def test_scores_of_an_image(demo_run, tmp_path):
    """The numbers in the table are those of ``Model.score``, and captions are texts, whatever is in them."""
    (tmp_path / "scene.png").write_bytes(example_scenes(1)[0].image_bytes)
    captions = [TRUE, FALSE, "a [bold]sign[/bold] of ${x}", "x=1"]
    result = tried(tmp_path, f"model={demo_run}", "image=scene.png", *captions[:3], "--", captions[3])
    assert result.returncode == 0, result.stderr
    models = load_pair(str(demo_run), None, None, "runs", "cpu")
    for model in models.values():
        for caption, cosine in zip(captions, model.score(tmp_path / "scene.png", captions)[0], strict=True):
            row = next(line for line in result.stdout.splitlines() if caption in line)
            assert f"({cosine:.3f})" in row
    image = read_image(tmp_path / "scene.png", ImageLimits())
    scores = {role: score_captions(model, image, captions) for role, model in models.items()}
    assert headline(scores, captions) in result.stdout.replace("\n", " ")


@pytest.mark.parametrize("name", ["run", "model", "checkpoint", "option", "tag", "config"])
def test_every_name_of_a_model(demo_run, pair_folders, tmp_path, name):
    names = {
        "run": str(demo_run),
        "model": str(demo_run / "model"),
        "checkpoint": str(next(demo_run.glob("checkpoints/*.ckpt"))),
        "option": "scenes",
        "tag": "degla-scenes/plain_clip",
        "config": f"local-dir:{pair_folders / 'tuned'}",
    }
    result = tried(tmp_path, f"model={names[name]}", "a red circle", "a blue circle")
    assert result.returncode == 0, result.stderr
    has_base = name in ("run", "model", "checkpoint")  # those that know what they started from
    assert ("base   degla-scenes plain_clip" in result.stdout) == has_base
    assert ("base=... adds a second model" in result.stdout) == (not has_base)


def test_a_base_can_be_named_or_left_out(demo_run, pair_folders, tmp_path):
    result = tried(tmp_path, f"model={demo_run}", f"base={pair_folders / 'tuned'}", "a", "b")
    assert "base   pair0/tuned" in result.stdout
    result = tried(tmp_path, f"model={demo_run}", "base=none", "a", "b")
    assert result.returncode == 0 and "base   " not in result.stdout and "The model prefers" in result.stdout


def test_what_a_run_started_from():
    assert base_values({"model": {"name": "ViT-B-32", "pretrained": "openai", "unlocked_text_groups": None}}) == {
        "name": "ViT-B-32", "pretrained": "openai", "quick_gelu": None, "cache_dir": None
    }  # fmt: skip
    assert base_values({"model": {"name": "ViT-B-32", "pretrained": None}}) is None  # random weights
    assert base_values({"model": {"name": "hf-hub:a/b", "pretrained": None}})["name"] == "hf-hub:a/b"
    assert base_values({}) is None


def test_the_newest_run_counts_by_its_model(tmp_path):
    for number, name in enumerate(("2026-01-02", "2026-01-01", "2026-01-03")):
        (tmp_path / "demo" / name / "model").mkdir(parents=True)
        if name != "2026-01-03":  # stopped before its end
            file = tmp_path / "demo" / name / "model/open_clip_config.json"
            file.touch()
            os.utime(file, (number, number))
    assert newest_demo_run(tmp_path).name == "2026-01-01"
    with pytest.raises(ConfigError, match="run make demo, or set model"):
        newest_demo_run(tmp_path / "nothing")
    assert settings_of_run(tmp_path / "demo/2026-01-03") == {}


def test_a_base_that_is_gone(demo_run, tmp_path):
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    for file in (demo_run / "model").iterdir():
        (run / "model" / file.name).write_bytes(file.read_bytes())
    text = (demo_run / "config.yaml").read_text().replace("pretrained: plain_clip", "pretrained: gone.pt")
    (run / "config.yaml").write_text(text)
    result = tried(tmp_path, f"model={run}", "a")
    assert result.returncode == 2 and "gone.pt" in result.stderr
    assert "set base=... or base=none" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "holds no run of the demo: run make demo, or set model=..."),
        (["image=no.jpg"], "image=no.jpg needs captions to score"),
        (["model=scenes", "image=no.jpg", "a"], "the image cannot be used: no such file: no.jpg"),
        (["model=scenes", "image=words.png", "a"], "the image cannot be used: not an image"),
        (["model=scenes", "image=scene.png", "max_image_pixels=99", "a"], "more than max_image_pixels=99"),
        (["model=nothing", "a"], "model=nothing is not a folder"),
        (["model=scenes", "base=nothing", "a"], "nothing is not a folder"),
        (["model=scenes", "device=tpu", "a"], "device=tpu is not available"),
        (["modle=x", "a"], "there is no config key 'modle': did you mean model?"),
        (["serve"], "'serve' is read as a caption: to set the key, write serve=..."),
        (["dog.jpg", "a dog"], "'dog.jpg' is read as a caption: if it is the image, write image=dog.jpg"),
        (["model=scenes", "port=70000"], "port=70000 must be a port"),
        (["model=scenes", "captions=[1]"], "captions: 1 must be a text: quote it"),
        (["model=scenes", " "], "a caption is empty"),
        (["model=scenes", "x" * 1001], "has 1001 characters: shorten it to 1000"),
        (["model=scenes", *"abcdefghijklmnopqrstuvwxyzabcdefg"], "33 captions are too many: give 32 at most"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_mistakes_are_one_sentence(tmp_path, arguments, message):
    (tmp_path / "words.png").write_text("not an image")
    (tmp_path / "scene.png").write_bytes(example_scenes(1)[0].image_bytes)
    result = tried(tmp_path, *arguments)
    assert result.returncode == 2 and message in result.stderr, result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_the_page_needs_its_extra(tmp_path):
    """Without gradio, here hidden from a fresh process, the message names the extra before a model is loaded."""
    code = "import sys; sys.modules['gradio'] = None; from degla.tryout import main; main()"
    command = [sys.executable, "-c", code, "serve=true", "model=scenes"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and "pip install 'degla[demo]'" in result.stderr

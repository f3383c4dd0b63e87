"""Typical mistakes on the command line: exit code 2, one sentence, the right hint, and nothing else printed."""

import importlib
import logging
import os
import re
import subprocess
import sys

import pytest

# command line -> what the sentence must say. The program is train unless the first word is another.
MISTAKES = {
    # names of other projects
    "batch_size=32": "there is no config key 'batch_size': did you mean loader.global_batch_size?",
    "data.batch_size=32": "did you mean loader.global_batch_size?",
    "epochs=3": "did you mean loader.epochs?",
    "trainer.max_epochs=3": "did you mean loader.epochs?",
    "lr=1e-4": "did you mean optimizer.lr?",
    "learning_rate=1e-4": "did you mean optimizer.lr?",
    "wd=0.1": "did you mean optimizer.weight_decay?",
    "resume=true": "to resume the newest run set ckpt_path=last",
    "output_dir=out": "did you mean run_dir?",
    "num_workers=2": "did you mean loader.num_workers?",
    "devices=2": "did you mean trainer.devices?",
    "max_steps=10": "did you mean trainer.max_steps?",
    "warmup_steps=10": "did you mean scheduler.warmup_steps?",
    "pretrained=openai": "did you mean model.pretrained?",
    "train_data=x.csv": "did you mean data.path?",
    "decay=0.99": "did you mean teacher.decay?",
    "trainer.precision=16": "did you mean precision?",
    "+batch_size=32": "did you mean loader.global_batch_size?",
    "--batch-size 32": "settings are written without dashes: loader.global_batch_size=32",
    "--lr=0.1": "settings are written without dashes: optimizer.lr=0.1",
    "--resume": "settings are written without dashes: ckpt_path=last",
    "evaluate output_dir=x": "did you mean run_dir?",
    "evaluate blind=false": "did you mean no_image_baseline?",
    "evaluate workers=2": "did you mean num_workers?",
    "evaluate pretrained=openai": "did you mean model.pretrained?",
    "export output_dir=x": "did you mean out?",
    "export checkpoint=x": "did you mean ckpt?",
    "negatives output_dir=x": "did you mean output?",
    # misspelt keys and options
    "optimizer.lrr=1": "did you mean optimizer.lr or",
    "sed=1": "did you mean seed?",
    "loader.global_batchsize=8": "did you mean loader.global_batch_size",
    "data.num_scenes=3": "with this data: choose data=scenes, which has it",
    "objective.igcc=1": "did you mean objective.",
    "modle=tiny": "did you mean model",
    "model=ViT-B-32": "there is no model=ViT-B-32: did you mean model=vit_b_32?",
    "model=vitl14": "did you mean model=vit_l_14?",
    "model=convnext_base": "or model=vit_b_32 model.name=convnext_base",
    "objective=DeGLA": "did you mean objective=degla?",
    "objective=CE-CLIP": "did you mean objective=ce_clip?",
    "experiment=ViT-B/32": "did you mean experiment=vitb32?",
    "teacher=EMA": "did you mean teacher=ema?",
    "demo": "'demo' is not a setting: did you mean experiment=demo?",
    "evaluate benchmark=SugarCrepe": "did you mean benchmark=sugarcrepe?",
    "evaluate benchmark=aro,valse": "write benchmark=[aro,valse] for a list",
    # values
    "optimizer.lr=1e-4,1e-5": "write optimizer.lr=[1e-4,1e-5] for a list, or add -m to sweep over them",
    "optimizer.lr=[1": "cannot be read as key=value",
    "seed=-1": "seed=-1 must be a whole number from 0",
    "seed=abc": "seed=abc must be a whole number from 0",
    "compile=yes_please": "compile=yes_please must be true or false",
    "trainer.devices=two": "trainer.devices=two must be auto, a number of devices",
    "trainer.devices=0": "trainer.devices=0 must be auto, a number of devices",
    "trainer.num_nodes=0": "trainer.num_nodes=0 must be a whole number of 1 or more",
    "trainer.max_steps=0": "trainer.max_steps=0 must be a number of steps of 1 or more, or -1",
    "trainer.accumulate_grad_batches=0": "trainer.accumulate_grad_batches=0 must be a whole number of 1 or more",
    "trainer.gradient_clip_val=-1": "trainer.gradient_clip_val=-1 must be a number of 0 or more, or null",
    "trainer.val_check_interval=0": "must be a number of batches of 1 or more",
    "trainer.log_every_n_steps=often": "must be a whole number of 0 or more",
    "name=''": "must be a name for a folder",
    "precision=fp8": "precision=fp8 must be one of 32, bf16-mixed, 16-mixed",
    "export ckpt=x wise_ft=half": "wise_ft=half must be from 0",
    "export ckpt=x wise_ft=1.5": "wise_ft=1.5 must be from 0",
    "export ckpt=x to=tf": "to=tf must be one of open_clip",
    "~objective=-1": "Config group override deletion value must be a string",
    "study n_jobs=0": "n_jobs=0 must be a number of jobs",
    "study shares=[2]": "must be a list of numbers from 0 to 1",
    "study replot=nothing.json": "replot=nothing.json is not the study.json of an earlier study",
    "optimizer._target_=os.system": "optimizer._target_=os.system is not allowed",
    "optimizer._target_=degla.training.optim.adam": "did you mean degla.training.optim.adamw?",
    "data=none": "data=none leaves nothing to build",
}
PROGRAMS = ("evaluate", "export", "negatives", "study")


@pytest.fixture
def degla(tmp_path, monkeypatch, capsys):
    """Run a program in this process, which ends before anything is loaded; its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*arguments):
        program, arguments = (arguments[0], arguments[1:]) if arguments[0] in PROGRAMS else ("train", arguments)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", [f"degla-{program}", *arguments])
        with pytest.raises(SystemExit) as stop:
            importlib.import_module(f"degla.{program}").main()
        return stop.value.code, *capsys.readouterr()

    yield run
    logging.root.handlers[:], logging.root.level = handlers, level  # Hydra has replaced them


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_sentence_with_the_right_hint(degla, mistake):
    code, out, err = degla(*mistake.split(" "))
    printed = [line for line in [*out.splitlines(), *err.splitlines()] if "Seed set to" not in line]
    assert code == 2 and len(printed) == 1, printed
    line = printed[0]
    assert line.startswith("error: ") and MISTAKES[mistake] in line, line


def test_a_file_where_a_folder_is_expected(degla, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/captions.csv").write_text("image,caption\n1.jpg,a dog\n")
    _, _, err = degla("data.path=x/captions.csv")
    assert "data.path: x/captions.csv is a CSV table of captions; set data=folder data.path=x data.annotations=" in err
    _, _, err = degla("data.path=y/captions.csv")
    assert "data.path: there is no folder y/captions.csv" in err


def test_every_hint_of_a_key_exists_in_its_program(degla):
    """The hint, followed, composes: no key of another program is named."""
    for mistake, message in MISTAKES.items():
        if hint := re.search(r"did you mean ([\w.]+)\?", message):
            program, *_ = mistake.split(" ") if mistake.split(" ")[0] in PROGRAMS else ["train"]
            command = [sys.executable, "-m", f"degla.{program}"]
            assert hint.group(1) in _keys(program) or "_target_" in mistake, (command, hint.group(1))


def _keys(program):
    from degla.cli.keys import composed_keys

    return composed_keys(program, [])


def run(*arguments, program="train", **options):
    return subprocess.run([sys.executable, "-m", f"degla.{program}", *arguments], capture_output=True, text=True,
                          **options)  # fmt: skip


def test_a_traceback_where_it_is_wanted(tmp_path):
    result = run("seed=-1", cwd=tmp_path, env={**os.environ, "HYDRA_FULL_ERROR": "1"})
    assert result.returncode == 1 and "Traceback" in result.stderr and "seed=-1 must be" in result.stderr


def test_version_names_what_decides_a_result(tmp_path):
    result = run("--version", program="evaluate", cwd=tmp_path)
    lines = dict(re.split(r"\s{2,}|(?<=torch) ", line, maxsplit=1) for line in result.stdout.splitlines())
    assert result.returncode == 0 and list(lines) == [
        *("degla", "torch", "lightning", "open_clip_torch", "python", "device")
    ]  # fmt: skip
    assert lines["python"] == ".".join(map(str, sys.version_info[:3]))


def test_help_into_a_pipe_that_closes(tmp_path):
    """`--help | head -1`: no BrokenPipeError, whether it is raised or comes when the interpreter flushes."""
    command = f"{sys.executable} -u -m degla.train --help | true; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert "BrokenPipe" not in result.stderr and result.stderr.strip() == "" and result.stdout.strip() in ("0", "141")


@pytest.mark.parametrize(
    ("program", "groups", "others"),
    [
        ("train", ["objective", "data", "sweep"], ["negatives"]),
        ("evaluate", ["model", "benchmark"], ["optimizer", "experiment", "negatives"]),
        ("negatives", ["negatives"], ["model", "benchmark", "data"]),
        ("export", ["model"], ["benchmark", "data", "trainer"]),
    ],
)
def test_help_lists_the_programs_own_groups(tmp_path, program, groups, others):
    text = run("--help", program=program, cwd=tmp_path).stdout
    listed = text.partition("== Groups")[2].partition("== Settings")[0]
    names = {line.split()[0] for line in listed.splitlines()[1:] if line.strip()}
    assert names >= set(groups) and not names & set(others)

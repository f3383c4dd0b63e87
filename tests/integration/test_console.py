"""What a run prints: in a file, and in a real pseudo-terminal."""

import os
import pty
import re
import select
import sys
import time

import pytest

from tests.conftest import TINY, degla
from tests.helpers.forked import fork_server

pytestmark = pytest.mark.slow

NOISE = (
    *("GPU available", "TPU", "Generating train split", "Total length of", "Seed set", "0it [", "litlogger"),
    *("Trainer.fit", "[INFO]", "Restoring states", "LOCAL_RANK"),
)


def arguments(photos, *more):
    shown = [item for item in TINY if not item.startswith("callbacks.progress_bar")]
    return [
        *shown,
        f"data.path={photos}",
        "loader.global_batch_size=4",
        "loader.epochs=4",
        "callbacks.export=null",
        *more,
    ]


def assert_quiet(output):
    for noise in NOISE:
        assert noise not in output, output


def test_in_a_file(photo_folder, tmp_path):
    result = degla(*arguments(photo_folder, "loader.val_fraction=0.3"), cwd=tmp_path)
    output = result.stdout + result.stderr
    assert_quiet(output)
    assert "\x1b[" not in output and "\r" not in output  # neither colours nor redrawing
    opening = r"model +degla-tiny, random weights, 7.6 M parameters, all trained\nobjective +contrastive 1, .*EMA"
    assert re.search(opening, output), output
    assert re.search(r"data +\d+ samples, 100 % with hard negatives; \d+ to validate on", output)
    assert re.search(r"length +(\d+) steps of 4 samples, 4 passes over the data\ndevice +CPU, precision 32", output)
    steps = re.search(r"(\d+) steps of", output).group(1)
    assert re.search(rf"step {steps}/{steps}  loss \d+\.\d+  \d+ samples/s", output)
    headlines = re.findall(r"^(\S+) +\d+\.\d +\d+\.\d +[+-]\d+\.\d$", output, re.MULTILINE)
    assert headlines == [
        "caption_choice",
        "image_to_text_r@1",
        "image_to_text_r@5",
        "text_to_image_r@1",
        "text_to_image_r@5",
    ]
    assert "report       " in output and "tensorboard --logdir" in output
    assert len(output.splitlines()) < 25, output


def become_degla(terminal, cwd, arguments):
    os.setsid()
    for number in (0, 1, 2):
        os.dup2(os.open(terminal, os.O_RDWR), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.environ |= {"TERM": "xterm-256color", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    os.chdir(cwd)
    sys.argv = ["degla-train", *arguments]
    from degla.train import main

    main()


def run_in_terminal(cwd, arguments):
    """Return what a run writes to a pseudo-terminal."""
    master, slave = pty.openpty()
    job = fork_server.Process(target=become_degla, args=(os.ttyname(slave), str(cwd), arguments))
    job.start()
    output, deadline = b"", time.monotonic() + 240
    while time.monotonic() < deadline and (job.is_alive() or select.select([master], [], [], 0)[0]):
        if select.select([master], [], [], 0.2)[0]:
            output += os.read(master, 65536)
    job.join(10)
    text = output.decode()
    assert job.exitcode == 0, text
    os.close(slave)
    return text


def without_escapes(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_in_a_terminal(photo_folder, tmp_path):
    text = run_in_terminal(tmp_path, arguments(photo_folder, "callbacks.progress_bar.refresh_rate=1"))
    plain = without_escapes(text)
    assert_quiet(plain)
    assert "\x1b[?25l" in text and "\x1b[?25h" in text  # the cursor is hidden while the bar is live, and given back
    frames = re.findall(r"Training .*? (\d+)/24 +loss \d+\.\d+  \d+ samples/s", plain)
    assert len(set(frames)) > 2 and frames[-1] == "24", plain
    assert len(re.findall("model +degla-tiny", plain)) == 1


def test_validation_and_benchmarks_in_a_terminal(photo_folder, tmp_path):
    """The bar says what the run does, before the first step and after the last too; a long run says how long it is."""
    more = arguments(
        photo_folder,
        *("loader.epochs=30", "trainer.max_steps=60", "loader.val_fraction=0.3", "trainer.val_check_interval=30"),
        *("benchmark=scenes", "benchmark.scenes.num_items=4"),
    )
    plain = without_escapes(run_in_terminal(tmp_path, more))
    assert_quiet(plain)
    activities = re.findall(r"(Training|Evaluating|Validating \d+/\d+) ", plain)
    assert {"Training", "Evaluating", "Validating 1/1"} <= set(activities), plain
    assert activities.index("Validating 1/1") < activities.index("Evaluating")  # validation is first at step 0
    after_the_last_step = plain[plain.rindex(" 60/60 ", 0, plain.rindex("Evaluating")) :]
    assert "Evaluating" in after_the_last_step
    assert len(re.findall(r"time        about \d+ (s|min) left, without validation and benchmarks", plain)) == 1, plain

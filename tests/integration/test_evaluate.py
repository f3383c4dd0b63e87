"""``python -m degla.evaluate`` as a user runs it."""

import json
import os
import signal
import subprocess
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from degla.artifacts import read_metrics
from tests.conftest import degla
from tests.helpers.benchmarks import sugarcrepe
from tests.helpers.forked import forked_python

SUBSETS = ["swap_obj", "swap_att"]
SMALL = ["model=scenes", "benchmark=sugarcrepe", "benchmark.sugarcrepe.subsets=[swap_obj,swap_att]", "num_workers=0"]


def evaluate(*arguments, cwd, check=True, **environment):
    return degla(*arguments, cwd=cwd, check=check, program="evaluate", COLUMNS="200", **environment)


def results(cwd):
    """The newest."""
    path = max(cwd.glob("runs/evaluate/*/results.json"), key=lambda path: path.stat().st_mtime)
    return path.parent, json.loads(path.read_text())


@pytest.fixture
def data(tmp_path):
    sugarcrepe(tmp_path / "data", SUBSETS, count=40)
    return tmp_path


def test_a_model_beside_its_base(data):
    base = data / "base"
    evaluate(*SMALL, "model.pretrained=null", "label=random", f"run_dir={base}", cwd=data)
    first = json.loads((base / "results.json").read_text())
    output = evaluate(*SMALL, f"compare=[{base}]", cwd=data).stdout
    folder, second = results(data)
    assert second["label"] == "degla-scenes plain_clip" and "random" in output and "DeGLA (degla)" in output
    scored = second["benchmarks"]["sugarcrepe"]
    assert scored["subsets"]["swap_obj"]["num_items"] == 39 and scored["protocol"]["ties"] == "lost"
    assert scored["fingerprint"] == first["benchmarks"]["sugarcrepe"]["fingerprint"]
    assert set(scored["means"]) == {"swap", "average", "micro"}
    assert 0 <= scored["subsets"]["swap_obj"]["blind"] <= 1
    assert first["model"]["fingerprint"] != second["model"]["fingerprint"]
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "explorer.html", "items.parquet", "report.html", "report.md", "results.json"} <= names
    again = evaluate(*SMALL, f"compare=[{base}]", cwd=data)
    assert results(data)[1]["made"]["encoded"] == {"images": 0, "texts": 0} and "Encoding" not in again.stderr
    evaluate(*SMALL, f"compare=[{base},{folder}]", "report_only=true", "run_dir=report", cwd=data)
    assert (data / "report" / "report.md").read_text() == (folder / "report.md").read_text()
    taken = evaluate(*SMALL, f"run_dir={base}", cwd=data, check=False)
    assert taken.returncode == 2 and "holds results already: choose another" in taken.stderr


@pytest.mark.slow
def test_two_ranks_give_the_json_of_one(data):
    evaluate(*SMALL, "batch_size=8", cwd=data)
    one = results(data)[1]
    torchrun = [forked_python(), "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = [*torchrun, "-m", "degla.evaluate", *SMALL, "batch_size=8", "cache_dir=elsewhere"]
    subprocess.run(command, cwd=data, check=True, capture_output=True, timeout=300)
    two = results(data)[1]
    assert two["benchmarks"] == one["benchmarks"] and two["model"] == one["model"]
    assert sum(two["made"]["encoded"].values()) < sum(one["made"]["encoded"].values())


def test_bad_images_are_named_and_the_score_says_how_many_items_it_covers(data):
    (data / "data/coco/val2017/000000000001.jpg").write_bytes(b"no image")
    (data / "data/coco/val2017/000000000003.jpg").unlink()
    result = evaluate(*SMALL, "max_missing=0.5", cwd=data)
    folder, found = results(data)
    scored = found["benchmarks"]["sugarcrepe"]
    assert scored["num_left_out"] == 2 and scored["subsets"]["swap_att"]["num_items"] == 19
    assert scored["protocol"]["num_items"] == {"swap_obj": 19, "swap_att": 19}
    reasons = {os.path.basename(problem["row"]): problem["reason"] for problem in scored["problems"]}  # noqa: PTH119
    assert reasons["000000000001.jpg"] == "not an image" and reasons["000000000003.jpg"].startswith("no such file")
    assert "left out: " in (folder / "evaluate.log").read_text() + result.stdout + result.stderr
    stopped = evaluate(*SMALL, "max_missing=0.5", "on_bad_image=stop", cwd=data, check=False)
    assert stopped.returncode == 2 and "and 1 more; on_bad_image=skip leaves them out" in stopped.stderr


def test_without_any_image_there_is_no_result(data):
    for image in (data / "data/coco/val2017").iterdir():
        image.unlink()
    failed = evaluate(*SMALL, "max_missing=1", cwd=data, check=False)
    assert failed.returncode == 2 and "none of its 4 images can be read" in failed.stderr
    assert "cocodataset.org" in failed.stderr and "leave sugarcrepe out of benchmark=[...]" in failed.stderr
    assert not [path for path in data.rglob("*") if path.name in ("results.json", "items.parquet", "report.html")]


def test_missing_images_are_an_error_unless_the_key_allows_them(data):
    (data / "data/coco/val2017/000000000003.jpg").unlink()
    failed = evaluate(*SMALL, cwd=data, check=False)
    first = "1 of its 4 images cannot be read, the first is data/coco/val2017/000000000003.jpg (no such file)"
    assert failed.returncode == 2 and first in failed.stderr and "max_missing=0.25" in failed.stderr
    (data / "data/coco/val2017/000000000003.jpg").write_bytes(b"no image")
    failed = evaluate(*SMALL, cwd=data, check=False)
    assert failed.returncode == 2 and "000000000003.jpg (not an image)" in failed.stderr
    assert not list(data.glob("runs/evaluate/*/results.json"))
    evaluate(*SMALL, "max_missing=0.25", cwd=data)
    assert results(data)[1]["benchmarks"]["sugarcrepe"]["num_left_out"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=scenes", "benchmark=aro"], "benchmark.aro: there is no file data/aro/visual_genome_relation.json"),
        (["model=scenes", "benchmark=sugarcrape"], "did you mean benchmark=sugarcrepe"),
        (["model=scenes", "benchmark=scenes", "benchmark.scenes.split=train"], "split=train must be one of"),
        (["model=scenes", "benchmark=scenes", "compare=[nowhere]"], "there is no nowhere/results.json"),
        (["model=scenes", "benchmark=scenes", "report_only=true"], "set compare="),
        (["model=scenes", "benchmark=own"], "benchmark.own.path is not set"),
        (["model=scenes", "benchmark=none"], "benchmark=none measures nothing"),
        (["on_bad_image=stpo"], "on_bad_image must be 'skip' or 'stop', not 'stpo'"),
        (["max_missing=2"], "max_missing must be less than or equal to 1, not 2"),
        (["device=gpu"], "device must be auto, cpu, cuda or cuda:<number>, not 'gpu'"),
        (["batch_size=0"], "batch_size must be greater than or equal to 1, not 0"),
        (["precision=16"], "precision must be '32', 'bf16-mixed' or '16-mixed', not '16'"),
        (["compare=runs/evaluate/x"], "compare must be a valid list"),
    ],
)
def test_mistakes_end_in_one_sentence(tmp_path, arguments, message):
    result = evaluate(*arguments, cwd=tmp_path, check=False)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]


def test_doctor(data):
    (data / "data/coco/val2017/000000000003.jpg").unlink()
    output = evaluate("model=scenes", "benchmark=[sugarcrepe,aro,scenes]", "doctor=true", cwd=data).stdout
    lines = {line.split()[0]: line for line in output.splitlines()}
    assert "78, 5 of 7 parts missing" in lines["sugarcrepe"] and "6 of 8" in lines["sugarcrepe"]
    assert "sugarcrepe/add_att.json" in lines["sugarcrepe"] and "github.com/RAIVNLab/sugar-crepe" in lines["sugarcrepe"]
    assert "github.com/mertyg/vision-language-models-are-bows" in lines["aro"]
    assert lines["scenes"].endswith("ready")
    short = evaluate(*SMALL, "doctor=true", cwd=data).stdout
    assert "000000000003.jpg is missing; captions: github.com" in short
    (data / "data/coco/val2017/000000000003.jpg").write_bytes(b"an image")
    whole = evaluate(*SMALL, "doctor=true", cwd=data).stdout
    assert "not the published items: swap_obj 39 of 245, swap_att 39 of 666" in whole
    everything = evaluate("model=scenes", "benchmark=all", "doctor=true", cwd=data).stdout.splitlines()
    assert len(everything) == len({line.split()[0] for line in everything}) == 14  # the heads, and a line a benchmark
    assert not list(data.glob("runs/evaluate/*/results.json"))


@pytest.mark.slow
def test_a_killed_evaluation_resumes(data):
    """Killed while it encodes: what was kept is not encoded again."""
    sugarcrepe(data / "data", SUBSETS, count=4000)
    command = [forked_python(), "-m", "degla.evaluate", *SMALL, "batch_size=16"]
    with (data / "log").open("w") as log:
        job = subprocess.Popen(command, cwd=data, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        deadline = time.monotonic() + 120
        while not list(data.glob("runs/features/*/texts-*")) and time.monotonic() < deadline:
            time.sleep(0.005)
        job.send_signal(signal.SIGKILL)
        job.wait()
    assert not list(data.glob("runs/evaluate/*/results.json")), "it was too quick to be killed"
    evaluate(*SMALL, "batch_size=16", cwd=data)
    found = results(data)[1]
    assert found["made"]["encoded"]["images"] == 0
    assert 0 < found["made"]["encoded"]["texts"] <= 15_996 - 2048
    assert found["benchmarks"]["sugarcrepe"]["subsets"]["swap_obj"]["num_items"] == 3999


def test_benchmarks_during_a_run(data, photo_folder):
    """The same tasks, any subset, every so many steps, in TensorBoard and in metrics.csv."""
    degla("model=tiny", f"data.path={photo_folder}", "loader.global_batch_size=4", "loader.num_workers=0",
          "loader.epochs=1", "trainer.max_steps=4", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1",
          "callbacks.progress_bar=null", "callbacks.evaluate.every_n_steps=2", "benchmark=sugarcrepe",
          "benchmark.sugarcrepe.subsets=[swap_obj]", cwd=data)  # fmt: skip
    (folder,) = data.glob("runs/train/*")
    metrics = read_metrics(folder / "metrics.csv")
    assert list(metrics["eval/sugarcrepe/swap_obj"]) == [0, 2, 4]
    assert all(0 <= value <= 1 for value in metrics["eval_mean/overall"].values())
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("eval/sugarcrepe/swap_obj")] == [0, 2, 4]

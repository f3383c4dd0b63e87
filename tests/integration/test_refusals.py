"""A mistake on the command line: exit code 2, one sentence with the fix, no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import degla.training.build
from degla.training.fit import advice_for
from tests.conftest import TINY, degla
from tests.helpers.forked import degla_forked

FSDP2 = ["strategy=fsdp2", "trainer.devices=2"]
CASES = {
    # wrong keys
    "key": (["optimizer.lrr=1"], "did you mean optimizer.lr"),
    "key of another project": (["trainer.max_epochs=3"], "did you mean loader.epochs"),
    "top-level key": (["sed=1"], "did you mean seed"),
    "added key": (["+optimizer.momentum=1"], "there is no config key 'optimizer.momentum'"),
    "key of another choice": (["data.num_scenes=3"], "choose data=scenes, which has it"),
    # wrong groups and options
    "option": (["model=vit_b32"], "there is no model=vit_b32: did you mean model=vit_b_32?"),
    "experiment": (["experiment=vit32"], "did you mean experiment=vitb32"),
    "precision": (["precision=bf17"], "precision=bf17 must be one of 32, bf16-mixed, 16-mixed"),
    "group": (["modle=tiny"], "modle"),
    "syntax": (["optimizer.lr="], "optimizer.lr"),
    "unparsable": (["optimizer.lr=[1"], "optimizer.lr"),
    # wrong values
    "number": (["optimizer.lr=fast"], "optimizer.lr='fast' must be a number"),
    "negative rate": (["optimizer.lr=-1"], "optimizer.lr=-1 must be a number of 0 or more"),
    "whole number": (["loader.num_negatives=2.5"], "loader.num_negatives=2.5 must be a whole number"),
    "choice": (["loader.negatives=all"], "loader.negatives=all must be one of first, random, one_per_type"),
    "decay": (["teacher.decay=1.5"], "teacher=frozen for a fixed teacher"),
    "no such model": (["model.name=ViT-B-33"], "did you mean ViT-B-32"),
    "checkpoint": (["ckpt_path=no.ckpt"], "ckpt_path: there is no file no.ckpt"),
    "accelerator": (["trainer.accelerator=tpuu"], "trainer: "),
    "target": (["optimizer._target_=os.system"], "optimizer._target_=os.system is not allowed"),
    "target by way of ours": (
        ["data._target_=degla.train.os.system"],
        "data._target_=degla.train.os.system is not allowed: it is neither a constructor of this package",
    ),
    # impossible together
    "distillation without teacher": (["teacher=none"], "tgc and distill need a teacher: set teacher=ema"),
    "IGC without negatives": (
        ["objective.contrastive=0", "objective.tgc=0", "objective.distill=0", "loader.num_negatives=0"],
        "igc alone learn nothing without negatives: set loader.num_negatives",
    ),
    "no term": (["objective=clip", "objective.contrastive=0"], "every weight of the objective is 0"),
    "fp16 on a CPU": (["precision=16-mixed"], "precision=16-mixed needs a GPU"),
    "fp16 sharded": (["precision=16-mixed", *FSDP2], "set precision=bf16-mixed"),
    "fused, clipped fp16": (
        ["precision=16-mixed", "trainer.accelerator=gpu", "trainer.gradient_clip_val=1"],
        "set optimizer.fused=false",
    ),
    "TF32": (["float32_matmul=tf32"], "float32_matmul=tf32 must be one of highest, high, medium"),
    "chunks": (["loader.chunk_size=0"], "loader.chunk_size"),
    "chunks sharded": (["loader.chunk_size=2", *FSDP2], "loader.chunk_size does not work with strategy=fsdp2"),
    "kept texts sharded": (
        ["teacher=frozen", "teacher.text_cache=texts", *FSDP2],
        "teacher.text_cache does not work with strategy=fsdp2",
    ),
    "kept texts of a moving teacher": (["teacher.text_cache=texts"], "teacher.text_cache is for teacher=frozen"),
    "sharded alone": (["strategy=fsdp2"], "strategy=fsdp2 needs at least 2 processes"),
    "stream without end": (["data=hub_stream"], "data.path is not set"),
    "ragged rows": (
        ["objective=degla_released", "loader.num_negatives=7"],
        "use objective=degla for samples with fewer",
    ),
    "batch": (["loader.global_batch_size=1000"], "loader.global_batch_size=1000"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_no_traceback(photo_folder, tmp_path, case):
    arguments, message = CASES[case]
    path = [] if case == "stream without end" else [f"data.path={photo_folder}", "loader.global_batch_size=4"]
    result = degla_forked(*TINY, *path, *arguments, cwd=tmp_path)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 2, result.stderr[-2000:]
    assert "Traceback" not in result.stderr + result.stdout and "Error executing job" not in result.stderr
    assert len(errors) == 1 and any(option in errors[0] for option in message.split("|")), errors


def test_the_papers_recipe_names_what_is_missing(tmp_path):
    result = degla("experiment=vitb32", "precision=32", cwd=tmp_path, check=False)  # once as a user starts it
    assert result.returncode == 2
    assert "set data.annotations=" in result.stderr and "huggingface.co/datasets/wsdwJohn1231/DeGLA" in result.stderr
    (tmp_path / "train2014").mkdir()
    (tmp_path / "neg.json").write_text('[{"image_id": 9, "original": "a", "enhanced": ["b"]}]')
    result = degla_forked("experiment=vitb32", "precision=32", "data.annotations=neg.json", cwd=tmp_path)
    assert "set data.image_root=" in result.stderr and "cocodataset.org" in result.stderr
    arguments = ["experiment=vitb32", "precision=32", "data.annotations=neg.json", "data.image_root=train2014"]
    result = degla_forked(*arguments, f"model.cache_dir={tmp_path}", cwd=tmp_path)
    assert "set model.pretrained=/path" in result.stderr and "huggingface.co/timm" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_refused_run_leaves_no_run_behind(photo_folder, tmp_path):
    degla_forked(*TINY, f"data.path={photo_folder}", "teacher=none", cwd=tmp_path)
    assert not list(tmp_path.glob("runs/*/*/checkpoints"))


def test_a_folder_that_holds_a_run_is_not_written_over(photo_folder, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/config.yaml").write_text("name: old")
    result = degla_forked(
        *TINY, f"data.path={photo_folder}", "loader.global_batch_size=4", "hydra.run.dir=old", cwd=tmp_path
    )
    assert result.returncode == 2 and "old holds a run already; set ckpt_path=last" in result.stderr
    assert (tmp_path / "old/config.yaml").read_text() == "name: old"


def test_torchruns_restarts_need_a_store_of_their_own(tmp_path):
    result = degla_forked(*TINY, cwd=tmp_path, TORCHELASTIC_MAX_RESTARTS="2", TORCHELASTIC_USE_AGENT_STORE="True")
    assert result.returncode == 2 and "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in result.stderr
    result = degla_forked(*TINY, cwd=tmp_path, TORCHELASTIC_MAX_RESTARTS="0", TORCHELASTIC_USE_AGENT_STORE="True")
    assert "TORCH_DISABLE" not in result.stderr


def test_what_to_do_where_the_machine_is_full():
    with pytest.raises(RuntimeError) as memory:
        torch.empty(2**60)
    assert "loader.chunk_size" in advice_for(memory.value)
    assert "loader.chunk_size" in advice_for(torch.OutOfMemoryError())
    with pytest.raises(OSError) as disk, Path("/dev/full").open("w") as full:
        full.write("x" * 100_000)
    assert advice_for(disk.value).startswith("the disk is full")
    assert advice_for(ValueError("another")) == ""


def test_help_and_completion_do_not_wait_for_torch():
    code = "import sys, degla.train; sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    command = "from degla.train import main; import sys; sys.argv = ['degla-train', '--help']\n"
    command += "try: main()\nfinally: assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert result.returncode == 0 and "ckpt_path=last" in result.stdout

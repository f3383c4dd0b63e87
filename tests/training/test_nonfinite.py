"""Steps whose loss or gradient is not finite: the run stops, or skips them, and no weight changes."""

import copy

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from degla.errors import NonFiniteError
from degla.training.build import build
from tests.configs.test_configs import tiny
from tests.conftest import make_photo_folder


class Corrupt(Callback):
    """Puts infinity into one gradient at some steps, and keeps the state before each step."""

    def __init__(self, *steps: int, keeps: bool = True):
        self.steps = steps
        self.keeps = keeps
        self.before: list[dict] = []

    def on_after_backward(self, trainer, pl_module) -> None:
        if self.keeps:
            state = [pl_module.state_dict(), *(o.state_dict()["state"] for o in trainer.optimizers)]
            self.before.append(copy.deepcopy(state))
        if trainer.global_step in self.steps:
            pl_module.student.clip.visual.transformer.resblocks[0].ln_1.bias.grad[3] = float("inf")


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.fixture
def photos(tmp_path):
    return make_photo_folder(tmp_path / "photos")


def started(photos, tmp_path, *overrides, steps=()):
    run = build(tiny(photos, str(tmp_path / "run"), "trainer.max_steps=5", "scheduler.warmup_steps=0", *overrides))
    corrupt = Corrupt(*steps, keeps=len(steps) == 1)
    run.trainer.callbacks.append(corrupt)
    return run, corrupt


@pytest.mark.parametrize("more", [["trainer.gradient_clip_val=1"], ["optimizer.fused=false"]], ids=" ".join)
def test_a_skipped_step_moves_nothing(photos, tmp_path, caplog, more):
    run, corrupt = started(photos, tmp_path, "non_finite=skip", *more, steps=[2])
    run.trainer.fit(run.module, run.datamodule)
    assert run.trainer.global_step == 5 and run.module.guard.num_skipped == 1
    unmoved = [same(corrupt.before[i], corrupt.before[i + 1]) for i in range(4)]
    assert unmoved == [False, False, True, False]  # weights, moments and teacher
    assert "the gradient is not finite at step 2 (contrastive" in caplog.text and "no sample by itself" in caplog.text
    assert all(value.isfinite().all() for value in run.module.state_dict().values())


def test_stop_is_the_default_and_says_which_step(photos, tmp_path):
    run, _ = started(photos, tmp_path, steps=[3])
    with pytest.raises(NonFiniteError, match=r"the gradient is not finite at step 3 .* non_finite=skip"):
        run.trainer.fit(run.module, run.datamodule)


def test_under_a_scaler_the_loss_alone_decides(photos, tmp_path):
    run, _ = started(photos, tmp_path)
    guard, student = run.module.guard, run.module.student
    student.clip.logit_scale.grad = torch.full_like(student.clip.logit_scale, float("inf"))
    for value, stops in ((1.0, False), (float("nan"), True)):
        guard.record_loss(next(iter(run.datamodule.train_dataloader())), ["contrastive"], torch.tensor([value]))
        if stops:
            with pytest.raises(
                NonFiniteError, match=r"the loss is not finite at step 7 \(contrastive nan; no sample by itself"
            ):
                guard.check(7, scaled=True)
        else:
            guard.check(7, scaled=True)
    assert not guard._window and student.clip.logit_scale.grad is not None


def test_too_many_skipped_steps_stop_the_run(photos, tmp_path):
    run, _ = started(
        photos, tmp_path, "non_finite=skip", "trainer.max_steps=40", "loader.epochs=20", steps=range(1, 40)
    )
    with pytest.raises(NonFiniteError, match=r"at step 21 .*after 20 skipped steps"):
        run.trainer.fit(run.module, run.datamodule)


def test_the_sample_is_named(photos, tmp_path):
    """The embedding of a word that one caption uses is nan, as in weights from a damaged file."""
    folder = make_photo_folder(tmp_path / "odd")
    captions = folder / "captions.jsonl"
    lines = captions.read_text().splitlines()
    lines[6] = lines[6].replace('"caption": "', '"caption": "xylophone ')
    captions.write_text("\n".join(lines) + "\n")
    run, _ = started(folder, tmp_path, "loader.val_fraction=0", "loader.epochs=9", "trainer.max_steps=30")
    word = run.module.student.tokenizer(["xylophone"])[0, 1]
    with torch.no_grad():
        run.module.student.clip.token_embedding.weight[word] = float("nan")
    with pytest.raises(
        NonFiniteError, match=r"the loss is not finite at step \d+ \(contrastive nan.*; samples captions.jsonl:7\)"
    ):
        run.trainer.fit(run.module, run.datamodule)

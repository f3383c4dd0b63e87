"""Steps whose loss or gradient is not finite: the run stops, or skips them, and no weight changes."""

import copy

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from degla.artifacts import read_metrics
from degla.compat.torch import TorchDispatchMode
from degla.errors import NonFiniteError
from degla.models import load_clip
from degla.training import nonfinite
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


def defer(monkeypatch) -> None:
    """Read verdicts one step later, as on a GPU; the CPU's fused optimizer can skip a step, too."""
    monkeypatch.setattr(nonfinite, "_DEFERRING_DEVICES", ("cpu",))


def started(photos, tmp_path, *overrides, steps=()):
    run = build(tiny(photos, str(tmp_path / "run"), "trainer.max_steps=5", "scheduler.warmup_steps=0", *overrides))
    corrupt = Corrupt(*steps, keeps=len(steps) == 1)
    run.trainer.callbacks.append(corrupt)
    return run, corrupt


@pytest.mark.parametrize(
    ("more", "deferred"),
    [("trainer.gradient_clip_val=1", False), ("trainer.gradient_clip_val=1", True), ("optimizer.fused=false", True)],
)
def test_a_skipped_step_moves_nothing(photos, tmp_path, caplog, monkeypatch, more, deferred):
    """An optimizer that is not fused cannot skip by itself, so its verdict is read at once."""
    if deferred:
        defer(monkeypatch)
    run, corrupt = started(photos, tmp_path, "non_finite=skip", more, steps=[2])
    run.trainer.fit(run.module, run.datamodule)
    assert run.trainer.global_step == 5 and run.module.guard.num_skipped == 1
    unmoved = [same(corrupt.before[i], corrupt.before[i + 1]) for i in range(4)]
    assert unmoved == [False, False, True, False]  # weights, moments and teacher
    assert "the gradient is not finite at step 2 (contrastive" in caplog.text and "no sample by itself" in caplog.text
    assert all(value.isfinite().all() for value in run.module.state_dict().values())
    logged = read_metrics(tmp_path / "run" / "metrics.csv")["train/skipped_steps"]
    assert list(logged.values()) == [0, 0, 1, 1, 1]


def test_stop_is_the_default_and_says_which_step(photos, tmp_path):
    run, _ = started(photos, tmp_path, steps=[3])
    with pytest.raises(NonFiniteError, match=r"the gradient is not finite at step 3 .* non_finite=skip"):
        run.trainer.fit(run.module, run.datamodule)


@pytest.mark.parametrize(("step", "saved"), [(1, []), (4, ["step-00000002", "step-00000004"])])
def test_a_deferred_verdict_is_read_before_anything_is_saved(photos, tmp_path, monkeypatch, step, saved):
    """After step 1 a checkpoint is due, and step 4 is the last."""
    defer(monkeypatch)
    run, corrupt = started(photos, tmp_path, "callbacks.checkpoint.every_n_steps=2", steps=[step])
    with pytest.raises(NonFiniteError, match=rf"the gradient is not finite at step {step} .* non_finite=skip"):
        run.trainer.fit(run.module, run.datamodule)
    assert sorted(path.stem for path in tmp_path.rglob("step-*.ckpt")) == saved
    state = [run.module.state_dict(), *(o.state_dict()["state"] for o in run.trainer.optimizers)]
    assert same(corrupt.before[step], state)


def test_too_many_deferred_skips_stop_the_run(monkeypatch):
    defer(monkeypatch)
    student = load_clip("degla-tiny")
    guard = nonfinite.NonFiniteGuard(student, skip=True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.1, fused=True)
    before = copy.deepcopy(student.state_dict())
    student.clip.logit_scale.grad = torch.full_like(student.clip.logit_scale, float("nan"))
    assert guard.can_defer(optimizer)
    for step in range(21):
        guard.read_verdict()
        guard.defer(step, optimizer)
        assert guard.skipped_steps() == step + 1
        optimizer.step()
        assert guard.take_flag(optimizer) == 1 and not hasattr(optimizer, "found_inf")
    with pytest.raises(NonFiniteError, match=r"the gradient is not finite at step 20 .*after 20 skipped steps"):
        guard.read_verdict()
    assert same(dict(student.state_dict()), dict(before))


class HostReads(TorchDispatchMode):
    """Lists the operations for which the host would wait for a GPU: values that it reads, or that it sends there."""

    WAITING = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "lift_fresh")

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        by_mask = name in ("index", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in self.WAITING or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class Listen(Callback):
    """Lists what the host reads in each step but the first, which creates the optimizer's state."""

    def __init__(self):
        self.reads: dict[int, list[str]] = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.mode = HostReads()
        self.mode.__enter__()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.mode.__exit__(None, None, None)
        if trainer.global_step > 1:
            self.reads[trainer.global_step] = self.mode.found


def test_a_deferred_step_reads_nothing_and_changes_no_weight(photos, tmp_path, monkeypatch):
    """A verdict that is read at once is the only value that the host reads in a step."""
    reads, states = {}, []
    for deferred in (False, True):
        if deferred:
            defer(monkeypatch)
        torch.manual_seed(0)
        run, corrupt = started(photos, tmp_path / str(deferred), "trainer.log_every_n_steps=100", "logger=csv")
        listen = Listen()
        run.trainer.callbacks = [listen, corrupt]
        run.trainer.fit(run.module, run.datamodule)
        reads[deferred] = listen.reads
        states.append(dict(run.module.state_dict()))
    assert same(*states)
    assert set(map(tuple, reads[False].values())) == {("_local_scalar_dense",)}
    assert set(map(tuple, reads[True].values())) == {()}


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

"""The LightningModule without a Trainer: what a step computes, and what it does not pay for."""

import torch

from degla.data.schema import Batch
from degla.losses import DeGLAObjective, Features
from degla.models import Teacher, load_clip
from degla.module import DeGLAModule, encode
from degla.optim import adamw, name_state, number_state


def batch(student, slots=2):
    captions = ["a dog on a mat", "two cats"]
    negatives = [["a mat on a dog", "a cat on a mat"], ["two dogs", ""]]
    tokens = student.tokenizer([*captions, *(text for row in negatives for text in row[:slots])])
    mask = torch.tensor([[True, True], [True, False]])[:, :slots]
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(images, tokens[:2], tokens[2:].reshape(2, slots, tokens.shape[1]), mask, [], [], [])


def module(objective, with_teacher=True):
    torch.manual_seed(0)
    student = load_clip("degla-tiny")
    teacher = Teacher(student) if with_teacher else None
    return DeGLAModule(student, objective, teacher, optimizer=adamw, scheduler=None)


def test_one_text_forward_a_model():
    m = module(DeGLAObjective())
    calls = []
    for name, model in (("student", m.student), ("teacher", m.teacher.model)):
        model.clip.transformer.register_forward_hook(
            lambda _, args, kwargs, out, name=name: calls.append((name, len(kwargs["attn_mask"].texts))),
            with_kwargs=True,
        )
    m.compute_losses(batch(m.student))
    assert calls == [("student", 6), ("teacher", 6)]


def test_no_teacher_forward_where_nothing_needs_it():
    m = module(DeGLAObjective(tgc=0, distill=0))
    m.teacher.forward = None  # calling it would fail
    assert set(m.compute_losses(batch(m.student)).terms) == {"contrastive", "igc"}


def test_an_objective_without_negatives_is_the_same_with_and_without():
    m = module(DeGLAObjective(igc=0, tgc=0, distill=0, image_sees_negatives=False), with_teacher=False)
    losses = [m.compute_losses(batch(m.student, slots)).total for slots in (0, 2)]
    torch.testing.assert_close(*losses)


def test_encode_keeps_the_axis_of_negatives():
    m = module(DeGLAObjective())
    data = batch(m.student)
    features = encode(m.student, data)
    assert isinstance(features, Features) and features.negatives.shape == (2, 2, 128)
    alone = m.student(data.images, data.negatives[1, :1])[1]
    torch.testing.assert_close(features.negatives[1, :1], alone, atol=1e-6, rtol=1e-5)


def test_gradient_reaches_the_student_and_not_the_teacher():
    m = module(DeGLAObjective())
    with torch.no_grad():
        m.student.clip.text_projection.mul_(1.1).add_(0.01)
    m.train()
    assert m.student.training and not m.teacher.training
    m.compute_losses(batch(m.student)).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in m.student.parameters())
    assert all(p.grad is None for p in m.teacher.parameters())


def test_a_skipped_fp16_step_moves_nothing():
    m = module(DeGLAObjective())
    optimizer = adamw(m.student, lr=1.0)
    optimizer.register_step_post_hook(m._after_optimizer_step)
    moves = []
    m.teacher.update = lambda student: moves.append(1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        loss = m.compute_losses(batch(m.student)).total * factor
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert len(moves) == 2


def test_logit_scale_is_clamped_after_a_step():
    m = module(DeGLAObjective())
    with torch.no_grad():
        m.student.clip.logit_scale.fill_(9.0)
    m._after_optimizer_step(torch.optim.SGD(m.student.parameters()), (), {})
    assert m.student.clip.logit_scale.exp().item() == 100.0 or abs(m.student.clip.logit_scale.exp().item() - 100) < 1e-3


def test_optimizer_state_by_name_and_back():
    m = module(DeGLAObjective())
    optimizer = adamw(m.student)
    m.compute_losses(batch(m.student)).total.backward()
    optimizer.step()
    names = m._optimizer_order()
    state = optimizer.state_dict()
    named = name_state(state, names)
    assert named["state"]["student.clip.visual.proj"]["exp_avg"].shape == m.student.clip.visual.proj.shape
    again = number_state(named, names)
    assert again["param_groups"] == state["param_groups"] and again["state"].keys() == state["state"].keys()

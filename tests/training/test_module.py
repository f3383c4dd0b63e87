"""The LightningModule without a Trainer: what a step computes, and what it does not compute."""

import numpy as np
import pytest
import torch

from degla.data.batch import Batch, Chunk
from degla.data.collate import Collate
from degla.data.text_features import TextFeatures
from degla.losses import Features, Objective
from degla.models import Teacher, load_clip
from degla.training.encoding import encode_batch
from degla.training.module import DeGLAModule
from degla.training.optim import adamw, name_state, number_state
from tests.helpers.objectives import clip, degla


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


def test_one_text_forward_per_model():
    m = module(degla())
    calls = []
    for name, model in (("student", m.student), ("teacher", m.teacher.model)):
        model.clip.transformer.register_forward_hook(
            lambda _, args, kwargs, out, name=name: calls.append((name, len(kwargs["attn_mask"].texts))),
            with_kwargs=True,
        )
    m.compute_losses(batch(m.student))
    assert calls == [("student", 6), ("teacher", 6)]


def test_no_teacher_forward_where_no_term_reads_the_teacher():
    m = module(degla(tgc=0, distill=0))
    m.teacher.forward = None  # calling it would fail
    assert set(m.compute_losses(batch(m.student)).terms) == {"contrastive", "igc"}


def test_an_objective_without_negatives_is_the_same_with_and_without():
    m = module(clip(), with_teacher=False)
    losses = [m.compute_losses(batch(m.student, slots)).total for slots in (0, 2)]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("in_chunks", [False, True])
def test_an_objective_without_negatives_encodes_none(in_chunks):
    """Also where the loader has loaded them, packed or not."""
    m = module(clip(), with_teacher=False)
    data, counts = batch(m.student), []
    if in_chunks:
        tokens = torch.cat([data.captions, *data.negatives])
        data = data._replace(chunks=[Chunk(0, 2, m.student.tokenizer.pack(tokens))])
    m.student.clip.transformer.register_forward_hook(
        lambda _, args, kwargs, out: counts.append(len(kwargs["attn_mask"].texts)), with_kwargs=True
    )
    m.compute_losses(data)
    assert len(data.captions) == 2 and counts == [2]


def test_encode_keeps_the_axis_of_negatives():
    m = module(degla())
    data = batch(m.student)
    features = encode_batch(m.student, data)
    assert isinstance(features, Features) and features.negatives.shape == (2, 2, 128)
    alone = m.student(data.images, data.negatives[1, :1])[1]
    torch.testing.assert_close(features.negatives[1, :1], alone, atol=1e-6, rtol=1e-5)


def test_gradient_reaches_the_student_and_not_the_teacher():
    m = module(degla())
    with torch.no_grad():
        m.student.clip.text_projection.mul_(1.1).add_(0.01)
    m.train()
    assert m.student.training and not m.teacher.training
    m.compute_losses(batch(m.student)).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in m.student.parameters())
    assert all(p.grad is None for p in m.teacher.parameters())


def test_a_skipped_fp16_step_moves_nothing():
    m = module(degla())
    optimizer = adamw(m.student, lr=1.0)
    optimizer.register_step_post_hook(m._after_optimizer_step)
    moves = []
    m.teacher.update = lambda student, skipped: moves.append(1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        loss = m.compute_losses(batch(m.student)).total * factor
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert len(moves) == 2


def test_logit_scale_is_clamped_after_a_step():
    m = module(degla())
    with torch.no_grad():
        m.student.clip.logit_scale.fill_(9.0)
    m._after_optimizer_step(torch.optim.SGD(m.student.parameters()), (), {})
    assert m.student.clip.logit_scale.exp().item() == 100.0 or abs(m.student.clip.logit_scale.exp().item() - 100) < 1e-3


def test_optimizer_state_by_name_and_back():
    m = module(degla())
    optimizer = adamw(m.student)
    m.compute_losses(batch(m.student)).total.backward()
    optimizer.step()
    names = m.trained_parameters()
    state = optimizer.state_dict()
    named = name_state(state, names)
    assert named["state"]["student.clip.visual.proj"]["exp_avg"].shape == m.student.clip.visual.proj.shape
    again = number_state(named, names)
    assert again["param_groups"] == state["param_groups"] and again["state"].keys() == state["state"].keys()


def chunked(data, student, size):
    """Return the batch as a loader with ``chunk_size`` makes it."""
    collate = Collate(None, student.tokenizer, 2, "first", chunk_size=size)
    return data._replace(chunks=collate.texts.chunks([data.captions[:, None], data.negatives], size))


def larger_batch(student):
    parts = [batch(student) for _ in range(3)]
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8, generator=generator)
    return Batch(images, *(torch.cat([part[i] for part in parts]) for i in (1, 2, 3)), [], [], [])


@pytest.mark.parametrize("size", [1, 4])
def test_a_batch_in_chunks_has_the_gradient_of_the_whole(size):
    m = module(degla(igc=1, tgc=1)).double()
    data = larger_batch(m.student)
    with torch.no_grad():
        m.student.clip.text_projection.mul_(1.1)
    results = []
    for chunks in (data, chunked(data, m.student, size)):
        m.zero_grad()
        loss = m.compute_losses(chunks).total
        loss.backward()
        results.append((loss.detach(), [p.grad.clone() for p in m.student.parameters()]))
    assert len(chunks.chunks) == -(-6 // size)
    torch.testing.assert_close(results[1][0], results[0][0])
    for mine, whole in zip(results[1][1], results[0][1], strict=True):  # features are float32
        torch.testing.assert_close(mine, whole, rtol=1e-4, atol=1e-6)


def test_only_one_chunk_of_activations_is_in_memory():
    m = module(degla(), with_teacher=True)
    data = larger_batch(m.student)
    held = []
    for chunks in (data, chunked(data, m.student, 1)):
        held.append(0)

        def count(x):
            held[-1] += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            m.compute_losses(chunks)
    assert held[1] < held[0] / 5


def test_stored_teacher_texts_are_not_encoded_again(tmp_path):
    m = module(degla(igc=1, tgc=1))
    m.teacher = Teacher(m.student, decay=None, text_cache=str(tmp_path))
    with torch.no_grad():
        m.student.clip.text_projection.mul_(1.1)
    m.teacher_texts = TextFeatures(tmp_path / "f32", 10, 128)
    numbers = np.array([[0, 1, 2], [3, 4, -1]])
    data = batch(m.student)._replace(text_numbers=numbers)
    first = m.compute_losses(data)
    assert m.teacher_texts.read(numbers) is None  # computing the loss writes nothing; the training step does
    m._store_teacher_texts(data, m._teacher_features(data))
    m.teacher.model.encode_text = None  # calling it would fail
    again = m.compute_losses(data._replace(teacher_texts=m.teacher_texts.read(numbers)))
    for name, term in first.terms.items():
        torch.testing.assert_close(again.terms[name], term)


def test_a_value_error_in_a_loss_stays_a_value_error():
    class Broken(Objective):
        def forward(self, student, teacher=None):
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        module(Broken({})).compute_losses(batch(load_clip("degla-tiny")))

"""The teacher gets no gradient, stays in eval mode, and follows the EMA rule."""

import pytest
import torch

from degla.errors import ConfigError
from degla.models import Teacher, load_clip


@pytest.fixture
def student():
    torch.manual_seed(0)
    return load_clip("degla-tiny")


def moved(student):
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)


def test_ema_rule_by_hand(student):
    teacher = Teacher(student, decay=0.9)
    start = {name: value.clone() for name, value in teacher.model.named_parameters()}
    moved(student)
    teacher.update(student)
    teacher.update(student)
    for name, value in teacher.model.named_parameters():
        # 1 away; after two steps the distance is 0.9 x 0.9.
        torch.testing.assert_close(value, start[name] + 1 - 0.81, atol=1e-5, rtol=1e-5)


def test_frozen_does_not_move(student):
    teacher = Teacher(student, decay=None)
    start = teacher.model.clip.visual.proj.clone()
    moved(student)
    teacher.update(student)
    assert torch.equal(teacher.model.clip.visual.proj, start)


def test_no_gradient_and_always_eval(student):
    teacher = Teacher(student).train()
    assert not teacher.training and not teacher.model.clip.visual.training
    image, text, scale = teacher(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), student.tokenizer(["a dog"]))[:3]
    assert not (image.requires_grad or text.requires_grad or scale.requires_grad)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_batch_norm_statistics_follow():
    student = load_clip("RN50")
    teacher = Teacher(student, decay=0.5)
    student.clip.visual.bn1.running_mean.fill_(3.0)
    teacher.update(student)
    assert torch.equal(teacher.model.clip.visual.bn1.running_mean, student.clip.visual.bn1.running_mean)


@pytest.mark.parametrize("decay", [1.0, -0.1, 2.0, float("nan")])
def test_decay_out_of_range(student, decay):
    with pytest.raises(ConfigError, match="teacher=frozen"):
        Teacher(student, decay)

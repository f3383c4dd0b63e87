"""The memory that a training step will need, computed before the first step by running one on tensors without data.

torch's ``FakeTensorMode`` computes shapes and types only, so the step of a large model takes a second and no memory.
The largest sum of the tensors that are alive at one time is the plan. It holds for any architecture, adapter, precision
and objective, which a formula for transformer blocks would not.
"""

import copy
import logging
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from degla.compat.torch import FakeTensorMode, TorchDispatchMode, tree_leaves
from degla.data.batch import Batch
from degla.losses import Objective
from degla.models import ClipModel
from degla.training.encoding import encode_batch, without_negatives
from degla.training.module import DeGLAModule

log = logging.getLogger(__name__)

AUTOCAST_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class MemoryPlan(NamedTuple):
    """Bytes of one process at the largest moment of a step; the sum of the fields is the peak."""

    weights: int
    teacher: int  # without weights that it shares with the student
    gradients: int  # those that exist at that moment
    optimizer: int  # state, such as AdamW's two moments
    activations: int  # everything else: what the backward pass needs, temporary tensors, the batch

    @property
    def total(self) -> int:
        """The peak in bytes."""
        return sum(self)


def plan_step(
    module: DeGLAModule,
    batch: Batch,
    precision: str = "32",
    keeps_gradients: bool = False,
    on_gpu: bool = False,
    adjust: Callable[[ClipModel], None] | None = None,
) -> MemoryPlan:
    """Return the memory of a training step after the first, which creates the optimizer's state.

    Args:
        module: the module of a run, on any device; it is not changed.
        batch: one process's samples, such as ``(B, 3, H, W)`` images.
        precision: of the run: 32, bf16-mixed or 16-mixed.
        keeps_gradients: whether gradients stay in memory during the forward pass and the backward pass adds to them,
            as with DDP's buckets and with accumulation. Otherwise Lightning frees them between the two passes.
        on_gpu: whether layer norms run in float32 under mixed precision, as on a GPU.
        adjust: changes the student before the step, such as by freezing a tower; the module's own is not changed.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        student, objective = _without_data(module, fake)
        if adjust is not None:
            adjust(student)
        if on_gpu and precision in AUTOCAST_DTYPES:
            _run_layer_norms_in_float32(student)
        live = LiveBytes(nn.ModuleList([student, objective]))
        with live:
            moved = _in_groups(batch).map_tensors(lambda tensor: torch.empty_like(fake.from_tensor(tensor)))
            trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
            if keeps_gradients:
                for parameter in trained:
                    parameter.grad = torch.zeros_like(parameter)
            before = live.now
            with torch.autocast("cpu", AUTOCAST_DTYPES.get(precision), enabled=precision in AUTOCAST_DTYPES):
                loss = _loss(student, objective, moved)
            forward = live.peak
            live.peak = live.now
            loss.backward()
            backward = live.peak
            del loss, moved
            optimizer, update = _optimizer_bytes(module.make_optimizer(student), live)
    gradients = sum(map(_bytes, trained))
    if not keeps_gradients:
        forward += gradients  # Lightning frees those of the last step after the forward pass
    peak = max(forward, backward, update)
    held = min(gradients, peak - before) if peak == backward and not keeps_gradients else gradients
    weights = sum(_bytes(tensor) for tensor in _tensors(module.student))
    both = nn.ModuleList([module.student, *([] if module.teacher is None else [module.teacher])])
    teacher = sum(_bytes(tensor) for tensor in _tensors(both)) - weights
    return MemoryPlan(weights, teacher, held, optimizer, peak - held)


def _in_groups(batch: Batch) -> Batch:
    """Return the batch without prefix trees, whose attention on the CPU needs masks that it does not need on a GPU."""
    packed = [chunk.packed for chunk in batch.chunks]
    chunks = [
        chunk._replace(packed=None if texts is None else texts._replace(tree=None))
        for chunk, texts in zip(batch.chunks, packed, strict=True)
    ]
    return batch._replace(chunks=chunks)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make while it is active, until they are freed.

    Args:
        module: its weights and buffers are not counted, nor are views of them.

    Attributes:
        now: bytes that are alive.
        peak: the largest value of ``now``; may be set to ``now`` to start again.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.now = 0
        self.peak = 0
        self._alive: dict[int, Any] = {id(s): s for s in (tensor.untyped_storage() for tensor in _tensors(module))}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the storages of its results that are new.

        Args:
            func: the operation.
            types: not used.
            args: its arguments.
            kwargs: its keyword arguments.
        """
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return
        self.now += size
        self.peak = max(self.peak, self.now)

        def remove(_: object) -> None:
            self.now -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, remove)


def _run_layer_norms_in_float32(student: ClipModel) -> None:
    """Make layer norms compute as under a GPU's autocast; a CPU's leaves them in half precision."""
    for module in student.modules():
        if isinstance(module, nn.LayerNorm):
            module.forward = partial(_normalize_in_float32, module.forward)  # type: ignore[method-assign]


def _normalize_in_float32(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return forward(x.float()).to(x.dtype)


def _without_data(module: DeGLAModule, fake: FakeTensorMode) -> tuple[ClipModel, Objective]:
    """Return copies of student and objective whose weights have shapes and types only."""
    memo: dict[int, Any] = {id(module.student.tokenizer): module.student.tokenizer}
    for tensor in _tensors(nn.ModuleList([module.student, module.objective])):
        on_cpu = fake.from_tensor(tensor.detach()).to("cpu")
        is_weight = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(on_cpu, requires_grad=tensor.requires_grad) if is_weight else on_cpu
    student, objective = copy.deepcopy((module.student, module.objective), memo)
    return student.train(), objective.train()


def _loss(student: ClipModel, objective: Objective, batch: Batch) -> Tensor:
    """Return the loss ``()``, or a sum of features where the objective has to read values of its tensors.

    The teacher is not run: its forward pass frees its tensors at once and comes before the student's. Copies of the
    student's features stand for its own.
    """
    if not objective.uses_negatives and batch.negatives.shape[1]:
        batch = without_negatives(batch)
    features = encode_batch(student, batch)
    teacher = None
    if objective.uses_teacher:
        copies = {name: value.detach().clone() for name, value in features._asdict().items() if value is not None}
        teacher = features._replace(**copies)
    try:
        total: Tensor = objective(student=features, teacher=teacher).total
        return total
    except Exception as error:  # torch has several errors for this, some of them private
        log.debug(f"the memory of the objective itself is not planned: {error}")
    return features.image.sum() * features.logit_scale + features.text.sum() + features.negatives.sum()


def _optimizer_bytes(optimizer: Optimizer, live: LiveBytes) -> tuple[int, int]:
    """Return the bytes of the optimizer's state, and of gradients and temporary tensors while it updates."""
    before = live.now
    optimizer.step()
    state = live.now - before
    live.peak = live.now
    optimizer.step()
    return state, live.peak - state


def _tensors(module: nn.Module) -> list[Tensor]:
    """Return each parameter and buffer once."""
    return list({id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}.values())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()

"""Private APIs of other packages: they are used in degla/compat/ only, and they still do what we use them for."""

import ast
import importlib
import inspect
import os
import pkgutil
import re
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import datasets
import huggingface_hub
import lightning as L
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torchvision.datasets as tv
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.utilities.exceptions import SIGTERMException
from PIL import Image
from torch.utils.data import DataLoader

import degla
import degla.compat.datasets
import degla.compat.hub
import degla.compat.lightning as compat_lightning
import degla.compat.open_clip
import degla.compat.torch as compat_torch
import degla.compat.torchvision

PACKAGE = Path(degla.__file__).parent

# ---- nothing private elsewhere ------------------------------------------------------------------------------------

NAMED_TUPLE = {"_replace", "_asdict", "_fields", "_make", "_field_defaults"}  # documented by Python
OURS = {"_target_"}  # a key of our configs
DOCUMENTED = {"os._exit"}  # by Python

# Private methods of other packages that our classes override: nothing public does the same.
OVERRIDDEN = {
    # Replaces the base weights by copies whenever modules or weights are listed.
    ("degla.models.adapters.attention", "LoraAttention", "_restore_weights"),
}


def private_uses(tree: ast.Module):
    """Attributes with an underscore of anything but self, private modules, torch.ops, and names in strings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            own = ast.unparse(node.value) in ("self", "cls", "super()")  # overrides are tested below
            is_private = node.attr.startswith("_") and not node.attr.startswith("__")
            if is_private and not own and node.attr not in NAMED_TUPLE | OURS and text not in DOCUMENTED:
                yield node.lineno, text
            if text.startswith("torch.ops."):
                yield node.lineno, text
        elif isinstance(node, ast.ImportFrom) and not (node.module or "degla").startswith("degla"):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            if any(part.startswith("_") and not part.startswith("__") for part in parts):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr", "attrgetter"):
            for argument in [] if ast.unparse(node.args[0]) == "self" else node.args:
                if isinstance(argument, ast.Constant) and re.match(r"_[a-z]", str(argument.value)):
                    yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Assign) and any("HF_HUB_OFFLINE" in ast.unparse(item) for item in node.targets):
            yield node.lineno, ast.unparse(node)


def test_private_names_are_used_in_compat_only():
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{line}: {text}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent != PACKAGE / "compat"
        for line, text in private_uses(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, "\n".join(found)


def test_the_search_finds_each_kind_of_use():
    source = (
        "from torch.utils.data._utils import worker\nx = y._hidden\nz = torch.ops.aten.silu_backward(a, b)\n"
        "getattr(a, '_labels')\nconstants.HF_HUB_OFFLINE = True\nself._mine = row._replace(a=1)\nos._exit(1)\n"
    )
    assert {line for line, _ in private_uses(ast.parse(source))} == {1, 2, 3, 4, 5}


def test_private_methods_that_are_overridden_are_listed_and_exist():
    found = set()
    for module in pkgutil.walk_packages(degla.__path__, "degla."):
        for name, cls in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if cls.__module__ != module.name:
                continue
            foreign = [
                base for base in cls.__mro__[1:] if not base.__module__.startswith(("degla", "typing", "builtins"))
            ]
            own = [key for key in vars(cls) if re.match(r"_[a-z]", key) and key not in NAMED_TUPLE]
            found |= {(module.name, name, key) for key in own for base in foreign if key in vars(base)}
    set_by_python_or_torch = ("_abc_impl", "_is_protocol", "_is_runtime_protocol", "_backward_cls")
    found = {item for item in found if item[2] not in set_by_python_or_torch}
    assert found == OVERRIDDEN


def test_compat_modules_import_no_torch_where_a_torch_free_caller_needs_them():
    code = "import sys, degla.compat, degla.compat.hub, degla.compat.datasets; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


# ---- torch --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.3, torch.tensor(0.3), torch.tensor(0.0)])
def test_foreach_lerp_is_lerp(weight):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) for shape in ((3,), (2, 4), ())]
    targets = [torch.randn(tensor.shape, generator=generator) for tensor in tensors]
    expected = [tensor.lerp(target, float(weight)) for tensor, target in zip(tensors, targets, strict=True)]
    compat_torch.foreach_lerp_(tensors, targets, weight)
    for tensor, right in zip(tensors, expected, strict=True):
        torch.testing.assert_close(tensor, right, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_silu_backward_is_the_gradient_of_silu(dtype):
    x = torch.linspace(-6, 6, 50).to(dtype).requires_grad_()
    grad = torch.linspace(-1, 1, 50).to(dtype)
    torch.nn.functional.silu(x).backward(grad)
    result = compat_torch.silu_backward(grad, x.detach())
    assert result.dtype == dtype
    torch.testing.assert_close(result, x.grad)


def test_sum_rows_adds_rows_of_one_number():
    rows = torch.arange(24, dtype=torch.float32).view(2, 3, 4)
    index = torch.tensor([[0, 2, 0], [2, 2, 4]])
    expected = torch.zeros(6, 4).index_add_(0, index.flatten(), rows.flatten(0, 1))
    torch.testing.assert_close(compat_torch.sum_rows(rows, index, 6), expected)


def test_allowing_recompiles_only_raises_the_limit(monkeypatch):
    config = torch._dynamo.config
    for before, limit, after in ((8, 32, 32), (64, 32, 64)):
        monkeypatch.setattr(config, "recompile_limit", before)
        compat_torch.allow_recompiles(limit)
        assert config.recompile_limit == after
    monkeypatch.setattr(config, "recompile_limit", 2)
    compat_torch.allow_recompiles(4)
    graphs = []
    compiled = torch.compile(lambda x, n: x * n, backend=lambda graph, _: graphs.append(1) or graph, dynamic=False)
    for number in range(9):
        compiled(torch.ones(2), number)
    assert len(graphs) == 4


def test_default_store_is_the_store_of_the_process_group(tmp_path):
    with pytest.raises(ValueError):
        compat_torch.default_store()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        store = compat_torch.default_store()
        store.set("degla/test", "here")
        assert store.clone().get("degla/test") == b"here"
    finally:
        dist.destroy_process_group()


# ---- Lightning ----------------------------------------------------------------------------------------------------


class Line(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(L.LightningDataModule):
    """Three batches; notes how many a resumed run has done when it asks for them."""

    def train_dataloader(self):
        self.done = compat_lightning.batches_done(self.trainer)
        return DataLoader(torch.ones(3, 1))


class Hooks(L.Callback):
    """Calls a function at the end of each batch, and notes what was seen."""

    def __init__(self, at_batch_end=lambda trainer: None, at_setup=lambda trainer: None):
        self.at_batch_end, self.at_setup = at_batch_end, at_setup
        self.seen = []
        self.handler = None

    def setup(self, trainer, pl_module, stage):
        self.at_setup(trainer)

    def on_train_start(self, trainer, pl_module):
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(self.at_batch_end(trainer))


def fit(*callbacks, ckpt_path=None):
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        callbacks=list(callbacks),
    )
    data = Data()
    trainer.fit(Line(), data, ckpt_path=ckpt_path)
    return trainer, data


def test_lightning_leaves_signals_alone_when_told_to():
    before = signal.getsignal(signal.SIGTERM)
    default, disabled = Hooks(), Hooks(at_setup=compat_lightning.disable_signal_handlers)
    fit(default)
    fit(disabled)
    assert default.handler != before, "Lightning no longer takes SIGTERM: the function has nothing to do"
    assert disabled.handler == before


def test_a_requested_stop_is_raised_before_the_next_batch():
    hooks = Hooks(lambda trainer: compat_lightning.request_stop(trainer, True))
    with pytest.raises(SIGTERMException):
        fit(hooks)
    assert len(hooks.seen) == 1


def test_a_request_to_stop_can_be_taken_back():
    def change_of_mind(trainer):
        compat_lightning.request_stop(trainer, True)
        assert trainer.received_sigterm
        compat_lightning.request_stop(trainer, False)

    hooks = Hooks(change_of_mind)
    fit(hooks)
    assert len(hooks.seen) == 3


def test_the_broadcast_of_signals_is_a_method_that_an_attribute_of_the_loop_replaces():
    """What it does between ranks is in tests/integration/test_distributed.py."""
    assert "self._broadcast_sigterm_tensor()" in inspect.getsource(_TrainingEpochLoop.advance)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    assert type(trainer.fit_loop.epoch_loop) is _TrainingEpochLoop
    compat_lightning.disable_sigterm_broadcast(trainer)
    assert trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor() is None


def test_the_last_batch_is_known_while_it_ends():
    hooks = Hooks(compat_lightning.all_batches_read)
    fit(hooks)
    assert hooks.seen == [False, False, True]


def checkpoint_callback(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "step-{step}", auto_insert_metric_name=False, every_n_train_steps=100, save_top_k=-1)


def test_checkpoints_are_saved_and_counted_by_hand(tmp_path):
    checkpoints = checkpoint_callback(tmp_path)

    def save_at_two(trainer):
        if trainer.global_step == 2:
            assert compat_lightning.last_saved_step(checkpoints) == 0
            compat_lightning.save_checkpoint_now(checkpoints, trainer)
            assert compat_lightning.last_saved_step(checkpoints) == 2

    _, data = fit(checkpoints, Hooks(save_at_two))
    assert data.done == 0
    assert (tmp_path / "step-2.ckpt").is_file()
    saved = torch.load(tmp_path / "step-2.ckpt", weights_only=True)
    progress = compat_lightning.batch_progress(saved)
    assert set(progress) == {"total", "current", "is_last_batch"}
    assert set(progress["current"]) == set(progress["total"]) == {"ready", "started", "processed", "completed"}
    assert progress["current"]["processed"] == 2
    progress["current"]["processed"] -= 1
    assert compat_lightning.batch_progress(saved)["current"]["processed"] == 1
    hooks = Hooks()
    _, data = fit(hooks, ckpt_path=tmp_path / "step-2.ckpt")
    assert data.done == 2, "of the run that was resumed"


def test_a_step_that_counts_as_saved_is_not_saved_again(tmp_path):
    checkpoints = checkpoint_callback(tmp_path)
    checkpoints._every_n_train_steps = 1

    class Before(L.Callback):  # callbacks that write checkpoints are called last
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 2:
                compat_lightning.set_last_saved_step(checkpoints, 2)

    fit(checkpoints, Before())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1.ckpt", "step-3.ckpt"]


def test_children_are_killed_and_no_longer_watched():
    launcher = subprocess_script._SubprocessScriptLauncher(LightningEnvironment(), num_processes=2, num_nodes=1)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    launcher.procs.append(child)
    watched = launcher.procs
    compat_lightning.kill_children(SimpleNamespace(strategy=SimpleNamespace(launcher=launcher)))
    assert child.wait(timeout=10) == -signal.SIGKILL
    assert watched == []
    assert "_launch_process_observer(self.procs)" in inspect.getsource(subprocess_script)
    compat_lightning.kill_children(SimpleNamespace(strategy=SimpleNamespace(launcher=None)))


def test_lightning_starts_children_by_the_command_line_that_a_sweep_changes():
    """``one_job_per_child`` (degla.cli) sets sys.argv, ``__main__.__spec__`` and hydra.run.dir for these children."""
    source = inspect.getsource(
        importlib.import_module("lightning.fabric.strategies.launchers.subprocess_script")._hydra_subprocess_cmd
    )
    for part in ("__main__.__spec__.name", "sys.argv[1:]", "HydraConfig.get().run.dir"):
        assert part in source


# ---- huggingface_hub, datasets, open_clip, torchvision -----------------------------------------------------------


@pytest.fixture
def hub():
    """An HTTP server that knows no repository, and the requests it got."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            requests.append(self.path)
            self.send_error(404)

        do_GET = do_HEAD

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


def test_the_hub_is_not_asked_while_offline(hub, tmp_path):
    endpoint, requests = hub

    def download():
        huggingface_hub.hf_hub_download("someone/something", "file", cache_dir=tmp_path, endpoint=endpoint)

    with degla.compat.hub.hub_offline(True), pytest.raises(LocalEntryNotFoundError):
        download()
    assert not requests
    with degla.compat.hub.hub_offline(False), pytest.raises((HfHubHTTPError, LocalEntryNotFoundError)):
        download()
    assert bool(requests) != (os.environ.get("HF_HUB_OFFLINE") == "1"), "asked again after the block, where it may"


def test_a_fingerprint_tells_tables_apart():
    table = datasets.Dataset.from_dict({"caption": ["a dog", "a cat"]})
    value = degla.compat.datasets.fingerprint(table)
    assert re.fullmatch(r"[0-9a-f]{16}", value)
    assert degla.compat.datasets.fingerprint(table) == value
    assert degla.compat.datasets.fingerprint(table.select([1])) != value


def test_weights_are_found_in_the_order_of_open_clip(tmp_path):
    assert degla.compat.open_clip.find_weights(tmp_path) is None
    for name in ("other.bin", "pytorch_model.bin", "open_clip_model.safetensors"):
        (tmp_path / name).touch()
        assert degla.compat.open_clip.find_weights(tmp_path) == tmp_path / name


def test_files_and_labels_of_torchvision(tmp_path):
    from scipy.io import savemat

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(tmp_path / name)
        return [tmp_path / name for name in names]

    def write(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    food = make("food-101/images/pie/1.jpg", "food-101/images/soup/2.jpg")
    write("food-101/meta/test.json", '{"pie": ["pie/1"], "soup": ["soup/2"]}')
    pets = make("oxford-iiit-pet/images/Abyssinian_1.jpg", "oxford-iiit-pet/images/boxer_2.jpg")
    write("oxford-iiit-pet/annotations/test.txt", "Abyssinian_1 1 1 1\nboxer_2 2 2 1\n")
    cars = make("stanford_cars/cars_test/0.jpg", "stanford_cars/cars_test/1.jpg")
    (tmp_path / "stanford_cars/devkit").mkdir()
    savemat(tmp_path / "stanford_cars/devkit/cars_meta.mat", {"class_names": np.array(["Acura", "BMW"], object)})
    rows = np.array([("0.jpg", 1), ("1.jpg", 2)], [("fname", object), ("class", object)])
    savemat(tmp_path / "stanford_cars/cars_test_annos_withlabels.mat", {"annotations": rows})
    for dataset, files in (
        (tv.Food101(tmp_path, split="test"), food),
        (tv.OxfordIIITPet(tmp_path, split="test"), pets),
        (tv.StanfordCars(tmp_path, split="test"), cars),
    ):
        assert degla.compat.torchvision.image_files(dataset) == files
        assert list(degla.compat.torchvision.labels(dataset)) == [0, 1]
    for cls in (tv.Flowers102, tv.SUN397, tv.DTD, tv.FGVCAircraft):
        source = inspect.getsource(cls.__init__)
        assert "self._image_files = " in source and "self._labels = " in source

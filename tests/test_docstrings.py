"""Every public docstring of degla/ is read by ast, so that no module has to be imported.

What is checked, for each public module, class, function and method:

- there is a docstring; its first line is one sentence, on one line, that ends with a period, and a blank line follows;
- the first line of a function starts with a verb: it does not continue the function's name;
- an ``Args:`` section names every parameter and nothing else. Two or more parameters need one. Parameters of a
  constructor stand in the docstring of its class;
- where an annotation mentions ``Tensor`` or ``ndarray``, the docstring states a shape in double backticks.

What is exempt:

- magic methods may have no docstring (ruff's D105 and D107);
- hooks that Lightning, torchmetrics, Hydra or ``torch.autograd.Function`` define need no ``Args:`` and no shapes: their
  signatures are documented there. The lists below name them, and only classes that inherit from those libraries may use
  them;
- a method that overrides a method of another class of degla may leave to it what it documents: ``Args:`` and shapes;
  so may a method whose docstring begins with "See" and the name of a protocol that it implements;
- a mapping of tensors by name, such as a state dict, has no shape.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "degla"

HOOKS = {
    "LightningModule": {
        *("training_step", "validation_step", "configure_optimizers", "configure_model", "on_train_start"),
        *("on_before_optimizer_step", "on_train_batch_end", "on_validation_epoch_end", "on_save_checkpoint"),
        *("on_load_checkpoint", "on_validation_epoch_start", "transfer_batch_to_device", "on_train_batch_start"),
    },
    "LightningDataModule": {"train_dataloader", "val_dataloader", "transfer_batch_to_device", "state_dict", "setup"},
    "Callback": {
        *("setup", "teardown", "on_train_start", "on_train_end", "on_train_batch_start", "on_train_batch_end"),
        *("on_exception", "on_save_checkpoint", "on_load_checkpoint", "on_fit_start", "on_fit_end"),
        *("on_validation_start", "on_validation_end", "on_validation_batch_start", "on_validation_batch_end"),
        *(
            "on_before_backward",
            "on_before_optimizer_step",
            "on_before_zero_grad",
            "on_sanity_check_start",
            "on_sanity_check_end",
            "on_validation_epoch_end",
        ),
        *("on_job_start", "on_job_end", "on_run_start", "on_run_end", "on_multirun_start", "on_multirun_end"),
        *("get_metrics", "state_dict", "load_state_dict"),
    },
    "TorchCheckpointIO": {"save_checkpoint", "load_checkpoint", "remove_checkpoint"},
    "Function": {"forward", "backward", "setup_context", "jvp", "vmap"},
    "Logger": {"log_metrics", "log_hyperparams", "log_graph", "finalize", "save", "after_save_checkpoint"},
    "Metric": {"update", "compute", "reset"},
}
HOOKS |= dict.fromkeys(("TensorBoardLogger", "WandbLogger", "MLFlowLogger", "CSVLogger"), HOOKS["Logger"])
HOOKS |= dict.fromkeys(("ModelCheckpoint", "TQDMProgressBar", "RichProgressBar", "ProgressBar"), HOOKS["Callback"])

SHAPE = re.compile(r"``\([^`]*\)`")
MAPPING_OF_TENSORS = re.compile(r"\b(dict|Mapping|MutableMapping|OrderedDict)\[str, (torch\.)?Tensor\]")
TENSOR = re.compile(r"\b(Tensor|ndarray)\b")
CONTINUES_THE_NAME = re.compile(
    r"(of|on|in|at|by|as|with|without|and|or|where|when|whether|once|only|the same|same|that|from|to|for|behind|below)"
    r"\b|``\(",
    re.IGNORECASE,
)
SECOND_SENTENCE = re.compile(r"(?<!\bet al)(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)[.?!] +[A-Z`]")
SECTIONS = r"(?:Args|Returns|Yields|Raises|Attributes|Example|Examples|Note|Notes|References):"


class Class(NamedTuple):
    node: ast.ClassDef
    bases: list[str]


class Documented(NamedTuple):
    where: str  # file:line: qualified name
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    owner: ast.ClassDef | None  # the class of a method


def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def is_public(name: str) -> bool:
    return not name.startswith("_")


def public(path: Path, tree: ast.Module) -> Iterator[Documented]:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if not all(is_public(part) or part == "__init__" for part in parts):
        return
    name = f"degla/{path.relative_to(PACKAGE)}"
    yield Documented(f"{name}:1", tree, None)
    yield from _members(name, tree, None, "")


def _members(file: str, node: ast.AST, owner: ast.ClassDef | None, prefix: str) -> Iterator[Documented]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If | ast.Try):
            yield from _members(file, child, owner, prefix)
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        magic = owner is not None and child.name.startswith("__") and child.name != "__init__"
        if not is_public(child.name) and not magic:
            continue
        if {"overload", "setter"} & {part for item in child.decorator_list for part in ast.unparse(item).split(".")}:
            continue
        yield Documented(f"{file}:{child.lineno}: {prefix}{child.name}", child, owner)
        if isinstance(child, ast.ClassDef):
            yield from _members(file, child, child, f"{prefix}{child.name}.")


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef, is_method: bool) -> list[str]:
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    if is_method and "staticmethod" not in {ast.unparse(item) for item in node.decorator_list}:
        names = names[1:]
    names += [argument.arg for argument in node.args.kwonlyargs]
    names += [extra.arg for extra in (node.args.vararg, node.args.kwarg) if extra]
    return [name for name in names if is_public(name)]


def documented_arguments(doc: str) -> list[str] | None:
    section = re.search(rf"^Args:\n(.*?)(?=^{SECTIONS}|\Z)", doc, re.MULTILINE | re.DOTALL)
    if section is None:
        return None
    entries = re.findall(r"^    \*{0,2}(\w[\w, *]*?)(?: \([^)]*\))?:(?:\s|$)", section.group(1), re.MULTILINE)
    return [name.strip(" *") for entry in entries for name in entry.split(",")]


def annotations(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    hints = [argument.annotation for argument in every if argument and argument.annotation]
    text = " ".join(ast.unparse(hint) for hint in (*hints, node.returns) if hint)
    return MAPPING_OF_TENSORS.sub("", text)


def first_line_faults(doc: str, is_function: bool) -> Iterator[str]:
    lines = doc.split("\n")
    first = lines[0].strip()
    if not first.endswith("."):
        yield f"the first line does not end with a period: {first!r}"
    if len(lines) > 1 and lines[1].strip():
        yield "no blank line after the first line"
    if SECOND_SENTENCE.search(first):
        yield f"the first line is more than one sentence: {first!r}"
    if is_function and CONTINUES_THE_NAME.match(first):
        yield f"the first line does not start with a verb: {first!r}"
    if not (first[:1].isupper() or first[:1] in "`*0123456789"):
        yield f"the first line does not start with a capital: {first!r}"


class Inheritance:
    """Base classes by name, of all classes of degla."""

    def __init__(self, modules: dict[Path, ast.Module]):
        self.classes: dict[str, Class] = {}
        for tree in modules.values():
            nodes = list(ast.walk(tree))
            names = {
                alias.asname: alias.name
                for node in nodes
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
                if alias.asname
            }
            for node in nodes:
                if isinstance(node, ast.ClassDef):
                    bases = [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases]
                    self.classes[node.name] = Class(node, [names.get(base, base) for base in bases])

    def ancestors(self, name: str, seen: frozenset = frozenset()) -> list[str]:
        if name not in self.classes or name in seen:
            return []
        bases = [base for base in self.classes[name].bases if base != name]
        return [*bases, *(other for base in bases for other in self.ancestors(base, seen | {name}))]

    def is_hook(self, owner: ast.ClassDef, method: str) -> bool:
        return any(
            method in HOOKS.get(base, ()) for base in (*self.classes[owner.name].bases, *self.ancestors(owner.name))
        )

    def inherited_docs(self, owner: ast.ClassDef, method: str, doc: str) -> str:
        bases = self.ancestors(owner.name)
        if reference := re.match(r"See ``(\w+)", doc):  # of a protocol, which nobody has to inherit from
            bases.append(reference.group(1))
        nodes = [self.classes[base].node for base in bases if base in self.classes]
        found = [item for node in nodes for item in node.body if getattr(item, "name", None) == method]
        return "\n".join(ast.get_docstring(item) or "" for item in found)


def faults(item: Documented, inheritance: Inheritance) -> Iterator[str]:
    node, owner = item.node, item.owner
    doc = ast.get_docstring(node)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "__init__":
        return  # its class documents it
    if doc is None:
        if not (owner is not None and not is_public(node.name)):
            yield "no docstring"
        return
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in getattr(node, "decorator_list", [])}
    is_property = bool(decorators & {"property", "cached_property"})
    yield from first_line_faults(doc, is_function and not is_property)
    if isinstance(node, ast.Module):
        return
    function = node
    if isinstance(node, ast.ClassDef):
        constructors = [part for part in node.body if getattr(part, "name", None) == "__init__"]
        if not constructors:
            return
        function = constructors[0]
    if owner is not None and inheritance.is_hook(owner, node.name):
        return
    inherited = inheritance.inherited_docs(owner, node.name, doc) if owner is not None else ""
    names = parameters(function, is_method=owner is not None or isinstance(node, ast.ClassDef))
    listed = documented_arguments(doc)
    if listed is None and len(names) > 1 and documented_arguments(inherited) is None:
        yield f"no Args: section for {', '.join(names)}"
    for name in [] if listed is None else names:
        if name not in listed:
            yield f"Args: does not name {name}"
    for name in listed or []:
        if name not in names:
            yield f"Args: names {name}, which is no parameter"
    if TENSOR.search(annotations(function)) and not SHAPE.search(doc + inherited):
        yield "no shape in double backticks, such as ``(B, D)``"


def all_faults() -> list[str]:
    modules = trees()
    inheritance = Inheritance(modules)
    return [
        f"{item.where}: {fault}"
        for path, tree in modules.items()
        for item in public(path, tree)
        for fault in faults(item, inheritance)
    ]


def room(fault: str) -> str:
    parts = fault.split(":")[0].split("/")
    return "/".join(parts[:2]) if len(parts) > 2 else "degla"


ROOMS = sorted({room(f"degla/{path.relative_to(PACKAGE)}:") for path in PACKAGE.rglob("*.py")})


@pytest.mark.parametrize("name", ROOMS)
def test_every_public_docstring_is_complete(name):
    found = [fault for fault in all_faults() if room(fault) == name]
    assert not found, f"{len(found)} in {name}:\n" + "\n".join(found)


BAD = '''
"""A module."""
import torch
from torch import Tensor


def silent(x): ...


def two_lines(x):
    """Return something that
    goes on."""


def continues(x):
    """Of any shape."""


def no_args(one, two):
    """Return one."""


def half(one, two):
    """Return one.

    Args:
        one: the first.
        three: there is none.
    """


def shapeless(x: Tensor) -> int:
    """Return a count."""


def two_sentences():
    """Return one. Then another."""


class Made:
    """A thing."""

    def __init__(self, one, two): ...


class Child(Made):
    """Another thing."""

    def on_train_end(self, trainer, pl_module):
        """End."""
'''

GOOD = '''
"""A module."""
from collections.abc import Mapping
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks import Callback as LightningCallback
from torch import Tensor


class Made(Callback):
    """A thing.

    Args:
        one: the first.
        two: the second.
    """

    def __init__(self, one, two): ...

    def __len__(self): ...

    def on_train_end(self, trainer, pl_module):
        """Save the end."""

    def scores(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the ``(B,)`` scores (Radford et al. 2021).

        Args:
            images: ``(B, 3, H, W)``.
            texts: ``(B, L)``.
        """

    @property
    def size(self) -> int:
        """Of what is held, the number."""


class Child(Made):
    """Another thing."""

    def scores(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the scores of another model."""


def save(state: Mapping[str, Tensor]) -> None:
    """Write a state dict."""


class Follower:
    """A thing that scores as ``Made`` does."""

    def scores(self, images: Tensor, texts: Tensor) -> Tensor:
        """See ``Made``."""


class Renamed(LightningCallback):
    """A callback by another name."""

    def on_train_end(self, trainer, pl_module):
        """Save the end."""


def _private(one, two): ...
'''


def faults_of(source: str) -> list[str]:
    tree = ast.parse(source)
    inheritance = Inheritance({PACKAGE / "made.py": tree})
    return [f"{item.where}: {f}" for item in public(PACKAGE / "made.py", tree) for f in faults(item, inheritance)]


def test_the_check_finds_each_kind_of_fault():
    found = "\n".join(faults_of(BAD))
    for name, fault in {
        "silent": "no docstring",
        "two_lines": "does not end with a period",
        "continues": "does not start with a verb",
        "no_args": "no Args: section for one, two",
        "half": "does not name two",
        "shapeless": "no shape",
        "two_sentences": "more than one sentence",
        "Made": "no Args: section for one, two",
        "Child.on_train_end": "no Args: section for trainer, pl_module",  # Made is no callback
    }.items():
        assert re.search(rf": {name}: .*{fault}", found), (name, found)
    assert "no blank line" in found and "names three, which is no parameter" in found


def test_the_check_accepts_what_it_should():
    assert faults_of(GOOD) == []


def test_hooks_that_are_exempt_exist():
    """A hook that Lightning no longer has would exempt a method of ours forever."""
    import lightning.pytorch as pl
    import torch
    import torchmetrics
    from hydra.experimental.callback import Callback as HydraCallback
    from lightning.fabric.plugins import TorchCheckpointIO
    from lightning.pytorch.callbacks import Callback, ProgressBar
    from lightning.pytorch.loggers import Logger

    homes = {
        "LightningModule": (pl.LightningModule,),
        "LightningDataModule": (pl.LightningDataModule,),
        "Callback": (Callback, HydraCallback, ProgressBar),
        "TorchCheckpointIO": (TorchCheckpointIO,),
        "Function": (torch.autograd.Function,),
        "Logger": (Logger,),
        "Metric": (torchmetrics.Metric,),
    }
    for base, classes in homes.items():
        for hook in HOOKS[base]:
            assert any(hasattr(home, hook) for home in classes), f"{base} has no {hook}"


if __name__ == "__main__":  # python tests/test_docstrings.py: the list, with the count of each room on top
    lines = all_faults()
    for count in Counter(map(room, lines)).most_common():
        print(f"{count[1]:5} {count[0]}")
    print(*lines, sep="\n")

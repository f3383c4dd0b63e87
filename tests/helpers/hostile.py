"""Hostile input for every boundary: valid content, changed at random, and what the boundary makes of it.

A boundary has three good answers: it refuses with one sentence (``refused``), it reports what it leaves out
(``reported``), or it returns values of the right types (``accepted``). Anything else, including a hang, is a defect.
"""

import base64
import contextlib
import io
import json
import pickle
import random
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file

from degla.cli.messages import sentence
from degla.data.images import BadImage, decode
from degla.data.sources import coco, folder, negclip_tsv
from degla.errors import DeglaError

Answer = Literal["refused", "reported", "accepted"]
SECONDS = 20  # after which a case counts as a hang

HOSTILE_TEXTS = (
    "", " ", "\x00", "\ud800", "\u202e", "a\rb", "a\nb", '"', "'", "\\", ",,,,", "\t\t", "[/x]", "{", "}",
    "<script>alert(1)</script>", "=1+1", "../../etc/passwd", "/dev/zero", "NaN", "null", "9" * 5000,
    "word " * 30_000, "日本語", "\ufeff", "%s%n", "${oc.env:HOME}",
)  # fmt: skip
HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1e309, float("nan"), 10**40, [], {}, [[]], {"a": {}}, [None], ["x", 1], {"text": 1},
    [{"text": None}], {"text": ["x"]}, *HOSTILE_TEXTS,
)  # fmt: skip
HOSTILE_BYTES = (
    b"\x00", b"\xff\xfe", b"\x80abc", b'"', b"\n", b"\r\n", b",", b"[" * 5000, b"9" * 5000, b"\xed\xa0\x80",
    b"\\ud800", b"x" * 140_000, b"\xf0\x9f", b"{}", b"]]", b"NaN", b"\t",
)  # fmt: skip


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Change bytes, spans or lines of a file, up to four times."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(content) + 1)
        stop = min(len(content), start + rng.choice((1, 1, 2, 8, 64, 1024)))
        change = rng.randrange(6)
        if change == 0 and content:
            content = content[:start] + bytes(rng.randrange(256) for _ in range(stop - start)) + content[stop:]
        elif change == 1:
            content = content[:start] + rng.choice(HOSTILE_BYTES) + content[start:]
        elif change == 2:
            content = content[:start] + content[stop:]
        elif change == 3:
            content = content[:start]
        elif change == 4:
            content = content[:stop] + content[start:stop] * rng.randint(1, 3) + content[stop:]
        else:
            lines = content.split(b"\n")
            rng.shuffle(lines)
            content = b"\n".join(lines)
    return content


def mutate_value(value: Any, rng: random.Random) -> Any:
    """Replace, add or drop one node somewhere in nested lists and dictionaries."""
    if rng.random() < 0.25 or not isinstance(value, list | dict) or not value:
        return rng.choice(HOSTILE_VALUES)
    if isinstance(value, list):
        i = rng.randrange(len(value))
        action = rng.randrange(4)
        if action == 0:
            return value[:i] + value[i + 1 :]
        if action == 1:
            return [*value, value[i]]
        return [*value[:i], mutate_value(value[i], rng), *value[i + 1 :]]
    key = rng.choice(list(value))
    action = rng.randrange(5)
    if action == 0:
        return {name: item for name, item in value.items() if name != key}
    if action == 1:
        return {**value, str(rng.choice(HOSTILE_TEXTS)): rng.choice(HOSTILE_VALUES)}
    return {**value, key: mutate_value(value[key], rng)}


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json.dumps(content).encode("utf-8", "surrogatepass"))


@contextlib.contextmanager
def time_limit(seconds: int = SECONDS) -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise AssertionError(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def answer(boundary: Callable[[], Answer]) -> Answer:
    """Run one case.

    Raises:
        Exception: whatever is not one of the good answers.
    """
    with time_limit():
        try:
            return boundary()
        except DeglaError as error:
            message = sentence(error, "train", [])
            assert message and "\n" not in message and len(message) < 2000, f"not one sentence: {message[:300]!r}"
            assert "Traceback" not in message, message
            message.encode("utf-8", "backslashreplace")
            return "refused"


# ---- tables of captions


def image_files(root: Path) -> None:
    for i in range(4):
        Image.new("RGB", (8, 8), (i * 60, 9, 9)).save(root / f"{i}.png")


def rows(rng: random.Random) -> list[dict[str, Any]]:
    found = []
    for i in range(rng.randint(1, 5)):
        row: dict[str, Any] = {"image": f"{i % 4}.png", "caption": f"a dog number {i}", "negatives": ["a cat", "a cow"]}
        if rng.random() < 0.4:
            row["negatives"] = [{"text": "a cat", "type": "replace_nouns"}]
        if rng.random() < 0.4:
            row[rng.choice(list(row))] = rng.choice(HOSTILE_VALUES)
        found.append(row)
    return found


def table_bytes(suffix: str, rng: random.Random) -> bytes:
    data = rows(rng)
    if suffix == ".jsonl":
        return b"\n".join(json.dumps(row).encode("utf-8", "surrogatepass") for row in data)
    if suffix == ".json":
        return json.dumps(data).encode("utf-8", "surrogatepass")
    if suffix == ".parquet":
        columns = {name: [json.dumps(row.get(name)) for row in data] for name in ("image", "caption", "negatives")}
        if rng.random() < 0.5:
            columns = {
                name: [str(row.get(name)).encode("utf-8", "replace").decode() for row in data] for name in columns
            }
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer)
        return buffer.getvalue()
    separator = "," if suffix == ".csv" else "\t"
    lines = [separator.join(("image", "caption", "negatives"))]
    for row in data:
        cells = [str(row["image"]), str(row["caption"]), json.dumps(row["negatives"])]
        quoted = ['"' + cell.replace('"', '""') + '"' if rng.random() < 0.8 else cell for cell in cells]
        lines.append(separator.join(quoted))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def read_table(table: Any) -> Answer:
    found: Answer = "accepted"
    for sample in table.samples(range(len(table))):
        assert isinstance(sample.caption, str) and isinstance(sample.id, str)
        assert all(isinstance(n.text, str) and isinstance(n.type, str) for n in sample.negatives)
        sample.caption.encode()
        for negative in sample.negatives:
            negative.text.encode()
        if sample.problem:
            found = "reported"
    return found


def table_case(root: Path, rng: random.Random) -> Answer:
    suffix = rng.choice((".csv", ".tsv", ".jsonl", ".json", ".parquet"))
    image_files(root)
    content = table_bytes(suffix, rng)
    (root / f"captions{suffix}").write_bytes(mutate(content, rng) if rng.random() < 0.8 else content)
    annotations = "captions.json" if suffix == ".json" else None
    return answer(lambda: read_table(folder(str(root), annotations, cache_dir=str(root / "cache"))))


def authors_case(root: Path, rng: random.Random) -> Answer:
    items: Any = [{"image_id": i, "original": f"a dog {i}", "enhanced": ["a", "b", "c", "d", "e"]} for i in range(3)]
    items = mutate_value(items, rng)
    content = json.dumps(items).encode("utf-8", "surrogatepass")
    (root / "images").mkdir()
    (root / "train.json").write_bytes(mutate(content, rng) if rng.random() < 0.4 else content)
    return answer(
        lambda: read_table(coco(str(root / "train.json"), str(root / "images"), cache_dir=str(root / "cache")))
    )


def negclip_case(root: Path, rng: random.Random) -> Answer:
    lines = ["\ttitle\tfilepath\tneg_caption\tneg_image"]
    for i in range(3):
        texts = rng.choice(("['a cat', 'a cow']", "[]", "['a'", "__import__('os').getcwd()", "[1, None]", "{}", "'x'"))
        lines.append(f"{i}\ta dog {i}\t{i}.png\t{texts}\t{rng.choice(('[0, 1]', '[]', '[99]', '[-1]', 'x', '[1.5]'))}")
    content = "\n".join(lines).encode()
    (root / "train.tsv").write_bytes(mutate(content, rng) if rng.random() < 0.7 else content)
    image_files(root)
    return answer(lambda: read_table(negclip_tsv(str(root / "train.tsv"), str(root), cache_dir=str(root / "cache"))))


# ---- images


def encoded_image(rng: random.Random) -> bytes:
    mode = rng.choice(("RGB", "RGB", "L", "RGBA", "P", "1", "I;16", "F", "CMYK", "LA"))
    size = (rng.choice((1, 3, 17)), rng.choice((1, 5, 20)))
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    buffer = io.BytesIO()
    for form in rng.sample(("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "PDF", "EPS"), 11):
        with contextlib.suppress(Exception):  # Pillow cannot write every mode in every format
            image.save(buffer, form)
            return buffer.getvalue()
    return b""


def image_case(root: Path, rng: random.Random) -> Answer:
    content = encoded_image(rng)
    content = mutate(content, rng) if rng.random() < 0.85 else content

    def boundary() -> Answer:
        try:
            pixels = decode(content, "image")
        except BadImage as error:
            assert str(error) and "\n" not in str(error)
            return "refused"
        assert pixels.dtype == torch.uint8 and pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.numel()
        return "accepted"

    return answer(boundary)


# ---- answers of a language model, and their store


def completion_case(root: Path, rng: random.Random) -> Answer:
    from degla.hard_negatives.llm import client, parse

    text = json.dumps({"negatives": ["a cat", "a cow"]})
    body: Any = {
        "choices": [{"message": {"content": text, "refusal": None}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    }
    if rng.random() < 0.4:
        content = json.dumps(mutate_value(json.loads(text), rng))
        body["choices"][0]["message"]["content"] = (
            mutate(content.encode("utf-8", "replace"), rng).decode("utf-8", "replace")
            if rng.random() < 0.5
            else content
        )
    else:
        body = mutate_value(body, rng)

    def boundary() -> Answer:
        try:
            reply = client.parse_completion(body)
            texts = parse.parse_answer(reply.text, reply.finish_reason, reply.refusal)
        except (client.NoCompletion, parse.InvalidAnswer) as error:
            assert str(error)
            return "refused"
        assert all(isinstance(text, str) for text in texts)
        assert isinstance(reply.input_tokens, int) and isinstance(reply.output_tokens, int)
        return "accepted"

    return answer(boundary)


def store_case(root: Path, rng: random.Random) -> Answer:
    from degla.hard_negatives.store import Answer as StoredAnswer
    from degla.hard_negatives.store import Store, answer_key

    key = answer_key("a dog", "swap_nouns", "p", "m", 0, 1)
    store = Store(root / "answers")
    store.add(StoredAnswer(key, "a dog", "swap_nouns", ["a cat"]))
    store.close()
    (path,) = (root / "answers").glob("*.jsonl")
    line = json.loads(path.read_bytes())
    lines = [path.read_bytes(), json.dumps(mutate_value(line, rng)).encode("utf-8", "surrogatepass") + b"\n"]
    content = b"".join(rng.sample(lines, 2))
    path.write_bytes(mutate(content, rng) if rng.random() < 0.6 else content)

    def boundary() -> Answer:
        again = Store(root / "answers")
        stored = again.get(key)
        if stored is not None:
            assert all(isinstance(text, str) for text in stored.texts) and isinstance(stored.caption, str)
        list(again.failures())
        assert all(isinstance(count, int) for count in again.tokens)
        return "reported" if again.num_truncated else "accepted"

    return answer(boundary)


# ---- weights and checkpoints


class _Program:
    """An object whose pickle writes a file when it is loaded, which must never happen."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "run"))


def weights_bytes(root: Path, rng: random.Random) -> tuple[str, bytes]:
    state: dict[str, Any] = {
        "visual.proj": torch.randn(4, 4),
        "text_projection": torch.randn(4, 4),
        "logit_scale": torch.ones(()),
    }
    kind = rng.randrange(5)
    if kind == 0:
        save_file(state, root / "w.safetensors")
        return ".safetensors", (root / "w.safetensors").read_bytes()
    if kind == 1:
        buffer = io.BytesIO()
        torch.save(
            rng.choice((state, {"state_dict": state}, {"model": state}, [state], state["visual.proj"], 7)), buffer
        )
        return rng.choice((".pt", ".bin", ".ckpt")), buffer.getvalue()
    if kind == 2:
        return ".pt", pickle.dumps({"visual.proj": _Program(root / "ran")})
    if kind == 3:
        buffer = io.BytesIO()
        torch.save({**state, "visual.x": _Program(root / "ran")}, buffer)
        return ".pt", buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # TorchScript's layout
        archive.writestr("m/code/__torch__.py", "def f(): pass\n")
        archive.writestr("m/data.pkl", pickle.dumps(_Program(root / "ran")))
        archive.writestr("m/constants.pkl", pickle.dumps(()))
        archive.writestr("m/version", "3\n")
    return ".pt", buffer.getvalue()


def weights_case(root: Path, rng: random.Random) -> Answer:
    from degla.models.checkpoints import read_settings, read_weights

    suffix, content = weights_bytes(root, rng)
    path = root / f"weights{suffix}"
    path.write_bytes(mutate(content, rng) if rng.random() < 0.6 else content)

    def boundary() -> Answer:
        assert isinstance(read_settings(path), dict)
        state = read_weights(path).state
        assert all(isinstance(value, torch.Tensor) for value in state.values())
        return "accepted"

    found = answer(boundary)
    assert not (root / "ran").exists(), "a program in the file was run"
    return found


# ---- benchmarks and results


def benchmark_case(root: Path, rng: random.Random) -> Answer:
    from degla.evaluation.tasks.own import Own
    from degla.evaluation.tasks.retrieval import Retrieval
    from degla.evaluation.tasks.sugarcrepe import SugarCrepe
    from degla.evaluation.tasks.valse import Valse

    image_files(root)
    kind = rng.randrange(4)
    damage = rng.random() < 0.3

    def write(path: Path, content: Any) -> None:
        write_json(path, mutate_value(content, rng))
        if damage:
            path.write_bytes(mutate(path.read_bytes(), rng))

    if kind == 0:
        items = {str(i): {"filename": f"{i}.png", "caption": "a dog", "negative_caption": "a cat"} for i in range(3)}
        write(root / "swap_obj.json", items)
        task: Any = lambda: SugarCrepe(annotations=str(root), images=str(root), subsets=["swap_obj"])  # noqa: E731
    elif kind == 1:
        items = {
            f"x{i}": {
                "image_file": f"{i}.png",
                "caption": "a dog",
                "foil": "a cat",
                "dataset": "coco",
                "mturk": {"foil": 0, "caption": 3, "other": 0},
            }
            for i in range(3)
        }
        write(root / "existence.json", items)
        task = lambda: Valse(annotations=str(root), images={"coco": str(root)}, subsets=["existence"])  # noqa: E731
    elif kind == 2:
        item = {"image": "0.png", "captions": ["a dog", "a cat"], "label": 0, "subset": "x"}
        lines = [json.dumps(mutate_value(item, rng)).encode("utf-8", "surrogatepass") for _ in range(3)]
        (root / "items.jsonl").write_bytes(mutate(b"\n".join(lines), rng) if damage else b"\n".join(lines))
        task = lambda: Own(str(root / "items.jsonl"), str(root))  # noqa: E731
    else:
        content = rng.choice(
            (
                [{"image": f"{i}.png", "caption": ["a dog", "a cat"]} for i in range(3)],
                {"images": [{"filename": "0.png", "split": "test", "sentences": [{"raw": "a dog"}]}]},
            )
        )
        write(root / "captions.json", content)
        task = lambda: Retrieval(captions=str(root / "captions.json"), images=str(root))  # noqa: E731

    def boundary() -> Answer:
        made = task()
        assert all(isinstance(text, str) for text in made.list_texts())
        assert all(isinstance(image.name, str) for image in made.list_images())
        return "reported" if made.problems else "accepted"

    return answer(boundary)


# ---- command lines

_KEYS = (
    "optimizer.lr", "optimizer.weight_decay", "loader.global_batch_size", "loader.epochs", "loader.num_workers",
    "loader.num_negatives", "loader.crop_scale", "loader.val_fraction", "objective.contrastive", "objective.igc",
    "teacher.decay", "trainer.max_steps", "trainer.devices", "trainer.accumulate_grad_batches", "seed", "precision",
    "non_finite", "data.path", "data.annotations", "model.name", "model.pretrained", "scheduler.warmup_steps",
    "callbacks.checkpoint.every_n_steps", "callbacks.checkpoint.keep_last", "batch_size", "model", "objective",
    "data", "teacher", "strategy", "model._target_", "logger.x._target_", "data._target_", "lr", "resume", "name",
)  # fmt: skip
_VALUES = (
    "0", "-1", "1e999", "nan", "true", "null", "[]", "[0,0]", "{a:1}", "x", "ViT-B-32", "'a b'", "two", "1.5", "''",
    "../x", "os.system", "degla.training.build.os.system", "lightning.pytorch.LightningModule.load_from_checkpoint",
    "${oc.env:NOPE}", "${nope}", "[1,2", "a=b", "99999999999999999999", "builtins.exec",
    "degla.data.sources.folder",
)  # fmt: skip


def command_case(root: Path, rng: random.Random) -> Answer:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from degla.cli.bounds import check_bounds
    from degla.cli.main import config_dir
    from degla.training.build import build

    overrides = [
        "model=tiny",
        f"data.path={root}",
        f"run_dir={root}/run",
        "trainer.accelerator=cpu",
        "loader.num_workers=0",
    ]
    overrides += ["loader.global_batch_size=2", "trainer.max_steps=1", "callbacks.watchdog=null"]
    for _ in range(rng.randint(1, 2)):
        sign = rng.choice(("", "", "", "", "+", "++", "~"))
        overrides.append(f"{sign}{rng.choice(_KEYS)}={rng.choice(_VALUES)}")
    if not (root / "captions.jsonl").exists():
        image_files(root)
        row = {"image": "0.png", "caption": "a dog", "negatives": ["a cat", "a cow", "a hen", "a fox"]}
        (root / "captions.jsonl").write_text("\n".join(json.dumps(row) for _ in range(4)))
    overrides.append(f"data.cache_dir={root / 'cache'}")

    def boundary() -> Answer:
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(config_dir(), version_base="1.3"):
                cfg = compose("train", overrides)
        except (
            HydraException,
            ValueError,
            TypeError,
        ):  # the program makes a sentence of both; tests/integration/test_mistakes.py
            return "refused"
        try:
            check_bounds(cfg, "train")
            build(cfg)
        except (HydraException, OmegaConfBaseException) as error:
            message = sentence(error, "train", [])
            assert message and "\n" not in message, message
            return "refused"
        return "accepted"

    return answer(boundary)


CASES: dict[str, Callable[[Path, random.Random], Answer]] = {
    "caption tables": table_case,
    "authors' JSON": authors_case,
    "NegCLIP TSV": negclip_case,
    "images": image_case,
    "LLM completions": completion_case,
    "stored answers": store_case,
    "weights": weights_case,
    "benchmark files": benchmark_case,
    "command lines": command_case,
}


def describe_case(root: Path) -> str:
    """The files of a case in base64, to repeat a defect by hand."""
    parts = []
    for path in sorted(root.rglob("*")):
        if path.is_file() and "cache" not in path.parts and path.suffix != ".png":
            parts.append(f"{path.relative_to(root)}: {base64.b64encode(path.read_bytes()[:2000]).decode()}")
    return "\n".join(parts)

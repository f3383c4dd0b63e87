"""Every source given every other source's file names the format it sees and the ``data=`` that reads it."""

import io
import json
import tarfile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from degla.data.sources import coco, folder, formats, huggingface, negclip_tsv
from degla.errors import ConfigError


def image_file():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def karpathy():
    sentences = [{"tokens": ["a", "dog"], "raw": "a dog.", "imgid": 0, "sentid": 7}]
    entry = {"filepath": "val2014", "sentids": [7], "filename": "x.jpg", "imgid": 0, "split": "train"}
    return json.dumps({"images": [{**entry, "sentences": sentences, "cocoid": 9}] * 3, "dataset": "coco"})


def coco_json(**annotation):
    images = [{"license": 5, "file_name": f"COCO_train2014_{i:012d}.jpg", "id": i} for i in range(4000)]
    return json.dumps({"info": {"year": 2014}, "images": images, "licenses": [], "annotations": [annotation] * 9})


FILES = {
    "authors.json": (json.dumps([{"image_id": 9, "original": "a", "enhanced": ["b"]}]), formats.AUTHORS_JSON),
    "neg.tsv": ("\ttitle\tfilepath\tneg_caption\tneg_image\n0\ta\tx.jpg\t['b']\t[0]\n", formats.NEGCLIP_TSV),
    "captions.csv": ("image,caption\nx.jpg,a dog\n", formats.CSV),
    "captions.tsv": ("image\tcaption\nx.jpg\ta dog\n", formats.TSV),
    "captions.jsonl": ('{"image": "x.jpg", "caption": "a dog"}\n', formats.JSON_LINES),
    "blip.json": (json.dumps([{"caption": "a", "image": "x.jpg", "image_id": "coco_1"}]), formats.JSON_LIST),
    "table.json": ("image,caption\nx.jpg,a dog\n", formats.CSV),
    "dataset_coco.json": (karpathy(), formats.KARPATHY_JSON),
    "captions_train2014.json": (coco_json(image_id=3, id=1, caption="a dog"), formats.COCO_CAPTIONS),
    "instances_train2014.json": (coco_json(image_id=3, id=1, bbox=[1, 2, 3, 4]), formats.COCO_OBJECTS),
    "swap_obj.json": (
        json.dumps({"0": {"filename": "x.jpg", "caption": "a", "negative_caption": "b"}}, indent=1),
        formats.SUGARCREPE,
    ),
    "existence.json": (json.dumps({"v_0": {"image_file": "x.jpg", "caption": "a", "foil": "b"}}), formats.VALSE),
    "visual_genome_relation.json": (
        json.dumps([{"image_path": "x", "true_caption": "a", "false_caption": "b"}]),
        formats.ARO,
    ),
    "openclip.csv": ("filepath,title\nx.jpg,a dog\n", formats.OTHER_TABLE),
    "page.json": ("<!DOCTYPE html><html>404</html>", formats.WEB_PAGE),
    "pointer.json": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", formats.LFS_POINTER),
    "empty.json": ("", formats.EMPTY),
    "excel.csv": ("image,caption\nx.jpg,a\n".encode("utf-16"), formats.UTF16),
    "photo.jpg": (image_file(), formats.IMAGE),
    "table.parquet": (None, formats.PARQUET),
    "shard.tar": (None, formats.TAR),
    "saved": (None, formats.SAVED_DATASET),
}

SOURCES = {
    "folder": lambda path: folder(str(path.parent), path.name),
    "folder by path": lambda path: folder(str(path)),
    "coco": lambda path: coco(str(path), str(path.parent)),
    "negclip_tsv": lambda path: negclip_tsv(str(path), str(path.parent)),
    "huggingface": lambda path: huggingface(str(path)),
}

# What a source reads; everything else is refused.
READS = {
    "folder": {"captions.csv", "captions.tsv", "captions.jsonl", "blip.json", "table.parquet"},
    "coco": {"authors.json"},
    "negclip_tsv": {"neg.tsv"},
    "huggingface": {"saved"},
}


def write(root, name):
    content, _ = FILES[name]
    path = root / name
    if name == "table.parquet":
        pq.write_table(pa.table({"image": ["x.jpg"], "caption": ["a"]}), path)
    elif name == "saved":
        datasets.Dataset.from_dict({"image": [image_file()], "caption": ["a"], "negatives": [["b"]]}).save_to_disk(path)
    elif name == "shard.tar":
        with tarfile.open(path, "w") as tar:
            tar.addfile(tarfile.TarInfo("0.jpg"))
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", FILES)
def test_formats_are_recognized_by_content(tmp_path, name):
    assert formats.sniff(write(tmp_path, name)) == FILES[name][1]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", FILES)
def test_every_source_given_every_file(tmp_path, name, source):
    path = write(tmp_path, name)
    if name in READS.get(source, ()):
        assert len(SOURCES[source](path)) == 1
        return
    with pytest.raises(ConfigError) as refusal:
        SOURCES[source](path)
    message = str(refusal.value)
    seen = FILES[name][1]
    assert "\n" not in message and name in message
    if name == "openclip.csv" and source == "folder":
        assert "no column 'image'" in message
    elif name == "table.json" and source == "folder":
        assert "rename it to table.csv" in message
    elif name == "saved" and source.startswith("folder"):
        assert "data=huggingface" in message or "there is no file" in message
    else:
        assert seen.name in message
        if seen in (formats.AUTHORS_JSON, formats.NEGCLIP_TSV, formats.COCO_CAPTIONS, formats.KARPATHY_JSON):
            assert "data=" in message

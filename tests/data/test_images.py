"""Decoding: both decoders give the same pixels, every bad file is named, no file can hang or fill the memory."""

import contextlib
import io
import os
import random
import struct
import threading
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from degla.data import images
from degla.data.images import FORMATS, BadImage, ImageLimits, decode, read_file


def jpeg(mode="RGB", size=(61, 47), **settings):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode).save(buffer, "JPEG", **settings)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 20}])
def test_torchcodec_and_pillow_agree_to_the_last_bit(monkeypatch, mode, settings):
    pytest.importorskip("torchcodec.decoders")
    data = jpeg(mode, **settings)
    fast = decode(data, None)
    monkeypatch.setattr(images, "decode_jpeg", None)
    slow = decode(data, None)
    assert fast.dtype == torch.uint8 and torch.equal(fast, slow)


def test_torchcodec_and_pillow_agree_on_real_photos(monkeypatch, flickr):
    pytest.importorskip("torchcodec.decoders")
    paths = [str(path) for path in sorted((flickr / "images").glob("*.jpg"))[:100]]
    fast = [decode(None, path) for path in paths]
    monkeypatch.setattr(images, "decode_jpeg", None)
    assert all(torch.equal(decode(None, path), pixels) for path, pixels in zip(paths, fast, strict=True))


@pytest.mark.parametrize("with_torchcodec", [False, True])
def test_bad_files_are_named_alike(monkeypatch, with_torchcodec):
    if not with_torchcodec:
        monkeypatch.setattr(images, "decode_jpeg", None)
    for data, reason in ((jpeg()[:-40], "truncated"), (b"<html>", "not an image"), (b"", "empty file")):
        with pytest.raises(BadImage, match=reason):
            decode(data, "photo.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadImage, match="decompression bomb"):
        decode(jpeg(), "photo.jpg")


GRADIENT = np.linspace(0, 1, 256).reshape(16, 16)


def encoded(array, form):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("array", "form"),
    [
        (np.rint(GRADIENT * 65535).astype(np.uint16), "PNG"),
        (np.rint(GRADIENT * 65535).astype(np.uint16), "TIFF"),
        (np.rint(GRADIENT * 65535).astype(np.int32), "TIFF"),
        (np.rint(GRADIENT * 255).astype(np.int32), "TIFF"),
        (GRADIENT.astype(np.float32), "TIFF"),
        ((GRADIENT * 255).astype(np.float32), "TIFF"),
        (np.rint(GRADIENT * 255).astype(np.uint8), "PNG"),
    ],
)
def test_every_depth_gives_the_same_gray(array, form):
    """Pillow clips 16-bit images to white and cuts floats to black."""
    pixels = decode(encoded(array, form), None)
    expected = torch.from_numpy(np.rint(GRADIENT * 255).astype(np.uint8))
    assert pixels.dtype == torch.uint8 and all(torch.equal(channel, expected) for channel in pixels)


def test_a_dark_16_bit_image_stays_dark():
    assert decode(encoded(np.full((4, 4), 200, np.uint16), "PNG"), None).unique().tolist() == [1]


def test_big_endian_16_bit():
    buffer = io.BytesIO()
    Image.new("I;16B", (4, 3), 25700).save(buffer, "TIFF")
    assert decode(buffer.getvalue(), None).unique().tolist() == [100]


@pytest.mark.parametrize("values", [[-1.0, 2.0], [0.0, 70_000.0], [float("nan"), 1.0], [float("inf"), 0.0]])
def test_floats_of_an_unknown_range_are_refused(values):
    with pytest.raises(BadImage, match="pixels"):
        decode(encoded(np.array([values], np.float32), "TIFF"), "x.tif")


def png_header(width, height):
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((1, 1_500_000), r"1 x 1500000 pixels are longer than loader.max_image_aspect=50 allows"),
        ((20_000, 20_000), r"400000000 pixels|20000 x 20000 pixels"),
        ((12_000, 12_000), r"144000000 pixels|12000 x 12000 pixels are more than loader.max_image_pixels=100000000"),
        ((2**31 - 1, 2**31 - 1), r"pixels"),
    ],
)
def test_sizes_beyond_the_limits_are_refused_before_decoding(size, message):
    with pytest.raises(BadImage, match=message):
        decode(png_header(*size), "x.png")


def test_limits_are_keys():
    data = encoded(np.zeros((10, 40), np.uint8), "PNG")
    assert decode(data, None).shape == (3, 10, 40)
    with pytest.raises(BadImage, match="max_image_pixels=399"):
        decode(data, None, ImageLimits(max_pixels=399))
    with pytest.raises(BadImage, match=r"max_image_aspect=3\.9"):
        decode(data, None, ImageLimits(max_aspect=3.9))


@pytest.mark.parametrize("form", [*FORMATS, "PPM", "TGA", "ICO", "PCX", "EPS", "PDF", "DDS", "AVIF", "JPEG2000"])
def test_only_the_listed_formats_are_decoded(form, monkeypatch):
    """EPS would start Ghostscript, and the decoders of AVIF, BLP and DDS raise types of their own."""
    buffer = io.BytesIO()
    with contextlib.suppress(OSError, KeyError):  # a build of Pillow without the format
        Image.new("RGB", (40, 30), (9, 99, 199)).save(buffer, form)
    if form in FORMATS:
        assert decode(buffer.getvalue(), "x.jpg").shape == (3, 30, 40)
        return
    monkeypatch.setattr(os, "popen", None)
    with pytest.raises(BadImage, match=r"not an image|empty file"):
        decode(buffer.getvalue(), "x.jpg")


def test_postscript_is_named():
    with pytest.raises(BadImage, match=r"not an image that can be read \(PostScript\): x.jpg"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "x.jpg")


def test_files_that_are_not_regular_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    paths = [str(tmp_path / "fifo.jpg"), "/dev/zero", str(tmp_path), "/dev/stdin", "a\0b.jpg", "\ud800.jpg", ""]
    errors = {}

    def read_all():
        for path in paths:
            with contextlib.suppress(BadImage):
                decode(None, path)
                continue
            errors[path] = True

    thread = threading.Thread(target=read_all, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive() and list(errors) == paths
    with pytest.raises(BadImage, match="not a regular file: /dev/zero"):
        read_file("/dev/zero")


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_files_raise_bad_image_only(form):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)).save(buffer, form)
    rng, bad = random.Random(form), 0
    for _ in range(300):
        data = bytearray(buffer.getvalue())
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        try:
            assert decode(bytes(data), "x").dtype == torch.uint8
        except BadImage as error:
            bad += 1
            assert "\n" not in str(error)
    assert bad

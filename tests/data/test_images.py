"""The image loader: pixels or one reason, for every file, through every door."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from headstart.data import images
from headstart.data.images import (
    ImageRefused,
    Preprocess,
    Reason,
    decode,
    fit_pixels,
    inspect,
    load_image,
    load_pixels,
    read_bytes,
    thumbnail,
)
from headstart.errors import ArgumentError, DataError

REASONS = set(get_args(Reason))
PRE = Preprocess()


@pytest.fixture(scope="session")
def bad_images(dataset: Callable[[str], Path]) -> Path:
    """The folder of hostile files."""
    return dataset("bad_images")


def corpus(folder: Path) -> list[Path]:
    skipped = ("MANIFEST.tsv", ".unpacked")
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in skipped]


def picture(width: int = 48, height: int = 36, seed: int = 0) -> Image.Image:
    """A soft gradient with a little noise: no two turns or mirrors of it are alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    red, green = 230 * x / max(1, width - 1), 230 * y / max(1, height - 1)
    soft = np.stack([red, green, (red + 2 * green) / 3], axis=-1)
    return Image.fromarray((soft + rng.integers(0, 25, soft.shape)).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def rgb(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, min_side_px=None))


def reason(data: bytes) -> str:
    with pytest.raises(ImageRefused) as refused:
        decode(data, min_side_px=None)
    assert refused.value.reason in REASONS
    assert refused.value.detail
    assert str(refused.value).isprintable()
    return refused.value.reason


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *extra: bytes, pixels: bytes | None = None) -> bytes:
    """A grey PNG whose header says any size; `extra` chunks come before the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = zlib.compress(b"\0" * (height * (width + 1)) if pixels is None else pixels)
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def exif(orientation: int) -> bytes:
    out = Image.Exif()
    out[274] = orientation
    return out.tobytes()


SAMPLES: dict[str, Callable[[Image.Image], bytes]] = {
    "jpeg": lambda im: encoded(im, "JPEG", quality=90, exif=exif(6)),
    "progressive": lambda im: encoded(im, "JPEG", progressive=True),
    "png": lambda im: encoded(im, "PNG", exif=exif(3)),
    "apng": lambda im: encoded(im, "PNG", save_all=True, append_images=[im.rotate(90)]),
    "palette": lambda im: encoded(im.quantize(40), "PNG", transparency=3),
    "gif": lambda im: encoded(im, "GIF", save_all=True, append_images=[im.rotate(180)]),
    "bmp": lambda im: encoded(im, "BMP"),
    "webp": lambda im: encoded(im, "WEBP", exif=exif(8)),
    "lossless": lambda im: encoded(im.convert("RGBA"), "WEBP", lossless=True),
    "tiff": lambda im: encoded(im, "TIFF"),
    "lzw": lambda im: encoded(im, "TIFF", compression="tiff_lzw"),
    "bigtiff": lambda im: encoded(im, "TIFF", big_tiff=True),
    "jpegtiff": lambda im: encoded(im, "TIFF", compression="jpeg"),
}


# --- every file ends in pixels or one reason -------------------------------------------------

CHILD = """
import json, sys, time
from pathlib import Path
from headstart.data.images import ImageRefused, Preprocess, load_pixels

def peak_mb():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

seen, slowest, before = {}, (0, ""), peak_mb()
for name in json.load(sys.stdin):
    start = time.perf_counter()
    try:
        pixels, _ = load_pixels(name, Preprocess())
        assert pixels.shape == (224, 224, 3)
        end = "pixels"
    except ImageRefused as refused:
        end = refused.reason
    slowest = max(slowest, (time.perf_counter() - start, name))
    seen[name] = end
json.dump({"seen": seen, "slowest": slowest, "growth_mb": peak_mb() - before}, sys.stdout)
"""


def in_a_fresh_process(paths: list[Path]) -> dict[str, object]:
    """Memory is a matter of one process: its peak never falls."""
    if not sys.platform.startswith("linux"):
        pytest.skip("peak memory is read from /proc")
    names = json.dumps([str(path) for path in paths])
    command = [sys.executable, "-W", "error", "-c", CHILD]
    done = subprocess.run(
        command, input=names, capture_output=True, text=True, check=True, timeout=300
    )
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


def test_every_hostile_file_ends_in_pixels_or_one_reason_quickly_and_within_memory(
    bad_images: Path,
) -> None:
    result = in_a_fresh_process(corpus(bad_images))
    assert set(result["seen"].values()) <= REASONS | {"pixels"}
    assert result["slowest"][0] < 2.0, result["slowest"]
    assert result["growth_mb"] < 256, result["growth_mb"]


def test_no_warning_leaks_from_hostile_files_in_several_threads(bad_images: Path) -> None:
    def end(path: Path) -> str:
        try:
            return str(inspect(path, min_side_px=32)[0])
        except ImageRefused as refused:
            return refused.reason

    paths = [path for path in corpus(bad_images) if path.stat().st_size < 200_000]
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        alone = [end(path) for path in paths]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(end, paths))
    assert together == alone
    assert [str(warning.message) for warning in leaked] == []


def test_bombs_are_refused_from_the_header_at_once_and_without_memory(tmp_path: Path) -> None:
    bombs = {
        "png": png(12000, 12000, pixels=b"\0" * 40_000_000),
        "gif": b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
        + b",\0\0\0\0\1\0\1\0\0\2\2L\1\0;",
        "bmp": encoded(picture(), "BMP")[:18]
        + struct.pack("<ii", 30000, 30000)
        + b"\1\0\x18\0"
        + b"\0" * 80,
        "jpg": b"\xff\xd8\xff\xc0\0\x11\x08\xff\xdc\xff\xdc\3\1\x22\0\2\x11\1\3\x11\1\xff\xda\0\x0c",
        "webp": b"RIFF\x26\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0" + b"\0" * 30,
        "tif": encoded(Image.new("L", (1, 1)), "TIFF").replace(
            struct.pack("<HHII", 256, 4, 1, 1), struct.pack("<HHII", 256, 4, 1, 99_000_000)
        ),
    }
    paths = [tmp_path / f"bomb.{kind}" for kind in bombs]
    for path, data in zip(paths, bombs.values(), strict=True):
        path.write_bytes(data)
    result = in_a_fresh_process(paths)
    assert set(result["seen"].values()) == {"too_large"}, result["seen"]
    assert result["slowest"][0] < 0.3, result["slowest"]
    assert result["growth_mb"] < 50, result["growth_mb"]


def test_metadata_bombs_cost_nothing_and_lose_no_picture() -> None:
    bomb = zlib.compress(b"\0" * 30_000_000)
    profile = chunk(b"iCCP", b"x\0\0" + bomb)
    texts = [chunk(b"zTXt", b"x\0\0" + bomb)] * 200
    start = time.perf_counter()
    assert rgb(png(4, 3, profile, *texts)).shape == (3, 4, 3)
    assert time.perf_counter() - start < 0.3


def test_files_that_would_take_minutes_are_refused_at_once() -> None:
    photo = encoded(Image.new("L", (5000, 5000), 90), "JPEG", progressive=True)
    scan = photo[photo.rindex(b"\xff\xda") : -2]
    header = struct.pack("<IiiHHIIiiII", 40, 3000, 3000, 1, 8, 1, 0, 0, 0, 256, 0)
    runs = b"BM" + struct.pack("<IHHI", 0, 0, 0, 1078) + header + bytes(1024) + b"\1\5" * 2_500_000
    for slow in (photo[:-2] + scan * 2000 + b"\xff\xd9", runs):
        start = time.perf_counter()
        assert reason(slow) == "too_large"
        assert time.perf_counter() - start < 0.3


def test_a_tiff_directory_with_absurd_counts_is_refused() -> None:
    data = encoded(Image.new("L", (4, 4)), "TIFF")
    at = data.index(struct.pack("<HHI", 273, 4, 1))
    assert reason(data[: at + 4] + struct.pack("<I", 4_000_000_000) + data[at + 8 :]) == "corrupt"


@pytest.mark.parametrize("kind", SAMPLES)
def test_mutated_files_end_in_pixels_or_one_reason(kind: str) -> None:
    good = SAMPLES[kind](picture(24, 18))
    for seed in range(60):
        rng, data = random.Random(f"{kind}{seed}"), bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(min(len(data), rng.choice((64, len(data)))))
            action = rng.randrange(4)
            if action == 0:
                data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            elif action == 1:
                data[at : at + 4] = rng.choice(
                    (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff")
                )
            elif action == 2:
                data[at : at + rng.randrange(1, 9)] = b""
            else:
                data[at:at] = data[max(0, at - rng.randrange(40)) : at]
        if seed % 5 == 0:
            del data[rng.randrange(len(data)) :]
        with warnings.catch_warnings(record=True) as leaked:
            warnings.simplefilter("always")
            try:
                assert fit_pixels(decode(bytes(data), min_side_px=8), Preprocess(8, 9)).shape == (
                    8,
                    8,
                    3,
                )
            except ImageRefused as refused:
                assert refused.reason in REASONS
        assert leaked == []


# --- which reason ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_file_cut_short_is_never_shown_in_part(kind: str, share: float) -> None:
    first_frame = {"gif": 0.4, "apng": 0.95}.get(
        kind, 1.0
    )  # a cut in a later frame of a GIF is not seen
    data = SAMPLES[kind](picture())
    assert reason(data[: int(len(data) * share * first_frame)]) in ("truncated", "corrupt")


def test_the_reason_is_told_by_content_and_never_by_name(tmp_path: Path) -> None:
    expected = {
        "page.jpg": (b"<html><svg></svg></html>", "not_an_image"),
        "note.png": (b"BMW drives on", "not_an_image"),
        "drawing.png": (b"<?xml version='1.0'?>\n<svg xmlns='x'/>", "unsupported_format"),
        "paper.jpg": (b"%PDF-1.7", "unsupported_format"),
        "phone.jpg": (b"\0\0\0\x18ftypheic" + b"\0" * 40, "unsupported_format"),
        "next.jpg": (b"\0\0\0\x18ftypavif" + b"\0" * 40, "unsupported_format"),
        "layers.tif": (b"8BPS\0\1", "unsupported_format"),
        "map.jpg": (b"P6\n1 1\n255\nabc", "unsupported_format"),
        "empty.jpg": (b"", "zero_size"),
        "flat.png": (png(0, 5), "zero_size"),
        "magic.gif": (b"GIF89a", "truncated"),
        "magic.png": (b"\x89PNG\r\n\x1a\n", "truncated"),
        "magic.jpg": (b"\xff\xd8\xff", "truncated"),
        "colour.png": (png(2, 2).replace(b"\0\0\0\2\x08\0", b"\0\0\0\2\x08\5"), "corrupt"),
    }
    for name, (data, why) in expected.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageRefused) as refused:
            load_image(tmp_path / name)
        assert (name, refused.value.reason) == (name, why)
        assert name in str(refused.value)
    (tmp_path / "really_a_png.jpg").write_bytes(encoded(picture(), "PNG"))
    assert inspect(tmp_path / "really_a_png.jpg", min_side_px=None)[0].format == "PNG"


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    start = time.perf_counter()
    with pytest.raises(ImageRefused, match="regular file") as refused:
        read_bytes(tmp_path / "pipe.jpg")
    assert refused.value.reason == "unreadable"
    assert time.perf_counter() - start < 0.5


def test_what_cannot_be_read_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, tmp_path / "absent.jpg", tmp_path / "loop", "/dev/null", "a\0b"):
        with pytest.raises(ImageRefused) as refused:
            read_bytes(path)
        assert refused.value.reason == "unreadable"


def test_a_forbidden_file_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "secret.jpg"
    path.write_bytes(encoded(picture(), "JPEG"))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ImageRefused, match="denied"):
        read_bytes(path)


def test_a_file_beyond_the_byte_limit_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "big.jpg").write_bytes(b"\xff\xd8\xff" + b"\0" * 100)
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 100)
    with pytest.raises(ImageRefused) as refused:
        load_pixels(tmp_path / "big.jpg", PRE)
    assert refused.value.reason == "too_large"


def test_a_refusal_is_a_data_error_and_survives_a_process_boundary() -> None:
    error = ImageRefused("corrupt", "its pixels are gone", Path("a.jpg"))
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert isinstance(error, DataError)
    assert (copy.reason, copy.detail, str(copy)) == ("corrupt", "its pixels are gone", str(error))


# --- the same picture in other clothes ---------------------------------------------------------

TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("JPEG", {})]
)
def test_each_orientation_comes_out_upright(
    tmp_path: Path, orientation: int, kind: str, options: dict[str, object]
) -> None:
    upright = np.asarray(picture())
    stored = Image.fromarray(np.ascontiguousarray(TURNED[orientation](upright)))
    if kind == "TIFF":
        options = {"tiffinfo": {274: orientation}}
    elif kind == "JPEG":
        options = {"quality": 100, "subsampling": 0, "exif": exif(orientation)}
    else:
        options = {**options, "exif": exif(orientation)}
    (tmp_path / "turned").write_bytes(encoded(stored, kind, **options))
    info, image = inspect(tmp_path / "turned", min_side_px=None)
    assert (info.width, info.height, info.format) == (48, 36, kind)
    difference = np.abs(np.asarray(image).astype(int) - upright).max()
    assert difference <= (8 if kind == "JPEG" else 0)


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\1",
        b"Exif\0\0II+\0\x08\0\0\0" + b"\xff" * 8,
    ],
)
def test_a_broken_exif_block_is_ignored(block: bytes) -> None:
    assert rgb(encoded(picture(), "JPEG", exif=block)).shape == (36, 48, 3)


def test_lossless_clothes_give_equal_pixels() -> None:
    grey = picture().convert("L")
    want = np.asarray(grey.convert("RGB"))
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    clear = Image.merge("LA", (grey, Image.new("L", grey.size, 255)))
    clothes = {
        "grey": encoded(grey, "PNG"),
        "rgb": encoded(grey.convert("RGB"), "PNG"),
        "opaque alpha": encoded(grey.convert("RGBA"), "PNG"),
        "grey alpha": encoded(clear, "PNG"),
        "palette": encoded(grey.convert("P"), "PNG"),
        "16-bit png": encoded(sixteen, "PNG"),
        "16-bit tiff": encoded(sixteen, "TIFF"),
        "gif": encoded(grey, "GIF"),
        "animation": encoded(grey, "GIF", save_all=True, append_images=[grey.rotate(180)]),
        "bmp": encoded(grey, "BMP"),
        "webp": encoded(grey.convert("RGB"), "WEBP", lossless=True),
        "float tiff": encoded(Image.fromarray(np.asarray(grey).astype(np.float32) / 255), "TIFF"),
        "int tiff": encoded(Image.fromarray(np.asarray(grey).astype(np.int32)), "TIFF"),
        "big tiff": encoded(grey, "TIFF", big_tiff=True),
        "packed tiff": encoded(grey, "TIFF", compression="tiff_adobe_deflate"),
    }
    for name, data in clothes.items():
        np.testing.assert_array_equal(rgb(data), want, err_msg=name)


def test_colours_survive_every_lossless_format() -> None:
    want = np.asarray(picture())
    for kind, options in [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ]:
        np.testing.assert_array_equal(rgb(encoded(picture(), kind, **options)), want)


def test_transparency_is_laid_over_white() -> None:
    half = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    half.putpixel((1, 0), (200, 0, 0, 128))
    for data in (
        encoded(half, "PNG"),
        encoded(half, "TIFF"),
        encoded(half, "WEBP", lossless=True, exact=True),
    ):
        np.testing.assert_array_equal(rgb(data), [[[255, 255, 255], [227, 127, 127]]])
    spots = Image.new("P", (2, 1))
    spots.putpalette([10, 20, 30, 40, 50, 60])
    spots.putpixel((1, 0), 1)
    for data in (encoded(spots, "PNG", transparency=0), encoded(spots, "GIF", transparency=0)):
        np.testing.assert_array_equal(rgb(data), [[[255, 255, 255], [40, 50, 60]]])
    both = encoded(spots, "PNG", transparency=b"\x80\xff")
    np.testing.assert_array_equal(rgb(both)[0, 1], [40, 50, 60])
    assert (
        rgb(encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG", transparency=(9, 8, 7))).min()
        == 255
    )


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([0, 128, 255], [0, 128, 255]),  # 8 bits in a wider file
        ([0, 2048, 4095], [0, 128, 255]),  # 12 bits of a scientific camera: not black
        ([0, 32768, 65535], [0, 128, 255]),
    ],
)
def test_deep_grey_is_scaled_from_the_depth_that_holds_it(
    values: list[int], want: list[int]
) -> None:
    for kind in ("PNG", "TIFF"):
        deep = Image.fromarray(np.array([values], dtype=np.uint16))
        np.testing.assert_array_equal(rgb(encoded(deep, kind))[0, :, 0], want)


def test_unusual_numbers_run_from_minimum_to_maximum() -> None:
    numbers = np.array([[-1000.0, 0.0, 1000.0]])
    for kind in (np.int32, np.float32):
        data = encoded(Image.fromarray(numbers.astype(kind)), "TIFF")
        np.testing.assert_array_equal(rgb(data)[0, :, 0], [0, 128, 255])
    wild = np.array([[np.nan, np.inf, -3e38, 3e38]], dtype=np.float32)
    assert rgb(encoded(Image.fromarray(wild), "TIFF")).shape == (1, 4, 3)


def test_cmyk_bilevel_and_lab_become_rgb() -> None:
    flat = Image.new("RGB", (16, 16), (200, 40, 90))
    for data in (
        encoded(flat.convert("CMYK"), "TIFF"),
        encoded(flat.convert("CMYK"), "JPEG", quality=100),
    ):
        assert np.abs(rgb(data).astype(int) - (200, 40, 90)).max() <= 4
    assert set(np.unique(rgb(encoded(picture().convert("1"), "PNG")))) == {0, 255}
    lab = Image.new("LAB", (2, 2), (255, 128, 128))
    assert rgb(encoded(lab, "TIFF")).min() > 240


def test_only_the_first_frame_is_looked_at() -> None:
    first, later = picture(), [picture(seed=i).rotate(180) for i in range(1, 40)]
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        data = encoded(first, kind, save_all=True, append_images=later, **options)
        np.testing.assert_array_equal(rgb(data), np.asarray(first))


def test_no_metadata_is_carried_on() -> None:
    data = encoded(picture(), "JPEG", exif=exif(6), comment=b"secret", icc_profile=b"secret" * 30)
    image = decode(data, min_side_px=None)
    assert image.info == {}
    assert b"secret" not in thumbnail(image, 32)
    assert not image.getexif()


# --- what the network sees ---------------------------------------------------------------------


def resized_then_cropped(image: Image.Image, resize_px: int, size: int) -> np.ndarray:
    """The plain rule, rows first, for pictures whose whole resized copy fits in memory."""
    shorter = min(image.size)
    width, height = ((side * resize_px + shorter // 2) // shorter for side in image.size)
    rows = image.resize((width, image.height), Image.Resampling.BICUBIC)
    whole = rows.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(whole.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("sides", [(400, 300), (300, 400), (64, 64), (1500, 1000), (250, 256)])
def test_crop_equals_one_plain_call_to_pillow(sides: tuple[int, int]) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (sides[1], sides[0], 3), dtype=np.uint8)
    image, shorter = Image.fromarray(noise), min(sides)
    width, height = ((side * 256 + shorter // 2) // shorter for side in sides)
    left, top = (width - 224) // 2, (height - 224) // 2
    whole = image.resize((width, height), Image.Resampling.BICUBIC)
    want = np.asarray(whole.crop((left, top, left + 224, top + 224))).astype(int)
    assert np.abs(fit_pixels(image, PRE) - want).max() <= 1


@pytest.mark.parametrize(
    "sides",
    [
        (256, 341),
        (341, 256),
        (256, 256),
        (1, 1),
        (3, 2),
        (33, 500),
        (777, 640),
        (1023, 1),
        (5003, 97),
        (31, 6001),
    ],
)
@pytest.mark.parametrize("pre", [PRE, Preprocess(32, 36), Preprocess(64, 64)])
def test_crop_equals_the_whole_picture_resized_then_cropped(
    sides: tuple[int, int], pre: Preprocess
) -> None:
    if max(sides) / min(sides) * pre.resize_px > 70_000:
        sides = (sides[0] // 4 or 1, sides[1] // 4 or 1)
    noise = np.random.default_rng(1).integers(0, 256, (sides[1], sides[0], 3), dtype=np.uint8)
    for image in (picture(*sides), Image.fromarray(noise)):
        got = fit_pixels(image, pre).astype(int)
        want = resized_then_cropped(image, pre.resize_px, pre.size_px)
        assert np.abs(got - want).max() <= 1


@pytest.mark.parametrize("sides", [(1, 1), (1, 3000), (3000, 1), (1, 50_000_000), (50_000_000, 1)])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_extreme_proportions_cost_little(sides: tuple[int, int], fit: str) -> None:
    image = Image.new("RGB", sides, (10, 200, 30))
    start = time.perf_counter()
    pixels = fit_pixels(image, Preprocess(fit=fit))
    assert time.perf_counter() - start < 3.0
    assert pixels.shape == (224, 224, 3)
    assert (pixels == (10, 200, 30)).all(axis=-1).any()


def test_pad_keeps_proportions_on_the_mean_colour() -> None:
    pixels = fit_pixels(
        Image.new("RGB", (100, 50), "white"), Preprocess(64, 64, "pad", (0.5, 0.25, 0.0))
    )
    assert (pixels[16:48] == 255).all()
    assert (pixels[:16] == (128, 64, 0)).all()
    assert (pixels[48:] == (128, 64, 0)).all()


def test_squash_keeps_every_edge() -> None:
    image = Image.new("RGB", (300, 100))
    image.paste("white", (0, 0, 30, 100))
    pixels = fit_pixels(image, Preprocess(50, 50, "squash"))
    assert (pixels[:, :4] == 255).all()
    assert (pixels[:, 7:] == 0).all()


def test_squash_widens_nothing_that_it_will_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a line of 1 x 16,000 px would be 4096 x 16,000 on the way."""
    made = []
    resize = Image.Image.resize

    def watched(self: Image.Image, size: tuple[int, int], *rest: Any) -> Image.Image:
        made.append(size[0] * size[1])
        return resize(self, size, *rest)

    monkeypatch.setattr(Image.Image, "resize", watched)
    for sides in ((1, 16_000), (16_000, 1), (3, 40_000)):
        fit_pixels(Image.new("RGB", sides), Preprocess(512, 512, "squash"))
    assert max(made) <= 512 * 512


def test_squash_of_a_picture_that_grows_or_shrinks_is_one_resize() -> None:
    for sides in ((30, 20), (300, 200)):
        image = picture(*sides)
        want = np.array(image.resize((64, 64), Image.Resampling.BICUBIC)).astype(int)
        got = fit_pixels(image, Preprocess(64, 64, "squash"))
        assert np.abs(got - want).max() <= 1


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_the_mirrored_view_is_the_other_one_from_behind(fit: Any, tmp_path: Path) -> None:
    picture(90, 61).save(tmp_path / "x.png")
    plain = load_pixels(tmp_path / "x.png", Preprocess(32, 36, fit))[0]
    mirrored = load_pixels(tmp_path / "x.png", Preprocess(32, 36, fit, mirror=True))[0]
    assert not np.array_equal(plain, mirrored)
    np.testing.assert_array_equal(mirrored[:, ::-1], plain)
    assert mirrored.flags.c_contiguous
    assert mirrored.flags.writeable


def test_a_drafted_photo_stays_close_to_the_whole_one() -> None:
    photo = encoded(
        picture(640, 480).resize((2560, 1920), Image.Resampling.BICUBIC), "JPEG", quality=92
    )
    whole, drafted = decode(photo, min_side_px=None), decode(photo, min_side_px=256)
    assert whole.size == (2560, 1920)
    assert drafted.size == (1280, 960)
    assert min(drafted.size) >= 2 * 256
    difference = np.abs(fit_pixels(whole, PRE).astype(int) - fit_pixels(drafted, PRE))
    assert difference.mean() < 1.0
    assert np.percentile(difference, 99) <= 4


def test_a_drafted_read_still_sees_a_cut() -> None:
    photo = encoded(picture(1600, 1200), "JPEG")
    with pytest.raises(ImageRefused) as refused:
        decode(photo[: len(photo) - 200], min_side_px=64)
    assert refused.value.reason == "truncated"


def test_the_scan_and_the_hot_road_agree(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(picture(900, 700), "JPEG", exif=exif(6)))
    info, image = inspect(path, min_side_px=PRE.decode_px)
    pixels, digest = load_pixels(path, PRE)
    assert (info.width, info.height, info.mode, info.bytes) == (
        700,
        900,
        "RGB",
        path.stat().st_size,
    )
    assert info.content_hash == digest == images.content_hash(path.read_bytes())
    np.testing.assert_array_equal(fit_pixels(image, PRE), pixels)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert load_image(path).size == (700, 900)


def test_keys_differ_exactly_when_the_pixels_may() -> None:
    kinds = [
        PRE,
        Preprocess(192, 219),
        Preprocess(resize_px=288),
        Preprocess(fit="pad"),
        Preprocess(fit="squash"),
        Preprocess(mirror=True),
        Preprocess(mean=(0.5, 0.5, 0.5)),
        Preprocess(std=(0.5, 0.5, 0.5)),
    ]
    assert len({kind.key() for kind in kinds}) == len(kinds)
    assert Preprocess().key() == PRE.key()


@pytest.mark.parametrize("sides", [(0, 10), (-1, 4), (64, 32), (5000, 6000)])
def test_impossible_sides_are_refused(sides: tuple[int, int]) -> None:
    with pytest.raises(ArgumentError):
        Preprocess(*sides)


def test_thumbnails_are_small_webp_of_the_same_proportions() -> None:
    data = thumbnail(picture(400, 100), 64)
    assert Image.open(BytesIO(data)).size == (64, 16)
    assert len(data) < 3000
    assert Image.open(BytesIO(thumbnail(picture(3000, 1), 64))).size == (64, 1)
    assert Image.open(BytesIO(thumbnail(picture(10, 8), 64))).size == (10, 8)

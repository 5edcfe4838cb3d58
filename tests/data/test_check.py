"""The look at every file: what is broken is named, copies are known, and data.json says it all."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data.check import Findings, check, content_digest, inner_classes, to_json
from headstart.data.sources import Dataset, Sample, natural_key, read
from headstart.errors import DataError, MachineError
from headstart.run import write_json


def png(seed: int, side_px: int = 8) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side_px, side_px + 2, 3), np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def lay(root: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def look(root: Path, test: Path | None = None, workers: int = 2) -> tuple[Dataset, Findings]:
    dataset = read(root, test)
    return dataset, check(dataset, workers, min_side_px=32)


GOOD = {f"{c}/{i}.png": png(10 * ord(c) + i) for c in "ab" for i in range(8)}
BROKEN = {
    "a/2_cut.png": GOOD["a/1.png"][:-30],
    "a/10_text.jpg": b"no image at all",
    "b/1_empty.png": b"",
}


def test_broken_files_are_named_with_a_reason_in_natural_order_each_time(tmp_path: Path) -> None:
    lay(tmp_path, GOOD | BROKEN)
    os.mkfifo(tmp_path / "b" / "pipe.png")
    (tmp_path / "b" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "b" / "gone.png").symlink_to("nowhere")
    dataset, findings = look(tmp_path)
    assert [(item.path, item.reason) for item in findings.refused] == [
        ("a/2_cut.png", "truncated"),
        ("a/10_text.jpg", "not_an_image"),
        ("b/1_empty.png", "zero_size"),
        ("b/gone.png", "unreadable"),
        ("b/pipe.png", "unreadable"),
        ("b/zero.png", "unreadable"),
    ]
    assert all(item.detail for item in findings.refused)
    assert check(dataset, 1, min_side_px=32) == findings
    for sample, info in zip(dataset.samples, findings.infos, strict=True):
        assert (info is None) == (sample.path not in GOOD)


def test_sides_and_kinds_are_those_of_the_file(tmp_path: Path) -> None:
    _, findings = look(lay(tmp_path, GOOD))
    for info in findings.infos:
        assert info is not None
        assert (info.width, info.height, info.format) == (10, 8, "PNG")


@pytest.mark.parametrize(("broken", "passes"), [(16, True), (17, False)])
def test_a_folder_with_more_broken_than_whole_files_is_refused_with_examples(
    tmp_path: Path, broken: int, passes: bool
) -> None:
    lay(tmp_path, GOOD | {f"a/broken {i}\x1b.jpg": b"text" for i in range(broken)})
    if passes:
        assert len(look(tmp_path)[1].refused) == broken
        return
    with pytest.raises(DataError, match=r"17 of 33 files cannot be read as images") as refused:
        look(tmp_path)
    message = str(refused.value)
    assert "17 x not_an_image; for example a/broken 0\\x1b.jpg (" in message
    assert "a/broken 2\\x1b.jpg (" in message
    assert str(tmp_path) in message
    assert message.isprintable()


def test_copies_conflicts_and_leaks_are_found(tmp_path: Path) -> None:
    within, across, leaked, both, joined = (png(i) for i in range(1, 6))
    own = {f"{part}/{c}/own.png": png(hash_of(part, c)) for part in PARTS for c in "ab"}
    copies = {
        "train/a/within 1.png": within, "train/a/within 2.png": within,
        "train/a/across.png": across, "train/b/across.png": across,
        "train/a/leaked.png": leaked, "test/a/leaked 1.png": leaked, "test/a/leaked 2.png": leaked,
        "val/a/both.png": both, "test/b/both.png": both,
        "train/a/joined.png": joined, "val/a/joined.png": joined,  # val joins development
    }  # fmt: skip
    _, findings = look(lay(tmp_path, own | copies))
    across_paths = ("train/a/across.png", "train/b/across.png")
    leaked_paths = ("test/a/leaked 1.png", "test/a/leaked 2.png", "train/a/leaked.png")
    both_paths = ("test/b/both.png", "val/a/both.png")
    joined_paths = ("train/a/joined.png", "val/a/joined.png")
    within_paths = ("train/a/within 1.png", "train/a/within 2.png")
    assert set(findings.duplicates) == {
        across_paths,
        leaked_paths,
        both_paths,
        joined_paths,
        within_paths,
    }
    assert set(findings.label_conflicts) == {across_paths, both_paths}
    assert set(findings.leaks) == {leaked_paths, both_paths}


PARTS = ("train", "val", "test")


def hash_of(part: str, label: str) -> int:
    return 100 + 10 * PARTS.index(part) + ord(label)


def test_copies_in_a_given_test_folder_are_leaks(tmp_path: Path) -> None:
    lay(tmp_path / "data", GOOD)
    lay(tmp_path / "more", {"a/x.png": GOOD["a/3.png"], "b/y.png": png(999)})
    _, findings = look(tmp_path / "data", tmp_path / "more")
    assert findings.leaks == (("a/3.png", "test:a/x.png"),)


def test_a_link_to_an_image_is_a_copy_of_it(tmp_path: Path) -> None:
    lay(tmp_path, GOOD)
    (tmp_path / "b" / "link.png").symlink_to(tmp_path / "a" / "3.png")
    _, findings = look(tmp_path)
    assert findings.label_conflicts == (("a/3.png", "b/link.png"),)


def test_a_file_that_goes_away_after_the_listing_is_named(tmp_path: Path) -> None:
    dataset = read(lay(tmp_path, GOOD))
    (tmp_path / "a" / "3.png").unlink()
    (tmp_path / "a" / "4.png").unlink()
    (tmp_path / "a" / "4.png").mkdir()
    refused = check(dataset, 2, min_side_px=32).refused
    assert [(item.path, item.reason) for item in refused] == [
        ("a/3.png", "unreadable"),
        ("a/4.png", "unreadable"),
    ]


def test_the_result_does_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    dataset = read(lay(tmp_path, GOOD | BROKEN))
    results = [check(dataset, workers, min_side_px=32) for workers in (1, 2, 7)]
    assert results[0] == results[1] == results[2]


# -- data.json -----------------------------------------------------------------------------------


def test_data_json_is_strict_and_complete(tmp_path: Path) -> None:
    odd = os.fsdecode(b"a/caf\xe9 \x1b.png")
    files = GOOD | BROKEN | {odd: GOOD["b/0.png"], "b/notes.txt": b"", "b/big.png": png(5, 40)}
    dataset, findings = look(lay(tmp_path / "my photos", files))

    def parts(i: int) -> str:
        if findings.infos[i] is None:
            return "unreadable"
        return "test" if dataset.samples[i].path.endswith("3.png") else "train"

    write_json(tmp_path / "data.json", to_json(dataset, findings, parts))
    data = json.loads((tmp_path / "data.json").read_bytes().decode("utf-8"))
    details = {item.path: item.detail for item in findings.refused}
    assert data == {
        "root": "my photos",
        "n": 18,
        "classes": ["a", "b"],
        "counts": [
            {"class": "a", "total": 9, "train": 8, "test": 1},
            {"class": "b", "total": 9, "train": 8, "test": 1},
        ],
        "unreadable": [
            {"path": path, "reason": reason, "detail": details[path]}
            for path, reason in [
                ("a/2_cut.png", "truncated"),
                ("a/10_text.jpg", "not_an_image"),
                ("b/1_empty.png", "zero_size"),
            ]
        ],
        "ignored": [{"path": "b/notes.txt", "reason": "not an image by its name"}],
        "duplicates": [["a/caf\\udce9 \x1b.png", "b/0.png"]],
        "label_conflicts": [["a/caf\\udce9 \x1b.png", "b/0.png"]],
        "leaks": [],
        "formats": {"PNG": 18},
        "width_px": {"min": 10, "median": 10, "max": 42},
        "height_px": {"min": 8, "median": 8, "max": 40},
    }


def test_one_digest_for_one_set_of_images_whatever_their_names_and_order(tmp_path: Path) -> None:
    contents = [f"{i:032x}" for i in range(20)]
    shuffled = random.Random(1).sample(contents, 20)
    assert content_digest(tmp_path, contents) == content_digest(tmp_path / "x", shuffled)
    assert content_digest(tmp_path, contents) != content_digest(tmp_path, contents[1:])
    assert content_digest(tmp_path, contents) != content_digest(tmp_path, [*contents, contents[0]])


# -- hostile files -------------------------------------------------------------------------------


def test_hostile_files_among_photos_are_sorted_out_and_never_end_the_look(
    dataset: Callable[[str], Path], photos: Path
) -> None:
    hostile = [p for p in sorted(dataset("bad_images").rglob("*")) if p.is_file()][::8]
    for i, path in enumerate(hostile):
        (photos / "red" / f"x{i}{path.suffix}").write_bytes(path.read_bytes())
    found = read(photos)
    keep = [s for s in found.samples if "/x" not in s.path]
    more = found.samples * 3  # enough good files to stay under the limit
    many = Dataset(found.root, found.classes, (*more, *keep * 9), found.ignored)
    findings = check(many, 2, min_side_px=64)
    refused = {item.path for item in findings.refused}
    assert refused
    assert all("/x" in path for path in refused)
    unique = list(dict.fromkeys(item.path for item in findings.refused))
    assert unique == sorted(refused, key=natural_key)


def test_a_table_of_one_hundred_copies_is_one_group(tmp_path: Path) -> None:
    dataset = read(lay(tmp_path, {f"{c}/{i}.png": png(1) for c in "ab" for i in range(50)}))
    findings = check(dataset, 2, min_side_px=32)
    assert [len(group) for group in findings.duplicates] == [100]
    assert isinstance(dataset.samples[0], Sample)


@pytest.mark.slow
def test_processes_find_what_threads_find(
    photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("odd \udcff name.png", "ünï\nline.png"):
        (photos / "red" / name).write_bytes((photos / "red" / "red_0.png").read_bytes())
    (photos / "blue" / "cut.png").write_bytes((photos / "blue" / "blue_0.png").read_bytes()[:90])
    dataset = read(photos)
    alone = check(dataset, 2, 256)
    assert alone.refused and alone.duplicates
    monkeypatch.setattr("headstart.data.check.CREW_FROM", 1)
    monkeypatch.setattr("headstart.data.crew.CHUNK", 5)
    assert check(dataset, 2, 256) == alone


def test_a_child_that_dies_is_an_error_and_no_child_is_left(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.data.check.CREW_FROM", 1)
    started = []

    def dying(min_side_px: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit(9)"]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return started[-1]

    monkeypatch.setattr("headstart.data.crew._start", dying)
    with pytest.raises(MachineError, match="exit code 9"):
        check(read(photos), 2, 256)
    assert all(child.poll() is not None for child in started)


@pytest.mark.parametrize(
    ("paths", "warned"),
    [
        (["2023/ants/1", "2023/bees/1", "2024/ants/1", "2024/bees/1"], True),
        (["2023/ants/1", "2023/bees/1", "2024/ants/1", "2024/wasps/1"], False),
        (["ants/1", "ants/old/2", "bees/1", "bees/old/2"], False),
        (["a/one/1", "b/one/1"], False),
    ],
)
def test_classes_that_may_lie_one_level_deeper_are_asked_about(
    paths: list[str], warned: bool
) -> None:
    names = sorted({path.partition("/")[0] for path in paths})
    samples = tuple(Sample(path, names.index(path.partition("/")[0])) for path in paths)
    sentence = inner_classes(Dataset(Path("x"), tuple(names), samples, ()))
    assert bool(sentence) == warned
    assert not warned or "(ants, bees)" in sentence

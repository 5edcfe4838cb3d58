"""Finding the images: names only, each real file once, the same table on every machine."""

from __future__ import annotations

import os
import random
import socket
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.data import sources
from headstart.data.sources import Dataset, natural_key, read
from headstart.errors import DataError

needs_links = pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")


def lay(root: Path, paths: Iterable[str]) -> Path:
    """Empty files; nothing is decoded here. A path that ends in / is a folder."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            (root / path).mkdir(exist_ok=True)
        else:
            (root / path).touch()
    return root


def table(found: Dataset) -> dict[str, tuple[str, str | None]]:
    return {s.path: (found.classes[s.label], s.split) for s in found.samples}


def ignored(found: Dataset) -> dict[str, str]:
    return dict(found.ignored)


# -- order ---------------------------------------------------------------------------------------


def test_names_are_ordered_as_people_count() -> None:
    names = ["a1", "10", "2", "1", "01", "a", "B", "a10", "a2", "img9.png", "img10.png", "ab"]
    want = ["01", "1", "2", "10", "a", "a1", "a2", "a10", "ab", "B", "img9.png", "img10.png"]
    assert sorted(names, key=natural_key) == want
    assert sorted(["²", "1" * 5_000, "٣", "2"], key=natural_key)[0] == "2"  # no crash: no int()


@given(st.lists(st.text(st.characters(exclude_categories=()))), st.randoms())
def test_the_order_does_not_depend_on_how_the_names_came(
    names: list[str], shuffle: random.Random
) -> None:
    once = sorted(names, key=natural_key)
    shuffle.shuffle(names)
    assert sorted(names, key=natural_key) == once


def test_the_table_does_not_depend_on_the_order_of_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [
        f"{c}/{sub}{i}.png" for c in ("10", "2", "b", "B") for sub in ("", "x/") for i in (3, 20)
    ]
    lay(tmp_path, paths)
    want = read(tmp_path)
    assert want.classes == ("2", "10", "B", "b")
    scandir = os.scandir

    class Backwards:
        def __init__(self, folder: str) -> None:
            self.entries = list(scandir(folder))[::-1]

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Backwards)
    assert read(tmp_path) == want


def test_a_moved_folder_gives_the_same_table(tmp_path: Path) -> None:
    lay(tmp_path / "here", ["a/1.png", "b/2.png"])
    before = read(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    after = read(tmp_path / "there")
    assert (after.samples, after.classes) == (before.samples, before.classes)
    assert after.locate(after.samples[0]).exists()


# -- layouts -------------------------------------------------------------------------------------


def test_sub_folders_are_classes_and_files_count_at_any_depth(tmp_path: Path) -> None:
    lay(tmp_path, ["cats/1.jpg", "cats/deep/er/2.JPG", "dogs/no_suffix", "loose.jpg"])
    found = read(tmp_path)
    assert table(found) == {
        "cats/1.jpg": ("cats", None),
        "cats/deep/er/2.JPG": ("cats", None),
        "dogs/no_suffix": ("dogs", None),
    }
    assert not found.has_test
    assert ignored(found) == {"loose.jpg": "lies outside every class folder"}
    assert all(found.locate(sample).is_file() for sample in found.samples)


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        ({"train": "train", "val": "val", "test": "test"}, {"train", "val", "test"}),
        ({"Train": "train", "VALID": "val", "Test": "test"}, {"train", "val", "test"}),
        ({"training": "train", "testing": "test"}, {"train", "test"}),
        ({"train": "train", "val": "test"}, {"train", "test"}),  # no test part: val serves
        ({"train": "train", "dev": "test", "validation": "test"}, {"train", "test"}),
        ({"train": "train"}, {"train"}),
    ],
)
def test_the_users_split_is_kept_and_val_is_the_test_part_only_without_one(
    tmp_path: Path, folders: dict[str, str], splits: set[str]
) -> None:
    lay(tmp_path, [f"{folder}/{c}/{i}.png" for folder in folders for c in "ab" for i in range(2)])
    found = read(tmp_path)
    assert found.classes == ("a", "b")
    assert {s.split for s in found.samples} == splits
    for sample in found.samples:
        assert sample.split == folders[sample.path.split("/")[0]]


def test_val_joins_development_beside_a_given_test_folder(tmp_path: Path) -> None:
    lay(tmp_path / "data", [f"{part}/{c}/1.png" for part in ("train", "val") for c in "ab"])
    lay(tmp_path / "more", ["a/1.png", "b/1.png"])
    found = read(tmp_path / "data", tmp_path / "more")
    assert Counter(s.split for s in found.samples) == {"train": 2, "val": 2, "test": 2}
    for sample in found.samples:
        inside = tmp_path / ("more" if sample.split == "test" else "data")
        assert found.locate(sample).is_file()
        assert inside in found.locate(sample).parents


def test_a_class_called_test_colon_is_no_part_of_the_test_folder(tmp_path: Path) -> None:
    lay(tmp_path / "data", ["test:a/1.png", "b/1.png"])
    lay(tmp_path / "more", ["test:a/2.png", "b/2.png"])
    found = read(tmp_path / "data", tmp_path / "more")
    assert len({found.locate(s) for s in found.samples if found.locate(s).is_file()}) == 4


def test_unlabelled_test_images_are_no_test_part(tmp_path: Path) -> None:
    lay(tmp_path, ["train/a/1.png", "train/b/1.png", "val/a/2.png", "test/1.png", "test/2.png"])
    found = read(tmp_path)
    assert table(found)["val/a/2.png"] == ("a", "test")
    assert ignored(found)["test/1.png"] == "lies outside every class folder"


@pytest.mark.parametrize("third", ["bus", "aaa"])
def test_trains_and_tests_are_classes_when_they_hold_images(tmp_path: Path, third: str) -> None:
    lay(tmp_path, [f"{c}/1.png" for c in ("train", "test", third)])
    found = read(tmp_path)
    assert set(found.classes) == {"train", "test", third}
    assert {s.split for s in found.samples} == {None}


def test_a_class_called_train_may_hold_folders(tmp_path: Path) -> None:
    lay(tmp_path, ["train/steam/1.png", "train/diesel/2.png", "bus/3.png"])
    assert read(tmp_path).classes == ("bus", "train")


def test_folders_beside_the_split_are_no_classes_and_are_named(tmp_path: Path) -> None:
    lay(tmp_path, [f"{p}/{c}/1.png" for p in ("train", "test", "old_copy") for c in "ab"])
    found = read(tmp_path)
    assert found.classes == ("a", "b")
    assert ignored(found) == {"old_copy/": "lies beside the folders of the split"}


@pytest.mark.parametrize(
    "paths",
    [
        ["train/1.png", "test/2.png"],  # labels in a table, or two classes: nobody can know
        ["train/1.png"],
        ["train/1.png", "test/a/1.png", "test/b/1.png"],
        ["test/a/1.png", "test/b/1.png", "val/a/1.png"],
        ["train/", "test/a/1.png"],
    ],
)
def test_a_split_without_classes_to_train_on_is_explained(tmp_path: Path, paths: list[str]) -> None:
    with pytest.raises(DataError, match=r"no training part.*train/cats/1\.jpg.*rename"):
        read(lay(tmp_path, paths))


def test_a_second_test_part_is_refused(tmp_path: Path) -> None:
    data = lay(tmp_path / "data", [f"{p}/{c}/1.png" for p in ("train", "Test") for c in "ab"])
    other = lay(tmp_path / "other", ["a/1.png"])
    for test in (other, data / "Test"):
        with pytest.raises(DataError, match="has a test part of its own") as refused:
            read(data, test)
        assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ([], "No images were found in the folder of --test"),
        (["1.png", "a/"], "No images were found in the folder of --test"),
        (
            ["a/1.png", "zebra/1.png", "yak/1.png"],
            "training has not: yak.*Classes of training: a, b",
        ),
    ],
)
def test_a_test_folder_that_does_not_fit_is_refused(
    tmp_path: Path, paths: list[str], words: str
) -> None:
    data = lay(tmp_path / "data", ["a/1.png", "b/1.png", "val/1.png"][:2])
    (tmp_path / "more").mkdir()
    with pytest.raises(DataError, match=words):
        read(data, lay(tmp_path / "more", paths))


def test_a_given_test_folder_without_images_is_never_replaced_by_val(tmp_path: Path) -> None:
    data = lay(tmp_path / "data", [f"{p}/{c}/1.png" for p in ("train", "val") for c in "ab"])
    with pytest.raises(DataError, match="folder of --test"):
        read(data, lay(tmp_path / "more", ["a/"]))


def test_the_data_folder_itself_is_no_test_folder(tmp_path: Path) -> None:
    lay(tmp_path / "data", ["a/1.png", "b/1.png"])
    (tmp_path / "link").symlink_to("data")
    for test in (tmp_path / "data", tmp_path / "link"):
        with pytest.raises(DataError, match="the data folder itself"):
            read(tmp_path / "data", test)


def test_a_test_folder_that_lies_among_the_classes_is_not_trained_on(tmp_path: Path) -> None:
    lay(tmp_path, ["a/1.png", "b/1.png", "holdout/a/2.png", "holdout/b/2.png"])
    found = read(tmp_path, tmp_path / "holdout")
    assert found.classes == ("a", "b")
    assert Counter(s.split for s in found.samples) == {None: 2, "test": 2}


# -- what is no data set -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "where", "words"),
    [
        ([], "absent", "does not exist"),
        (["photo.jpg"], "photo.jpg", "is a file.*one sub-folder per class"),
        (["t.csv"], "t.csv", r"is a file.*A table\? Give it as --table .*t\.csv"),
        ([], "", "No images were found.*my_photos/cats"),
        (["1.jpg", "2.jpg"], "", "No images.*2 entries without a class.*folder of its own"),
        (["a/", "b/"], "", "No images were found"),
        (["a/.hidden.png", "b/notes.txt"], "", "No images were found"),
        (["cats/1.jpg"], "", "only one class.*cats.*second class"),
        (["cats/1.jpg", "dogs/"], "", "only one class.*cats"),
        (["train/cats/1.jpg", "test/cats/2.jpg"], "", "only one class.*cats"),
    ],
)
def test_what_is_no_data_set_is_explained(
    tmp_path: Path, paths: list[str], where: str, words: str
) -> None:
    lay(tmp_path, paths)
    with pytest.raises(DataError, match=words) as refused:
        read(tmp_path / where)
    assert refused.value.exit_code == 2
    assert str(tmp_path) in str(refused.value)


def test_a_folder_too_many_is_the_hint_at_any_depth(tmp_path: Path) -> None:
    lay(tmp_path, ["set/v1/cats/1.jpg", "set/v1/dogs/1.jpg", "set/.git/", "__MACOSX/x/"])
    with pytest.raises(DataError, match=rf"Did you mean {tmp_path}/set/v1\?"):
        read(tmp_path)


def test_an_empty_class_folder_is_named_and_is_no_class(tmp_path: Path) -> None:
    lay(tmp_path, [f"{p}/{c}/1.png" for p in ("train", "test") for c in "ab"])
    lay(tmp_path, ["train/empty/", "test/c/only.txt"])
    found = read(tmp_path)
    assert found.classes == ("a", "b")
    assert ignored(found)["train/empty/"] == "class folder without images"
    assert ignored(found)["test/c/"] == "class folder without images"


def test_litter_is_left_out_and_named(tmp_path: Path) -> None:
    litter = [
        ".DS_Store", "a/.DS_Store", "a/._1.png", "a/Thumbs.db", "b/desktop.ini", "a/sub/Icon\r",
        "a/labels.csv", "b/notes.TXT",
    ]  # fmt: skip
    folders = ["__MACOSX/a/", ".ipynb_checkpoints/", "a/.ipynb_checkpoints/", "@eaDir/"]
    lay(tmp_path, ["a/1.png", "b/1.png", *litter, *folders, "__MACOSX/a/1.png"])
    found = read(tmp_path)
    assert set(table(found)) == {"a/1.png", "b/1.png"}
    want = {*litter, "__MACOSX", ".ipynb_checkpoints", "a/.ipynb_checkpoints", "@eaDir"}
    assert set(ignored(found)) == want
    assert [path for path, _ in found.ignored] == sorted(want, key=natural_key)


def test_runs_in_the_data_folder_are_not_taken_for_classes(tmp_path: Path) -> None:
    lay(tmp_path, ["a/1.png", "b/1.png"])
    for run in ("runs/x-1", "a/run"):
        lay(tmp_path, [f"{run}/run.json", f"{run}/.lock", f"{run}/model/model.onnx"])
    found = read(tmp_path)
    assert set(table(found)) == {"a/1.png", "b/1.png"}
    assert ignored(found)["runs/x-1"] == "a run of headstart"


def test_an_unreadable_class_folder_is_an_error_and_a_folder_within_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, ["a/1.png", "a/secret/2.png", "b/1.png"])
    scandir = os.scandir
    closed = "secret"

    def forbidding(folder: Path | int) -> object:  # as root, permissions do not bite
        if not isinstance(folder, int) and Path(folder).name == closed:
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", forbidding)
    assert ignored(read(tmp_path)) == {"a/secret/": "folder cannot be read (Permission denied)"}
    closed = "b"
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\).*/b\b"):
        read(tmp_path)


# -- links, pipes --------------------------------------------------------------------------------


@needs_links
def test_links_in_circles_and_upwards_end_and_steal_no_images(tmp_path: Path) -> None:
    root = lay(tmp_path / "data", ["a/1.png", "b/2.png", "c/sub/3.png"])
    lay(tmp_path, ["outside/4.png"])
    (root / "a" / "parent").symlink_to("..")
    (root / "a" / "above").symlink_to(tmp_path)
    (root / "a" / "everything").symlink_to("/")
    (root / "a" / "self").symlink_to("self")
    (root / "a" / "here").symlink_to(".")
    (root / "a" / "sideways").symlink_to("../c/sub")
    (root / "b" / "mutual").symlink_to("../c/mutual")
    (root / "c" / "mutual").symlink_to("../b/mutual")
    (root / "aa").symlink_to("b")  # sorts before the folder it leads to
    (root / "0").symlink_to("../data")
    began = time.monotonic()
    found = read(root)
    assert time.monotonic() - began < 2
    assert found.classes == ("a", "b", "c")
    paths = table(found)
    loops = {"a/self", "b/mutual", "c/mutual"}  # looked at as images, and refused there
    assert set(paths) == {"a/1.png", "b/2.png", "c/sub/3.png", *loops}
    assert paths["c/sub/3.png"] == ("c", None)
    elsewhere = "link to a folder that is looked at elsewhere"
    for link in ("a/parent/", "a/above/", "a/everything/", "a/here/", "a/sideways/", "aa/", "0/"):
        assert ignored(found)[link] == elsewhere


@needs_links
def test_links_to_folders_outside_are_followed_once(tmp_path: Path) -> None:
    lay(tmp_path, ["store/cats/1.png", "store/cats/deep/2.png", "store/dogs/3.png", "more/4.png"])
    (tmp_path / "store" / "dogs" / "cats").symlink_to("../cats")
    root = tmp_path / "data"
    root.mkdir()
    for name in ("cats", "dogs", "cats_again"):
        (root / name).symlink_to(tmp_path / "store" / name.split("_")[0])
    (tmp_path / "store" / "cats" / "more").symlink_to(tmp_path / "more")
    found = read(root)
    assert table(found) == {
        "cats/1.png": ("cats", None),
        "cats/deep/2.png": ("cats", None),
        "cats/more/4.png": ("cats", None),
        "dogs/3.png": ("dogs", None),
    }
    assert all(found.locate(s).is_file() for s in found.samples)


@needs_links
def test_pipes_sockets_devices_and_broken_links_are_listed_and_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, ["a/1.png", "b/2.png"])
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "a" / "gone.png").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("b/socket.png")
        found = read(tmp_path)
    assert len(found.samples) == 6  # the look at each file refuses these four by name


# -- names ---------------------------------------------------------------------------------------

ODD = [
    b"\xff\xfe.png", b"-rf", b" spaces .png", "😀.png".encode(), b"new\nline.png", b"\x1b[31m.png",
    b"x" * 255, "e\u0301.png".encode(), "\u00e9.png".encode(), b"Twin.png", b"twin.png",
    b"'; DROP TABLE", b"<script>.png", b"con", b"%00.png", "\u202egnp.exe".encode(),
]  # fmt: skip


@needs_links
def test_odd_names_are_found_each_once(tmp_path: Path) -> None:
    lay(tmp_path, [f"{c}/{os.fsdecode(odd)}" for c in "ab" for odd in ODD])
    there = sum(len(list((tmp_path / c).iterdir())) for c in "ab")  # some systems merge twins
    found = read(tmp_path)
    assert len({s.path for s in found.samples}) == there
    assert all(found.locate(s).is_file() for s in found.samples)
    assert not found.ignored


@needs_links
def test_class_names_are_text_and_two_spellings_of_an_accent_are_one_class(tmp_path: Path) -> None:
    composed, split = "B\u00e4ren", unicodedata.normalize("NFD", "B\u00e4ren")
    odd = os.fsdecode(b"caf\xe9")
    lay(tmp_path, [f"train/{composed}/1.png", f"test/{split}/2.png", f"train/{odd}/3.png"])
    found = read(tmp_path)
    assert found.classes == (composed, "caf\\udce9")
    assert {s.path: s.label for s in found.samples}[f"test/{split}/2.png"] == 0
    assert all(found.locate(s).is_file() for s in found.samples)


# -- size ----------------------------------------------------------------------------------------


def test_a_thousand_classes_of_one_image_are_read_in_natural_order(tmp_path: Path) -> None:
    lay(tmp_path, [f"{i}/x.png" for i in range(1_000)])
    found = read(tmp_path)
    assert found.classes == tuple(str(i) for i in range(1_000))
    assert [s.label for s in found.samples] == list(range(1_000))


def test_many_files_are_found_fast(tmp_path: Path) -> None:
    for c in range(20):
        (tmp_path / f"class_{c}").mkdir()
        for i in range(1_000):
            os.close(os.open(tmp_path / f"class_{c}" / f"IMG_{i}.jpg", os.O_CREAT | os.O_WRONLY))
    began = time.process_time()
    found = read(tmp_path)
    assert time.process_time() - began < 1.2  # 10^5 files in 6 s
    assert len(found.samples) == 20_000
    assert found.samples[10].path == "class_0/IMG_10.jpg"


def test_a_real_set_with_train_and_val_is_tested_on_val(dataset: Callable[[str], Path]) -> None:
    found = read(dataset("hymenoptera"))
    assert found.classes == ("ants", "bees")
    for sample in found.samples:
        assert sample.split == {"train": "train", "val": "test"}[sample.path.split("/")[0]]
    assert len(found.samples) > 100


def test_the_names_of_parts_are_known_in_lower_case() -> None:
    assert all(name == name.casefold() for name in sources.SPLITS)

"""What is known of images that were held out, on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from headstart.held_out import count_test_use


def test_looks_at_one_test_part_are_counted_and_a_damaged_count_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    assert [count_test_use(["b", "a"]), count_test_use(["a", "b"]), count_test_use(["c"])] == [
        1,
        2,
        1,
    ]
    for path in (tmp_path / "test_sets").iterdir():
        path.write_text('{"scored": "many"}')
    assert count_test_use(["a", "b"]) == 1

"""All pairs of N things that are alike, in tiles: time grows with N x N, memory only with N."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from headstart.parallel import one_blas_thread, ordered_map

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

ROWS, COLUMNS = 256, 2048
"""A tile of similarities is 2 MB, so that it stays in the processor's cache."""


def nearest_pairs(
    alike: Callable[[slice, slice], Floats], n: int, neighbours: int, least: float, workers: int
) -> Ints:
    """Pairs [P, 2], first < second, of things that are alike, without a table of N x N.

    Args:
        alike: similarity [rows, columns] of two ranges of the n things; symmetric.
        neighbours: every thing is paired with at most so many that come after it.
        least: similarity from which a pair is worth a look.
    """

    def search(start: int) -> Ints:
        count = min(ROWS, n - start)
        floor = np.full(count, least, np.float32)
        best = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        for left in range(start, n, COLUMNS):
            columns = slice(left, min(left + COLUMNS, n))
            table = alike(slice(start, start + count), columns)
            if left < start + count:
                table[np.tri(table.shape[0], table.shape[1], start - left, dtype=bool)] = -1
            row, column = np.nonzero(table > floor[:, None])
            if len(row):
                best = _most_alike(
                    np.concatenate([best[0], row]),
                    np.concatenate([best[1], column + left]),
                    np.concatenate([best[2], table[row, column]]),
                    neighbours,
                    floor,
                )
        return np.stack([best[0] + start, best[1]], axis=1)

    with one_blas_thread():
        parts = list(ordered_map(search, range(0, n, ROWS), workers))
    return np.concatenate([np.empty((0, 2), np.int64), *parts])


def _most_alike(
    row: Ints, column: Ints, value: Floats, neighbours: int, floor: Floats
) -> tuple[Ints, Ints, Floats]:
    """The best few of every row; raises the floor of rows that have enough."""
    order = np.lexsort((column, -value, row))
    row, column, value = row[order], column[order], value[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    last = rank == neighbours - 1
    floor[row[last]] = value[last]
    keep = rank < neighbours
    return row[keep], column[keep], value[keep]

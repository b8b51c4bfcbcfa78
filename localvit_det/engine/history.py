"""The numbers that a training has logged, kept in arrays with free places at their end.

MMEngine's `HistoryBuffer` copies all that it has at each new number: after 90,000 iterations that takes longer than
everything else that is done between two iterations.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer

_FIRST_PLACES = 64


class GrowingHistory(HistoryBuffer):
    """MMEngine's history of one number, whose arrays double where they are full; copied or pickled it is MMEngine's.

    What `data` has returned once stays as it is: nothing is written over.

    Args:
        history: What there is already.
    """

    def __init__(self, history: HistoryBuffer) -> None:
        self.max_length = history.max_length
        self._set_default_statistics()
        self._places = np.array(history.data, float)  # 2×N: numbers and counts
        self._log_history, self._count_history = self._places
        self._end = len(self._log_history)

    def update(self, log_val: int | float, count: int = 1) -> None:
        """Add a number; of more than `max_length` the oldest is left out."""
        if self._end == self._places.shape[1]:
            kept = np.stack(self.data)
            self._end = kept.shape[1]
            self._places = np.empty((2, max(_FIRST_PLACES, 2 * self._end)))
            self._places[:, : self._end] = kept
        self._places[:, self._end] = log_val, count
        self._end += 1
        begin = self._end - min(len(self._log_history) + 1, self.max_length)
        self._log_history, self._count_history = self._places[:, begin : self._end]

    def __reduce__(self) -> tuple[Any, ...]:
        return HistoryBuffer, (*self.data, self.max_length)


class Histories(OrderedDict[str, HistoryBuffer]):
    """All numbers of a run by name, in the place of the dictionary in MMEngine's `MessageHub`."""

    def __setitem__(self, name: str, history: HistoryBuffer) -> None:
        super().__setitem__(name, GrowingHistory(history))

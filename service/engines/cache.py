"""Encoded prompts, kept."""

import threading
from collections import OrderedDict
from collections.abc import Hashable

from service.engines.contract import Conditioning


class ConditioningCache:
    """The ``size`` conditionings used last. They are immutable, so all callers share them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[Hashable, Conditioning] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Conditioning | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Hashable, conditioning: Conditioning) -> None:
        with self._lock:
            self._kept[key] = conditioning
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)

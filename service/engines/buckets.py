"""Calls of any number of rows, on networks compiled for fixed numbers of rows.

A network is compiled for 1, 2, 4 or 8 rows of one size, and a call is cut into such buckets. A row's bytes depend
neither on its bucket, nor on its neighbours, nor on the number of threads (tested; latents below 16 x 16 are too small
for that: OpenVINO splits the sums of a lone 8 x 8 latent over its threads). The smallest bucket is compiled when it is
first needed; larger ones follow in the background and are used once they are there.

The cores form two lanes, so that two calls run side by side; a lone call of several rows is spread over both, a lone
single row gets all cores. On two Zen 5 cores in bf16, milliseconds per row (25 M UNet, latent 32 x 32 / 16 x 16):

    a pair of rows on all cores        15.6 / 6.3      what one request gets elsewhere
    its rows side by side, one a lane  14.1 / 6.0      what one request gets here
    two pairs side by side             12.8 / 4.8      two requests
    four rows on each lane             11.8 / 4.0      four requests, merged by the gate
    eight rows on each lane            11.7 / 3.6
"""

import logging
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.engines.contract import Array
from service.engines.runtimes import Executable, Finish, Runtime
from service.engines.tensors import Inputs

log = logging.getLogger(__name__)

ROWS = (8, 4, 2, 1)
LANES = 2
IDLE = 0.005  # seconds without a call after which the next caller counts as alone


@dataclass(frozen=True, eq=False)
class Source:
    """A network file; ``shared`` if its calls run in lanes, else every call takes all cores."""

    file: Path
    sha256: str
    shared: bool


@dataclass(frozen=True)
class _Bucket:
    source: Source
    shapes: tuple[tuple[str, tuple[int, ...]], ...]  # of every input, rows first
    streams: int  # calls that share the cores


class Buckets:
    """Everything that is compiled, and who runs where."""

    def __init__(self, runtime: Runtime) -> None:
        self.lanes = min(LANES, runtime.threads)
        self._runtime = runtime
        self._compiled: dict[_Bucket, Future[Executable]] = {}
        self._compilers = ThreadPoolExecutor(2, "compile")
        self._lock = threading.Lock()
        self._busy, self._last_caller, self._last_end = 0, 0, 0.0

    def run(self, source: Source, inputs: Inputs) -> list[Array]:
        """The network's outputs for all rows."""
        alone = self._enter()
        try:
            return self._spread(source, inputs, alone)
        finally:
            self._leave()

    def prepare(self, source: Source, row: Inputs) -> Future[Executable]:
        """Begin to compile what any call needs that is shaped like this row."""
        return self._compile(source, row, shared=source.shared)

    def anticipate(self, source: Source, row: Inputs) -> None:
        """Begin to compile what makes the calls of a lone request, or of two, faster."""
        if source.shared and self.lanes > 1:
            self._compile(source, row, shared=False)
            self._compile(source, {name: np.repeat(array, 2, 0) for name, array in row.items()}, shared=True)

    def close(self) -> None:
        self._compilers.shutdown(cancel_futures=True)

    def _enter(self) -> bool:
        """Count a call in; whether its caller has the cores to itself, judged by the call before it."""
        with self._lock:
            me, now = threading.get_ident(), time.monotonic()
            alone = self._busy == 0 and (self._last_caller == me or now - self._last_end > IDLE)
            self._busy += 1
            self._last_caller = me
            return alone

    def _leave(self) -> None:
        with self._lock:
            self._busy -= 1
            self._last_end = time.monotonic()

    def _spread(self, source: Source, inputs: Inputs, alone: bool) -> list[Array]:
        """Buckets in order of their rows, on every lane at once if the caller is alone, else on one."""
        rows, width = count(inputs), self.lanes if alone and source.shared else 1
        running: deque[Finish] = deque()
        start, outputs = 0, []
        while start < rows:
            largest = max(1, rows // width)
            size, begin = self._choose(source, cut(inputs, start, min(rows, start + largest)), alone and rows == 1)
            if len(running) == width:
                outputs.append(running.popleft()())
            running.append(begin(cut(inputs, start, start + size)))
            start += size
        outputs += [finish() for finish in running]
        return outputs[0] if len(outputs) == 1 else [np.concatenate(parts) for parts in zip(*outputs, strict=True)]

    def _choose(self, source: Source, inputs: Inputs, all_cores: bool) -> tuple[int, Executable]:
        """The largest bucket that fits and is compiled; single rows are worth waiting for."""
        if all_cores and _is_ready(wide := self._compile(source, inputs, shared=False)):
            return 1, wide.result()
        for size in (size for size in ROWS if 1 < size <= count(inputs)):
            if _is_ready(bucket := self._compile(source, cut(inputs, 0, size), shared=source.shared)):
                return size, bucket.result()
        return 1, self._compile(source, cut(inputs, 0, 1), shared=source.shared).result()

    def _compile(self, source: Source, inputs: Inputs, *, shared: bool) -> Future[Executable]:
        """The network for these shapes, begun now if nobody has asked for it before."""
        shapes = tuple((name, array.shape) for name, array in inputs.items())
        bucket = _Bucket(source, shapes, self.lanes if shared else 1)
        with self._lock:
            if bucket not in self._compiled:
                self._compiled[bucket] = self._compilers.submit(self._build, bucket)
            return self._compiled[bucket]

    def _build(self, bucket: _Bucket) -> Executable:
        source = bucket.source
        try:
            return self._runtime.compile(source.file, source.sha256, dict(bucket.shapes), bucket.streams)
        except Exception:
            log.exception("%s cannot be compiled for %s", source.file, bucket.shapes)
            raise


def _is_ready(network: Future[Executable]) -> bool:
    return network.done() and network.exception() is None


def count(inputs: Inputs) -> int:
    """Rows of a call."""
    return len(next(iter(inputs.values())))


def cut(inputs: Inputs, start: int, stop: int) -> Inputs:
    """Some rows of a call, without a copy."""
    return {name: array[start:stop] for name, array in inputs.items()}

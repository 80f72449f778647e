"""What hangs outside the denoiser while a picture is made: interruption, counting, previews."""

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from service import images
from service.diffusion.types import Array, Denoised, Denoiser
from service.engines.contract import Ticket
from service.recipe import Recipe

Pixels = NDArray[np.uint8]
After = Callable[["Progress", Array, float], None]  # after an evaluation: progress, x0, its seconds


class Progress:
    """The outermost denoiser wrapper: interrupts between network calls, counts, tells ``after`` what it saw."""

    def __init__(self, recipe: Recipe, ticket: Ticket, after: After) -> None:
        self.total = len(recipe.sigmas) - 1
        self.step = self.evaluations = 0
        self._sigmas, self._ticket, self._after = recipe.sigmas[:-1], ticket, after

    def __call__(self, denoise: Denoiser) -> Denoiser:
        def watched(x: Array, sigma: float) -> Denoised:
            self._ticket.check()
            started = perf_counter()
            denoised = denoise(x, sigma)
            self.evaluations += 1
            # found by sigma, not by counting: Heun evaluates twice in a step
            self.step = max(self.step, 1, sum(level >= sigma for level in self._sigmas))
            self._after(self, denoised.x0, perf_counter() - started)
            return denoised

        return watched

    @property
    def stage(self) -> str:
        """Where a cancelled picture stood."""
        return "text_encode" if self.step == 0 else "denoise" if self.step < self.total else "decode"


class Previewer:
    """Shows x0 through the model's linear latent-to-RGB map, at evenly spaced steps before the last."""

    def __init__(
        self, recipe: Recipe, count: int, factors: Sequence[Sequence[float]], show: Callable[[Pixels, int, int], None]
    ) -> None:
        total = len(recipe.sigmas) - 1
        self._due = sorted({total * (i + 1) // (count + 1) for i in range(count)} - {0, total})
        self._size, self._factors, self._show = (recipe.width, recipe.height), factors, show
        self._shown = 0

    def __call__(self, step: int, x0: Array) -> None:
        """To be called after every evaluation; ``show`` gets pixels [H, W, 3], the number of the preview, the step."""
        if self._shown < len(self._due) and step >= self._due[self._shown]:
            self._show(images.preview(x0, self._factors, self._size), self._shown, step)
            self._shown += 1

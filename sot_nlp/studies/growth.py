"""Decide how many runs share a GPU: twice as many while memory holds them and the rate of cells rises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from sot_nlp.studies.slots import fitting, gpu_memory
from sot_nlp.training.speed.threads import usable_cores

# Runs per GPU at the start, where half of the memory holds them: what a run needs is an estimate.
FIRST = 4
# What more runs per GPU must bring to stay.
LEAST_GAIN = 1.1
# Of the memory that the runs so far take on average, what another one may need.
HEADROOM = 1.3


class Growth:
    """Grows the number of runs per GPU, `width`, by what is measured; `places` hold one slot per GPU.

    It begins at `FIRST` and is doubled, as far as memory and cores allow, until that pays no more; then the
    last width that did is taken again. A width is judged without its first cells, as many as run at once:
    they began under another width, or in a process that had to start. `models` are the backbones' names or
    folders; `most` bounds the runs at once (default: the cores).
    """

    def __init__(
        self, places: Sequence[Mapping[str, str]], models: Sequence[str], *, most: int | None = None
    ) -> None:
        self.places = [dict(place) for place in places]
        self.most = most or usable_cores()
        self.devices = [place["CUDA_VISIBLE_DEVICES"] for place in places]
        self.before = {device: gpu_memory(device) for device in self.devices}
        self.width = self.last_good = self._first(models)
        self.best = 0.0
        self.seconds: list[float] = []
        self.settled = False

    @property
    def slots(self) -> list[dict[str, str]]:
        """Return the environments of the runs at once, now."""
        return self.places * self.width

    def cell_ended(self, seconds: float) -> int:
        """Count a cell that took `seconds`; return by how many runs per GPU to change, mostly 0."""
        self.seconds.append(seconds)
        at_once = self.width * len(self.devices)
        if self.settled or len(self.seconds) < 2 * at_once + 1:
            return 0
        counted = self.seconds[at_once:]
        rate = at_once * len(counted) / sum(counted)
        self.seconds = []
        before = self.width
        if rate < LEAST_GAIN * self.best:
            self.width, self.settled = self.last_good, True
        else:
            self.best, self.last_good = rate, self.width
            self.width += self._more()
            self.settled = self.width == self.last_good
        return self.width - before

    def _first(self, models: Sequence[str]) -> int:
        if None in self.before.values():
            return 1
        held, _ = fitting(self.places * (2 * FIRST), models)
        fewest = min(Counter(place["CUDA_VISIBLE_DEVICES"] for place in held).values())
        return max(1, min(FIRST, fewest // 2, self.most // len(self.devices)))

    def _more(self) -> int:
        """Return how many runs to add to each GPU: as many again, as far as cores and memory hold them."""
        more = min(self.width, self.most // len(self.devices) - self.width)
        for device in self.devices:
            before, now = self.before[device], gpu_memory(device)
            if before is None or now is None:
                return 0
            per_run = HEADROOM * (before - now) / self.width
            if per_run > 0:
                more = min(more, int(now // per_run))
        return max(0, more)

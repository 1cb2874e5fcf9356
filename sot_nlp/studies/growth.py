"""Decide how many runs share a GPU: one more as long as memory holds it and the rate of cells rises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sot_nlp.studies.slots import gpu_memory
from sot_nlp.training.speed.threads import usable_cores

# What one more run per GPU must bring to stay.
LEAST_GAIN = 1.1
# Of the memory that the runs so far take on average, what another one may need.
HEADROOM = 1.3


class Growth:
    """Grows the number of runs per GPU by what is measured; `places` hold one slot per GPU.

    A width is judged without its first cells, as many as run at once: they began under another width, or
    in a process that had to start. `most` bounds the runs at once (default: the cores).
    """

    def __init__(self, places: Sequence[Mapping[str, str]], *, most: int | None = None):
        self.places = list(places)
        self.most = most or usable_cores()
        self.devices = [place["CUDA_VISIBLE_DEVICES"] for place in places]
        self.before = {device: gpu_memory(device) for device in self.devices}
        self.width = 1
        self.best = 0.0
        self.seconds: list[float] = []
        self.settled = False

    def cell_ended(self, seconds: float) -> int:
        """Count a cell that took `seconds`; return by how many runs per GPU to change: -1, 0 or 1."""
        self.seconds.append(seconds)
        at_once = self.width * len(self.devices)
        if self.settled or len(self.seconds) < 2 * at_once + 1:
            return 0
        counted = self.seconds[at_once:]
        rate = at_once * len(counted) / sum(counted)
        self.seconds = []
        if rate < LEAST_GAIN * self.best:
            self.settled = True
            self.width -= 1
            return -1
        self.best = rate
        if not self._has_room() or at_once + len(self.devices) > self.most:
            self.settled = True
            return 0
        self.width += 1
        return 1

    def _has_room(self) -> bool:
        """Return whether every GPU's memory holds another run like those at work."""
        for device in self.devices:
            before, now = self.before[device], gpu_memory(device)
            if before is None or now is None or now < HEADROOM * (before - now) / self.width:
                return False
        return True

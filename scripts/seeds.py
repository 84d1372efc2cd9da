"""What several seeds say together: a mean with its interval."""

import dataclasses
import statistics
from collections.abc import Sequence

from scipy.stats import t


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95 % interval by Student's t."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_short(self.mean)} [{_short(self.low)}, {_short(self.high)}]"


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.2g}"


def interval(values: Sequence[float]) -> Interval:
    """The interval of the mean of values, one from each seed. Raises ValueError for fewer than 2."""
    if len(values) < 2:
        raise ValueError(f"there are {len(values)} values; an interval needs at least 2")
    mean = statistics.fmean(values)
    reach = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return Interval(mean, mean - reach, mean + reach)

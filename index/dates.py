"""Times of files as galleries keep them, and dates in filters: each names a span, as people mean it."""

import dataclasses
import datetime
import re

from index.errors import FilterError

TIME = re.compile(
    r"(?P<year>\d{4})(-(?P<month>\d\d)(-(?P<day>\d\d)([T ](?P<hour>\d\d):(?P<minute>\d\d)"
    r"(:(?P<second>\d\d))?(?P<zone>Z|[+-]\d\d:\d\d)?)?)?)?"
)


def kept_time(ns: int) -> int:
    """Nanoseconds since 1970 as a gallery keeps them: in 64 bits, from 1677-09-21 to 2262-04-11.

    What is earlier or later becomes the nearest of these times.
    """
    return min(max(ns, -(2**63)), 2**63 - 1)


@dataclasses.dataclass(frozen=True)
class Span:
    """From ``start`` up to, and without, ``end``: nanoseconds since 1970, as files have them."""

    start: int
    end: int


def span_of(text: str) -> Span:
    """All the time that a date names: 2024 (a year), 2024-05, 2024-05-01, 2024-05-01T12:30, …:30:59.

    Local time, as file managers show it; a time of day may end in Z or +02:00. Raises FilterError.
    """
    match = TIME.fullmatch(text)
    if match is None:
        raise FilterError(
            f"--where compares modified with {text!r}; give a date such as 2024, 2024-05, "
            "2024-05-01, 2024-05-01T12:30 or 2024-05-01T12:30:00Z"
        )
    zone = match["zone"]
    given = {name: int(v) for name, v in match.groupdict().items() if v and name != "zone"}
    try:
        start = datetime.datetime(given.pop("year"), given.pop("month", 1), given.pop("day", 1))
        start = start.replace(**given)  # type: ignore[arg-type]
        if zone:
            start = start.replace(
                tzinfo=datetime.datetime.fromisoformat(f"2000-01-01T00{zone}").tzinfo
            )
        return Span(_nanoseconds(start), _nanoseconds(_next(start, match)))
    except (ValueError, OverflowError) as error:
        raise FilterError(f"--where compares modified with {text!r}: {error}") from error


def _next(start: datetime.datetime, match: re.Match[str]) -> datetime.datetime:
    """The beginning of the next year, month, day, minute or second, whichever the text names."""
    if match["month"] is None:
        return start.replace(year=start.year + 1)
    if match["day"] is None:
        return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    if match["hour"] is None:
        return start + datetime.timedelta(days=1)
    return start + datetime.timedelta(**{"seconds" if match["second"] else "minutes": 1})


def _nanoseconds(moment: datetime.datetime) -> int:
    return round(moment.timestamp()) * 10**9

"""A calendar month, in the time zone of the host."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

__all__ = ["Month"]

_TEXT = re.compile(r"(\d{4})-(\d{2})")


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """One month, written ``2026-11``."""

    year: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Month:
        """Return the month of a text such as ``2026-11``; a ValueError has the sentence for people."""
        found = _TEXT.fullmatch(text.strip())
        if found is None or not 1 <= int(found[2]) <= 12 or not 1900 <= int(found[1]) <= 9998:
            raise ValueError(f"{text!r} is not a month such as 2026-11")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def of(cls, day: dt.date) -> Month:
        """Return the month of a day."""
        return cls(day.year, day.month)

    @property
    def first_day(self) -> dt.date:
        """Its first day."""
        return dt.date(self.year, self.number, 1)

    @property
    def last_day(self) -> dt.date:
        """Its last day."""
        return self.following.first_day - dt.timedelta(days=1)

    @property
    def following(self) -> Month:
        """The month after it."""
        return Month(self.year + self.number // 12, self.number % 12 + 1)

    @property
    def previous(self) -> Month:
        """The month before it."""
        return Month.of(self.first_day - dt.timedelta(days=1))

    @property
    def begin(self) -> dt.datetime:
        """The first moment, UTC."""
        return dt.datetime.combine(self.first_day, dt.time()).astimezone(dt.UTC)

    @property
    def end(self) -> dt.datetime:
        """The first moment after it, UTC."""
        return self.following.begin

    @property
    def title(self) -> str:
        """Such as ``November 2026``."""
        return f"{_NAMES[self.number - 1]} {self.year}"

    def __str__(self) -> str:
        """Such as ``2026-11``."""
        return f"{self.year:04d}-{self.number:02d}"


_NAMES = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip

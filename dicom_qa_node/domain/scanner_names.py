"""The name of a scanner by its headers, where its station name names nothing."""

from __future__ import annotations

import re

__all__ = ["derived_name", "names_nothing"]

# What installers and anonymisers leave in Station Name (0008,1010).
_EMPTY_WORDS = frozenset(
    (
        "unknown", "none", "null", "nil", "na", "n/a", "anonymous", "anonymized", "anonymised", "deidentified",
        "default", "localhost", "station", "scanner", "ct", "pt", "pet", "removed", "undefined", "unnamed",
        "no_station", "nostation", "noname", "no_name", "station_name", "stationname",
    )
)  # fmt: skip


def names_nothing(name: str) -> bool:
    """Whether a station name tells no scanner from another: empty, only zeros and signs, or a word such as unknown.

    >>> [names_nothing(name) for name in ("", "0", "--", "Unknown", "CT1")]
    [True, True, True, True, False]
    """
    plain = name.strip().strip("<>[]()*?. ").lower()
    return not re.search(r"[^\W_0]", plain) or plain in _EMPTY_WORDS


def derived_name(station: str, manufacturer: str, model: str, serial: str) -> str:
    """Return the station name, else model (or manufacturer) and serial number, else "unknown".

    >>> derived_name("0", "Altair", "Vega 64", "31877")
    'Vega 64 31877'
    """
    if not names_nothing(station):
        return station.strip()
    made = next((word.strip() for word in (model, manufacturer) if not names_nothing(word)), "")
    number = "" if names_nothing(serial) else serial.strip()
    return " ".join(part for part in (made, number) if part) or "unknown"

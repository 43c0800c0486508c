"""Durations for people: read, such as 30d, 12h, 2w, and written short."""

import re

from nexus.cli.output import USAGE, refuse

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
LONGEST_DAYS = 36_500


def parse_seconds(text: str, option: str) -> float:
    """The seconds of an age such as 30d; anything else is wrong usage."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip().lower())
    if not found:
        refuse(f"{option}: {text!r} is no age; write a number and s, m, h, d or w, such as 30d.", USAGE)
    seconds = float(found[1]) * UNITS[found[2]]
    if seconds > LONGEST_DAYS * UNITS["d"]:
        refuse(f"{option}: {text!r} is more than a hundred years.", USAGE)
    return seconds


def brief(seconds: float | None) -> str:
    """Three digits and a unit: 250ms, 1.5s, 12.0m, 3.2h, 14.0d; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    for unit, up_to in (("s", 60), ("m", 3600), ("h", 2 * 86_400)):
        if seconds < up_to * 0.999:
            return f"{seconds / UNITS[unit]:.1f}{unit}"
    return f"{seconds / UNITS['d']:.1f}d"

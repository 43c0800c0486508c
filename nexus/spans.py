"""Lengths of time in words."""


def span(seconds: float) -> str:
    """A length of time in its two largest units: 2 h 5 min, 1 h, 59 s. Less than nothing is 0 s."""
    whole = max(0, round(seconds))
    for unit, size, below, part in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"

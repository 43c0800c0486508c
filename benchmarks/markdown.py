"""Tables in Markdown, and figures as people read them."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; what is None stays empty."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join("" if cell is None else str(cell) for cell in line) + " |" for line in lines)


def ratio(figure: float | None, base: float | None) -> str | None:
    """`figure` over `base`; None where one of them was not measured."""
    return f"{figure / base:.2f}" if figure is not None and base else None


def ms(figure: float) -> str:
    """Milliseconds, to three digits that count."""
    return f"{figure:.3g}" if figure < 100 else f"{figure:,.0f}"

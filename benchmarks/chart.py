"""Bars as SVG: panels side by side, a colour for each kind, the value at the end of each bar."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

COLOURS: Final = {"ours": "#2563eb", "floor": "#94a3b8", "peer": "#f59e0b"}
LEGEND: Final = {"ours": "Nexus Flows", "floor": "plain SQL: claim, attempt, completion", "peer": "peers"}

WIDTH, MARGIN, GAP = 1000, 24, 40
HEAD, TITLE, ROW, BAR = 92, 34, 26, 16
LABEL, VALUE = 168, 52
"""What a panel gives to the names before its bars, and to the values behind them."""

CUT: Final = 8
"""A bar that would be so many times as long as our shortest ends at the edge, broken: else ours could not be seen."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One contender."""

    label: str
    value: float
    kind: str
    """A key of `COLOURS`."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars that are compared."""

    title: str
    bars: Sequence[Bar]


def drawn(title: str, subtitle: str, panels: Sequence[Panel]) -> str:
    """An SVG document, two panels in a row."""
    pairs = [panels[first : first + 2] for first in range(0, len(panels), 2)]
    body, top, width = [], HEAD, (WIDTH - 2 * MARGIN - GAP) // 2
    for pair in pairs:
        for column, panel in enumerate(pair):
            body += _panel(panel, MARGIN + column * (width + GAP), top, width)
        top += TITLE + ROW * max(len(panel.bars) for panel in pair) + MARGIN
    root = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" role="img">'
    )
    head = [
        root,
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>',
        _text(MARGIN, 32, title, size=18, weight=600),
        _text(MARGIN, 52, subtitle, size=12, fill="#64748b"),
        *_legend({bar.kind for panel in panels for bar in panel.bars}),
    ]
    return "\n".join([*head, *body, "</svg>", ""])


def _legend(kinds: set[str]) -> list[str]:
    drawn, x = [], MARGIN
    for kind in (kind for kind in COLOURS if kind in kinds):
        drawn += [_rect(x, 64, 12, 12, COLOURS[kind]), _text(x + 18, 74, LEGEND[kind], size=12)]
        x += 44 + 7 * len(LEGEND[kind])
    return drawn


def _panel(panel: Panel, x: int, top: int, width: int) -> list[str]:
    room = width - LABEL - VALUE
    ours = [bar.value for bar in panel.bars if bar.kind == "ours"]
    longest = min([max(bar.value for bar in panel.bars), *([CUT * min(ours)] if ours else [])])
    foot = top + TITLE + ROW * len(panel.bars) - 6
    drawn = [
        _text(x, top + 14, panel.title, size=13, weight=600),
        f'<line x1="{x + LABEL}" y1="{top + TITLE - 8}" x2="{x + LABEL}" y2="{foot}" stroke="#cbd5e1"/>',
    ]
    for place, bar in enumerate(panel.bars):
        y = top + TITLE + place * ROW
        length = max(1.0, room * min(bar.value / longest, 1.0))
        drawn += [
            _text(x + LABEL - 8, y + 5, bar.label, size=12, anchor="end"),
            _rect(x + LABEL, y - BAR / 2, length, BAR, COLOURS[bar.kind]),
            _text(
                x + LABEL + length + 6, y + 5, f"{bar.value:.3g}", size=12, weight=600 if bar.kind == "ours" else 400
            ),
        ]
        if bar.value > longest:
            edge = x + LABEL + length - 14
            drawn.append(
                f'<path d="M{edge:.1f} {y + BAR / 2 + 2} l5 -{BAR + 4} m4 0 l-5 {BAR + 4}" stroke="#ffffff" '
                'stroke-width="2.5" fill="none"/>'
            )
    return drawn


def _rect(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" fill="{fill}"/>'


def _text(
    x: float, y: float, text: str, *, size: int, weight: int = 400, fill: str = "#0f172a", anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{fill}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )

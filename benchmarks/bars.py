"""Draws bar charts as SVG, with nothing but text."""

import math
from collections.abc import Sequence
from html import escape

from attrs import frozen

BAR, GAP, LABELS, WIDTH, VALUES = 18, 6, 230, 420, 110
"""Pixels: a bar's height, the space below it, and the widths of names, bars and values."""
HEAD, FOOT = 46, 16
"""Pixels above and below the bars of a chart."""
SPREAD = 40
"""From here on (longest bar to shortest) lengths are logarithmic: linear ones would vanish."""
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 13px }
.quiet { fill: #6e7781 }
.bar { fill: #a8b3bd }
.ours { fill: #0a7d63 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .quiet { fill: #8d96a0 }
  .bar { fill: #59636e }
  .ours { fill: #2dba95 }
}
"""


@frozen
class Bar:
    """One bar: its name, its length, and how the length is written."""

    name: str
    value: float
    text: str
    ours: bool = False


@frozen
class Chart:
    """Bars under a title."""

    title: str
    unit: str
    bars: Sequence[Bar]


def draw(charts: Sequence[Chart]) -> str:
    """One SVG document with the charts below each other; those without bars are left out."""
    parts, top = [], 0
    for chart in charts:
        if chart.bars:
            parts.append(f'<g transform="translate(0 {top})">{_chart(chart)}</g>')
            top += HEAD + len(chart.bars) * (BAR + GAP) + FOOT
    width = LABELS + WIDTH + VALUES
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" '
        f'width="{width}" height="{top}" role="img">\n<style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _chart(chart: Chart) -> str:
    bars = sorted(chart.bars, key=lambda bar: bar.value)
    lengths, kind = _lengths([bar.value for bar in bars])
    rows = [
        f'<text class="title" x="8" y="18">{escape(chart.title)}</text>',
        f'<text class="quiet" x="8" y="35">{escape(chart.unit)}, less is better{kind}</text>',
    ]
    for index, (bar, length) in enumerate(zip(bars, lengths, strict=True)):
        top = HEAD + index * (BAR + GAP)
        middle = top + BAR - 5
        rows.append(
            f'<text x="{LABELS - 8}" y="{middle}" text-anchor="end">{escape(bar.name)}</text>'
            f'<rect class="{"ours" if bar.ours else "bar"}" x="{LABELS}" y="{top}" '
            f'width="{length:.1f}" height="{BAR}" rx="2"/>'
            f'<text x="{LABELS + length + 6:.1f}" y="{middle}">{escape(bar.text)}</text>'
        )
    return "\n".join(rows)


def _lengths(values: Sequence[float]) -> tuple[list[float], str]:
    """The lengths of the bars, and what to say about them."""
    low, high = min(values), max(values)
    if low <= 0 or high / low < SPREAD:
        return [WIDTH * max(value, 0) / high if high > 0 else 0.0 for value in values], ""
    floor = math.log(low / 2)
    span = math.log(high) - floor
    return [WIDTH * (math.log(value) - floor) / span for value in values], " (logarithmic)"

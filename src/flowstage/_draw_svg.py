"""A picture of boxes and lines as SVG: no script, no font, no file but itself.

The picture has no background of its own, so it can stand on any page: boxes are opaque, and what
stands between them has a grey that is told from black and from white. Colours are classes by kind;
`prefers-color-scheme` changes them in the dark. Everything is below one class, because in a notebook
the style of a picture is the style of the page. Arrow heads are plain shapes: markers are found by
name, and a page may hold many pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from unicodedata import east_asian_width

from attrs import frozen

from ._draw_layout import lay_out

LONGEST_LINE = 30
"""Characters after which a list of facts goes on in the next line."""
LONGEST_LABEL = 42
"""Characters shown of what cannot be parted; all of them are in the title."""
MARGIN = 12.0
NAME_SIZE, FACT_SIZE, LABEL_SIZE = 14, 11, 10
"""As measured; a name is bold, so it counts for a size more than it has."""
NARROWEST = 84.0
ARROW = 6.0


@frozen
class Box:
    """A box to draw: what is told when pointing at it, its class, and its texts."""

    title: str
    kind: str
    name: str
    facts: Sequence[str] = ()
    figures: Sequence[str] = ()

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The class and the text of each line."""
        return [
            ("name", short(self.name)),
            *(("fact", line) for line in wrapped(self.facts)),
            *(("figure", line) for line in wrapped(self.figures)),
        ]


@frozen
class Line:
    """A line to draw from one box down to another, by number."""

    upper: int
    lower: int
    label: str
    title: str


STYLE = """
.flowstage{color-scheme:light dark}
.flowstage text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;\
text-anchor:middle}
.flowstage .name{font-size:13px;font-weight:600;fill:#1f2328}
.flowstage .fact{font-size:11px;fill:#59636e}
.flowstage .figure{font-size:11px;font-weight:600;fill:#9a6700}
.flowstage .label{font-size:10px;fill:#7d8590;text-anchor:start}
.flowstage rect{stroke-width:1.25}
.flowstage .line{fill:none;stroke:#8b949e;stroke-width:1.4}
.flowstage .head{fill:#8b949e;stroke:none}
.flowstage .entry rect{fill:#dafbe1;stroke:#2da44e}
.flowstage .call rect{fill:#ddf4ff;stroke:#3d8fd9}
.flowstage .hold rect{fill:#fff3d1;stroke:#c69026}
.flowstage .split rect{fill:#fbefff;stroke:#a475f9}
.flowstage .join rect{fill:#fbefff;stroke:#a475f9}
.flowstage .end rect{fill:#f6f8fa;stroke:#818b98;stroke-dasharray:4 3}
@media (prefers-color-scheme:dark){
.flowstage .name{fill:#f0f6fc}
.flowstage .fact{fill:#a6b1bd}
.flowstage .figure{fill:#e3b341}
.flowstage .entry rect{fill:#12311d;stroke:#3fb950}
.flowstage .call rect{fill:#102a43;stroke:#4493f8}
.flowstage .hold rect{fill:#332708;stroke:#d29922}
.flowstage .split rect{fill:#2b1d45;stroke:#ab7df8}
.flowstage .join rect{fill:#2b1d45;stroke:#ab7df8}
.flowstage .end rect{fill:#1c2128;stroke:#7d8590}
}
"""


def picture(boxes: Sequence[Box], lines: Sequence[Line]) -> str:
    """Draw boxes and the lines between them, all of which lead to boxes with higher numbers."""
    sizes = [_size(box) for box in boxes]
    widths = [text_width(short(line.label), LABEL_SIZE) for line in lines]
    layout = lay_out(sizes, [(line.upper, line.lower) for line in lines], widths)
    width, height = layout.width + 2 * MARGIN, layout.height + 2 * MARGIN
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" class="flowstage" role="img" '
        f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">'
    )
    parts = [
        head,
        f"<title>a graph of {sum(box.kind != 'end' for box in boxes)} stages</title>",
        f"<style>{STYLE}</style>",
        f'<g transform="translate({MARGIN:g} {MARGIN:g})">',
        *(
            _line(line, route, label)
            for line, route, label in zip(lines, layout.routes, layout.labels, strict=True)
        ),
        *(
            _box(box, size, place)
            for box, size, place in zip(boxes, sizes, layout.places, strict=True)
        ),
        "</g>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _size(box: Box) -> tuple[float, float]:
    widths = [
        text_width(text, NAME_SIZE if kind == "name" else FACT_SIZE) for kind, text in box.lines
    ]
    round_ends = 12 if box.kind in ("entry", "end") else 0
    return max(NARROWEST, max(widths) + 24 + round_ends), 14.0 + 16 * len(box.lines)


def text_width(text: str, size: float) -> float:
    """Estimate how wide a text is; generous, since nobody knows the font."""
    ems = sum(1.1 if east_asian_width(char) in "WF" else _em(char) for char in text)
    return ems * size


def _em(char: str) -> float:
    if char in "iljtfr.,:;|!'()[] ":
        return 0.36
    return 0.8 if char.isupper() or char in "mw@%—…" else 0.6


def short(text: str) -> str:
    """Cut a text to what fits in a box."""
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def wrapped(parts: Sequence[str]) -> list[str]:
    """Put a list into as few lines as it needs, all of about one length, and none within a part."""
    texts = [short(part) for part in parts]
    longest = max([LONGEST_LINE, *map(len, texts)])
    lines = _filled(texts, longest)
    while longest and len(narrower := _filled(texts, longest - 1)) == len(lines):
        lines, longest = narrower, longest - 1
    return [f"{line}," for line in lines[:-1]] + lines[-1:]


def _filled(texts: Sequence[str], longest: int) -> list[str]:
    lines: list[str] = []
    for text in texts:
        if lines and len(lines[-1]) + len(text) + 2 <= longest:
            lines[-1] += f", {text}"
        else:
            lines.append(text)
    return lines


def _box(box: Box, size: tuple[float, float], place: tuple[float, float]) -> str:
    (width, height), (x, y) = size, place
    radius = height / 2 if box.kind in ("entry", "end") else 6
    corner = f'x="{x - width / 2:.1f}" y="{y:.1f}"'
    parts = [
        f'<g class="{box.kind}"><title>{escape(box.title, quote=False)}</title>',
        f'<rect {corner} width="{width:.1f}" height="{height:.1f}" rx="{radius:g}"/>',
    ]
    for number, (kind, text) in enumerate(box.lines):
        base = y + 19.5 + 16 * number
        parts.append(
            f'<text class="{kind}" x="{x:.1f}" y="{base:.1f}">{escape(text, quote=False)}</text>'
        )
    return "".join([*parts, "</g>"])


def _line(
    line: Line, route: Sequence[tuple[float, float]], label: tuple[float, float] | None
) -> str:
    """Draw one line, its arrow head and its label."""
    x, y = route[0]
    steps = [f"M{x:.1f} {y:.1f}"]
    end_x, end_y = route[-1]
    for to_x, to_y in [*route[1:-1], (end_x, end_y - ARROW)]:
        if abs(to_x - x) < 0.05:
            steps.append(f"V{to_y:.1f}")
        else:
            middle = (y + to_y) / 2
            steps.append(f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
    head = f"M{x - ARROW / 1.6:.1f} {y:.1f}h{ARROW * 1.25:.1f}L{x:.1f} {y + ARROW:.1f}z"
    parts = [
        f"<g><title>{escape(line.title, quote=False)}</title>",
        f'<path class="line" d="{"".join(steps)}"/><path class="head" d="{head}"/>',
    ]
    if label is not None:
        place = f'x="{label[0]:.1f}" y="{label[1] + LABEL_SIZE * 0.35:.1f}"'
        text = escape(short(line.label), quote=False)
        parts.append(f'<text class="label" {place}>{text}</text>')
    return "".join([*parts, "</g>"])

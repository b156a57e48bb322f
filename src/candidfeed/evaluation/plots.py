"""Reliability plots as SVG: what was said against what happened, a dot for each bin."""

from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from candidfeed.evaluation.calibration import HeadCalibration, describe_calibration

_SIZE, _LEFT, _TOP = 400, 64, 48
_STYLE = (
    "text{font:13px sans-serif;fill:#333}.grid{stroke:#ddd}.ideal{stroke:#999;stroke-dasharray:5 4}"
    ".line{stroke:#1769aa;fill:none;stroke-width:1.5}circle{fill:#1769aa}"
)


def write_reliability_plots(folder: Path, heads: Mapping[str, HeadCalibration]) -> list[Path]:
    """`reliability-<head>.svg` of every head; the folder is made.

    Raises:
        OSError: it can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for head, found in heads.items():
        path = folder / f"reliability-{head}.svg"
        path.write_text(reliability_svg(head, found), encoding="utf-8")
        written.append(path)
    return written


def reliability_svg(head: str, found: HeadCalibration) -> str:
    """Both axes from 0 to the first of 0.05, 0.1, 0.2, 0.5 and 1 that holds all bins."""
    bins = found.bins[:, np.isfinite(found.bins).all(axis=0)]
    largest = float(bins.max(initial=0.0))
    end = next((one for one in (0.05, 0.1, 0.2, 0.5) if largest <= one), 1.0)
    points = [(_LEFT + _SIZE * p / end, _TOP + _SIZE * (1 - share / end)) for p, share in bins.T]
    right, bottom = _LEFT + _SIZE, _TOP + _SIZE
    parts = [f'<line class="ideal" x1="{_LEFT}" y1="{bottom}" x2="{right}" y2="{_TOP}"/>']
    for step in range(6):
        x, y, label = _LEFT + _SIZE * step / 5, bottom - _SIZE * step / 5, f"{end * step / 5:g}"
        parts += [
            f'<line class="grid" x1="{x:g}" y1="{_TOP}" x2="{x:g}" y2="{bottom}"/>',
            f'<line class="grid" x1="{_LEFT}" y1="{y:g}" x2="{right}" y2="{y:g}"/>',
            f'<text x="{x:g}" y="{bottom + 18}" text-anchor="middle">{label}</text>',
            f'<text x="{_LEFT - 8}" y="{y + 4:g}" text-anchor="end">{label}</text>',
        ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts.append(f'<polyline class="line" points="{line}"/>')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in points]
    title = describe_calibration(head, found).partition(";")[0]
    middle = _TOP + _SIZE / 2
    parts += [
        f'<text x="{_LEFT}" y="26">{escape(title)}</text>',
        f'<text x="{_LEFT + _SIZE / 2:g}" y="{bottom + 42}" text-anchor="middle">'
        f"predicted P({escape(head)}), mean of each bin</text>",
        f'<text transform="translate(18 {middle:g}) rotate(-90)" text-anchor="middle">'
        "share that happened</text>",
    ]
    width, height = right + 150, bottom + 56
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">'
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="white"/>'
        f"{''.join(parts)}</svg>\n"
    )

"""A run over many pictures as one HTML file that opens without a network: overlays, counts per label, scores."""

from __future__ import annotations

import base64
import html
import io
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from florence2_sam2.cli.sources import REMOTE
from florence2_sam2.client import Segmentation

SIDE = 360  # longest side of a thumbnail, pixels
BINS = 20  # of the histogram of scores
LABELS = 40  # listed; the others are counted together

_STYLE = """
:root{color-scheme:light dark;font:15px/1.45 system-ui,sans-serif}body{max-width:1500px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}td{padding:.1rem .7rem .1rem 0}
.bar{background:#3b82f6;height:.8em;border-radius:2px}.charts{display:flex;flex-wrap:wrap;gap:3rem}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(260px,1fr));gap:1rem}
figure{margin:0;border:1px solid #8885;border-radius:6px;padding:.6rem;overflow-wrap:anywhere}
figure img{max-width:100%;height:auto;display:block;margin-bottom:.4rem}small{opacity:.75}.failed{border-color:#dc2626}
"""


@dataclass
class _Counts:
    pictures: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    scores: list[int] = field(default_factory=lambda: [0] * BINS)

    def add(self, result: Segmentation) -> None:
        self.pictures += 1
        self.labels.update(item.label for item in result.objects)
        self.reasons.update(item.reason for item in result.filtered)
        for item in result.objects:
            if item.score is not None:
                self.scores[min(int(item.score * BINS), BINS - 1)] += 1


def write_report(
    path: Path, answers: Iterable[tuple[str, Segmentation]], failures: Iterable[tuple[str, str]], title: str
) -> None:
    """Write the file.

    Args:
        answers: pictures' paths or URLs and what was found. A picture that is read here no longer, or was given as a
            URL, has no thumbnail.
        failures: pictures and why they failed.

    Raises:
        OSError: it cannot be written.
    """
    counts, listed = _Counts(), list(failures)
    unfinished = path.with_name(path.name + ".new")
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as figures,
        unfinished.open("w", encoding="utf-8") as file,
    ):
        for picture, result in answers:
            counts.add(result)
            figures.write(_figure(picture, result))
        file.write(
            f'<!DOCTYPE html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
            f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{_summary(counts, len(listed))}"
        )
        if listed:
            file.write('<h2>Failed</h2><div class="grid">')
            for picture, reason in listed:
                file.write(
                    f'<figure class="failed">{_name(picture)}<br><small>{html.escape(reason)}</small></figure>'
                )
            file.write("</div>")
        file.write('<h2>Pictures</h2><div class="grid">')
        figures.seek(0)
        shutil.copyfileobj(figures, file)
        file.write("</div></html>\n")
    unfinished.replace(path)


def _figure(picture: str, result: Segmentation) -> str:
    lines = [f"{_name(picture)} <small>{result.width}×{result.height}</small>"]
    if result.caption:
        lines.append(f"<small>{html.escape(result.caption)}</small>")
    kept = Counter(item.label for item in result.objects)
    named = [f"{html.escape(label)}{f' ×{n}' if n > 1 else ''}" for label, n in kept.items()]
    lines.append(", ".join(named) or "nothing kept")
    dropped = Counter(item.reason for item in result.filtered)
    if dropped:
        lines.append(
            f"<small>left out: {', '.join(f'{n} {reason}' for reason, n in dropped.items())}</small>"
        )
    lines += [f"<small>{html.escape(warning)}</small>" for warning in result.warnings]
    return f"<figure>{_thumbnail(picture, result)}{'<br>'.join(lines)}</figure>"


def _thumbnail(picture: str, result: Segmentation) -> str:
    if picture.startswith(REMOTE):
        return ""
    with suppress(
        OSError, ValueError
    ):  # the picture has gone or changed since, or there is one mask and no objects
        shown = result.overlay(picture)
        shown.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        shown.save(buffer, "JPEG", quality=80)
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        size = f'width="{shown.width}" height="{shown.height}"'
        return f'<img loading="lazy" {size} alt="" src="data:image/jpeg;base64,{data}">'
    return ""


def _summary(counts: _Counts, failed: int) -> str:
    objects = sum(counts.labels.values())
    dropped = ", ".join(f"{number} {html.escape(reason)}" for reason, number in counts.reasons.most_common())
    found = (
        _count(counts.pictures, "picture"),
        _count(objects, "object"),
        _count(len(counts.labels), "label"),
    )
    said = f"<p>{', '.join(found)}."
    said += f" Left out: {dropped}." if dropped else ""
    said += f" {_count(failed, 'picture')} failed.</p>" if failed else "</p>"
    return f'{said}<div class="charts">{_labels(counts.labels)}{_histogram(counts.scores)}</div>'


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _labels(labels: Counter[str]) -> str:
    rows = labels.most_common(LABELS)
    others = sum(labels.values()) - sum(number for _, number in rows)
    most = rows[0][1] if rows else 1
    cells = [
        f'<tr><td>{html.escape(label)}<td>{number}<td><div class="bar" style="width:{220 * number / most:.0f}px"></div>'
        for label, number in rows
    ]
    if others:
        cells.append(f"<tr><td>{len(labels) - len(rows)} others<td>{others}<td>")
    return f"<section><h2>Objects per label</h2><table>{''.join(cells)}</table></section>"


def _histogram(scores: list[int]) -> str:
    most, width, height = max(*scores, 1), 18, 160
    return (
        f'<section><h2>SAM2 scores</h2><svg width="{BINS * width + 10}" height="{height + 20}" fill="currentColor">'
        f"{''.join(_bars(scores, most, width, height))}"
        f'<text x="0" y="{height + 16}">0</text><text x="{BINS * width - 6}" y="{height + 16}">1</text></svg></section>'
    )


def _bars(scores: list[int], most: int, width: int, height: int) -> Iterator[str]:
    for index, number in enumerate(scores):
        tall = height * number / most
        yield (
            f'<rect fill="#3b82f6" x="{index * width}" y="{height - tall:.1f}" width="{width - 2}" height="{tall:.1f}">'
            f"<title>{index / BINS:g} to {(index + 1) / BINS:g}: {number}</title></rect>"
        )


def _name(picture: str) -> str:
    return f"<b>{html.escape(picture[:60] + '…' if picture.startswith('data:') else picture)}</b>"

"""From arrays to what a page can draw: positions in percent, paths, and images as data URIs.

Lines and points are SVG paths in a 100 x 100 box that the page stretches, and words are placed over
it in percent: text keeps its size from a phone to a wall. All of it is deterministic.
"""

import base64
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from pal_jax import evaluate
from pal_jax.wording import number

Points = Sequence[tuple[float, float]]

# Dark blue to light yellow, of rising lightness: reads the same in grey and for colour-blind eyes.
_COLOURS = ((13, 19, 43), (35, 66, 118), (46, 125, 142), (122, 190, 138), (250, 239, 175))
# Labels at the end of lines stay so far apart, in percent of the height.
_LABEL_GAP = 9.0
# A line with more points than a wide screen has pixels is thinned.
_MOST_POINTS = 600
THUMBNAIL = 64  # pixels, longest side of an image in the report


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a chart. path, dots: SVG. label_y: percent from the top. last: where it ends."""

    name: str
    path: str
    dots: str
    label_y: float
    last: str


@dataclasses.dataclass(frozen=True)
class Chart:
    """A line chart. Ticks are (percent from left or top, text)."""

    title: str
    x_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def line_chart(
    title: str,
    x_label: str,
    series: Mapping[str, Points],
    unit: str = "",
) -> Chart:
    """A chart of one line for each entry of `series`, with round numbers on both axes.

    Args:
        title, x_label: words for the reader; the title names y.
        series: name -> finite (x, y) pairs in rising x, at least one pair in all.
        unit: of y; stands behind its numbers as it is.
    """
    thin = {name: _thinned(points) for name, points in series.items() if points}
    every = [point for points in thin.values() for point in points]
    xs, ys = [x for x, _ in every], [y for _, y in every]
    y_ticks = round_ticks(min(ys), max(ys), _least_step(ys))
    left, right, bottom, top = min(xs), max(xs), y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            round(100 * (x - left) / ((right - left) or 1.0), 2),
            round(100 * (top - y) / (top - bottom), 2),
        )

    label_y = _spread([place(*points[-1])[1] for points in thin.values()])
    lines = tuple(
        Line(
            name=name,
            path="M" + "L".join("{} {}".format(*place(*point)) for point in points),
            dots=dots(np.array([place(*point) for point in points])) if len(points) <= 40 else "",
            label_y=y,
            last=number(points[-1][1], ".3g") + unit,
        )
        for (name, points), y in zip(thin.items(), label_y, strict=True)
    )
    return Chart(
        title,
        x_label,
        lines,
        x_ticks=tuple(
            (place(x, bottom)[0], number(x, ".10g"))
            for x in round_ticks(left, right, _least_step(xs))
            if left <= x <= right
        ),
        y_ticks=tuple((place(left, y)[1], number(y, ".10g") + unit) for y in y_ticks),
    )


def _least_step(values: Sequence[float]) -> float:
    """Between ticks: there are no half groups."""
    return 1.0 if all(float(value).is_integer() for value in values) else 0.0


def round_ticks(low: float, high: float, least: float = 0.0) -> list[float]:
    """3 to 7 multiples of 1, 2 or 5 times a power of ten that enclose [low, high].

    Fewer where they would be closer than `least`, itself such a number.
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # all the same, but for rounding
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= (high - low) / 5 * (1 - 1e-9))
    step = max(step, least)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def dots(xy: np.ndarray) -> str:
    """An SVG path of one round dot a row of xy [n, 2]: lines of length 0 with round caps."""
    return "".join(f"M{x:.4g} {y:.4g}h0" for x, y in xy)


def layout(h: np.ndarray) -> np.ndarray:
    """[n, 2] places in [0, 100] where neighbours by cosine in h [n, H] are neighbours again.

    t-SNE (perplexity 30) of the first 50 principal components, begun from the first two. It runs
    on one thread: sums of several would differ from run to run in their last bits, and the places
    then in their first. Fewer than 10 samples are shown by their principal components alone.
    """
    unit = evaluate.unit_rows(h)
    if np.ptp(unit, axis=0).max(initial=0.0) < 1e-6:  # collapsed: there is nothing to show
        return np.full((len(h), 2), 50.0)
    with threadpool_limits(1):
        x = PCA(min(50, *unit.shape), random_state=0).fit_transform(unit)
        xy = np.pad(x, ((0, 0), (0, max(0, 2 - x.shape[1]))))[:, :2]
        if len(h) >= 10:
            tsne = TSNE(
                perplexity=min(30.0, (len(h) - 1) / 3),
                init=(1e-4 * xy / xy[:, 0].std()).astype(np.float32),
                max_iter=400,
                random_state=0,
                n_jobs=1,
            )
            xy = tsne.fit_transform(x)
    low, high = xy.min(axis=0), xy.max(axis=0)
    return 50.0 + 94.0 * (xy - (low + high) / 2) / (high - low).max()


def heat_map(values: np.ndarray, low: float, high: float) -> str:
    """PNG data URI of values [m, m]: `low` and below dark, `high` and above light."""
    share = np.clip((values - low) / ((high - low) or 1.0), 0.0, 1.0)
    image = Image.fromarray(np.round(255 * share).astype(np.uint8))
    stops = np.linspace(0, 255, len(_COLOURS))
    channels = [
        np.interp(np.arange(256), stops, channel) for channel in zip(*_COLOURS, strict=True)
    ]
    image.putpalette(np.round(np.stack(channels, axis=1)).astype(np.uint8).tobytes())
    return _data_uri(image, "PNG")


def thumbnail(image: np.ndarray) -> str:
    """Data URI of a uint8 [H, W, C] image, at most THUMBNAIL pixels a side.

    Three channels are colours; of any other number the mean is shown in grey.
    """
    pixels = image if image.shape[2] == 3 else image.mean(axis=2).round().astype(np.uint8)
    picture = Image.fromarray(pixels)
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return _data_uri(picture, "PNG" if max(picture.size) <= 32 else "JPEG")


def _data_uri(image: Image.Image, kind: str) -> str:
    content = io.BytesIO()
    image.save(content, kind, optimize=True, quality=85)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def _thinned(points: Points) -> Points:
    """At most _MOST_POINTS points: the mean of each of that many runs of neighbours."""
    if len(points) <= _MOST_POINTS:
        return points
    runs = np.array_split(np.array(points, np.float64), _MOST_POINTS)
    return [(float(x), float(y)) for x, y in (run.mean(axis=0) for run in runs)]


def _spread(places: Sequence[float]) -> list[float]:
    """The places of labels, moved down or up where they would print over each other."""
    order = np.argsort(places, kind="stable")
    moved = [float(places[i]) for i in order]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + _LABEL_GAP)
    for i in range(len(moved) - 1, -1, -1):
        ceiling = 100.0 - _LABEL_GAP * (len(moved) - 1 - i)
        moved[i] = min(moved[i], ceiling)
    result = [0.0] * len(moved)
    for rank, i in enumerate(order):
        result[i] = round(moved[rank], 2)
    return result

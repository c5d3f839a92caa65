"""The page a user shows around: whole, the same every time, safe with any name."""

import base64
import dataclasses
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from pal_jax import figures, report, wording
from pal_jax.active.questions import Answer, Question, Relation

HOSTILE = "<img src=x onerror=alert(1)>\"'&\u202e</style></title><script>alert(2)</script>"
VOID = {"meta", "img", "br", "input"}


def a_report(n=40, **changes):
    """A run on n tiny images in four groups, with everything a report can hold."""
    rng = np.random.default_rng(0)
    groups = np.arange(n) % 4
    answers = [
        Answer(Question(0, (4, 8)), (Relation.ALIKE, Relation.UNKNOWN), "ann"),
        Answer(Question(1, (2,)), (Relation.NOT_ALIKE,), "ann"),
        Answer(Question(2, (1,)), (Relation.NOT_ALIKE,), "bob"),
    ]
    whole = report.Report(
        title="a folder",
        facts={"seed": "0", "commit": "abc"},
        summary={
            "samples": n,
            "judgements": 4,
            "groups": 4,
            "partition_accuracy": 0.875,
            "estimated_accuracy": 0.9,
            "estimated_accuracy_low": 0.8125,
            "knn_accuracy": 0.75,
            "ari": 0.5,
            "seconds": 61.2,
        },
        rounds=[
            {
                "round": 0,
                "step": 9,
                "judgements": 0,
                "groups": 7,
                "partition_accuracy": 0.25,
                "loss": 3.0,
            },
            {
                "round": 1,
                "step": 19,
                "judgements": 4,
                "groups": 4,
                "partition_accuracy": 0.875,
                "loss": 2.0,
            },
        ],
        baseline=[
            {"judgements": 0, "partition_accuracy": 0.25},
            {"judgements": 4, "partition_accuracy": 0.5},
        ],
        losses=[(0, 4.0), (10, 2.5)],
        inputs=rng.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8),
        ids=np.array([f"img/{i}.png" for i in range(n)]),
        groups=groups,
        probability=np.linspace(0.2, 1.0, n),
        embedding=(np.eye(4)[groups] + 0.1 * rng.normal(size=(n, 4))).astype(np.float32),
        answers=answers,
        config={"train.steps": 20},
        skipped=("broken.png: not an image",),
    )
    return dataclasses.replace(whole, **changes)


class Page(HTMLParser):
    """Tags with their attributes, the text between them, and whether all tags are closed."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page_of(tmp_path, value):
    report.write(tmp_path / "report.html", value)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    return html, Page(html)


def test_the_same_report_is_the_same_page(tmp_path):
    report.write(tmp_path / "first.html", a_report())
    report.write(tmp_path / "second.html", a_report())
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()


def test_nothing_comes_from_outside_and_nothing_runs(tmp_path):
    html, page = page_of(tmp_path, a_report())
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object"})
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:image/").startswith("data:image/")
    assert not re.findall(r"https?:|//\w|@import", re.sub(r"data:[^\"]*", "", html))
    assert "url(" not in html
    policy = next(a["content"] for _, a in page.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none';")


def test_hostile_text_stays_text(tmp_path):
    names = np.array([HOSTILE] * 40)
    value = a_report(
        title=HOSTILE,
        facts={HOSTILE: HOSTILE},
        ids=names,
        config={HOSTILE: HOSTILE},
        skipped=(HOSTILE,),
        answers=[Answer(Question(0, (4,)), (Relation.ALIKE,), HOSTILE)],
    )
    for inputs in (value.inputs, None):
        _, page = page_of(tmp_path, dataclasses.replace(value, inputs=inputs))
        assert not [tag for tag, a in page.tags if tag == "script" or "onerror" in a]
        assert page.text.count(HOSTILE) >= 6


def test_names_that_are_not_unicode_do_not_stop_the_report(tmp_path):
    html, _ = page_of(tmp_path, a_report(title="folder:caf\udce9"))
    assert "folder:caf?" in html


def test_every_picture_has_words(tmp_path):
    _, page = page_of(tmp_path, a_report())
    images = [a for tag, a in page.tags if tag == "img"]
    assert len(images) > 40
    assert all(image["alt"] for image in images)
    assert all(a["aria-label"] for _, a in page.tags if a.get("role") == "img")
    assert sum("img/0.png, group 0" in image["alt"] for image in images) >= 1


def test_the_headline_says_of_how_many_samples_its_figures_are():
    summary = {"samples": 100_000, "judgements": 0, "groups": 4, "knn_accuracy": 0.5}
    (*_, note) = wording.headline(summary)[-1]
    assert note == "by the vote of the nearest neighbours"
    (*_, note) = wording.headline(summary | {"samples_measured": 20_000})[-1]
    assert note.endswith(", of 20,000 samples")


def test_headline_says_what_the_summary_says(tmp_path):
    _, page = page_of(tmp_path, a_report())
    for words in ("87.5\u202f%", "at least 81.2\u202f%", "75.0\u202f%", "1\u202fmin 1\u202fs"):
        assert words in page.text
    assert page.text.count("1\u202fmin 1\u202fs") == 1  # what the headline says is said once
    assert "Adjusted Rand index" in page.text
    assert "4 yes/no answers put 40 samples into 4 groups." in page.text
    assert "1 alike, 2 not alike, 1 not sure" in " ".join(page.text.split())


def test_not_sure_is_no_answer(tmp_path):
    summary = dict(a_report().summary, judgements=60, judgements_unsure=55, contradictions=3)
    summary |= {"audits": 10, "audits_unsure": 9, "prior_contradictions": 2}
    _, page = page_of(tmp_path, a_report(summary=summary))
    assert "5 yes/no answers, and 55 not sure, put 40 samples into 4 groups." in page.text
    assert "0.12 yes/no answers a sample, and 55 not sure" in page.text
    assert "by 1 sure answer of the audit alone, and at least 81.2\u202f%" in page.text
    text = " ".join(page.text.split())
    assert "do not follow 3 of the judgements and 2 of those believed from the start;" in text


def test_warnings_are_read_first_and_are_no_figure(tmp_path):
    said = wording.one_sided("bob & co", "alike", 1234)
    assert said.startswith('bob & co said "yes" 1,234 times and never "no": unless all samples are')
    assert wording.one_sided("ann", "not alike", 30).startswith('ann said "no" 30 times and never')
    warnings = [said, wording.refuted(0.25)]
    summary = dict(a_report().summary, warnings=warnings)
    _, page = page_of(tmp_path, a_report(summary=summary))
    for warning in warnings:
        assert page.text.count(warning) == 1
        assert page.text.index(warning) < page.text.index("87.5\u202f%")
    assert "as if 25.0\u202f% of them or more were wrong" in page.text
    assert "Doubtful" not in page_of(tmp_path, a_report())[1].text


def test_hardest_are_the_answers_that_the_embedding_would_not_have_guessed(monkeypatch):
    # Angles from sample 0, in degrees; cosine falls with the angle.
    angles = np.radians([0, 10, 60, 120, 20, 90])
    h = np.stack([np.cos(angles), np.sin(angles)], axis=1) * [[3], [1], [2], [1], [5], [1]]

    def say(candidate, relation, oracle="ann"):
        return Answer(Question(0, (candidate,)), (relation,), oracle)

    answers = [say(j, Relation.ALIKE) for j in (1, 2, 3)]
    answers += [say(j, Relation.NOT_ALIKE) for j in (5, 4)]
    answers += [say(3, Relation.ALIKE, "bob"), say(4, Relation.UNKNOWN)]
    answers += [Answer(Question(4, (0,)), (Relation.NOT_ALIKE,), "bob")]  # asked the other way
    monkeypatch.setattr(report, "_CHUNK", 2)
    value = a_report(n=6, embedding=h, answers=answers)
    kinds = {
        kind: [(pair["tiles"][1]["id"], pair["cosine"], pair["oracle"]) for pair in pairs]
        for kind, pairs in report._hardest(value)
    }
    assert kinds == {
        "alike": [
            ("img/3.png", "\u22120.50", "ann"),
            ("img/2.png", "0.50", "ann"),
            ("img/1.png", "0.98", "ann"),
        ],
        "not alike": [("img/4.png", "0.94", "ann"), ("img/5.png", "0.00", "ann")],
    }


def test_sheets_begin_with_the_surest_and_end_with_the_least_sure():
    value = a_report(n=200)
    for sheet in report._sheets(value, [2, 0, 3, 1]):
        mine = np.flatnonzero(value.groups == sheet["group"])
        by_probability = [f"img/{i}.png" for i in mine[np.argsort(-value.probability[mine])]]
        assert [tile["id"] for tile in sheet["sure"]] == by_probability[:18]
        assert [tile["id"] for tile in sheet["unsure"]] == by_probability[-6:]
        assert sheet["samples"] == 50


def test_a_small_group_shows_each_sample_once():
    (sheet,) = report._sheets(a_report(n=80), [1])
    shown = [tile["id"] for tile in sheet["sure"] + sheet["unsure"]]
    assert len(shown) == len(set(shown)) == 20


def test_the_accuracy_curve_ends_with_the_summary():
    value = a_report()
    summary = {**value.summary, "judgements": 8, "partition_accuracy": 1.0}
    chart = report._accuracy_chart(dataclasses.replace(value, summary=summary))
    assert chart is not None
    assert chart.x_ticks[-1] == (100.0, "8")
    assert [(line.name, line.last) for line in chart.lines] == [
        ("this run", "100\u202f%"),
        ("random questions", "50\u202f%"),
    ]


def test_the_discovery_curve_is_groups_against_judgements(tmp_path):
    value = a_report()
    chart = report._discovery_chart(value)
    assert chart is not None
    assert [line.last for line in chart.lines] == ["4"]
    assert chart.x_label == "judgements"
    report.write(tmp_path / "report.html", value)
    assert "Groups found against judgements" in (tmp_path / "report.html").read_text()
    asked = dataclasses.replace(value, answers=[], rounds=value.rounds[:1])
    assert report._discovery_chart(asked) is None


def test_a_loss_that_is_no_number_leaves_a_line():
    value = a_report(losses=[(0, 4.0), (5, math.nan), (10, 2.0), (15, math.inf)])
    (line,) = report._training_charts(value)[0].lines
    assert line.path == "M0.0 0.0L100.0 100.0"


def test_a_line_that_is_flat_but_for_rounding_is_drawn_flat():
    chart = figures.line_chart("Rank", "steps", {"it": [(0, 1 + 4e-15), (1, 1 + 1.3e-15)]})
    assert chart.lines[0].path == "M0.0 50.0L100.0 50.0"
    assert len(chart.y_ticks) == 7


def test_there_are_no_half_groups():
    chart = figures.line_chart("Groups found", "judgements", {"it": [(0, 4), (2, 6)]})
    assert [text for _, text in chart.y_ticks] == ["4", "5", "6"]
    assert [text for _, text in chart.x_ticks] == ["0", "1", "2"]


def test_the_table_of_rounds_holds_the_baseline_at_equal_cost():
    titles, rows = report._rounds_table(a_report())
    assert titles == [
        "Round",
        "Step",
        "Judgements",
        "Groups",
        "Partition accuracy",
        "Random questions",
        "Loss",
    ]
    assert rows[1] == ["1", "19", "4", "4", "87.5\u202f%", "50.0\u202f%", "2"]


def test_the_map_names_groups_where_they_are_and_rings_the_unsure():
    value = a_report(n=100)
    drawn = report._map(value, [0, 1, 2, 3])
    assert drawn["unsure"] == sum(value.probability < 0.5)
    for group in drawn["groups"]:
        mine = value.groups == group["group"]
        assert group["unsure"].count("M") == sum(value.probability[mine] < 0.5)
        places = re.findall(r"M(\S+) (\S+)h0", group["sure"] + group["unsure"])
        xy = np.array(places, float)
        assert len(xy) == sum(mine)
        distance = np.linalg.norm(xy - np.median(xy, axis=0), axis=1)
        at = np.abs(xy - group["label"]).max(axis=1).argmin()
        assert distance[at] <= distance.min() + 0.02


def test_the_matrix_is_light_within_groups_and_numbers_the_wide_ones():
    groups = np.array([0] * 30 + [1] * 68 + [2] * 2)[np.random.default_rng(0).permutation(100)]
    matrix = report._matrix(a_report(n=100, groups=groups, embedding=np.eye(3)[groups]))
    pixels = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(matrix["image"].split(",")[1]))).convert("L")
    )
    assert pixels[:30, :30].min() > 200
    assert pixels[:30, 30:].max() < 50
    assert pixels[30:98, 30:98].min() > 200
    assert matrix["blocks"] == [(0, 15.0), (1, 64.0)]
    assert matrix["edges"] == [30.0, 98.0]


NO_LABELS = {"samples": 40, "judgements": 4, "groups": 4}
CASES = {
    "no labels": ({"summary": NO_LABELS, "rounds": [{"round": 0, "step": 9}], "baseline": None},
                  "no true labels"),
    "features": ({"inputs": None}, "not images"),
    "nothing asked": ({"answers": [], "baseline": None}, "Nothing was asked"),
    "no baseline": ({"baseline": None}, "nobody is asked questions for a comparison"),
    "no history": ({"rounds": [], "losses": [], "baseline": []}, ""),
    "one group": ({"groups": np.zeros(40, int)}, ""),
    "all alone": ({"groups": np.arange(40)}, "24 largest of 40 groups"),
    "collapsed": ({"embedding": np.zeros((40, 4), np.float32)}, ""),
    "one dimension": ({"embedding": np.linspace(-1, 1, 40)[:, None]}, ""),
    "colour": ({"inputs": np.zeros((40, 100, 70, 3), np.uint8)}, ""),
    "two channels": ({"inputs": np.zeros((40, 8, 8, 2), np.uint8)}, ""),
    "diverged": ({"losses": [(0, math.nan), (10, math.nan)]}, ""),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), CASES.values(), ids=CASES)
def test_what_is_missing_is_said(tmp_path, changes, sentence):
    _, page = page_of(tmp_path, a_report(**changes))
    assert sentence in " ".join(page.text.split())


@pytest.mark.parametrize("n", [1, 2, 3, 9, 11])
def test_few_samples_are_enough(tmp_path, n):
    page_of(tmp_path, a_report(n, answers=[]))


def test_long_ids_show_their_end(tmp_path):
    ids = np.array([f"{'x' * 10_000}/{i}.png" for i in range(40)])
    html, _ = page_of(tmp_path, a_report(ids=ids))
    assert "xxx/0.png" in html
    assert len(html) < 200_000


def test_large_sets_are_shown_by_some_of_their_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_MAP_SAMPLES", 100)
    html, page = page_of(tmp_path, a_report(n=3000))
    assert "The map shows 100 samples, drawn at random, of 3,000." in page.text
    assert html.count("h0") <= 2 * 100 + 10  # a ring is two dots; the chart has a few
    assert len(html) < 500_000


def test_neighbours_stay_neighbours_on_the_map_and_every_time():
    rng = np.random.default_rng(0)
    groups = np.arange(300) % 5
    h = 3 * np.eye(20)[groups] + 0.3 * rng.normal(size=(300, 20))
    xy = figures.layout(h)
    assert xy.min() >= 0
    assert xy.max() <= 100
    distance = np.square(xy[:, None] - xy[None]).sum(-1) + 1e9 * np.eye(300)
    assert np.mean(groups[distance.argmin(1)] == groups) > 0.99
    np.testing.assert_array_equal(figures.layout(h), xy)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.62, 0.98, [0.6, 0.7, 0.8, 0.9, 1.0]),
        (-3.0, 41.0, [-10.0, 0.0, 10.0, 20.0, 30.0, 40.0, 50.0]),
        (0.5, 0.5, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]),
        (0.0, 0.0, [-0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6]),
    ],
)
def test_ticks_are_round_and_enclose(low, high, expected):
    assert figures.round_ticks(low, high) == pytest.approx(expected)


def test_a_chart_puts_points_where_its_ticks_say():
    chart = figures.line_chart("y", "x", {"a": [(0, 0.0), (5, 10.0)]}, " %")
    assert chart.lines[0].path == "M0.0 100.0L100.0 0.0"
    assert chart.y_ticks[0] == (100.0, "0 %")
    assert chart.y_ticks[-1] == (0.0, "10 %")
    assert chart.x_ticks[0] == (0.0, "0")


def test_a_long_line_is_thinned():
    points = [(i, math.sin(i / 1000)) for i in range(20_000)]
    (line,) = figures.line_chart("", "", {"a": points}).lines
    xy = np.array([place.split() for place in line.path[1:].split("L")], float)
    assert len(xy) <= 600
    step = points[-1][0] / 100
    np.testing.assert_allclose(50 - 50 * np.sin(xy[:, 0] * step / 1000), xy[:, 1], atol=1.5)


def test_labels_of_lines_do_not_overlap_or_leave_the_chart():
    rng = np.random.default_rng(0)
    for ends in (rng.random(5), [0.99, 1.0, 1.0], [0.0, 0.0, 0.01]):
        lines = {str(i): [(0, 0.0), (1, float(end)), (1, 1.0)][:2] for i, end in enumerate(ends)}
        places = sorted(line.label_y for line in figures.line_chart("", "", lines).lines)
        assert np.diff(places).min() >= 8.9
        assert places[0] >= 0
        assert places[-1] <= 100

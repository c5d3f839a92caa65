"""The engine on a sketch: what it stands for, what it must not forget, and what it may cost."""

import dataclasses
import itertools
import json
import threading
import tracemalloc

import numpy as np
import pytest

from pal_jax.active import sketch
from pal_jax.active.evidence import Trust
from pal_jax.active.geometry import Geometry
from pal_jax.active.journal import Journal
from pal_jax.active.links import Links
from pal_jax.active.oracles import LabelOracle
from pal_jax.active.posterior import infer
from pal_jax.active.questions import Answer, Question, Relation
from pal_jax.active.relations import Relations
from pal_jax.active.sampler import Sampler
from pal_jax.active.sketch import LastSketch, Nearest, Sketch, Whole
from pal_jax.errors import UserError

ALIKE, NOT_ALIKE = Relation.ALIKE, Relation.NOT_ALIKE
N, CLASSES, EXACT = 600, 4, 200
LABELS = np.arange(N) % CLASSES
Z = np.random.default_rng(0).normal(size=(N, 5)) + 6.0 * np.eye(5)[LABELS]


def say(i: int, j: int, relation: Relation, oracle: str = "me") -> Answer:
    return Answer(Question(i, (j,)), (relation,), oracle)


def new(**settings) -> Sampler:
    return Sampler(N, budget=500, **{"exact": EXACT, "seed": 3, **settings})


def members(sampler: Sampler) -> np.ndarray:
    view = sampler._look_at(Z)
    return view.ids(np.arange(view.geometry.n))


def sketch_of(sampler: Sampler, z: np.ndarray) -> Sketch:
    view = sampler._look_at(z)
    assert isinstance(view, Sketch)
    return view


def outside(sampler: Sampler, label: int) -> list[int]:
    """Samples of a class that are not in the sketch."""
    others = np.setdiff1d(np.arange(N), members(sampler))
    return others[LABELS[others] == label].tolist()


def inside(sampler: Sampler, label: int) -> list[int]:
    found = members(sampler)
    return found[LABELS[found] == label].tolist()


def together(groups: np.ndarray) -> np.ndarray:
    return groups[:, None] == groups


def test_a_sketch_of_all_samples_believes_what_the_exact_engine_does():
    relations = Relations(N)
    answers = LabelOracle(LABELS)([Question(i, (i + 1, i + 4)) for i in range(0, 200, 10)])
    relations.add(answers)
    trust = Trust()
    whole = Whole(Geometry(Z), relations)
    all_of_it = LastSketch(N, N, 0, 0, trust)(Z, relations)
    one = infer(whole.geometry, whole.relations, trust)
    other = infer(all_of_it.geometry, all_of_it.relations, trust)
    np.testing.assert_array_equal(other.nodes, one.nodes)
    np.testing.assert_allclose(other.column, one.column, atol=1e-4)
    for found, expected in zip(all_of_it.believed(other), whole.believed(one), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    groups = one.cluster.argmax(axis=1)
    np.testing.assert_allclose(all_of_it.centrality(groups), whole.centrality(groups), rtol=1e-6)


def test_up_to_the_limit_all_samples_are_looked_at():
    assert isinstance(Sampler(N, budget=0, exact=N)._look_at(Z), Whole)
    view = Sampler(N, budget=0, exact=N - 1)._look_at(Z)
    assert not isinstance(view, Whole)
    assert view.geometry.n == N // 2


@pytest.mark.parametrize("exact", [1, 0, -5])
def test_a_limit_that_leaves_nothing_to_compare_is_refused(exact):
    with pytest.raises(UserError, match="two samples or more"):
        new(exact=exact)


def test_the_draw_is_uniform_and_a_function_of_the_seed():
    drawn = np.zeros(N)
    for seed in range(300):
        ids = members(new(seed=seed))
        assert (np.diff(ids) > 0).all()
        assert len(ids) == EXACT // 2
        drawn[ids] += 1
    share = EXACT / 2 / N
    assert np.abs(drawn / 300 - share).max() < 5 * np.sqrt(share * (1 - share) / 300)
    np.testing.assert_array_equal(members(new(seed=9)), members(new(seed=9)))
    assert not np.array_equal(members(new(seed=9)), members(new(seed=8)))


def test_questions_and_answers_cross_between_rows_and_ids():
    sampler, seen = new(candidates=3), []

    def strategy(knowledge, count, rng):
        assert knowledge.geometry.n == knowledge.relations.n == EXACT // 2
        seen.append(knowledge.relations)
        return [Question(0, (5, 7)), Question(9, (2,))][:count]

    sampler.strategy = strategy
    ids = members(sampler).tolist()
    questions = sampler.propose(Z, 2)
    assert questions == [Question(ids[0], (ids[5], ids[7])), Question(ids[9], (ids[2],))]
    sampler.tell(LabelOracle(LABELS)(questions))
    far = outside(sampler, 0)
    sampler.tell(
        [say(ids[0], far[0], ALIKE), say(far[0], far[1], ALIKE), say(ids[3], ids[4], ALIKE)]
    )
    sampler.propose(Z, 1)
    heard = seen[-1].judgements()
    np.testing.assert_array_equal(heard.first, [0, 0, 9, 3])
    np.testing.assert_array_equal(heard.second, [5, 7, 2, 4])
    assert heard.oracles == ("labels", "me")
    assert seen[-1].relation(3, 4) is ALIKE
    expected = [ALIKE if LABELS[ids[0]] == LABELS[ids[j]] else NOT_ALIKE for j in (5, 7)]
    assert [seen[-1].relation(0, 5), seen[-1].relation(0, 7)] == expected


@pytest.mark.parametrize("candidates", [1, 4])
def test_it_learns_the_classes_of_all_samples(candidates):
    sampler = new(candidates=candidates)
    sampler.ask(LabelOracle(LABELS), Z, 60)
    assert sampler.spent >= 10
    asked = {
        sample for answer in sampler.answers for pair in answer.judgements for sample in pair[:2]
    }
    assert asked <= set(members(sampler).tolist())
    partition = sampler.partition(Z)
    np.testing.assert_array_equal(together(partition.groups), together(LABELS))
    assert partition.probability.mean() > 0.9


def test_what_is_asked_about_joins_when_twice_as_much_was_told():
    sampler = new()
    drawn = members(sampler)
    far = outside(sampler, 0) + outside(sampler, 1)
    sampler.tell([say(a, b, ALIKE if LABELS[a] == LABELS[b] else NOT_ALIKE)
                  for a, b in itertools.pairwise(far)][:63])  # fmt: skip
    np.testing.assert_array_equal(members(sampler), drawn)
    sampler.tell([say(far[0], far[1], ALIKE)])
    np.testing.assert_array_equal(members(sampler), np.union1d(drawn, far[:64]))
    view = sampler._look_at(Z)
    assert len(view.relations.judgements().first) == 64
    sampler.tell([say(far[70], far[1], ALIKE)] * 63)
    assert far[70] not in members(sampler)
    sampler.tell([say(far[70], far[1], ALIKE)])
    assert far[70] in members(sampler)


def test_answers_that_may_be_wrong_move_samples_outside_of_the_sketch():
    """One of class 0, said to be like members of class 1: the more often, the surer."""
    sampler = new(error_rate=0.2)
    stray, friends = outside(sampler, 0)[0], inside(sampler, 1)
    places, sure = [], []
    for count in (0, 1, 8):
        sampler.tell([say(stray, friends[i], ALIKE) for i in range(count)])
        found = sampler.partition(Z)
        places.append(found.groups[stray] == found.groups[friends[-1]])
        sure.append(found.probability[stray])
    assert stray not in members(sampler)
    assert places == [False, False, True]
    assert sure[1] < sure[0]
    sampler.tell([say(stray, friends[i], ALIKE) for i in range(8, 16)])
    assert sampler.partition(Z).probability[stray] > sure[2] > 0.5


def test_what_is_said_outside_of_the_sketch_counts_as_its_oracle_is_trusted():
    """And no sample is surer than the group it goes to."""
    sampler = new(error_rate=0.2)
    stray, friends = outside(sampler, 0)[0], inside(sampler, 1)
    sampler.tell([say(stray, friends[i], ALIKE) for i in range(8)])
    view = sketch_of(sampler, Z)
    found = infer(view.geometry, view.relations, sampler.trust)
    assert found.rates == {}  # nobody was heard about two of the sketch

    def stray_of(**changes):
        groups, sureness = view.believed(dataclasses.replace(found, **changes))
        return groups[stray] == groups[friends[0]], sureness[stray]

    moved, sure = stray_of()
    assert moved
    assert stray_of(holds=found.holds / 2.0)[1] == pytest.approx(sure / 2.0, rel=0.1)
    guessing = np.full((2, 3), 1.0 / 3.0)
    assert not stray_of(rates={"me": guessing})[0]
    assert stray_of(rates={"another": guessing}) == (moved, sure)


def test_those_most_often_asked_about_join_first(monkeypatch):
    monkeypatch.setattr(sketch, "_MOST_ASKED", 3)
    sampler = new()
    drawn = members(sampler)
    a, b, c, d, *rest = outside(sampler, 2)
    sampler.tell([say(a, other, ALIKE) for other in rest[:40]])
    sampler.tell([say(b, other, ALIKE) for other in rest[:20]] + [say(c, d, ALIKE)] * 4)
    np.testing.assert_array_equal(np.setdiff1d(members(sampler), drawn), sorted([a, b, c]))


def test_answers_believed_before_and_known_labels_are_there_from_the_start(monkeypatch):
    monkeypatch.setattr(sketch, "_MOST_LABELLED", 10)
    known = np.full(N, -1)
    known[: N // 2] = 7
    known[[590, 591]] = 9  # a label of two in three hundred
    sampler = new(known=known, prior=[say(595, 596, ALIKE)], error_rate=0.1)
    found = members(sampler)
    assert {0, 590, 595, 596} <= set(found.tolist())
    assert len(np.setdiff1d(found, members(new()))) <= 2 + 10 + 2
    assert sampler._look_at(Z).relations.relation(*np.searchsorted(found, [595, 596])) is ALIKE


@pytest.mark.parametrize("where", ["memory", "journal"])
@pytest.mark.parametrize("error_rate", [0.0, 0.1])
def test_a_run_that_stopped_has_the_sketch_it_would_have_had(where, error_rate, tmp_path, request):
    def fresh(path):
        journal = Journal(path) if where == "journal" else None
        if journal is not None:
            request.addfinalizer(journal.close)
        return journal, new(journal=journal, error_rate=error_rate)

    def go(sampler, rounds):
        for _ in range(rounds):
            sampler.audit(LabelOracle(LABELS), Z, 20)  # mostly about samples outside of the sketch
            sampler.ask(LabelOracle(LABELS), Z, 6, at_once=3)
            sampler.believe(Z)
            sampler.batch(12)
        return sampler

    _, whole = fresh(tmp_path / "whole")
    go(whole, 5)
    assert len(members(whole)) > EXACT // 2
    journal, first = fresh(tmp_path / "first")
    go(first, 3)
    state = json.loads(json.dumps(first.state_dict()))
    if journal is not None:
        first.audit(LabelOracle(LABELS), Z, 20)  # the journal gets further than the state
        journal.close()
    _, second = fresh(tmp_path / "first")
    second.load_state_dict(state)
    go(second, 2)
    assert second.answers == whole.answers
    np.testing.assert_array_equal(members(second), members(whole))
    for ours, theirs in zip((second.partition(Z).groups, second.partition(Z).probability),
                            (whole.partition(Z).groups, whole.partition(Z).probability),
                            strict=True):  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(second.batch(12).ids, whole.batch(12).ids)


def test_audits_see_all_samples_alike():
    counts = np.zeros(N)
    for seed in range(25):
        sampler = new(seed=seed)
        sampler.audit(LabelOracle(LABELS), Z, 60)
        for answer in sampler.answers:
            counts[answer.question.candidates[0]] += 1
            assert answer.question.anchor in members(sampler)  # speaks for its group
    drawn = np.mean(
        [np.isin(np.flatnonzero(counts), members(new(seed=s))).mean() for s in range(25)]
    )
    assert drawn == pytest.approx(EXACT / 2 / N, abs=0.03)
    assert counts.std() / np.sqrt(counts.mean()) == pytest.approx(1.0, abs=0.15)  # as of Poisson


def test_what_answers_prove_of_samples_outside_overrules_their_neighbours():
    sampler = new()
    sampler.ask(LabelOracle(LABELS), Z, 30)
    names = sampler.relations.groups()
    size = np.bincount(names, minlength=N)[names]  # of the group that it is known to be in
    speaker = [max(inside(sampler, label), key=size.__getitem__) for label in range(CLASSES)]
    member = next(i for i in inside(sampler, 0) if size[i] == 1
                  and not sampler.relations.apart(i))  # fmt: skip
    here, there = outside(sampler, 0), outside(sampler, 1)
    sampler.tell([
        say(here[0], speaker[1], ALIKE),  # although it looks like class 0
        say(here[1], here[2], ALIKE), say(here[2], speaker[2], ALIKE),  # by way of another
        say(there[0], here[3], ALIKE),  # both unknown: together at least
        say(there[1], speaker[1], NOT_ALIKE),
        *(say(there[2], speaker[label], NOT_ALIKE) for label in range(CLASSES)),
        say(here[4], here[5], NOT_ALIKE),
        say(member, speaker[3], ALIKE),  # in the sketch, and nothing like its neighbours
    ])  # fmt: skip
    partition = sampler.partition(Z)
    groups = partition.groups
    assert groups[here[0]] == groups[speaker[1]]
    assert groups[here[1]] == groups[here[2]] == groups[speaker[2]]
    assert groups[there[0]] == groups[here[3]]
    assert groups[there[1]] != groups[speaker[1]]
    assert (groups == groups[there[2]]).sum() == 1  # nowhere else can it be
    assert groups[here[4]] != groups[here[5]]
    assert groups[member] == groups[speaker[3]]
    assert partition.probability[there[1]] < 0.9 < partition.probability[here[0]]
    assert partition.probability[here[0]] == partition.probability[speaker[1]]
    untouched = np.setdiff1d(np.arange(N), [*here[:6], *there[:3], member])
    np.testing.assert_array_equal(together(groups[untouched]), together(LABELS[untouched]))


def test_answers_that_may_be_wrong_prove_nothing_but_labels_do():
    known = np.full(N, -1)
    stray = outside(new(), 0)[0]
    known[stray], known[np.flatnonzero(LABELS == 1)] = 5, 5
    sampler = new(known=known, error_rate=0.2)
    other = outside(sampler, 2)[0]
    sampler.tell([say(other, outside(sampler, 3)[0], ALIKE)])
    groups = sampler.partition(Z).groups
    assert groups[stray] == groups[np.flatnonzero(LABELS == 1)[0]]
    assert groups[other] == groups[inside(sampler, 2)[0]]


def test_a_label_that_is_not_in_the_sketch_is_no_cluster_of_another_label(monkeypatch):
    """Though all that look like it have that one."""
    monkeypatch.setattr(sketch, "_MOST_LABELLED", 1)
    here = inside(new(), 0)
    there = [i for i in outside(new(), 0) if i > here[0]][:3]
    known = np.full(N, -1)
    known[here], known[there] = 5, 9
    sampler = new(known=known, error_rate=0.2)
    assert not np.isin(there, members(sampler)).any()
    groups = sampler.partition(Z).groups
    assert len({*groups[there].tolist()}) == len({*groups[here].tolist()}) == 1
    assert groups[there[0]] != groups[here[0]]


def nearest_by_hand(z: np.ndarray, ids: np.ndarray, k: int) -> np.ndarray:
    square = np.square(z[:, None] - z[ids]).sum(axis=2)
    return np.argsort(square, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("shift", [0.0, 1e6, 1e300])
@pytest.mark.parametrize("write", [True, False])
def test_neighbours_are_the_nearest_and_those_that_join_are_among_them(shift, write):
    rng = np.random.default_rng(1)
    z = rng.normal(size=(500, 4)) * (1e298 if shift > 1e100 else 1.0) + shift
    z.setflags(write=write)
    uniform, ids = np.arange(0, 500, 5), np.union1d(np.arange(0, 500, 5), [3, 77, 78, 402])
    search = Nearest(z, uniform)
    scale = np.abs(z).max()
    for some in (uniform, ids, uniform):
        rows = search.among(some).result().rows
        expected = nearest_by_hand(z / scale, some, 10)
        same = [len(set(a) & set(b)) for a, b in zip(rows.tolist(), expected.tolist(), strict=True)]
        assert np.mean(same) / 10 > (0.999 if shift < 1e3 or shift > 1e100 else 0.9)


def test_cells_without_enough_samples_are_made_up_for(monkeypatch):
    monkeypatch.setattr(sketch, "_PROBED", 1)
    monkeypatch.setattr(sketch, "_NEIGHBOURS", 200)  # more than there are in most cells
    z, uniform = np.random.default_rng(0).normal(size=(2000, 3)), np.arange(0, 2000, 2)
    rows = Nearest(z, uniform).among(uniform).result().rows
    expected = nearest_by_hand(z, uniform, 200)
    lacking = [set(a) == set(b) for a, b in zip(rows.tolist(), expected.tolist(), strict=True)]
    assert (rows >= 0).all()
    assert np.mean(lacking) > 0.9


def test_copies_of_one_sample_have_neighbours():
    z = np.zeros((4000, 3))
    z[:40] = np.random.default_rng(0).normal(size=(40, 3))
    rows = Nearest(z, np.arange(0, 4000, 4)).among(np.arange(0, 4000, 4)).result().rows
    assert rows.shape == (4000, 10)
    assert (rows >= 0).all()
    assert (rows < 1000).all()


def test_fewer_samples_than_neighbours_are_enough():
    sampler = new(exact=6)
    assert sampler.partition(Z).groups.shape == (N,)
    sampler.ask(LabelOracle(LABELS), Z, 3)
    assert sampler.partition(Z).groups.shape == (N,)


def test_questions_do_not_wait_for_the_neighbours_of_all_samples(monkeypatch):
    gate = threading.Event()
    search = Nearest._search_uniform
    searched = []

    def held(self):
        assert gate.wait(60)
        searched.append(self)
        return search(self)

    monkeypatch.setattr(Nearest, "_search_uniform", held)
    sampler = new()
    sampler.ask(LabelOracle(LABELS), Z, 10)
    assert len(sampler.propose(Z, 3)) == 3
    assert not searched
    gate.set()
    sampler.partition(Z)
    sampler.tell([say(i, i + 4, ALIKE) for i in range(0, 300, 2)])  # others join the sketch
    sampler.partition(Z)
    assert len(searched) == 1  # once an embedding
    sampler.partition(Z + 1.0)
    assert len(searched) == 2


def test_an_embedding_written_to_while_its_neighbours_are_searched_is_the_one_that_was_given(
    monkeypatch,
):
    gate = threading.Event()
    search = Nearest._search_uniform
    monkeypatch.setattr(Nearest, "_search_uniform",
                        lambda self: gate.wait(60) and search(self))  # fmt: skip
    z, sampler = Z.copy(), new()
    sampler.propose(z, 1)
    near = sketch_of(sampler, z)._near
    z[:] = 0.0
    gate.set()
    np.testing.assert_array_equal(near.result().rows, sketch_of(new(), Z)._near.result().rows)


def test_a_failed_search_is_not_swallowed(monkeypatch):
    def fail(self):
        raise MemoryError("no room")

    monkeypatch.setattr(Nearest, "_search_uniform", fail)
    sampler = new()
    sampler.propose(Z, 1)
    with pytest.raises(MemoryError, match="no room"):
        sampler.partition(Z)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_bad_row_in_a_million_is_named(dtype):
    z = np.zeros((1_000_000, 2), dtype)
    z[765_432, 1] = np.nan
    with pytest.raises(UserError, match="of 1 samples, the first is 765432, are not finite"):
        Sampler(1_000_000, budget=1).propose(z, 1)


def test_memory_grows_with_the_samples_and_not_with_their_pairs():
    def peak(n: int) -> int:
        labels = np.arange(n) % 3
        z = (np.random.default_rng(0).normal(size=(n, 4)) + 6 * np.eye(4)[labels]).astype("f4")
        z.setflags(write=False)
        sampler = Sampler(n, budget=40, exact=1_000)
        sampler.partition(z)  # loads what is loaded once
        tracemalloc.start()
        try:
            sampler = Sampler(n, budget=40, exact=1_000)
            sampler.ask(LabelOracle(labels), z, 10)
            sampler.audit(LabelOracle(labels), z, 10)
            sampler.partition(z)
            sampler.batch(64)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(20_000), peak(80_000)
    assert large - small < 60_000 * 400  # a row of the sketch alone would be 2,000 bytes a sample


def test_a_batch_costs_its_own_size():
    n = 1_000_000
    sampler = Sampler(n, budget=2_000)
    sampler.tell([say(i, i + 1, ALIKE) for i in range(0, 4_000, 2)][:2_000])
    sampler.batch(4_096)
    tracemalloc.start()
    try:
        assert len(sampler.batch(4_096).ids) == 4_096
        sampler.tell([])
        sampler.batch(4_096)
        assert tracemalloc.get_traced_memory()[1] < n  # not a byte a sample
    finally:
        tracemalloc.stop()


def test_a_new_cluster_outside_of_the_sketch_is_none_that_its_proofs_opened():
    """All are believed to be of one cluster; 0, 1 (in the sketch) and 2 are proven apart."""
    z = np.random.default_rng(0).normal(size=(400, 4))
    sampler = Sampler(400, budget=99, exact=200)
    sampler.propose(z, 1)
    ids = sampler._look_at(z).ids(np.arange(100))
    outside = int(np.setdiff1d(np.arange(400), ids)[0])
    a, b = map(int, ids[:2])
    sampler.tell(
        [Answer(Question(i, (j,)), (Relation.NOT_ALIKE,), "me")
         for i, j in ((a, b), (outside, a), (outside, b))]
    )  # fmt: skip
    view = sampler._look_at(z)
    view.listen()
    posterior = infer(view.geometry, view.relations, sampler.trust)
    columns = len(posterior.first)
    nothing = np.zeros((columns, columns))
    one = dataclasses.replace(
        posterior,
        cluster=np.ones((len(posterior.column), 1)),
        links=Links(nothing, nothing, nothing, np.zeros(columns, int)),
    )
    groups, _ = view.believed(one)
    assert len({groups[a], groups[b], groups[outside]}) == 3

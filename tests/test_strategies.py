import copy
import dataclasses

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits

from pal_jax.active import strategies
from pal_jax.active.evidence import OneSided, Trust
from pal_jax.active.geometry import Geometry
from pal_jax.active.oracles import LabelOracle, NoisyOracle
from pal_jax.active.posterior import infer
from pal_jax.active.questions import Answer, Question, Relation
from pal_jax.active.relations import Relations
from pal_jax.active.sampler import Sampler

STRATEGIES = [
    strategies.random_pairs,
    strategies.nearest_representative,
    strategies.farthest_first,
    strategies.most_uncertain,
    strategies.most_informative,
]
LABELS = np.arange(60) % 3


def blobs(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(60, 4)) + 3 * np.eye(4)[LABELS]


def knowledge(z, *, candidates=1, error_rate=0.0, answers=()) -> strategies.Knowledge:
    relations = Relations(len(z))
    relations.add(answers)
    return strategies.Knowledge(Geometry(z), relations, candidates, Trust(error_rate))


def run(strategy, z, labels, questions, **settings):
    """All questions, asked one by one."""
    known = knowledge(z, **settings)
    oracle, asked = LabelOracle(labels), []
    for step in range(questions):
        proposed = strategy(known, 1, np.random.default_rng(step))
        if not proposed:
            break
        asked += proposed
        known.relations.add(oracle(proposed))
    return known, asked


@pytest.mark.parametrize("candidates", [1, 4])
@pytest.mark.parametrize("error_rate", [0.0, 0.1])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategy_contract(strategy, error_rate, candidates):
    first = LabelOracle(LABELS)([Question(0, (3, 6, 9)), Question(1, (0, 4))])
    known = knowledge(blobs(), candidates=candidates, error_rate=error_rate, answers=first)
    before = copy.deepcopy(known.relations)
    for count in (1, 5, 12):
        questions = strategy(known, count, np.random.default_rng(1))
        assert questions == strategy(known, count, np.random.default_rng(1))
        assert len(questions) == count
        pairs = [frozenset((q.anchor, c)) for q in questions for c in q.candidates]
        if error_rate == 0.0:
            assert len(set(pairs)) == len(pairs)
            assert all(known.relations.relation(*pair) is Relation.UNKNOWN for pair in pairs)
        assert all(len(q.candidates) <= candidates for q in questions)
    np.testing.assert_array_equal(known.relations.groups(), before.groups())
    assert list(known.relations.pairs()) == list(before.pairs())


@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_never_asks_what_follows_and_ends(strategy, candidates):
    labels = np.arange(12) % 3
    known, asked = run(strategy, blobs()[:12], labels, 100, candidates=candidates)
    assert len(asked) < 66
    pairs = [frozenset((q.anchor, c)) for q in asked for c in q.candidates]
    assert len(set(pairs)) == len(pairs)
    if strategy is strategies.most_informative:
        np.testing.assert_array_equal(known.relations.groups(), labels)


def test_not_sure_does_not_eat_the_budget():
    labels = np.where(np.arange(60) % 7 == 0, -1, LABELS)
    known, asked = run(strategies.most_informative, blobs(), labels, 40)
    often = np.bincount([i for q in asked for i in (q.anchor, *q.candidates)], minlength=60)
    assert often[labels < 0].max() <= 12
    assert len(np.unique(known.relations.groups()[labels >= 0])) < 40


def test_each_not_sure_halves_what_asking_the_like_of_it_is_worth():
    known = knowledge(blobs(), error_rate=0.1)
    posterior = infer(known.geometry, known.relations, known.trust)

    def gains():
        points = strategies._point_gains(known, posterior, strategies._of_all_questions, 30, [])
        return *points, strategies._pair_gains(known, posterior)

    samples, points, pairs = gains()
    first, second = map(int, np.argwhere(pairs > 0.0)[0])
    a, b = map(int, posterior.opener[[first, second]])
    c, d = samples[:2].tolist()
    unsure = [(a, b), (a, b), (a, c), (a, c), (a, c), (a, d)]
    known.relations.add(liar(Relation.UNKNOWN)([Question(i, (j,)) for i, j in unsure]))
    again, fewer, less = gains()
    np.testing.assert_array_equal(again, samples)
    times = np.bincount(np.array(unsure).ravel(), minlength=60)
    assert times[[c, d]].tolist() == [3, 1]
    np.testing.assert_allclose(fewer, points * 0.5 ** times[samples])
    homes = [sorted(posterior.column[[i, j], :-1].argmax(axis=1).tolist()) for i, j in unsure]
    halved = homes.count(sorted([first, second]))
    assert halved >= 2
    assert less[first, second] == less[second, first]
    assert less[first, second] == pytest.approx(pairs[first, second] * 0.5**halved)


@pytest.mark.parametrize(("error_rate", "left"), [(0.0, 2 / 5), (0.1, 1.0)])
def test_comparing_with_a_sample_nobody_is_sure_about_is_worth_less(error_rate, left):
    """Where it alone speaks for its group: by the share of sure answers about it, and one more."""
    z = np.random.default_rng(0).normal(size=(60, 4)) + 1.5 * np.eye(4)[LABELS]
    known = knowledge(z, error_rate=error_rate)
    column = 0
    opener = int(infer(known.geometry, known.relations, known.trust).opener[column])
    others = np.setdiff1d(np.arange(60), [opener]).tolist()
    known.relations.add(liar(Relation.NOT_ALIKE)([Question(opener, (others[0],))]))
    posterior = infer(known.geometry, known.relations, known.trust)

    def points():
        return strategies._point_gains(known, posterior, strategies._of_all_questions, 99, [])

    samples, before = points()
    unsure = [Question(opener, (other,)) for other in others[1:4]]
    known.relations.add(liar(Relation.UNKNOWN)(unsure))
    after = points()[1]
    fresh = ~np.isin(samples, [opener, *others[:4]])
    home = posterior.column[samples, :-1].argmax(axis=1)
    mine = fresh & (home == column)
    assert mine.any()
    np.testing.assert_allclose(after[mine], left * before[mine])
    np.testing.assert_array_equal(after[fresh & ~mine], before[fresh & ~mine])


def test_comparing_groups_is_worth_less_where_answers_tell_less():
    known = knowledge(blobs())
    posterior = infer(known.geometry, known.relations, known.trust)
    right, wrong = (
        strategies._pair_gains(known, dataclasses.replace(posterior, error=error))
        for error in (0.0, 0.3)
    )
    assert right.max() > 0.0
    np.testing.assert_allclose(wrong, 0.4 * right)


HARD = {
    "all equal": np.ones((30, 3)),
    "duplicates": np.repeat(np.eye(3), 10, axis=0),
    "one": np.zeros((1, 2)),
    "two": np.array([[0.0], [1.0]]),
    "three": np.array([[0.0], [1.0], [5.0]]),
    "far apart": np.diag(10.0 ** np.arange(-10, 10)),
    "wider than long": np.eye(5, 40),
    "integers": np.arange(20).reshape(10, 2),
    "huge": np.full((9, 2), 1e300) * np.arange(9)[:, None],
}


def liar(says: Relation):
    return lambda qs: [Answer(q, (says,) * len(q.candidates), "liar") for q in qs]


def coin(seed=0):
    rng = np.random.default_rng(seed)
    return lambda qs: [liar(list(Relation)[rng.integers(3)])([q])[0] for q in qs]


@pytest.mark.parametrize("error_rate", [0.0, 0.1, None])
@pytest.mark.parametrize("oracle", ["yes", "no", "not sure", "coin"])
@pytest.mark.parametrize("name", HARD)
def test_hard_embeddings_and_hard_oracles_end_in_a_partition(name, oracle, error_rate):
    z = HARD[name]
    answer = {
        "yes": liar(Relation.ALIKE),
        "no": liar(Relation.NOT_ALIKE),
        "not sure": liar(Relation.UNKNOWN),
        "coin": coin(),
    }[oracle]
    for strategy in STRATEGIES:
        sampler = Sampler(len(z), budget=35, strategy=strategy, error_rate=error_rate)
        sampler.ask(answer, z, 35)
        partition = sampler.partition(z)
        assert partition.groups.shape == partition.probability.shape == (len(z),)
        assert np.isfinite(partition.probability).all()
        assert (partition.probability >= 0).all()
        assert (partition.probability <= 1 + 1e-9).all()
        enough = sampler.spent >= 30 and oracle in ("yes", "no")
        assert [found.oracle for found in sampler.one_sided()] == (["liar"] if enough else [])


@pytest.mark.parametrize("error_rate", [0.0, 0.1, None])
@pytest.mark.parametrize("says", [Relation.ALIKE, Relation.NOT_ALIKE])
def test_an_oracle_that_always_says_the_same_is_told_of(says, error_rate):
    sampler = Sampler(60, budget=30, error_rate=error_rate)
    sampler.ask(liar(says), blobs(), 29)
    assert sampler.one_sided() == []
    sampler.ask(liar(says), blobs(), 1)
    assert sampler.one_sided() == [OneSided("liar", says, 30)]


def test_answers_at_random_are_no_proof(digits):
    """Nothing is asked that follows, so they never contradict each other, but the embedding."""
    x, y = digits[0][:600], digits[1][:600]
    rng = np.random.default_rng(0)

    def either(questions):
        return [liar(list(Relation)[rng.integers(2)])([q])[0] for q in questions]

    sampler = Sampler(600, budget=100)
    assert sampler.refuted(x) == 0.0
    sampler.ask(either, x, 100)
    assert sampler.relations.contradictions() == []
    assert sampler.refuted(x) > 0.15
    for error_rate in (0.1, None):  # nobody took these for proof
        doubtful = Sampler(600, budget=100, error_rate=error_rate)
        doubtful.tell(sampler.answers)
        assert doubtful.refuted(x) == 0.0
    right = Sampler(600, budget=100)
    right.ask(LabelOracle(y), x, 100)
    assert right.refuted(x) == 0.0


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float64)
    Sampler(len(x), budget=0).partition(x)
    return x, y


def accuracy(groups, labels):
    """Of the best one-to-one map of groups to classes; surplus groups are errors."""
    table = np.zeros((groups.max() + 1, labels.max() + 1))
    np.add.at(table, (groups, labels), 1)
    return table[linear_sum_assignment(-table)].sum() / len(labels)


def accuracies(digits, budgets, **settings):
    x, y = digits
    sampler = Sampler(len(x), budget=max(budgets), **settings.pop("sampler", {}))
    oracle = settings.get("oracle", LabelOracle(y))
    found = []
    for budget in budgets:
        sampler.ask(oracle, x, budget - sampler.spent, at_once=settings.get("at_once", 1))
        found.append(accuracy(sampler.partition(x).groups, y))
    return found


@pytest.mark.slow
def test_digits_are_grouped_with_few_answers(digits):
    start, after = accuracies(digits, [0, 150])
    assert start > 0.8  # no answers, no number of classes
    assert after > 0.98


def test_random_pairs_are_far_below(digits):
    (found,) = accuracies(digits, [150], sampler={"strategy": strategies.random_pairs})
    assert found < 0.9


@pytest.mark.slow
def test_batches_of_questions_cost_little_more(digits):
    (found,) = accuracies(digits, [100], at_once=20)
    assert found > 0.98  # 60 do one at a time


@pytest.mark.slow
def test_set_questions_work_as_well(digits):
    x, y = digits
    sampler = Sampler(len(x), budget=150, candidates=8)
    sampler.ask(LabelOracle(y), x, 150)
    assert accuracy(sampler.partition(x).groups, y) > 0.95
    assert any(len(answer.relations) == 8 for answer in sampler.answers)


@pytest.mark.slow
@pytest.mark.parametrize("error_rate", [0.1, None])
def test_wrong_answers_do_not_spoil_the_groups(digits, error_rate):
    oracle = NoisyOracle(LabelOracle(digits[1]), 0.1, seed=0)
    (found,) = accuracies(digits, [150], oracle=oracle, sampler={"error_rate": error_rate})
    assert found > 0.85


def test_set_questions_name_no_sample_twice_and_never_too_many():
    asked: list[Question] = []
    for strategy in STRATEGIES:
        for error_rate in (0.0, 0.1):
            _, asked = run(strategy, blobs(), LABELS, 25, candidates=5, error_rate=error_rate)
            assert asked
            for question in asked:
                named = [question.anchor, *question.candidates]
                assert len(set(named)) == len(named) <= 1 + 5
    assert max(len(q.candidates) for q in asked) > 1


@pytest.mark.parametrize("strategy", [strategies.nearest_representative, strategies.farthest_first])
@pytest.mark.parametrize("candidates", [1, 3])
def test_scans_find_all_groups_and_end(strategy, candidates):
    labels = np.arange(40) % 4
    z = np.random.default_rng(2).normal(size=(40, 4)) + 6.0 * np.eye(4)[labels]
    known, asked = run(strategy, z, labels, 1000, candidates=candidates)
    np.testing.assert_array_equal(known.relations.groups(), labels)
    assert strategy(known, 5, np.random.default_rng(0)) == []
    judgements = sum(len(q.candidates) for q in asked)
    assert 36 + 6 <= judgements <= 40 * 4  # each sample joins, and all groups are seen apart


def test_farthest_first_sees_every_group_before_it_sees_one_twice():
    labels = np.repeat(np.arange(4), 15)
    z = np.random.default_rng(2).normal(size=(60, 4)) + 20.0 * np.eye(4)[labels]
    order = strategies._farthest_order(Geometry(z))
    assert sorted(labels[order[:4]]) == [0, 1, 2, 3]
    np.testing.assert_array_equal(np.sort(order), np.arange(60))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_where_answers_may_be_wrong_no_pair_is_asked_twice(strategy):
    """A new pair has an error of its own: an oracle that repeats its errors does no harm."""
    oracle = NoisyOracle(LabelOracle(LABELS), 0.1, seed=0)
    sampler = Sampler(60, budget=60, error_rate=0.1, strategy=strategy)
    sampler.ask(oracle, blobs(), 60)
    pairs = [frozenset(p[:2]) for answer in sampler.answers for p in answer.judgements]
    assert len(pairs) > 30
    assert len(set(pairs)) == len(pairs)


@pytest.mark.parametrize(("error_rate", "needed"), [(0.0, 1), (0.1, 2)])
def test_groups_are_compared_until_answers_keep_each_from_all_others(error_rate, needed):
    z = np.random.default_rng(0).normal(size=(60, 4)) + 9.0 * np.eye(4)[LABELS]
    known, oracle = knowledge(z, error_rate=error_rate), LabelOracle(LABELS)
    rng, asked = np.random.default_rng(0), []
    assert len(strategies.uncompared_groups(known, 2, rng)) == 2
    while questions := strategies.uncompared_groups(known, 100, rng):
        classes = [frozenset(LABELS[[q.anchor, *q.candidates]].tolist()) for q in questions]
        assert len(set(classes)) == len(classes)  # each pair of groups once a call
        assert all(len(c) == 2 for c in classes)
        known.relations.add(oracle(questions))
        asked += classes
    assert len(asked) == 3 * needed  # of three groups


def test_classes_of_several_far_parts_are_found_by_comparing_groups():
    blob = np.arange(240) % 8
    z = np.random.default_rng(0).normal(size=(240, 8)) + 9.0 * np.eye(8)[blob]
    sampler, oracle = Sampler(240, budget=200), LabelOracle(blob % 4)
    while sampler.ask(oracle, z, 9, at_once=9, strategy=strategies.uncompared_groups):
        pass
    groups = sampler.partition(z).groups
    assert sampler.spent <= 8 * 7 / 2
    np.testing.assert_array_equal(groups[:, None] == groups, (blob % 4)[:, None] == blob % 4)


@pytest.mark.slow
def test_batches_of_twenty_cost_at_most_a_quarter_more_answers():
    labels = np.arange(240) % 6

    def needed(seed: int, at_once: int) -> int:
        """Answers until 97 % of the samples are right."""
        z = np.random.default_rng(seed).normal(size=(240, 6)) + 3.0 * np.eye(6)[labels]
        sampler = Sampler(240, budget=240)
        while accuracy(sampler.partition(z).groups, labels) < 0.97:
            assert sampler.ask(LabelOracle(labels), z, max(at_once, 2), at_once=at_once)
        return sampler.spent

    single = np.mean([needed(seed, 1) for seed in range(3, 9)])
    # A batch is read when it is in: half of one later, in the mean.
    assert np.mean([needed(seed, 20) for seed in range(3, 9)]) <= 1.25 * single + 10


def test_a_label_takes_as_many_questions_as_groups_are_likely():
    part = strategies._of_all_questions
    shares = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.6, 0.2]])
    # sure; one answer tells both ways; 0.4 that another question follows, which settles it
    np.testing.assert_allclose(part(shares), 1.0 / np.array([1.0, 1.0, 1.4]))
    even = np.full((1, 10), 0.1)
    exact = sum((k + 1) * 0.1 for k in range(9)) + 9 * 0.1  # the last group needs no question
    assert 1.0 / part(even)[0] == pytest.approx(exact, rel=0.1)
    # a group that nobody has seen, with 0.3: it needs no question of its own
    assert 1.0 / part(np.array([[0.4, 0.3]]))[0] == pytest.approx(1.0 + 0.6)


def test_sums_over_a_spread_out_sample_stand_for_those_over_all():
    values = np.random.default_rng(0).exponential(size=5_000) ** 2
    values[::3] = 0.0
    index, weight = strategies._spread_out(values, 400)
    assert len(index) <= 400
    assert len(np.unique(index)) == len(index)
    assert weight.sum() == pytest.approx(values.sum())
    smooth = np.sin(np.arange(5_000) / 700.0)
    assert weight @ smooth[index] == pytest.approx(values @ smooth, abs=0.01 * values.sum())
    some, exact = strategies._spread_out(values[:9], 400)
    np.testing.assert_array_equal(exact, values[:9][some])


def test_samples_worth_a_look_are_the_worst_and_some_of_all_that_are_nearly_as_bad():
    score = np.concatenate([np.full(30, 1.0), np.full(500, 0.8), np.full(400, 0.1), [0.5, 0.4, 0]])
    asked = np.arange(len(score)) >= 930
    found = strategies._worth_a_look(score, asked, 20)
    assert len(set(found.tolist())) == len(found) == 20 + 2  # of those asked about, who has a score
    np.testing.assert_array_equal(found[:10], np.arange(10))
    spread = found[10:20]
    assert (score[spread] >= 0.7).all()
    assert spread.max() - spread.min() > 400
    np.testing.assert_array_equal(found[20:], [930, 931])
    few = strategies._worth_a_look(np.array([0.0, 0.2, 0.9]), np.zeros(3, bool), 20)
    np.testing.assert_array_equal(few, [2, 1])


def test_the_believed_answers_are_those_of_whoever_was_heard_last():
    known = knowledge(blobs(), answers=[
        Answer(Question(0, (1,)), (Relation.ALIKE,), name) for name in ("ann", "bob", "ann")
    ])  # fmt: skip
    assert strategies._oracle(known) == "ann"
    assert strategies._oracle(knowledge(blobs())) == "believed"


@pytest.mark.parametrize("most", [1, 3, 8])
def test_no_question_is_worth_more_than_the_bound_of_its_column(most):
    rng = np.random.default_rng(most)
    pairs = rng.random((4, 4))
    gains = strategies._Gains(
        pairs + pairs.T,
        np.arange(30),
        rng.random(30),
        rng.random((30, 4)),
        np.arange(4),
        np.eye(30),
    )
    bounds = gains.bounds(most)
    for column in range(4):
        mine = np.flatnonzero(gains.home == column)
        chosen = strategies._take(gains, column, mine, most)
        seconds = strategies._SCREEN + strategies._LOOK * len(chosen)
        worth = sum(gain for gain, _, _ in chosen) / seconds
        assert 0.0 < worth <= bounds[column] + 1e-9


def test_samples_asked_about_but_not_known_still_tell_the_same_if_they_are_alike():
    z = np.random.default_rng(0).normal(size=(60, 4)) + 1.5 * np.eye(4)[LABELS]
    z[11] = z[10] + 0.01
    answers = [Answer(Question(1, (sample,)), (Relation.NOT_ALIKE,), "me") for sample in (10, 11)]
    known = knowledge(z, answers=answers)
    posterior = infer(known.geometry, known.relations, known.trust)
    assert posterior.wrong[[10, 11]].min() > 0.3
    twin, stranger = strategies._shared(posterior, np.array([10]), np.array([11, 30]))[0]
    assert twin > 0.1  # by the regression, which has heard of both, hardly at all
    assert stranger < 0.01


def test_it_goes_on_about_samples_until_it_knows_them():
    """Where a "no" is likely, a label asked for half is worth little."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 1000)
    z = rng.normal(size=(1000, 10)) + 1.4 * rng.normal(size=(10, 10))[labels]
    sampler = Sampler(1000, budget=300)
    sampler.ask(LabelOracle(labels), z, 300)
    known = {}
    for answer in sampler.answers:
        sample = answer.question.candidates[0]
        known[sample] = known.get(sample, False) or answer.relations[0] is Relation.ALIKE
    assert np.mean(list(known.values())) > 0.5  # 0.40 where each is asked about once


def test_where_answers_may_be_wrong_the_middle_of_a_group_speaks_for_it():
    """Not the sample most like the one asked about: that may share its error."""
    answers = LabelOracle(LABELS)([Question(0, (3,)), Question(1, (4,)), Question(2, (5,))])
    known = knowledge(blobs(), error_rate=0.1, answers=answers)
    posterior = infer(known.geometry, known.relations, known.trust)
    for column in range(len(posterior.first)):
        pull = known.geometry.pull(posterior.column[:, [column]])[:, 0]
        share = posterior.column[:, column]
        best = int((pull * share).argmax())
        asked = [i for i in range(60) if i != best and not known.relations.asked(best, i)]
        assert {
            strategies._anchor(known, posterior, column, np.array([i])) for i in asked
        } == {best}  # fmt: skip
        members = (share > 0.8).sum()
        speakers, central = strategies._speakers(known, posterior, column)
        assert len(speakers) == min((share > 0.5).sum(), max(4, members // 3))
        np.testing.assert_allclose(central, pull[speakers], rtol=1e-5)


def test_nobody_else_speaks_for_a_group_of_one():
    z = np.concatenate([blobs(), [[9.0, 9.0, 9.0, 9.0]]])
    stranger, oracle = len(z) - 1, LabelOracle(np.append(LABELS, 3))
    answers = oracle([Question(i, (j,)) for i in range(3) for j in range(9) if j % 3 != i])
    answers += oracle([Question(i, (stranger,)) for i in range(12)])
    known = knowledge(z, error_rate=0.1, answers=answers)
    posterior = infer(known.geometry, known.relations, known.trust)
    column = int(posterior.column[stranger, :-1].argmax())
    assert (posterior.column[:, column] > 0.5).sum() == 1
    anchor = strategies._anchor(known, posterior, column, np.array([], np.int64))
    assert anchor == stranger
    for other in set(range(posterior.column.shape[1] - 1)) - {column}:
        pairs = set()
        while pair := strategies._closest(known, posterior, column, other):
            assert stranger in pair
            assert pair not in pairs  # each once
            pairs.add(pair)
            known.relations.add(oracle([Question(pair[0], (pair[1],))]))
        assert pairs


def test_what_one_answer_tells_of_others_is_taken_off_their_gain():
    gains = strategies._Gains(
        pairs=np.array([[0.0, 5.0], [5.0, 0.0]]),
        samples=np.array([7, 8, 9]),
        points=np.array([4.0, 3.0, 2.0]),
        column=np.array([[0.7, 0.2], [0.8, 0.1], [0.1, 0.9]]),
        cluster=np.array([0, 1]),
        shared=np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.1], [0.0, 0.1, 1.0]]),
    )
    gains.take(0, [(True, 0)])
    # The first may be compared with its next column, which is worth something after a "no".
    np.testing.assert_allclose(gains.points, [4.0 * (1 - 0.7 / 0.9), 3.0 * 0.5**4, 2.0])
    np.testing.assert_array_equal(gains.home, [1, 0, 1])
    gains.take(1, [(True, 0)])
    assert gains.points[0] == 0.0
    gains.take(1, [(False, 0)])
    np.testing.assert_array_equal(gains.pairs, 0.0)


def test_a_batch_believes_comparisons_of_groups_and_no_samples(monkeypatch):
    """What is inferred from between the questions of a batch."""
    told = []

    def spy(geometry, relations, trust):
        told.append(list(relations.pairs()))
        return infer(geometry, relations, trust)

    monkeypatch.setattr(strategies, "infer", spy)
    known = knowledge(blobs())
    ideas = strategies._together(known, 20)
    groups = [frozenset((i.question.anchor, *i.question.candidates)) for i in ideas if i.groups[0]]
    assert 0 < len(groups) < 20
    assert len(told) <= 1 + len(groups)
    assert set() < {frozenset(pair) for pair in told[-1]} <= set(groups)


def test_samples_that_are_asked_about_anyway_are_worth_less():
    known = knowledge(blobs())
    posterior = infer(known.geometry, known.relations, known.trust)
    part = strategies._at_once
    before = strategies._all_gains(known, posterior, part, 20, [])
    worth = before.points.argmax()
    sample, home = int(before.samples[worth]), int(before.home[worth])
    anchor = int(posterior.opener[home])
    after = strategies._all_gains(known, posterior, part, 20, [(anchor, sample)])
    np.testing.assert_array_equal(after.samples, before.samples)
    assert after.home[worth] != home
    assert after.points[worth] < before.points[worth]
    assert (after.points <= before.points).all()
    assert (after.points < before.points).sum() > 1  # so are others that are like it
    np.testing.assert_array_equal(after.pairs, before.pairs)


def test_no_pair_is_in_a_batch_twice():
    question = Question(3, (4, 5, 6))
    idea = strategies._Idea(
        question, (Relation.ALIKE,) * 2 + (Relation.NOT_ALIKE,), (False, False, True)
    )
    rest = strategies._unseen(idea, {frozenset((5, 3)), frozenset((4, 6))})
    assert rest is not None
    assert rest.question == Question(3, (4, 6))
    assert rest.believed == (Relation.ALIKE, Relation.NOT_ALIKE)
    assert rest.groups == (False, True)
    assert strategies._unseen(idea, {frozenset((3, c)) for c in (4, 5, 6)}) is None


@pytest.mark.parametrize(("most", "kept"), [(0.014, [7, 9]), (0.016, range(10))])
def test_a_small_doubt_that_most_samples_share_is_no_reason_to_ask(most, kept):
    """All but two samples have it; from 1.5 % on it is theirs, and not of the embedding as such."""
    wrong = np.full(10, most)
    wrong[[7, 9]] = 0.05, 0.4
    found = strategies._beyond_doubt(wrong)
    np.testing.assert_array_equal(np.flatnonzero(found), list(kept))
    np.testing.assert_array_equal(found[list(kept)], wrong[list(kept)])

"""The distribution of batches; their contract is in tests/test_sampler.py."""

import numpy as np
import pytest

from pal_jax.active.batches import Partners, draw

N = 400
GROUPS = np.arange(N)
GROUPS[10:70] = 10 + (np.arange(60) // 3) * 3  # twenty groups of three
GROUPS[100:140] = 100  # and one of forty


def partners(groups: np.ndarray, listed: np.ndarray | None = None) -> Partners:
    samples = np.arange(len(groups)) if listed is None else listed
    return Partners(len(groups), samples, groups[samples])


def test_samples_alone_need_not_be_listed():
    listed = np.union1d(np.arange(5, 75), np.arange(100, 150))
    for seed in range(20):
        one = draw(partners(GROUPS), 50, 0.5, np.random.default_rng(seed))
        other = draw(partners(GROUPS, listed), 50, 0.5, np.random.default_rng(seed))
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.groups, other.groups)
        names = GROUPS[one.ids]
        np.testing.assert_array_equal(one.groups[:, None] == one.groups, names[:, None] == names)


def test_nobody_listed_is_everybody_alone():
    nobody = np.empty(0, np.int64)
    batch = draw(Partners(9, nobody, nobody), 9, 1.0, np.random.default_rng(0))
    assert sorted(batch.ids.tolist()) == sorted(batch.groups.tolist()) == list(range(9))


@pytest.mark.parametrize("related", [0.0, 0.4])
def test_samples_with_a_partner_and_all_samples_come_equally_often(related):
    counts, index, rng = np.zeros(N), partners(GROUPS), np.random.default_rng(0)
    rounds, size = 4_000, 20
    for _ in range(rounds):
        counts[draw(index, size, related, rng).ids] += 1
    share = counts / rounds
    alone = np.bincount(GROUPS, minlength=N)[GROUPS] == 1
    assert share.sum() == pytest.approx(size)
    tolerance = 5 * np.sqrt(share.mean() / rounds) + 0.01
    assert np.abs(share[alone] - share[alone].mean()).max() < tolerance
    assert np.abs(share[~alone] - share[~alone].mean()).max() < 2 * tolerance
    if related:
        assert share[~alone].mean() > 2 * share[alone].mean()
    else:
        assert share[~alone].mean() == pytest.approx(share[alone].mean(), rel=0.05)


def test_the_partner_is_any_other_of_the_group():
    index, seen = partners(GROUPS), np.zeros((N, N))
    for seed in range(3_000):
        pair = index.draw(2, np.random.default_rng(seed))
        if len(pair) == 2:
            seen[pair[0], pair[1]] += 1
    assert (GROUPS[:, None] == GROUPS)[seen > 0].all()
    forty = seen[100:140, 100:140]
    assert (forty > 0).sum() > 0.5 * 40 * 39 / 2
    triples = seen[10:70, 10:70]
    inside = triples[np.triu(GROUPS[10:70, None] == GROUPS[10:70], 1)]
    assert inside.min() > 0
    assert inside.std() / np.sqrt(inside.mean()) == pytest.approx(1.0, abs=0.3)

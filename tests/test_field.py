import numpy as np
import pytest

from pal_jax.active import field as field_lib
from pal_jax.active.field import NOISE, Field

N = 150
NODES = np.random.default_rng(1).permutation(N)[:40].tolist()


def random_kernel(n: int, rank: int = 12, seed: int = 0) -> np.ndarray:
    """[n, n] float64, positive semi-definite, 1 on the diagonal."""
    x = np.random.default_rng(seed).normal(size=(n, rank))
    k = x @ x.T + 0.5 * np.eye(n)
    scale = 1.0 / np.sqrt(k.diagonal())
    return scale[:, None] * k * scale


K = random_kernel(N)


BLOCKS = [(1, 0), (7, 0), (64, 0), (7, 12), (64, 30)]  # so many at once, after so many


def field(nodes=(), kernel=K, block=(1, 0)) -> Field:
    single = kernel.astype(np.float32)
    out = Field(lambda rows, columns: single[rows][:, columns].copy(), len(kernel), *block)
    out.move_to(nodes)
    return out


def labels_of(nodes, columns: int = 3) -> np.ndarray:
    return np.random.default_rng(len(nodes)).normal(size=(len(nodes), columns))


def regression(nodes, labels, kernel=K):
    """Mean [n, C] and covariance [n, n] of the function: the formulas of a textbook."""
    inner = np.linalg.inv(kernel[np.ix_(nodes, nodes)] + NOISE * np.eye(len(nodes)))
    cross = kernel[:, nodes]
    return cross @ inner @ labels, kernel - cross @ inner @ cross.T


def numbers(of: Field) -> list[np.ndarray]:
    """All that a field says."""
    labels = labels_of(of.nodes)
    some = np.arange(0, N, 7)
    return [
        of.mean(labels), of.left_out(labels), of.left_out_variance(), of.variance,
        of.covariance(some, some),
    ]  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS)
def test_mean_variance_and_covariance_are_those_of_the_textbook(block):
    one, labels = field(NODES, block=block), labels_of(NODES)
    mean, covariance = regression(NODES, labels)
    np.testing.assert_allclose(one.mean(labels), mean, atol=1e-3)
    np.testing.assert_allclose(one.variance, covariance.diagonal(), atol=1e-4)
    rows, columns = np.array([3, NODES[0], 77]), np.array([NODES[1], 5, 3, 140])
    found = one.covariance(rows, columns)
    np.testing.assert_allclose(found, covariance[np.ix_(rows, columns)], atol=1e-4)


@pytest.mark.parametrize("stripe", [7, 128])
@pytest.mark.parametrize("block", BLOCKS)
def test_left_out_is_the_regression_without_that_node(block, stripe, monkeypatch):
    monkeypatch.setattr(field_lib, "_STRIPE", stripe)
    one, labels = field(NODES, block=block), labels_of(NODES)
    for k, node in enumerate(NODES):
        rest = [other for other in NODES if other != node]
        mean, covariance = regression(rest, np.delete(labels, k, axis=0))
        np.testing.assert_allclose(one.left_out(labels)[k], mean[node], atol=1e-3)
        assert one.left_out_variance()[k] == pytest.approx(covariance[node, node], abs=1e-4)


def test_what_an_unknown_label_tells_is_its_squared_correlation_without_it():
    one = field(NODES)
    columns = np.array([3, 77, 140, NODES[0]])
    places = np.array([0, 11, 39])
    found = one.told(places, columns)
    for row, place in zip(found, places, strict=True):
        node = NODES[place]
        _, covariance = regression([k for k in NODES if k != node], np.zeros((39, 1)))
        # a label is the function plus noise; variances below 0.02 count as if they were that
        taken = covariance[node, columns] ** 2 / (covariance[node, node] + NOISE)
        left = covariance[columns, columns] - taken
        np.testing.assert_allclose(row, taken / (np.maximum(left, 0.02) + taken), atol=2e-3)


def test_what_two_unknown_labels_tell_each_other_is_correlation_given_all_others():
    one = field(NODES)
    places, others = np.array([2, 5, 30]), np.array([5, 8])
    found = one.told_each_other(places, others)
    assert found[1, 0] == pytest.approx(1.0)
    for i, place in enumerate(places):
        for j, other in enumerate(others):
            if place != other:
                pair = [NODES[place], NODES[other]]
                rest = [k for k in NODES if k not in pair]
                _, covariance = regression(rest, np.zeros((38, 1)))
                c = covariance[np.ix_(pair, pair)] + NOISE * np.eye(2)
                expected = c[0, 1] ** 2 / (c[0, 0] * c[1, 1])
                assert found[i, j] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    "way",
    [
        [NODES[:10], NODES[:25], NODES],  # grows
        [NODES + [n for n in range(N) if n not in NODES], NODES],  # is cut, past its first memory
        [NODES[:20] + NODES[:19:-1], NODES],  # turns off half-way
        [NODES[::-1], NODES],  # shares nothing
        [NODES, NODES],
        [NODES, [], NODES],
        [list(range(N)), NODES],  # is cut to nothing, with memory for more
        [NODES[:20], NODES[:15], NODES[:33], NODES],  # back and forth over the edges of blocks
        [NODES[:k] for k in range(1, 41)],
    ],
)
def test_what_it_says_does_not_depend_on_how_it_got_there(way, block):
    one = field(block=block)
    for nodes in way:
        one.move_to(nodes)
        numbers(one)
    assert one.nodes == NODES
    for found, expected in zip(numbers(one), numbers(field(NODES, block=block)), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("block", BLOCKS)
def test_it_grows_past_its_first_memory(block):
    nodes = list(range(0, N - 1))
    one = field(block=block)
    for count in range(0, len(nodes) + 1, 13):
        one.move_to(nodes[:count])
    one.move_to(nodes)
    labels = labels_of(nodes)
    mean, covariance = regression(nodes, labels)
    np.testing.assert_allclose(one.mean(labels), mean, atol=1e-2)
    np.testing.assert_allclose(one.variance, covariance.diagonal(), atol=1e-3)


def test_without_nodes_nothing_is_known():
    one = field()
    assert (one.mean(np.empty((0, 2))) == 0.0).all()
    assert one.mean(np.empty((0, 2))).shape == (N, 2)
    assert (one.variance == 1.0).all()
    assert one.left_out(np.empty((0, 2))).shape == (0, 2)
    np.testing.assert_array_equal(one.covariance(np.arange(3), np.arange(4)),
                                  K.astype(np.float32)[:3, :4])  # fmt: skip


@pytest.mark.parametrize("block", [(1, 0), (6, 0), (3, 1)])
def test_exact_copies_as_nodes_stay_finite_and_variances_stay_in_their_bounds(block):
    kernel = np.ones((6, 6))
    one = field(range(6), kernel, block)
    np.testing.assert_allclose(one.mean(np.ones((6, 1))), 6.0 / (6.0 + NOISE), rtol=1e-4)
    for variance in (one.variance, one.left_out_variance()):
        assert (variance >= 0.0).all()
        assert (variance < 0.01).all()


def test_whole_blocks_are_placed_by_few_products():
    asked = []

    def kernel(rows, columns):
        asked.append(len(rows))
        return K.astype(np.float32)[rows][:, columns].copy()

    Field(kernel, N, block=16).move_to(NODES)
    assert asked == [16, 16, *[1] * 8]
    asked.clear()
    Field(kernel, N, block=16, single=10).move_to(NODES)
    assert asked == [*[1] * 10, 16, *[1] * 14]

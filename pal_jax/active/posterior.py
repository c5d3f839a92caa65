"""To which group each sample belongs, given the embedding and the answers so far."""

import dataclasses

import numpy as np

from pal_jax.active.geometry import Geometry
from pal_jax.active.questions import Relation
from pal_jax.active.relations import Relations

_NOISE = 0.01  # variance of a label around the smooth function of the graph
_NEWS = 2  # new groups counted before the first question, so that some are expected
_TINY = 1e-300
SURPRISE = 0.02  # share of probability that no geometry takes away


@dataclasses.dataclass(frozen=True)
class Posterior:
    """Gaussian process regression of group membership on the kernel of `Geometry`.

    Placed samples are targets 1 in the column of their group and 0 in the others. With F the
    posterior mean and v the posterior variance at a sample, the probability of group g is
    proportional to max(F_g, 0)^2; that of a group which nobody has seen to v, times how often
    new groups still turn up. Answers "not alike" multiply it by (e / (1 - e))^votes, which is 0
    for an error rate e of 0.

    Args:
        names: [C] names of the groups, ascending.
        column: [n] int, column of the group of each placed sample, -1 elsewhere.
        mean: [n, C] F.
        variance: [n] v, in [0, 1].
        probability: [n, C + 1]; the last column is the unseen group. One-hot where placed.
        covariance: [r, r] of the weights of the features.
        noise: [n] variance of an observation at each sample.
        news: how often a sample outside of what is known founds a new group.
    """

    names: np.ndarray
    column: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    probability: np.ndarray
    covariance: np.ndarray
    noise: np.ndarray
    news: float

    @property
    def placed(self) -> np.ndarray:
        """[n] bool."""
        return self.column >= 0


def infer(
    geometry: Geometry,
    relations: Relations,
    error_rate: float = 0.0,
    groups: np.ndarray | None = None,
) -> Posterior:
    """The posterior, from nothing but its arguments; O(n r (r + C)).

    Placed are samples with a label known from the start, those alike to another one, the most
    central sample of each community without such a label, and samples that the answers keep out
    of so many groups that a group of their own is most probable.

    Args:
        error_rate: how often a judgement is wrong.
        groups: [n] names of groups to be taken for granted, such as `likely_groups`; None:
            those that follow from the answers.
    """
    groups = relations.groups() if groups is None else groups
    known = relations.known() >= 0
    placed = known | (np.bincount(groups, minlength=len(groups))[groups] > 1)
    labelled = np.isin(geometry.communities, geometry.communities[known])
    placed[geometry.medoids[~labelled[geometry.medoids]]] = True
    asked = np.unique(np.array([*relations.pairs()], np.int64))
    refused = [any(placed[other] for other in relations.apart(i)) for i in groups[asked].tolist()]
    loose = asked[~placed[asked] & np.array(refused, dtype=bool)]
    posterior = _regress(geometry, relations, groups, placed, loose, error_rate)
    founders = loose[posterior.probability[loose].argmax(axis=1) == len(posterior.names)]
    if len(founders):
        placed[founders] = True
        posterior = _regress(geometry, relations, groups, placed, loose[~placed[loose]], error_rate)
    return posterior


def _regress(
    geometry: Geometry,
    relations: Relations,
    groups: np.ndarray,
    placed: np.ndarray,
    loose: np.ndarray,
    error_rate: float,
) -> Posterior:
    """The posterior for given placed samples; `loose` were asked about, but are not placed."""
    phi = geometry.features
    names, inverse = np.unique(groups[placed], return_inverse=True)
    column = np.full(len(groups), -1)
    column[placed] = inverse
    # A sample that its neighbours say little about also says little about them.
    noise = _NOISE + 1.0 - np.square(phi).sum(axis=1)
    scaled = phi[placed] / noise[placed, None]
    covariance = np.linalg.inv(np.eye(phi.shape[1]) + scaled.T @ phi[placed])
    one_hot = np.zeros((len(scaled), len(names)))
    one_hot[np.arange(len(scaled)), inverse] = 1.0
    mean = phi @ (covariance @ (scaled.T @ one_hot))
    variance = ((phi @ covariance) * phi).sum(axis=1) + noise - _NOISE

    news = (_NEWS + len(names)) / (_NEWS + len(scaled))
    score = np.square(np.maximum(mean, 0.0))
    unseen = news * variance * score.sum(axis=1) / (np.maximum(mean, 0.0).sum(axis=1) + _TINY)
    score[loose] *= _odds_of_apart(relations, groups, loose, names, error_rate)
    score = np.concatenate([score, unseen[:, None]], axis=1)
    score[score.sum(axis=1) <= 0.0, -1] = 1.0  # nothing reaches it: a group of its own
    score[placed] = 0.0
    score[placed, inverse] = 1.0
    probability = score / score.sum(axis=1, keepdims=True)
    return Posterior(names, column, mean, variance, probability, covariance, noise, news)


def leaks(posterior: Posterior, geometry: Geometry) -> np.ndarray:
    """[C, C] share of the edges of the samples in group a (row) that lead to group b.

    A piece of a class leaks into the rest of it; a class of its own hardly leaks.
    """
    member = posterior.probability[:, :-1]
    between = member.T @ geometry.graph.matmul(member)
    share = between / (between.sum(axis=1, keepdims=True) + _TINY)
    np.fill_diagonal(share, 0.0)
    return share


def own_group(posterior: Posterior, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """The placed samples [m], and the probability [m] that each is where it was placed.

    Judged as if its own place were not known (leave-one-out).
    """
    placed = np.flatnonzero(posterior.placed)
    phi, noise = geometry.features[placed], posterior.noise[placed]
    column = posterior.column[placed]
    leverage = ((phi @ posterior.covariance) * phi).sum(axis=1) / noise
    mean = posterior.mean[placed]
    mean[np.arange(len(placed)), column] -= leverage
    square = np.square(np.maximum(mean, 0.0))  # a common factor 1 / (1 - leverage) cancels
    share = square[np.arange(len(placed)), column] / (square.sum(axis=1) + _TINY)
    return placed, (1.0 - SURPRISE) * share + SURPRISE / len(posterior.names)


def vote_odds(votes: np.ndarray, error_rate: float) -> np.ndarray:
    """How many times likelier `votes` (alike less not alike) are if alike; 0 or inf at rate 0."""
    if error_rate == 0.0:
        return np.where(votes < 0, 0.0, np.where(votes > 0, np.inf, 1.0))
    return ((1.0 - error_rate) / error_rate) ** np.clip(votes, -30, 30)


def likely_groups(geometry: Geometry, relations: Relations) -> np.ndarray:
    """[n] names of groups, where small ones are joined to the community they lie in.

    Each group joins that of the most central sample of its own most central member's community,
    unless answers keep the two apart: what has only not been asked need not be different.
    """
    groups = relations.groups()
    communities, medoids = geometry.communities, geometry.medoids
    central = geometry.centrality(communities)
    several = np.flatnonzero(np.bincount(groups, minlength=len(groups))[groups] > 1)
    order = several[np.lexsort((-central[several], groups[several]))]
    heads = order[np.flatnonzero(np.diff(groups[order], prepend=-1))]
    names = groups.copy()
    labelled = relations.known() >= 0
    for head in heads.tolist():
        home = int(medoids[communities[head]])
        if not labelled[groups[head]] and relations.relation(head, home) is Relation.UNKNOWN:
            names[groups[head]] = groups[home]
    return names[groups]


def _odds_of_apart(
    relations: Relations,
    groups: np.ndarray,
    loose: np.ndarray,
    names: np.ndarray,
    error_rate: float,
) -> np.ndarray:
    """[m, C] odds from the answers that keep m samples apart from C groups."""
    where = {name: column for column, name in enumerate(names.tolist())}
    proven = relations.groups()
    votes = np.zeros((len(loose), len(names)))
    for row, sample in enumerate(loose.tolist()):
        for other, total in relations.apart(int(proven[sample])).items():
            column = where.get(int(groups[other]))
            if column is not None:
                votes[row, column] += total
    return vote_odds(votes, error_rate)

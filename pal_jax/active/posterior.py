"""To which group each sample belongs, given the embedding and the answers so far."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from pal_jax.active import belief as belief_lib
from pal_jax.active import evidence as evidence_lib
from pal_jax.active.belief import TINY, Belief
from pal_jax.active.evidence import Evidence, Trust
from pal_jax.active.field import Field
from pal_jax.active.geometry import Geometry
from pal_jax.active.links import NEVER, Links, fit, infer_links, sigmoid
from pal_jax.active.relations import Judgements, Relations

_MOST_KNOWN = 1_000  # samples with a label known from the start that speak for the rest
_MOST_ASKED = 4_000  # samples that were asked about that speak for the rest
# of the rates of oracles, each from what is believed under the last, at most; and how far all of
# these may be from the last ones for another to hardly differ
_ESTIMATES, _AS_EXPECTED = 2, 0.1
_FINAL = -10.0  # log likelihood ratio from which on looks cannot join two columns any more
_UNLIKELY = 0.05  # chance up to which a bound takes it that something is not so
_APART = np.log(_UNLIKELY / (1.0 - _UNLIKELY))  # what says so of two that may as well be one class
# shares of samples of which the embedding may be right, and how many nepers less probable than the
# best one a larger one may be
_HOLDS, _LIKELY = np.linspace(0.01, 1.0, 100), 1.0


@dataclasses.dataclass(frozen=True)
class Posterior:
    """What is believed. Columns are groups that were seen apart at some time; believed to be one
    class, several make a cluster.

    Args:
        nodes: [m] samples that speak for the others: central, known or asked about.
        unit: [m] int: nodes with equal numbers are proven to be of one group.
        first: [C] the unit that opened each column.
        column: [n, C + 1] probability of each column; the last is a group nobody has seen.
        links: which columns are one class.
        cluster: [n, K] probability of each cluster; sums to 1 less that of the unseen group.
        variance: [n] of the regression, in [0, 1]: 1 where no answer is heard.
        field: the regression at these nodes.
        rates: by name of each oracle that was heard, [2, 3] as in `evidence.rates`.
        error: share of wrong answers of the oracle heard last.
        error_low: (confidence) -> at least this; the same where the share is given, not estimated.
        hard: whether answers are proof: none can be wrong, or is taken to be.
        holds: [n] chance that what the embedding says of a sample holds, as far as answers about
            others and itself have borne it out.
        promise: the same of any sample of which nothing is said.
        looks: () -> [m, C] probability of each column at each node, as if nothing had been said of
            it; to be called before the field moves on.
    """

    nodes: np.ndarray
    unit: np.ndarray
    first: np.ndarray
    column: np.ndarray
    links: Links
    cluster: np.ndarray
    variance: np.ndarray
    field: Field
    rates: Mapping[str, np.ndarray]
    error: float
    error_low: Callable[[float], float]
    hard: bool
    holds: np.ndarray
    promise: float
    looks: Callable[[], np.ndarray]

    @property
    def opener(self) -> np.ndarray:
        """[C] a sample of the unit that opened each column."""
        return self.nodes[np.unique(self.unit, return_index=True)[1][self.first]]

    @functools.cached_property
    def wrong(self) -> np.ndarray:
        """[n] probability that a sample is not of its most probable cluster."""
        return 1.0 - self.cluster.max(axis=1)

    def sureness(self) -> np.ndarray:
        """[n] probability that a sample is where it belongs: in its class, and that class whole.

        A cluster that is likely a piece of a larger one is in the wrong place with all it holds,
        and so is a column that was joined to a cluster it may not belong to. And where the
        embedding has not kept what it promised, a sample may be anywhere.
        """
        best = self.cluster.argmax(axis=1)
        mine = self.column[:, :-1] * (self.links.cluster == best[:, None])
        return np.minimum(mine @ self._right(), 1.0) * self.holds

    def whole(self) -> np.ndarray:
        """[n, K] what `sureness` would be if a sample's most probable cluster were this one."""
        one = np.eye(self.cluster.shape[1])[self.links.cluster]
        return np.minimum((self.column[:, :-1] * self._right()) @ one, 1.0) * self.holds[:, None]

    def foretold(self, samples: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What `sureness` would be if nothing had been said of a sample, to compare with answers.

        Args:
            samples: [K] int.
            others: [K] int, samples that they were compared with.

        Returns:
            [K] that sureness, NaN where a sample is no node, so that nobody has learnt from what
            was said of it; and [K] whether the other one is of the same, most probable cluster.
        """
        place = np.full(len(self.column), -1)
        place[self.nodes] = np.arange(len(self.nodes))
        at = place[samples]
        looks, one = self.looks()[at], np.eye(self.cluster.shape[1])[self.links.cluster]
        best, theirs = (looks @ one).argmax(axis=1), self.cluster[others].argmax(axis=1)
        sure = ((looks * self._right()) @ one)[np.arange(len(at)), best] * self.promise
        return np.where(at >= 0, np.minimum(sure, 1.0), np.nan), best == theirs

    def pieces(self) -> tuple[float, float]:
        """Share of samples in columns that are pieces of others and not joined to them: the
        expected one, and that of all columns that answers have not shown to be none.

        The second trusts no looks: a class of several parts that look nothing alike is believed in
        only once it was found. It holds all columns that some answer has still to keep apart from a
        larger one, and all of which the first takes it to be not very unlikely.
        """
        size, chance = self._size(), 1.0 - (1.0 - self._piece()) * self._rightly_joined()
        expected = float(size @ chance / len(self.column))
        unsafe = self.open_pairs().any(axis=1) | (chance > _UNLIKELY)
        return expected, max(expected, float(size[unsafe].sum() / len(self.column)))

    def open_pairs(self) -> np.ndarray:
        """[C, C] whether no answer keeps a column apart from a larger one of another cluster."""
        elsewhere = self.links.cluster[:, None] != self.links.cluster
        return self._smaller() & elsewhere & (self.links.told > _APART)

    def _size(self) -> np.ndarray:
        return self.column[:, :-1].sum(axis=0)

    def _smaller(self) -> np.ndarray:
        """[C, C] whether the first is the smaller of two columns; of equals, the later."""
        size = self._size()
        later = np.tri(len(size), k=-1) > 0
        return (size[:, None] < size) | ((size[:, None] == size) & later)

    def _right(self) -> np.ndarray:
        """[C] chance that a column is neither a piece of another cluster nor wrongly joined."""
        return (1.0 - self._piece()) * self._rightly_joined()

    def _piece(self) -> np.ndarray:
        """[C] chance that a column is a piece of a larger one in another cluster."""
        elsewhere = self.links.cluster[:, None] != self.links.cluster
        chance = np.where(self._smaller() & elsewhere, self.links.chance, 0.0)
        return 1.0 - np.prod(1.0 - chance, axis=1)

    def _rightly_joined(self) -> np.ndarray:
        """[C] chance that a column is one class with the rest of its cluster."""
        beside = self._smaller() & (self.links.cluster[:, None] == self.links.cluster)
        best = np.where(beside, self.links.chance, 0.0).max(axis=1, initial=0.0)
        return np.where(beside.any(axis=1), best, 1.0)


def infer(geometry: Geometry, relations: Relations, trust: Trust) -> Posterior:
    """The posterior after all answers.

    Columns are opened by the most central sample of each community (or by labels known from the
    start, where a community has some), and by samples that answers keep out of all columns.
    Gaussian process regression of their labels gives every sample prior probabilities, its
    neighbours' opinion; answers multiply them, and what is then believed of the samples asked
    about is regressed again. An unsure sample speaks as its neighbours do. With oracles that are
    never wrong, samples that closure joins are one unit; whether one of unknown rate ever is, is
    decided by what follows either way, unless its answers contradict each other.
    """
    # Of the trust as it is: the fields are shared, so that nodes must be the same either way.
    judgements = evidence_lib.telling(relations.judgements(), trust)
    found = _conclude(geometry, relations, judgements, trust)
    unknown = trust.unknown(found.judgements)
    if unknown and (relations.consistent or len(unknown) < len(found.judgements.oracles)):
        proven = dataclasses.replace(trust, error_rate=0.0)
        never = _conclude(geometry, relations, judgements, proven)
        told = found.judgements, found.table, found.alike(), never.alike()
        if not evidence_lib.errs(*told, unknown, found.price - never.price):
            found = never
    return found.posterior()


@dataclasses.dataclass(frozen=True)
class _Conclusion:
    """What is believed under one trust, and all that it was concluded from.

    judgements: those among the nodes. known: [n] from `Relations`. nodes, unit, column, links: as
    in `Posterior`. at_unit: [n] unit of each node, -1 elsewhere; at_proven: [n] that which a
    sample that is no node is proven to be of, or -1. start: columns before any answer. differ:
    whether any two samples do. table: [O, 2, 3] rates, and estimated_from: [K] the chances of
    `alike` that these were estimated from, if they were.
    """

    trust: Trust
    judgements: Judgements
    known: np.ndarray
    nodes: np.ndarray
    unit: np.ndarray
    at_unit: np.ndarray
    at_proven: np.ndarray
    start: int
    differ: bool
    hard: bool
    table: np.ndarray
    estimated_from: np.ndarray | None
    said: Evidence
    belief: Belief
    column: np.ndarray
    links: Links

    @property
    def price(self) -> float:
        """Logarithm of the chance that as many groups are new as answers have opened columns."""
        return (len(self.belief.first) - self.start) * float(np.log(self.belief.news))

    def alike(self) -> np.ndarray:
        """[K] probability that the pair of each judgement is alike, judged without that very one.

        Where answers have made one unit of the two, by what the regression says of each.
        """
        said, belief, at_unit = self.said, self.belief, self.at_unit
        alike = _alike_without(said, at_unit, belief, self.links)
        one = np.flatnonzero(at_unit[said.first] == at_unit[said.second])
        if self.hard and len(one):
            place = np.full(len(at_unit), -1)
            looks = self._looks(np.full(len(self.nodes), belief.news))
            place[self.nodes] = np.arange(len(self.nodes))
            x, y = looks[place[said.first[one]]], looks[place[said.second[one]]]
            same = ((x @ _same_class(self.links)) * y).sum(axis=1)
            known = self.known[said.first[one]]
            told = (known >= 0) & (known == self.known[said.second[one]])
            alike[one] = np.where(told, 1.0, np.clip(same, 0.0, 1.0))
        return alike

    def looks(self) -> np.ndarray:
        """[m, C] probability of each column at each node, as if nothing had been said of it: a
        column that it opened, alone, would not be there."""
        belief = self.belief
        looks = self._looks(_news_at(belief, belief.model.field.left_out_variance()))
        alone = np.bincount(self.unit)[self.unit] == 1
        opened = (self.unit[:, None] == belief.first) & alone[:, None]
        others = np.where(opened, 0.0, looks)
        left = np.maximum(others.sum(axis=1, keepdims=True), TINY)
        return others * (looks.sum(axis=1, keepdims=True) / left)

    def _looks(self, news: np.ndarray) -> np.ndarray:
        """The same where the chance of an unseen group is `news` [m]."""
        model = self.belief.model
        mean, variance = model.field.left_out(self.belief.labels), model.field.left_out_variance()
        return model.shares(mean, variance, news)[:, :-1]

    def posterior(self) -> Posterior:
        """The part of it that others need."""
        table, judgements, trust = self.table, self.judgements, self.trust
        field = self.belief.model.field
        holds, promise = self._holds()
        return Posterior(
            nodes=self.nodes,
            unit=self.unit,
            first=self.belief.first,
            column=self.column,
            links=self.links,
            cluster=_of_clusters(self.column, self.links.cluster),
            variance=field.variance,
            field=field,
            rates=dict(zip(judgements.oracles, table, strict=True)),
            error=evidence_lib.error_of(table, judgements, trust),
            error_low=functools.partial(
                evidence_lib.least_error_of, table, judgements, trust, self.estimated_from
            ),
            hard=self.hard,
            holds=holds,
            promise=promise,
            looks=self.looks,
        )

    def _holds(self) -> tuple[np.ndarray, float]:
        """[n] chance that what the embedding says of each sample holds, given all answers, and
        the share of all for which it does.

        It does for a share of the samples; any other may as well be of a group nobody has seen. A
        sample that opened a column is what it is, and so is one whose label is known.
        """
        belief, opened = self.belief, np.zeros(len(self.belief.share), bool)
        opened[belief.first[: self.start]] = True
        bearing = belief_lib.bearing(belief)
        joined = np.ones(len(self.unit), bool)  # to one before it, by answers
        joined[np.unique(self.unit, return_index=True)[1]] = False
        joined &= self.known[self.nodes] < 0
        share = _share_that_holds(bearing[~opened], int(joined.sum()), self.differ)
        of_unit = share / (share + (1.0 - share) / bearing)
        of_unit[belief.first] = 1.0
        holds = np.full(len(self.at_unit), share)
        for at in (self.at_unit, self.at_proven):
            holds[at >= 0] = of_unit[at[at >= 0]]
        holds[self.known >= 0] = 1.0
        return holds, share


def _conclude(
    geometry: Geometry, relations: Relations, judgements: Judgements, trust: Trust
) -> _Conclusion:
    """What follows from all judgements that say something if oracles err as `trust` says; rates
    that it does not give are estimated from beliefs under the last ones."""
    nodes, base = _nodes(geometry, relations, judgements)
    hard = trust.is_hard(judgements)
    everything, judgements = judgements, judgements.among(nodes)
    unit = _units(nodes, relations, hard)
    at_unit = np.full(geometry.n, -1)
    at_unit[nodes] = unit
    at_proven = _proven_units(relations, nodes, unit, hard)
    for field in geometry.fields:
        field.move_to(nodes.tolist())
    first = _first_columns(unit[:base])

    def believe(table: np.ndarray, estimated_from: np.ndarray | None = None) -> _Conclusion:
        said = evidence_lib.weigh(judgements, table)
        heard = said.about(at_unit).by_pair()
        belief = belief_lib.believe(geometry, heard, unit, first, hard)
        column = _spread(belief, nodes, unit)
        proven = np.flatnonzero(at_proven >= 0)
        column[proven] = belief.share[at_proven[proven]]
        known = _known_columns(relations, nodes, unit, belief.first)
        labelled = np.flatnonzero(known >= 0)
        column[labelled] = np.eye(column.shape[1])[known[labelled]]
        if not hard:
            belief_lib.hear(
                column, evidence_lib.weigh(everything, table), (at_unit < 0) & (known < 0)
            )
        apart = np.bincount(known[labelled], minlength=len(belief.first)) > 0
        links = _link(geometry, belief, column, heard, said, base, apart)
        return _Conclusion(
            trust, judgements, relations.known(), nodes, unit, at_unit, at_proven,
            len(first), geometry.differ, hard, table, estimated_from, said, belief, column, links,
        )  # fmt: skip

    found = believe(evidence_lib.rates(judgements, trust))
    estimated = any(trust.of(oracle) is None for oracle in judgements.oracles)
    for _ in range(_ESTIMATES if estimated else 0):
        last, alike = found.table, found.alike()
        found = believe(evidence_lib.rates(judgements, trust, alike), alike)
        if np.abs(found.table - last).max() < _AS_EXPECTED:
            break
    return found


def _share_that_holds(bearing: np.ndarray, joined: int, differ: bool) -> float:
    """Of how many samples the embedding tells the truth, as a share.

    The largest that answers leave likely: an embedding is believed until they refute it. Where no
    two samples differ it is not believed until they bear it out: it is taken to have failed once.

    Args:
        bearing: [K] of `bearing`, of what was asked about.
        joined: samples that were proven alike to one before them.
        differ: whether any two embeddings do.
    """
    with np.errstate(divide="ignore"):
        worth = np.log(bearing[:, None] * _HOLDS + 1.0 - _HOLDS).sum(axis=0)
        worth += joined * np.log(_HOLDS)
        if not differ:
            return float(_HOLDS[(worth + np.log(1.0 - _HOLDS)).argmax()])
    return float(_HOLDS[np.flatnonzero(worth >= worth.max() - _LIKELY)[-1]])


def _nodes(
    geometry: Geometry, relations: Relations, judgements: Judgements
) -> tuple[np.ndarray, int]:
    """The samples that speak for the others, and how many of them open columns.

    In an order to which answers only append: known from the start, medoids, asked about.

    Args:
        judgements: those that say something. A sample of which nothing was said must not speak:
            others would hear less of the rest.
    """
    known = np.flatnonzero(relations.known() >= 0)
    labelled = np.isin(geometry.communities, geometry.communities[known])
    if len(known) > _MOST_KNOWN:
        label = relations.known()
        first = known[label[known] == known]  # it names the group of its label
        known = known[np.linspace(0, len(known) - 1, _MOST_KNOWN).astype(np.int64)]
        known = np.append(known, first[~np.isin(first, label[known])])  # no label is left out
    base = list(dict.fromkeys([*known, *geometry.medoids[~labelled[geometry.medoids]]]))
    nodes = np.array(list(dict.fromkeys([*base, *_asked(judgements)])), np.int64)
    return nodes, len(base)


def _asked(judgements: Judgements) -> list[int]:
    """The samples asked about, in their order; of too many, those that speak for the rest.

    Of all but the last judgements those most often asked about, and all of the last: the choice
    stands for a quarter of as many judgements as samples are chosen, so that the regression,
    which only appends, is rarely made anew.
    """
    pairs = np.stack([judgements.first, judgements.second], axis=1)
    asked = list(dict.fromkeys(pairs.ravel().tolist()))
    if len(asked) <= _MOST_ASKED:
        return asked
    last = len(pairs) - len(pairs) % (_MOST_ASKED // 4)
    samples, place, times = np.unique(pairs[:last], return_index=True, return_counts=True)
    often = np.lexsort((place, -times))[: _MOST_ASKED // 2]
    early = samples[often[np.argsort(place[often])]]
    return list(dict.fromkeys([*early.tolist(), *pairs[last:].ravel().tolist()]))


def _units(nodes: np.ndarray, relations: Relations, hard: bool) -> np.ndarray:
    """[m] int: nodes that must be of one group have the same number, counted from 0."""
    known = relations.known()[nodes]
    names = relations.groups()[nodes] if hard else np.where(known >= 0, known, nodes)
    return np.unique(names, return_inverse=True)[1]


def _proven_units(
    relations: Relations, nodes: np.ndarray, unit: np.ndarray, hard: bool
) -> np.ndarray:
    """[n] int: the unit that answers prove a sample that is no node to be of, or -1."""
    out = np.full(relations.n, -1)
    if hard:
        names = relations.groups()
        unit_of = np.full(relations.n, -1)
        unit_of[names[nodes]] = unit
        out = unit_of[names]
        out[nodes] = -1
    return out


def _first_columns(units: np.ndarray) -> np.ndarray:
    return np.array(list(dict.fromkeys(units.tolist())), np.int64)


def _known_columns(
    relations: Relations, nodes: np.ndarray, unit: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """[n] int: the column of each sample whose label was known from the start, -1 elsewhere."""
    known = relations.known()
    opened = known[nodes[np.unique(unit, return_index=True)[1][first]]]
    column_of = np.full(len(known) + 1, -1)
    column_of[opened[opened >= 0]] = np.flatnonzero(opened >= 0)
    return column_of[known]


def _spread(belief: Belief, nodes: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """[n, C + 1] probability of each column for all samples."""
    field = belief.model.field
    news = _news_at(belief, field.variance)
    column = belief.model.shares(field.mean(belief.labels), field.variance, news)
    column[nodes] = belief.share[unit]
    return column


def _news_at(belief: Belief, variance: np.ndarray) -> np.ndarray:
    """[N] chance of an unseen group at samples of a `variance` [N]: where less is known, more."""
    mean = max(float(belief.model.field.variance.mean()), TINY)
    return np.clip(belief.news * variance / mean, 0.0, 0.5)


def _of_clusters(column: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """[n, K] sums over the columns of each cluster: most have one, and a product takes longer."""
    _, first = np.unique(cluster, return_index=True)
    if np.array_equal(first, np.arange(len(cluster))):
        return column[:, :-1]
    out = column[:, first]
    for c in np.setdiff1d(np.arange(len(cluster)), first):
        out[:, cluster[c]] += column[:, c]
    return out


def _link(
    geometry: Geometry,
    belief: Belief,
    column: np.ndarray,
    heard: Evidence,
    said: Evidence,
    base: int,
    labelled: np.ndarray,
) -> Links:
    """Which columns are one class: by looks, by size, and by the answers between them.

    Those of labels known from the start [C] are not.
    """
    size = column[:, :-1].sum(axis=0)
    member = column[:, :-1].argmax(axis=1)
    between = np.zeros((len(size), len(size)))
    a, b, weight = _top_pairs(heard, belief.share)
    np.add.at(between, (a, b), weight)
    np.add.at(between, (b, a), weight)
    between[between < _FINAL] = NEVER
    between[labelled[:, None] & labelled] = -np.inf
    np.fill_diagonal(between, 0.0)
    return infer_links(geometry, member, size, fit(geometry, said), between, base)


def _top_pairs(heard: Evidence, share: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each answer the likeliest columns of the two, and what it says of these being one.

    Only as far as the two are of these columns: else it says nothing of them.
    """
    x, y = share[heard.first, :-1], share[heard.second, :-1]
    a, b = x.argmax(axis=1), y.argmax(axis=1)
    there = x[np.arange(len(a)), a] * y[np.arange(len(b)), b]
    neutral = (1.0 - there) * 0.5 * (heard.if_alike + heard.if_apart)
    ratio = (neutral + there * heard.if_alike) / (neutral + there * heard.if_apart)
    return a, b, np.where(a == b, 0.0, np.log(np.maximum(ratio, TINY)))


def _alike_without(said: Evidence, at_unit: np.ndarray, belief: Belief, links: Links) -> np.ndarray:
    """[K] probability that the pair of each answer is alike, judged without that very answer."""
    of_units = dataclasses.replace(said, first=at_unit[said.first], second=at_unit[said.second])
    rows, same = of_units.distinct()
    said, beside = of_units.at(rows), of_units.beside().at(rows)
    of_pair = of_units.of_pair().at(rows)
    opened = np.isin(np.arange(len(belief.share)), belief.first)[:, None]

    def without(mine: np.ndarray, other: np.ndarray) -> np.ndarray:
        told = belief_lib.message(of_pair, belief.share[other])
        told -= belief_lib.message(beside, belief.share[other])
        rest = belief_lib.softmax(belief.logits[mine] - told)
        return np.where(opened[mine], belief.share[mine], rest)[:, :-1]

    x, y = without(said.first, said.second), without(said.second, said.first)
    chance = _same_class(links)
    alike = ((x @ chance) * y).sum(axis=1)
    k, a, b = np.arange(len(x)), x.argmax(axis=1), y.argmax(axis=1)
    own = np.where(a == b, 0.0, sigmoid(links.odds[a, b] - said.weight) - chance[a, b])
    alike += x[k, a] * y[k, b] * own
    return np.where(said.first == said.second, 1.0, np.clip(alike, 0.0, 1.0))[same]


def _same_class(links: Links) -> np.ndarray:
    """[C, C] chance that two columns are one class, by looks and answers; 1 on the diagonal."""
    chance = sigmoid(links.odds)
    np.fill_diagonal(chance, 1.0)
    return chance

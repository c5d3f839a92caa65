"""What is believed of the samples that speak for others, by the embedding and by answers.

Nodes are those samples, units what answers prove to be of one group, columns the groups that were
seen apart at some time.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pal_jax.active.evidence import Evidence
from pal_jax.active.field import Field
from pal_jax.active.geometry import Geometry
from pal_jax.active.links import NEVER

TINY = 1e-9  # of a probability whose logarithm is needed
# power of the regression's mean that is proportional to a probability (in halves), and chance that
# it does not hold where no answer is heard: what is tried, what is expected, and how many nepers of
# likelihood a factor e away from it must bring
_SHARPNESS, _SHARP, _SHARP_STIFFNESS = (1.0, 1.5, 2.0, 2.5, 3.5, 5.0), 2.5, 3.0
_DOUBT, _DOUBTED, _DOUBT_STIFFNESS = (0.01, 0.03, 0.1, 0.2, 0.4, 0.6), 0.05, 0.5
_REFUTED = 8.0  # nepers by which answers must be likelier under another model than one's own
_SURPRISE = 0.02  # share of probability that no geometry takes away
_NEW, _OLD = 1.0, 20.0  # new and known groups imagined before the first sample is asked about
# chance of a new group that is tried first, and the highest there can be; the factor from which on
# a higher one is looked into, steps of its estimate, and the nepers of likelihood it must bring
_TRIED_NEWS, _MOST_NEWS, _RISE, _STEPS, _EVIDENT = 0.25, 0.5, 1.25, 20, 2.0
# chance of a new group under which columns are opened as if many were new, the nepers by which all
# answers must be likelier with these than with few, and those by which they may be less likely than
# they were before some were opened
_MANY_NEWS, _LIKELIER, _HOPELESS = 0.1, 1.0, 32.0
_SAME_NEW = 0.2  # chance that two samples of unseen groups are of the same one, if they are alike
_SWEEPS = 4  # of belief: what is said of a pair travels so many pairs far
_STRANGE = 0.05  # similarity up to which two samples do not decide each other's group
_FEW = 32  # units that want a group of their own, of which answers do not say which are strangers
_BLOCK = 1 << 15  # numbers of a block that stays in the cache
_CENTRES = 64  # units to which most others are tied, that are tried as the centre of a camp


@dataclasses.dataclass(frozen=True)
class Model:
    """A regression and how far it is believed.

    With F the mean and v in [0, 1] the variance at a sample, column c has probability
    (1 - doubt v) F_c^sharpness / sum F^sharpness + doubt v / C: where no answer is heard,
    looks are only looks.
    """

    field: Field
    sharpness: float
    doubt: float

    def shares(self, mean: np.ndarray, variance: np.ndarray, news: np.ndarray) -> np.ndarray:
        """[N, C + 1] probabilities from mean [N, C] and variance [N]; `news` [N] is that of an
        unseen group."""
        score, doubt = _score(mean, self.sharpness), self.doubt * variance
        looks = (1.0 - news) * (1.0 - doubt) / score.sum(axis=1)
        share = np.empty((len(score), score.shape[1] + 1))
        np.multiply(score, looks[:, None], out=share[:, :-1])
        share[:, :-1] += ((1.0 - news) * doubt / score.shape[1])[:, None]
        share[:, -1] = news
        return share


@dataclasses.dataclass(frozen=True)
class Belief:
    """What is believed of the units under one model.

    share: [U, C + 1] of each unit. labels: [m, C] what the nodes are regressed to. looks, logits:
    [U, C + 1] logarithm of the share before and after answers, up to a constant a row. news:
    chance that a sample is of an unseen group. first: [C] unit that opened each column. model:
    the regression behind it.
    """

    share: np.ndarray
    labels: np.ndarray
    looks: np.ndarray
    logits: np.ndarray
    news: float
    first: np.ndarray
    model: Model


def believe(
    geometry: Geometry,
    heard: Evidence,
    unit: np.ndarray,
    first: np.ndarray,
    hard: bool,
) -> Belief:
    """What is believed of each unit, with as many columns as answers demand.

    With the model that explains best what is believed. Where answers refute that one, all is
    believed anew from the start: with too much trust in looks, single answers were overruled and
    columns opened for what they cannot explain. Whether few or many samples are of groups nobody
    has seen is decided by what follows either way; where answers are proof, few are taken to be,
    which comes out as right in half the time.

    Args:
        geometry: its fields have the nodes placed.
        heard: answers about two units.
        unit: [m] int, of each node.
        first: [C] the units that open the first columns.
        hard: whether answers are proof.
    """
    founding = functools.partial(_founding, geometry, heard, unit)

    def opening(belief: Belief) -> np.ndarray:
        more = founding(belief)
        return more if hard or len(more) else _camps(belief, heard)

    def fitted(start: Belief) -> tuple[Belief, bool]:
        model, refuted = _likeliest(geometry.fields, start, heard, unit, hard)
        return _sweep(model, heard, unit, start.first, start.news), refuted

    def worth(belief: Belief) -> float:
        return _log_probability(belief, heard, len(first))

    def believed(model: Model) -> tuple[Belief, bool]:
        sweep = functools.partial(_sweep, model, heard, unit)
        growth = _Growth(sweep, founding, opening, worth, unit, first)
        few, many = fitted(growth.few()), None if hard else growth.many()
        if many is None:
            return few
        more = fitted(many)
        return more if worth(more[0]) > worth(few[0]) + _LIKELIER else few

    belief, refuted = believed(Model(geometry.fields[0], _SHARP, _DOUBTED))
    return believed(belief.model)[0] if refuted else belief


@dataclasses.dataclass(frozen=True)
class _Growth:
    """How columns come to the `first` ones under one model, until none is opening another.

    Args:
        sweep: (units that open columns, chance of a new group) -> what is believed with these.
        founding: what is believed -> units that open the next columns, of those that want to.
        opening: the same, or else of those that have to be led.
        worth: what is believed -> logarithm of how probable that makes all answers.
        unit: [m] int, of each node.
        first: [C] the units that open the first columns.
    """

    sweep: Callable[[np.ndarray, float], Belief]
    founding: Callable[[Belief], np.ndarray]
    opening: Callable[[Belief], np.ndarray]
    worth: Callable[[Belief], float]
    unit: np.ndarray
    first: np.ndarray

    def few(self) -> Belief:
        """If few samples are taken to be of groups that nobody has seen.

        How many are is asked first where many are taken to be: once they are spread over the
        columns that there are, these look as if they explained all of them.
        """
        news = _NEW / self._heard_of
        if len(self.unit) > len(self.first):
            belief = self.sweep(self.first, _TRIED_NEWS)
            higher = _news(belief, self.unit, news, _NEW, self._heard_of)
            news = higher if higher > _RISE * news else news
        return self._settle(self.first, news)

    def many(self) -> Belief | None:
        """If many are; None where that opens no column, or explains answers worse and worse.

        A class that is spread over the columns that there are wants none that all would join.
        """
        belief = self.sweep(self.first, _MANY_NEWS)
        best = self.worth(belief)
        while len(more := self.founding(belief)):
            belief = self.sweep(np.append(belief.first, more), _MANY_NEWS)
            best = max(best, worth := self.worth(belief))
            if worth < best - _HOPELESS:
                return None
        if len(belief.first) == len(self.first):
            return None
        grown = self._joined(belief)
        news = _news(belief, self.unit, _MANY_NEWS, _NEW + grown, self._heard_of)
        return self._settle(belief.first, max(news, (_NEW + grown) / self._heard_of), grown)

    def _settle(self, columns: np.ndarray, news: float, grown: int = 0) -> Belief:
        """With more columns, `grown` of which were joined so far, and as many news as they say."""
        while True:
            belief = self.sweep(columns, news)
            higher = _news(belief, self.unit, news, _NEW + grown, self._heard_of)
            if higher > _RISE * news:
                news = higher
                continue
            more = self.opening(belief)
            if not len(more):
                return belief
            columns, grown = np.append(columns, more), self._joined(belief)
            news = max(higher, (_NEW + grown) / self._heard_of)

    @property
    def _heard_of(self) -> float:
        """Samples asked about, and those imagined before them."""
        return _OLD + max(len(self.unit) - len(self.first), 0)

    def _joined(self, belief: Belief) -> int:
        """Columns after the first ones that somebody joined: an outlier does not show that there
        are more classes to come."""
        share = belief.share[self.unit, len(self.first) : -1]
        return int(((share > 0.5).sum(axis=0) > 1).sum())


def _log_probability(belief: Belief, heard: Evidence, start: int) -> float:
    """Of all answers, and of all columns but those at the `start`; each answer counts once.

    Bethe's approximation (Yedidia, Freeman and Weiss, "Constructing free-energy approximations and
    generalized belief propagation algorithms", 2005): what explains the answers about each unit,
    over all units, less what explains each answer, for which both of its units have the credit.
    """
    opened = np.arange(len(belief.first))
    of_units = np.logaddexp.reduce(belief.logits, axis=1)
    of_units[belief.first] = (belief.logits - belief.looks)[belief.first, opened]
    of_pairs = 0.0
    for said in _in_blocks(heard, len(opened) + 1):
        told = np.exp(message(said, belief.share[said.second]))
        of_pairs += np.log(np.einsum("kc,kc->k", belief.share[said.first], told)).sum()
    new = (len(opened) - start) * np.log(belief.news)
    return float(of_units.sum() - of_pairs + new)


def _founding(geometry: Geometry, heard: Evidence, unit: np.ndarray, belief: Belief) -> np.ndarray:
    """Of the units that want a group of their own those that open it, strangers of each other."""
    founders = np.flatnonzero(belief.share.argmax(axis=1) == len(belief.first))
    return _strangers(geometry, belief, heard, unit, founders) if len(founders) else founders


def _news(belief: Belief, unit: np.ndarray, news: float, new: float, old: float) -> float:
    """Chance that a sample is of a group nobody has seen, if `news` was thought so far.

    The likeliest share of those asked about, by how well all columns together explain what is said
    of each. A higher one must make all answers e^2 times as probable: samples that are merely
    undecided would keep it up by themselves.

    Args:
        unit: [m] of each node.
        new: samples that opened a group, with those imagined.
        old: samples asked about, with those imagined.
    """
    told = bearing(belief)[unit[~np.isin(unit, belief.first)]]
    low, high, share = 0.0, _MOST_NEWS, _MOST_NEWS / 2.0
    for _ in range(_STEPS):  # bisection: where all chances to be unseen add up to the share
        unseen = share / (share + (1.0 - share) * told)
        low, high = (share, high) if new + unseen.sum() > share * old else (low, share)
        share = (low + high) / 2.0
    gain = np.log((share + (1.0 - share) * told) / (news + (1.0 - news) * told))
    return news if share > _RISE * news and gain.sum() < _EVIDENT else share


def _strangers(
    geometry: Geometry, belief: Belief, heard: Evidence, unit: np.ndarray, founders: np.ndarray
) -> np.ndarray:
    """Of the units that want a group of their own the surest eighth, as far as they are strangers;
    of many also all others that answers keep apart from these and each other.

    What one of them opens may be the group of others, hardly that of one that is unlike it: one
    after the other is safest, all at once does not take a pass for each. A "no" may be wrong, even
    where it is taken for proof: that of few is not relied on.
    """
    founders = founders[np.argsort(-belief.share[founders, -1], kind="stable")]
    samples = np.array(belief.model.field.nodes)[np.unique(unit, return_index=True)[1][founders]]
    unlike = geometry.kernel(samples, samples) <= _STRANGE
    at = np.full(len(belief.share), -1)
    at[founders] = np.arange(len(founders))
    told = heard.about(at)
    told = told.at((told.weight < -_EVIDENT) & (len(founders) > _FEW))
    apart = np.zeros(unlike.shape, bool)
    apart[told.first, told.second] = apart[told.second, told.first] = True
    chosen: list[int] = []
    for i in range(len(founders)):
        may = apart[i] | unlike[i] if len(chosen) <= len(founders) // 8 else apart[i]
        if may[chosen].all():
            chosen.append(i)
    return founders[chosen]


def _camps(belief: Belief, heard: Evidence) -> np.ndarray:
    """Units to open a column with: with all that are said to be alike it, each leaves its column.

    A unit cannot leave a column alone if many are tied to it, however much is said between them
    and the rest. At most one unit a column, for which that makes all answers most probable.
    """
    column, units = belief.share.argmax(axis=1), len(belief.share)
    now = (belief.share[heard.first, :-1] * belief.share[heard.second, :-1]).sum(axis=1)
    now = heard.if_apart + (heard.if_alike - heard.if_apart) * now
    # what an answer gains by two that are in one group for sure, and by two that are not
    gains = dataclasses.replace(heard, if_alike=heard.if_alike / now, if_apart=heard.if_apart / now)
    said = gains.both_ways
    weight = said.weight
    tied = np.bincount(said.first, weight > 0.0, minlength=units)
    tied[belief.first] = 0
    centres = np.argsort(-tied, kind="stable")[:_CENTRES]
    centres = centres[tied[centres] > 0]
    place = np.arange(len(centres))
    row = np.full(units, -1)
    row[centres] = place
    own = np.flatnonzero(row[said.first] >= 0)
    tie = np.zeros((units, len(centres)))
    np.add.at(tie, (said.second[own], row[said.first[own]]), weight[own])
    camp = tie > 0.0
    camp[belief.first] = False
    camp[centres, place] = True
    # by looks, to be in the column of the centre instead of one's own
    price = belief.looks[np.arange(units), column][:, None] - belief.looks[:, column[centres]]
    tie = _about_each(gains, camp, units, lambda said, camp: said.weight[:, None] * camp)
    camp &= 2.0 * tie - np.bincount(said.first, weight, units)[:, None] > price
    camp[centres, place] = True
    # as if all others were outside, and what it is more by those inside
    alone = np.bincount(said.first, np.log(said.if_apart), units)[:, None]
    inside = _about_each(
        gains, camp, units,
        lambda said, camp: (0.5 * np.log(said.if_alike) - np.log(said.if_apart))[:, None] * camp,
    )  # fmt: skip
    gain = np.where(camp, alone + inside - price, 0.0).sum(axis=0)
    gain += np.log(belief.news) - _EVIDENT
    found: dict[int, int] = {}
    for i in np.argsort(-gain, kind="stable"):
        if gain[i] > 0.0:
            found.setdefault(int(column[centres[i]]), int(centres[i]))
    return np.array(list(found.values()), np.int64)


def _likeliest(
    fields: Sequence[Field], belief: Belief, heard: Evidence, unit: np.ndarray, hard: bool
) -> tuple[Model, bool]:
    """The model under which the nodes, each left out in turn, are most probably what they are.

    And whether answers refute it, each counted as likely as the model makes it and not as what it
    was taken for: a belief with too much trust in looks finds that it was right. If they do, it is
    the model under which these are likeliest. What is asked about is what looks leave open, so
    that answers alone would trust too little in looks about the rest.
    """
    told = [_believed(belief, heard, unit, hard)]
    if not hard:
        told.append(_told(belief, heard, unit))
    worth = _worth(fields, belief, *(np.stack(each) for each in zip(*told, strict=True)))
    models, by_answers = worth[0], worth[-1]
    best, refuted = np.unravel_index(models.argmax(), models.shape), False
    if not hard:
        refuted = bool(by_answers.max() - by_answers[best] > _REFUTED)
        if refuted:
            best = np.unravel_index(by_answers.argmax(), models.shape)
    field, sharpness, doubt = (int(i) for i in best)
    return Model(fields[field], _SHARPNESS[sharpness], _DOUBT[doubt]), refuted


def _believed(
    belief: Belief, heard: Evidence, unit: np.ndarray, hard: bool
) -> tuple[np.ndarray, np.ndarray]:
    """[m, C + 1] what each node is, as far as that is known, and [m] what that counts.

    A node of which something is known can tell if others are in its column, too. Where answers
    are proofs it must be known from a "yes", and the "no" to others tell as well: they speak
    against a model that expected a "yes". Where not, two columns may be pieces of one class, and
    a "no" to one of them says little.
    """
    columns = len(belief.first)
    share = belief.share[unit]
    column = share.argmax(axis=1)
    weight = np.where(share.max(axis=1) > 0.9, share.max(axis=1), 0.0)
    said = np.eye(columns + 1)[column]
    open_ = np.zeros(len(unit), bool)
    if hard:
        answers, free = _told(belief, heard, unit)
        open_ = (free > 0.0) & ((answers > 0.5).sum(axis=1) > 1)
        said[open_], weight[open_] = answers[open_], 0.0
    weight *= np.bincount(column, weight > 0.0, minlength=columns + 1)[column] > 1.0
    weight[open_] = 1.0
    return said, weight


def _told(belief: Belief, heard: Evidence, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[m, C + 1] likelihood of the answers about each node, 1 for the likeliest column, and [m]
    whether it counts: those that opened a column do not."""
    likelihood = np.exp(_normal(messages(heard, belief.share, len(belief.share))))[unit]
    return likelihood, (~np.isin(unit, belief.first)).astype(np.float64)


def _worth(
    fields: Sequence[Field], belief: Belief, said: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """[T, F, S, D] log likelihood of T things said of the nodes under the models that are tried.

    Args:
        said: [T, m, C + 1] likelihood of that if a node is of each column.
        weight: [T, m] what each node counts.
    """
    columns, doubt = len(belief.first), np.array(_DOUBT)[:, None]
    known, new = said[:, :, :-1].sum(axis=2), said[:, :, -1]
    out = np.empty((len(said), len(fields), len(_SHARPNESS), len(_DOUBT)))
    for f, field in enumerate(fields):
        mean, variance = field.left_out(belief.labels), field.left_out_variance()
        for s, sharpness in enumerate(_SHARPNESS):
            score = _score(mean, sharpness)
            looks = np.einsum("tmc,mc->tm", said[:, :, :-1], score) / score.sum(axis=1)
            # what `Model.shares` and `said` agree on, of each doubt
            held = looks[:, None] + doubt * (variance * (known / columns - looks))[:, None]
            chance = (1.0 - belief.news) * held + (belief.news * new)[:, None]
            logs = np.log(surprised(chance, columns + 1))
            out[:, f, s] = (logs @ weight[:, :, None])[:, :, 0]
    out -= _SHARP_STIFFNESS * np.square(np.log(np.array(_SHARPNESS)[:, None] / _SHARP))
    return out - _DOUBT_STIFFNESS * np.square(np.log(np.array(_DOUBT) / _DOUBTED))


def _sweep(
    model: Model, heard: Evidence, unit: np.ndarray, first: np.ndarray, news: float
) -> Belief:
    """Regression and answers in turn, for given columns; those who opened one stay in it."""
    units, columns = int(unit.max()) + 1, len(first)
    opened = np.full(units, -1)
    opened[first] = np.arange(columns)
    fixed = opened >= 0
    sure = np.eye(columns + 1)[opened]  # right where fixed
    share = np.where(fixed[:, None], sure, 0.0)
    labels = share[unit, :-1]
    looks = logits = np.zeros((units, columns + 1))
    members = np.bincount(unit, minlength=units)[:, None]
    variance = model.field.left_out_variance()
    for _ in range(1 if fixed.all() else _SWEEPS):
        mean = model.field.left_out(labels)
        expected = model.shares(mean, variance, np.full(len(unit), news))
        prior = surprised(expected, columns + 1)
        looks = _summed(np.log(prior), unit, units) / members
        logits = looks + messages(heard, share, units)
        share = np.where(fixed[:, None], sure, softmax(logits))
        # 1 for a sure unit, 0 for one that may as well be of another group or of none
        best = share.max(axis=1)
        heed = np.where(share.argmax(axis=1) < columns, np.maximum(2.0 * best - 1.0, 0.0), 0.0)
        heed = heed[unit][:, None]
        refused = np.minimum(share[unit] / prior, 1.0)[:, :-1]
        labels = heed * share[unit, :-1] + (1.0 - heed) * np.maximum(mean, 0.0) * refused
    return Belief(share, labels, looks, logits, news, first, model)


def bearing(belief: Belief) -> np.ndarray:
    """[U] how often as probable the answers about each unit are if it is where the regression of
    all others puts it, as if it is of a group nobody has seen."""
    looks, columns = np.logaddexp.reduce(belief.logits, axis=1), belief.logits.shape[1]
    unseen = belief.logits[:, -1] - np.log(surprised(np.array(belief.news), columns))
    return np.exp(np.clip(looks - unseen, NEVER, -NEVER))


def hear(share: np.ndarray, said: Evidence, who: np.ndarray) -> None:
    """Samples that do not speak for others hear what is said about them, in place.

    Args:
        share: [N, C + 1] probability of each column; the last is a group nobody has seen.
        said: about rows of `share`.
        who: [N] bool, the rows that hear.
    """
    said = said.at(who[said.first] | who[said.second])
    rows = np.unique(np.append(said.first, said.second))
    at = np.full(len(share), -1)
    at[rows] = np.arange(len(rows))
    if len(rows):
        prior = surprised(share[rows], share.shape[1])
        heard = softmax(np.log(prior) + messages(said.about(at).by_pair(), prior, len(rows)))
        share[rows[who[rows]]] = heard[who[rows]]


def messages(heard: Evidence, share: np.ndarray, units: int) -> np.ndarray:
    """[U, C + 1] log likelihood of all answers about each unit, for each column it may be of."""
    return _about_each(heard, share, units, message)


def message(heard: Evidence, other: np.ndarray) -> np.ndarray:
    """[K, C + 1] log likelihood of each answer if one is of a column, the other of [K, C + 1]."""
    out = (heard.if_alike - heard.if_apart)[:, None] * other
    # Of groups nobody has seen: two of them that are said to be alike may be of the same one.
    out[:, -1] = np.maximum(out[:, -1], 0.0) * _SAME_NEW
    out += heard.if_apart[:, None]
    np.maximum(out, TINY, out=out)
    return np.log(out, out=out)


def _about_each(
    heard: Evidence,
    values: np.ndarray,
    units: int,
    say: Callable[[Evidence, np.ndarray], np.ndarray],
) -> np.ndarray:
    """[U, C] sums over all answers about each unit of what they `say`, given the row of [U, C]
    `values` of the other unit."""
    out = np.zeros((units, values.shape[1]))
    for said in _in_blocks(heard.both_ways, values.shape[1]):
        begin = np.flatnonzero(np.diff(said.first, prepend=-1))
        out[said.first[begin]] += np.add.reduceat(say(said, values[said.second]), begin, axis=0)
    return out


def _in_blocks(said: Evidence, columns: int) -> Iterator[Evidence]:
    """All judgements, so many at a time that what is made of each, for every column, stays in the
    cache: there it is as good as free."""
    rows = max(_BLOCK // max(columns, 1), 1)
    for start in range(0, len(said.first), rows):
        yield said.at(slice(start, start + rows))


def _score(mean: np.ndarray, sharpness: float) -> np.ndarray:
    """[N, C] a power of the regression's mean, to which looks are in proportion; never 0.

    The power is a multiple of one half: products of roots take less than half the time of `**`.
    """
    root = np.sqrt(np.maximum(mean, 0.0), dtype=np.float64)
    score = root.copy()
    for _ in range(round(2.0 * sharpness) - 1):
        score *= root
    score += TINY
    return score


def surprised(share: np.ndarray, columns: int) -> np.ndarray:
    """Probabilities of which a small part is taken away and given to all: no geometry is sure."""
    return (1.0 - _SURPRISE) * share + _SURPRISE / columns


def _summed(values: np.ndarray, place: np.ndarray, count: int) -> np.ndarray:
    """[count, C] sums of the rows [K, C] that have each place [K], added in their order.

    As np.add.at, which takes two to four times as long.
    """
    columns = values.shape[1]
    cells = place[:, None] * columns + np.arange(columns)
    return np.bincount(cells.ravel(), values.ravel(), count * columns).reshape(count, columns)


def _normal(logs: np.ndarray) -> np.ndarray:
    """Each row less its largest number."""
    return logs - logs.max(axis=1, keepdims=True)


def softmax(x: np.ndarray) -> np.ndarray:
    out = np.exp(_normal(x))
    return out / out.sum(axis=1, keepdims=True)

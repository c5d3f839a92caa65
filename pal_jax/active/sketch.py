"""What the engine looks at: all samples or, where they are many, a sketch of them."""

import concurrent.futures
import dataclasses
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pal_jax.active import evidence as evidence_lib
from pal_jax.active.belief import hear
from pal_jax.active.evidence import Trust
from pal_jax.active.geometry import Geometry, LastEmbedding, read_only
from pal_jax.active.posterior import Posterior
from pal_jax.active.questions import Answer, Question, Relation
from pal_jax.active.relations import Judgements, Relations

if TYPE_CHECKING:
    import faiss

_SKETCH = 2  # stream of random numbers, beside those of batches and proposals
_MOST_LABELLED = 2_000  # samples with a label known from the start that join the sketch
_MOST_ASKED = 500  # samples that were asked about that join it
_FIRST = 64  # judgements after which those asked about join for the first time
_NEIGHBOURS = 10  # of the sketch, that speak for a sample outside of it
_LISTS, _PROBED = 128, 16  # pieces of the sketch, and how many are searched for neighbours
_NUMBERS = 1 << 20  # numbers of something of n rows that are made at a time
_SURPRISE = 0.02  # share of probability that neighbours do not decide
_RELATIONS = tuple(Relation)


class Whole:
    """All samples: nothing is left out and every row is a sample id.

    Args:
        geometry: of all n samples.
        relations: what the answers say.
    """

    def __init__(self, geometry: Geometry, relations: Relations):
        self.given = geometry  # by the embedding as it is
        self.geometry = geometry  # or refitted
        self.relations = relations

    def listen(self) -> None:
        """Nothing to do: the relations are those to which answers are added."""

    def ids(self, rows: np.ndarray) -> np.ndarray:
        """The sample ids of rows."""
        return rows

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """The rows of samples, given by their ids; -1 where one is not looked at."""
        return samples

    def questions(self, questions: Sequence[Question]) -> list[Question]:
        """About sample ids, given about rows."""
        return list(questions)

    def believed(self, posterior: Posterior) -> tuple[np.ndarray, np.ndarray]:
        """[n] int cluster of each sample, and [n] how sure it is."""
        return _proven_apart(self.relations, posterior)

    def centrality(self, groups: np.ndarray) -> np.ndarray:
        """[n] how well each sample stands for its group, given as [n] int."""
        return self.geometry.centrality(groups)


class Sketch:
    """Some samples that stand for all; the engine sees them as rows, in the order of their ids.

    Most are a uniform draw, so that shares of them are shares of all and nothing is weighted.

    Args:
        ids: [L] int, ascending sample ids.
        embeddings: [n, d] finite numbers.
        relations: what the answers say of all samples; the sketch hears what is about two of its
            own. What follows by way of others it does not know: at worst, it asks that again.
        near: neighbours among `ids` of every sample.
        trust: how often oracles are wrong; never, and what follows from answers is proof.
    """

    def __init__(
        self,
        ids: np.ndarray,
        embeddings: np.ndarray,
        relations: Relations,
        near: "concurrent.futures.Future[Near]",
        trust: Trust,
    ):
        self.given = Geometry(embeddings[ids].astype(np.float64), single=0)
        self.geometry = self.given  # or refitted
        self.relations = Relations(len(ids), relations.known()[ids])
        self._all, self._ids, self._near, self._trust = relations, ids, near, trust
        self._row_of = np.full(relations.n, -1)
        self._row_of[ids] = np.arange(len(ids))
        self._heard = 0

    def listen(self) -> None:
        """Takes in the answers that were told since the last time; O(those)."""
        judgements = self._all.judgements()
        self.relations.add(_answers(judgements, self._heard, self._row_of))
        self._heard = len(judgements.first)

    def ids(self, rows: np.ndarray) -> np.ndarray:
        """The sample ids of rows."""
        return self._ids[rows]

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """The rows of samples, given by their ids; -1 where one is not in the sketch."""
        return self._row_of[samples]

    def questions(self, questions: Sequence[Question]) -> list[Question]:
        """About sample ids, given about rows."""
        return [
            Question(self._ids[question.anchor], tuple(self._ids[list(question.candidates)]))
            for question in questions
        ]

    def centrality(self, groups: np.ndarray) -> np.ndarray:
        """[n] how well each sample stands for its group: those of the sketch before all others."""
        out = np.full(len(groups), -np.inf)
        out[self._ids] = self.geometry.centrality(groups[self._ids])
        return out

    def believed(self, posterior: Posterior) -> tuple[np.ndarray, np.ndarray]:
        """[n] int cluster of each sample, and [n] how sure it is.

        Samples outside of the sketch believe the mean of their neighbours in it, unless what was
        answered about them proves something else.
        """
        near = self._near.result()
        shares, whole = posterior.cluster.astype(np.float32), posterior.whole()
        groups = np.empty(len(near.rows), np.int64)
        sureness = np.empty(len(near.rows))
        for part in _parts(len(groups), shares.shape[1]):
            rows, weights = near.of(part)
            groups[part] = best = _mean(shares, rows, weights).argmax(axis=1)
            sureness[part] = (weights * whole[rows, best[:, None]]).sum(axis=1)
        groups[self._ids], sureness[self._ids] = _proven_apart(self.relations, posterior)
        if not posterior.hard:
            self._hear(posterior, near, groups, sureness)
        self._prove(posterior, near, groups, sureness)
        return groups, np.minimum(sureness, 1.0)

    def _hear(
        self, posterior: Posterior, near: "Near", groups: np.ndarray, sureness: np.ndarray
    ) -> None:
        """Weighs what is said about samples outside of the sketch, where answers may be wrong."""
        outside = self._row_of < 0
        judgements = evidence_lib.telling(self._all.judgements(), self._trust)
        judgements = judgements.at(outside[judgements.first] | outside[judgements.second])
        table = evidence_lib.rates(judgements, self._trust)
        for o, oracle in enumerate(judgements.oracles):
            table[o] = posterior.rates.get(oracle, table[o])
        ids = np.unique(np.append(judgements.first, judgements.second))
        at = np.full(len(outside), -1)
        at[ids] = np.arange(len(ids))
        out = outside[ids]
        share = np.empty((len(ids), posterior.cluster.shape[1] + 1))
        share[~out, :-1] = posterior.cluster[self._row_of[ids[~out]]]
        share[out, :-1] = _mean(posterior.cluster, *near.of(ids[out]))
        share[:, -1] = np.maximum(1.0 - share[:, :-1].sum(axis=1), 0.0)
        hear(share, evidence_lib.weigh(judgements, table).about(at), out)
        best = share[out, :-1].argmax(axis=1)
        right = posterior.whole().sum(axis=0) / posterior.cluster.sum(axis=0)
        groups[ids[out]], sureness[ids[out]] = best, share[out, best] * right[best]

    def _prove(
        self, posterior: Posterior, near: "Near", groups: np.ndarray, sureness: np.ndarray
    ) -> None:
        """Moves the samples outside of the sketch to where the answers about them prove they are.

        What is proven to be of one group goes where its members in the sketch are.
        """
        hard = self._trust.is_hard(self._all.judgements())
        names = self._names(hard)
        cluster_of = np.full(len(names), -1)  # cluster of each name, as far as it is decided
        cluster_of[names[self._ids]] = groups[self._ids]
        sure_of = np.zeros(len(names))
        sure_of[names[self._ids]] = sureness[self._ids]
        decided = (cluster_of[names] >= 0) & (self._row_of < 0)
        groups[decided] = cluster_of[names[decided]]
        sureness[decided] = sure_of[names[decided]]
        told = self._told_of(hard)
        left = told[cluster_of[names[told]] < 0]
        if len(left):
            left = left[np.argsort(names[left], kind="stable")]
            together = np.split(left, np.flatnonzero(np.diff(names[left])) + 1)
            labelled = np.unique(groups[self._ids[self.relations.labelled()]])
            place = _Places(posterior, near, labelled, int(groups.max()) + 1)
            for members in together:
                name = int(names[members[0]])
                against = [cluster_of[other] for other in self._all.apart(name)] if hard else []
                is_labelled = self._all.known()[name] >= 0
                cluster, sure = place.find(members, against, is_labelled)
                groups[members], sureness[members] = cluster, sure
                cluster_of[name] = cluster

    def _names(self, hard: bool) -> np.ndarray:
        """[n] int: samples with equal names are proven to be of one group."""
        if hard:
            return self._all.groups()
        known = self._all.known()
        return np.where(known >= 0, known, np.arange(len(known)))

    def _told_of(self, hard: bool) -> np.ndarray:
        """Ascending ids of the samples of which something may be proven."""
        labelled = self._all.labelled()
        if not hard:
            return labelled
        judgements = self._all.judgements()
        return np.unique(np.concatenate([labelled, judgements.first, judgements.second]))


def _proven_apart(relations: Relations, posterior: Posterior) -> tuple[np.ndarray, np.ndarray]:
    """[n] int the most probable cluster of each sample, and [n] how sure it is.

    Where answers prove two groups apart that are believed to be of one cluster, the one that is
    less sure goes to the likeliest cluster that nothing is proven against, or to a new one.
    """
    groups, sureness = posterior.cluster.argmax(axis=1), posterior.sureness()
    if not posterior.hard:
        return groups, sureness
    judgements = relations.judgements()
    names = relations.groups()
    no = judgements.relation == _RELATIONS.index(Relation.NOT_ALIKE)
    a, b = names[judgements.first[no]], names[judgements.second[no]]
    wrong = (groups[a] == groups[b]) & (a != b)
    count = posterior.cluster.shape[1]
    for name in dict.fromkeys(np.where(sureness[a] < sureness[b], a, b)[wrong].tolist()):
        against = groups[[*relations.apart(name)]]
        if groups[name] not in against:  # the other one has gone
            continue
        share = posterior.cluster[name].copy()
        share[against[against < len(share)]] = 0.0
        members = names == name
        if share.any():
            groups[members] = share.argmax()
            sureness[members] = share.max() / share.sum()
        else:
            groups[members], sureness[members], count = count, 1.0, count + 1
    return groups, sureness


class _Places:
    """Clusters for groups of which the sketch has no member.

    Args:
        labelled: [Q] clusters that stand for labels known from the start.
        count: clusters that there are, from which on new ones are numbered.
    """

    def __init__(self, posterior: Posterior, near: "Near", labelled: np.ndarray, count: int):
        self._shares, self._near = posterior.cluster.astype(np.float32), near
        self._typical, self._labelled = self._shares.mean(axis=0), labelled
        self._count = max(count, self._shares.shape[1])

    def find(
        self, members: np.ndarray, against: Sequence[int], is_labelled: bool
    ) -> tuple[int, float]:
        """The likeliest cluster that nothing is proven `against`, or a new one; how sure that is.

        Args:
            members: samples that are in one group.
            against: clusters of others that they are kept apart from; -1 where not yet decided.
            is_labelled: whether it has a label, which no cluster of `labelled` then can have.
        """
        share = _mean(self._shares, *self._near.of(members)).mean(axis=0)
        share = (1.0 - _SURPRISE) * share + _SURPRISE * self._typical
        share[[cluster for cluster in against if 0 <= cluster < len(share)]] = 0.0
        if is_labelled:
            share[self._labelled] = 0.0
        if share.any():
            return int(share.argmax()), float(share.max() / share.sum())
        self._count += 1
        return self._count - 1, 1.0


@dataclasses.dataclass(frozen=True)
class Near:
    """Neighbours in the sketch of each of n samples.

    Args:
        rows: [n, k] int32, of the sketch, the nearest first.
        square: [n, k] float32 squared distances to them.
    """

    rows: np.ndarray
    square: np.ndarray

    def of(self, samples: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """[S, k] rows, and weights that sum to 1: exp(-square / that of the farthest)."""
        square = self.square[samples]
        weights = np.exp(-square / np.maximum(square[:, -1:], 1e-30))
        return self.rows[samples], weights / weights.sum(axis=1, keepdims=True)


class Nearest:
    """Searches the neighbours of all samples of one embedding in the background.

    The search is FAISS's, in an inverted file: the uniform part of the sketch is cut into 128
    cells, of which the 16 next to a sample are searched: nearly exact, O(n U / 8). It is done
    once for an embedding; when samples join the sketch they alone are searched, and the nearest
    of both are kept. From one embedding to the next nothing can be updated: training moves all
    samples, so all neighbours are searched anew.

    Args:
        embeddings: [n, d] finite numbers, held as long as this. If they can be written to, a
            float32 copy is.
        uniform: [U] ascending ids of the part of the sketch that stays.
    """

    def __init__(self, embeddings: np.ndarray, uniform: np.ndarray):
        self._uniform = uniform
        self._points = _Points(embeddings, uniform)
        self._wanted = True
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "neighbours")
        self._searched = self._worker.submit(self._search_uniform)

    def among(self, ids: np.ndarray) -> "concurrent.futures.Future[Near]":
        """Neighbours in the sketch `ids`, [L] ascending, of which the uniform part is one."""
        return self._worker.submit(self._merge, ids)

    def forget(self) -> None:
        """Another embedding has come: a search that still goes on ends soon, without a result."""
        self._wanted = False
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _search_uniform(self) -> "tuple[faiss.IndexFlatL2, np.ndarray, np.ndarray]":
        """The centres of the cells; [n, k] positions in the uniform part and squared distances."""
        import faiss  # takes a while, and few runs need it

        points = self._points.of(self._uniform)
        centres = faiss.IndexFlatL2(points.shape[1])
        lists = max(1, min(_LISTS, len(points) // 64))
        index = faiss.IndexIVFFlat(centres, points.shape[1], lists)
        index.train(points)
        index.add(points)
        rows, square = self._search(index)
        lacking = np.flatnonzero((rows < 0).any(axis=1))  # next to cells that are nearly empty
        if len(lacking):
            exact = faiss.IndexFlatL2(points.shape[1])
            exact.add(points)
            for part in np.array_split(lacking, -(-len(lacking) // 65_536)):
                square[part], rows[part] = exact.search(self._points.of(part), rows.shape[1])
        return centres, rows, square

    def _search(self, index: "faiss.IndexIVFFlat") -> tuple[np.ndarray, np.ndarray]:
        """[n, k] positions in the index, -1 where the cells have no more, and squared distances."""
        index.nprobe = _PROBED
        k = min(_NEIGHBOURS, index.ntotal)
        rows = np.empty((self._points.n, k), np.int32)
        square = np.empty((self._points.n, k), np.float32)
        for part in _parts(len(rows), self._points.d):
            # Nobody waits for a thread of a program that ends.
            if not self._wanted or not threading.main_thread().is_alive():
                raise concurrent.futures.CancelledError
            square[part], rows[part] = index.search(self._points.of(part), k)
        return rows, square

    def _merge(self, ids: np.ndarray) -> Near:
        import faiss

        centres, rows, square = self._searched.result()
        rows, square = np.searchsorted(ids, self._uniform).astype(np.int32)[rows], square.copy()
        joined = np.setdiff1d(ids, self._uniform, assume_unique=True)
        if not len(joined):
            return Near(rows, square)
        index = faiss.IndexIVFFlat(centres, self._points.d, centres.ntotal)
        index.add(self._points.of(joined))
        more, far = self._search(index)
        more = np.searchsorted(ids, joined).astype(np.int32)[more]  # of -1: any, infinitely far
        for part in _parts(len(rows), 2 * rows.shape[1]):
            both = np.concatenate([rows[part], more[part]], axis=1)
            squares = np.concatenate([square[part], far[part]], axis=1)
            order = np.lexsort((both, squares))[:, : rows.shape[1]]  # of equals, the smaller id
            rows[part] = np.take_along_axis(both, order, axis=1)
            square[part] = np.take_along_axis(squares, order, axis=1)
        return Near(rows, square)


class _Points:
    """An embedding in a frame in which float32 holds it: centred, no coordinate beyond 2."""

    def __init__(self, embeddings: np.ndarray, uniform: np.ndarray):
        self.n, self.d = embeddings.shape
        blocks = [embeddings[part] for part in _parts(self.n, self.d)]
        largest = max(max(float(rows.max()), -float(rows.min())) for rows in blocks)
        self._scale = largest if largest > 0.0 else 1.0
        self._centre = np.zeros(self.d)
        self._kept, self._framed = embeddings, False
        self._centre = self.of(uniform).mean(axis=0, dtype=np.float64)
        if not read_only(embeddings):
            kept = np.empty(embeddings.shape, np.float32)
            for part in _parts(self.n, self.d):
                kept[part] = self.of(part)
            self._kept, self._framed = kept, True

    def of(self, samples: np.ndarray | slice) -> np.ndarray:
        """[S, d] float32, in rows without gaps."""
        rows = self._kept[samples]
        if self._framed:
            return np.ascontiguousarray(rows)
        rows = rows.astype(np.promote_types(rows.dtype, np.float32)) / self._scale
        return np.ascontiguousarray(rows - self._centre, np.float32)


def _parts(n: int, width: int) -> Iterator[slice]:
    """Slices of n rows, so that what is derived from one stays small."""
    step = max(1, _NUMBERS // width)
    return (slice(start, start + step) for start in range(0, n, step))


class LastSketch:
    """The sketch of the embedding seen last, with all that was told.

    Which samples are in it is a function of the arguments and of the answers: a uniform draw,
    those with labels known from the start (evenly, if they are many; one of each label first), and
    those asked about in the first judgements (the most often asked, if they are many), as many as
    the largest power of two that have been told. So a run that goes on has the sketch that it
    would have had, and a sketch is changed a few times only.

    Args:
        n: number of samples.
        size: of the uniform draw, at most n.
        seed: of the draw.
        prior: judgements believed from the start, which come first.
        trust: how often oracles are wrong.
    """

    def __init__(self, n: int, size: int, seed: int, prior: int, trust: Trust):
        rng = np.random.default_rng([seed, _SKETCH])
        self._uniform = np.sort(rng.choice(n, size, replace=False))
        self._prior, self._trust = prior, trust
        self._look = LastEmbedding(n)
        self._made_of: tuple[bytes, int] | None = None
        self._nearest: Nearest | None = None
        self._ids = np.empty(0, np.int64)
        self._sketch: Sketch | None = None

    def __call__(self, embeddings: np.ndarray, relations: Relations) -> Sketch:
        """Of [n, d] embeddings and all that was told; UserError if they cannot be used."""
        array, content = self._look(embeddings)
        told = len(relations.judgements().first)
        joined = max(self._prior, 1 << (told.bit_length() - 1) if told >= _FIRST else 0)
        if self._sketch is None or self._made_of != (content, joined):
            self._sketch = self._make(array, content, relations, joined)
            self._made_of = content, joined
        self._sketch.listen()
        return self._sketch

    def _make(self, array: np.ndarray, content: bytes, relations: Relations, joined: int) -> Sketch:
        ids = np.union1d(self._uniform, _named(relations, joined))
        moved = self._made_of is None or self._made_of[0] != content
        if self._nearest is None or moved:
            if self._nearest is not None:
                self._nearest.forget()
            self._nearest = Nearest(array, self._uniform)
        elif self._sketch is not None and np.array_equal(ids, self._ids):
            return self._sketch
        self._ids = ids
        near = self._nearest.among(ids)
        return Sketch(ids, array, relations, near, self._trust)


def _named(relations: Relations, joined: int) -> np.ndarray:
    """Ids of the samples that join the uniform draw, each once."""
    labelled = relations.labelled()
    first = labelled[relations.known()[labelled] == labelled]  # it names the group of its label
    judgements = relations.judgements()
    asked = np.concatenate([judgements.first[:joined], judgements.second[:joined]])
    samples, times = np.unique(asked, return_counts=True)
    often = samples[np.lexsort((samples, -times))][:_MOST_ASKED]
    return np.unique(np.concatenate([_evenly(first), _evenly(labelled), often]))


def _evenly(samples: np.ndarray) -> np.ndarray:
    if len(samples) <= _MOST_LABELLED:
        return samples
    return samples[np.linspace(0, len(samples) - 1, _MOST_LABELLED).astype(np.int64)]


def _answers(judgements: Judgements, since: int, row_of: np.ndarray) -> list[Answer]:
    """From position `since` on, those about two samples of the sketch, about its rows."""
    first, second = row_of[judgements.first[since:]], row_of[judgements.second[since:]]
    inside = np.flatnonzero((first >= 0) & (second >= 0))
    said = zip(
        first[inside].tolist(),
        second[inside].tolist(),
        judgements.relation[since:][inside].tolist(),
        judgements.oracle[since:][inside].tolist(),
        strict=True,
    )
    return [
        Answer(Question(i, (j,)), (_RELATIONS[relation],), judgements.oracles[oracle])
        for i, j, relation, oracle in said
    ]


def _mean(values: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[S, K] weighted means of rows [S, k] of values [L, K]; nothing of S x k x K."""
    out = weights[:, :1] * values[rows[:, 0]]
    for j in range(1, rows.shape[1]):
        out += weights[:, j : j + 1] * values[rows[:, j]]
    return out

"""What follows from the answers: groups, groups known apart, and the answers that disagree."""

import collections
import copy
import dataclasses
import heapq
from collections.abc import Iterable, Mapping

import numpy as np

from pal_jax.active.questions import OPPOSITE, Answer, Pair, Relation, ordered
from pal_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Contradiction:
    """An answer that the groups do not follow, and what speaks against it.

    Args:
        pair: the two samples it is about.
        relation: what it said of them.
        position: which answer it is, from 0, in the order in which they were told.
        against: positions of the answers behind the opposite.
    """

    pair: Pair
    relation: Relation
    position: int
    against: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Judgements:
    """All that was said of pairs, in the order in which it was said.

    Args:
        first, second: [K] int sample ids.
        relation: [K] int, position in `Relation`: 0 alike, 1 not alike, 2 not sure.
        oracle: [K] int, position in `oracles` of who said so.
        oracles: names, in the order of their first answer.
    """

    first: np.ndarray
    second: np.ndarray
    relation: np.ndarray
    oracle: np.ndarray
    oracles: tuple[str, ...]

    def among(self, samples: np.ndarray) -> "Judgements":
        """Those of pairs that are both in `samples`, [S] int, in the same order."""
        return self.at(np.isin(self.first, samples) & np.isin(self.second, samples))

    def at(self, rows: np.ndarray) -> "Judgements":
        """Those for which [K] bool is true, in the same order."""
        columns = (self.first, self.second, self.relation, self.oracle)
        return Judgements(*(column[rows] for column in columns), oracles=self.oracles)


class Relations:
    """What a log of answers says about n samples, inferred anew whenever the log demands it.

    Each judgement is a vote on a pair: +1 alike, -1 not alike, 0 not sure. Groups are joined in
    the order of the votes between them, the strongest first and as long as the sum is positive
    (greedy additive contraction of a signed graph). Where no two answers disagree this is the
    transitive closure of "alike", in any order of the answers; where they do, the majority
    decides, and a single wrong "alike" between two groups is undone by two "not alike". Two
    groups are not alike when the votes between them sum to less than 0.

    Answers that agree with the closure are added to it in (nearly) constant time; only a
    disagreement makes the next reading infer everything from all votes, O(m log m) for m votes.

    A group is named by its smallest sample id.

    Args:
        n: number of samples.
        known: [n] int labels known from the start, -1 where there is none: equal means alike,
            different not alike. No answer overrules them.
    """

    def __init__(self, n: int, known: np.ndarray | None = None):
        self.n = n
        self._known = _known_groups(n, known)  # [n] name of the group known from the start, or -1
        self._labelled = np.flatnonzero(self._known >= 0)
        self._joined = self._labelled  # ascending: see joined(), which has read so many judgements
        self._joined_from = 0
        self._votes: dict[Pair, list[tuple[int, Relation]]] = collections.defaultdict(list)
        self._unsure: list[Pair] = []
        self._said: list[tuple[int, int, int, int]] = []  # rows of `judgements`
        self._table = np.empty((4, 0), np.int64)  # the first of them, as columns
        self._oracles: dict[str, int] = {}
        self._length = 0
        self._consistent = True  # no answer so far disagreed with those before it
        self._stale = False
        self._start()

    @property
    def consistent(self) -> bool:
        """Whether all answers may be right: none disagreed with what follows from those before."""
        return self._consistent

    def copy(self) -> "Relations":
        """The same, which takes in other answers from now on; O(judgements)."""
        twin = copy.copy(self)
        twin._votes = collections.defaultdict(list, {p: [*v] for p, v in self._votes.items()})
        twin._apart = collections.defaultdict(dict, {a: {**v} for a, v in self._apart.items()})
        twin._unsure, twin._said, twin._oracles = [*self._unsure], [*self._said], {**self._oracles}
        twin._parent, twin._label = self._parent.copy(), self._label.copy()
        return twin

    def add(self, answers: Iterable[Answer]) -> None:
        """Takes them in; O(judgements) unless one of them disagrees with those before."""
        for answer in answers:
            oracle = self._oracles.setdefault(answer.oracle, len(self._oracles))
            for i, j, relation in answer.judgements:
                self._said.append((i, j, _CODE[relation], oracle))
                self._votes[ordered(i, j)].append((self._length, relation))
                self._extend(i, j, relation)
            self._length += 1

    def relation(self, i: int, j: int) -> Relation:
        """What is known or follows for samples i and j; a sample is alike to itself."""
        self._refresh()
        return self._between(self._find(i), self._find(j))

    def groups(self) -> np.ndarray:
        """[n] int64: the name of each sample's group; not to be written to."""
        self._refresh()
        while True:
            names = self._parent[self._parent]
            if np.array_equal(names, self._parent):
                return names
            self._parent = names

    def joined(self) -> tuple[np.ndarray, np.ndarray]:
        """Ascending ids of all samples that may share a group, and their groups' names, [K] each.

        Those that were called alike to another or whose label was known from the start; every
        other sample is a group of its own. O(K), and sorts only what was told since the last call.
        """
        table = self.judgements()
        fresh = slice(self._joined_from, None)
        alike = table.relation[fresh] == _CODE[Relation.ALIKE]
        told = np.unique(np.concatenate([table.first[fresh][alike], table.second[fresh][alike]]))
        at = np.searchsorted(self._joined, told)
        here = self._joined[np.minimum(at, len(self._joined) - 1)] if len(self._joined) else -1
        new = told != here
        self._joined = np.insert(self._joined, at[new], told[new])
        self._joined_from = len(table.relation)
        return self._joined, self.names(self._joined)

    def names(self, samples: np.ndarray) -> np.ndarray:
        """[S] the names of the groups of [S] samples; O(S), ways that were gone being short."""
        self._refresh()
        names = self._parent[samples]
        while not np.array_equal(above := self._parent[names], names):
            self._parent[samples] = names = above
        return names

    def apart(self, group: int) -> Mapping[int, int]:
        """The groups that answers keep apart from `group`, each with its (negative) votes."""
        self._refresh()
        return self._apart.get(group, {})

    def known(self) -> np.ndarray:
        """[n] int64: the name of the sample's group known from the start, -1 where none is."""
        return self._known

    def labelled(self) -> np.ndarray:
        """Ascending ids of the samples whose label was known from the start."""
        return self._labelled

    def votes(self, i: int, j: int) -> int:
        """How often this very pair was called alike, less how often not alike."""
        return sum(_VOTE[relation] for _, relation in self._votes.get(ordered(i, j), ()))

    def pairs(self) -> Iterable[Pair]:
        """All pairs that were ever asked about, in the order of their first answer."""
        return self._votes.keys()

    def judgements(self) -> Judgements:
        """Every judgement told so far."""
        fresh = self._said[self._table.shape[1] :]
        if fresh:
            self._table = np.concatenate([self._table, np.array(fresh, np.int64).T], axis=1)
        return Judgements(*self._table, oracles=tuple(self._oracles))

    def asked(self, i: int, j: int) -> int:
        """How often this very pair was asked, "not sure" included."""
        return len(self._votes.get(ordered(i, j), ()))

    def unsure(self) -> list[Pair]:
        """The pairs that were called "not sure", as often as they were."""
        return self._unsure

    def contradictions(self) -> list[Contradiction]:
        """The answers that `groups` does not follow, in the order in which they were told.

        Behind the opposite stand the answers on the shortest chain of "alike" between the two
        samples, or all those of "not alike" between their groups.
        """
        self._refresh()
        found: list[tuple[Pair, Relation, int]] = []
        for pair, votes in self._votes.items():
            truth = self.relation(*pair)
            if truth is not Relation.UNKNOWN:
                found += [(pair, said, p) for p, said in votes if said is OPPOSITE[truth]]
        alike, apart = self._evidence()
        listed = []
        for pair, said, position in found:
            if said is Relation.ALIKE:
                against = tuple(apart[ordered(*map(self._find, pair))])
            else:
                against = _chain(alike, *pair)
            listed.append(Contradiction(pair, said, position, against))
        return sorted(listed, key=lambda c: (c.position, c.pair))

    def against(self, groups: np.ndarray) -> list[Contradiction]:
        """The answers that a partition, [n] int, does not follow, in the order of their telling.

        For groups that are believed rather than proven. Behind the opposite of such an answer
        stand those about either of its samples that the partition does follow.
        """
        followed: dict[int, set[int]] = collections.defaultdict(set)
        found = []
        for pair, votes in self._votes.items():
            truth = Relation.ALIKE if groups[pair[0]] == groups[pair[1]] else Relation.NOT_ALIKE
            for position, relation in votes:
                if relation is truth:
                    followed[pair[0]].add(position)
                    followed[pair[1]].add(position)
                elif relation is not Relation.UNKNOWN:
                    found.append(Contradiction(pair, relation, position, ()))
        listed = [
            dataclasses.replace(c, against=tuple(sorted(followed[c.pair[0]] | followed[c.pair[1]])))
            for c in found
        ]
        return sorted(listed, key=lambda c: (c.position, c.pair))

    def _start(self) -> None:
        self._parent = np.where(self._known < 0, np.arange(self.n), self._known)
        self._label = self._known.copy()  # [n], right at the names of groups
        self._apart: dict[int, dict[int, int]] = collections.defaultdict(dict)

    def _find(self, i: int) -> int:
        parent = self._parent
        while (above := int(parent[i])) != i:
            parent[i] = parent[above]  # path halving
            i = above
        return i

    def _between(self, a: int, b: int) -> Relation:
        """For names of groups."""
        if a == b:
            return Relation.ALIKE
        differ = self._label[a] >= 0 and self._label[b] >= 0
        apart = differ or b in self._apart.get(a, ())
        return Relation.NOT_ALIKE if apart else Relation.UNKNOWN

    def _extend(self, i: int, j: int, relation: Relation) -> None:
        """One more vote; nothing to do once a disagreement has made the state stale."""
        if relation is Relation.UNKNOWN:
            self._unsure.append(ordered(i, j))
            return
        if not self._consistent:
            self._stale = True
            return
        a, b = self._find(i), self._find(j)
        current = self._between(a, b)
        if current is relation or current is Relation.UNKNOWN:
            if relation is Relation.NOT_ALIKE:
                self._separate(a, b, -1)
            elif a != b:
                self._join(a, b)
        else:
            self._consistent = False
            self._stale = True

    def _join(self, a: int, b: int) -> None:
        keep, drop = ordered(a, b)
        self._parent[drop] = keep
        self._label[keep] = max(self._label[keep], self._label[drop])
        for other, votes in self._apart.pop(drop, {}).items():
            del self._apart[other][drop]
            self._separate(keep, other, votes)

    def _separate(self, a: int, b: int, votes: int) -> None:
        total = self._apart[a].get(b, 0) + votes
        self._apart[a][b] = self._apart[b][a] = total

    def _refresh(self) -> None:
        """Infers everything from all votes, if the log has come to disagree with itself."""
        if not self._stale:
            return
        self._stale = False
        self._start()
        between = _Between()
        for (i, j), votes in self._votes.items():
            a, b = self._find(i), self._find(j)
            if a != b and not (self._label[a] >= 0 and self._label[b] >= 0):
                for position, relation in votes:
                    between.add(a, b, _VOTE[relation], position)
        while pair := between.strongest():
            a, b = pair
            if self._between(a, b) is Relation.NOT_ALIKE:  # by their labels
                between.forget(a, b)
            else:
                self._join(a, b)
                between.join(*ordered(a, b))
        for a, b, votes in between.negative():
            self._separate(a, b, votes)

    def _evidence(
        self,
    ) -> tuple[dict[int, list[tuple[int, int]]], dict[Pair, list[int]]]:
        """What `groups` rests on, each with the positions of the answers.

        Sample -> those of its group that it was called alike, with the first answer that did;
        names of two groups -> all answers of "not alike" between them.
        """
        alike: dict[int, list[tuple[int, int]]] = collections.defaultdict(list)
        apart: dict[Pair, list[int]] = collections.defaultdict(list)
        for (i, j), votes in self._votes.items():
            a, b = self._find(i), self._find(j)
            if a != b:
                apart[ordered(a, b)] += [p for p, said in votes if said is Relation.NOT_ALIKE]
            elif yes := [p for p, said in votes if said is Relation.ALIKE]:
                alike[i].append((j, yes[0]))
                alike[j].append((i, yes[0]))
        return alike, apart


def _chain(alike: Mapping[int, list[tuple[int, int]]], start: int, end: int) -> tuple[int, ...]:
    """Positions of the answers on a shortest path of "alike"; none where there is no path."""
    came: dict[int, tuple[int, int]] = {start: (start, -1)}
    todo = collections.deque([start])
    while todo and end not in came:
        here = todo.popleft()
        for there, position in alike.get(here, ()):
            if there not in came:
                came[there] = (here, position)
                todo.append(there)
    chain = []
    while end in came and end != start:
        end, position = came[end]
        chain.append(position)
    return tuple(sorted(chain))


class _Between:
    """Sums of votes between groups, while groups are being joined."""

    def __init__(self):
        self._sums: dict[int, dict[int, int]] = collections.defaultdict(dict)
        self._first: dict[Pair, int] = {}
        self._heap: list[tuple[int, int, Pair]] = []

    def add(self, a: int, b: int, vote: int, position: int) -> None:
        total = self._sums[a].get(b, 0) + vote
        self._sums[a][b] = self._sums[b][a] = total
        pair = ordered(a, b)
        first = self._first[pair] = min(position, self._first.get(pair, position))
        if total > 0:
            heapq.heappush(self._heap, (-total, first, pair))

    def strongest(self) -> Pair | None:
        """The two groups with the largest positive sum; of equals, those asked about first."""
        while self._heap:
            total, _, pair = heapq.heappop(self._heap)
            a, b = pair
            if self._sums.get(a, {}).get(b) == -total:
                return pair
        return None

    def join(self, keep: int, drop: int) -> None:
        for other, total in self._sums.pop(drop).items():
            del self._sums[other][drop]
            if other != keep:
                self.add(keep, other, total, self._first[ordered(drop, other)])

    def forget(self, a: int, b: int) -> None:
        del self._sums[a][b], self._sums[b][a]

    def negative(self) -> list[tuple[int, int, int]]:
        return [
            (a, b, total)
            for a, others in self._sums.items()
            for b, total in others.items()
            if total < 0 and a < b
        ]


_CODE = {relation: code for code, relation in enumerate(Relation)}
_VOTE = {Relation.ALIKE: 1, Relation.NOT_ALIKE: -1, Relation.UNKNOWN: 0}


def _known_groups(n: int, known: np.ndarray | None) -> np.ndarray:
    """[n] the smallest id with the same label, -1 where the label is."""
    if known is None:
        return np.full(n, -1)
    known = np.asarray(known)
    if known.shape != (n,) or not np.issubdtype(known.dtype, np.integer):
        raise UserError(
            f"known labels are one integer for each of {n} samples (-1: not known), "
            f"not {known.dtype}{list(known.shape)}"
        )
    _, first, label = np.unique(known, return_index=True, return_inverse=True)
    return np.where(known < 0, -1, first[label])

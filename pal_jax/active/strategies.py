"""Which questions to ask next: functions of what is known, each with the same arguments."""

import copy
import dataclasses
from collections.abc import Callable

import numpy as np

from pal_jax.active.geometry import Geometry
from pal_jax.active.posterior import Posterior, infer
from pal_jax.active.questions import Answer, Question, Relation
from pal_jax.active.relations import Relations


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """All that a strategy may look at.

    Args:
        geometry: what the embedding says.
        relations: what the answers say; a strategy must not add to it.
        candidates: M, the most candidates that a question may have.
        error_rate: how often a judgement is wrong; with 0 nothing implied is asked again.
    """

    geometry: Geometry
    relations: Relations
    candidates: int = 1
    error_rate: float = 0.0


# (what is known, how many questions, randomness) -> at most that many, none of them implied
Strategy = Callable[[Knowledge, int, np.random.Generator], list[Question]]


def random_pairs(knowledge: Knowledge, count: int, rng: np.random.Generator) -> list[Question]:
    """Pairs of samples drawn at random among those of unknown relation: the yardstick.

    A question with M candidates is a random anchor with M random ones. Gives up after many
    draws in which everything was known, which is when nearly everything is.
    """
    n, relations = knowledge.geometry.n, knowledge.relations
    questions: list[Question] = []
    seen: set[frozenset[int]] = set()
    for _ in range(100 * count if n > 1 else 0):
        anchor, *others = map(int, rng.choice(n, min(n, 1 + knowledge.candidates), replace=False))
        pairs = [frozenset((anchor, other)) for other in others]
        fresh = [
            other
            for other, pair in zip(others, pairs, strict=True)
            if pair not in seen and relations.relation(anchor, other) is Relation.UNKNOWN
            and not relations.asked(anchor, other)
        ]  # fmt: skip
        if fresh:
            questions.append(Question(anchor, tuple(fresh)))
            seen.update(pairs)
        if len(questions) == count:
            break
    return questions


def most_informative(knowledge: Knowledge, count: int, rng: np.random.Generator) -> list[Question]:
    """The flagship: what is expected to put most samples into their right group.

    Questions of one call are chosen one after the other, each as if those before had got their
    most probable answers. `rng` is not needed.
    """
    relations = copy.deepcopy(knowledge.relations) if count > 1 else knowledge.relations
    questions: list[Question] = []
    while len(questions) < count:
        question, believed = _best(knowledge, relations, infer(knowledge.geometry, relations))
        if question is None:
            break
        questions.append(question)
        if len(questions) < count:
            relations.add([Answer(question, believed, "believed")])
    return questions


def _best(
    knowledge: Knowledge, relations: Relations, posterior: Posterior
) -> tuple[Question | None, tuple[Relation, ...]]:
    """The question of largest gain, in samples put right, and its most probable answer."""
    merge_gain, pair, same = _best_merge(knowledge, relations, posterior)
    point_gain, sample = _best_sample(knowledge, posterior)
    if max(merge_gain, point_gain) <= 0.0:
        return None, ()
    phi = knowledge.geometry.features
    if merge_gain >= point_gain:
        a, b = (np.flatnonzero(posterior.column == c) for c in pair)
        similarity = phi[a] @ phi[b].T
        i, j = np.unravel_index(similarity.argmax(), similarity.shape)
        believed = Relation.ALIKE if same >= 0.5 else Relation.NOT_ALIKE
        return Question(int(a[i]), (int(b[j]),)), (believed,)
    column = posterior.probability[sample, :-1].argmax()
    members = np.flatnonzero(posterior.column == column)
    member = members[(phi[members] @ phi[sample]).argmax()]
    likely = posterior.probability[sample, column] >= 0.5
    believed = Relation.ALIKE if likely else Relation.NOT_ALIKE
    return Question(int(member), (int(sample),)), (believed,)


def _best_sample(knowledge: Knowledge, posterior: Posterior) -> tuple[float, int]:
    """The unplaced sample whose group tells most about the uncertain ones.

    Its gain is how much less the posterior variance would be, each sample weighted by its
    chance to be in the wrong group.
    """
    phi = knowledge.geometry.features
    wrong = 1.0 - posterior.probability[:, :-1].max(axis=1)
    spread = phi @ posterior.covariance
    heard = spread.T @ (wrong[:, None] * spread)
    gain = np.einsum("nr,nr->n", phi @ heard, phi) / (posterior.variance + 0.01)
    gain = np.where(posterior.placed, -np.inf, gain)
    return float(gain.max()), int(gain.argmax())


def _best_merge(
    knowledge: Knowledge, relations: Relations, posterior: Posterior
) -> tuple[float, tuple[int, int], float]:
    """The two groups of unknown relation with most samples to join, in expectation."""
    best = (0.0, (0, 0), 0.0)
    mass = posterior.probability[:, :-1].sum(axis=0)
    for a in range(len(posterior.names)):
        same = _same(knowledge, relations, posterior, a)
        gain = same * np.minimum(mass, mass[a])
        b = int(gain.argmax())
        if gain[b] > best[0]:
            best = (float(gain[b]), (a, b), float(same[b]))
    return best


def _same(knowledge: Knowledge, relations: Relations, posterior: Posterior, a: int) -> np.ndarray:
    """[C] probability that group a is in truth group b, judged without the answers that made a."""
    members = np.flatnonzero(posterior.column == a)
    same = np.zeros(len(posterior.names))
    if len(members) > 16:
        return same
    phi = knowledge.geometry.features[members]
    hat = phi @ posterior.covariance @ phi.T / posterior.noise[members]
    rest = np.linalg.inv(np.eye(len(members)) - hat)
    mean = rest @ posterior.mean[members]
    variance = ((rest @ hat).diagonal() * posterior.noise[members]).mean()
    score = np.square(np.maximum(mean, 0.0)).mean(axis=0)
    group = int(posterior.names[a])
    for b, name in enumerate(posterior.names.tolist()):
        if b == a or relations.relation(group, name) is Relation.NOT_ALIKE:
            score[b] = 0.0
    news = (2 + len(posterior.names)) / (2 + posterior.placed.sum())
    return score / max(score.sum() + news * variance, 1e-300)

"""What every method is measured with: answers that are counted, and looks at its partition."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from pal_jax.active.oracles import LabelOracle, NoisyOracle
from pal_jax.active.questions import Answer, Oracle, Question, Relation


class SpentError(Exception):
    """All checks are done: the method that asked for one more answer is at its end."""


class Judge:
    """Answers "are samples i and j alike?", counts, and scores the partition at given counts.

    A method calls `show` whenever it has changed its mind. What it hands over is a function, since
    making a partition may take longer than learning from an answer, and most are never looked at.
    The partition after b answers is looked at when answer b + 1 is asked for.

    Args:
        oracle: who answers.
        labels: [n] int, the true classes.
        checks: numbers of answers at which to look, ascending; after the last one it is over.
        progress: called with the number of answers at each look.
    """

    def __init__(
        self,
        oracle: Oracle,
        labels: np.ndarray,
        checks: Sequence[int],
        progress: Callable[[int], object] = lambda answers: None,
    ):
        self.spent = 0
        self.accuracy: list[float] = []
        self._oracle = oracle
        self._labels = labels
        self._checks = checks
        self._progress = progress
        self._partition: Callable[[], np.ndarray] = lambda: np.zeros(len(labels), np.int64)

    def __call__(self, i: int, j: int) -> bool:
        self.look()
        if len(self.accuracy) == len(self._checks):
            raise SpentError
        self.spent += 1
        (answer,) = self._oracle([Question(i, (j,))])
        return answer.relations[0] is Relation.ALIKE

    def show(self, partition: Callable[[], np.ndarray]) -> None:
        """`partition()` gives the group [n] of every sample, from now on."""
        self._partition = partition

    def look(self) -> None:
        """Scores the partition if this number of answers is one of the checks."""
        done = len(self.accuracy)
        if done < len(self._checks) and self.spent == self._checks[done]:
            self.accuracy.append(accuracy(self._partition(), self._labels))
            self._progress(self.spent)

    def finish(self) -> list[float]:
        """Accuracy at every check; a method that stopped by itself keeps its last partition."""
        self.look()
        missing = len(self._checks) - len(self.accuracy)
        if missing:
            self.accuracy += [accuracy(self._partition(), self._labels)] * missing
            self._progress(self._checks[-1])
        return self.accuracy


def majority(judge: Judge, i: int, j: int, votes: int) -> bool:
    """The answer that most of `votes` questions give, an odd number; stops when that is certain."""
    balance = 0
    for left in range(votes, 0, -1):
        if abs(balance) > left:
            break
        balance += 1 if judge(i, j) else -1
    return balance > 0


def accuracy(groups: np.ndarray, labels: np.ndarray) -> float:
    """Share of all samples that the best one-to-one map of groups to classes puts right.

    Each group stands for at most one class and each class for one group, so the samples of a
    surplus group are errors, however pure it is.
    """
    _, group = np.unique(groups, return_inverse=True)
    _, label = np.unique(labels, return_inverse=True)
    table = np.zeros((group.max() + 1, label.max() + 1))
    np.add.at(table, (group, label), 1)
    return table[linear_sum_assignment(-table)].sum() / len(labels)


def oracle_of(labels: np.ndarray, flip: float, sticky: bool, seed: int) -> Oracle:
    """True labels with a share `flip` of wrong answers.

    Independent, each question by itself; `sticky`: a pair is always answered the same way.
    """
    truth = LabelOracle(labels)

    def forgetful(questions: Sequence[Question], /) -> list[Answer]:
        # To an oracle without a memory every question is the first about its pair.
        return [a for q in questions for a in NoisyOracle(truth, flip, seed)([q])]

    return forgetful if sticky else NoisyOracle(truth, flip, seed)


def checks_up_to(budget: int, at: Sequence[int]) -> list[int]:
    """0, 2, 4, ... 50, then steps of 4 %, and the counts `at`, none above `budget`."""
    checks = {0, budget, *(answers for answers in at if answers < budget)}
    answers = 0
    while answers < budget:
        checks.add(answers)
        answers += max(2, answers // 25)
    return sorted(checks)

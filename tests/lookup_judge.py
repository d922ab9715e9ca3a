"""A judge that is a lookup table."""

from collections import Counter

from noiser.errors import JudgeError
from noiser.judges.protocol import Reply


class LookupJudge:
    """Answers by a function from a clue to a word, a list of words, a Reply or a JudgeError; writes down what it was asked."""

    def __init__(self, knows, name="table:lookup"):
        self.knows, self.name = knows, name
        self.asked, self.rounds = [], []
        self.checked = 0

    @property
    def identity(self):
        return {"judge": self.name}

    @property
    def counts(self):
        return Counter(clues=len(self.asked), calls=len(set(self.asked)))

    def check(self):
        self.checked += 1

    def answer(self, clues):
        self.asked += clues
        self.rounds.append(len(clues))
        return [self._reply(self.knows(clue)) for clue in clues]

    def _reply(self, found):
        if isinstance(found, Reply | JudgeError):
            return found
        answers = (found,) if isinstance(found, str) else tuple(found)
        return Reply("ok", answers, ", ".join(answers), "lookup-1", 1)


def needing(words, gold, otherwise="nothing"):
    """Knows the answer where all these words are shown."""
    return lambda clue: gold if set(words) <= set(clue.words) else otherwise

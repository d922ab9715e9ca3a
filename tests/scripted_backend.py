"""A Backend in memory that says what a function of the messages says; run as a program, a slow judge that can be killed."""

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

from noiser.errors import JudgeError
from noiser.judges.backend import Completion
from noiser.judges.cache import ReplyCache, reply_key
from noiser.judges.judge import CachedJudge
from noiser.judges.protocol import JudgePrompt


def words_of(messages):
    """The words that a judge was shown."""
    return json.loads(messages[1]["content"].split("Tokens: ", 1)[1].split("\n")[0])


def word(answer):
    """A structured reply to a `top1` prompt."""
    return json.dumps({"word": answer})


class ScriptedBackend:
    """`speak(messages)` gives a text, a Completion (with a model of its own), a JudgeError for that call alone, or an error to raise.

    `model` is what the server says it is, and `known` whether it says so before it is asked. `asked` holds every call, `batches` how
    many came together, `trials` how often it was tried whether it is `structured`.
    """

    def __init__(self, speak, *, name="openai:scripted", model="m-1", known=False, structured=True, log=None, seconds=0.0):
        self.name, self.identity, self.counts = name, {"judge": name}, Counter()
        self.speak, self.says, self.known, self.truly = speak, model, known, structured
        self.log, self.seconds = log, seconds
        self.asked, self.batches, self.trials, self.checks = [], [], 0, 0
        self._capabilities = {}

    @property
    def model(self):
        return self.says if self.known else None

    @property
    def structured(self):
        if not self._capabilities:
            self.trials += 1
            self._capabilities = {"structured": self.truly, "limit": "max_tokens"}
        return self._capabilities["structured"]

    @property
    def capabilities(self):
        return self._capabilities

    def set_capabilities(self, capabilities):
        self._capabilities = dict(capabilities)

    def check(self):
        self.checks += 1

    def parameters(self, call):
        return {"temperature": 0, self._capabilities["limit"]: call.max_tokens, **({"schema": call.schema} if call.schema else {})}

    def complete(self, calls, on_completion):
        self.batches.append(len(calls))
        for place, call in enumerate(calls):
            self.asked.append(call)
            self.counts["calls"] += 1
            if self.log is not None:
                with self.log.open("a") as file:
                    file.write(reply_key(self.says, call.messages, self.parameters(call)) + "\n")
            time.sleep(self.seconds)
            said = self.speak(call.messages)
            if isinstance(said, JudgeError):
                self.counts["timeout"] += 1
            elif isinstance(said, Exception):
                raise said
            on_completion(place, said if isinstance(said, Completion | JudgeError) else Completion(said, "stop", self.says))


class Untouchable(ScriptedBackend):
    """Raises when anything is asked of it that may need a server: it is as good as a network that is down."""

    def __init__(self, **options):
        super().__init__(lambda _: "", **options)

    @property
    def model(self):
        return None

    @property
    def structured(self):
        raise AssertionError("tried")

    def check(self):
        raise AssertionError("checked")

    def complete(self, calls, on_completion):
        raise AssertionError("asked")


CLUES = [JudgePrompt((f"w{place}", "x"), "top1") for place in range(40)]


def moody(messages):
    """Every fifth word it refuses, every third is a sentence at first and a word when asked again."""
    place = int(words_of(messages)[0][1:])
    if place % 5 == 4:
        return "I'm sorry, I cannot do that."
    if place % 3 == 2 and len(messages) == 2:
        return "It is hard to say what comes next here."
    return word(f"answer{place}")


def main(folder, log, seconds):
    backend = ScriptedBackend(moody, log=Path(log), seconds=float(seconds))
    asker = CachedJudge(backend, ReplyCache(backend.identity, Path(folder)), "use")
    told = [reply for start in range(0, len(CLUES), 10) for reply in asker.answer(CLUES[start : start + 10])]
    print(json.dumps([[reply.status, reply.answers, reply.text, reply.model] for reply in told]))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])

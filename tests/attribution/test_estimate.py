"""An estimate is the count of `attribute` itself: equal for methods that fix their rows beforehand, below for those that search.

Mutants caught: `tokens` not multiplied by `rows.rows` (estimate.py); the clean run left out of forward_tokens; `vary=False` twice, so
that every method is exact; backward tokens counted for rows without weights; `run_perturbed` for all requested rows instead of some.
"""

import pytest

import noiser
from noiser.attribution.estimate import SAMPLE_TOKENS, count_tokens
from noiser.errors import OptionError
from noiser.lm.target import Question
from tests.conftest import byte_tokenizer, tiny

PROMPT = tuple(range(40, 60))
FIXED = ["noiser:bound=none+samples=3", "noiser:bound=rms+samples=4+pairs=true", "shapley:samples=80", "occlusion", "lime:samples=20",
         "gradient_shap", "integrated_gradients:steps=8", "input_x_gradient", "attention_rollout", "random"]  # fmt: skip
SEARCHING = [
    "noiser:samples=3",
    "noiser:bound=rms+samples=auto+tolerance=0.05",
    "noiser:bound=k_max_per_token+samples=3",
    "integrated_gradients:tolerance=0.1",
]


@pytest.fixture(scope="module")
def lm():
    return noiser.LanguageModel(tiny("llama"), byte_tokenizer())


@pytest.mark.parametrize("arguments", [{}, {"target": 7, "foil": 9}, {"continuation": (5, 6, 7)}, {"generate": 3}], ids=str)
@pytest.mark.parametrize("method", FIXED)
def test_of_a_method_that_fixes_its_rows_it_is_the_cost(lm, method, arguments):
    expected = noiser.attribute(lm, PROMPT, method, **arguments)
    found = noiser.estimate(lm, PROMPT, method, **arguments)
    assert (found.forward_tokens, found.backward_tokens) == (expected.cost.forward_tokens, expected.cost.backward_tokens)
    assert found.exact
    assert found.tokens == len(expected.tokens)
    assert found.seconds > 0


@pytest.mark.parametrize("method", SEARCHING)
def test_of_a_method_that_searches_it_is_the_least(lm, method):
    found = noiser.estimate(lm, PROMPT, method)
    assert not found.exact
    assert len(PROMPT) < found.forward_tokens <= noiser.attribute(lm, PROMPT, method).cost.forward_tokens


def test_little_runs(lm):
    before = lm.token_counter.forward_tokens
    found = noiser.estimate(lm, PROMPT * 3, "noiser:bound=none+samples=100")
    assert found.forward_tokens > 100_000
    assert lm.token_counter.forward_tokens - before < 60 + 101 * 60 + SAMPLE_TOKENS
    before = lm.token_counter.forward_tokens
    assert count_tokens(lm, PROMPT, noiser.methods.parse("occlusion"), Question()) == 20 * 21 // 2
    assert lm.token_counter.forward_tokens - before == 20


def test_inseq_is_refused(lm):
    with pytest.raises(OptionError, match=r"inseq:lime runs inside Inseq.*no estimate"):
        noiser.estimate(lm, PROMPT, "inseq:lime")

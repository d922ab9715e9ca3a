"""Out of memory costs time, never a number: batches are halved down to one row, and the scores stay what they were.

Mutants caught: `halves` losing or doubling a half of the members or of the rows; the anchor counted as a draw where a member's
rows come in parts; `Budget.learn` not called, or forgetting; `raise` without `is_out_of_memory`; `return True` there;
`fail` marking every member of the call; out-of-memory in the clean run or while the layout is chosen not caught, or taken
for a fault of the layout; `logits_to_keep` left out, or all columns kept; `budget.rows` or `budget.tokens` not looked at.
"""

import numpy as np
import pytest
import torch

import noiser
from noiser.errors import DeviceMemoryError, ModelError
from noiser.lm.devices import slow_bfloat16
from noiser.lm.forward import Full, Packed
from tests.conftest import tiny

PROMPT = "0123456789"
ONE_ROW = len(PROMPT)


class Limit:
    """A device on which more than `most` tokens in one call do not fit. `most` may change; None is no limit."""

    def __init__(self, model, most=None, error=None):
        self.most, self.failed, self.sizes = most, 0, []
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, model, args, kwargs):
        embeds = kwargs.get("inputs_embeds")
        size = kwargs["input_ids"].numel() if embeds is None else embeds.shape[0] * embeds.shape[1]
        self.sizes.append(size)
        if self.most is not None and size > self.most:
            self.failed += 1
            raise self.error


@pytest.fixture
def lm(tokenizer):
    return noiser.LanguageModel(tiny("llama"), tokenizer)


@pytest.fixture(scope="module")
def expected(tokenizer):
    """What a device without limits gives."""
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    return {
        (search, text): noiser.attribute(lm, text, search=search)
        for search in ("fast", "exact")
        for text in (PROMPT, PROMPT[:8], PROMPT[:9])
    }


def agrees(found, expected):
    assert found.notes["k"] == expected.notes["k"]
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


@pytest.mark.parametrize("prefix", [True, False], ids=["packed", "full"])
@pytest.mark.parametrize("search", ["fast", "exact"])
@pytest.mark.parametrize("most", [300, 130, 60, 37, 21, ONE_ROW])
def test_scores_are_the_same_however_little_fits(tokenizer, expected, most, search, prefix):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer, prefix=prefix)
    limit = Limit(lm.model, most)
    found = noiser.attribute(lm, PROMPT, search=search)
    assert limit.failed > 0, "the limit must have been hit"
    agrees(found, expected[search, PROMPT])


def test_the_layout_does_not_depend_on_memory(tokenizer):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    Limit(lm.model, ONE_ROW)
    assert noiser.attribute(lm, PROMPT).notes["layout"] == "packed"


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_a_cpu_says_it_in_other_words(lm, expected, error):
    limit = Limit(lm.model, 130, error)
    agrees(noiser.attribute(lm, PROMPT), expected["fast", PROMPT])
    assert limit.failed > 0


def test_the_budget_is_remembered(lm):
    noiser.attribute(lm, PROMPT, "noiser:bound=none")
    limit = Limit(lm.model, 60)
    noiser.attribute(lm, PROMPT, "noiser:bound=none")
    first, limit.failed = limit.failed, 0
    noiser.attribute(lm, PROMPT[::-1], "noiser:bound=none")
    assert first >= 3
    assert limit.failed <= first // 3


def test_a_row_that_does_not_fit_fails_its_own_prompt_only(lm, expected):
    """The clean runs fit here; one perturbed row of the middle prompt does not."""
    noiser.attribute(lm, PROMPT)
    limit = Limit(lm.model)
    clean_run = lm.forward

    def unlimited(*args, **kwargs):
        limit.most = None
        try:
            return clean_run(*args, **kwargs)
        finally:
            limit.most = 12

    lm.forward = unlimited
    first, middle, last = noiser.attribute_many(lm, [PROMPT[:8], "x" * 20, PROMPT[:9]], errors="return")
    assert isinstance(middle.error, DeviceMemoryError)
    assert middle.index == 1
    agrees(first, expected["fast", PROMPT[:8]])
    agrees(last, expected["fast", PROMPT[:9]])


@pytest.mark.parametrize("known", [True, False], ids=["after another prompt", "at once"])
def test_a_clean_run_that_does_not_fit_fails_its_own_prompt_only(lm, expected, known):
    if known:
        noiser.attribute(lm, PROMPT)
    Limit(lm.model, 12)
    first, middle, last = noiser.attribute_many(lm, [PROMPT[:8], "x" * 20, PROMPT[:9]], errors="return")
    assert isinstance(middle.error, DeviceMemoryError)
    agrees(first, expected["fast", PROMPT[:8]])
    agrees(last, expected["fast", PROMPT[:9]])


def test_a_prompt_that_does_not_fit_raises_when_alone(lm):
    Limit(lm.model, 12)
    with pytest.raises(DeviceMemoryError, match="shorten the prompt"):
        noiser.attribute(lm, "x" * 20)


def test_clean_runs_that_do_not_fit_together_run_apart(lm, expected):
    noiser.attribute(lm, PROMPT)
    limit = Limit(lm.model, 12)
    results = list(noiser.attribute_many(lm, [PROMPT[:8], PROMPT, PROMPT[:9]]))
    assert limit.failed > 0
    for found in results:
        agrees(found, expected["fast", found.prompt.text])


@pytest.mark.parametrize("error", [RuntimeError("the user's own"), ValueError("the user's own")])
@pytest.mark.parametrize("after", [0, 100], ids=["in the clean run", "in perturbed rows"])
def test_another_error_is_not_swallowed(lm, error, after):
    noiser.attribute(lm, PROMPT)
    limit = Limit(lm.model, after or 1, error)
    with pytest.raises(ModelError, match="the user's own"):
        noiser.attribute(lm, PROMPT)
    assert limit.failed == (1 if after else 2), "a clean run is tried without a gradient once"


@pytest.mark.parametrize("prefix", [True, False], ids=["packed", "full"])
def test_logits_are_made_of_the_last_positions_only(tokenizer, monkeypatch, prefix):
    """What enters the output layer is counted against what the engine says it runs: one position for each row and member."""
    lm = noiser.LanguageModel(tiny("llama"), tokenizer, prefix=prefix)
    prompts = [PROMPT, PROMPT[:8], PROMPT[::-1]]
    noiser.attribute(lm, PROMPT)  # the trial of the model needs all logits of a few tokens
    asked, over, made = [len(prompts)], [], []

    def counted(logits):
        def count(self, model, batch, edited):
            asked[0] = len(batch.rows) * len(batch.members)
            try:
                return logits(self, model, batch, edited)
            finally:
                asked[0] = len(prompts)

        return count

    def enter(module, args):
        positions = args[0].shape[:-1].numel()
        made.append(positions)
        if positions > asked[0]:
            over.append((positions, asked[0]))

    monkeypatch.setattr(Packed, "logits", counted(Packed.logits))
    monkeypatch.setattr(Full, "logits", counted(Full.logits))
    lm.model.lm_head.register_forward_pre_hook(enter)
    list(noiser.attribute_many(lm, prompts))
    assert max(made) > len(prompts), "batches of perturbed rows must have been seen"
    assert not over


@pytest.mark.parametrize("prefix", [True, False], ids=["packed", "full"])
def test_no_batch_is_larger_than_the_budget(tokenizer, expected, prefix):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer, token_budget=50, prefix=prefix)
    lm.budget.rows = 7
    lm.clean([lm.prompt(PROMPT[:8])])  # the trial of the model needs all logits of a few tokens
    limit, rows = Limit(lm.model), []
    lm.model.lm_head.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[:-1].numel()))
    agrees(noiser.attribute(lm, PROMPT[:8]), expected["fast", PROMPT[:8]])
    assert max(limit.sizes) <= 50
    assert max(rows) <= 7


@pytest.mark.parametrize(
    ("dtype", "device", "capabilities", "says"),
    [
        (torch.bfloat16, "cpu", {"avx2": True, "avx512_bf16": False, "amx_bf16": False}, True),
        (torch.bfloat16, "cpu", {"avx2": True, "avx512_bf16": True}, False),
        (torch.bfloat16, "cpu", {}, False),
        (torch.bfloat16, "cuda", {"avx2": True}, False),
        (torch.float32, "cpu", {"avx2": True}, False),
    ],
)
def test_bfloat16_without_instructions_for_it_is_said(dtype, device, capabilities, says):
    """Mutants: the name of a capability taken for the capability; said of float32, of a GPU, or where nothing is known."""
    assert bool(slow_bfloat16(dtype, torch.device(device), capabilities)) == says

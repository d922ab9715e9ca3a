"""Prompts that a model hardly ever saw get a warning; ordinary ones get none.

Mutants are named in each test.
"""

import subprocess
import sys

import pytest
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

import noiser
from noiser.errors import OptionError
from noiser.lm.tokenizer import prompt_warnings
from tests.conftest import byte_tokenizer, tiny
from tests.tokenizers_built_here import SPECIAL, Characters, byte_level, metaspace, tokens, word_piece

CHAT = "{% for m in messages %}{{ '<s>' if loop.first else '' }}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}assistant:"


def warnings_of(tokenizer, source):
    its = tokens(tokenizer)
    return list(prompt_warnings(its, source, its.prompt(source)))


def with_bos():
    """Byte-level, with `<s>` in front."""
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


@pytest.mark.parametrize("make", [byte_level, metaspace, with_bos, Characters])
@pytest.mark.parametrize("text", ["the cat sat", " the", "the\n", "the (", "hello there\n\n", "<s"])
def test_ordinary_prompts_get_no_warning(make, text):
    """Mutant: any of the conditions left out."""
    assert warnings_of(make(), text) == []


def test_an_unfinished_word_is_no_loose_space():
    """Mutant: the last character not looked at. `c` and `a` become one token here."""
    pieces = {"<pad>": 0, "<s>": 1, "</s>": 2, "c": 3, "a": 4, "ca": 5}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab=pieces, merges=[("c", "a")])), **SPECIAL)
    assert tokens(tokenizer).ids("ca") == (5,)
    assert warnings_of(tokenizer, "ac") == []


@pytest.mark.parametrize("make", [metaspace, with_bos])
def test_a_beginning_token_twice(make):
    """Mutant: `input_ids[:1] == (bos,)` (every prompt), or only ids looked at."""
    (warning,) = warnings_of(make(), "<s>the cat")
    assert warning.startswith("the prompt begins with '<s>' twice")
    assert [*warnings_of(make(), (1, 1, 40))] == [warning]
    tokenizer = make()
    tokenizer.chat_template = "<s>" + CHAT
    assert warnings_of(tokenizer, [{"role": "user", "content": "the cat"}]) == [warning]
    tokenizer.chat_template = CHAT
    assert warnings_of(tokenizer, [{"role": "user", "content": "the cat"}]) == []


def test_an_end_token_that_the_tokenizer_adds():
    """Mutant: the text not looked at (a spelled-out end token is the user's own)."""
    (warning,) = warnings_of(word_piece(), "the cat")
    assert warning.startswith("the tokenizer adds '</s>' behind the prompt")
    assert warnings_of(byte_level(), "the cat</s>") == []
    assert warnings_of(word_piece(), (40, 2)) == []


@pytest.mark.parametrize("make", [byte_level, metaspace])
def test_a_space_at_the_end_that_the_next_word_would_take(make):
    """Mutant: the last character not looked at, or `tokens.ids` of the text without the letter."""
    (warning,) = warnings_of(make(), "the cat ")
    assert warning.startswith("the prompt ends in a space, which the tokenizer joins to the next word")
    tokenizer = make()
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
    open_answer = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "the "}]
    assert warnings_of(tokenizer, open_answer) == [warning]


@pytest.mark.parametrize("make", [Characters, byte_tokenizer])
def test_a_space_that_is_a_token_of_its_own_is_no_trap(make):
    """Mutant: any space at the end warns. Here a word never takes the space before it."""
    assert warnings_of(make(), "the cat ") == []


def test_ids_without_a_token_are_explained_with_a_warning():
    """Mutants: `_check_ids` against `size`; `unknown_id_warnings` without the target's ids; the model's own prediction warned of."""
    lm = noiser.load(tiny("llama"), byte_tokenizer())
    result = noiser.attribute(lm, (70, 280, 71), "occlusion")
    (warning,) = result.notes["warnings"]
    assert warning.startswith("the tokenizer has no token for id 280; the model's embedding has it")
    assert result.prompt.input_ids == (70, 280, 71)
    (warning,) = noiser.attribute(lm, "abc", "occlusion", target=290).notes["warnings"]
    assert "no token for id 290" in warning
    generated = noiser.attribute(lm, "abc", "occlusion", generate=8)
    assert generated.notes["warnings"] == []


def test_a_gap_in_the_vocabulary_is_no_reason_to_refuse_a_text():
    """Mutant: `_check_ids` against the number of tokens: the tokenizer's own ids go beyond it."""
    gap = tokens(byte_level(), None)
    gap.size = 50
    assert max(gap.prompt("the cat").input_ids) >= 50
    assert list(prompt_warnings(gap, "the cat", gap.prompt("the cat"))) == []


def test_a_prompt_made_before_keeps_its_warnings():
    """Mutant: `LanguageModel.prompt` without the warnings, or with each of them twice."""
    lm = noiser.load(tiny("llama"), byte_tokenizer())
    prompt = lm.prompt((70, 280))
    assert len(prompt.warnings) == 1
    assert lm.prompt(prompt).warnings == prompt.warnings
    assert noiser.attribute(lm, prompt, "uniform").notes["warnings"] == list(prompt.warnings)


def test_one_text_is_no_list_of_prompts():
    """Mutant: the check left out: each letter is explained."""
    lm = noiser.load(tiny("llama"), byte_tokenizer())
    with pytest.raises(OptionError, match=r"a list of prompts; got one prompt: put it into a list, or call attribute"):
        noiser.attribute_many(lm, "one text")


BARE = """
import noiser
from transformers import LlamaConfig, LlamaForCausalLM
model = LlamaForCausalLM(LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1))
for function in (noiser.attribute, noiser.attribute_many, noiser.compare, noiser.evaluate, noiser.check, noiser.answer):
    try:
        function(model, ["abc"])
    except noiser.NoiserError as error:
        print(error)
try:
    noiser.attribute_many(object.__new__(noiser.LanguageModel), [{"role": "user", "content": "hello"}])
except noiser.NoiserError as error:
    print(error)
"""


def test_a_model_of_transformers_says_what_to_write():
    """Mutant: `check_language_model` left out of one function. In a process of its own: here the tests check types."""
    ended = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, check=False)
    message = "this wants a model that noiser has loaded: lm = noiser.load(model, tokenizer); got LlamaForCausalLM"
    chat = "attribute_many takes a list of prompts; got a chat: put it into a list, or call attribute"
    assert ended.stdout.splitlines() == [*[message] * 6, chat], ended.stderr[-500:]

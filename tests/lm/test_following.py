"""A text that follows a prompt: prompt and text decode to themselves, whatever the tokenizer puts in front of a text of its own."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import noiser
from noiser.data import Row
from noiser.errors import OptionError, PromptError
from noiser.evaluation import evaluate
from noiser.evaluation.answer import answer_ids
from noiser.experiments.screening import screen
from noiser.lm import following
from noiser.lm.following import follow, with_space
from noiser.lm.tokenizer import Tokens
from tests.conftest import tiny
from tests.tokenizers_built_here import CORPUS, SPECIAL, Characters, byte_level, tokens, word_piece

WORDS = [*CORPUS, "The capital of France is Paris ( London )"] * 3
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
HEADER = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"


def llama_2(template=None):
    """A normalizer puts U+2581 in front of every text; bytes for unknown characters."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    pieces = ["<unk>", "<s>", "</s>", *BYTES]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=pieces, show_progress=False, initial_alphabet=["\u2581"])
    backend.train_from_iterator([*(word for line in WORDS for word in line.split()), *WORDS], trainer)
    plain = json.loads(backend.to_str()) | {"pre_tokenizer": None}
    plain["added_tokens"] = [token for token in plain["added_tokens"] if not token["content"].startswith("<0x")]
    backend = Tokenizer.from_str(json.dumps(plain))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", chat_template=template)


def metaspace(scheme, template=None):
    """U+2581 in front of every text (always), of the first (first), or of none (never)."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    pieces = [*SPECIAL.values(), "<unk>", *BYTES]
    backend.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=420, special_tokens=pieces, show_progress=False))
    backend = Tokenizer(Tokenizer.from_str(backend.to_str()).model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([*SPECIAL.values()])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **SPECIAL)


def unigram():
    """As in T5: the most probable pieces, so another text in front may change all of them."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    special = [*SPECIAL.values(), "<unk>"]
    alphabet = [chr(code) for code in range(33, 127)] + ["\n"]
    trainer = trainers.UnigramTrainer(
        vocab_size=260, special_tokens=special, unk_token="<unk>", initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(WORDS, trainer)
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **SPECIAL)


BUILT = {
    "byte-level": byte_level,
    "llama 2": llama_2,
    "always": lambda: metaspace("always"),
    "first": lambda: metaspace("first"),
    "never": lambda: metaspace("never"),
    "unigram": unigram,
    "slow": Characters,
}
READ = {name: tokens(build()) for name, build in BUILT.items()}


def spelled(own: Tokens, ids) -> str:
    return b"".join(map(own.raw, ids)).decode()


TEXTS = st.text(st.sampled_from("Paris cthe(1\n "), min_size=1, max_size=9)


@pytest.mark.parametrize("name", BUILT)
@settings(max_examples=30, deadline=None)
@given(before=TEXTS.filter(str.strip), text=TEXTS.filter(str.strip))
def test_prompt_and_text_are_spelled_by_their_ids(name, before, text):
    """Mutant: `_is_exact` always true: the first reading counts, which has U+2581 in front with llama 2."""
    own = READ[name]
    prompt = own.prompt(before)
    ids = follow(own, prompt, text).ids
    assert spelled(own, ids) == text
    again = own.prompt(list(prompt.input_ids))
    assert spelled(own, follow(own, again, text).ids) == text, "also behind a prompt of ids"


@pytest.mark.parametrize("name", ["llama 2", "always", "first"])
@pytest.mark.parametrize(("before", "text"), [("The capital of France is", " Paris"), ("is\n", "Paris"), ("is (", "Paris")])
def test_the_ids_are_those_of_both_tokenised_together(name, before, text):
    """Mutant: `tokens.ids(before + text)` without `before`: nothing is known of the border, and both readings are said."""
    own = READ[name]
    prompt, both = own.prompt(before), own.prompt(before + text)
    assert follow(own, prompt, text).ids == both.input_ids[len(prompt) :]
    assert follow(own, prompt, text).warning == ""


def test_byte_level_ids_are_those_of_the_text_by_itself():
    """Mutant: `_fewest` before `joint.rest`. Numbers of byte-level models stay what they were."""
    own = READ["byte-level"]
    for before, text in [
        ("The king is", " the cat"),
        ("a: ", "the cat"),
        ("ot", "her"),
        ("\n", "the"),
        ("a  ", "  the"),
        ("a: ", "oeathe"),
    ]:
        assert follow(own, own.prompt(before), text).ids == own.ids(text)


@pytest.mark.parametrize("name", ["byte-level", "llama 2", "always"])
def test_a_border_that_merges_gives_both_readings(name):
    """Mutant: `_Joint(merged=both[kept:])` without `merged`, so nothing is said."""
    own = READ[name]
    found = follow(own, own.prompt("the capital of: "), "the")
    assert spelled(own, found.ids) == "the"
    assert "joins the end of the prompt and 'the' to ' the'" in found.warning
    assert "'the' is read as 't" in found.warning


def test_word_pieces_stay_those_of_the_whole_text():
    """Mutant: `spells_spaces` always true: `cat` would be `##c`, `##at`, because its token has a space in its text."""
    own = tokens(word_piece())
    prompt = own.prompt("the theatre, the")
    assert [own.surface(i) for i in follow(own, prompt, "re").ids] == ["re"]
    assert [own.surface(i) for i in follow(own, prompt, " Cat").ids] == [" cat"]
    assert [own.surface(i) for i in follow(own, own.prompt("the "), "cat").ids] == [" cat"]


def test_without_any_anchor_the_fewest_tokens_that_are_no_single_bytes_are_taken(monkeypatch):
    """Mutant: `vocabulary` without its order: `<0x50>` instead of `P`."""
    monkeypatch.setattr(following, "ANCHORS", ())
    own = READ["llama 2"]
    ids = follow(own, own.prompt("A: "), "Parsh").ids
    assert ids == own.prompt("\nParsh").input_ids[-len(ids) :]
    assert "<0x" not in "".join(own.tokenizer.convert_ids_to_tokens(list(ids)))


def test_ids_are_taken_as_they_are_and_what_has_none_is_refused():
    """Mutant: `token_ids` without its check."""
    own = READ["llama 2"]
    assert follow(own, own.prompt("the"), (7, 9)).ids == (7, 9)
    with pytest.raises(PromptError, match="no tokens in ''"):
        follow(own, own.prompt("the"), "")


def chat(own, *contents):
    return own.prompt([{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)])


@pytest.mark.parametrize("build", [llama_2, lambda template: metaspace("first", template)])
def test_a_space_is_put_before_a_word_unless_a_text_begins_there(build):
    """Mutant: `begins_anew` returns bool(prompt.turns): an answer under way would go on without a space."""
    own = tokens(build(HEADER))
    assert with_space(own.prompt("The capital is"), " Paris ") == " Paris"
    assert with_space(own.prompt("A: "), "Paris") == with_space(own.prompt("A:\n"), "Paris") == "Paris"
    assert with_space(chat(own, "the capital?"), "Paris") == "Paris"
    assert with_space(chat(own, "the capital?", "It is"), "Paris") == " Paris"
    with pytest.raises(OptionError, match="must be a word"):
        with_space(own.prompt("a"), " ")
    found = follow(own, chat(own, "the capital?"), "Paris")
    assert (spelled(own, found.ids), found.warning) == ("Paris", "")


@pytest.fixture(scope="module")
def speaker():
    """A model that says ` Paris` wherever it is asked, as one token."""
    tokenizer = llama_2(HEADER)
    model = tiny("llama", vocab_size=len(tokenizer))
    (paris,) = follow(tokens(tokenizer), tokens(tokenizer).prompt("The capital is"), " Paris").ids
    model.lm_head = torch.nn.Linear(model.config.hidden_size, len(tokenizer))
    with torch.no_grad():
        model.lm_head.weight.mul_(0.01)
        model.lm_head.bias[paris] = 9.0
    return noiser.LanguageModel(model.eval(), tokenizer)


PROMPT = "The capital of France is"


def test_the_models_own_word_is_found_with_its_own_probability(speaker):
    """Mutant: `_resolve_tokens` given `tokens.ids(target)`, two tokens of probability 1e-5; likewise foil and continuation."""
    own = noiser.attribute(speaker, PROMPT, "uniform").target
    named = noiser.attribute(speaker, PROMPT, "uniform", target=" Paris").target
    assert own.prob > 0.9
    assert (named.token_ids, named.prob, named.rank) == (own.token_ids, own.prob, 0)
    foil = noiser.attribute(speaker, PROMPT, "uniform", target=7, foil=" Paris").target.foil
    assert foil is not None and foil.token_ids == own.token_ids
    answer = noiser.attribute(speaker, PROMPT, "uniform", continuation=" Paris Paris")
    assert [target.token_ids for target in answer.targets] == [own.token_ids] * 2


def test_warnings_name_the_word_with_its_space_and_a_border_that_merges(speaker):
    """Mutant: `target_warnings` without `joined`."""
    (warning,) = noiser.attribute(speaker, PROMPT, "uniform", target="Paris").notes["warnings"]
    assert "' Paris' with its leading space" in warning
    warnings = noiser.attribute(speaker, "A: ", "uniform", target="Paris").notes["warnings"]
    assert any("joins the end of the prompt" in warning for warning in warnings)


def test_rows_are_answered_and_explained_by_the_same_tokens(speaker):
    """Mutant: `readings` of one reading, or of ids by themselves: no row counts as answered."""
    chat_row = [{"role": "user", "content": "the capital?"}]
    rows = [Row("bare", PROMPT, "Paris"), Row("spaced", PROMPT, " Paris"), Row("chat", chat_row, "Paris"), Row("trailing", "A: ", "Paris")]
    paris = noiser.attribute(speaker, PROMPT, "uniform").target.token_ids
    assert [(row.answered, row.target_ids) for row in screen(speaker, rows, "word")] == [(True, paris)] * 4
    spelled_out = follow(speaker.tokens, speaker.prompt(chat_row), "Paris").ids
    assert len(spelled_out) == 2
    by_none = [row.target_ids for row in screen(speaker, rows, "none")]
    assert by_none == [paris, paris, spelled_out, spelled_out]
    assert [answer_ids(speaker, speaker.prompt(row.prompt), row.target) for row in rows] == by_none
    assert next(screen(speaker, [Row("other", PROMPT, "London")], "word")).reason == "said otherwise"


def test_evaluation_reads_targets_as_a_run_does(speaker):
    """Mutant: `with_space` left out of `_tasks`: ` Paris` and `Paris` would be two targets."""
    values = [
        evaluate(speaker, [{"prompt": PROMPT, "target": target}], ["occlusion"], ["log_odds"], controls=[]).records[0].value
        for target in (None, " Paris", "Paris")
    ]
    assert values[0] == values[1] == values[2] is not None

"""Models behind a server: equal to the same model here, and clear errors for what a server cannot or does not do.

The server is ours: it computes with transformers and answers as vLLM does. tests/lm/test_vllm.py asks the real one.
"""

import json
import logging
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import noiser
from noiser.errors import ModelError, ModelFailedError, NonFiniteError, OptionError, PromptError, RunError, Stopped
from noiser.lm.load import identify
from noiser.lm.perturbation import AddNoise, Interpolate, PerturbedRows
from noiser.lm.quantity import token_logit_fn
from noiser.lm.served.address import parse_address
from noiser.lm.served.client import POLICY
from noiser.lm.served.completions import Distribution
from noiser.lm.served.proof import Rival, Unproved, find_rival
from noiser.lm.target import Question
from tests.conftest import byte_tokenizer, tiny
from tests.served_server import FakeVllm, cut, empty, page, reset, status

PROMPT = "why so?"
CLOSE = 2e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    tiny("llama").save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def local(folder):
    return noiser.load(str(folder))


@pytest.fixture
def server(local):
    with FakeVllm(local.model) as fake:
        yield fake


def served(fake, folder, **options):
    lm = noiser.load(fake.address, str(folder), **options)
    lm.client._policy = replace(POLICY, first_wait=0.01, max_wait=0.05, total_timeout=20.0)
    return lm


@pytest.mark.parametrize(
    "method",
    ["noiser:samples=4", "noiser:bound=none+samples=4", "noiser:bound=rms+samples=4", "noiser:bound=k_max_per_token+samples=3+steps=4",
     "occlusion", "occlusion:unit=word", "lime:samples=40", "shapley:samples=40", "recency"],
)  # fmt: skip
def test_scores_are_those_of_the_model_here(server, folder, local, method):
    """Mutants: an end off by one in `Probe.embeds`; the anchor taken for a draw; the rest of the probability on a known token."""
    here, there = noiser.attribute(local, PROMPT, method), noiser.attribute(served(server, folder), PROMPT, method)
    assert here.notes.get("k") == there.notes.get("k")
    assert np.abs(here.scores - there.scores).max() < CLOSE
    assert there.targets[0].rank == here.targets[0].rank and there.targets[0].prob == pytest.approx(here.targets[0].prob, abs=CLOSE)


@pytest.mark.parametrize(
    "asked",
    [Question("x"), Question("xyz", quantity="log_prob"), Question("x", "y"), Question("x", "yz"), Question("x", "y", quantity="log_odds"),
     Question(quantity="hellinger"), Question(quantity="jsd"), Question(continuation="abc"), Question(generate=3),
     Question(continuation="abcd", span=(1, 3))],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("method", ["occlusion", "noiser:samples=3+steps=4"])
def test_every_target_is_read_as_here(server, folder, local, method, asked):
    """Mutants: `reads` without the foil; the second end of a target of two tokens read at the first."""
    here, there = (noiser.attribute(lm, PROMPT, method, asked) for lm in (local, served(server, folder)))
    assert [target.token_ids for target in here.targets] == [target.token_ids for target in there.targets]
    assert np.abs(here.scores - there.scores).max() < CLOSE


def test_metrics_are_those_of_the_model_here(server, folder, local):
    metrics = ["soft_ns:masks=4", "soft_nc:masks=4", "comprehensiveness:operator=delete", "log_odds", "aopc:operator=zero"]
    tables = [
        noiser.evaluate(lm, [PROMPT, "and now"], ["occlusion"], metrics, controls=("random",)) for lm in (local, served(server, folder))
    ]
    for here, there in zip(tables[0].records, tables[1].records, strict=True):
        assert (here.metric, here.method, here.status) == (there.metric, there.method, there.status)
        assert here.value == pytest.approx(there.value, abs=2e-4)


def test_many_prompts_share_requests(server, folder, local):
    prompts = ["one", "two!", "three"]
    lm = served(server, folder, max_connections=2)
    results = list(noiser.attribute_many(lm, prompts, "occlusion"))
    assert lm.client.counts["requests"] < 12
    for prompt, result in zip(prompts, results, strict=True):
        assert np.abs(result.scores - noiser.attribute(local, prompt, "occlusion").scores).max() < CLOSE


def test_cost_and_dry_run_count_whole_rows(server, folder):
    lm = served(server, folder)
    cost = noiser.estimate(lm, PROMPT, "occlusion")
    result = noiser.attribute(lm, PROMPT, "occlusion")
    assert cost.exact and cost.forward_tokens == result.cost.forward_tokens == 7 + 7 * 7
    assert "full: the server batches rows" in result.notes["layout"]
    assert noiser.estimate(lm, PROMPT, "lime:samples=2000").rows == 2000


@pytest.mark.parametrize("family", ["gemma3_text", "gemma2", "qwen2"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_scale_of_embeddings_is_found_out(tmp_path, family, inside):
    """Gemma multiplies embeddings by the root of their size. A server may take them before it or after it. Mutant: `factor` not used."""
    model = tiny(family)
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    local = noiser.load(str(tmp_path))
    with FakeVllm(local.model, scale=8.0 if inside else 1.0) as fake:
        lm = served(fake, tmp_path)
        here, there = noiser.attribute(local, PROMPT, "occlusion"), noiser.attribute(lm, PROMPT, "occlusion")
    assert lm._factor == pytest.approx(1 / 8 if inside else 1)
    assert np.abs(here.scores - there.scores).max() < CLOSE
    assert torch.equal(lm.embeddings([5, 6]), local.embeddings([5, 6]))


@pytest.mark.parametrize("method", ["integrated_gradients", "input_x_gradient", "gradient_shap", "attention_rollout", "deeplift"])
def test_methods_that_need_more_say_so_before_anything_is_sent(server, folder, method):
    lm = served(server, folder)
    with pytest.raises(OptionError, match=r"runs behind a server.*use noiser, occlusion, lime or shapley"):
        noiser.attribute(lm, PROMPT, method)
    assert not server.headers and not lm.client.counts


def test_a_function_and_the_models_own_weights_are_refused(server, folder):
    lm = served(server, folder)
    with pytest.raises(OptionError, match="a server gives probabilities: name tokens"):
        noiser.attribute(lm, PROMPT, "occlusion", lambda logits: logits[5])
    with pytest.raises(ModelError, match="runs behind a server, and this needs the model itself"):
        _ = lm.model


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"embeds": False}, r"Start vLLM with --enable-prompt-embeds"),
        ({"max_logprobs": 20}, r"Start vLLM with --max-logprobs -1"),
        ({"processed": True}, r"start vLLM with --logprobs-mode raw_logprobs"),
        ({"name": "other"}, r"has other, and not tiny: end the address with one of its names"),
    ],
)
def test_a_server_that_was_started_in_another_way_is_refused_with_the_flag(local, folder, options, text):
    with FakeVllm(local.model, **options) as fake:
        lm = noiser.load(f"vllm:http://127.0.0.1:{fake.port}/tiny", str(folder))
        with pytest.raises(ModelError, match=text):
            noiser.attribute(lm, PROMPT, "occlusion")


def test_another_model_than_the_tables_is_refused(folder):
    """Mutants: the trial compares a distribution with itself; its tolerance is 1."""
    with FakeVllm(tiny("llama", seed=1)) as fake, pytest.raises(ModelError, match="--tokenizer has to be the model that the server runs"):
        noiser.attribute(served(fake, folder), PROMPT, "occlusion")
    with FakeVllm(tiny("llama", hidden_size=32)) as fake, pytest.raises(ModelError, match=r"hidden_size 64 does not match.*32"):
        noiser.attribute(served(fake, folder), PROMPT, "occlusion")


def test_nobody_there(folder, monkeypatch):
    monkeypatch.setattr("noiser.lm.served.client.CONNECT_TIMEOUT", 0.3)
    lm = noiser.load("vllm:http://127.0.0.1:9/tiny", str(folder))
    with pytest.raises(RunError, match="does not answer: no connection"):
        noiser.attribute(lm, PROMPT, "occlusion")


def test_a_prompt_that_is_too_long_for_the_server(tmp_path):
    model = tiny("llama", max_position_embeddings=128)
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with FakeVllm(model) as fake, pytest.raises(PromptError, match="64 tokens and the server takes 63"):
        noiser.attribute(served(fake, tmp_path), "x" * 64, "occlusion")


def test_the_argmax_of_a_mean_is_proved():
    """Against all probabilities. Mutants: the bound of a token that one draw does not show left out; `>=` against the bound turned."""
    random, proofs = np.random.default_rng(0), 0
    for case in range(300):
        draws = random.dirichlet(np.full(12, 0.3 + case % 3), size=4)
        base = int(random.integers(12))
        mean = draws.mean(0)
        mean[base] = -1
        known = [_top(draw, 2 + case % 9) for draw in draws]
        found, asked = find_rival(known, base), 0
        while isinstance(found, Unproved):
            asked += 1
            for index, tokens in found.missing.items():
                known[index].logprobs |= {token: float(np.log(draws[index][token])) for token in tokens}
            if not found.missing:
                known = [_top(draw, min(12, 2 * len(each.logprobs))) for draw, each in zip(draws, known, strict=True)]
            found = find_rival(known, base)
        proofs += not asked
        assert found.token == int(mean.argmax()) and found.prob == pytest.approx(mean.max())
    assert 50 < proofs < 300, "some proofs need one look, some more"


def test_a_token_that_no_draw_shows_may_be_the_best():
    """It is second everywhere, behind another token each time. Mutant: the bound of tokens outside every top K left out."""
    draws = np.full((4, 10), 0.1 / 8)
    draws[range(4), range(1, 5)], draws[:, 9] = 0.5, 0.4
    assert find_rival([_top(draw, 1) for draw in draws], 0) == Unproved({})
    assert find_rival([_top(draw, 3) for draw in draws], 0) == Rival(pytest.approx(0.4), 9)


def _top(draw, count):
    order = np.argsort(-draw)[:count]
    bound = -np.inf if count == len(draw) else float(np.log(draw[order[-1]]))
    return Distribution({int(token): float(np.log(draw[token])) for token in order}, bound)


def test_a_tie_goes_to_the_lowest_id():
    draws = [Distribution(whole=torch.tensor([0.4, 0.3, 0.3]).log())] * 2
    assert find_rival(draws, 0) == Rival(pytest.approx(0.3), 1)
    known = [Distribution({token: float(np.log(0.3)) for token in (2, 1, 0)}, -3.0)]
    assert find_rival(known, 0) == Rival(pytest.approx(0.3), 1)


def test_a_proof_that_fails_asks_for_more(server, folder, local, monkeypatch):
    """With the single most probable token at first, nearly every proof fails once. Mutant: K is not doubled (an endless loop)."""
    monkeypatch.setattr("noiser.lm.served.rows.FIRST_TOP", 1)
    here, there = (noiser.attribute(lm, PROMPT, "noiser:samples=4") for lm in (local, served(server, folder)))
    assert here.notes["k"] == there.notes["k"] and here.notes["first_to_flip"] == there.notes["first_to_flip"]
    assert np.abs(here.scores - there.scores).max() < CLOSE


FAULTS = [status(500), status(503), status(429, Retry_After="0"), reset, page, empty, cut]


def test_five_hundred_requests_a_third_of_them_faulty(local, folder):
    """Every row gets its answer, none is asked for again after it, and every request is counted.

    Mutants: a failed request taken for an answer (values differ); the whole request sent again after half of it was answered.
    """
    with FakeVllm(local.model, faults=lambda random: random.choice(FAULTS) if random.random() < 0.3 else None) as fake:
        lm = served(fake, folder, token_budget=20)  # two rows in a request
        lm.client._policy = replace(lm.client._policy, first_wait=0.001, max_wait=0.01)
        here, there = (noiser.attribute(lm, PROMPT, "noiser:bound=none+samples=130") for lm in (local, lm))
    counts = lm.client.counts
    failed = sum(count for kind, count in counts.items() if kind not in ("requests", "rows", "bytes"))
    print(f"{fake.counts['requests']} requests, {fake.counts['faults']} faults, {dict(counts)}")
    assert np.abs(here.scores - there.scores).max() < CLOSE
    assert fake.counts["requests"] > 500 and 0.25 < fake.counts["faults"] / fake.counts["requests"] < 0.35
    assert failed == fake.counts["faults"] and not fake.again
    assert counts["requests"] == fake.counts["requests"] + 1  # the list of models
    assert counts["rows"] >= 7 * 130 + 1


def test_a_server_that_is_killed_and_started_again(local, folder):
    """The run goes on. Mutant: a connection that fails is not tried again."""
    first = FakeVllm(local.model)
    lm, seen = served(first, folder, token_budget=20, max_connections=1), []

    def on_tokens(done, _):
        seen.append(done)
        if len(seen) == 20:
            first.stop()
            lm.client._connection.client.close()
            lm.client.close()
            again.append(FakeVllm(local.model, port=first.port))

    again = []
    with lm.progress_callback(on_tokens):
        there = noiser.attribute(lm, PROMPT, "lime:samples=100")
    again[0].stop()
    assert again[0].counts["requests"] > 10
    assert np.abs(noiser.attribute(local, PROMPT, "lime:samples=100").scores - there.scores).max() < CLOSE


def test_a_server_that_stays_away_is_the_runs_error_and_no_prompts(local, folder):
    fake = FakeVllm(local.model)
    lm = served(fake, folder)
    lm.clean([lm.prompt(PROMPT)])
    fake.stop()
    lm.client.close()
    lm.client._policy = replace(lm.client._policy, total_timeout=0.5)
    begun = time.monotonic()
    with pytest.raises(RunError, match=r"does not answer: no connection.*the same command then goes on"):
        list(noiser.attribute_many(lm, [PROMPT, "other"], "occlusion", errors="return"))
    assert time.monotonic() - begun < 5


def test_work_that_is_stopped_sends_nothing_more(local, folder):
    """Mutant: the threads go on with the requests that are left."""
    with FakeVllm(local.model) as fake:
        lm = served(fake, folder, token_budget=7, max_connections=2)
        lm.clean([lm.prompt(PROMPT)])
        before = fake.counts["requests"]

        def stop(*_):
            raise Stopped

        with pytest.raises(Stopped) as kept, lm.progress_callback(stop):
            noiser.attribute(lm, PROMPT, "lime:samples=300")
        time.sleep(0.5)
        assert fake.counts["requests"] < before + 10
        assert kept.value is not None, "the traceback is kept, as a debugger or a test keeps it"


def test_numbers_that_are_none(local, folder):
    """NaN in embeddings is found here, NaN from the server when it comes; other prompts are not affected."""
    with FakeVllm(local.model) as fake:
        lm = served(fake, folder)
        (clean,) = lm.clean([lm.prompt(PROMPT)])
        read = token_logit_fn("prob", (5,), (6,))
        rows = [PerturbedRows(clean, AddNoise(3, torch.full((2, 1, 64), value), 1.0), read) for value in (torch.nan, 0.1)]
        sent = lm.client.counts["rows"]
        assert [readout.fault for readout in lm.run_perturbed(rows)] == ["nonfinite", ""]
        assert lm.client.counts["rows"] == sent + 2
    with FakeVllm(local.model, nan=True) as fake:
        results = list(noiser.attribute_many(served(fake, folder), ["a long prompt", "short"], "occlusion", errors="return"))
    assert isinstance(results[0].error, NonFiniteError) and results[1].scores.shape == (1, 5)


def test_one_refused_row_costs_no_other(local, folder):
    """The halves of a refused request are sent. Mutant: the first half only."""
    with FakeVllm(local.model) as fake:
        lm = served(fake, folder)
        (clean,) = lm.clean([lm.prompt(PROMPT)])
        choose = fake._choice

        def refuse_one(index, row, *rest):
            if float(row[0].abs().sum()) == 0:
                raise ConnectionError
            return choose(index, row, *rest)

        def complete(request):
            try:
                return type(fake).complete(fake, request)
            except ConnectionError:
                return 400, {"error": {"message": "this row is none"}}

        fake._choice, fake.complete = refuse_one, complete
        share = torch.ones(9, 1)
        share[4] = 0
        read = token_logit_fn("prob", (5,), (6,))
        with pytest.raises(ModelFailedError, match="refuses a row of 7 tokens: it answered 400: this row is none"):
            lm.run_perturbed([PerturbedRows(clean, Interpolate(0, share), read)])
        share[4] = 1
        assert len(lm.run_perturbed([PerturbedRows(clean, Interpolate(0, share), read)])[0].values) == 9


def test_the_key_goes_to_the_server_and_nowhere_else(local, folder, monkeypatch, caplog):
    key = "secret-key-0123456789"
    monkeypatch.setenv("NOISER_MODEL_KEY", key)
    caplog.set_level(logging.DEBUG)
    with FakeVllm(local.model) as fake:
        lm = served(fake, folder)
        result = noiser.attribute(lm, PROMPT, "occlusion")
        assert {headers["Authorization"] for headers in fake.headers} == {f"Bearer {key}"}
        fake.name = key  # the server says it back
        with pytest.raises(RunError) as error:
            lm.client._error(lm.client._call("/completions", json.dumps({"model": "x"}).encode(), json.loads, 5.0), 1)
            noiser.attribute(lm, "other", "occlusion")
    for text in (caplog.text, repr(lm), str(error.value), json.dumps(result.to_dict()), repr(lm.client.counts)):
        assert key not in text


def test_addresses():
    assert vars(parse_address("vllm:http://h:8000/org/name")) == {"url": "http://h:8000/v1", "model": "org/name"}
    assert vars(parse_address("vllm:https://h/llm/v1/name")) == {"url": "https://h/llm/v1", "model": "name"}
    for wrong, error in (
        ("vllm:http://h:8000", ModelError),
        ("vllm:http://u:p@h/n", OptionError),
        ("vllm:ftp://h/n", OptionError),
        ("vllm:n", OptionError),
    ):
        with pytest.raises(error):
            parse_address(wrong)


def test_what_belongs_to_a_model_here_is_refused(folder, local):
    with pytest.raises(ModelError, match="needs --tokenizer"):
        noiser.load("vllm:http://127.0.0.1:1/x")
    with pytest.raises(ModelError, match="device_map belongs to a model that is loaded here"):
        noiser.load("vllm:http://127.0.0.1:1/x", str(folder), device_map="auto")
    with pytest.raises(ModelError, match="leave out --tokenizer"):
        noiser.load(str(folder), str(folder))


def test_the_table_is_one_tensor_and_the_revision_is_its_hash(tmp_path, folder):
    """Mutants: the digest leaves out the tensor; the first tensor with the ending is taken."""
    model = tiny("llama")
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    byte_tokenizer().save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").exists()
    one, other = (noiser.load("vllm:http://127.0.0.1:1/x", str(path)) for path in (folder, tmp_path))
    assert one.revision == other.revision == identify("vllm:http://127.0.0.1:2/x", tokenizer=str(folder)).revision
    assert torch.equal(other.embeddings([3, 4]), model.get_input_embeddings()(torch.tensor([3, 4])))
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] += 1
    model.save_pretrained(tmp_path / "changed")
    byte_tokenizer().save_pretrained(tmp_path / "changed")
    assert noiser.load("vllm:http://127.0.0.1:1/x", str(tmp_path / "changed")).revision != one.revision

"""A model spread over devices, or offloaded, is explained as it is in one place; what cannot work says so.

There may be one device here, so others are made up: tensors that say they are on `lazy:0` or `lazy:1`, hold their numbers on
the CPU, and refuse to meet across devices as CUDA's do. Accelerate's own hooks move them, as on real GPUs.

Mutants caught: `torch.tensor(kept, ...)` always; `.to(rows.device)`, `.to(embeds[0].device)` or `.to(from_embeds.device)` left out;
`mean` without `.to(found.value.device)`; `embedding.weight.device` for the home; `or above` left out; `where` for `device or where`;
`max` for `min` of the rooms; no division by `placement.weights`; `{}` for `widest` or `visiting`; `size > free`; `gpus[:1]`;
`devices[:1]`; `loaded.to` always; `device_map` not handed on, or taken with `device`; `check_gradient`, `and not self._no_gradient`
or `if has_accelerate_hook(model)` left out.
"""

from typing import Any

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import AutoModelForCausalLM

import noiser
from noiser.errors import ModelError
from noiser.lm import devices as memory
from noiser.lm.devices import (
    MIB,
    Budget,
    Placement,
    peak_bytes,
    placement_of,
    plan_budget,
    plan_gradient_budget,
    reset_peak,
    why_no_gradient,
)
from noiser.lm.restore import restore_after
from tests.conftest import byte_tokenizer, tiny

PROMPT = "0123456789"
METHODS = ["noiser", "occlusion", "input_x_gradient", "integrated_gradients", "deeplift", "last_attention", "attention_rollout"]
FAMILIES = ["llama", "gemma3_text", "gpt2", "gpt_neox"]
FIRST, SECOND = (torch.device("lazy", number) for number in (0, 1))


class Elsewhere(torch.Tensor):
    """A tensor that says it is on another device than the one that holds its numbers."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]  (as torch's own subclasses do)

    def __new__(cls, held, device=None, **of_a_parameter):
        if device is None:
            return torch.nn.Parameter(held, **of_a_parameter)
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype, "device": device}
        made = torch.Tensor._make_wrapper_subclass(cls, held.shape, **layout)
        made.held = held
        return made

    def __init__(self, *_, **__):
        pass

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})

    def tolist(self):
        return self.held.tolist()


class Devices(TorchDispatchMode):
    """Inside, `lazy:0` and `lazy:1` are devices."""

    def __enter__(self):
        self.before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *error):
        torch._C._set_only_lift_cpu_tensors(self.before)
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


def _run(function, args, kwargs):
    """The operation on the numbers. As with CUDA, a CPU tensor may meet others as a scalar, or as an index."""
    name = function.overloadpacket.__name__
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    index = name.startswith("index")
    bound = [each for n, each in enumerate(tensors) if each.device.type != "cpu" or (each.dim() and not (index and n))]
    places = {each.device for each in bound} if name not in ("_to_copy", "copy_") else {args[0].device}
    if len(places) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device, found {sorted(map(str, places))}: {function}")
    where = torch.device(kwargs["device"]) if kwargs.get("device") is not None else next(iter(places), torch.device("cpu"))
    if where.type == "lazy" and "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    numbers = tree_map_only(Elsewhere, lambda each: each.held, (args, kwargs))
    result = function(*numbers[0], **numbers[1])
    if name.endswith("_") and not name.startswith("_"):
        return args[0]
    return tree_map_only(torch.Tensor, lambda each: Elsewhere(each, where), result) if where.type == "lazy" else result


def device_map(model, first, second):
    """The embeddings and the first layer in one place, all that comes after in the other."""
    found, where = {}, first
    for name, child in model.base_model.named_children():
        path = f"{model.base_model_prefix}.{name}"
        if isinstance(child, torch.nn.ModuleList) and len(child) > 1:
            found |= {f"{path}.{n}": second if n else first for n in range(len(child))}
            where = second
        else:
            found[path] = where
    return found | {name: second for name, _ in model.named_children() if name != model.base_model_prefix}


def dispatched(model, where, **options):
    """As transformers does it."""
    return dispatch_model(model, where, skip_keys=list(model._skip_keys_device_placement or ()), **options)


def on_two(family="llama", main=FIRST) -> Any:
    """A model of which the second half is on the second device. To be made and used inside `Devices`."""
    model = tiny(family)
    return dispatched(model, device_map(model, FIRST, SECOND), main_device=main)


def agree(lm, expected, methods=METHODS, most=2e-5):
    for method in methods:
        ours, theirs = (noiser.attribute(each, PROMPT, method) for each in (lm, expected))
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=most, rtol=5 * most, err_msg=method)
        for note in ("k", "layout"):
            assert ours.notes.get(note) == theirs.notes.get(note), method
        assert np.abs(theirs.scores).max() > 1e-3


def test_the_double_tells_devices_apart():
    with Devices():
        one, other = torch.ones(2, device=FIRST), torch.ones(2, device=SECOND)
        assert ((one + one.cpu().sum()).tolist(), (one.to(SECOND) + other).device) == ([3, 3], SECOND)
        for wrong in (lambda: one + other, lambda: one + other.cpu(), lambda: torch.cat([one, other]), lambda: one[other.long()]):
            with pytest.raises(RuntimeError, match="same device"):
                wrong()
        assert one[other.cpu().long()].tolist() == [1, 1]


@pytest.mark.parametrize("family", [FAMILIES[0], *(pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES[1:])])
def test_two_devices_give_what_one_gives(family, tokenizer):
    with Devices():
        lm = noiser.LanguageModel(on_two(family), tokenizer)
        assert (lm.device, lm.devices, lm.offloaded) == (FIRST, (FIRST, SECOND), False)
        agree(lm, noiser.LanguageModel(tiny(family), tokenizer))
        (clean,) = lm.clean([lm.prompt(PROMPT)])
        assert [(keys.device, values.device) for keys, values in clean.layers] == [(FIRST, FIRST), (SECOND, SECOND)]
        assert {clean.embeds.device, clean.logits.device} == {FIRST}


@pytest.mark.slow
def test_several_prompts_and_tokens_and_what_is_generated(tokenizer):
    asked = [{"target": "ab"}, {"continuation": [70, 90]}, {"foil": "b"}, {"target": lambda logits: logits[7] - logits[9]}]
    prompts = [PROMPT, "abc", PROMPT[::-1], "xy"]
    with Devices():
        one, two = (noiser.LanguageModel(model, tokenizer) for model in (tiny("llama"), on_two()))
        for options in asked:
            for method in ("occlusion", "input_x_gradient"):
                found, expected = ([*noiser.attribute_many(lm, prompts, method, **options)] for lm in (two, one))
                for ours, theirs in zip(found, expected, strict=True):
                    np.testing.assert_allclose(vars(ours)["scores"], vars(theirs)["scores"], atol=2e-5, rtol=1e-4)
        assert two.generate(two.prompt(PROMPT), 3) == one.generate(one.prompt(PROMPT), 3)


@pytest.mark.slow
@pytest.mark.parametrize("main", [FIRST, SECOND], ids=["inputs go to the first layer", "inputs go to the last layer"])
def test_outputs_that_stay_with_the_last_layer_are_fetched(tokenizer, main):
    """Accelerate brings them back as a rule; a model with hooks of the user's own need not."""
    with Devices():
        model = on_two(main=main)
        model._hf_hook.io_same_device = False
        for prefix, methods in ((True, ["noiser", "integrated_gradients"]), (False, ["occlusion", "input_x_gradient"])):
            two, one = (noiser.LanguageModel(each, tokenizer, prefix=prefix) for each in (model, tiny("llama")))
            agree(two, one, methods)
            assert two.clean([two.prompt(PROMPT)])[0].logits.device == FIRST


OFFLOADED = {"the second layer": ("cpu", "disk"), "the embeddings": ("disk", "cpu"), "all": ("disk", "disk")}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("what", [*OFFLOADED, "all, layer by layer"])
def test_weights_on_disk_give_what_weights_in_memory_give(family, what, tmp_path, tokenizer):
    model = tiny(family)
    options = {} if what in OFFLOADED else {"preload_module_classes": model._no_split_modules}
    dispatched(model, device_map(model, *OFFLOADED.get(what, OFFLOADED["all"])), offload_dir=tmp_path, **options)
    on_meta = {name for name, weight in model.named_parameters() if weight.device.type == "meta"}
    lm = noiser.LanguageModel(model, tokenizer)
    assert (lm.offloaded, lm.devices) == (True, (torch.device("cpu"),))
    agree(lm, noiser.LanguageModel(tiny(family), tokenizer))
    assert on_meta == {name for name, weight in model.named_parameters() if weight.device.type == "meta"}, "left as found"


def test_weights_that_visit_another_device_are_computed_with_there(tokenizer):
    """On a GPU that is too small, accelerate keeps layers on the CPU and computes with them on the GPU."""
    with Devices():
        model: Any = dispatched(tiny("llama"), device_map(tiny("llama"), "cpu", FIRST), main_device=FIRST)
        assert model.get_input_embeddings().weight.device.type == "meta"
        assert placement_of(model).devices == (FIRST,)
        agree(
            noiser.LanguageModel(model, tokenizer),
            noiser.LanguageModel(tiny("llama"), tokenizer),
            ["noiser", "input_x_gradient", "attention_rollout"],
        )


def test_gradients_that_cannot_be_had_are_refused_and_the_rest_goes_on(tokenizer, tmp_path, monkeypatch):
    model = tiny("llama")
    dispatched(model, device_map(model, "disk", "disk"), offload_dir=tmp_path)
    size = placement_of(model).visiting[torch.device("cpu")]
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2 * size - 1)
    lm, plain = noiser.LanguageModel(model, tokenizer), noiser.LanguageModel(tiny("llama"), tokenizer)
    for method in ("input_x_gradient", "integrated_gradients", "deeplift"):
        with pytest.raises(ModelError, match=r"gradients need all weights in place at once.*offloaded.*without gradients"):
            noiser.attribute(lm, PROMPT, method)
    agree(lm, plain, ["noiser", "occlusion", "last_attention"])
    assert lm.token_counter.backward_tokens == 0
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2 * size)
    agree(noiser.LanguageModel(model, tokenizer), plain, ["input_x_gradient"])


def test_weights_that_nothing_loads_are_refused(tokenizer):
    with pytest.raises(ModelError, match=r"LlamaForCausalLM has weights on the device 'meta'.*device_map='auto'"):
        noiser.LanguageModel(tiny("llama").to("meta"), tokenizer)


GPUS = tuple(torch.device("cuda", number) for number in range(2))
FREE = {GPUS[0]: 400 * MIB, GPUS[1]: 100 * MIB}


def budgets(monkeypatch, free=FREE, weights=(50, 50), visiting=(0, 0), widest=(0, 0)):
    monkeypatch.setattr(memory, "free_bytes", free.__getitem__)
    model, placement = tiny("llama"), Placement(GPUS[0], *(dict(zip(GPUS, each, strict=True)) for each in (weights, visiting, widest)))
    return plan_budget(model, placement), plan_gradient_budget(model, placement, Budget(10**9, 10**9, 1)), why_no_gradient(placement)


def test_the_tightest_device_sets_the_budget(monkeypatch):
    """Per token 4 bytes x (12 x 64 + 4 x 96), kept by both layers where a gradient is taken; per row 300 logits."""
    plain, gradient, _ = budgets(monkeypatch)
    assert (plain.tokens, plain.rows) == (25 * MIB // 4608, 25 * MIB // (300 * 16))
    assert (gradient.tokens, gradient.rows) == (2 * 25 * MIB // 9216, 25 * MIB // (300 * 24)), "each device keeps its own layer's"
    assert budgets(monkeypatch, weights=(90, 10))[1].tokens == 100 * 100 * MIB // 90 // 9216, "the first device is the tighter one here"
    assert budgets(monkeypatch, free=dict(zip(GPUS, [*FREE.values()][::-1], strict=True)))[0] == plain


@pytest.mark.parametrize("sizes", [{"intermediate_size": [32, 96]}, {"intermediate_size": None, "hidden_size": None}])
def test_a_configuration_with_a_size_for_each_layer_or_none(monkeypatch, sizes):
    """As in Gemma 3n and BLT. Without an inner size it is four times the width. Mutant: `4 * inner` of a list."""
    model = tiny("llama")
    for name, value in sizes.items():
        monkeypatch.setitem(vars(model.config), name, value)
    width = 12 * 64 + 4 * (96 if sizes["intermediate_size"] else 256)
    placement = Placement(GPUS[0], *(dict.fromkeys(GPUS, number) for number in (50, 0, 0)))
    monkeypatch.setattr(memory, "free_bytes", FREE.__getitem__)
    assert plan_budget(model, placement).tokens == 25 * MIB // (4 * width)


def test_offloaded_weights_come_out_of_the_budget(monkeypatch):
    plain, gradient, why_not = budgets(monkeypatch, visiting=(0, 40 * MIB), widest=(0, 20 * MIB))
    assert (plain.tokens, gradient.tokens, why_not) == (20 * MIB // 4608, 2 * 15 * MIB // 9216, "")
    assert "cuda:1 has 0.105 GB free" in budgets(monkeypatch, visiting=(0, 51 * MIB))[2]


def test_the_peak_is_of_all_devices(monkeypatch):
    restarted = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", {GPUS[0]: 30, GPUS[1]: 12}.__getitem__)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", restarted.append)
    reset_peak(GPUS)
    assert (peak_bytes(GPUS), restarted) == (42, [*GPUS])


@pytest.fixture
def folder(tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("chosen", ["auto", "balanced", "sequential"])
def test_a_device_map_loads_what_a_plain_load_does_and_moves_nothing(folder, monkeypatch, chosen):
    plain = noiser.load(folder)
    given, real = [], AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: (given.append(k), real(*a, **k))[1])
    monkeypatch.setattr(type(plain.model), "to", lambda *_, **__: pytest.fail("a model that is spread must not be moved"))
    mapped = noiser.load(folder, device_map=chosen)
    assert given[0]["device_map"] == chosen
    agree(mapped, plain, most=0)


@pytest.mark.slow
def test_what_does_not_fit_goes_to_disk_and_is_explained_all_the_same(folder, monkeypatch):
    plain = noiser.load(folder, dtype="bfloat16")
    monkeypatch.setattr("transformers.modeling_utils._get_device_map", lambda model, *_: device_map(model, "cpu", "disk"))
    mapped = noiser.load(folder, device_map="auto", dtype="bfloat16")
    assert (mapped.offloaded, mapped.device, plain.offloaded) == (True, torch.device("cpu"), False)
    agree(mapped, plain, most=0)


def test_a_device_map_that_means_nothing_is_refused(folder, tokenizer):
    for chosen in ("everywhere", "cpu", ""):
        with pytest.raises(ModelError, match=f"device_map must be auto, balanced or sequential; got '{chosen}'"):
            noiser.load(folder, device_map=chosen)
    with pytest.raises(ModelError, match="device_map=auto picks the devices itself; leave out device=cpu"):
        noiser.load(folder, device_map="auto", device="cpu")
    with pytest.raises(ModelError, match="device_map is for a model that is loaded here"):
        noiser.load(tiny("llama"), tokenizer, device_map="auto")


def test_other_libraries_cannot_move_a_model_that_is_spread(tokenizer):
    with Devices():
        model = on_two()
        before = vars(model)["to"]
        with restore_after(model, tokenizer):
            assert model.to(FIRST) is model
        assert (model.lm_head.weight.device, vars(model)["to"]) == (SECOND, before)

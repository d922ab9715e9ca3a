"""What the parts of benchmarks/long.py share: records, masks of sources, means with intervals."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.target import Objective
from noiser.methods.base import MethodOutput, Steps, keep_units, measure, units_to_perturb
from noiser.methods.lime import WIDTH, draw_subsets, lasso, ridge
from noiser.registry import Method, MethodSpec
from noiser.results.statistics import ClusterJackknife
from noiser.rng import generator

FOLDER = Path(__file__).with_name("long_rows")
MASKS, ALPHA = 64, 0.01
LIME = {"lime:samples=64": 64, "lime:prior=lasso+samples=32": 32, "lime:prior=lasso+samples=64": 64}
"""Methods that read the same masks, with their number."""


def append(part: str, lm: LanguageModel, line: Mapping[str, Any]) -> None:
    """Add a line to the records of a part. A line without `dtype` is of an earlier run in bfloat16."""
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{part}.jsonl").open("a") as sink:
        sink.write(json.dumps({**line, "dtype": str(lm.dtype).removeprefix("torch.")}) + "\n")


def lines(part: str) -> list[dict[str, Any]]:
    """The records of a part."""
    file = FOLDER / f"{part}.jsonl"
    return list(map(json.loads, file.read_text().splitlines())) if file.exists() else []


def masks_spec(unit: str) -> MethodSpec:
    """All methods in LIME from one run of their masks, as they draw the same ones. `notes["fits"]` has the coefficients of the units."""

    def run(lm: LanguageModel, clean: CleanRun, objective: Objective) -> Steps[MethodOutput]:  # noqa: ARG001
        units = units_to_perturb(clean.prompt, unit)  # pyright: ignore[reportArgumentType]
        present = lime_masks(clean.prompt.input_ids, len(units.texts))
        distinct, inverse = np.unique(present, axis=0, return_inverse=True)
        (measured,) = yield from measure(objective, [keep_units(units, distinct, None)])
        found = from_masks(present, measured.values[inverse.reshape(-1)], objective.value)
        return MethodOutput(np.zeros(len(clean.prompt)), {"fits": {label: each.tolist() for label, each in found.items()}, "warnings": []})

    method = Method(name="masks", source="LIME's masks", function=run, family="perturbation")
    return MethodSpec("masks", method, {})


def lime_masks(ids: tuple[int, ...], units: int) -> np.ndarray:
    """The masks [MASKS, units] that `lime:prior=lasso+samples=64` draws; the first 32 are those of `samples=32`."""
    return draw_subsets(MASKS, units, 0.5, whole=False, rng=generator(0, ids, "lime"))


def from_masks(present: np.ndarray, values: np.ndarray, clean: float) -> dict[str, np.ndarray]:
    """The coefficients of the methods in LIME, from the values of the masks. Ridge's first subset is the whole prompt."""
    whole = present.copy()
    whole[0] = True
    found = {"lime:samples=64": ridge(whole, np.concatenate([[clean], values[1:]]), WIDTH, ALPHA)[0]}
    return found | {label: lasso(present[:count], values[:count], ALPHA)[0] for label, count in list(LIME.items())[1:]}


def interval(values: Sequence[float] | np.ndarray, names: Sequence[str] | None = None, digits: int = 2, sign: bool = False) -> str:
    """The mean with its 95 % jackknife interval over prompts."""
    if not len(values):
        return ""
    array = np.array(values, dtype=np.float64)
    jackknife = ClusterJackknife(list(names or map(str, range(len(array)))))
    low, high = jackknife.interval(array.mean(), jackknife.means(array))
    form = f"{{:{'+' if sign else ''}.{digits}f}}".format
    return form(array.mean()) + ("" if np.isnan(low) else f" ({form(float(low))} to {form(float(high))})")


def rows(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *body))


def by_id(records: Iterable[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], Any]) -> dict[str, dict[Any, Mapping[str, Any]]]:
    """Records by id, then by this key."""
    found: dict[str, dict[Any, Mapping[str, Any]]] = {}
    for record in records:
        found.setdefault(record["id"], {})[key(record)] = record
    return found

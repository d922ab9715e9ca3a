"""What commit 31a9b85 computes: `python -m tests.regression.record FOLDER` was run there, and its files are kept beside this one.

Only public names and the command line are used, so the same script runs before and after a change of the house.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import noiser

HERE = Path(__file__).parent
CHAT = [{"role": "system", "content": "Answer with one word."}, {"role": "user", "content": "Name a colour."}]
QUESTIONS = [
    ("The Eiffel Tower is located in the city of", {}),
    ("The capital of France is", {"target": " Paris", "foil": " London"}),
    ("The capital of France is", {"generate": 2}),
    ("Water freezes at zero degrees", {"continuation": " Celsius."}),
    ("The opposite of hot is", {"target": " cold", "quantity": "log_prob"}),
    ("My uncle sent me a postcard from America. (The stamp had come off). There everything costs one", {}),
    ("Two plus two equals", {"generate": 3, "span": (0, 2)}),
    (CHAT, {}),
    ("Most people in Thailand follow the religion of", {"target": " Buddhism"}),
    ("Café — naïve 東京 🗼:", {}),
]
"""Prompts of our own, with each kind of target."""
METHODS = {
    "noiser": {}, "noiser exact": {"search": "exact"}, "noiser k_max": {"bound": "k_max"}, "noiser l2": {"bound": "l2"},
    "noiser none": {"bound": "none"}, "noiser word": {"unit": "word"}, "noiser official": {"variant": "official"},
    "occlusion": {}, "occlusion unk": {"baseline": "unk"}, "lime": {"samples": 50}, "input_x_gradient": {}, "gradient_shap": {},
    "integrated_gradients": {"steps": 8}, "sequential_integrated_gradients": {"steps": 4}, "deeplift": {"rules": "all"},
    "last_attention": {}, "attention_rollout": {}, "random": {}, "uniform": {}, "constant": {}, "recency": {},
}  # fmt: skip
ROWS = ["noiser:steps=5", "occlusion", "lime:samples=50", "input_x_gradient", "gradient_shap:samples=4", "integrated_gradients:steps=4",
        "sequential_integrated_gradients:steps=2", "deeplift", "last_attention", "attention_rollout"]  # fmt: skip
COLUMNS = ["soft_ns", "soft_nc", "soft_ns:protocol=paper+masks=4", "soft_nc:protocol=official+masks=4",
           "soft_nc:protocol=proportional+masks=4", "soft_nc:distance=probability+masks=4", "sufficiency", "comprehensiveness",
           "comprehensiveness:operator=delete",
           "comprehensiveness:operator=resample+draws=2", "aopc", "naopc", "log_odds", "deletion", "insertion"]  # fmt: skip
RUN = ["run", "--data", "known-mini", "--limit", "2", "--methods", "noiser:steps=5,occlusion,lime:samples=50",
       "--metrics", "soft_ns:masks=4,soft_nc:masks=4,aopc,answerability,minimum_top_p"]  # fmt: skip


def attributions(lm: noiser.LanguageModel, questions: list = QUESTIONS, methods: dict = METHODS) -> dict:
    """The attribution of every question by every method; or the class of the error."""
    found = {}
    for place, (prompt, asked) in enumerate(questions):
        for label, options in methods.items():
            try:
                a = noiser.attribute(lm, prompt, label.split()[0], **asked, **options)
            except noiser.NoiserError as error:
                found[f"{place} {label}"] = {"error": type(error).__name__}
                continue
            notes = {name: value for name, value in a.to_dict()["notes"].items() if name in ("k", "k_status", "r2", "sum", "non_monotone")}
            cost = [a.cost.forward_tokens, a.cost.backward_tokens]
            targets = [[t.token_ids, t.prob, t.rank, t.quantity, t.value] for t in a.targets]
            found[f"{place} {label}"] = {"scores": a.scores.tolist(), "targets": targets, "notes": notes, "cost": cost}
    return json.loads(json.dumps(found))


def evaluation(lm: noiser.LanguageModel, questions: list = QUESTIONS, methods: list = ROWS, metrics: list = COLUMNS) -> dict:
    """Every record's status and value, and every table's numbers."""
    examples = [{"prompt": prompt, "target": asked.get("target"), "id": str(place)} for place, (prompt, asked) in enumerate(questions)]
    e = noiser.evaluate(lm, examples, methods, metrics, ladder=False).to_dict()
    records = {f"{r['sample']} {r['method']} {r['metric']}": [r["status"], r["value"]] for r in e["records"]}
    rows = {f"{s['metric']} {r['method']}": [r["mean"], r["log_ratio"], r["group"]] for s in e["summary"] for r in s["rows"]}
    return json.loads(json.dumps({"records": records, "rows": rows, "samples": e["samples"], "planned": e["planned"]}))


def command(*words: str) -> str:
    """What the command line prints."""
    done = subprocess.run([sys.executable, "-m", "noiser.cli", *words], check=True, capture_output=True, text=True)
    return done.stdout


def main(folder: Path) -> None:
    """Write everything."""
    folder.mkdir(parents=True, exist_ok=True)
    command(*RUN, "--out", str(folder / "run"))
    (folder / "report.md").write_text(command("report", str(folder / "run"), "--format", "md"))
    (folder / "attribution.json").write_text(command("attribute", QUESTIONS[0][0], "--method", "occlusion", "--format", "json"))
    lm = noiser.load()
    probe = float(np.sum(lm.clean([lm.prompt(QUESTIONS[0][0])])[0].logits.double().numpy()))
    found = {"probe": probe, "attributions": attributions(lm), "evaluation": evaluation(lm)}
    (folder / "values.json").write_text(json.dumps(found, separators=(",", ":")).replace('},"', '},\n"') + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Measure the demo model on the bundled questions and write its model card.

    python scripts/easy_vqa_table.py --out easy-vqa
    python -m tools.demo_world.measure MODEL_FOLDER --run runs/card --outside easy-vqa

Runs ``vlmscope extract`` on questions about pictures that training never saw, judges the answers by
a plain rule, asks a linear probe whether hidden states foretell the mistakes, and writes the table
into ``MODEL_FOLDER/README.md``. With ``--outside`` it also answers easy-VQA's test split.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
from safetensors import safe_open
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from transformers import AutoConfig

import vlmscope
import vlmscope.demo
from tools.demo_world.card import card
from tools.demo_world.verdict import judge

SHIPPED = Path(vlmscope.demo.__file__).parent
"""The bundle that ships: the card is about these questions."""

FOLDS = 5


def main() -> None:
    """Extract, judge, probe, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="folder that tools.demo_world.train wrote")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run; made anew")
    parser.add_argument("--data", type=Path, default=SHIPPED, help="folder of a bundle")
    parser.add_argument(
        "--outside", type=Path, help="folder that easy_vqa_table.py wrote; its run is RUN-outside"
    )
    options = parser.parse_args()
    training = json.loads((options.model / "training.json").read_text())
    outside_run = Path(f"{options.run.resolve()}-outside")
    for folder in (options.run, outside_run) if options.outside else (options.run,):
        if folder.exists() and not (folder / "run.json").exists():
            raise SystemExit(f"{folder} is no run, so it is not replaced; choose another folder")
    run = extract(options.data, options.model, options.run)
    judged = judge_table(run.to_pandas())
    judged.to_csv(options.run / "judged.csv")
    facts = measure(judged)
    outside = None
    if options.outside:
        outside = judge_table(extract(options.outside, options.model, outside_run).to_pandas())
        facts |= {f"outside_{name}": value for name, value in measure_any(outside).items()}
    weights = options.model / "model.safetensors"
    facts |= {"megabytes": weights.stat().st_size / 1e6, "parameters": parameters(weights)}
    facts |= probe(run, judged)
    config = AutoConfig.from_pretrained(options.model)
    text = card(facts, training, judged, outside, config, fingerprint(weights))
    (options.model / "README.md").write_text(text, encoding="utf-8")
    print(json.dumps(facts, indent=2))


def extract(data: Path, model: Path, out: Path) -> vlmscope.Run:
    """Answer a folder's questions; return the run."""
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run(
        [sys.executable, "-m", "vlmscope", "extract", data / "questions.csv",
         "--images", data / "images", "--model", model, "--out", out, "--device", "cpu",
         "--max-new-tokens", "40"], check=True,
    )  # fmt: skip
    return vlmscope.open_run(out)


def judge_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return the run's table with the columns ``right`` and ``hallucinated``."""
    columns = ("answer", "ground_truth_answer", "answer_type", "category")
    verdicts = [judge(*row) for row in zip(*(table[name] for name in columns), strict=True)]
    right, hallucinated = zip(*verdicts, strict=True)
    return table.assign(right=right, hallucinated=hallucinated)


def measure_any(judged: pd.DataFrame) -> dict[str, float]:
    """Return the headline numbers that any table has, as shares of 1."""
    facts = {
        "questions": len(judged),
        "accuracy": judged["right"].mean(),
        "error_rate": 1 - judged["right"].mean(),
        "hallucination_rate": judged["hallucinated"].mean(),
        "stopped_at_end_of_turn": (judged["finish_reason"] == "stop").mean(),
    }
    return {name: round(float(value), 3) for name, value in facts.items()}


def measure(judged: pd.DataFrame) -> dict[str, float]:
    """Return the headline numbers of the generated world, as shares of 1."""
    existence = judged[judged["category"].str.startswith("existence-")]
    present = existence[existence["ground_truth_answer"] == "Yes"]
    facts = measure_any(judged) | {"accuracy_on_present_objects": present["right"].mean()}
    for how in ("random", "popular", "adversarial"):
        absent = existence[
            (existence["category"] == f"existence-{how}")
            & (existence["ground_truth_answer"] == "No")
        ]
        facts[f"false_positive_rate_{how}"] = absent["hallucinated"].mean()
    return {name: round(float(value), 3) for name, value in facts.items()}


def parameters(weights: Path) -> int:
    """Return how many numbers a checkpoint holds."""
    with safe_open(weights, "np") as tensors:
        names = tensors.keys()
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)


def fingerprint(weights: Path) -> str:
    """Return the SHA-256 of a file: the card is about these weights and no others."""
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def probe(run: vlmscope.Run, judged: pd.DataFrame) -> dict[str, float]:
    """Return cross-validated AUROCs of foretelling a wrong answer, folds grouped by picture."""
    wrong = ~judged["right"].to_numpy()
    folds = list(
        StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(
            judged, wrong, judged["image_id"]
        )
    )

    def auroc(model: object, features: object) -> float:
        risk = cross_val_predict(model, features, wrong, cv=folds, method="predict_proba")[:, 1]
        return round(float(roc_auc_score(wrong, risk)), 3)

    linear = LogisticRegression(C=0.01, max_iter=2000)
    scaled = make_pipeline(StandardScaler(), linear)
    facts = {
        "auroc_category": auroc(
            make_pipeline(OneHotEncoder(), LogisticRegression()), judged[["category"]]
        ),
        "auroc_question_text": auroc(
            make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=3.0)),
            judged["question"],
        ),
        "auroc_entropy": auroc(LogisticRegression(), judged[["first_token_entropy"]]),
        "auroc_vision_only": auroc(scaled, run.matrix("vision_only_representation")),
    }
    for name in ("vision_token_representation", "query_token_representation"):
        for layer in run.layers(name):
            short = name.split("_", 1)[0]
            facts[f"auroc_{short}_token_layer_{layer}"] = auroc(
                scaled, run.matrix(name, layer=layer)
            )
    return facts


if __name__ == "__main__":
    main()

"""Measure the demo model on the bundled questions and write its model card.

    python scripts/measure_demo_model.py MODEL_FOLDER --run runs/card

Runs ``vlmscope extract`` on questions about pictures that training never saw, judges the answers by
a plain rule, asks a linear probe whether hidden states foretell the mistakes, and writes the table
into ``MODEL_FOLDER/README.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
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
from demo_card import card
from demo_verdict import judge
from vlmscope.demo import bundle

SHIPPED = Path(bundle.__file__).parent
"""The bundle that ships: the card is about these questions."""

FOLDS = 5


def main() -> None:
    """Extract, judge, probe, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="folder that train_demo_model.py wrote")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run; made anew")
    parser.add_argument("--data", type=Path, default=SHIPPED, help="folder of a bundle")
    options = parser.parse_args()
    training = json.loads((options.model / "training.json").read_text())
    table = options.data / "questions.csv"
    if options.run.exists() and not (options.run / "run.json").exists():
        raise SystemExit(f"{options.run} is no run, so it is not replaced; choose another folder")
    shutil.rmtree(options.run, ignore_errors=True)
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "vlmscope", "extract", table, "--images", table.parent / "images",
         "--model", options.model, "--out", options.run, "--device", "cpu",
         "--max-new-tokens", "40"], check=True,
    )  # fmt: skip
    seconds = time.monotonic() - started
    run = vlmscope.open_run(options.run)
    judged = judge_table(run.to_pandas())
    judged.to_csv(options.run / "judged.csv")
    facts = measure(judged) | {"questions_per_second": round(len(run) / seconds, 1)}
    weights = options.model / "model.safetensors"
    facts |= {"megabytes": weights.stat().st_size / 1e6, "parameters": parameters(weights)}
    facts |= {"cores": len(os.sched_getaffinity(0))}
    facts |= probe(run, judged)
    config = AutoConfig.from_pretrained(options.model)
    text = card(facts, training, judged, config, fingerprint(weights))
    (options.model / "README.md").write_text(text, encoding="utf-8")
    print(json.dumps(facts, indent=2))


def judge_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return the run's table with the columns ``right`` and ``hallucinated``."""
    verdicts = [
        judge(*row)
        for row in zip(
            table["answer"], table["ground_truth_answer"], table["answer_type"], strict=True
        )
    ]
    right, hallucinated = zip(*verdicts, strict=True)
    return table.assign(right=right, hallucinated=hallucinated)


def measure(judged: pd.DataFrame) -> dict[str, float]:
    """Return the headline numbers, as shares of 1."""
    existence = judged[judged["category"].str.startswith("existence-")]
    present = existence[existence["ground_truth_answer"] == "Yes"]
    facts = {
        "questions": len(judged),
        "accuracy": judged["right"].mean(),
        "hallucination_rate": judged["hallucinated"].mean(),
        "accuracy_on_present_objects": present["right"].mean(),
        "stopped_at_end_of_turn": (judged["finish_reason"] == "stop").mean(),
    }
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

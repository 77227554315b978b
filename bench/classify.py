"""How well does the recipe classify, beside the method that everybody tries first: counting words?

    python bench/classify.py
    python bench/classify.py --data mail.csv

Both see the same texts. TF-IDF with logistic regression (scikit-learn) reads whole texts, and those of as many bytes as
the model's tokens have in the mean.
"""

import argparse

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from onehour.data.prepare import prepare
from onehour.recipes.classify import Classify
from onehour.training.loop import train


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data")
    recipe = Classify(data=parser.parse_args().data)
    *_, last = train(recipe, recipe.defaults())
    say("classify", last.metrics["held_out_accuracy"], last.metrics["held_out_f1"])
    train_, held_out = recipe.rows()
    lengths = prepare(recipe).train[range(len(train_))]["length"]
    full = [len(row.text.encode()) for row, n in zip(train_, lengths.tolist(), strict=True) if n < recipe.context]
    read = round(sum(full) / int(lengths[lengths < recipe.context].sum()) * recipe.context)
    labels = np.array([row.label for row in held_out])
    for name, length in ((f"counting words, {read} bytes", read), ("counting words, whole texts", None)):
        words = TfidfVectorizer(token_pattern=r"\w+", sublinear_tf=True, min_df=2)
        model = LogisticRegression(C=10, max_iter=300)
        model.fit(words.fit_transform(row.text[:length] for row in train_), [row.label for row in train_])
        found = model.predict(words.transform(row.text[:length] for row in held_out))
        say(name, float((found == labels).mean()), f1_score(labels, found, average="macro"))


def say(name: str, accuracy: float, f1: float) -> None:
    """Print one row."""
    print(f"{name}: accuracy {accuracy:.3f}, macro-F1 {f1:.3f}", flush=True)


if __name__ == "__main__":
    main()

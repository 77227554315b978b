"""onehour generate and predict: a trained model at work."""

from collections.abc import Sequence

from onehour.cli import run_and_options
from onehour.commands.config import GenerateConfig, PredictConfig


def generate(arguments: Sequence[str]) -> None:
    """onehour generate RUN [options]: continue a prompt, streaming."""
    name, options = run_and_options(GenerateConfig, arguments, "generate")
    from onehour.training.run import load_trained, open_run

    run = open_run(options.runs, name)
    recipe, model = load_trained(run)
    text = recipe.generate(
        model, run.folder / "data", options.prompt, num_tokens=options.num_tokens, temperature=options.temperature,
        top_k=options.top_k, seed=options.seed,
    )  # fmt: skip
    print(options.prompt, end="")
    for piece in text:
        print(piece, end="", flush=True)
    print()


def predict(arguments: Sequence[str]) -> None:
    """onehour predict RUN [options]: predictions as a table, or as a Parquet file."""
    name, options = run_and_options(PredictConfig, arguments, "predict")
    from onehour.show.predictions import check, predict_rows, predictions_text, read_input, write_predictions
    from onehour.training.run import load_trained, open_run

    recipe, model = load_trained(open_run(options.runs, name))
    check(recipe, options.output)
    rows = read_input(recipe, options.input)
    predicted = predict_rows(recipe, model, rows)
    if options.output:
        write_predictions(predicted, options.output)
        print(f"{len(rows):,} predictions in {options.output}")
    else:
        print(predictions_text(predicted))

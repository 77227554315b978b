"""onehour predict: a trained model at work on rows of data."""

from collections.abc import Sequence

from onehour.cli import run_and_options
from onehour.commands.config import PredictConfig


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

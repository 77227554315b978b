"""One hour from a tensor to a cluster.

The public names, in the order in which the course teaches them. Each is imported when it is first used, so that
`import onehour` takes no time; and none of them imports ray, which only `onehour.cluster` does.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onehour.config import ScaleConfig, TrainConfig
    from onehour.data.arrow import Rows, write_rows
    from onehour.data.order import sample_at
    from onehour.data.prepare import Data, prepare
    from onehour.errors import InputError, TrainingError
    from onehour.models.cnn import CNN
    from onehour.models.gpt import GPT, GPTConfig
    from onehour.models.mlp import MLP
    from onehour.models.sampling import generate
    from onehour.recipe import Recipe, find_recipe
    from onehour.training.evaluate import evaluate
    from onehour.training.interrupt import stop_requests
    from onehour.training.keep import keep
    from onehour.training.loop import Report, train
    from onehour.training.optim import build_optimizer, learning_rate_at
    from onehour.training.parallel import parallelize
    from onehour.training.run import Run, create_run, open_run

__version__ = "0.1.0"  # here, as a job's working directory has no installed metadata

HOME = {
    "MLP": "models.mlp", "CNN": "models.cnn",
    "write_rows": "data.arrow", "Rows": "data.arrow", "sample_at": "data.order", "Data": "data.prepare",
    "prepare": "data.prepare",
    "Recipe": "recipe", "find_recipe": "recipe", "TrainConfig": "config", "train": "training.loop",
    "Report": "training.loop", "build_optimizer": "training.optim", "learning_rate_at": "training.optim",
    "evaluate": "training.evaluate", "InputError": "errors", "TrainingError": "errors",
    "Run": "training.run", "create_run": "training.run", "open_run": "training.run", "keep": "training.keep",
    "stop_requests": "training.interrupt", "parallelize": "training.parallel", "ScaleConfig": "config",
    "GPT": "models.gpt", "GPTConfig": "models.gpt", "generate": "models.sampling",
}  # fmt: skip
__all__ = list(HOME)


def __getattr__(name: str) -> Any:
    if name not in HOME:
        raise AttributeError(f"module 'onehour' has no attribute {name!r}")
    return getattr(importlib.import_module(f"onehour.{HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__

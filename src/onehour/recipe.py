"""What a recipe is: the little that differs from one example to the next.

Preparing data, ordering it, the loop, evaluation, checkpoints, workers and Ray are the same for every recipe. A recipe
says only what its data are, what its model is and what its loss is. Your own is one Python file with one subclass:

    onehour train my_recipe.py --workers 4
"""

import dataclasses
import difflib
import hashlib
import importlib
import json
import linecache
import sys
import traceback
import types
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from onehour.config import TrainConfig
from onehour.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa
    from torch import Tensor, nn

    from onehour.data.arrow import Columns
    from onehour.models.language import Choice

Batch = dict[str, "Tensor"]

RECIPES = {
    "toy": ("onehour.recipes.toy", "Toy"),
    "digits": ("onehour.recipes.digits", "Digits"),
    "gpt": ("onehour.recipes.gpt", "GPTRecipe"),
    "classify": ("onehour.recipes.classify", "Classify"),
    "finetune": ("onehour.recipes.finetune", "FineTune"),
}


FILES: set[str] = set()  # the recipe files that this process has run


@dataclass(frozen=True)
class Recipe(ABC):
    """Base of all recipes. The fields of a subclass are its options, on the command line as `--name`.

    A batch is a dict of tensors whose first dimension is B, the number of samples: what `prepare` wrote, column by
    column.
    """

    source: ClassVar[str | None] = None  # the text of the file, for a recipe that is not part of the package
    path: ClassVar[str | None] = None  # and where it was read

    def defaults(self) -> TrainConfig:
        """How this recipe is trained when nothing else is said."""
        return TrainConfig()

    def space(self) -> dict[str, str]:
        """What `onehour search` chooses from: fields of this recipe or of TrainConfig, as text that onehour.space reads."""
        learning_rate = self.defaults().learning_rate
        return {"learning_rate": f"log({learning_rate / 10:.3g}, {learning_rate * 10:.3g})"}

    def fingerprint(self) -> str:
        """What the prepared data depend on; data are prepared anew when it changes. All options, unless overridden."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, default=str)

    @abstractmethod
    def prepare(self, folder: Path) -> dict[str, Any]:
        """Write train.arrow and held_out.arrow into `folder`, which is new and empty, with `onehour.data.write_rows`.

        Returns facts about the data that `metrics` and `closing_words` want (JSON). Raises InputError for unusable
        input. Writing is atomic and happens once: onehour.data.prepare sees to that. Without train.arrow where there
        are `pieces`.
        """

    def pieces(self) -> "Sequence[Any]":
        """Parts of the training data that `rows_of` can prepare one by one, in any process; none: `prepare` does it.

        They depend on the recipe and its input alone, and so the data are the same at any number of processes.
        """
        return ()

    def rows_of(self, piece: Any, folder: Path) -> "Iterator[Columns]":
        """The rows of one of `pieces`, as `write_rows` wants them; `folder` has what `prepare` wrote beside samples."""
        raise NotImplementedError

    @abstractmethod
    def build_model(self) -> "nn.Module":
        """A new model with random weights, on the CPU. The seed has been set."""

    def begin(self, folder: Path) -> "nn.Module":
        """The model with which a training begins, on the CPU: that of `build_model`, or with weights from `folder`.

        `folder` holds what `prepare` wrote beside samples. Parameters that do not require a gradient are not trained, and
        no checkpoint has them: whoever opens one begins here, too.
        """
        return self.build_model()

    def augment(self, batch: "Batch", uniform: "Callable[[int], Tensor]") -> "Batch":
        """Change a training batch at random. `uniform(n)` gives (B, n) numbers in [0, 1).

        They are a function of (seed, epoch, sample), so a sample meets the same change at any number of workers.
        """
        return batch

    @abstractmethod
    def loss(self, model: "nn.Module", batch: "Batch") -> "Tensor":
        """The loss of each sample, shape (B,). A sample's loss depends on that sample alone: no batch norm."""

    def count(self, model: "nn.Module", batch: "Batch") -> "dict[str, Tensor]":
        """What evaluation adds up over all held-out samples: sums over the batch, each of shape () or of a table."""
        return {"loss": self.loss(model, batch).sum()}

    def metrics(self, totals: dict[str, Any], num_samples: int, facts: dict[str, Any]) -> dict[str, Any]:
        """Turn the totals of `count` over all `num_samples` held-out samples into metrics. Here: their means.

        A metric is a number, or else a list, such as the rows of a table, which nobody draws as a curve.
        """
        return {name: total / num_samples for name, total in totals.items()}

    def unit(self) -> tuple[str, int]:
        """What speed is counted in, and how many of it are in a sample: ("tokens", 128)."""
        return "samples", 1

    def predict(self, model: "nn.Module", batch: "Batch") -> "dict[str, Tensor]":
        """Columns of predictions for a batch, each (B, ...), for `onehour predict`."""
        raise InputError(f"The recipe {self.name()} has no predict; try: onehour {self.next_command()} RUN.")

    def read(self, table: "pa.Table", folder: Path) -> "Columns | None":
        """What `predict` reads of a table that holds something else than numbers, such as texts; `folder` as in `begin`.

        None: the table has the columns of the recipe's own data.
        """
        return None

    def generate(self, model: "nn.Module", folder: Path, prompt: str, choice: "Choice") -> "Iterator[str]":
        """Continue `prompt`, piece by piece, for `onehour generate`; `folder` holds what `prepare` wrote."""
        raise InputError(f"The recipe {self.name()} has no generate; try: onehour {self.next_command()} RUN.")

    def closing_words(self, model: "nn.Module", folder: Path, metrics: dict[str, float], facts: dict[str, Any]) -> str:
        """What to show of the trained model at the end of a run; `metrics` is the last report."""
        held_out = {n.removeprefix("held_out_"): v for n, v in metrics.items() if n.startswith("held_out_")}
        return "held out   " + ", ".join(f"{name} {value:.4f}" for name, value in held_out.items())

    def next_command(self) -> str:
        """What one does with a trained model: what this recipe defines of predict and generate, or show."""
        defined = (name for name in ("predict", "generate") if getattr(type(self), name) is not getattr(Recipe, name))
        return next(defined, "show")

    @classmethod
    def name(cls) -> str:
        """The name under which `find_recipe` knows this class; for a recipe of your own, the stem of its file."""
        names = {path: name for name, path in RECIPES.items()}
        return names.get((cls.__module__, cls.__qualname__), cls.__module__.rpartition(".")[2])

    def describe(self) -> dict[str, Any]:
        """This recipe as JSON: what `recipe_from` turns into an equal recipe, on any machine."""
        options = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return {"name": self.name(), "options": options, "source": self.source}

    def __reduce__(self) -> tuple[Any, ...]:
        # A recipe from a user's file is pickled as its text: the file does not exist on other machines.
        return recipe_from, (self.describe(),)


def find_recipe(name: str) -> type[Recipe]:
    """The class of a recipe, by the name of one of onehour's or by the path of a Python file.

    Raises:
        InputError: there is no such recipe, or the file does not define exactly one.
    """
    if name in RECIPES:
        module, attribute = RECIPES[name]
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        try:
            return recipe_class(path.stem, path.read_text(encoding="utf-8"), str(path))
        except UnicodeDecodeError as error:
            raise InputError(f"The recipe file {path} is not UTF-8 text: save it as UTF-8.") from error
    near = difflib.get_close_matches(name, [*RECIPES, *(str(p) for p in Path().glob("*.py"))], n=2)
    hint = (
        f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(RECIPES)}, or the path of a .py file."
    )
    what = f"file {path.absolute()}" if path.suffix == ".py" else repr(name)
    raise InputError(f"There is no recipe {what}; {hint}")


def recipe_class(stem: str, source: str, path: str) -> type[Recipe]:
    """Run the text of a recipe file and return the one subclass of Recipe that it defines.

    Raises:
        InputError: the file has an error, or it defines none or several.
    """
    name = f"onehour.recipes.user.{stem}"
    module = types.ModuleType(name)
    module.__file__ = path
    FILES.add(path)
    # On another machine the file does not exist, and tracebacks show its lines all the same.
    linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
    sys.modules[name] = module  # dataclasses look their module up here
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except Exception as error:
        raise InputError(short_traceback(error)) from error
    found = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Recipe) and c.__module__ == name]
    if len(found) != 1:
        names = ", ".join(c.__name__ for c in found) or "none"
        raise InputError(f"The recipe file {path} must define one subclass of onehour.Recipe; it defines {names}.")
    if missing := sorted(getattr(found[0], "__abstractmethods__", ())):
        raise InputError(f"The recipe {found[0].__name__} in {path} must also define: {', '.join(missing)}.")
    found[0].source, found[0].path = source, path
    return found[0]


def short_traceback(error: Exception) -> str | None:
    """What went wrong in a recipe file, without the frames above it. None if the error comes from elsewhere."""
    frames = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(frames) if frame.filename in FILES), len(frames))
    path = error.filename if isinstance(error, SyntaxError) else first < len(frames) and frames[first].filename
    if path not in FILES:
        return None
    lines = traceback.format_list(frames[first:]) + traceback.format_exception_only(error)
    return f"The recipe {path} fails:\n{''.join(lines).rstrip()}"


def recipe_from(description: dict[str, Any]) -> Recipe:
    """The recipe that `Recipe.describe` described."""
    name, source = description["name"], description["source"]
    cls = recipe_class(name, source, f"{name}.py") if source else find_recipe(name)
    return cls(**description["options"])


def digest(text: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""The source that a cluster runs, shown where it is read about."""

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from IPython.display import Markdown


def show_source(*things: Callable[..., Any] | type) -> Markdown:
    """The source of functions or classes of the library, as a notebook shows code: not a copy, so it cannot be old."""
    return Markdown(
        "\n".join(f"```python\n{textwrap.dedent(inspect.getsource(thing)).rstrip()}\n```" for thing in things)
    )

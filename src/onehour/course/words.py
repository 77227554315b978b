"""The language of pictures and hints: that of the notebook. The code of a chapter is the same in both."""

import os
from pathlib import Path


def say(english: str, chinese: str) -> str:
    """The text in the language of the notebook that runs.

    A notebook runs in its own folder, and those in notebooks/zh are in Chinese. Elsewhere, as on Colab,
    ONEHOUR_LANGUAGE=zh says so.
    """
    language = os.environ.get("ONEHOUR_LANGUAGE") or ("zh" if Path.cwd().name == "zh" else "en")
    return chinese if language == "zh" else english

"""Python's functions as questions, and what people wrote about them as answers.

Of each function in the standard library that has a docstring: the source without it, and its first paragraph.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence

from onehour.data.conversations import Conversation
from onehour.data.labelled import functions_of
from onehour.data.sources import Source
from onehour.data.text import read_file

QUESTION = "Write the docstring of this Python function, in one sentence.\n\n```python\n{}\n```"
LONGEST = 600  # characters of a function: of longer ones fewer fit into a row
WORDS = range(4, 40)  # in an answer: less says nothing, and more is no sentence


def documented_functions(sources: Sequence[Source]) -> Iterator[Conversation]:
    """A conversation about each function that has a docstring; its name begins with that of the module, or package."""
    for source in sources:
        module = source.name.partition("/")[0].removesuffix(".py")
        for number, (function, docstring) in enumerate(functions_in(read_file(source).decode(errors="replace"))):
            if len(function) <= LONGEST and len(docstring.split()) in WORDS:
                question, answer = ("user", QUESTION.format(function)), ("assistant", docstring)
                messages = [{"role": role, "content": said} for role, said in (question, answer)]
                yield Conversation(f"{module}/{source.name}#{number}", messages)


def functions_in(text: str) -> Iterator[tuple[str, str]]:
    """Each function of a source that has a docstring and more than that: without it, and its first paragraph."""
    lines = text.splitlines()
    for node in functions_of(ast.parse(text)):
        if len(node.body) < 2:
            continue
        docstring, said = ast.get_docstring(node), node.body[0]
        if docstring and node.end_lineno and said.end_lineno and said.end_lineno < node.body[1].lineno:
            kept = lines[node.lineno - 1 : said.lineno - 1] + lines[node.body[1].lineno - 1 : node.end_lineno]
            first = inspect.cleandoc(docstring).partition("\n\n")[0]
            yield textwrap.dedent("\n".join(kept)), " ".join(first.split())

"""What the README shows is what there is."""

import re
from pathlib import Path

from onehour.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_recipe_in_the_readme_trains(tmp_path, monkeypatch, capsys):
    (source,) = re.findall(r"```python\n# my_recipe.py\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["bin/onehour"])  # whatever has started the tests
    Path("my_recipe.py").write_text(source)
    main(["train", "my_recipe.py", "--workers", "0", "--num-epochs", "2", "--hidden", "64"])
    assert "onehour show my_recipe-1" in capsys.readouterr().out


def test_every_module_in_how_it_is_built_is_there():
    (tree,) = re.findall(r"```\nsrc/onehour/\n(.*?)```", README, re.DOTALL)
    package = Path(__file__).parents[1] / "src" / "onehour"
    named = set(re.findall(r"\b[a-z_]+\.py\b", tree))
    assert named
    assert named <= {path.name for path in package.rglob("*.py")}


def test_no_place_is_left_to_fill_in():
    assert "@@" not in README

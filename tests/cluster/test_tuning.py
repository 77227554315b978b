"""onehour search on a local Ray: trials are runs, pruned ones free their workers, a failed one is a row."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from onehour.cli import main
from onehour.recipes.toy import Toy
from onehour.training.loop import train
from onehour.training.run import Run, open_run
from onehour.training.trials import Search

QUICK = ["--num-steps=20", "--evaluate-every=2"]


def run(line, *options):
    """A command's exit code."""
    try:
        main([*line.split(), *options])
    except SystemExit as end:
        return end.code
    return 0


@pytest.fixture
def folder(tmp_path, monkeypatch, local_ray):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["bin/onehour"])
    return tmp_path / "runs"


def curve(run):
    return [row["held_out_loss"] for row in run.rows() if "held_out_loss" in row]


def test_every_trial_is_the_run_of_the_same_training(folder, capsys):
    """Also: a trial that fails is a row with its error; the best can be used, trained again and gone on with."""
    Path("mine.py").write_text(
        "from dataclasses import dataclass\nfrom onehour.recipes.toy import Toy\n"
        "@dataclass(frozen=True)\nclass Mine(Toy):\n    pass\n"
    )
    space = ["--space=learning_rate=choice(0.1,0.01,1e30)", "--space=momentum=0.5"]
    assert run("search mine.py --searcher grid --scheduler none --at-once 1", *QUICK, *space) == 0
    said = capsys.readouterr().out
    (search,) = (Search(path.parent) for path in folder.glob("*/search.json"))
    assert search.name == "search-mine-1"
    trials = search.results()
    assert {trial.chosen["learning_rate"]: trial.state for trial in trials} == {
        0.1: "done",
        0.01: "done",
        1e30: "failed",
    }
    for trial in trials:
        if trial.state == "failed":
            assert "The training diverged at step" in trial.error
            assert f"{trial.name} failed: {trial.error}" in said
        else:
            config = dataclasses.replace(Toy().defaults(), num_steps=20, evaluate_every=2, momentum=0.5, **trial.chosen)
            alone = [r.metrics["held_out_loss"] for r in train(Toy(), config) if "held_out_loss" in r.metrics]
            assert curve(Run(search.folder / trial.name)) == pytest.approx(alone, rel=1e-5)
    best = search.best()
    assert (best.chosen, best.step) == ({"learning_rate": 0.1}, 20)
    assert open_run(Path("runs"), search.name).name == best.name
    assert pq.read_table(search.results_file).num_rows == 3
    for name in ("parallel.png", "best_so_far.png"):
        assert (search.folder / name).read_bytes().startswith(b"\x89PNG")

    (again,) = (line.partition(" train ")[2] for line in said.splitlines() if line.startswith("again"))
    assert run(f"train {again} --workers 0 --name again") == 0
    assert run("train mine.py --from search-mine-1 --workers 0 --name from") == 0
    for name in ("again", "from"):
        assert curve(Run(folder / name)) == pytest.approx(curve(Run(search.folder / best.name)), rel=1e-5)
    assert run(f"train --resume search-mine-1/{best.name} --num-steps 22 --workers 0") == 0
    assert run("predict search-mine-1") == 0
    assert run("show search-mine-1") == 0
    capsys.readouterr()
    assert run("runs") == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("search-mine-1 "))
    assert line.split()[1:4] == ["mine", "done", "3/3"] and f"{best.metrics['held_out_loss']:.4f} held out" in line
    assert run("search toy --name search-mine-1", *QUICK) == 2
    assert "There is something called search-mine-1 in" in capsys.readouterr().err
    assert run("train toy --from search-mine-1 --workers 0") == 2
    assert "search-mine-1 trains the recipe mine, not toy." in capsys.readouterr().err


@pytest.mark.long
def test_asha_stops_trials_of_several_workers_which_save_and_leave(folder, capsys):
    """One at a time, the best first; whoever comes later is not among the best quarter at the first rung."""
    space = ["--space=learning_rate=choice(0.5,0.0001)", "--space=momentum=0"]
    options = ["--num-steps=2000", "--evaluate-every=50", "--log-every=50", "--at-once=1"]
    assert run("search toy --workers 2 --searcher grid", *options, *space) == 0
    trials = {trial.chosen["learning_rate"]: trial for trial in Search(folder / "search-toy-1").results()}
    assert trials[0.5].state == "done"
    assert trials[0.0001].state == "stopped"
    stopped = Run(folder / "search-toy-1" / trials[0.0001].name)
    assert stopped.rows()[-1]["step"] < 2000
    assert stopped.newest_checkpoint()[0] == stopped.checkpoint_at(stopped.rows()[-1]["step"])


def test_pbt_lets_the_worst_go_on_from_the_best(folder, capsys):
    """Two train in step until the worse one begins again, from the better one: that is a third thread."""
    Path("paired.py").write_text(
        "import os, threading, time\nfrom dataclasses import dataclass\nfrom pathlib import Path\n"
        "from onehour.recipes.toy import Toy\n"
        "@dataclass(frozen=True)\nclass Paired(Toy):\n"
        "    here: str = ''\n    planner: int = 0\n"
        "    def loss(self, model, batch):\n"
        "        if model.training and os.getpid() != self.planner:\n"
        "            steps = Path(self.here, str(threading.get_native_id()))\n"
        "            steps.open('a').write('.')\n"
        "            while len(all := list(steps.parent.iterdir())) < 3 and (\n"
        "                len(all) < 2 or any(one.stat().st_size < steps.stat().st_size for one in all)\n"
        "            ):\n"
        "                time.sleep(0.01)\n"
        "        return super().loss(model, batch)\n"
    )
    Path("here").mkdir()
    space = ["--space=learning_rate=choice(0.3,0.000001)", "--space=momentum=0", "--seed=3"]  # which draws one of each
    options = ["--num-steps=40", "--evaluate-every=4", f"--planner={os.getpid()}", f"--here={Path('here').absolute()}"]
    assert run("search paired.py --scheduler pbt --trials 2 --at-once 2", *space, *options) == 0
    search = Search(folder / "search-paired-1")
    trials = search.results()
    assert [(trial.state, trial.step) for trial in trials] == [("done", 40)] * 2
    for trial in trials:
        run_of_it = Run(search.folder / trial.name)
        assert run_of_it.newest_checkpoint()[0] == run_of_it.checkpoint_at(40)
    assert {trial.chosen["learning_rate"] for trial in trials} <= {0.3, 0.000001}
    assert max(trial.metrics["held_out_loss"] for trial in trials) < 0.5  # at 1e-6 alone it stays at 0.7
    assert len(list(Path("here").iterdir())) >= 3


def test_optuna_and_median_and_a_metric_to_maximize(folder, capsys):
    options = ["--trials=5", "--maximize=held_out_accuracy", "--searcher=optuna", "--scheduler=median", "--at-once=2"]
    assert run("search toy --name tpe", *QUICK, *options) == 0
    search = Search(folder / "tpe")
    accuracies = [trial.metrics["held_out_accuracy"] for trial in search.results()]
    assert len(accuracies) == 5
    assert search.best().metrics["held_out_accuracy"] == max(accuracies)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "search toy --workers 9 --global-batch-size 18",
            "9 workers with 1 CPU core each do not fit on 1 node with 8 CPU cores",
        ),
        ("search toy --workers 2 --at-once 5", "5 trials at once do not fit; there is room for 4: use --at-once 4."),
    ],
)
def test_a_search_that_would_never_end_is_refused(folder, capsys, line, said):
    assert run(line) == 2
    assert said in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.long
def test_a_search_that_was_ended_goes_on(folder, capsys):
    """SIGTERM in the middle of it, as Ctrl-C; what had ended is not done again, what had begun goes on where it was."""
    line = "search toy --trials 5 --at-once 1 --scheduler none --num-steps 2400 --evaluate-every 400 --name long"
    process = subprocess.Popen([sys.executable, "-m", "onehour", *line.split()], stdout=subprocess.PIPE, text=True)
    said = iter(process.stdout.readline, "")
    assert any("done at step 2,400/2,400" in text for text in said)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    search = Search(folder / "long")
    ended = {trial.name for trial in search.results() if trial.state == "done"}
    before = {name: (search.folder / name / "metrics.jsonl").read_bytes() for name in ended}
    assert 1 <= len(ended) < 5

    assert run("search --resume long") == 0
    assert "--resume long" not in capsys.readouterr().out
    assert [(trial.state, trial.step) for trial in search.results()] == [("done", 2400)] * 5
    for name, rows in before.items():
        assert (search.folder / name / "metrics.jsonl").read_bytes() == rows
    for trial in search.results():
        steps = [row["step"] for row in Run(search.folder / trial.name).rows()]
        assert steps == sorted(set(steps))
    assert run("search --resume nothing") == 2
    assert "There is no search nothing in" in capsys.readouterr().err

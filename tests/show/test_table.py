from pathlib import Path

from onehour.show.table import NUM_SHOWN, configuration_text, evaluations_text, labelled


def row(step, held_out):
    return {"step": step, "loss": 0.5, "held_out_loss": held_out, "held_out_bits_per_byte": 2 * held_out}


def test_a_line_for_each_evaluation_and_the_lowest_marked():
    rows = [{"step": 5, "loss": 0.7}, row(10, 0.4), row(1000, 0.25), row(1500, 0.3)]
    assert evaluations_text(rows) == (
        " step  training loss  held-out loss  held-out bits per byte\n"
        "   10         0.5000         0.4000                  0.8000\n"
        "1,000         0.5000         0.2500                  0.5000  lowest\n"
        "1,500         0.5000         0.3000                  0.6000"
    )


def test_of_many_evaluations_the_last_ones():
    text = evaluations_text([row(step, 1 / step) for step in range(1, NUM_SHOWN + 4)])
    assert text.count("\n") == NUM_SHOWN + 1
    assert text.endswith("3 earlier evaluations are in metrics.jsonl")


def test_without_evaluation():
    assert evaluations_text([{"step": 5, "loss": 0.7}]) == "no evaluation yet"


def test_the_configuration_names_what_is_set(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    config = {
        "recipe": {"name": "gpt", "options": {"depth": 2, "text": None}},
        "train": {"num_steps": 30, "clip": None, "seed": 0},
        "scale": {"workers": 0},
        "versions": {"torch": "2.13.0"},
    }
    assert configuration_text(config, Path("checkpoints/step_0000030")) == (
        "recipe     gpt, depth 2\n"
        "training   num_steps 30, seed 0\n"
        "scale      workers 0\n"
        "versions   torch 2.13.0\n"
        "checkpoint step_0000030"
    )
    assert configuration_text(config, None).endswith("checkpoint none yet")


def test_a_long_text_is_wrapped_beside_its_label(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    lines = labelled("data", "a-word " * 12, indent=8).splitlines()
    assert lines[0] == "data    a-word a-word a-word a-word"
    assert all(line.startswith("        a-word") for line in lines[1:])

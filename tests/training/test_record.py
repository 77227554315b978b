"""The record of what was trained: it proves a run that lost nothing, and finds what was lost, twice or not recorded."""

import dataclasses
import json

import pytest

from onehour.errors import InputError
from onehour.recipes.toy import Toy
from onehour.training.checkpoint import read_facts
from onehour.training.keep import keep
from onehour.training.loop import train
from onehour.training.record import digest, examine, read_record
from onehour.training.run import create_run


@pytest.fixture(params=[{"audit": True}, {"audit_ids": True}], ids=["digests", "ids"])
def run(tmp_path, request):
    """20 steps of 2 of 5 samples, 8 epochs; the first attempt ended after step 12 and the second began at step 10."""
    run = create_run(tmp_path, None, "toy")
    config = dataclasses.replace(Toy().defaults(), num_steps=20, log_every=1, checkpoint_every=10, **request.param)
    for report in keep(train(Toy(), config), run):
        if report.step == 12:
            break
    list(keep(train(Toy(), config, run.checkpoint_at(10)), run))
    return run


def account(run):
    facts = read_facts(run.newest_checkpoint()[0])
    return examine(read_record(run.audit_file), facts["attempt"], facts["step"])


def rewrite(run, change):
    rows = [json.loads(line) for line in run.audit_file.read_text().splitlines()]
    run.audit_file.write_text("".join(json.dumps(row) + "\n" for row in rows if change(row) is not False))


def test_a_run_that_lost_nothing(run):
    proven = account(run)
    assert (proven.num_steps, proven.num_attempts, proven.num_trained) == (20, 2, 40)
    assert (proven.lost, proven.twice, proven.wrong, proven.done_again) == (0, 0, [], 2)


def test_a_step_that_was_not_recorded(run):
    rewrite(run, lambda row: row.get("step") != 15)
    proven = account(run)
    assert (proven.wrong, proven.lost, proven.twice) == ([15], 2, 0)


def test_a_step_that_trained_another_sample(run):
    """One sample in place of another one: with ids it is seen which; a digest tells only that the step is wrong."""

    def swap(row):
        if row.get("step") == 7:
            ids = row.get("ids", [[0, 0]])
            ids[0][1] = ids[0][0]
            row["digests"] = [digest_of(ids[0])]

    rewrite(run, swap)
    proven = account(run)
    assert proven.wrong == [7] or (proven.lost, proven.twice) == (1, 1)
    assert proven.lost in (1, 2)


def digest_of(ids):
    import numpy as np

    return digest(np.array(ids))


def test_a_line_that_was_cut_off_is_passed_over(run):
    text = run.audit_file.read_text()
    run.audit_file.write_text(
        text[: text.index('{"step": 12')] + '{"step": 12, "dig\n' + text[text.index('{"attempt"', 5) :]
    )
    proven = account(run)
    assert (proven.lost, proven.twice, proven.wrong, proven.done_again) == (0, 0, [], 1)


def test_a_run_without_a_record(tmp_path):
    with pytest.raises(InputError, match=r"There is no record .*audit.jsonl; the run has to be trained with --audit"):
        read_record(tmp_path / "audit.jsonl")

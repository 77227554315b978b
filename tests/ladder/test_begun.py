"""The ladder for trainings that begin with something: a pretrained model, whole or sharded, and labelled text."""

import dataclasses
from typing import Any

import pytest
from test_ladder import CASES, all_on_ray, assert_same_curve, curve, in_process
from tiny import write_conversations, write_tiny

from onehour.data.prepare import prepare
from onehour.models.gpt import GPT
from onehour.recipes.classify import Classify
from onehour.recipes.finetune import FineTune
from onehour.training.device import this_worker
from onehour.training.evaluate import evaluate
from onehour.training.run import load_trained


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("begun")
    tiny, talk = str(write_tiny(place / "tiny")), str(write_conversations(place / "talk.jsonl"))
    every = dict(
        num_steps=24, log_every=1, evaluate_every=8, checkpoint_every=8, global_batch_size=12, micro_batch_size=3
    )

    def config(recipe: Any, **changes: Any) -> Any:
        return dataclasses.replace(recipe.defaults(), **every, evaluate_first=False, **changes)

    lora = FineTune(tiny, talk, context=160, lora_rank=4)
    mail = place / "mail.csv"
    mail.write_text("label,text\n" + "".join(
        f"{'spam' if i % 2 else 'ham'},{'free money now' if i % 2 else 'see you at lunch'} {i * 7 % 11}\n" for i in range(90)
    ))  # fmt: skip
    classify = Classify(str(mail), context=24, vocab_size=256, depth=1)
    return {
        "lora": (lora, config(lora)),
        "lora-sharded": (lora, config(lora, strategy="fsdp")),
        "classify": (classify, config(classify)),
    }


def test_ray_gives_the_loss_of_one_process(cases, tmp_path, local_ray):
    assert not cases.keys() & CASES.keys()
    alone = {}
    for name, (recipe, config) in cases.items():
        here = dataclasses.replace(config, strategy="auto")
        alone[name] = curve(in_process(recipe, here, tmp_path / "alone" / name))
    for name, run in all_on_ray(cases, tmp_path, workers=2).items():
        assert_same_curve(run, alone[name])
        recipe, config = cases[name]
        _, model = load_trained(run)  # whole again, and LoRA merged
        found = evaluate(
            recipe, model, prepare(recipe), dataclasses.replace(config, strategy="none"), this_worker(config)
        )
        assert found["loss"] == pytest.approx(run.rows()[-1]["held_out_loss"], rel=1e-4)
        assert isinstance(model, GPT) == isinstance(recipe, FineTune)

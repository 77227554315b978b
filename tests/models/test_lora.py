"""Low-rank adaptation against peft's, on a model of transformers."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import write_tiny
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from onehour.models.lora import LoRALinear, add_lora, merge_lora
from onehour.models.pretrained import open_pretrained

RANK, ALPHA = 4, 10


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"))


def adapted(tiny):
    model = open_pretrained(tiny).build()
    torch.manual_seed(1)
    add_lora(model, model.layers, RANK, ALPHA)
    return model


def tokens():
    return torch.randint(0, 300, (3, 12), generator=torch.Generator().manual_seed(2))


def losses(model, logits_of, steps=5):
    """The losses of some steps of AdamW on what is not frozen."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    found = []
    for _ in range(steps):
        logits = logits_of(tokens()[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), tokens()[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def test_a_training_is_that_of_peft(tiny):
    ours = adapted(tiny)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", lora_dropout=0.0)
    theirs = get_peft_model(LlamaForCausalLM.from_pretrained(tiny), config)
    lora = {name: module for name, module in ours.named_modules() if isinstance(module, LoRALinear)}
    with torch.no_grad():
        for name, module in lora.items():
            twin = theirs.get_submodule(f"base_model.model.model.{name}")
            twin.lora_A["default"].weight.copy_(module.lora_a)
    num_trained = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, theirs)]
    assert num_trained[0] == num_trained[1] > 0
    ours_losses = losses(ours, ours)
    assert ours_losses == pytest.approx(losses(theirs, lambda t: theirs(input_ids=t).logits), rel=1e-4)
    assert ours_losses[-1] < ours_losses[0] - 0.1

    merge_lora(ours)
    merged = theirs.merge_and_unload().state_dict()
    for name, weight in ours.state_dict().items():
        torch.testing.assert_close(weight, merged[f"model.{name}"], rtol=1e-4, atol=1e-5)


def test_it_begins_as_what_it_adapts_and_merging_changes_nothing(tiny):
    plain, model = open_pretrained(tiny).build(), adapted(tiny)
    assert torch.equal(plain(tokens()), model(tokens()))
    losses(model, model)
    before = model(tokens())
    names = {name for name, _ in plain.named_parameters()}
    merge_lora(model)
    assert {name for name, _ in model.named_parameters()} == names
    torch.testing.assert_close(model(tokens()), before, rtol=1e-4, atol=1e-5)


def test_only_what_is_adapted_is_trained(tiny):
    model = adapted(tiny)
    trained = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"lora_a", "lora_b"}
    assert sum(type(m) is nn.Linear for m in model.modules()) == 0  # this model is tied: no lm_head

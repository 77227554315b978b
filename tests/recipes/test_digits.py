"""The digits: complete data, and samples that never notice which others they share a batch with."""

import numpy as np
import pytest
import torch

from onehour.data.loader import MicroBatches
from onehour.data.prepare import prepare
from onehour.recipes.digits import Digits, jiggle, load_digits


@pytest.fixture(scope="module")
def data():
    return prepare(Digits())


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Digits().build_model()


def images_of(data, num):
    return data.held_out[range(num)]["image"]


def as_bytes(images, labels):
    return sorted(
        image.tobytes() + bytes([label]) for image, label in zip(np.asarray(images), np.asarray(labels), strict=True)
    )


def test_every_digit_is_either_trained_or_held_out(data):
    images, labels = load_digits()
    train, held_out = (rows[range(len(rows))] for rows in (data.train, data.held_out))
    assert (len(data.train), len(data.held_out)) == (1438, 359)
    both = (torch.cat([train[name], held_out[name]]) for name in ("image", "label"))
    assert as_bytes(*both) == as_bytes(images, labels)
    assert len(set(as_bytes(images, labels))) == len(images)  # so none is in both parts


def test_images_are_8_by_8_from_0_to_1_and_every_class_is_in_both_parts(data):
    for rows in (data.train, data.held_out):
        batch = rows[range(len(rows))]
        assert batch["image"].shape == (len(rows), 1, 8, 8)
        assert batch["image"].dtype == torch.float32
        assert (batch["image"].min(), batch["image"].max()) == (0, 1)
        assert batch["label"].shape == (len(rows),)
        assert batch["label"].unique().tolist() == list(range(10))


@pytest.mark.parametrize(("world_size", "num_micro_batches"), [(2, 1), (3, 2), (6, 1), (1, 4)])
def test_augmentation_of_a_sample_does_not_depend_on_the_batch_it_comes_in(data, world_size, num_micro_batches):
    recipe = Digits()
    size = recipe.defaults().global_batch_size

    def global_batch(step, world_size, num_micro_batches):
        parts = [
            part
            for rank in range(world_size)
            for parts in MicroBatches(
                recipe, data.train, 5, size, rank, world_size, num_micro_batches
            ).steps(step, step + 1, 0, pin_memory=False)
            for part in parts
        ]  # fmt: skip
        return {name: torch.cat([part[name] for part in parts]) for name in ("image", "label")}

    for step in (0, 23, 24):  # step 23 begins in one epoch and ends in the next
        whole, divided = global_batch(step, 1, 1), global_batch(step, world_size, num_micro_batches)
        assert torch.equal(whole["label"], divided["label"])
        torch.testing.assert_close(whole["image"], divided["image"], rtol=0, atol=1e-6)


def test_augmentation_of_strength_0_leaves_images_alone(data):
    images = images_of(data, 50)
    torch.testing.assert_close(jiggle(images, torch.rand(50, 5), 0.0), images, rtol=0, atol=1e-5)


def test_augmentation_in_the_middle_of_its_range_leaves_images_alone(data):
    images = images_of(data, 50)
    torch.testing.assert_close(jiggle(images, torch.full((50, 5), 0.5), 1.0), images, rtol=0, atol=1e-5)


def test_stronger_augmentation_changes_images_more(data):
    images, uniform = images_of(data, 200), torch.rand(200, 5, generator=torch.Generator().manual_seed(1))
    changes = [(jiggle(images, uniform, strength) - images).abs().mean() for strength in (0.0, 0.25, 0.5, 1.0)]
    assert changes == sorted(changes)
    assert 0.02 < changes[-1] < 0.25


def test_augmentation_differs_between_the_samples_of_a_batch_and_between_epochs(data):
    recipe, size = Digits(), len(data.train)
    epochs = MicroBatches(recipe, data.train, 5, size, 0, 1, 1).steps(0, 2, 0, pin_memory=False)
    changed = [{image.numpy().tobytes() for image in batch["image"]} for (batch,) in epochs]
    assert [len(images) for images in changed] == [size, size]
    assert not changed[0] & changed[1]


def test_predictions_of_a_sample_do_not_depend_on_the_others_in_its_batch(data, model):
    recipe, batch = Digits(), data.held_out[range(24)]
    for compute in (lambda b: model(b["image"]), lambda b: recipe.loss(model, b)):
        together = compute(batch)
        alone = [compute({name: column[i : i + 1] for name, column in batch.items()}) for i in range(24)]
        torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=1e-5)


def test_evaluation_counts_samples_one_by_one(data, model):
    recipe, batch = Digits(), data.held_out[range(24)]
    parts = [recipe.count(model, {n: c[i : i + 8] for n, c in batch.items()}) for i in (0, 8, 16)]
    whole = recipe.count(model, batch)
    assert sum(part["accuracy"] for part in parts) == whole["accuracy"]
    assert sum(part["loss"].item() for part in parts) == pytest.approx(whole["loss"].item(), rel=1e-5)


def test_predictions_are_the_most_probable_classes(data, model):
    batch = data.held_out[range(24)]
    predicted = Digits().predict(model, batch)
    assert torch.equal(predicted["prediction"], model(batch["image"]).argmax(dim=1))
    assert ((predicted["probability"] > 0.1) & (predicted["probability"] <= 1)).all()


def test_defaults_divide_by_the_usual_numbers_of_workers():
    assert all(Digits().defaults().global_batch_size % workers == 0 for workers in (1, 2, 3, 4, 6))

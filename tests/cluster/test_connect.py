"""A Ray of our own: which processes it and a training on it begin."""

import dataclasses

import ray
from ray._private import state, worker

from onehour.cluster.connect import ray_cluster
from onehour.cluster.launch import train_on_ray
from onehour.config import ScaleConfig
from onehour.data.prepare import prepare
from onehour.recipes.toy import Toy
from onehour.training.run import create_run


def test_no_process_begins_that_nobody_uses(tmp_path):
    recipe, scale = Toy(), ScaleConfig(workers=1, cpus_per_worker=0.5)
    config = dataclasses.replace(recipe.defaults(), num_steps=2)
    run = create_run(tmp_path, None, recipe.name())
    run.describe(recipe, config, scale, prepare(recipe))
    with ray_cluster(None):
        assert worker._global_node.all_processes.keys() == {"gcs_server", "raylet"}
        assert list(train_on_ray(recipe, config, scale, run))[-1]["step"] == 2
        actors = sorted(actor["ActorClassName"] for actor in state.state.actor_table(None).values())
    assert actors == ["RayTrainWorker", "SynchronizationActor", "TrainController"]
    assert not ray.is_initialized()

"""The files of `ray up` against Ray's own schema."""

from pathlib import Path

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTERS = Path(__file__).parents[2] / "clusters"
PLACES = {
    "aws": [(), ("available_node_types", "gpu"), ("auth",)],
    "gcp": [(), ("available_node_types", "gpu"), ("auth",)],
    "on-premises": [(), ("auth",)],
}


@pytest.mark.parametrize(("folder", "place"), [(folder, place) for folder in PLACES for place in PLACES[folder]])
def test_a_key_that_ray_does_not_know_is_found(folder, place):
    config = prepare_config(yaml.safe_load((CLUSTERS / folder / "cluster.yaml").read_text()))
    validate_config(config)
    inner = config
    for key in place:
        inner = inner[key]
    inner["min_worker"] = 1
    with pytest.raises(ValidationError, match="'min_worker' was unexpected"):
        validate_config(config)

"""clusters/gcp is what `ray up` starts from: Ray's own steps through Google's own client, answered without a network.

What is sent is held against the description of the API that the client brings.
"""

import copy
import json
import re
from importlib.resources import files
from pathlib import Path

import google.auth
import httplib2
import pytest
import yaml
from google.auth.credentials import AnonymousCredentials
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider

TEXT = (Path(__file__).parents[2] / "clusters" / "gcp" / "cluster.yaml").read_text()
CLUSTER = yaml.safe_load(TEXT.replace("YOUR-PROJECT", "my-project"))
DESCRIPTION = files("googleapiclient") / "discovery_cache" / "documents" / "compute.v1.json"
SCHEMAS = json.loads(DESCRIPTION.read_text())["schemas"]
ANSWERS = [  # method, address, what Google answers to it
    ("GET", r"cloudresourcemanager.*/projects/my-project", {"projectId": "my-project", "lifecycleState": "ACTIVE"}),
    ("GET", r"iam.*/serviceAccounts/ray-autoscaler-sa-v1@", None),
    ("POST", r"iam.*/serviceAccounts", {"email": "ray-autoscaler-sa-v1@my-project", "projectId": "my-project"}),
    ("POST", r":getIamPolicy", {"bindings": []}),
    ("POST", r":setIamPolicy", {}),
    ("GET", r"compute/v1/projects/my-project\?", {"name": "my-project", "commonInstanceMetadata": {}}),
    ("POST", r"/setCommonInstanceMetadata", {"name": "operation"}),
    ("POST", r"/zones/us-central1-a/instances", {"name": "operation"}),
    ("GET", r"/operations/operation", {"status": "DONE"}),
]


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """The bodies of the requests, each with its address, in an account in which Ray was never used."""
    bodies = []

    def request(self, uri, method="GET", body=None, headers=None, **_):
        answer = next(answer for verb, address, answer in ANSWERS if verb == method and re.search(address, uri))
        bodies.append((uri, json.loads(body or "{}")))
        return httplib2.Response({"status": 404 if answer is None else 200}), json.dumps(answer).encode()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray keeps the key that it makes in ~/.ssh
        patch.setattr(google.auth, "default", lambda **_: (AnonymousCredentials(), "my-project"))
        patch.setattr(httplib2.Http, "request", request)
        yield bodies


@pytest.fixture(scope="module")
def config(sent):
    """What `ray up` makes of cluster.yaml."""
    return _bootstrap_config(CLUSTER, no_config_cache=True)


def start(config, kind, sent):
    """What Ray sends to start a node of this kind, the way that `ray up` and the autoscaler put it together."""
    machine = copy.deepcopy(config["available_node_types"][kind]["node_config"])
    if kind == config["head_node_type"]:
        machine.update(config["head_node"])
    sent.clear()
    GCPNodeProvider(config["provider"], config["cluster_name"]).create_node(machine, {"ray-node-name": kind}, 1)
    return next(body for uri, body in sent if "/instances" in uri)


def complaints(value, schema, path="instance"):
    """What a value has that the API does not know, or that has another type there."""
    schema = SCHEMAS.get(schema.get("$ref"), schema)
    kind = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer"}[type(value)]
    if kind != schema["type"] and not (kind == "integer" and schema.get("format") == "int64"):
        return [f"{path} is {kind}, not {schema['type']}"]
    if kind == "array":
        return [c for i, each in enumerate(value) for c in complaints(each, schema["items"], f"{path}[{i}]")]
    if kind == "object":
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        unknown = [f"{path}.{key} is unknown" for key in value if key not in known and not others]
        inner = [(key, known.get(key, others)) for key in value if key in known or others]
        return unknown + [c for key, each in inner for c in complaints(value[key], each, f"{path}.{key}")]
    if value not in schema.get("enum", [value]):
        return [f"{path} is {value}"]
    return []


def test_machines_are_what_the_file_says(config, sent):
    head, gpu, cpu = machines = [start(config, kind, sent) for kind in ("head", "gpu", "cpu")]
    assert [complaints(machine, {"$ref": "Instance"}) for machine in machines] == [[], [], []]
    types = [machine["machineType"].split("/")[-1] for machine in machines]
    assert types == ["n2-standard-4", "g2-standard-8", "n2-standard-8"]
    assert "scheduling" not in head
    for machine in (gpu, cpu):
        assert machine["scheduling"]["provisioningModel"] == "SPOT"
        assert machine["scheduling"]["instanceTerminationAction"] == "DELETE"
    kinds, zone = config["available_node_types"], CLUSTER["provider"]["availability_zone"]
    assert [kinds[kind]["resources"]["CPU"] for kind in ("head", "gpu", "cpu")] == [0, 8, 8]
    assert kinds["gpu"]["resources"]["GPU"] == 1
    assert [kinds[kind]["min_workers"] for kind in ("gpu", "cpu")] == [0, 0]
    for machine in machines:
        [disk] = machine["disks"]
        assert "2404" in disk["initializeParams"]["sourceImage"]  # one Ubuntu has one Python
        assert disk["initializeParams"]["diskType"] == f"zones/{zone}/diskTypes/pd-balanced"


def test_machines_are_in_a_network_of_their_own(config, sent):
    region = CLUSTER["provider"]["region"]
    for kind in ("head", "gpu", "cpu"):
        machine = start(config, kind, sent)
        [interface] = machine["networkInterfaces"]
        assert interface["subnetwork"] == f"regions/{region}/subnetworks/onehour"
        assert machine["tags"] == {"items": ["onehour"]}


def test_who_the_machines_are(config, sent):
    for kind in ("gpu", "cpu"):
        [account] = start(config, kind, sent)["serviceAccounts"]
        assert account["email"] == "onehour-worker@my-project.iam.gserviceaccount.com"
    [account] = start(config, "head", sent)["serviceAccounts"]  # README.md says why it is this one
    assert account["email"].startswith("ray-autoscaler-sa-v1@")


def test_what_ray_gives_the_head_is_what_the_readme_says(sent):
    sent.clear()
    _bootstrap_config(CLUSTER, no_config_cache=True)
    [policy] = [body["policy"] for uri, body in sent if ":setIamPolicy" in uri]
    readme = (Path(__file__).parents[2] / "clusters" / "gcp" / "README.md").read_text()
    assert len(policy["bindings"]) == 4
    for binding in policy["bindings"]:
        assert binding["role"].removeprefix("roles/") in readme


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"machineTyp": "n2-standard-8"}, "instance.machineTyp is unknown"),
        # As in Ray's own example.
        ({"scheduling": [{"preemptible": True}]}, "instance.scheduling is array, not object"),
        ({"disks": [{"boot": "yes"}]}, "instance.disks[0].boot is string, not boolean"),
        ({"scheduling": {"provisioningModel": "spot"}}, "instance.scheduling.provisioningModel is spot"),
    ],
)
def test_a_typo_in_a_machine_is_found(config, sent, wrong, said):
    typo = copy.deepcopy(config)
    typo["available_node_types"]["cpu"]["node_config"].update(wrong)
    assert complaints(start(typo, "cpu", sent), {"$ref": "Instance"}) == [said]

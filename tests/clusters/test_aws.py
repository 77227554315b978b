"""clusters/aws is what `ray up` starts from: Ray's own steps, before a copy of AWS in this process."""

import copy
import re
from pathlib import Path

import boto3
import botocore.session
import pytest
import yaml
from botocore import xform_name
from botocore.exceptions import ClientError, ParamValidationError
from cfnlint.api import ManualArgs, lint_file
from moto import mock_aws
from ray.autoscaler._private.aws import config as steps
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.aws.utils import client_cache, resource_cache
from ray.autoscaler._private.commands import _bootstrap_config

FOLDER = Path(__file__).parents[2] / "clusters" / "aws"
ACCESS, CLUSTER = FOLDER / "access.yaml", yaml.safe_load((FOLDER / "cluster.yaml").read_text())
REGION = CLUSTER["provider"]["region"]
BUCKET, MINE = "my-bucket", "203.0.113.7/32"


@pytest.fixture(scope="module")
def aws(tmp_path_factory):
    """Empty accounts; no wait lasts."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray keeps the key that it makes in ~/.ssh
        patch.setattr("time.sleep", lambda seconds: None)
        with mock_aws():
            yield
        for cache in (client_cache, resource_cache, steps._get_subnets_or_die):
            cache.cache_clear()


@pytest.fixture(scope="module")
def refused(aws):
    """What becomes of `ray up` where access.yaml was never deployed."""
    with pytest.raises(ClientError) as error:
        _bootstrap_config(CLUSTER, no_config_cache=True)
    groups = [group["GroupName"] for group in boto3.client("ec2").describe_security_groups()["SecurityGroups"]]
    return str(error.value), groups, boto3.client("iam").list_roles()["Roles"]


@pytest.fixture(scope="module")
def config(refused):
    """What `ray up` makes of cluster.yaml, once access.yaml has been deployed as README.md says."""
    boto3.client("cloudformation").create_stack(
        StackName="onehour",
        TemplateBody=ACCESS.read_text(),
        Parameters=[
            {"ParameterKey": "Bucket", "ParameterValue": BUCKET},
            {"ParameterKey": "MyAddress", "ParameterValue": MINE},
        ],
        Capabilities=["CAPABILITY_IAM"],
    )
    return _bootstrap_config(CLUSTER, no_config_cache=True)


def start(config, kind):
    """Ray's provider, the number of the machine that it starts for a node of this kind, and how EC2 describes that."""
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    tags = {"ray-node-type": "worker", "ray-user-node-type": kind, "ray-launch-config": "x", "ray-node-name": kind}
    [number] = provider.create_node(config["available_node_types"][kind]["node_config"], tags, 1)
    [reservation] = boto3.client("ec2").describe_instances(InstanceIds=[number])["Reservations"]
    return provider, number, reservation["Instances"][0]


def rights(machine):
    """The statements of the policies that a machine's role has."""
    iam = boto3.client("iam")
    profile = machine["IamInstanceProfile"]["Arn"].split("/")[-1]
    [role] = iam.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"]
    assert not iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"]
    names = iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]
    policies = [iam.get_role_policy(RoleName=role["RoleName"], PolicyName=name)["PolicyDocument"] for name in names]
    return [statement for policy in policies for statement in policy["Statement"]]


def actions(statements):
    each = (statement["Action"] for statement in statements)
    return {name for names in each for name in ([names] if isinstance(names, str) else names)}


def test_without_access_nothing_is_made(refused):
    error, groups, roles = refused
    assert "onehour" in error
    assert groups == ["default"]
    assert roles == []


def test_machines_are_what_the_file_says(config):
    kinds = config["available_node_types"]
    machines = [start(config, kind)[2] for kind in ("head", "gpu", "cpu")]
    assert [machine["InstanceType"] for machine in machines] == ["m6i.xlarge", "g6.xlarge", "c7i.2xlarge"]
    assert [machine.get("InstanceLifecycle") for machine in machines] == [None, "spot", "spot"]
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert kinds["gpu"]["resources"].items() >= {"CPU": 4, "GPU": 1, "accelerator_type:L4": 1}.items()
    assert kinds["cpu"]["resources"].items() >= {"CPU": 8}.items()
    assert [kinds[kind]["min_workers"] for kind in ("gpu", "cpu")] == [0, 0]
    for machine in machines:
        assert "24.04" in machine["ImageId"]  # one Ubuntu has one Python
        assert machine["KeyName"] == "onehour"
        assert machine["Placement"]["AvailabilityZone"] == CLUSTER["provider"]["availability_zone"]
        assert machine["MetadataOptions"]["HttpTokens"] == "required"


def test_only_ssh_from_one_address_comes_in(config):
    _, _, machine = start(config, "gpu")
    [group] = machine["SecurityGroups"]
    [described] = boto3.client("ec2").describe_security_groups(GroupIds=[group["GroupId"]])["SecurityGroups"]
    outside = [rule for rule in described["IpPermissions"] if rule["IpRanges"] or rule["Ipv6Ranges"]]
    inside = [rule for rule in described["IpPermissions"] if rule not in outside]
    assert [(rule["FromPort"], rule["ToPort"], rule["IpRanges"]) for rule in outside] == [(22, 22, [{"CidrIp": MINE}])]
    assert [[pair["GroupId"] for pair in rule["UserIdGroupPairs"]] for rule in inside] == [[group["GroupId"]]]
    assert start(config, "head")[2]["SecurityGroups"] == machine["SecurityGroups"]


def test_a_worker_may_use_one_bucket_and_nothing_else(config):
    statements = rights(start(config, "gpu")[2])
    assert {name.split(":")[0] for name in actions(statements)} == {"s3"}
    assert {statement["Resource"] for statement in statements} == {f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"}


def test_the_head_may_do_what_ray_does_and_little_else(config):
    statements = rights(start(config, "head")[2])
    # What EC2 does in the name of who starts a machine with a role, from an image that has a name.
    done = {"iam:PassRole", "ssm:GetParameters"}
    provider, number, _ = start(config, "cpu")
    for client in (provider.ec2.meta.client, provider.ec2_fail_fast.meta.client):
        client.meta.events.register("before-call.ec2", lambda model, **_: done.add(f"ec2:{model.name}"))
    start_another = config["available_node_types"]["cpu"]["node_config"]
    provider.create_node(start_another, {"ray-node-type": "worker", "ray-node-name": "cpu"}, 1)
    provider.non_terminated_nodes({})
    provider.set_node_tags(number, {"ray-node-status": "up-to-date"})
    provider.terminate_nodes([number])
    assert {name for name in actions(statements) if not name.startswith("s3:")} == done
    tagged = [s["Condition"]["StringEquals"] for s in statements if "instance/*" in str(s.get("Resource"))]
    names = [value for condition in tagged for key, value in condition.items() if key.endswith("ray-cluster-name")]
    assert names == [CLUSTER["cluster_name"]] * 2


def test_access_is_what_cloudformation_knows(tmp_path):
    assert lint_file(ACCESS, ManualArgs(regions=[REGION])) == []
    (tmp_path / "wrong.yaml").write_text(ACCESS.read_text().replace("CidrIp", "CidrIpp"))
    assert "CidrIpp" in str(lint_file(tmp_path / "wrong.yaml", ManualArgs(regions=[REGION])))


def test_the_readme_calls_aws_as_it_is():
    lines = re.findall(
        r"^ +aws (ec2|iam|ssm|service-quotas) (\S+) (.*)", (FOLDER / "README.md").read_text(), re.MULTILINE
    )
    assert {service for service, _, _ in lines} == {"ec2", "iam", "ssm", "service-quotas"}
    for service, command, rest in lines:
        model = botocore.session.get_session().get_service_model(service)
        [operation] = [name for name in model.operation_names if xform_name(name, "-") == command]
        known = {xform_name(name, "-") for name in model.operation_model(operation).input_shape.members}
        assert known | {"query", "output"} >= set(re.findall(r"--(\S+)", rest))


@pytest.mark.parametrize("wrong", [{"InstanceTyp": "m6i.xlarge"}, {"MetadataOptions": {"HttpToken": "required"}}])
def test_a_typo_in_a_machine_is_found(config, wrong):
    typo = copy.deepcopy(config)
    typo["available_node_types"]["gpu"]["node_config"].update(wrong)
    with pytest.raises(ParamValidationError, match="Unknown parameter"):
        start(typo, "gpu")

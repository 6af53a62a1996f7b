"""Manifests in cluster/: built-in kinds against Kubernetes' schema, the rest by what must hold."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from ray.serve.schema import ServeDeploySchema

from infinite_id.methods import METHODS, trained_weights
from pipelines.serving.config import ServiceConfig
from pipelines.settings import BenchmarkConfig

CLUSTER = Path(__file__).parents[2] / "cluster"
KUBERAY = CLUSTER / "kuberay"
KUBERNETES = "1.34"


def documents(path: Path) -> list[dict[str, Any]]:
    return [d for d in yaml.safe_load_all(path.read_text()) if d]


ALL = [
    (path, document)
    for path in sorted([*KUBERAY.glob("*.yaml"), *(CLUSTER / "monitoring").glob("*.yaml")])
    for document in documents(path)
    if "kind" in document
]
BUILT_IN = [d for _, d in ALL if d["apiVersion"] in ("v1", "networking.k8s.io/v1")]


def cluster_spec(name: str) -> dict[str, Any]:
    spec = documents(KUBERAY / f"{name}.yaml")[0]["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


SPECS = {name: cluster_spec(name) for name in ("raycluster", "rayjob", "rayservice")}
GROUPS = [
    pytest.param(group, id=f"{name}-{group.get('groupName', 'head')}")
    for name, spec in SPECS.items()
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
]
SUBMITTER = documents(KUBERAY / "rayjob.yaml")[0]["spec"]["submitterPodTemplate"]
PODS = [pytest.param(p.values[0]["template"], id=p.id) for p in GROUPS] + [
    pytest.param(SUBMITTER, id="submitter")
]
CONTAINERS = [
    pytest.param(container, id=f"{p.id}-{container['name']}")
    for p in PODS
    for key in ("initContainers", "containers")
    for container in p.values[0]["spec"].get(key, [])
]


@pytest.mark.parametrize("document", BUILT_IN, ids=lambda d: f"{d['kind']}-{d['metadata']['name']}")
def test_built_in_kinds_follow_kubernetes_schema(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("template", PODS)
def test_pod_templates_follow_kubernetes_schema(template: dict[str, Any]) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x"} | template["metadata"],
        "spec": template["spec"],
    }
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_are_confined(container: dict[str, Any]) -> None:
    security = container["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()


@pytest.mark.parametrize("container", CONTAINERS)
def test_images_are_pinned_and_secrets_are_references(container: dict[str, Any]) -> None:
    assert re.search(r":\d+\.\d+\.\d+-(cpu|gpu)$", container["image"])
    secret = [e for e in container["env"] if re.search("TOKEN|KEY|PASSWORD", e["name"])]
    assert secret
    assert all("secretKeyRef" in e["valueFrom"] and "value" not in e for e in secret)


@pytest.mark.parametrize("template", PODS)
def test_writable_paths_are_bounded_volumes(template: dict[str, Any]) -> None:
    spec = template["spec"]
    empty = [v["emptyDir"] for v in spec["volumes"] if "emptyDir" in v]
    assert empty
    assert all("sizeLimit" in e for e in empty)
    assert not [v for v in spec["volumes"] if "hostPath" in v]
    assert not spec.get("hostNetwork", False)


@pytest.mark.parametrize("name", SPECS)
def test_ray_clusters_want_a_token_and_stay_inside(name: str) -> None:
    spec = SPECS[name]
    assert spec["authOptions"] == {"mode": "token", "secretName": "infinite-id-ray-token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["autoscalerOptions"]["securityContext"]["runAsNonRoot"] is True
    assert spec["rayVersion"] == ray.__version__
    text = (KUBERAY / f"{name}.yaml").read_text()
    assert "LoadBalancer" not in text
    assert "NodePort" not in text


@pytest.mark.parametrize("group", GROUPS)
def test_ray_nodes_have_token_and_true_resources(group: dict[str, Any]) -> None:
    container = group["template"]["spec"]["containers"][0]
    assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
    limits = container["resources"]["limits"]
    start = group["rayStartParams"]
    assert start["num-gpus"] == limits.get("nvidia.com/gpu", "0")
    head = "groupName" not in group
    assert start["num-cpus"] == ("0" if head else limits["cpu"])
    kind = group["template"]["spec"]["nodeSelector"]["karpenter.sh/capacity-type"]
    assert kind == ("on-demand" if head else "spot")


def pods(name: str) -> list[dict]:
    spec = copy.deepcopy(SPECS[name])
    return [group["template"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def test_the_three_clusters_have_the_same_pods_but_for_the_keys_of_the_service() -> None:
    serving = pods("rayservice")
    for pod in serving:
        container, volumes = pod["spec"]["containers"][0], pod["spec"]["volumes"]
        container["volumeMounts"] = [v for v in container["volumeMounts"] if v["name"] != "keys"]
        pod["spec"]["volumes"] = [v for v in volumes if v["name"] != "keys"]
    assert pods("raycluster") == pods("rayjob") == serving


def test_the_service_has_keys_in_every_pod_that_may_hold_an_ingress() -> None:
    text = documents(KUBERAY / "rayservice.yaml")[0]["spec"]["serveConfigV2"]
    config = ServiceConfig(**yaml.safe_load(text)["applications"][0]["args"])
    assert not config.open
    folder = str(Path(config.key_file).parent)
    for pod in pods("rayservice"):
        mounts = pod["spec"]["containers"][0]["volumeMounts"]
        assert {"name": "keys", "mountPath": folder, "readOnly": True} in mounts
        secret = {"name": "keys", "secret": {"secretName": "infinite-id-api-keys"}}
        assert secret in pod["spec"]["volumes"]


def test_gpu_nodes_fill_their_cache_once_in_an_init_container() -> None:
    spec = SPECS["raycluster"]["workerGroupSpecs"][1]["template"]["spec"]
    init, worker = spec["initContainers"][0], spec["containers"][0]
    home = {"name": "HF_HOME", "value": "/weights/huggingface"}
    mount = {"name": "weights", "mountPath": "/weights"}
    assert home in init["env"]
    assert home in worker["env"]
    assert mount in init["volumeMounts"]
    assert mount in worker["volumeMounts"]
    assert "podAntiAffinity" in spec["affinity"]


def test_no_policy_opens_control_ports_to_the_world() -> None:
    rules = [
        rule
        for policy in documents(KUBERAY / "networkpolicy.yaml")
        for rule in policy["spec"].get("ingress", [])
    ]
    assert all(rule.get("from") for rule in rules)
    assert not [peer for rule in rules for peer in rule["from"] if "ipBlock" in peer]
    dashboard = [r for r in rules if 8265 in [p["port"] for p in r.get("ports", [])]]
    assert [p["podSelector"]["matchLabels"] for r in dashboard for p in r["from"]] == [
        {"app.kubernetes.io/name": "kuberay-operator"}
    ]


def test_kustomization_lists_files_that_exist() -> None:
    (kustomization,) = documents(KUBERAY / "kustomization.yaml")
    files = kustomization["resources"] + kustomization["configMapGenerator"][0]["files"]
    assert [f for f in files if not (KUBERAY / f).is_file()] == []


def test_job_settings_are_read_by_the_pipeline_and_share_one_gpu() -> None:
    settings = yaml.safe_load((KUBERAY / "benchmark.yaml").read_text())
    resources = BenchmarkConfig(**settings).resources
    assert resources.generation_gpus + resources.scoring_gpus == 1.0
    assert resources.generation_actors == resources.scoring_actors


def test_serve_configs_follow_ray_schema() -> None:
    text = documents(KUBERAY / "rayservice.yaml")[0]["spec"]["serveConfigV2"]
    inside = ServeDeploySchema(**yaml.safe_load(text))
    args = inside.applications[0].args
    service = ServiceConfig(**args)
    assert not service.open
    family = service.family()
    assert family.name == "sdxl_plus_face_open"
    for method in service.methods:
        trained_weights(METHODS[method], family, lambda address: True)  # raises where none are
    (gpu,) = [g for g in SPECS["rayservice"]["workerGroupSpecs"] if g["groupName"] == "gpu-spot"]
    assert service.generator_gpus == float(gpu["rayStartParams"]["num-gpus"])
    assert service.generator_replicas == gpu["maxReplicas"]
    local = ServeDeploySchema(**yaml.safe_load((CLUSTER / "serve.yaml").read_text()))
    assert inside.applications[0].import_path == local.applications[0].import_path
    assert local.http_options.host == "127.0.0.1"


def test_aws_file_follows_ray_schema_and_starts_with_a_token() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    config = yaml.safe_load((CLUSTER / "aws/ray-up.yaml").read_text())
    jsonschema.validate(config, schema)
    starts = [
        c
        for c in config["head_start_ray_commands"] + config["worker_start_ray_commands"]
        if "ray start" in c
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in c for c in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    types = config["available_node_types"]
    spot = {name for name, t in types.items() if "InstanceMarketOptions" in t["node_config"]}
    assert spot == types.keys() - {config["head_node_type"]}
    # Ray opens SSH to the world in a group that it has to make itself.
    assert all(t["node_config"]["SecurityGroupIds"] for t in types.values())
    assert config["provider"]["use_internal_ips"] is True


def test_bucket_policy_grants_no_wildcard() -> None:
    policy = json.loads((CLUSTER / "aws/s3-policy.json").read_text())
    allowed = [s for s in policy["Statement"] if s["Effect"] == "Allow"]
    assert all("*" not in json.dumps(s["Action"]) for s in allowed)
    assert all(s["Resource"].startswith("arn:aws:s3:::example-bucket") for s in allowed)


def test_the_heads_policy_launches_workers_and_passes_one_role() -> None:
    policy = json.loads((CLUSTER / "aws/head-policy.json").read_text())
    statements = {s["Sid"]: s for s in policy["Statement"]}
    actions = {
        a
        for s in statements.values()
        for a in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])
    }
    assert {
        "ec2:RunInstances",
        "ec2:CreateTags",
        "ec2:TerminateInstances",
        "iam:PassRole",
    } <= actions
    assert not [a for a in actions if "*" in a]
    types = yaml.safe_load((CLUSTER / "aws/ray-up.yaml").read_text())["available_node_types"]
    profiles = {n: t["node_config"]["IamInstanceProfile"]["Name"] for n, t in types.items()}
    assert profiles.pop("head") == "infinite-id-head"
    (worker,) = set(profiles.values())
    assert statements["GiveWorkersTheirRole"]["Resource"].endswith(f":role/{worker}")


def test_the_gpu_image_has_the_projects_onnxruntime() -> None:
    text = (CLUSTER / "Dockerfile.gpu").read_text()
    wanted = re.search(r'"onnxruntime(>=[^"]+)"', (CLUSTER.parent / "pyproject.toml").read_text())
    assert wanted is not None
    assert f'"onnxruntime-gpu{wanted[1]}"' in text


def test_the_settings_know_what_the_groups_can_grow_to() -> None:
    resources = BenchmarkConfig(
        **yaml.safe_load((KUBERAY / "benchmark.yaml").read_text())
    ).resources
    for name in ("raycluster", "rayjob"):
        most = {"num-cpus": 0.0, "num-gpus": 0.0}
        for group in SPECS[name]["workerGroupSpecs"]:
            for key in most:
                most[key] += group["maxReplicas"] * float(group["rayStartParams"][key])
        assert (resources.cluster_cpus, resources.cluster_gpus) == (
            most["num-cpus"],
            most["num-gpus"],
        )


def test_nodes_fetch_the_files_that_the_preset_reads() -> None:
    for spec in SPECS.values():
        (init,) = spec["workerGroupSpecs"][1]["template"]["spec"]["initContainers"]
        weights = [a for a in init["args"] if a.endswith(".safetensors")]
        assert len(weights) == 3
        assert all(".fp16." in a for a in weights)


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_dockerfiles_are_multi_stage_pinned_and_unprivileged(kind: str) -> None:
    text = (CLUSTER / f"Dockerfile.{kind}").read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", b) for b in bases)
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == ["1000:1000"]
    assert "libgl1 libglib2.0-0" in text
    assert f"=={ray.__version__}" in text
    assert ("onnxruntime-gpu" in text) == (kind == "gpu")

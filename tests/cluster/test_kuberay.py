"""Is deploy/kuberay.yaml a RayJob that KubeRay takes, and do its pods run with as few rights as they need?"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCHEMA = yaml.safe_load(Path(__file__).with_name("kuberay_schema.yaml").read_text(encoding="utf8"))


def documents() -> dict[str, dict[str, Any]]:
    text = (ROOT / "deploy" / "kuberay.yaml").read_text(encoding="utf8")
    # Aliases are one object: written out, so that a test may change one place alone.
    return {made["kind"]: yaml.safe_load(_written_out(made)) for made in yaml.safe_load_all(text)}


def _written_out(made: Any) -> str:
    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(made, Dumper=Plain)


@pytest.fixture
def job() -> dict[str, Any]:
    return documents()["RayJob"]


def cluster(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["rayClusterSpec"]


def pods(job: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and specification of every pod that the job makes."""
    yield "submitter", job["spec"]["submitterPodTemplate"]["spec"]
    yield "head", cluster(job)["headGroupSpec"]["template"]["spec"]
    for group in cluster(job)["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]


def containers(job: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in pods(job):
        yield from ((name, container) for container in pod["containers"])
    yield "autoscaler", cluster(job)["autoscalerOptions"]


def problems(job: dict[str, Any]) -> list[str]:
    """What is unsafe or cannot work, though the schema allows it."""
    found = []
    spec = cluster(job)
    if spec.get("authOptions", {}).get("mode") != "token" or not spec["authOptions"].get("secretName"):
        found.append("no authentication")
    if spec["headGroupSpec"].get("serviceType") != "ClusterIP":
        found.append("reachable from outside")
    if not spec.get("enableInTreeAutoscaling"):
        found.append("no autoscaling")
    found += [
        f"{group['groupName']}: replicas are not between least and most"
        for group in spec["workerGroupSpecs"]
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    ]
    if not any(group["minReplicas"] for group in spec["workerGroupSpecs"]):
        found.append("no room for a trial when a search begins")
    for name, pod in pods(job):
        if not pod["securityContext"].get("runAsNonRoot") or not pod["securityContext"].get("runAsUser"):
            found.append(f"{name}: may run as root")
        if name != "head" and pod.get("automountServiceAccountToken") is not False:
            found.append(f"{name}: may talk to Kubernetes")
        if name != "submitter" and {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} != {"shared"}:
            found.append(f"{name}: does not see the runs")
    for name, container in containers(job):
        rights = container.get("securityContext", {})
        if rights.get("privileged") is not False or rights.get("allowPrivilegeEscalation") is not False:
            found.append(f"{name}: may gain rights")
        if rights.get("capabilities") != {"drop": ["ALL"]}:
            found.append(f"{name}: keeps capabilities")
        found += [
            f"{name}: no {part} of CPU and memory"
            for part in ("requests", "limits")
            if not {"cpu", "memory"} <= container.get("resources", {}).get(part, {}).keys()
        ]
        found += [
            f"{name}: {variable['name']} is no secret"
            for variable in container.get("env", [])
            if "value" in variable and variable["name"].endswith(("PASSWORD", "TOKEN", "USERNAME"))
        ]
    return found


def test_manifest_when_checked_by_the_schema_then_is_accepted(job):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(job, SCHEMA)


def test_manifest_when_looked_at_for_safety_then_nothing_is_found(job):
    assert problems(job) == []


def test_manifest_when_the_run_folder_is_shared_then_its_volume_can_be_mounted_by_many(job):
    claim = documents()["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    volumes = [pod["volumes"] for name, pod in pods(job) if name != "submitter"]
    wanted = {"name": "shared", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}
    assert volumes == [[wanted]] * 3
    assert "--out /shared/" in job["spec"]["entrypoint"]


def test_manifest_when_it_names_versions_then_they_are_those_that_were_tested_together(job):
    version = cluster(job)["rayVersion"]
    assert f"\nray=={version}\n" in (ROOT / "constraints.txt").read_text()
    recipe = (ROOT / "deploy" / "Dockerfile").read_text()
    assert f"FROM rayproject/ray:{version}-py" in recipe
    assert recipe.index("constraints.txt torch") < recipe.index('constraints.txt "ray[default]"')
    copied = [line.split()[2:-1] for line in recipe.splitlines() if line.startswith("COPY")]
    assert [name for names in copied for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda job: job.update(apiVersion="ray.io/v1alpha1"),
        lambda job: job["spec"].update(ttlSeconds=600),
        lambda job: job["spec"].pop("rayClusterSpec"),
        lambda job: cluster(job).update(rayVersion=2.6),
        lambda job: cluster(job)["authOptions"].update(mode="tokens"),
        lambda job: cluster(job).update(enableInTreeAutoscaling="yes"),
        lambda job: cluster(job)["headGroupSpec"].update(rayStartParams={"num-cpus": 0}),
        lambda job: cluster(job)["workerGroupSpecs"][0].pop("groupName"),
        lambda job: cluster(job)["workerGroupSpecs"][0]["template"]["spec"].pop("containers"),
        lambda job: next(containers(job))[1].update(resource={}),
        lambda job: next(containers(job))[1]["resources"]["limits"].update(memory="1 GB"),
    ],
)
def test_manifest_when_spoilt_then_the_schema_refuses_it(job, spoil: Callable[[dict], Any]):
    spoil(job)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, SCHEMA)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda job: cluster(job).pop("authOptions"), "no authentication"),
        (lambda job: cluster(job)["authOptions"].update(mode="disabled"), "no authentication"),
        (lambda job: cluster(job)["headGroupSpec"].update(serviceType="LoadBalancer"), "reachable from outside"),
        (lambda job: cluster(job).update(enableInTreeAutoscaling=False), "no autoscaling"),
        (lambda job: cluster(job)["workerGroupSpecs"][1].update(replicas=9), "gpu: replicas"),
        (lambda job: cluster(job)["workerGroupSpecs"][0].update(minReplicas=0), "no room"),
        (lambda job: dict(pods(job))["head"].update(securityContext={}), "head: may run as root"),
        (lambda job: dict(pods(job))["cpu"].pop("automountServiceAccountToken"), "cpu: may talk to Kubernetes"),
        (lambda job: dict(containers(job))["gpu"]["securityContext"].update(privileged=True), "gpu: may gain rights"),
        (lambda job: dict(containers(job))["autoscaler"].pop("securityContext"), "autoscaler: keeps capabilities"),
        (lambda job: dict(containers(job))["cpu"]["resources"].pop("limits"), "cpu: no limits"),
        (lambda job: dict(containers(job))["head"]["env"].append({"name": "RAY_AUTH_TOKEN", "value": "x"}), "secret"),
        (lambda job: dict(containers(job))["gpu"]["volumeMounts"].clear(), "gpu: does not see the runs"),
    ],
)
def test_manifest_when_made_unsafe_then_that_is_found(job, spoil: Callable[[dict], Any], problem: str):
    spoil(job)
    assert any(problem in found for found in problems(job))

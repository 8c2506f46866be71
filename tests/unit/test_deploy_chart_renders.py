"""Helm renders the chart, and Kubernetes' schemas know every manifest."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import deployed
import helm_python as helm
import kubernetes_validate
import pytest

# Of another project's operator: Kubernetes has no schema of it.
FOREIGN = ("ServiceMonitor",)
ALL_KINDS = {
    "Deployment",
    "Service",
    "Secret",
    "ServiceAccount",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
    "NetworkPolicy",
    "Ingress",
    "ServiceMonitor",
    "Pod",
}
CASES = {"defaults": None, **{path.stem: path for path in deployed.CASES}}


def values(case: Path | None) -> dict[str, Any]:
    return deployed.values(case) if case else {}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def manifests(request: pytest.FixtureRequest) -> list[deployed.Manifest]:
    return deployed.render(values(request.param))


@pytest.mark.parametrize("version", deployed.KUBERNETES)
def test_every_manifest_is_what_kubernetes_expects(manifests: list[deployed.Manifest], version: str) -> None:
    for manifest in manifests:
        if manifest["kind"] not in FOREIGN:
            deployed.is_valid(manifest, version)


def test_the_validator_sees_a_mistake() -> None:
    manifest = copy.deepcopy(deployed.deployment(deployed.render()))
    manifest["spec"]["template"]["spec"]["terminationGraceSeconds"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        deployed.is_valid(manifest, deployed.KUBERNETES[-1])


def test_the_cases_make_every_kind() -> None:
    found = {row["kind"] for case in CASES.values() for row in deployed.render(values(case))}
    assert found == ALL_KINDS


def test_helm_finds_nothing_to_complain_of() -> None:
    report = helm.lint(deployed.CHART)
    assert not report["errors"]
    assert [row["error"] for row in report["messages"]] == ["icon is recommended"]


def test_names_fit_whatever_the_release_is_called() -> None:
    for name in ("a", "florence2-sam2", "x" * 53):
        for case in CASES.values():
            for manifest in deployed.render(values(case), name=name):
                assert len(manifest["metadata"]["name"]) <= 63
                assert not manifest["metadata"]["name"].endswith("-")


def test_nothing_that_stands_in_another_manifest_is_missing(manifests: list[deployed.Manifest]) -> None:
    """Services and budgets find the pods, the autoscaler its deployment, an ingress its service and port."""
    labels = deployed.deployment(manifests)["spec"]["template"]["metadata"]["labels"]
    names = {(row["kind"], row["metadata"]["name"]) for row in manifests}
    services = deployed.of_kind(manifests, "Service")
    ports = {port["name"] for port in deployed.server(manifests)["ports"]}
    for service in services:
        assert service["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        for found in deployed.of_kind(manifests, kind):
            spec = found["spec"]
            selector = spec["selector" if kind == "PodDisruptionBudget" else "podSelector"]
            assert selector["matchLabels"].items() <= labels.items()
    for autoscaler in deployed.of_kind(manifests, "HorizontalPodAutoscaler"):
        target = autoscaler["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in names
        assert "replicas" not in deployed.deployment(manifests)["spec"]  # or each upgrade would undo it
    for ingress in deployed.of_kind(manifests, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                assert ("Service", backend["name"]) in names
                assert backend["port"]["name"] in {port["name"] for port in services[0]["spec"]["ports"]}
    for monitor in deployed.of_kind(manifests, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        watched = [row for row in services if wanted <= row["metadata"]["labels"].items()]
        assert len(watched) == 1, "each pod is to be read once"
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in watched[0]["spec"]["ports"]}
    (test,) = deployed.of_kind(manifests, "Pod")
    assert (
        not deployed.of_kind(manifests, "Service")[0]["spec"]["selector"].items()
        <= test["metadata"]["labels"].items()
    )


def test_volumes_are_there_and_the_rest_is_read_only(manifests: list[deployed.Manifest]) -> None:
    pod = deployed.pod(manifests)
    volumes = {row["name"]: row for row in pod["volumes"]}
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        mounted = {row["mountPath"]: volumes[row["name"]] for row in container["volumeMounts"]}
        assert "/tmp" in mounted
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}
    assert mounted["/dev/shm"]["emptyDir"]["medium"] == "Memory"
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    secret = mounted["/run/secrets/florence2-sam2"]["secret"]["secretName"]
    made = {row["metadata"]["name"] for row in deployed.of_kind(manifests, "Secret")}
    assert secret in made | {"admin"}


def test_the_models_are_where_the_server_looks() -> None:
    for case, where, mounted in (
        (None, "/models", None),
        ("cpu", "demo", None),
        ("gpu-pvc", "/models", {"claimName": "models", "readOnly": True}),
        ("new-pvc", "/models", {"claimName": "segment-florence2-sam2-models", "readOnly": True}),
        ("store", "/models/repository", None),
    ):
        manifests = deployed.render(values(CASES[case or "defaults"]))
        assert f"--repository={where}" in deployed.server(manifests)["args"]
        claims = [row.get("persistentVolumeClaim") for row in deployed.pod(manifests)["volumes"]]
        assert [row for row in claims if row] == ([mounted] if mounted else [])
    (copying,) = deployed.pod(manifests)["initContainers"]
    assert copying["args"] == ["s3://bucket/models-2026-11", "/models/repository"]
    assert {"name": "models", "mountPath": "/models"} in copying["volumeMounts"]


def test_gpus_are_asked_for_where_they_are_used() -> None:
    assert deployed.server(deployed.render())["resources"]["limits"]["nvidia.com/gpu"] == 1
    on_cpus = deployed.render(values(CASES["cpu"]))
    assert "nvidia.com/gpu" not in deployed.server(on_cpus)["resources"]["limits"]
    assert "tolerations" not in deployed.pod(on_cpus)


def test_the_key_of_the_administration_is_random() -> None:
    keys = {deployed.of_kind(deployed.render(), "Secret")[0]["data"]["admin-key"] for _ in range(2)}
    assert len(keys) == 2


def test_the_notes_say_how_to_call() -> None:
    text = deployed.notes(values(CASES["autoscaling"]))
    assert 'Segmenter("grpc://segment-florence2-sam2.vision:8001")' in text
    assert "1 to 6 pods" in text
    assert "prometheus-adapter" in text

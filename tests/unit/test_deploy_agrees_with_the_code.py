"""What deploy/ says of the server is what the server does: flags, ports, variables, metrics, times."""

from __future__ import annotations

import importlib.util
import json
import re
from typing import Any

import deployed
import pytest
import yaml

import florence2_sam2
from florence2_sam2.cli.main import COMMANDS
from florence2_sam2.server import metrics
from florence2_sam2.server.container.options import (
    DEFAULT_REPOSITORY,
    GRPC_PORT,
    HTTP_PORT,
    METRICS_PORT,
    parse,
)
from florence2_sam2.server.container.server import READY_SECONDS, STOP_SECONDS
from florence2_sam2.server.onnx_session import PROVIDERS_VARIABLE
from florence2_sam2.server.settings import Settings

METRIC = "florence2_sam2_segment_waiting_seconds_per_second"
RUNTIME = deployed.document(deployed.KSERVE / "serving-runtime.yaml")
KSERVE_CONTAINER = RUNTIME["spec"]["containers"][0]
RENDERED = {path.stem: deployed.render(deployed.values(path)) for path in deployed.CASES}
CONTAINERS = {
    **{name: deployed.server(found) for name, found in RENDERED.items()},
    "kserve": KSERVE_CONTAINER,
}


@pytest.fixture(params=CONTAINERS.values(), ids=CONTAINERS.keys())
def container(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


def test_the_flags_are_the_containers(container: dict[str, Any]) -> None:
    options = parse(container["args"], {})
    at = options.addresses
    ports = {row["name"]: row["containerPort"] for row in container["ports"]}
    assert ports == {
        next(name for name in ("grpc", "h2c") if name in ports): at.grpc_port,
        "http": at.http_port,
        "metrics": at.metrics_port,
    }
    assert at.http_host == at.grpc_host == at.metrics_host == "0.0.0.0"


def test_the_variables_are_read(container: dict[str, Any]) -> None:
    written = deployed.environment(container)
    known = {option.variable for option in deployed.server_settings()} | {PROVIDERS_VARIABLE}
    assert {name for name in written if name.startswith("FLORENCE2_SAM2_")} <= known
    Settings.from_environment(written)


def test_settings_arrive_as_they_were_meant() -> None:
    given = deployed.values(deployed.CHART / "ci" / "everything.yaml")["settings"]
    read = Settings.from_environment(deployed.environment(CONTAINERS["everything"]))
    for name, value in given.items():
        assert getattr(read, name) == (tuple(value) if isinstance(value, list) else value)


def test_every_setting_is_a_value_of_the_chart_and_no_other() -> None:
    schema = json.loads((deployed.CHART / "values.schema.json").read_text(encoding="utf-8"))
    properties = schema["properties"]["settings"]["properties"]
    kinds = {
        "int": "integer",
        "float": "number",
        "bool": "boolean",
        "str": "string",
        "ints": "array",
        "strs": "array",
    }
    assert set(properties) == {option.name for option in deployed.server_settings()}
    for option in deployed.server_settings():
        said = properties[option.name]
        assert said["type"] == kinds[option.kind]
        assert said["description"] == option.help
        assert said.get("items", said).get("minimum") == option.minimum


def test_commands_are_there(container: dict[str, Any]) -> None:
    commands = [container[probe]["exec"]["command"] for probe in ("startupProbe", "livenessProbe")]
    commands.append(container["lifecycle"]["preStop"]["exec"]["command"])
    commands += [row["command"] for row in deployed.pod(RENDERED["store"])["initContainers"]]
    for command in commands:
        if command[0] == "florence2-sam2":
            assert command[1] == "health"
            assert command[1] in COMMANDS
            assert command[command.index("--url") + 1] == f"http://127.0.0.1:{HTTP_PORT}"
        else:
            assert command[:2] == ["python3", "-m"]
            assert importlib.util.find_spec(command[2]) is not None


def test_a_probe_says_what_it_has_found_before_its_time_is_over(container: dict[str, Any]) -> None:
    for name in ("startupProbe", "livenessProbe"):
        probe = container[name]
        command = probe["exec"]["command"]
        assert float(command[command.index("--timeout") + 1]) < probe["timeoutSeconds"]
    startup = container["startupProbe"]
    assert "--deep" in startup["exec"]["command"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= READY_SECONDS


def _of_stop(command: list[str], flag: str) -> float:
    return float(command[command.index(flag) + 1])


def test_a_pod_has_the_time_that_its_end_takes() -> None:
    service = deployed.document(deployed.KSERVE / "inference-service.yaml")
    graces = {name: deployed.pod(found)["terminationGracePeriodSeconds"] for name, found in RENDERED.items()}
    graces["kserve"] = service["spec"]["predictor"]["terminationGracePeriodSeconds"]
    for name, container in CONTAINERS.items():
        command = container["lifecycle"]["preStop"]["exec"]["command"]
        needed = _of_stop(command, "--delay") + _of_stop(command, "--wait") + STOP_SECONDS
        assert graces[name] >= needed


def test_the_autoscalers_metric_is_made_of_one_of_ours() -> None:
    (rule,) = deployed.document(deployed.CHART / "prometheus-adapter-values.yaml")["rules"]["custom"]
    series = "segment_waiting_seconds_total"
    assert series in metrics.DECLARED
    assert rule["seriesQuery"].startswith(metrics.PREFIX + series + "{")
    assert f"rate({metrics.PREFIX}{series}{{<<.LabelMatchers>>}}" in rule["metricsQuery"]
    assert rule["name"]["as"] == METRIC
    scalers = deployed.of_kind(RENDERED["autoscaling"], "HorizontalPodAutoscaler")
    scalers.append(deployed.document(deployed.KSERVE / "autoscaler.yaml"))
    for scaler in scalers:
        (metric,) = scaler["spec"]["metrics"]
        assert metric["pods"]["metric"]["name"] == METRIC


def test_the_default_place_of_the_models_is_the_containers() -> None:
    defaults = yaml.safe_load((deployed.CHART / "values.yaml").read_text(encoding="utf-8"))
    assert defaults["models"]["image"]["path"] == DEFAULT_REPOSITORY
    ports = defaults["service"]
    assert (ports["grpcPort"], ports["httpPort"], ports["metricsPort"]) == (
        GRPC_PORT,
        HTTP_PORT,
        METRICS_PORT,
    )


def test_the_version_is_the_packages() -> None:
    about = deployed.document(deployed.CHART / "Chart.yaml")
    assert about["appVersion"] == florence2_sam2.__version__
    assert KSERVE_CONTAINER["image"] == f"florence2-sam2:{florence2_sam2.__version__}"


def test_the_charts_readme_explains_every_value() -> None:
    text = (deployed.CHART / "README.md").read_text(encoding="utf-8")
    table = "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    explained = set(re.findall(r"`([\w.]+)`", table)) - {"image", "pvc", "store", "demo"}
    defaults = yaml.safe_load((deployed.CHART / "values.yaml").read_text(encoding="utf-8"))
    there = {name.removesuffix(".requests.cpu") for name, _ in deployed.leaves(defaults)}
    there = {"resources" if name.startswith("resources") else name for name in there}
    assert explained == there


def test_the_schema_knows_every_value() -> None:
    schema = json.loads((deployed.CHART / "values.schema.json").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((deployed.CHART / "values.yaml").read_text(encoding="utf-8"))
    for name, _ in deployed.leaves(defaults):
        found = schema
        for part in name.split("."):
            found = found.get("properties", {}).get(part) or found.get("additionalProperties") or found
            assert isinstance(found, dict), name
        assert found.get("type") or found.get("oneOf") or found.get("enum"), name


def test_links_of_the_charts_readme_lead_somewhere() -> None:
    text = (deployed.CHART / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)", text)
    assert links
    for link in links:
        assert (deployed.CHART / link).exists(), link


def test_kserves_service_goes_with_its_runtime() -> None:
    service = deployed.document(deployed.KSERVE / "inference-service.yaml")
    predictor = service["spec"]["predictor"]
    model = predictor["model"]
    assert model["runtime"] == RUNTIME["metadata"]["name"]
    assert model["modelFormat"] in [
        {"name": row["name"], "version": row["version"]} for row in RUNTIME["spec"]["supportedModelFormats"]
    ]
    assert model["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]
    assert "--repository=/mnt/models" in KSERVE_CONTAINER["args"]  # where KServe puts storageUri
    assert KSERVE_CONTAINER["name"] == "kserve-container"
    scaler = deployed.document(deployed.KSERVE / "autoscaler.yaml")
    assert scaler["spec"]["scaleTargetRef"]["name"] == f"{service['metadata']['name']}-predictor"
    assert scaler["spec"]["minReplicas"] == predictor["minReplicas"]
    assert scaler["spec"]["maxReplicas"] == predictor["maxReplicas"]
    for version in deployed.KUBERNETES:
        deployed.is_valid(scaler, version)


def test_kserves_runtime_is_a_pod_that_kubernetes_would_take() -> None:
    """KServe makes a pod of it: Kubernetes' schema holds for that."""
    spec = {key: RUNTIME["spec"][key] for key in ("containers", "volumes", "tolerations")}
    for version in deployed.KUBERNETES:
        deployed.is_valid(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}, "spec": spec}, version
        )

"""A wrong value ends before anything is installed, in a line that names it."""

from __future__ import annotations

from typing import Any

import deployed
import helm_python as helm
import pytest

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a setting that is none": (
        {"settings": {"max_quue": 1}},
        "'/settings': additional properties 'max_quue'",
    ),
    "a setting of serve alone": ({"settings": {"florence2": "x"}}, "additional properties 'florence2'"),
    "a setting out of range": ({"settings": {"max_queue": -1}}, "'/settings/max_queue': minimum: got -1"),
    "a number for a list": (
        {"settings": {"url_ports": 443}},
        "'/settings/url_ports': got number, want array",
    ),
    "a value that is none": ({"imgae": {}}, "additional properties 'imgae'"),
    "text for a number": ({"replicas": "two"}, "'/replicas': got string, want integer"),
    "models from nowhere": ({"models": {"from": "s3"}}, "'/models/from': value must be one of"),
    "a store without its address": ({"models": {"from": "store"}}, "models.store.url: is to be"),
    "credentials in an address": (
        {"models": {"from": "store", "store": {"url": "s3://key:secret@bucket/x"}}},
        "'/models/store/url'",
    ),
    "half a digest": ({"image": {"digest": "sha256:12"}}, "'/image/digest'"),
    "a size that is none": ({"sharedMemory": "1 GB"}, "'/sharedMemory'"),
    "a flag without dashes": ({"extraArgs": ["log-verbose=1"]}, "'/extraArgs/0'"),
    "TensorRT on a CPU": (
        {"gpu": {"enabled": False}, "modelConfig": "tensorrt"},
        "modelConfig: tensorrt needs",
    ),
    "ONNX Runtime with TensorRT on a CPU": (
        {"gpu": {"enabled": False}, "modelConfig": "onnxruntime_tensorrt"},
        "modelConfig: onnxruntime_tensorrt needs",
    ),
    "an ingress for nobody": ({"ingress": {"enabled": True}}, "ingress.host: is to be"),
    "fewer at most than at least": (
        {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}},
        "autoscaling.maxReplicas: is to be at least",
    ),
    "an update that cannot go on": (
        {"updateStrategy": {"maxSurge": 0, "maxUnavailable": 0}},
        "updateStrategy.maxUnavailable: is to be at least 1",
    ),
    "a probe without time": (
        {"probes": {"liveness": {"timeoutSeconds": 2}}},
        "'/probes/liveness/timeoutSeconds'",
    ),
}


@pytest.mark.parametrize(("given", "said"), WRONG.values(), ids=WRONG.keys())
def test_it_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(helm.HelmError) as refused:
        deployed.render(given)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "url", ["s3://bucket/models", "abfs://container@account.example.org/models", "file:///models"]
)
def test_addresses_of_stores_are_taken(url: str) -> None:
    deployed.render({"models": {"from": "store", "store": {"url": url}}})

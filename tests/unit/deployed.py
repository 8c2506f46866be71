"""The files of deploy/, read as the programs read them that they are for."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import yaml
from kubernetes_validate import latest_version

from florence2_sam2.server.settings import Option, options

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "florence2-sam2"
DOCKER = ROOT / "deploy" / "docker"
KSERVE = ROOT / "deploy" / "kserve"
CASES = sorted((CHART / "ci").glob("*.yaml"))

# The oldest that Chart.yaml takes, and the newest that the validator knows.
KUBERNETES = ("1.27", ".".join(latest_version().split(".")[:2]))

Manifest = dict[str, Any]


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping that has a key twice: Kubernetes does, and YAML's readers take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        assert not twice, f"{twice[0]} stands twice{node.start_mark}"
        return super().construct_mapping(node, deep)


_UniqueKeys.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG,
    lambda loader, node: loader.construct_mapping(node, deep=True),
)
# Compose's own: the value is removed.
_UniqueKeys.add_constructor("!reset", lambda loader, node: None)


def documents(text: str) -> list[Manifest]:
    """The documents of a YAML text, without empty ones."""
    return [found for found in yaml.load_all(text, Loader=_UniqueKeys) if found]


def document(path: Path) -> Manifest:
    """The only document of a YAML file."""
    (found,) = documents(path.read_text(encoding="utf-8"))
    return found


def values(case: Path) -> Manifest:
    return document(case)


@functools.cache
def chart() -> helm.Chart:
    return helm.Chart.load(CHART)


def render(given: Mapping[str, Any] | None = None, name: str = "segment", **options: Any) -> list[Manifest]:
    """The manifests that Helm makes of the chart with these values.

    Raises:
        helm.HelmError: Helm, the schema or the chart refuses them.
    """
    rendered = chart().render(dict(given or {}), name=name, namespace="vision", **options)
    return [found for path, text in rendered.items() if path.endswith(".yaml") for found in documents(text)]


def notes(given: Mapping[str, Any] | None = None) -> str:
    rendered = chart().render(dict(given or {}), name="segment", namespace="vision")
    return rendered["florence2-sam2/templates/NOTES.txt"]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [found for found in manifests if found["kind"] == kind]


def deployment(manifests: list[Manifest]) -> Manifest:
    (found,) = of_kind(manifests, "Deployment")
    return found


def pod(manifests: list[Manifest]) -> Manifest:
    """The pod of the deployment."""
    found: Manifest = deployment(manifests)["spec"]["template"]["spec"]
    return found


def server(manifests: list[Manifest]) -> Manifest:
    """Its container."""
    (found,) = pod(manifests)["containers"]
    assert isinstance(found, dict)
    return found


def environment(container: Manifest) -> dict[str, str]:
    """The variables whose values are written down."""
    return {row["name"]: row["value"] for row in container.get("env", [])}


def is_valid(manifest: Manifest, kubernetes: str) -> None:
    """Raises kubernetes_validate.ValidationError: it is not what the schema says, or has more."""
    kubernetes_validate.validate(manifest, kubernetes, strict=True)


def server_settings() -> list[Option]:
    """The settings that a server on an exported repository reads."""
    return [option for option in options() if option.group != "checkpoints"]


def leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a tree of values; empty mappings are leaves."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{name}.")
        else:
            yield above + name, value

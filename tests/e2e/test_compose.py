"""Files that no program here can run: they are well-formed and name what is there."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from support.programs import CONFIGS

FILES = sorted(CONFIGS.rglob("*.yaml"))


def load(name: str) -> Any:
    return yaml.safe_load((CONFIGS / name).read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_file_is_yaml(path: Any) -> None:
    assert yaml.safe_load(path.read_text())


def test_compose_mounts_what_is_there_and_pins_its_images() -> None:
    compose = load("compose.yaml")
    for service in compose["services"].values():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            here = (CONFIGS / source).exists() if source.startswith(".") else None
            assert here or source in compose["volumes"], mount
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), "nothing listens beyond this machine"


def test_services_of_compose_find_each_other() -> None:
    names = set(load("compose.yaml")["services"])
    texts = [path.read_text() for path in FILES if "kafka" not in path.name]
    hosts = {
        host
        for text in texts
        for line in text.splitlines()
        if not line.lstrip().startswith("#")
        for host in re.findall(r"(?:http://|[\"'])([a-z]+):\d{4,5}\b", line)
    }
    assert hosts <= names | {"localhost"}
    assert hosts >= {"tempo", "prometheus", "collector"}


def test_prometheus_takes_what_writers_push() -> None:
    """Prometheus answers 404 without the receiver, and 400 to a message with one old sample."""
    compose = load("compose.yaml")
    assert "--web.enable-otlp-receiver" in compose["services"]["prometheus"]["command"]
    window = load("prometheus/prometheus.yaml")["storage"]["tsdb"]["out_of_order_time_window"]
    assert window == "1h"


def test_dashboards_use_the_datasources_that_are_provisioned() -> None:
    provisioned = {
        each["uid"]: each["type"]
        for each in load("grafana/provisioning/datasources/datasources.yaml")["datasources"]
    }
    for path in (CONFIGS / "grafana" / "dashboards").glob("*.json"):
        for panel in json.loads(path.read_text())["panels"]:
            assert provisioned[panel["datasource"]["uid"]] == panel["datasource"]["type"]


def test_every_alert_names_a_dashboard_and_what_to_do() -> None:
    uids = {path.stem for path in (CONFIGS / "grafana" / "dashboards").glob("*.json")}
    for group in load("prometheus/rules.yaml")["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"].keys() == {"summary", "description", "dashboard"}
            assert rule["annotations"]["dashboard"] in uids
            assert rule["labels"]["severity"] in ("warning", "critical")


def test_the_distribution_has_what_the_configurations_use_and_no_more() -> None:
    """As `otelcol components` names them; the collector itself refuses what it lacks."""
    builder = load("builder.yaml")
    kinds = ("receivers", "processors", "exporters", "connectors", "extensions")
    modules = {
        kind: {
            re.sub(r"_|(receiver|processor|exporter|connector|extension) .*| .*", "", name)
            for name in (entry["gomod"].rpartition("/")[2] for entry in builder[kind])
        }
        for kind in kinds
    }
    used: dict[str, set[str]] = {kind: set() for kind in kinds}
    for name in ("agent.yaml", "gateway.yaml", "gateway-kafka.yaml", "writer-kafka.yaml"):
        config = load(name)
        for kind in kinds:
            used[kind] |= {
                each.partition("/")[0].replace("_", "") for each in config.get(kind) or ()
            }
    assert used == modules
    assert {entry["gomod"].split(" v")[1] for kind in kinds for entry in builder[kind]} == {
        builder["dist"]["version"]
    }
    images = [each["image"] for each in load("compose.yaml")["services"].values()]
    assert f"otel/opentelemetry-collector-contrib:{builder['dist']['version']}" in images


def test_the_readme_names_every_variable_of_the_configurations() -> None:
    configs = (path.read_text() for path in CONFIGS.glob("*.yaml"))
    read = {name for text in configs for name in re.findall(r"\$\{env:([A-Z_]+)", text)}
    assert read <= set(re.findall(r"[A-Z_]{5,}", (CONFIGS / "README.md").read_text()))

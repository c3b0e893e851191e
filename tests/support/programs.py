"""Real programs on loopback for tests: collectors, Prometheus and a Kafka broker."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Self

import httpx2
import pytest

from support.waiting import eventually

CONFIGS = Path(__file__).parents[2] / "collector_config"
OTELCOL = shutil.which("otelcol") or shutil.which("otelcol-contrib")
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")

KAFKA_LIBS = Path(os.environ.get("KAFKA_LIBS", "/nowhere"))

needs_otelcol = pytest.mark.skipif(
    OTELCOL is None,
    reason="otelcol is not on PATH; build it with `go run go.opentelemetry.io/collector/cmd/"
    "builder@v0.149.0 --config=collector_config/builder.yaml`",
)
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None or PROMTOOL is None,
    reason="prometheus and promtool are not on PATH; `apt-get install prometheus`",
)

needs_kafka = pytest.mark.skipif(
    shutil.which("java") is None or not any(KAFKA_LIBS.glob("kafka_2.13-*.jar")),
    reason="Java and a broker in KAFKA_LIBS are wanted; tests/e2e/kafka/pom.xml says how to get it",
)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class Program:
    """A process with a folder and an environment of its own; it can be killed and started anew."""

    def __init__(self, folder: Path, command: list[str], ready: str, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / "log"
        self._command = command
        self._ready = ready
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self.folder, env=self._environment, stdout=log, stderr=log
            )
        eventually(self._answers, f"{self._command[0]} answers, see {self.log}", seconds=60)

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """End it as an orchestrator does."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        try:
            return httpx2.get(self._ready).status_code == 200
        except httpx2.TransportError:
            return False


class Collector(Program):
    """A collector that runs configurations of this repository on ports of its own."""

    def __init__(self, folder: Path, *configs: str, **environment: str) -> None:
        names = ("OTLP_GRPC", "OTLP_HTTP", "HEALTH", "PROMETHEUS")
        listen = {f"{name}_LISTEN": f"127.0.0.1:{free_port()}" for name in names}
        internal = free_port()
        self.url = f"http://{listen['OTLP_HTTP_LISTEN']}"
        self.metrics = listen["PROMETHEUS_LISTEN"]
        """Where Prometheus finds the services' metrics."""
        self.internal_metrics = f"127.0.0.1:{internal}"
        super().__init__(
            folder,
            [OTELCOL or "otelcol", *(f"--config={CONFIGS / name}" for name in configs)],
            f"http://{listen['HEALTH_LISTEN']}",
            **listen,
            INTERNAL_METRICS_HOST="127.0.0.1",
            INTERNAL_METRICS_PORT=str(internal),
            QUEUE_DIR=str(folder / "queue"),
            **environment,
        )


def ask_otelcol(
    *configs: str, command: str = "validate", **environment: str
) -> subprocess.CompletedProcess[str]:
    """What the collector says of configurations, by default without running them."""
    return subprocess.run(
        [
            OTELCOL or "otelcol",
            *command.split(),
            *(f"--config={CONFIGS / name}" for name in configs),
        ],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Prometheus(Program):
    """A Prometheus with this repository's configuration that scrapes a gateway every second."""

    def __init__(self, folder: Path, gateway: Collector) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        config = (CONFIGS / "prometheus" / "prometheus.yaml").read_text()
        for there, here in (
            ("collector:9464", gateway.metrics),
            ("collector:8888", gateway.internal_metrics),
            ("15s", "1s"),
            ("[rules.yaml]", f"[{CONFIGS / 'prometheus' / 'rules.yaml'}]"),
        ):
            assert there in config
            config = config.replace(there, here)
        (folder / "prometheus.yaml").write_text(config)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        super().__init__(
            folder,
            [
                PROMETHEUS or "prometheus",
                "--config.file=prometheus.yaml",
                "--storage.tsdb.path=data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
            ],
            f"{self.url}/-/ready",
        )


class Kafka(Program):
    """An Apache Kafka broker of one node."""

    def __init__(self, folder: Path, *, partitions: int = 6) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port, controller = free_port(), free_port()
        self.broker = f"127.0.0.1:{port}"
        (folder / "server.properties").write_text(
            f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://{self.broker}
controller.listener.names=CONTROLLER
log.dirs={folder / "data"}
num.partitions={partitions}
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
"""
        )
        self._java = ["java", "-Xmx512m", "-cp", f"{KAFKA_LIBS}/*"]
        command = [*self._java, "kafka.Kafka", "server.properties"]
        super().__init__(folder, command, "")

    def start(self) -> None:
        """Format the folder when it is new, and run."""
        if not (self.folder / "data").exists():
            tool = [*self._java, "kafka.tools.StorageTool", "format"]
            subprocess.run(
                [*tool, "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", "server.properties"],
                cwd=self.folder,
                check=True,
                capture_output=True,
            )
        super().start()

    def _answers(self) -> bool:
        host, port = self.broker.split(":")
        with socket.socket() as connection:
            return connection.connect_ex((host, int(port))) == 0

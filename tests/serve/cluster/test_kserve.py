"""The document for KServe says what the command line does."""

from __future__ import annotations

from pathlib import Path

import yaml

from repq_deploy.cli.serving.serve import main
from repq_deploy.serve.cluster.kserve import inference_service
from repq_deploy.serve.settings import Listening, ServeSettings


def test_its_arguments_are_read_by_the_command_and_say_the_same():
    settings = ServeSettings(
        engines={"deit_s": Path("out/deit_s.onnxruntime.engine")}, workers=2, queue=64, delay_ms=1.5, max_body_mb=32
    )
    text = inference_service(settings, Listening(connections=99), name="deit-s", image="img:1", storage="s3://b/f")
    document = yaml.safe_load(text)
    assert (document["apiVersion"], document["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    (container,) = document["spec"]["predictor"]["containers"]
    assert (container["image"], container["command"]) == ("img:1", ["repq-serve"])
    assert container["env"] == [{"name": "STORAGE_URI", "value": "s3://b/f"}]
    assert all(isinstance(word, str) for word in container["args"])
    read = main.parser().make_context("repq-serve", [*container["args"]]).params
    assert read["engines"] == ["deit_s=/mnt/models/deit_s.onnxruntime.engine"]
    said = {name: read[name] for name in ("workers", "threads", "batch", "queue", "delay", "max_body", "connections")}
    assert said == {
        "workers": 2,
        "threads": 0,
        "batch": 0,
        "queue": 64,
        "delay": 1.5,
        "max_body": 32.0,
        "connections": 99,
    }
    assert (read["host"], read["port"], read["grpc_port"]) == ("0.0.0.0", 8080, 8081)  # noqa: S104
    assert {each["containerPort"] for each in container["ports"]} == {8080}
    for probe, path in (("readinessProbe", "/v2/health/ready"), ("livenessProbe", "/v2/health/live")):
        assert container[probe]["httpGet"] == {"path": path, "port": 8080}

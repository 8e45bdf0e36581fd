"""``repq-serve``: engines as a service, over REST and gRPC."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repq_deploy.cli.common import (
    DryRun,
    Force,
    Json,
    Quiet,
    Verbose,
    refuse_other_options,
    say_note,
    set_up,
    show,
)
from repq_deploy.cli.entry import entry_point
from repq_deploy.cli.streams import say
from repq_deploy.errors import BackendMissing, BadInput

if TYPE_CHECKING:
    from repq_deploy.engines.manifest import Manifest
    from repq_deploy.serve.server import Serving
    from repq_deploy.serve.settings import Listening, ServeSettings

__all__ = ["main"]

#: What has no meaning where Ray Serve listens in place of this process.
_NOT_ON_RAY = ("grpc_port", "grpc", "connections", "timeout", "grace", "kserve")

_EXTRA = ("uvicorn", "starlette", "h11", "grpc", "tritonclient", "prometheus_client")


def serve(
    context: typer.Context,
    engines: Annotated[
        list[str],
        typer.Argument(
            help="The engines to serve, each as FILE or NAME=FILE; NAME is what clients call the model by. Default: "
            "the file's name before .<backend>.engine."
        ),
    ],
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on. 0.0.0.0 is every network of this machine; there is no authentication, so "
            "put a proxy before it."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port for REST; 0 takes any that is free.")] = 8000,
    grpc_port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port for gRPC; 0 takes any that is free.")
    ] = 8001,
    grpc: Annotated[bool, typer.Option("--grpc/--no-grpc", help="Whether to serve gRPC beside REST.")] = True,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            max=256,
            help="How many instances of each engine compute side by side, each in a thread; they share one queue.",
        ),
    ] = 1,
    threads: Annotated[
        int,
        typer.Option(min=0, help="The threads of one instance on CPUs; 0 shares the CPUs among the workers."),
    ] = 0,
    batch: Annotated[
        int,
        typer.Option(
            min=0, help="The most images of different requests to compute together; 0 is the engine's best batch."
        ),
    ] = 0,
    queue: Annotated[
        int,
        typer.Option(min=1, help="How many images may wait for each model. More are refused at once, with status 429."),
    ] = 128,
    delay: Annotated[
        float,
        typer.Option(
            min=0,
            max=1000,
            help="How many milliseconds several requests that do not fill a batch wait for more. One that is alone "
            "never waits.",
        ),
    ] = 0.0,
    max_body: Annotated[
        float, typer.Option(min=0.001, max=2000, help="The largest body of a request, in megabytes.")
    ] = 64.0,
    connections: Annotated[
        int, typer.Option(min=1, help="How many connections may be open at a time: each request that waits has one.")
    ] = 256,
    timeout: Annotated[
        float,
        typer.Option(min=0.1, help="Within how many seconds the head of a request, and then its body, must arrive."),
    ] = 20.0,
    grace: Annotated[
        float,
        typer.Option(
            min=0,
            help="How many seconds after SIGTERM to take further requests, while no longer ready; then those that were "
            "accepted are answered.",
        ),
    ] = 0.5,
    kserve: Annotated[
        Path | None,
        typer.Option(help="Serve nothing: write a KServe InferenceService with these settings, as YAML, to this file."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Serve on a Ray cluster, by Ray Serve: HOST:PORT, 'auto' for the one that runs here, or 'local' to "
            "start one on this machine. --workers, --threads (default 1) and --batch are of each replica; --queue is "
            "of each node, in requests, and what finds no room gets status 503."
        ),
    ] = None,
    replicas: Annotated[
        str,
        typer.Option(help="With --ray: the number of replicas, or a range such as 1-4, within which load decides."),
    ] = "1",
    as_json: Json = False,
    force: Force = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Serve engines over the Open Inference Protocol, version 2, until SIGTERM or Ctrl-C."""
    set_up(verbose=verbose, quiet=quiet)
    from repq_deploy.serve.settings import Listening, ServeSettings, engines_by_name

    settings = ServeSettings(
        engines=engines_by_name(engines),
        workers=workers,
        threads=threads,
        batch=batch,
        queue=queue,
        delay_ms=delay,
        max_body_mb=max_body,
    )
    listening = Listening(
        host=host,
        port=port,
        grpc_port=grpc_port if grpc else None,
        connections=connections,
        patience_s=timeout,
        grace_s=grace,
    )
    if kserve is not None:
        _write_kserve(settings, listening, kserve, force=force)
        return
    if ray is not None:
        refuse_other_options(context, "--ray", {str(one.name) for one in context.command.params} - {*_NOT_ON_RAY})
    elif replicas != "1":
        raise BadInput(f"--replicas {replicas[:40]}: is for a cluster; give --ray, or --workers on one machine")
    manifests = _checked(settings)
    if dry_run:
        described = {name: {"engine": str(settings.engines[name]), **_facts(one)} for name, one in manifests.items()}
        show(
            described, as_json=as_json, text=lambda: say(*(f"would serve {_line(*each)}" for each in manifests.items()))
        )
        return
    _check_extra()
    from repq_deploy.serve.server import Server

    if not _is_loopback(host):
        say_note(f"listens on {host}: whoever reaches this machine can ask; there is no authentication")
    if ray is not None:
        _serve_on_ray(settings, ray, replicas, listening, as_json=as_json)
        return
    asyncio.run(Server(settings, listening).run(lambda serving: _say_ready(serving, as_json)))


def _checked(settings: ServeSettings) -> dict[str, Manifest]:
    """The manifests of engines whose files are there; opening them takes longer, and comes later."""
    from repq_deploy.serve.model import check_files

    manifests = {name: check_files(path) for name, path in settings.engines.items()}
    for name, manifest in manifests.items():
        if settings.batch > manifest.profile.max:
            raise BadInput(f"--batch {settings.batch}: model {name} takes at most {manifest.profile.max} images")
    return manifests


def _check_extra() -> None:
    from importlib.util import find_spec

    if missing := [name for name in _EXTRA if find_spec(name) is None]:
        raise BackendMissing(f"needs {missing[0]}, which is not installed; run: pip install 'repq-deploy[serve]'")


def _serve_on_ray(settings: ServeSettings, address: str, replicas: str, listening: Listening, *, as_json: bool) -> None:
    from repq_deploy.serve.cluster.deployment import ClusterSettings, serve_on_cluster

    least, most = ClusterSettings.replicas(replicas)
    cluster = ClusterSettings(address=address, least=least, most=most, host=listening.host, port=listening.port)
    urls = {name: f"http://{cluster.host}:{cluster.port}/{name}" for name in settings.engines}

    def ready() -> None:
        if as_json:
            sys.stdout.write(
                json.dumps({"ray": address, "models": {name: {"urls": [url]} for name, url in urls.items()}})
            )
            sys.stdout.write("\n")
        else:
            say(*(f"ready: {name}, {replicas} replicas, at {url}" for name, url in urls.items()))
        sys.stdout.flush()

    serve_on_cluster(settings, cluster, ready)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _write_kserve(settings: ServeSettings, listening: Listening, file: Path, *, force: bool) -> None:
    from repq_deploy.serve.cluster.kserve import inference_service
    from repq_deploy.system.files import write_atomically
    from repq_deploy.system.outputs import check_outputs

    check_outputs([("--kserve", file)], [("ENGINE", str(path)) for path in settings.engines.values()], force=force)
    name = next(iter(settings.engines)).lower().replace("_", "-").replace(".", "-")
    text = inference_service(
        settings, listening, name=name, image="IMAGE with repq-serve", storage="URI of the engines' folder"
    )
    write_atomically(file, text.encode())
    say(f"wrote {file}: put the container's image and the engines' storage into it, then: kubectl apply -f {file}")


def _facts(manifest: Manifest) -> dict[str, object]:
    return {"backend": manifest.backend, "bits": manifest.bits, "input": str(manifest.input)}


def _line(name: str, manifest: Manifest) -> str:
    return f"{name}: {manifest.bits} on {manifest.backend}, images {manifest.input}"


def _say_ready(serving: Serving, as_json: bool) -> None:
    """A line for each model; under ``--json`` one object, on one line, as the command goes on."""
    if as_json:
        found = {
            "host": serving.host,
            "port": serving.port,
            "grpc_port": serving.grpc_port,
            "models": {
                one.name: {"version": one.version, "urls": serving.urls(one.name), **_facts(one.manifest)}
                for one in serving.models
            },
        }
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        for one in serving.models:
            say(f"ready: {_line(one.name, one.manifest)}, at {' and '.join(serving.urls(one.name))}")
    sys.stdout.flush()


main = entry_point(serve, "repq-serve")

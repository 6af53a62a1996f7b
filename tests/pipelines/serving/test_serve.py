"""One local Ray Serve with the real pocket generator."""

from __future__ import annotations

import base64
import io
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from infinite_id.client import Client, Generation, Retry, ServiceError, Step
from pipelines.run.session import ray_session
from tests.pipelines.serving.conftest import portrait

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


SETTINGS = {
    "max_queue": 8,
    "key_hashes": [],
    "ingress_replicas": 2,
    # More than all other tests of this file ask together.
    "requests_per_minute": 240,
}


def deploy(**changes) -> None:
    """Runs the application with both ingress replicas from the start."""
    from ray import serve

    from pipelines.serve import build

    application = build({**SETTINGS, **changes})
    # In a Serve config: deployments: [{name: Ingress, autoscaling_config: {min_replicas: 2}}].
    ingress = application._bound_deployment.options(autoscaling_config=None, num_replicas=2)
    serve.run(serve.Application(ingress))


@pytest.fixture(scope="module")
def address():
    from ray import serve

    with ray_session("local", num_cpus=4):
        serve.start(http_options={"host": "127.0.0.1", "port": 8765})
        deploy()
        yield "http://127.0.0.1:8765"
        serve.shutdown()


def test_pictures_by_ray_serve_are_those_of_one_process(address, client):
    body = {
        "prompt": "a {subject} on the beach",
        "photos": [base64.b64encode(portrait(0)).decode()],
        "steps": 2,
        "response": "image",
    }
    assert httpx.get(f"{address}/readyz").status_code == 200
    answers = [
        httpx.post(f"{address}/v1/generate", json=body, timeout=60),
        client.post("/v1/generate", json=body),
    ]
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    images = [np.asarray(Image.open(io.BytesIO(answer.content))) for answer in answers]
    assert np.abs(images[0].astype(int) - images[1]).max() <= 1


def test_errors_of_replicas_keep_their_code(address):
    photo = base64.b64encode(portrait(0)).decode()
    body = {"prompt": "word " * 190, "photos": [photo], "steps": 2}
    answer = httpx.post(f"{address}/v1/generate", json=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "out_of_range")


def test_the_page_is_served(address):
    assert "page/page.js" in httpx.get(address).text
    assert httpx.get(f"{address}/page/page.js").status_code == 200


def test_progress_streams_through(address):
    photo = base64.b64encode(portrait(0)).decode()
    body = {"prompt": "a", "photos": [photo], "steps": 2, "stream": True}
    with httpx.stream("POST", f"{address}/v1/generate", json=body, timeout=60) as answer:
        names = [line[7:] for line in answer.iter_lines() if line.startswith("event: ")]
    assert names == ["queued", "step", "step", "result"]


def test_work_on_a_replica_ends_when_the_caller_leaves(address):
    steps: list[float] = []
    with Client(address, retry=Retry(attempts=1)) as api:
        for event in api.stream("a person", photos=[portrait(0)], n=2, steps=100):
            if isinstance(event, Step):
                steps.append(time.monotonic())
            if len(steps) == 11:
                break
        left = time.monotonic()
        api.generate("a person", photos=[portrait(0)], steps=1)
    # The other 89 steps would have come first.
    assert time.monotonic() - left < 45 * (steps[-1] - steps[0]) / 10


def replicas(deployment: str) -> list:
    """The actors of a deployment."""
    import ray

    names = [
        entry["name"]
        for entry in ray.util.list_named_actors(all_namespaces=True)
        if entry["namespace"] == "serve" and f"#{deployment}#" in entry["name"]
    ]
    assert names
    return [ray.get_actor(name, namespace="serve") for name in names]


def kill(deployment: str) -> None:
    """Ends every replica without a word."""
    import ray

    for actor in replicas(deployment):
        ray.kill(actor)


def test_a_picture_survives_the_death_of_its_replica(address):
    killed = False
    last = None
    # The client does not ask again: the service does.
    with Client(address, retry=Retry(attempts=1)) as api:
        for event in api.stream("a person", photos=[portrait(0)], steps=30):
            last = event
            if isinstance(event, Step) and not killed:
                killed = True
                kill("GenerationDeployment")
    assert killed
    assert isinstance(last, Generation)


def test_a_replica_whose_gpu_fails_is_replaced_and_its_request_made_elsewhere(address):
    import ray

    def break_gpu(_) -> int:
        import threading

        import torch

        def generate(*requests, **hooks):
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

        # Ray freezes its objects: the thread leads to the batcher.
        threads = [one for one in threading.enumerate() if one.name == "generation"]
        for generator in threads[0]._target.__self__._generators.values():
            generator.generate = generate
        return len(threads)

    before = replicas("GenerationDeployment")
    assert ray.get([one.__ray_call__.remote(break_gpu) for one in before]) == [1] * len(before)
    # The client does not ask again: the service does, and Ray starts another replica meanwhile.
    with Client(address, retry=Retry(attempts=1)) as api:
        assert len(api.generate("a person", photos=[portrait(0)], steps=2).pictures) == 1
    assert not {one._actor_id for one in before} & {
        one._actor_id for one in replicas("GenerationDeployment")
    }


@pytest.mark.slow
def test_no_request_is_lost_while_a_new_version_is_rolled_out(address):
    photo = base64.b64encode(portrait(0)).decode()
    body = {"prompt": "a person", "photos": [photo], "steps": 2, "response": "image"}
    rolled_out = threading.Event()

    def ask() -> list[int]:
        codes = []
        with httpx.Client(timeout=120) as http:
            # And one more, of the new version only.
            last = False
            while not last:
                last = rolled_out.is_set()
                codes.append(http.post(f"{address}/v1/generate", json=body).status_code)
        return codes

    with ThreadPoolExecutor(2) as pool:
        callers = [pool.submit(ask) for _ in range(2)]
        try:
            deploy(max_prompt_chars=77)
        finally:
            rolled_out.set()
        answers = [code for caller in callers for code in caller.result()]
    assert answers == [200] * len(answers)
    assert len(answers) >= 4
    assert httpx.get(f"{address}/v1/settings").json()["max_prompt_chars"] == 77


def counted(address: str, sample: str) -> list[float]:
    """A sample of /metrics by replica; one more request shows one of the replicas."""
    found = {}
    for _ in range(100):
        text = httpx.get(f"{address}/metrics").text
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        values = {name: float(value) for name, value in lines}
        # When its counter was made names the replica.
        found[values["infinite_id_service_pictures_created"]] = values.get(sample, 0.0)
        if len(found) == 2:
            return list(found.values())
    raise AssertionError("one of two ingress replicas never answers")


def test_a_person_is_known_to_every_ingress_until_the_state_dies(address):
    import ray

    with Client(address, retry=Retry(attempts=1)) as api:
        who = api.add_identity(portrait(0))
        made = 0
        while made < 4 or min(counted(address, "infinite_id_service_pictures_total")) < 1:
            assert made < 40
            with ThreadPoolExecutor(2) as pool:
                for one in [pool.submit(api.generate, "a", identity=who, steps=1) for _ in "ab"]:
                    score = api.score(one.result().pictures[0].data, identity=who)
                    assert "identity_facenet" in score
            made += 2
        (state,) = replicas("SharedState")
        assert not ray.get(state.__ray_call__.remote(lambda _: "torch" in sys.modules))
        kill("SharedState")
        with pytest.raises(ServiceError) as error:
            api.generate("a", identity=who, steps=1)
        assert (error.value.status, error.value.code) == (404, "unknown_identity")
        api.remove_identity(api.add_identity(portrait(0)))


def test_a_rate_holds_over_all_ingresses(address):
    from ray import serve

    # What a flood through other replicas would take; it would last longer by HTTP.
    state = serve.get_deployment_handle("SharedState", "default")
    last = None
    while not isinstance(last, ServiceError):
        begin = time.monotonic()
        asked = [state.ask.remote("take", "anonymous") for _ in range(60)]
        last = [one.result(timeout_s=60) for one in asked][-1]
    with ThreadPoolExecutor(2) as pool, httpx.Client(timeout=60) as http:
        answers = list(pool.map(lambda _: http.get(f"{address}/v1/methods"), range(60)))
    refused = [answer for answer in answers if answer.status_code != 200]
    # Four come back each second.
    assert len(answers) - len(refused) <= 4 * (time.monotonic() - begin) + 1
    assert {answer.status_code for answer in refused} == {429}
    assert refused[0].json()["error"]["code"] == "rate_limited"
    assert int(refused[0].headers["retry-after"]) >= 1
    assert min(counted(address, 'infinite_id_service_rejected_total{code="rate_limited"}')) >= 1

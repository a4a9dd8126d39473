"""A whole cluster answers: every answer is right, tagged, and bad requests are told why."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest

from continuer import AsyncClient, Client, RequestError
from continuer.bundle import Bundle
from continuer.catalog import find_images
from continuer.client import Answer
from continuer.demo.cluster import Cluster
from continuer.demo.report import TOLERANCE, Oracle
from continuer.errors import UnreachableError
from continuer.runtime import PathRunner
from tests.integration.conftest import StartCluster
from tests.integration.support import (
    BUDGET_MS,
    IMAGES,
    Stream,
    assert_all_well,
    assert_tags,
    failovers,
    running,
    techniques,
    until,
)

if TYPE_CHECKING:
    from continuer.load import Array


@pytest.fixture(scope="module")
def runner(bundle: Bundle) -> PathRunner:
    return PathRunner(bundle)


def equals_oracle(runner: PathRunner, answer: Answer, given: Array) -> bool:
    wanted = runner.run(answer.path, [given])[0].reshape(-1)
    return np.allclose(answer.logits, wanted, rtol=0, atol=TOLERANCE)


def refused(client: Client, *arguments: object, **options: object) -> RequestError:
    """The error with which a request is refused."""
    with pytest.raises(RequestError) as caught:
        client.infer(*arguments, **options)  # type: ignore[arg-type]  # wrong on purpose
    return caught.value


def test_every_answer_equals_the_oracle_of_its_path(
    cluster: Cluster, oracle: Oracle, bundle: Bundle
) -> None:
    with Stream(cluster.endpoints, rate=100, seconds=2) as stream:
        stream.flowing()
    assert len(stream.records) == 200
    assert_all_well(oracle, bundle, stream.records)
    assert techniques(stream.records) == {"none"}


def test_an_answer_says_how_it_was_made(
    cluster: Cluster, runner: PathRunner, bundle: Bundle, inputs: list[Array]
) -> None:
    with Client(cluster.endpoints[:1]) as client:
        answer = client.infer(inputs[0], BUDGET_MS)
        classes = client.classes
    assert answer.path == bundle.path()
    assert answer.nodes == tuple(cluster.nodes)
    assert (answer.technique, answer.exit, answer.degraded) == ("none", None, False)
    assert answer.version == cluster.status()["version"]
    assert answer.attempts == 1
    assert answer.expected_accuracy == bundle.measured_accuracy(bundle.path())
    assert answer.index == int(np.argmax(answer.logits))
    assert answer.label == classes[answer.index] == bundle.manifest.classes[answer.index]
    assert answer.tensors[0].shape == (1, len(classes))
    assert equals_oracle(runner, answer, inputs[0])


def test_any_node_is_an_ingress(cluster: Cluster, runner: PathRunner, inputs: list[Array]) -> None:
    """Also the ones in the middle of the pipeline and at its end."""
    for endpoint in cluster.endpoints:
        with Client([endpoint]) as client:
            answer = client.infer(inputs[1], BUDGET_MS)
        assert equals_oracle(runner, answer, inputs[1])


def test_a_uint8_image_is_preprocessed_as_the_bundle_says(
    cluster: Cluster, runner: PathRunner, bundle: Bundle
) -> None:
    pixels, labels = find_images(IMAGES)
    rules = bundle.manifest.input.preprocessing
    assert rules is not None
    assert pixels.dtype == np.uint8
    right = 0
    with Client(cluster.endpoints) as client:
        futures = [client.submit(image, BUDGET_MS) for image in pixels[:100]]
        answers = [future.result() for future in futures]
    for image, label, answer in zip(pixels, labels, answers, strict=False):
        # Written out here, so that it is not the client's own arithmetic that is trusted.
        scaled = (image / rules.divisor - np.array(rules.mean)) / np.array(rules.std)
        assert equals_oracle(runner, answer, scaled.astype(np.float32)[np.newaxis])
        right += answer.index == label
    assert right >= 75  # 86.94 % expected; by chance alone it would be 10


def test_asyncio_code_gets_its_concurrent_answers(
    cluster: Cluster, runner: PathRunner, bundle: Bundle, inputs: list[Array]
) -> None:
    async def ask() -> list[Answer]:
        async with await AsyncClient.connect(cluster.endpoints) as client:
            return await asyncio.gather(*(client.infer(x, BUDGET_MS) for x in inputs[:40]))

    answers = asyncio.run(ask())
    assert len(answers) == 40
    for given, answer in zip(inputs, answers, strict=False):
        assert equals_oracle(runner, answer, given)
        assert_tags(bundle, answer)


def test_an_asyncio_request_that_is_refused_raises(cluster: Cluster) -> None:
    async def ask() -> None:
        async with await AsyncClient.connect(cluster.endpoints) as client:
            await client.infer(np.zeros((3, 3), np.float32))

    with pytest.raises(RequestError, match="bad_input"):
        asyncio.run(ask())


def test_two_hundred_requests_at_once_are_all_answered(
    cluster: Cluster, runner: PathRunner, inputs: list[Array]
) -> None:
    with Client(cluster.endpoints) as client:
        futures = [client.submit(x, 20_000) for x in inputs[:200]]
        answers = [future.result() for future in futures]
    assert all(equals_oracle(runner, answer, x) for answer, x in zip(answers, inputs, strict=False))


def test_a_wrong_input_is_refused_with_what_to_give(cluster: Cluster) -> None:
    with Client(cluster.endpoints) as client:
        shape = refused(client, np.zeros((1, 28, 28, 1), np.float32))
        dtype = refused(client, np.zeros((1, 32, 32, 3), np.float64))
        many = refused(client, [np.zeros((1, 32, 32, 3), np.float32)] * 2)
    for error in (shape, dtype, many):
        assert error.code == "bad_input"
    assert "(1, 28, 28, 1)" in shape.message
    assert "give (1, 32, 32, 3)" in shape.message
    assert "float64" in dtype.message
    assert "give float32" in dtype.message
    assert "2 tensors; give 1" in many.message


@pytest.mark.parametrize("budget_ms", [0, -5, 4e6, float("nan"), float("inf")])
def test_a_wrong_budget_is_refused_with_what_to_give(
    cluster: Cluster, inputs: list[Array], budget_ms: float
) -> None:
    with Client(cluster.endpoints) as client:
        error = refused(client, inputs[0], budget_ms=budget_ms)
    assert error.code == "bad_input"
    assert "give a number above 0" in error.message


def test_a_budget_that_is_too_short_ends_with_a_deadline(
    cluster: Cluster, inputs: list[Array]
) -> None:
    with Client(cluster.endpoints) as client:
        error = refused(client, inputs[0], budget_ms=0.001)
        assert error.code == "deadline"
        assert client.infer(inputs[0], BUDGET_MS).technique == "none"


def test_an_unknown_model_is_refused_by_name(cluster: Cluster, inputs: list[Array]) -> None:
    with Client(cluster.endpoints, model="vgg16") as client:
        error = refused(client, inputs[0])
    assert error.code == "unknown_model"
    assert "'vgg16'" in error.message
    assert "resnet32-cifar10" in error.message


@pytest.mark.parametrize("model", ["resnet32-cifar10", "default"])
def test_a_model_may_be_named_by_bundle_or_deployment(
    cluster: Cluster, inputs: list[Array], model: str
) -> None:
    with Client(cluster.endpoints, model=model) as client:
        assert client.infer(inputs[0], BUDGET_MS).technique == "none"


def test_a_client_of_another_cluster_is_told_so(cluster: Cluster) -> None:
    with pytest.raises(UnreachableError) as caught:
        Client(cluster.endpoints, cluster="staging", connect_timeout_ms=1500)
    assert "'staging'" in str(caught.value)
    assert "'continuer'" in str(caught.value)


def test_where_nothing_answers_the_client_names_the_address() -> None:
    with pytest.raises(UnreachableError, match=r"tcp://127\.0\.0\.1:1 .*continuer-agent"):
        Client(["tcp://127.0.0.1:1"], connect_timeout_ms=300)


def test_closing_a_client_fails_what_it_has_under_way(
    cluster: Cluster, inputs: list[Array]
) -> None:
    client = Client(cluster.endpoints)
    futures = [client.submit(x, BUDGET_MS) for x in inputs[:100]]
    client.close()
    outcomes = [future.exception(timeout=5) for future in futures]
    assert all(error is None or isinstance(error, RequestError) for error in outcomes)
    assert any(error is not None for error in outcomes)


def test_beyond_its_limit_an_ingress_says_busy_and_goes_on(
    start_cluster: StartCluster, runner: PathRunner, inputs: list[Array]
) -> None:
    small = start_cluster(2, agent={"max_inflight": 4})
    with Client(small.endpoints[:1]) as client:
        futures = [client.submit(x, BUDGET_MS) for x in inputs[:120]]
        errors = [f.exception() for f in futures]
        busy = [e for e in errors if isinstance(e, RequestError)]
        assert busy, "120 requests at once fit a limit of 4"
        assert {e.code for e in busy} == {"busy"}
        assert "in flight" in busy[0].message
        for given, future in zip(inputs, futures, strict=False):
            if future.exception() is None:
                assert equals_oracle(runner, future.result(), given)
        for given in inputs[:20]:
            assert equals_oracle(runner, client.infer(given, BUDGET_MS), given)
    until(lambda: not any(n["queued"] for n in small.status()["nodes"]), "nothing in flight")
    assert all(running(small).values())
    assert not failovers(small)

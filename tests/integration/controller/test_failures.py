"""The controller when others write too, nobody answers, or a right is missing."""

from __future__ import annotations

import pytest

from sbrl.cluster.kube import ApiUnavailable, Cluster, connect
from sbrl.errors import RunError
from tests.integration.controller.harness import ACTORS, RULES, SPEC, answer, replicas
from tests.integration.kubernetes_stand_in import NAMESPACE, ApiStandIn, Call


def interfere(api: ApiStandIn, times: int, **spec: int) -> None:
    """Someone else writes the Deployment just before each of the next patches."""
    left = iter(range(times))

    def before(call: Call) -> None:
        if call.verb == "patch" and next(left, None) is not None:
            api.touch("deployments", ACTORS, **spec)

    api.before = before


def test_a_conflict_is_tried_again(api, controller, fleet):
    api.touch("deployments", ACTORS, replicas=20)
    interfere(api, times=2)
    one = controller()
    one.loop.look()
    assert replicas(api) == SPEC.max_actors
    assert one.metric("conflicts_total") == 2
    assert len(api.all("events")) == 1


def test_what_someone_else_has_set_meanwhile_stands(api, controller, fleet):
    api.touch("deployments", ACTORS, replicas=20)
    interfere(api, times=1, replicas=5)
    controller().loop.look()
    assert replicas(api) == 5
    assert api.all("events") == []


def test_endless_conflicts_are_left_for_the_next_look(api, controller, fleet):
    api.touch("deployments", ACTORS, replicas=20)
    interfere(api, times=1000)
    one = controller()
    one.loop.look()
    assert replicas(api) == 20
    api.before = lambda call: None
    one.loop.look()
    assert replicas(api) == SPEC.max_actors


def test_an_api_server_that_does_not_answer_is_waited_for(api, controller, fleet):
    one = controller()
    api.before = answer(503)
    looks = 0

    def on_wait(seconds: float) -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:
            api.before = lambda call: None
        if looks == 5:
            one.stop.set()
        return bool(one.stop.is_set())

    one.stop.wait = on_wait
    answers = []
    one.loop.run(lambda: answers.append(looks))
    assert answers == [3, 4]
    assert one.metric("api_failures_total") == 3


def test_an_api_server_that_is_not_there_is_no_refusal(api, controller):
    one = controller()
    api.close()
    with pytest.raises(ApiUnavailable, match="does not answer to get deployments/scale sbrl-actors in namespace rl"):
        one.loop.look()


def test_an_event_that_cannot_be_posted_does_not_undo_the_change(api, controller, fleet, caplog):
    api.touch("deployments", ACTORS, replicas=20)
    one = controller(rules=RULES[:1])
    one.loop.look()
    assert replicas(api) == SPEC.max_actors
    assert "no event: not allowed to create events in namespace rl" in caplog.text


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            [{**RULES[0], "verbs": ["get"]}],
            r"not allowed to patch deployments/scale sbrl-actors in namespace rl: .* is forbidden: .*; "
            r"grant the verb 'patch' on 'deployments/scale' to this user or service account",
        ),
        ([], "not allowed to get deployments/scale sbrl-actors"),
        ([{**RULES[0], "resourceNames": ["another"]}], "not allowed to get deployments/scale sbrl-actors"),
    ],
)
def test_a_missing_right_is_named(api, controller, fleet, rules, message):
    api.touch("deployments", ACTORS, replicas=20)
    with pytest.raises(RunError, match=message):
        controller(rules=rules).loop.look()


def test_a_deployment_that_is_not_there_is_named(api, controller, fleet):
    api.rules["controller"] = None
    one = controller(rules=None)
    one.loop._deployment = "nothing"
    with pytest.raises(RunError, match='cannot get deployments/scale nothing in namespace rl: deployments "nothing" not found'):
        one.loop.look()


def test_an_unknown_user_is_told_so(api, controller, fleet):
    one = controller()
    del api.rules["controller"]
    with pytest.raises(RunError, match=r"does not know who wants to get deployments/scale .* log in again"):
        one.loop.look()


def test_namespaces_come_from_the_kubeconfig(api, tmp_path):
    path = api.kubeconfig(tmp_path / "config")
    named: list[Cluster] = [connect(path, None, None), connect(path, "test", "other")]
    assert [(cluster.namespace, cluster.context) for cluster in named] == [(NAMESPACE, "test"), ("other", "test")]
    with pytest.raises(RunError, match="cannot get deployments/scale x in namespace other"):
        named[1].scale("x")
    for cluster in named:
        cluster.close()

"""The forms in which a person starts a run: what stands in them, and that a wrong value starts nothing."""

from collections.abc import Iterator
from typing import Any

import pytest

from deployments.catalog import EPISODE, EXECUTE, PRUNE, SHIFT, SWEEP, deployments
from nexus import NexusSettings
from nexus.monitoring import ACTIONS

Fields = dict[str, dict[str, Any]]


async def forms() -> dict[str, dict[str, Any]]:
    """What the UI makes the form of each deployment of, and the server checks values by."""
    served = await deployments(NexusSettings())
    return {f"{one.flow_name}/{one.name}": one._parameter_openapi_schema.model_dump() for one in served}


def fields(form: dict[str, Any]) -> Fields:
    """Every field by its path, also of what is nested: `config.policies[].steps[].action`."""
    return dict(_below(form, form["definitions"], ""))


def _below(schema: dict[str, Any], known: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for kind in alternatives(schema):
        kind = known[kind["$ref"].rpartition("/")[2]] if "$ref" in kind else kind
        for name, field in kind.get("properties", {}).items():
            yield f"{path}{name}", field
            yield from _below(field, known, f"{path}{name}.")
        if "items" in kind:
            yield from _below(kind["items"], known, f"{path.removesuffix('.')}[].")


def alternatives(field: dict[str, Any]) -> list[dict[str, Any]]:
    """What a field may hold; of an optional one that is two things."""
    found: list[dict[str, Any]] = field.get("anyOf", [field])
    return found


def values(form: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schema of every value that is typed in: of fields, and of the items of lists."""
    for path, field in fields(form).items():
        for kind in alternatives(field):
            yield path, kind.get("items", kind)


async def test_every_field_has_a_title_and_is_explained() -> None:
    for name, form in (await forms()).items():
        for path, field in fields(form).items():
            assert field.get("description"), (name, path)
            title = field.get("title", "")
            assert title[:1].isupper() and "_" not in title, f"{path} of {name} is called {title!r}"


async def test_numbers_and_texts_have_bounds() -> None:
    for name, form in (await forms()).items():
        for path, kind in values(form):
            if kind.get("type") in ("integer", "number"):
                assert "maximum" in kind and {"minimum", "exclusiveMinimum"} & set(kind), (name, path)
            if kind.get("type") == "string":
                assert {"maxLength", "enum", "pattern"} & set(kind), (name, path)


async def test_fields_stay_in_order_where_json_has_none() -> None:
    for form in (await forms()).values():
        for schema in (form, *form["definitions"].values()):
            positions = [field["position"] for field in schema["properties"].values()]
            assert positions == list(range(len(positions)))


@pytest.mark.parametrize(
    ("name", "path", "choices"),
    [
        (SHIFT, "mode", ["drain", "wait"]),
        (SHIFT, "observe", ["task", "shift"]),
        (SWEEP, "config.escalation_strategy", list(ACTIONS)),
        (SWEEP, "config.policies[].steps[].action", list(ACTIONS)),
    ],
)
async def test_what_can_be_chosen(name: str, path: str, choices: list[str]) -> None:
    assert fields((await forms())[name])[path]["enum"] == choices


async def test_a_nested_model_is_called_by_what_it_is_for() -> None:
    pruning = fields((await forms())[PRUNE])
    assert [pruning[f"retention.{one}"]["title"] for one in ("completed", "failed", "cancelled")] == [
        "Completed",
        "Failed",
        "Cancelled",
    ]
    assert (await forms())[SWEEP]["definitions"]["TaskMonitoringConfig"]["title"] == "Monitoring"


async def test_the_page_of_a_deployment_leaves_to_the_form_what_stands_there() -> None:
    for one in await deployments(NexusSettings()):
        assert one.description and "Args:" not in one.description


WRONG = [
    (SHIFT, {}, "'agent_id' is a required property"),
    (SHIFT, {"agent_id": ""}, "field 'agent_id'"),
    (SHIFT, {"agent_id": "Ada", "concurrency": 1000}, "field 'concurrency'"),
    (SHIFT, {"agent_id": "Ada", "mode": "nap"}, "field 'mode'"),
    (SHIFT, {"agent_id": "Ada", "max_tasks": 0}, "field 'max_tasks'"),
    (EXECUTE, {"task_id": "T" * 256}, "field 'task_id'"),
    (EPISODE, {"episode_id": "E1", "agents": ["Ada", ""]}, "field 'agents[1]'"),
    (SWEEP, {"config": {"pending_timeout_seconds": 0}}, "field 'config.pending_timeout_seconds'"),
    (SWEEP, {"config": {"notify_block": "the red one"}}, "field 'config.notify_block'"),
    (
        SWEEP,
        {"config": {"policies": [{"name": "urgent", "steps": [{"action": "shout"}]}]}},
        "field 'config.policies[0].steps[0].action'",
    ),
    (PRUNE, {"retention": {"completed": {"days": -1}}}, "field 'retention.completed.days'"),
]


async def test_a_wrong_value_is_refused_and_starts_nothing(speaks_to: None) -> None:
    from prefect import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    ids = {f"{one.flow_name}/{one.name}": await one.aapply() for one in await deployments(NexusSettings())}
    async with get_client() as client:
        for name, parameters, why in WRONG:
            with pytest.raises(PrefectHTTPStatusError) as refused:
                await client.create_flow_run_from_deployment(ids[name], parameters=parameters)
            assert why in refused.value.response.json()["detail"], (name, parameters)
        started = await client.create_flow_run_from_deployment(ids[EPISODE], parameters={"episode_id": "E1"})
        assert [one.id for one in await client.read_flow_runs() if not one.auto_scheduled] == [started.id]

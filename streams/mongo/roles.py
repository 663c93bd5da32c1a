"""The least that each process must be allowed to do in MongoDB, as data.

MongoDB has no rights on single fields, so whoever writes outputs (`sink`) or errors (`sink` and the
publisher) could change other fields of a document; it can neither insert, delete nor drop any.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from streams.contract.pipeline import Model, Pipeline
from streams.settings import MongoSettings

Privilege = Mapping[str, Any]

_READ: Final = ("find",)
_KEEP: Final = ("find", "insert", "update")
_ALL: Final = ("find", "insert", "update", "remove")
_INDEX: Final = ("createIndex", "listIndexes")

#: Our collections.
_POSITIONS: Final = ("positions",)
_REQUESTS: Final = ("requests",)
_REPORTS: Final = ("processes",)
_QUARANTINE: Final = ("quarantine", "in_hand")
_VERSIONS: Final = ("model_versions",)
_FILES: Final = ("model_files.files", "model_files.chunks")
_POINTERS: Final = ("model_pointers",)
_HISTORY: Final = ("model_history",)
_DECISIONS: Final = ("model_decisions",)
_RUNS: Final = ("trainer_runs", "trainer_lease")
_SETS: Final = ("validation_sets", "validation_set_chunks")
_PIPELINE: Final = ("pipeline", "pipeline_history")
_REGISTRY: Final = _VERSIONS + _FILES + _POINTERS + _HISTORY


def roles(settings: MongoSettings, pipeline: Pipeline) -> dict[str, list[Privilege]]:
    """Return the privileges of each role by its name.

    One for each process of the pipeline, one for whoever inserts documents (`producer`), for
    training (`trainer`) and for the commands (`operator`).
    """
    watched, state = _Rights(settings.database), _Rights(settings.state)
    documents = (settings.collection,)
    no_room = (f"no_room.{settings.collection}",)
    report = state.may(_ALL, _REPORTS)
    # A stage that finds records lost asks for a copy.
    stage = [*report, *state.may(_KEEP, _REQUESTS), *state.may(_READ, _PIPELINE)]
    publish_model = _publish_model(state)
    by_process = {
        "publisher": [
            # The stream is of the database: so it outlives the collection when that is dropped.
            *watched.may(("find", "changeStream"), ("",)),
            # Documents that Kafka refuses get their error from the publisher.
            *watched.may(("update", "dropIndex", *_INDEX), documents),
            *state.may(_KEEP, _POSITIONS),
            *state.may(_READ, _REQUESTS + _REGISTRY + _PIPELINE),
            *state.may(_KEEP, no_room),
            *report,
        ],
        **{
            model.name: [
                *(watched.may(_READ, documents) if model.raw_fields else ()),
                *_of_versions(model, state),
                *state.may((*_ALL, *_INDEX), _QUARANTINE),
                *stage,
            ]
            for model in pipeline.models.values()
        },
        "sink": [
            *watched.may(("find", "update"), documents),
            *state.may(_KEEP, no_room),
            *stage,
        ],
        "producer": watched.may(_ALL, documents),
        "trainer": [
            *watched.may(_READ, documents),
            *publish_model,
            *state.may(_KEEP, _DECISIONS + _RUNS),
            *state.may(_ALL, _SETS),
            *state.may(_READ, _REPORTS + _PIPELINE),
        ],
        "operator": [
            # `doctor` tries a write, in a transaction that it gives up.
            *watched.may((*_READ, "update", *_INDEX), documents),
            *publish_model,
            *state.may(("listCollections",), ("",)),
            *state.may(_KEEP, _REQUESTS + _PIPELINE),
            # `pipeline forget` removes what there is of a model.
            *state.may(("remove",), _QUARANTINE + _VERSIONS + _POINTERS + _HISTORY),
            *state.may(("find", "update"), no_room),
            *state.may(_READ, _POSITIONS + _REPORTS + _DECISIONS + _RUNS),
        ],
    }
    return {role_name(name, settings): granted for name, granted in by_process.items()}


def _of_versions(model: Model, state: "_Rights") -> list[Privilege]:
    """Return what the process of a model may do with its versions.

    Of the built-in kinds, `clip` announces its version, and all versions of `gru` come from the
    trainer. Others may publish one of their own at the first start.
    """
    match model.declaration.kind:
        case "clip":
            return state.may(_KEEP, _VERSIONS + _POINTERS + _HISTORY)
        case "gru":  # notes beside the pointer that it refused a version
            return [
                *state.may(_READ, _VERSIONS + _FILES + _HISTORY),
                *state.may(("find", "update"), _POINTERS),
            ]
        case _:
            return _publish_model(state)


def _publish_model(state: "_Rights") -> list[Privilege]:
    return [
        *state.may((*_ALL, *_INDEX), _FILES),
        *state.may(_KEEP, _VERSIONS + _POINTERS + _HISTORY),
    ]


def role_name(process: str, settings: MongoSettings) -> str:
    """Return the name of a role: pipelines of several collections do not share any."""
    return f"captionstream.{settings.tenant}.{process}"


def script(granted: Mapping[str, Sequence[Privilege]]) -> str:
    """Return a script for mongosh that creates the roles, or brings them up to date."""
    sink = next(name for name in granted if name.endswith(".sink"))
    return f"""\
const admin = db.getSiblingDB("admin");
const roles = {json.dumps(granted, indent=2)};
for (const [role, privileges] of Object.entries(roles)) {{
  const change = {{ privileges, roles: [] }};
  if (admin.getRole(role)) admin.updateRole(role, change);
  else admin.createRole({{ role, ...change }});
}}
// A user of each, for example:
// admin.createUser({{ user: "sink", pwd: passwordPrompt(), roles: ["{sink}"] }})
"""


class _Rights:
    """Makes privileges on one database."""

    def __init__(self, database: str) -> None:
        self._database = database

    def may(self, actions: Sequence[str], collections: Sequence[str]) -> list[Privilege]:
        """Return a privilege for each collection; the name "" stands for every one."""
        return [
            {"resource": {"db": self._database, "collection": name}, "actions": list(actions)}
            for name in collections
        ]

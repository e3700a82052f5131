"""What JobSet's v1alpha2 and Kubernetes' Job accept, of what launch/gke uses; written by hand from their API's types.

Every object is closed: a misspelt or misplaced field is found here and not by a cluster, which drops or refuses it.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

WORD: Schema = {"type": "string", "minLength": 1}
NAME: Schema = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 40}
COUNT: Schema = {"type": "integer", "minimum": 0}
POSITIVE: Schema = {"type": "integer", "minimum": 1}
LABELS: Schema = {"type": "object", "additionalProperties": WORD}
# "8", 8, "16Gi"
QUANTITY: Schema = {"anyOf": [POSITIVE, {"type": "string", "pattern": "^[0-9]+(m|[KMGT]i?)?$"}]}


def _object(required: Schema, **optional: Schema) -> Schema:
    properties = required | optional
    return {"type": "object", "properties": properties, "required": [*required], "additionalProperties": False}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of, "minItems": 1}


# None of a rule's values may be 0 under In.
_ON_EXIT_CODES = _object(
    {"operator": {"enum": ["In", "NotIn"]}, "values": _list(POSITIVE) | {"uniqueItems": True}}, containerName=NAME
)
_ON_CONDITIONS = _list(_object({"type": WORD}, status={"enum": ["True", "False", "Unknown"]}))
_RULE = _object(
    {"action": {"enum": ["FailJob", "FailIndex", "Ignore", "Count"]}},
    onExitCodes=_ON_EXIT_CODES,
    onPodConditions=_ON_CONDITIONS,
) | {"oneOf": [{"required": ["onExitCodes"]}, {"required": ["onPodConditions"]}]}

_RESOURCES = _object(
    {},
    requests={"type": "object", "additionalProperties": QUANTITY},
    limits={"type": "object", "additionalProperties": QUANTITY},
)
_CONTAINER = _object(
    {"name": NAME, "image": WORD},
    command=_list(WORD),
    args=_list(WORD),
    workingDir=WORD,
    env=_list(_object({"name": {"type": "string", "pattern": "^[A-Z_]+$"}, "value": {"type": "string"}})),
    resources=_RESOURCES,
    volumeMounts=_list(_object({"name": NAME, "mountPath": {"type": "string", "pattern": "^/"}})),
)
_POD = _object(
    # podFailurePolicy and backoffLimitPerIndex are refused with any other restartPolicy.
    {"restartPolicy": {"const": "Never"}, "containers": _list(_CONTAINER)},
    terminationGracePeriodSeconds=COUNT,
    nodeSelector=LABELS,
    volumes=_list(_object({"name": NAME, "persistentVolumeClaim": _object({"claimName": NAME})})),
)
_JOB = _object(
    {"template": _object({"spec": _POD})},
    completionMode={"enum": ["Indexed", "NonIndexed"]},
    completions=POSITIVE,
    parallelism=POSITIVE,
    backoffLimit=COUNT,
    backoffLimitPerIndex=COUNT,
    maxFailedIndexes=COUNT,
    podReplacementPolicy={"const": "Failed"},
    podFailurePolicy=_object({"rules": _list(_RULE) | {"maxItems": 20}}),
)
_REPLICATED = _object(
    {"name": NAME, "template": _object({"spec": _JOB})},
    replicas=POSITIVE,
    dependsOn=_list(_object({"name": NAME, "status": {"enum": ["Ready", "Complete"]}})) | {"maxItems": 1},
)
JOBSET = _object(
    {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
        "kind": {"const": "JobSet"},
        "metadata": _object({"name": NAME}, labels=LABELS, annotations=LABELS),
        "spec": _object({"replicatedJobs": _list(_REPLICATED)}, failurePolicy=_object({}, maxRestarts=COUNT)),
    }
)

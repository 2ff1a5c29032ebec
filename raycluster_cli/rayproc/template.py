"""A template of what a worker's raylet is executed with, made on the head and filled in on each worker.

The head's companion lets Ray's own Node class prepare a worker with the values of an example
(private.template).  Here the example's values are replaced by names, and a worker puts its own values in
their place: its raylet starts without Ray being imported.

Ray's code makes some of the texts from several values (resources, labels).  The rules for these are here once
more, so the head prepares a second, different example and compares: the template is used only where it gives
exactly what Ray made of the second one.  No secret is in it: a token or key is named by its path.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from ..model.status import Role
from ..model.value import Value
from .plan import NodePlan, worker_port_list

#: What stands for a value in a template: ``@{node_ip}``.
_NAME = re.compile(r"@\{([a-z_.]+)\}")

_PORTS = (
    "node_manager",
    "object_manager",
    "dashboard_agent_listen",
    "dashboard_agent_grpc",
    "runtime_env_agent",
    "metrics_export",
)

#: Where Ray keeps objects in memory; a node whose objects have to lie elsewhere starts in another way.
PLASMA_DIRECTORY = "/dev/shm"


class File(Value):
    """What Ray makes in its directory of the node (NodePlan.temp_dir) before the raylet starts."""

    path: str
    """Relative to that directory."""
    mode: int
    """Permissions; of a symbolic link 0."""
    kind: str
    """"directory", "file" or "link"."""
    text: str = ""
    """What a file contains, or where a link points to."""


class Launch(Value):
    """What one raylet is executed with."""

    argv: tuple[str, ...]
    variables: Mapping[str, str]
    """Set by Ray over environment.start_environment."""
    files: tuple[File, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "argv": list(self.argv),
            "variables": dict(self.variables),
            "files": [dict(vars(file)) for file in self.files],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Launch:
        """Raises KeyError, TypeError or AttributeError for anything else."""
        return cls(
            tuple(value["argv"]),
            dict(value["variables"]),
            tuple(File(**file) for file in value["files"]),
        )

    def mapped(self, change: Any) -> Launch:
        """With ``change`` made to each text."""
        return Launch(
            tuple(change(part) for part in self.argv),
            {name: change(text) for name, text in self.variables.items()},
            tuple(
                sorted(
                    (file.but(path=change(file.path), text=change(file.text)) for file in self.files),
                    key=lambda file: file.path,
                )
            ),
        )


class Example(Value):
    """A worker that Ray prepared on the head, and what its raylet would be executed with."""

    plan: NodePlan
    node_id: str
    machine_cpus: int
    launch: Launch
    cluster: Mapping[str, str] = {}
    """What is not known yet of the cluster that it seemed to join, by the names in a template."""


class NotATemplate(Exception):
    """What Ray made of the two examples cannot be described by a template."""


#: What only the head's raylet has: Ray makes a label of its node type.
_OF_THE_HEAD = ("RAY_NODE_TYPE_NAME",)


def example_plans(plan: NodePlan, directories: tuple[str, str, str]) -> tuple[NodePlan, NodePlan, NodePlan]:
    """Workers of the head's cluster whose values occur nowhere else and differ in all that may differ.

    ``directories``: for Ray's files, one each; not longer than a real node's.  The third worker has as many
    GPUs as the head.  They spill objects to directories of their own where the head does.
    """
    from dataclasses import replace

    ipv6 = ":" in plan.node_ip

    def example(number: int, directory: str, **values: Any) -> NodePlan:
        ports: dict[str, Any] = {name: 4917 + 100 * number + at for at, name in enumerate(_PORTS)}
        ports |= {"worker_low": 4950 + 100 * number, "worker_high": 4980 + 100 * number}
        if number == 0:
            ports["worker_list"] = [4951, 4962, 4973]
        return replace(
            plan,
            role=Role.WORKER,
            node_ip=f"2001:db8::{number + 7}" if ipv6 else f"203.0.113.{number + 7}",  # of documentation
            node_name=f"example-node-{number}",
            ports=ports,
            temp_dir=directory,
            spill_dir=f"{directory}-spilled" if plan.spill_dir else None,
            dashboard_host="127.0.0.1",
            client_server=False,
            system_config={},
            session_name=None,
            gcs_storage_path=None,
            quick="node",
            env={name: value for name, value in plan.env.items() if name not in _OF_THE_HEAD},
            **values,
        )

    return (
        example(
            0,
            directories[0],
            num_cpus=731_073,
            num_gpus=0,
            memory_bytes=7_310_000_003,
            object_store_bytes=97_310_007,
            resources={"example": 7.0, "other": 9.0},
            labels={"example": "one", "rack": "b"},
        ),
        example(
            1,
            directories[1],
            num_cpus=2,
            num_gpus=0,
            memory_bytes=8_310_000_011,
            object_store_bytes=98_310_013,
            resources={},
            labels={},
        ),
        example(
            2,
            directories[2],
            num_cpus=3,
            num_gpus=plan.num_gpus,
            memory_bytes=9_310_000_013,
            object_store_bytes=99_310_019,
            resources={"example": 2.0},
            labels={"example": "two"},
        ),
    )


#: CPUs of the machine in the examples: fewer and more than the node's.
EXAMPLE_CPUS = (617_017, 1009, 1013)


def values_of(plan: NodePlan, node_id: str, machine_cpus: int, accelerator_type: str = "") -> dict[str, str]:
    """The values of a worker by their names in a template, as Ray writes them.

    ``accelerator_type``: Ray's name for the model of its GPUs; empty where Ray does not know it.
    """
    ports = plan.ports
    values = {
        "node_ip": plan.node_ip,
        "node_name": plan.node_name,
        "temp_dir": plan.temp_dir,
        "node_id": node_id,
        "num_cpus": str(plan.num_cpus),
        "startup": str(max(1, min(machine_cpus, plan.num_cpus))),
        "resources": resource_list(plan, accelerator_type),
        "labels": _labels(plan, accelerator_type),
        "object_store_bytes": str(plan.object_store_bytes),
        "worker_low": str(ports.get("worker_low") or 0),
        "worker_high": str(ports.get("worker_high") or 0),
        "worker_list": worker_port_list(ports) or "",
    }
    if plan.spill_dir:
        values["spill_dir"] = plan.spill_dir
    return values | {f"port.{name}": str(ports[name]) for name in _PORTS}


def _labels(plan: NodePlan, accelerator_type: str) -> str:
    labels = dict(plan.labels)
    if plan.num_gpus and accelerator_type:
        labels = {"ray.io/accelerator-type": accelerator_type, **labels}
    return json.dumps(labels) if labels else ""


def resource_list(plan: NodePlan, accelerator_type: str = "") -> str:
    """The raylet's resources as Ray lists them; those of which there are none are left out."""
    resources = {
        **plan.resources,
        f"node:{plan.node_ip}": 1.0,
        f"accelerator_type:{accelerator_type}": int(bool(plan.num_gpus and accelerator_type)),
        "CPU": plan.num_cpus,
        "GPU": plan.num_gpus,
        "memory": plan.memory_bytes,
        "object_store_memory": plan.object_store_bytes,
    }
    return ",".join(f"{name},{amount}" for name, amount in resources.items() if amount != 0)


def make_template(first: Example, second: Example) -> Launch:
    """The template of the first example.  Raises NotATemplate unless it gives the second as well."""
    if any("@{" in text for text in _texts(first.launch)):
        raise NotATemplate("a text contains @{")
    # None of the numbers can be a port of the cluster or a part of an address.
    values = values_of(first.plan, first.node_id, first.machine_cpus) | dict(first.cluster)
    names = {text: name for name, text in values.items()}
    if len(names) < len(values) or "" in names:
        raise NotATemplate("two values of the example are the same")
    longest_first = sorted(names, key=len, reverse=True)
    # A number may be a part of another one.
    found = re.compile(
        "|".join(rf"(?<!\w){text}(?!\w)" if text.isdigit() else re.escape(text) for text in longest_first),
        re.ASCII,
    )
    template = first.launch.mapped(lambda text: found.sub(lambda match: f"@{{{names[match[0]]}}}", text))
    if (made := _filled_like(template, second)) != second.launch:
        raise NotATemplate(_difference(made, second.launch))
    return template


def accelerator_type_of(third: Example) -> str:
    """What Ray calls the GPUs of the example that has some; empty where it does not know."""
    found = re.findall(r"\baccelerator_type:([^,]+),1\b", " ".join(third.launch.argv))
    return str(found[0]) if found else ""


def describes(template: Launch, third: Example) -> bool:
    """Whether the template, filled in, is what Ray made of an example with GPUs."""
    kind = accelerator_type_of(third)
    return _filled_like(template, third, kind) == third.launch


def _filled_like(template: Launch, example: Example, accelerator_type: str = "") -> Launch:
    whole = with_values(template, example.cluster)
    return fill(whole, example.plan, example.node_id, example.machine_cpus, accelerator_type)


def with_values(template: Launch, values: Mapping[str, str]) -> Launch:
    """A template in which these names are replaced by values, and all others are left."""
    if not values:
        return template
    return template.mapped(lambda text: _NAME.sub(lambda match: values.get(match[1], match[0]), text))


def fill(
    template: Launch, plan: NodePlan, node_id: str, machine_cpus: int, accelerator_type: str = ""
) -> Launch:
    """What this worker's raylet is executed with.  Raises KeyError for a name that is not known."""
    values = values_of(plan, node_id, machine_cpus, accelerator_type)
    filled = template.mapped(lambda text: _NAME.sub(lambda match: values[match[1]], text))
    # An argument that is there only where the node has such a list.
    return filled.but(argv=tuple(part for part in filled.argv if part != "--worker_port_list="))


def _texts(launch: Launch) -> list[str]:
    texts = [*launch.argv, *launch.variables, *launch.variables.values()]
    for file in launch.files:
        texts += [file.path, file.text]
    return texts


def _difference(made: Launch, there: Launch) -> str:
    pairs = [*zip(made.argv, there.argv, strict=False), *zip(made.files, there.files, strict=False)]
    for one, other in pairs:
        if one != other:
            return f"{str(one)[:300]} instead of {str(other)[:300]}"
    return f"{len(made.argv)} arguments and {len(made.files)} files instead of others"


class Template(Value):
    """What the head leaves in the record for its workers."""

    identity: str
    """Of the cluster that it was made in."""
    installation: str
    """Of the head (installation.py); that of a worker has to be the same."""
    variables: str
    """Checksum of the head's variables that Ray reads (installation.ray_variables)."""
    agent_at_once: bool
    ray_version: str
    session: str
    cluster_id: str
    gcs_address: str
    node_id_bytes: int
    """How many random bytes a node's id has."""
    launch: Launch
    gpus: str
    """Which GPUs its workers may have (node.accelerators), besides none."""
    accelerator_type: str
    """What Ray calls these."""
    spills: bool
    """Whether its workers have a directory for spilled objects."""

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self)) | {"launch": self.launch.as_json()}

    @classmethod
    def from_json(cls, text: bytes | None) -> Template | None:
        """None for what is missing, incomplete, or of another version of raycluster."""
        try:
            value = json.loads(text or b"")
            return cls(**value | {"launch": Launch.from_json(value["launch"])})
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def refusal(self, plan: NodePlan, *, installation: str, variables: str, gpus: str, shm_bytes: int) -> str:
        """Why this template does not describe the worker of this plan; empty when it does.

        ``variables``, ``gpus``: as the attributes, of this node; ``shm_bytes``: free in /dev/shm.
        """
        ports = plan.ports
        amounts = (*plan.resources.values(), plan.num_cpus, plan.num_gpus)
        reasons = {
            "it is of another cluster": self.identity != plan.identity
            or self.gcs_address != plan.gcs_address,
            "the installation of Ray differs from the head's": self.installation != installation,
            "variables that Ray reads differ from the head's": self.variables != variables,
            "the address is of another kind": (":" in plan.node_ip) != ("[" in self.gcs_address),
            "the GPUs of this node are not described": plan.num_gpus != 0 and gpus != (self.gpus or None),
            "an amount of a resource is not a whole number": any(one != int(one) for one in amounts),
            "--spill-dir is not given here and on the head": bool(plan.spill_dir) != self.spills,
            "a port is missing": not all(ports.get(name) for name in (*_PORTS, "worker_low", "worker_high")),
            "the dashboard's agent starts in another way": self.agent_at_once != plan.agent_at_once,
            "/dev/shm is too small for the object store": plan.object_store_bytes > shm_bytes,
            "the object store is too small for Ray": plan.object_store_bytes < 80 << 20,
        }
        return next((reason for reason, holds in reasons.items() if holds), "")


def free_bytes(path: str = PLASMA_DIRECTORY) -> int:
    """Free on the file system of ``path``, 0 where there is none."""
    try:
        found = os.statvfs(path)
    except OSError:
        return 0
    return found.f_bsize * found.f_bavail

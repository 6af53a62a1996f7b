"""Whether a cluster can grow at all."""

from __future__ import annotations

import json
from collections.abc import Iterable

__all__ = ["has_no_autoscaler", "is_fixed"]

# `ray.experimental.internal_kv` is the only way to what `ray status` prints; no public function
# was found in Ray 2.60.
_STATUS = "__autoscaling_status"


def is_fixed() -> bool:
    """Whether the cluster that this process is connected to surely has no autoscaler.

    False where nobody says: Ray's second autoscaler, which KubeRay runs, writes no such status, and
    a head that has just started has written none yet.
    """
    import ray
    from ray.experimental.internal_kv import _internal_kv_get

    if not ray.is_initialized():
        return False
    return has_no_autoscaler(_internal_kv_get(_STATUS), (node["NodeID"] for node in ray.nodes()))


def has_no_autoscaler(status: bytes | None, nodes: Iterable[str]) -> bool:
    """Whether a head's status is that of a cluster without an autoscaler.

    Its monitor then knows no types of machines, and calls each machine's type after the machine.

    Args:
        status: JSON, as the monitor of the head writes it every five seconds.
        nodes: ids of the cluster's machines.
    """
    if status is None:
        return False
    report = json.loads(status).get("autoscaler_report") or {}
    types = {*(report.get("active_nodes") or {}), *(report.get("idle_nodes") or {})}
    return bool(types) and types <= {f"node_{node}" for node in nodes}

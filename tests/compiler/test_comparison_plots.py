"""Pictures of comparisons: no two rows look alike."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

from edgeprune import find
from edgeprune.compiler.comparison_plots import _looks
from edgeprune.compiler.contest import ABLATIONS


def test_all_agents_in_all_ways_can_be_told_apart() -> None:
    rows = [
        SimpleNamespace(agent=agent, warm=warm, learns=learns, ablation=ablation, method=f"{agent} {warm} {ablation}")
        for agent, learns in [(name, name in ("a2c", "dqn", "ppo")) for name in find.names("agents")]
        for warm, ablation in itertools.product((True, False) if learns else (False,), ("", *ABLATIONS))
    ]
    report: Any = SimpleNamespace(rows=rows)
    looks = _looks(report)
    points = {(row.agent, looks[row.method]["color"], looks[row.method]["marker"]) for row in rows}
    assert len(points) == len({point[1:] for point in points}) == len(find.names("agents"))
    assert len({tuple(map(str, look.values())) for look in looks.values()}) == len(rows)

"""The experts of a pool, their units in the order of the base's."""

from __future__ import annotations

from hm3rl.matching.units import check_matchable, match_units
from hm3rl.models.pool import ModelPool, source_labels
from hm3rl.paths.statistics import Calibration

UNITS = "units"
"""What `pool.match` calls it."""


def match_pool(pool: ModelPool, gamma: float, calibration: Calibration | None) -> ModelPool:
    """Match the units of every expert to the base's.

    The base is what task vectors are measured from, so it is the one model whose order all can
    share. An expert that was fine-tuned from it has it already; an adapter cannot have another.

    Args:
        pool: Base and experts of one architecture.
        gamma: See `match_units`.
        calibration: See `match_units`.

    Returns:
        The pool; notes say which experts changed. The pool itself if none did.

    Raises:
        InputError: An expert has another architecture than the base, or one that is not known.
    """
    labels, base = source_labels(pool.expert_names), pool.model(pool.base_name)
    names = [name for name in pool.expert_names if name not in pool.adapters]
    for name in names:
        check_matchable(base, pool.model(name), (labels[pool.base_name], labels[name]))
    models, keys, notes = {}, {}, []
    for name in names:
        pair = (labels[pool.base_name], labels[name])
        found = match_units(base, pool.model(name), gamma, calibration, labels=pair)
        if found.is_identity:
            continue
        models[name], keys[name] = found.apply(pool.model(name)), found.key
        notes.append(
            f"{labels[name]}: its units are in the order that matches the base's; their mean "
            f"similarity is {found.similarity:.3f}, as stored it was {found.before:.3f}"
        )
    return pool.with_matched(models, keys, notes) if models else pool

"""Can a plain checkpoint, which has one configuration, be this candidate?"""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PretrainedConfig

from hm3rl.errors import InputError
from hm3rl.paths.assembly import check_layers
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.families import layer_settings, path_config
from hm3rl.paths.folding import check_foldable
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.members import MemberSet


def check_expressible(candidate: Candidate, members: MemberSet) -> None:
    """Refuse paths that run in process but that no plain checkpoint can express.

    Every layer is compared with what it would be at its depth under the exported configuration,
    which is the stem's with per-layer lists gathered by source.

    Args:
        candidate: What shall be written; its merged members are added to `members`.
        members: The sources and merged members.

    Raises:
        InputError: Names the setting, the layer and the stem, with both values; or the alignment
            does not fold.
    """
    check_foldable(candidate)
    members.admit(candidate)
    check_layers(candidate, members)
    check_one_config(candidate.path, {name: members.config(name) for name in candidate.members})


def check_one_config(path: LayerPath, configs: Mapping[str, PretrainedConfig]) -> None:
    """Refuse paths whose layers need more than one configuration.

    Args:
        path: The path.
        configs: Configuration of each member on it.

    Raises:
        InputError: Names the setting, the layer and the stem, with both values.
    """
    stem, refs = path.stem, path.refs
    config = path_config(configs[stem], [(configs[m], layer) for m, layer in refs])
    for depth, (member, layer) in enumerate(refs):
        needed = layer_settings(configs[member], layer)
        given = layer_settings(config, depth)
        differing = [name for name in needed if needed[name] != given.get(name)]
        if differing:
            name = differing[0]
            raise InputError(
                f"layer {layer} of {member} stands at depth {depth}, where it needs {name} "
                f"{needed[name]}; a checkpoint with the configuration of {stem} gives it "
                f"{given.get(name, 'none')}",
                "no plain checkpoint can express this path; it can be evaluated in process, and a "
                "path whose layers agree in this can be exported",
            )

"""LoRA adapters as experts: the folder that PEFT writes, merged into the base's tensors in memory.

theta = theta_base + s B A (Hu et al., arXiv 2106.09685), s = alpha / rank, or alpha / sqrt(rank)
for rank-stabilised adapters (Kalajdzievski, arXiv 2312.03732). Computed in fp32 and cast once. PEFT
itself is not needed. What the adapter does not touch is the base's own memory. Kinds of adapters
that are not a low-rank sum (DoRA and others) are refused by name.
"""

from __future__ import annotations

import copy
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from hm3rl.errors import InputError
from hm3rl.models.fingerprint import tensor_bytes
from hm3rl.models.hashing import canonical_json
from hm3rl.models.loading import ADAPTER_CONFIG, check_finite, read_json
from hm3rl.models.shallow import deep_shallow_copy, named_tensors

UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "alora_invocation_tokens",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
)
"""Entries of adapter_config.json that make an adapter something else than a low-rank sum."""

CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of init_lora_weights that take something out of the base before training: the adapter
belongs to what is left, which is another model than the base."""

_PREFIX = "base_model.model."
_WRAPPERS = (".base_layer", ".modules_to_save")
_FACTORS = {
    ".lora_A.weight": ("weight", "down"),
    ".lora_B.weight": ("weight", "up"),
    ".lora_embedding_A": ("embedding", "down"),
    ".lora_embedding_B": ("embedding", "up"),
}


@dataclass(frozen=True)
class Adapter:
    """One adapter: what it adds to the base's tensors, and which it replaces.

    Attributes:
        label: How messages name the expert.
        folder: Where it was read from.
        settings: adapter_config.json.
        sums: By name of the base's tensor the factors (A, B), shapes (r, n) and (m, r), and whether
            B A is the transpose of the tensor.
        shifts: By name of the base's bias what is added to it, before scaling.
        replaced: By name of the base's tensor the trained tensor that takes its place.
    """

    label: str
    folder: Path
    settings: Mapping[str, Any]
    sums: Mapping[str, tuple[torch.Tensor, torch.Tensor, bool]]
    shifts: Mapping[str, tuple[str, torch.Tensor]]
    replaced: Mapping[str, torch.Tensor]

    @classmethod
    def read(cls, label: str, folder: Path, file: Path) -> Adapter:
        """Read an adapter's folder.

        Args:
            label: How messages name the expert.
            folder: Folder with adapter_config.json.
            file: Its safetensors file.

        Raises:
            InputError: It is no LoRA adapter, or of a kind that cannot be merged; says which.
        """
        settings = _settings(label, folder)
        pairs: dict[str, dict[str, torch.Tensor]] = {}
        transposed = bool(settings.get("fan_in_fan_out"))
        flips: dict[str, bool] = {}
        shifts: dict[str, tuple[str, torch.Tensor]] = {}
        replaced: dict[str, torch.Tensor] = {}
        for key, tensor in load_file(file).items():
            name = key.removeprefix(_PREFIX)
            for wrapper in _WRAPPERS:
                name = name.replace(wrapper, "")
            suffix = next((s for s in _FACTORS if name.endswith(s)), None)
            if suffix is not None:
                kind, role = _FACTORS[suffix]
                target = name.removesuffix(suffix) + ".weight"
                pairs.setdefault(target, {})[role] = tensor
                flips[target] = kind == "embedding" or transposed
            elif name.endswith(".lora_B.bias"):
                module = name.removesuffix(".lora_B.bias")
                shifts[f"{module}.bias"] = (f"{module}.weight", tensor)
            elif ".lora_" in name:
                raise InputError(
                    f"{label}: {file} holds {key}, which is no part of a LoRA adapter",
                    "merge this adapter with PEFT (merge_and_unload) and give the merged folder",
                )
            else:
                replaced[name] = tensor
        for weight, _ in shifts.values():
            pairs.setdefault(weight, {})  # a bias alone is not what PEFT saves
        lonely = next((t for t, factors in pairs.items() if len(factors) != 2), None)
        if lonely is not None:
            raise InputError(
                f"{label}: {file} does not hold both factors for {lonely}", "save the adapter again"
            )
        if not pairs and not replaced:
            raise InputError(
                f"{label}: {file} holds no tensors, so the expert would be the base itself",
                "save the adapter again, from the model it was trained in",
            )
        sums = {t: (f["down"], f["up"], flips[t]) for t, f in pairs.items()}
        return cls(label, folder, settings, sums, shifts, replaced)

    def check(self, shapes: Mapping[str, torch.Size]) -> None:
        """Require that the adapter fits a base.

        Args:
            shapes: Shape of each of the base's tensors.

        Raises:
            InputError: The base lacks a tensor, or has another shape; names both.
        """
        given = {name: tensor.shape for name, tensor in self.replaced.items()}
        given |= {name: tensor.shape for name, (_, tensor) in self.shifts.items()}
        for name, (down, up, flipped) in self.sums.items():
            product = (up.shape[0], down.shape[1])
            given[name] = torch.Size(product[::-1] if flipped else product)
        for name, shape in given.items():
            if name not in shapes:
                raise InputError(
                    f"{self.label}: the adapter changes {name}, which the base does not have",
                    "give the base that it was trained on (a head tied to the embedding cannot be "
                    "changed alone)",
                )
            if shapes[name] != shape:
                raise InputError(
                    f"{self.label}: the adapter changes {name} of shape {tuple(shape)}, the base's "
                    f"has {tuple(shapes[name])}",
                    "give the base that it was trained on",
                )

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the tensors that differ from the base's."""
        return tuple(sorted({*self.sums, *self.shifts, *self.replaced}))

    @property
    def idle(self) -> bool:
        """Whether it leaves the base as it is, as an adapter does that was not trained."""
        added = [up for _, up, _ in self.sums.values()] + [t for _, t in self.shifts.values()]
        return not self.replaced and not any(bool(tensor.any()) for tensor in added)

    @torch.no_grad()
    def apply(self, name: str, base: torch.Tensor) -> torch.Tensor:
        """Return the expert's tensor in the base's precision and on its device.

        Args:
            name: One of `changed`.
            base: The base's tensor of that name.
        """
        result = self.replaced[name].to(base.device) if name in self.replaced else base
        result = result.float()
        if name in self.sums:
            down, up, flipped = self.sums[name]
            product = up.to(base.device).float() @ down.to(base.device).float()
            result = result + self._scale(name, down.shape[0]) * (product.T if flipped else product)
        if name in self.shifts:
            weight, shift = self.shifts[name]
            scale = self._scale(weight, self.sums[weight][0].shape[0])
            result = result + scale * shift.to(base.device).float()
        return result.to(base.dtype)

    def _scale(self, weight: str, rank: int) -> float:
        module = weight.removesuffix(".weight")
        patterns: Mapping[str, float] = self.settings.get("alpha_pattern") or {}
        alpha = next(
            (a for p, a in patterns.items() if re.fullmatch(rf"(.*\.)?({p})", module)),
            self.settings["lora_alpha"],
        )
        return alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)

    def content_hash(self, base: str) -> str:
        """Hash of the expert: of the base, of the settings that count, and of all tensors.

        Args:
            base: Content hash of the base.

        Returns:
            64 hexadecimal digits.
        """
        kept = {
            key: self.settings.get(key) or None
            for key in ("lora_alpha", "alpha_pattern", "use_rslora", "fan_in_fan_out")
        }
        digest = hashlib.sha256(f"{base}\0{canonical_json(kept)}".encode())
        named = {f"{n}\0A": down for n, (down, _, _) in self.sums.items()}
        named |= {f"{n}\0B": up for n, (_, up, _) in self.sums.items()}
        named |= {f"{n}\0shift": tensor for n, (_, tensor) in self.shifts.items()}
        for name, tensor in sorted({**named, **self.replaced}.items()):
            digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            digest.update(tensor_bytes(tensor))
        return digest.hexdigest()

    def model(self, base: PreTrainedModel) -> PreTrainedModel:
        """Build the expert on the base's module tree; only changed tensors take memory.

        Args:
            base: The loaded base.

        Returns:
            A model in evaluation mode with its own configuration object.

        Raises:
            InputError: The adapter does not fit, or its weights are not finite.
        """
        tensors = named_tensors(base)
        self.check({name: tensor.shape for name, tensor in tensors.items()})
        fresh = {id(tensors[name]): self.apply(name, tensors[name]) for name in self.changed}
        expert = deep_shallow_copy(base, fresh)
        expert.config = copy.deepcopy(base.config)
        check_finite(self.label, expert)
        return expert


def _settings(label: str, folder: Path) -> dict[str, Any]:
    file = folder / ADAPTER_CONFIG
    settings = read_json(label, file)
    try:
        kind = settings["peft_type"]
        settings["lora_alpha"] = float(settings.get("lora_alpha", 8))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{label}: {file} is no adapter configuration ({error!r})", "save the adapter again"
        ) from error
    unsupported = [name for name in UNSUPPORTED if settings.get(name)]
    if kind != "LORA" or unsupported:
        raise InputError(
            f"{label}: {folder} is an adapter of kind {', '.join(unsupported) or kind}, "
            "which is not a low-rank sum",
            "merge it with PEFT (merge_and_unload) and give the merged folder",
        )
    initial = settings.get("init_lora_weights")
    if isinstance(initial, str) and initial.lower().startswith(CHANGES_BASE):
        raise InputError(
            f"{label}: {folder} was initialised by {initial}, which changes the base's weights too",
            "save it as plain LoRA (path_initial_model_for_weight_conversion), "
            "or merge it with PEFT (merge_and_unload) and give the merged folder",
        )
    return dict(settings)

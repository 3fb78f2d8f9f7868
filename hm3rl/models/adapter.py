"""Adapters as experts: the folder that PEFT writes, merged into the base's weights by PEFT.

Whatever PEFT can merge is welcome: LoRA (Hu et al., arXiv 2106.09685), rank-stabilised or with
patterns, DoRA, LoHa, IA3 and others. LoRA of a linear layer is summed in fp32 and cast once, on any
base. What the adapter does not touch is the base's own memory. PEFT is an extra: without it, only
adapters are refused.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PretrainedConfig, PreTrainedModel

from hm3rl.errors import InputError
from hm3rl.models.fingerprint import tensor_bytes
from hm3rl.models.hashing import canonical_json
from hm3rl.models.loading import ADAPTER_CONFIG, check_finite, read_json
from hm3rl.models.shallow import deep_shallow_copy, named_tensors
from hm3rl.models.tensor_names import skeleton

EXTRA = "adapters"
"""Extra of this package that brings PEFT."""

CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of init_lora_weights that take something out of the base before training: the adapter
belongs to what is left, which is another model than the base."""

SUM = ("lora_alpha", "alpha_pattern", "use_rslora", "fan_in_fan_out")
"""Settings that a low-rank sum depends on, beside its tensors."""

OTHERWISE = (
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
"""Settings that make LoRA something else than a low-rank sum: then all settings count."""

INDIFFERENT = (
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "lora_dropout",
    "peft_version",
    "revision",
)
"""Settings that never change what an adapter computes."""

_PREFIX = "base_model.model."
_WRAPPERS = (".base_layer", ".modules_to_save")
_ROLES = {
    ".lora_A.weight": ".weight\0A",
    ".lora_B.weight": ".weight\0B",
    ".lora_embedding_A": ".weight\0A",
    ".lora_embedding_B": ".weight\0B",
    ".lora_B.bias": ".bias\0shift",
}
"""How the hash names a tensor, by the end of its name in the file: what it changes, its role."""


@dataclass(frozen=True)
class Adapter:
    """One adapter.

    Attributes:
        label: How messages name the expert.
        folder: Where it was read from.
        settings: adapter_config.json.
        tensors: What its file holds, by the file's names.
    """

    label: str
    folder: Path
    settings: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]

    @classmethod
    def read(cls, label: str, folder: Path, file: Path) -> Adapter:
        """Read an adapter's folder.

        Args:
            label: How messages name the expert.
            folder: Folder with adapter_config.json.
            file: Its safetensors file.

        Raises:
            InputError: It is no adapter, or of a kind that belongs to another model than the base;
                or PEFT is not installed.
        """
        settings = _settings(label, folder)
        if find_spec("peft") is None:
            raise InputError(
                f"{label}: {folder} is an adapter, and the package peft, which merges it, is not "
                "installed",
                f"pip install 'hm3rl[{EXTRA}]', or give the merged folder",
            )
        adapter = cls(label, folder, settings, load_file(file))
        if not adapter.tensors:
            raise InputError(
                f"{label}: {file} holds no tensors, so the expert would be the base itself",
                "save the adapter again, from the model it was trained in",
            )
        return adapter

    @property
    def _roles(self) -> dict[str, torch.Tensor]:
        """The tensors by the names that the hash has of them."""
        named = {}
        for key, tensor in self.tensors.items():
            name = _plain(key)
            end = next((end for end in _ROLES if name.endswith(end)), None)
            named[name if end is None else name.removesuffix(end) + _ROLES[end]] = tensor
        return named

    def check(self, config: PretrainedConfig) -> None:
        """Require that the adapter fits a base, before the base's weights are loaded.

        Args:
            config: The base's configuration.

        Raises:
            InputError: The base lacks what it changes, or has another shape; says what.
        """
        model = skeleton(config)
        self._changed(model)
        self._put_into(model)

    @property
    def idle(self) -> bool:
        """Whether it leaves the base as it is, as a LoRA adapter does that was not trained."""
        return all(
            name.endswith("\0A") or (name.endswith(("\0B", "\0shift")) and not bool(tensor.any()))
            for name, tensor in self._roles.items()
        )

    def content_hash(self, base: str) -> str:
        """Hash of the expert: of the base, of the settings that count, and of all tensors.

        Args:
            base: Content hash of the base.

        Returns:
            64 hexadecimal digits.
        """
        kept: dict[str, Any] = {key: self.settings.get(key) or None for key in SUM}
        if self.settings["peft_type"] != "LORA" or any(map(self.settings.get, OTHERWISE)):
            kept["settings"] = {k: v for k, v in self.settings.items() if k not in INDIFFERENT}
        digest = hashlib.sha256(f"{base}\0{canonical_json(kept)}".encode())
        for name, tensor in sorted(self._roles.items()):
            digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            digest.update(tensor_bytes(tensor))
        return digest.hexdigest()

    @torch.no_grad()
    def model(self, base: PreTrainedModel) -> PreTrainedModel:
        """Build the expert on the base's module tree; only changed tensors take memory.

        Args:
            base: The loaded base.

        Returns:
            A model in evaluation mode with its own configuration object.

        Raises:
            InputError: PEFT cannot merge the adapter, or its weights are not finite.
        """
        before = named_tensors(base)
        names = self._changed(base)
        draft = deep_shallow_copy(base, {id(before[name]): before[name].clone() for name in names})
        draft.config = copy.deepcopy(base.config)  # PEFT may write into it
        adapted = self._put_into(draft)
        try:
            after = named_tensors(adapted.merge_and_unload())
        except (NotImplementedError, ValueError) as error:
            raise self._refused("merge", error) from error
        found = {name: after[name].detach().to(before[name].dtype) for name in names}
        fresh = {id(before[n]): t for n, t in found.items() if not torch.equal(t, before[n])}
        expert = deep_shallow_copy(base, fresh)
        expert.config = copy.deepcopy(base.config)
        check_finite(self.label, expert)
        return expert

    def _changed(self, model: PreTrainedModel) -> list[str]:
        """Names of the base's tensors that the adapter may change.

        Raises:
            InputError: The base does not have one.
        """
        present, modules = named_tensors(model), dict(model.named_modules())
        found: dict[str, None] = {}
        for key in self.tensors:
            if not key.startswith(_PREFIX):
                continue  # what some kinds share between all layers
            name = _plain(key)
            names = [name]
            if name not in present:
                parts = name.split(".")
                ends = range(len(parts) - 1, 0, -1)
                inner = next((p for p in (".".join(parts[:i]) for i in ends) if p in modules), "")
                held = [n for n, _ in modules[inner].named_parameters(recurse=False)]
                names = [f"{inner}.{n}" for n in held] or [name]
            for name in names:
                if name not in present:
                    raise InputError(
                        f"{self.label}: the adapter changes {name}, which the base does not have",
                        "give the base that it was trained on (a head tied to the embedding cannot "
                        "be changed alone)",
                    )
                found[name] = None
        return list(found)

    def _put_into(self, model: PreTrainedModel) -> Any:
        """Have PEFT put the adapter into a model, which is changed.

        Returns:
            PEFT's model.

        Raises:
            InputError: PEFT cannot, or the adapter's file does not hold what its settings promise.
        """
        import peft  # an extra, and slow to import
        from peft.tuners.tuners_utils import BaseTuner

        device = model.device
        own_generator = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=own_generator), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message="Found missing adapter keys")
            try:
                adapted = peft.PeftModel.from_pretrained(
                    model,
                    str(self.folder),
                    # Where there are weights, this would round the adapter to their precision.
                    low_cpu_mem_usage=device.type == "meta",
                    torch_device="cpu" if device.type == "meta" else str(device),
                )
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # it raises whatever comes of settings that do not fit
                raise self._refused("read", error) from error
        if not isinstance(adapted.base_model, BaseTuner):
            raise self._refused("merge", f"{self.settings['peft_type']} adds no weights")
        own = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
        known = {*adapted.state_dict(), *own}
        stray = sorted(self.tensors.keys() - known)
        if stray:
            raise self._refused("read", f"its settings do not say where {stray[0]} belongs")
        return adapted

    def _refused(self, verb: str, why: object) -> InputError:
        lines = str(why).splitlines() or [type(why).__name__]
        said = next((line.strip() for line in lines if "size mismatch" in line), lines[0])
        return InputError(
            f"{self.label}: PEFT cannot {verb} the adapter in {self.folder}: {said}",
            "give the base that it was trained on, save the adapter again, or merge it yourself "
            "(merge_and_unload) and give the merged folder",
        )


def _plain(key: str) -> str:
    """A tensor's name in the file without what PEFT wraps modules in."""
    name = key.removeprefix(_PREFIX)
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _settings(label: str, folder: Path) -> dict[str, Any]:
    file = folder / ADAPTER_CONFIG
    settings = read_json(label, file)
    try:
        settings["peft_type"]
        settings["lora_alpha"] = float(settings.get("lora_alpha", 8))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{label}: {file} is no adapter configuration ({error!r})", "save the adapter again"
        ) from error
    if settings.get("layer_replication"):
        raise InputError(
            f"{label}: {folder} repeats layers (layer_replication), so it has not the base's depth",
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

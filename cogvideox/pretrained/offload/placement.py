"""Execution of a memory plan: each network of a model is moved to the device before it is used.

    plan = plan_memory(profile_model(spec), workload, detect_hardware(device, "bfloat16"))
    model = place_model(spec, plan, device, torch.bfloat16)
    model.activate("text_encoder")    # before using it; likewise for "transformer" and "vae"

All network modules exist from the start, and LoRAs can be added to the transformer at any time. An offloaded network's
parameters are empty while it is not in use.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field

import torch

from cogvideox.device import empty_device_cache
from cogvideox.diffusion.schedule import Schedule
from cogvideox.pretrained.components import (
    Network,
    build_network,
    component_name,
    diffusers_keymap,
    load_network,
    open_component,
)
from cogvideox.pretrained.model_folder import LoadedModel, load_tokenizer
from cogvideox.pretrained.model_spec import WEIGHT_STEMS, ComponentName, ModelSpec, NetworkConfig
from cogvideox.pretrained.offload.group_offload import BlockHooks, OffloadGroups, clear_parameters, set_parameters
from cogvideox.pretrained.offload.memory_planner import replan_vae
from cogvideox.pretrained.offload.plan import MemoryPlan, ModelProfile, Workload
from cogvideox.pretrained.offload.transformer_cost import OffloadStrategy, WeightLocation
from cogvideox.pretrained.offload.vae_cost import VAESlicing
from cogvideox.pretrained.offload.weight_store import DiskStore, MemoryStore, QuantizedDiskStore, WeightStore
from cogvideox.state_dict.strict_load import check_matches, convert_tensors
from cogvideox.vae.inference.host_memory import release_memory


@dataclass
class PlacedModel(LoadedModel):
    """A model placed on its device according to a memory plan."""

    profile: ModelProfile
    plan: MemoryPlan
    offloaders: "dict[str, ModelOffload | GroupOffload]" = field(default_factory=dict, repr=False)

    def activate(self, component: str) -> None:
        """Offload the other networks, then load this one.

        Raises:
            UserError: the weights are damaged (detected on reading).
        """
        for other, offloader in self.offloaders.items():
            if other != component:
                offloader.offload()
        if component in self.offloaders:
            self.offloaders[component].onload()

    def vae_slicing(self, workload: Workload) -> VAESlicing:
        """Return the slicing of the VAE for a request, which may differ from the planned request."""
        return replan_vae(self.profile, workload, self.plan).vae_slicing


def profile_model(spec: ModelSpec) -> ModelProfile:
    """Return the properties of a model that a memory plan depends on. Reads only the headers of weight files.

    Raises:
        UserError: weights are missing or damaged.
    """
    itemsizes: dict[ComponentName, int] = {}
    for name in WEIGHT_STEMS:
        sizes: Counter[int] = Counter({4: 0})
        for tensor in open_component(spec.path / name, name)[0].meta.values():
            sizes[tensor.itemsize] += tensor.numel()
        itemsizes[name] = sizes.most_common(1)[0][0]
    return ModelProfile(spec.name, spec.transformer, spec.vae, spec.text_encoder, spec.settings.text_length, itemsizes)


def place_model(spec: ModelSpec, plan: MemoryPlan, device: torch.device, dtype: torch.dtype) -> PlacedModel:
    """Load the resident networks, and prepare offloading of the others.

    Raises:
        UserError: as in `model_folder.load`; for networks that are loaded later, only file headers are checked.
    """
    tokenizer = load_tokenizer(spec)
    networks: dict[str, Network] = {}
    offloaders: dict[str, ModelOffload | GroupOffload] = {}
    components: tuple[tuple[NetworkConfig, OffloadStrategy], ...] = (
        (spec.text_encoder, plan.text_encoder),
        (spec.transformer, plan.transformer),
        (spec.vae, "resident"),
    )
    for config, strategy in components:
        name, is_exact = component_name(config), plan.weight_format == "exact"
        if name == "vae" or (strategy == "resident" and is_exact):
            networks[name] = load_network(spec.path, config, device=device, dtype=dtype)
            continue
        if strategy == "model_offload" and is_exact:
            offloader = ModelOffload(spec, config, device, dtype)
        else:
            offloader = GroupOffload(spec, config, plan, device, dtype)
        networks[name], offloaders[name] = offloader.network, offloader
    return PlacedModel(
        **networks,  # pyrefly: ignore[bad-argument-type]
        tokenizer=tokenizer,
        schedule=Schedule(**asdict(spec.schedule)),
        settings=spec.settings,
        profile=profile_model(spec),
        plan=plan,
        offloaders=offloaders,
    )


class ModelOffload:
    """Loads a whole network when it is used, and drops its weights when another network is used."""

    def __init__(self, spec: ModelSpec, config: NetworkConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.network = build_network(config).requires_grad_(False)
        self._component, self._device, self._dtype = component_name(config), device, dtype
        self._folder, self._rules = spec.path / self._component, diffusers_keymap(config)
        self._expected = self.network.state_dict()
        state, file = open_component(self._folder, self._component)
        check_matches(state, self._expected, where=str(file), rules=self._rules)
        clear_parameters(self.network, list(self._expected), dtype, device)
        self._is_loaded = False

    def onload(self) -> None:
        """Load the network before its use."""
        if self._is_loaded:
            return
        state, file = open_component(self._folder, self._component)
        try:
            with torch.inference_mode(False), torch.no_grad():
                tensors = convert_tensors(
                    state, self._expected, where=str(file), rules=self._rules, dtype=self._dtype, device=self._device
                )
                for name, tensor in tensors:
                    set_parameters(self.network, {name: tensor})
        except BaseException:  # a partially loaded network must not stay in memory
            self._clear()
            raise
        self._is_loaded = True

    def offload(self) -> None:
        """Drop the weights before another network is used."""
        if self._is_loaded:
            self._is_loaded = False
            self._clear()

    def _clear(self) -> None:
        clear_parameters(self.network, list(self._expected), self._dtype, self._device)
        free_cached_memory(self._device)


class GroupOffload:
    """Loads the blocks of a network one at a time (`group_offload`). Hooks are registered on first use.

    It is also used for resident quantized weights, which are dequantized block by block.
    """

    def __init__(
        self, spec: ModelSpec, config: NetworkConfig, plan: MemoryPlan, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.network = build_network(config).requires_grad_(False)
        self._device, self._dtype = device, dtype
        self._expected = self.network.state_dict()
        component, rules = component_name(config), diffusers_keymap(config)
        state, file = open_component(spec.path / component, component)
        check_matches(state, self._expected, where=str(file), rules=rules)
        self._groups = OffloadGroups(self._expected)
        self._disk = DiskStore(state, self._expected, rules, str(file), dtype=dtype, device=device)
        self._format = None if plan.weight_format == "exact" else plan.weight_format
        is_text = component == "text_encoder"
        self._location: WeightLocation = "device"
        if (plan.text_encoder if is_text else plan.transformer) == "group_offload":
            # Prompts are encoded once, so it makes no difference if the text encoder is read from disk.
            self._location = "disk" if is_text else plan.weight_location
        clear_parameters(self.network, list(self._expected), dtype, device)
        self._hooks: BlockHooks | None = None

    def onload(self) -> None:
        """Register the hooks that load the blocks, on first use."""
        if self._hooks is None:
            resident = self._disk.fetch(self._groups.resident)
            # Cloned, because a view would keep part of the mapped file in memory.
            set_parameters(self.network, {name: tensor.clone() for name, tensor in resident.items()})
            self._hooks = BlockHooks(
                self.network,
                self._expected,
                self._groups,
                self._weight_store(),
                self._disk,
                dtype=self._dtype,
                device=self._device,
            )

    def offload(self) -> None:
        """Drop prefetched blocks before another network is used."""
        if self._hooks is not None:
            self._hooks.reset()
            free_cached_memory(self._device)

    def _weight_store(self) -> WeightStore:
        if self._location == "disk":
            return self._disk if self._format is None else QuantizedDiskStore(self._disk, self._format)
        groups = [*self._groups.blocks, *(names for names in self._groups.modulation if names)]
        location = torch.device("cpu") if self._location == "host" else self._device
        return MemoryStore(
            self._disk, groups, location=location, device=self._device, dtype=self._dtype, format=self._format
        )


def free_cached_memory(device: torch.device) -> None:
    """Free memory that torch or the C library has cached but does not use."""
    if device.type == "cpu":
        release_memory()
    else:
        empty_device_cache(device)

"""Carrying out a memory plan: the networks of a model, each on the device when it is used.

    plan = memory.plan(model_of(about), demand, machine.look(device, "bfloat16"))
    run = place(about, plan, device, torch.bfloat16)
    run.activate("text_encoder")    # before it is used, and so on for "transformer" and "vae"

The networks are there from the start, and a LoRA may be laid over the transformer at any time; of those that come in
turn or are streamed, the matrices are empty in between.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field

import torch

from cogvideox.diffusion.schedule import Schedule
from cogvideox.pretrained.components import Network, build_network, diffusers_keymap, open_component
from cogvideox.pretrained.model_folder import LoadedModel, load_tokenizer
from cogvideox.pretrained.model_spec import WEIGHT_STEMS, ComponentName, ModelSpec, NetworkConfig
from cogvideox.pretrained.offload.group_offload import BlockHooks, OffloadGroups, clear_parameters, set_parameters
from cogvideox.pretrained.offload.planner import MemoryPlan, ModelProfile, OffloadStrategy, Workload, replan_vae
from cogvideox.pretrained.offload.vae_cost import VAEMemoryMode
from cogvideox.pretrained.offload.weight_store import DiskStore, MemoryStore, QuantizedDiskStore, WeightStore
from cogvideox.state_dict.strict_load import check_matches, convert_tensors, load_strict
from cogvideox.vae.inference.host_memory import release_memory


@dataclass
class PlacedModel(LoadedModel):
    """A model on its device as a plan has it."""

    model: ModelProfile
    plan: MemoryPlan
    keepers: "dict[str, ModelOffload | GroupOffload]" = field(default_factory=dict, repr=False)

    def activate(self, part: str) -> None:
        """Brings the network that is used next, after the others have made room.

        Raises:
            UserError: its weights are missing or damaged, which of one that comes later shows late.
        """
        for other, keeper in self.keepers.items():
            if other != part:
                keeper.leave()
        if part in self.keepers:
            self.keepers[part].enter()

    def vae_mode(self, workload: Workload) -> VAEMemoryMode:
        """How the VAE takes a request, for which the model was not necessarily placed."""
        return replan_vae(self.model, workload, self.plan).vae


def profile_model(spec: ModelSpec) -> ModelProfile:
    """What a plan has to know of a model; of its weights only the headers are read.

    Raises:
        UserError: weights are missing or damaged.
    """
    stored = {}
    for part in WEIGHT_STEMS:
        sizes: Counter[int] = Counter({4: 0})
        for tensor in open_component(spec.path / part, part)[0].meta.values():
            sizes[tensor.itemsize] += tensor.numel()
        stored[part] = sizes.most_common(1)[0][0]
    return ModelProfile(spec.name, spec.transformer, spec.vae, spec.text_encoder, spec.settings.text_length, stored)


def place_model(spec: ModelSpec, plan: MemoryPlan, device: torch.device, dtype: torch.dtype) -> PlacedModel:
    """Loads what the plan has loaded at once, and readies the rest.

    Raises:
        UserError: as `folder.load`; of networks that are loaded later, what their headers tell.
    """
    tokenizer = load_tokenizer(spec)
    networks: dict[str, Network] = {}
    keepers: dict[str, ModelOffload | GroupOffload] = {}
    strategies: dict[str, OffloadStrategy] = {"text_encoder": plan.text_encoder, "transformer": plan.transformer}
    configs: dict[ComponentName, NetworkConfig] = {
        "text_encoder": spec.text_encoder,
        "transformer": spec.transformer,
        "vae": spec.vae,
    }
    for part, config in configs.items():
        network = networks[part] = build_network(config)
        if part == "vae" or (strategies[part] == "resident" and plan.weight_format == "exact"):
            state, file = open_component(spec.path / part, part)
            load_strict(network, state, where=str(file), rules=diffusers_keymap(config), dtype=dtype, device=device)
        elif strategies[part] == "model_offload" and plan.weight_format == "exact":
            keepers[part] = ModelOffload(spec, part, network, device, dtype)
        else:
            keepers[part] = GroupOffload(spec, part, network, device, dtype, plan)
        network.eval().requires_grad_(False)
    return PlacedModel(
        **networks,  # pyrefly: ignore[bad-argument-type]
        tokenizer=tokenizer,
        schedule=Schedule(**asdict(spec.schedule)),
        settings=spec.settings,
        model=profile_model(spec),
        plan=plan,
        keepers=keepers,
    )


class ModelOffload:
    """Loads a network when it is used, and lets it go when another one is."""

    def __init__(
        self, spec: ModelSpec, part: ComponentName, network: Network, device: torch.device, dtype: torch.dtype
    ):
        self._spec, self._part, self._network = spec, part, network
        self._device, self._dtype = device, dtype
        self._expected = network.state_dict()
        state, file = open_component(spec.path / part, part)
        check_matches(state, self._expected, where=str(file), rules=diffusers_keymap(network.config))
        clear_parameters(network, list(self._expected), dtype, device)
        self._is_here = False

    def enter(self) -> None:
        """The network is used next."""
        if self._is_here:
            return
        state, file = open_component(self._spec.path / self._part, self._part)
        rules = diffusers_keymap(self._network.config)
        try:
            with torch.inference_mode(False), torch.no_grad():
                made = convert_tensors(
                    state, self._expected, where=str(file), rules=rules, dtype=self._dtype, device=self._device
                )
                for name, tensor in made:
                    set_parameters(self._network, {name: tensor})
        except BaseException:  # half of a network is of no use, and takes memory
            self._take_out()
            raise
        self._is_here = True

    def leave(self) -> None:
        """Another one is."""
        if self._is_here:
            self._is_here = False
            self._take_out()

    def _take_out(self) -> None:
        clear_parameters(self._network, list(self._expected), self._dtype, self._device)
        free_cached_memory(self._device)


class GroupOffload:
    """Readies a network for streaming when it is first used (`streaming`)."""

    def __init__(
        self,
        spec: ModelSpec,
        part: ComponentName,
        network: Network,
        device: torch.device,
        dtype: torch.dtype,
        plan: MemoryPlan,
    ) -> None:
        self._network, self._device, self._dtype, self._plan, self._part = network, device, dtype, plan, part
        expected = self._expected = network.state_dict()
        state, file = open_component(spec.path / part, part)
        rules = diffusers_keymap(network.config)
        check_matches(state, expected, where=str(file), rules=rules)
        self._groups = OffloadGroups(expected)
        self._disk = DiskStore(state, expected, rules, str(file), dtype=dtype, device=device)
        clear_parameters(network, list(expected), dtype, device)
        self._streamed: BlockHooks | None = None

    def enter(self) -> None:
        if self._streamed is None:
            rest = self._disk.fetch(self._groups.rest)
            # Copies: a view keeps the piece of the file around it.
            set_parameters(self._network, {name: tensor.clone() for name, tensor in rest.items()})
            self._streamed = BlockHooks(
                self._network,
                self._expected,
                self._groups,
                self._shelf(),
                self._disk,
                dtype=self._dtype,
                device=self._device,
            )

    def leave(self) -> None:
        if self._streamed is not None:
            self._streamed.rest()
            free_cached_memory(self._device)

    def _shelf(self) -> WeightStore:
        plan, is_text = self._plan, self._part == "text_encoder"
        form = None if plan.weight_format == "exact" else plan.weight_format
        place = self._device
        if (plan.text_encoder if is_text else plan.transformer) == "group_offload":
            if is_text or plan.weight_location == "disk":  # a text is encoded once: reading it again is no loss
                return self._disk if form is None else QuantizedDiskStore(self._disk, form)
            place = torch.device("cpu")
        groups = [*self._groups.blocks, *(names for names in self._groups.tables if names)]
        return MemoryStore(self._disk, groups, place=place, device=self._device, dtype=self._dtype, storage=form)


def free_cached_memory(device: torch.device) -> None:
    """Gives memory that nothing uses back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        release_memory()

"""Carrying out a memory plan: the networks of a model, each on the device when it is used.

    plan = memory.plan(model_of(about), demand, machine.look(device, "bfloat16"))
    run = place(about, plan, device, torch.bfloat16)
    run.turn("text_encoder")    # before it is used, and so on for "transformer" and "vae"

The networks are there from the start, and a LoRA may be laid over the transformer at any time; of those that come in
turn or are streamed, the matrices are empty in between.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field

import torch

from cogvideox.diffusion.schedule import Schedule
from cogvideox.pretrained.components import Network, build, keymap_of
from cogvideox.pretrained.model_folder import Bundle, open_part, tokenizer_of
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.pretrained.offload.group_offload import Groups, Streamed, put, take_out
from cogvideox.pretrained.offload.planner import Demand, Keep, Model, Plan, replan
from cogvideox.pretrained.offload.vae_cost import Decoding
from cogvideox.pretrained.offload.weight_store import InMemory, OnDisk, Rounded, Shelf
from cogvideox.state_dict.strict_load import check_fit, load_strict, translate
from cogvideox.vae.inference.host_memory import release_memory


@dataclass
class Placed(Bundle):
    """A model on its device as a plan has it."""

    model: Model
    plan: Plan
    keepers: "dict[str, InTurn | InStreaming]" = field(default_factory=dict, repr=False)

    def turn(self, part: str) -> None:
        """Brings the network that is used next, after the others have made room.

        Raises:
            UserError: its weights are missing or damaged, which of one that comes later shows late.
        """
        for other, keeper in self.keepers.items():
            if other != part:
                keeper.leave()
        if part in self.keepers:
            self.keepers[part].enter()

    def decoding(self, demand: Demand) -> Decoding:
        """How the VAE takes a request, for which the model was not necessarily placed."""
        return replan(self.model, demand, self.plan).vae


def model_of(spec: ModelSpec) -> Model:
    """What a plan has to know of a model; of its weights only the headers are read.

    Raises:
        UserError: weights are missing or damaged.
    """
    stored = {}
    for part in ("text_encoder", "transformer", "vae"):
        sizes: Counter[int] = Counter({4: 0})
        for tensor in open_part(spec, part)[0].meta.values():
            sizes[tensor.itemsize] += tensor.numel()
        stored[part] = sizes.most_common(1)[0][0]
    return Model(spec.name, spec.transformer, spec.vae, spec.text, spec.settings.text_length, stored)


def place(spec: ModelSpec, plan: Plan, device: torch.device, dtype: torch.dtype) -> Placed:
    """Loads what the plan has loaded at once, and readies the rest.

    Raises:
        UserError: as `folder.load`; of networks that are loaded later, what their headers tell.
    """
    tokenizer = tokenizer_of(spec)
    networks: dict[str, Network] = {}
    keepers: dict[str, InTurn | InStreaming] = {}
    keeps: dict[str, Keep] = {"text_encoder": plan.text, "transformer": plan.transformer}
    configs = {"text_encoder": spec.text, "transformer": spec.transformer, "vae": spec.vae}
    for part, config in configs.items():
        network = networks[part] = build(config)
        if part == "vae" or (keeps[part] == "stays" and plan.storage == "exact"):
            state, file = open_part(spec, part)
            load_strict(network, state, where=str(file), rules=keymap_of(config), dtype=dtype, device=device)
        elif keeps[part] == "turns" and plan.storage == "exact":
            keepers[part] = InTurn(spec, part, network, device, dtype)
        else:
            keepers[part] = InStreaming(spec, part, network, device, dtype, plan)
        network.eval().requires_grad_(False)
    return Placed(
        **networks,  # pyrefly: ignore[bad-argument-type]
        tokenizer=tokenizer,
        schedule=Schedule(**asdict(spec.schedule)),
        settings=spec.settings,
        model=model_of(spec),
        plan=plan,
        keepers=keepers,
    )


class InTurn:
    """Loads a network when it is used, and lets it go when another one is."""

    def __init__(self, spec: ModelSpec, part: str, network: Network, device: torch.device, dtype: torch.dtype):
        self._about, self._part, self._network = spec, part, network
        self._device, self._dtype = device, dtype
        self._expected = network.state_dict()
        state, file = open_part(spec, part)
        check_fit(state, self._expected, where=str(file), rules=keymap_of(network.config))
        take_out(network, list(self._expected), dtype, device)
        self._is_here = False

    def enter(self) -> None:
        """The network is used next."""
        if self._is_here:
            return
        state, file = open_part(self._about, self._part)
        rules = keymap_of(self._network.config)
        try:
            with torch.inference_mode(False), torch.no_grad():
                made = translate(
                    state, self._expected, where=str(file), rules=rules, dtype=self._dtype, device=self._device
                )
                for name, tensor in made:
                    put(self._network, {name: tensor})
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
        take_out(self._network, list(self._expected), self._dtype, self._device)
        make_room(self._device)


class InStreaming:
    """Readies a network for streaming when it is first used (`streaming`)."""

    def __init__(
        self, spec: ModelSpec, part: str, network: Network, device: torch.device, dtype: torch.dtype, plan: Plan
    ) -> None:
        self._network, self._device, self._dtype, self._plan, self._part = network, device, dtype, plan, part
        expected = self._expected = network.state_dict()
        state, file = open_part(spec, part)
        rules = keymap_of(network.config)
        check_fit(state, expected, where=str(file), rules=rules)
        self._groups = Groups(expected)
        self._disk = OnDisk(state, expected, rules, str(file), dtype=dtype, device=device)
        take_out(network, list(expected), dtype, device)
        self._streamed: Streamed | None = None

    def enter(self) -> None:
        if self._streamed is None:
            rest = self._disk.fetch(self._groups.rest)
            # Copies: a view keeps the piece of the file around it.
            put(self._network, {name: tensor.clone() for name, tensor in rest.items()})
            self._streamed = Streamed(
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
            make_room(self._device)

    def _shelf(self) -> Shelf:
        plan, is_text = self._plan, self._part == "text_encoder"
        form = None if plan.storage == "exact" else plan.storage
        place = self._device
        if (plan.text if is_text else plan.transformer) == "streamed":
            if is_text or plan.waits == "disk":  # a text is encoded once: reading it again is no loss
                return self._disk if form is None else Rounded(self._disk, form)
            place = torch.device("cpu")
        groups = [*self._groups.blocks, *(names for names in self._groups.tables if names)]
        return InMemory(self._disk, groups, place=place, device=self._device, dtype=self._dtype, storage=form)


def make_room(device: torch.device) -> None:
    """Gives memory that nothing uses back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        release_memory()

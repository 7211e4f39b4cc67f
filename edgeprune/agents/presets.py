"""The three published systems by name, as data: what each sets, and what is wrong with what it prints.

A preset without ``-paper`` is the system repaired: formulas that mean what their text says, a warm start from the
baselines, the action wall in place of a constraint. With ``-paper`` rewards and observations are as printed, and
nothing is given to the agent to begin with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeprune.errors import BadOption, nearest

Settings = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Preset:
    """A system: its agent, options by table as ``--set`` writes them, and ``flaws`` where it is as printed.

    ``agent.episodes`` is the paper's number, of a whole build; they are imagined, shared among its searches by their
    true evaluations.
    """

    name: str
    line: str
    agent: str
    settings: Settings
    flaws: tuple[str, ...] = field(default=())

    def under(self, given: Settings, agent: str | None) -> dict[str, dict[str, str]]:
        """Return its options with those that were given over them; its agent's only where no other agent was."""
        own = {table: options for table, options in self.settings.items() if table != "agent" or agent in
               (None, self.agent)}  # fmt: skip
        return {table: {**own.get(table, {}), **given.get(table, {})} for table in {**own, **given}}

    def warnings(self) -> list[str]:
        """Return a note for each flaw."""
        return [f"--preset {self.name}, as printed: {flaw}" for flaw in self.flaws]


# AKPERL trains for 200 000 steps: 10 000 episodes of a network of 20 layers. 8 updates a round of 4 episodes are as
# good as 24 where there are so many rounds.
_AKPERL: dict[str, dict[str, str]] = {
    "sparsify": {"actions": "quarters", "observation": "akperl", "reward": "akperl", "criterion": "l1"},
    "agent": {"episodes": "10000", "updates": "8"},
}
_DRIVING: dict[str, dict[str, str]] = {
    "sparsify": {"actions": "step", "observation": "driving", "reward": "driving", "criterion": "gradient_l1"},
    "agent": {"learning_rate": "3e-4", "episodes": "10000"},
}
_DEPGRAPHRL: dict[str, dict[str, str]] = {
    "sparsify": {"actions": "keep-or-prune", "observation": "depgraphrl", "reward": "depgraphrl", "criterion": "l1"},
    "agent": {"learning_rate": "2e-4", "episodes": "5000"},
}


def _printed(settings: Mapping[str, Mapping[str, str]], **changes: str) -> Settings:
    return {**settings, "sparsify": {**settings["sparsify"], **changes, "warm": "false"}}


PRESETS: Mapping[str, Preset] = {one.name: one for one in (
    Preset("akperl", "AKPERL: DQN, quarters of each layer, accuracy against energy, L1.", "dqn", _AKPERL),
    Preset("driving", "Hyper-efficient pruning for driving: PPO, a rung up or down, ΔmAP and Δsparsity, gradient L1.",
           "ppo", _DRIVING),
    Preset("depgraphrl", "DepGraphRL: A2C, keep or prune at a fixed ratio, error times log energy, L1.", "a2c",
           _DEPGRAPHRL),
    Preset("akperl-paper", "AKPERL as printed, with a warning.", "dqn",
           _printed(_AKPERL, observation="akperl-paper", reward="akperl-paper"), (
        "accuracy in percent, power in milliwatts and a ratio are added up, so that α, β and γ stand for units; power "
        "of a plan cannot be told, and millijoules of a run stand for it",
        "accuracy and power by layer do not exist; the whole network's are repeated for each layer",
        "−γ · pruned punishes the pruning that the text wants, and power pays for it already; |a| of a choice among "
        "five has no meaning, and is read as the share removed",
        "what is called Q(s, a) is the reward: Q comes from the DQN",
        "the state does not say which layer it is about, so that one policy cannot treat two layers differently",
        "100 % of a layer cuts the network in two; it is offered only where it drops a residual block, for nothing "
        "else can be scored",
    )),
    Preset("driving-paper", "The driving paper as printed, with a warning.", "ppo",
           _printed(_DRIVING, reward="driving-paper"), (
        "λ₁ΔmAP + λ₂Δsparsity telescopes: with γ = 1 an episode is paid by its ends alone, so that the score of each "
        "of its steps, taken here on the surrogate, tells nothing",
        "Σ(1 − M)/N ≤ α is met by pruning nothing; the ceilings of this build are held in its place",
        "masks of single weights by ±1 are millions of actions that no dense kernel is faster by; a step is a rung of "
        "a group's ladder",
        "the mean gradient of a layer goes to 0 as training converges; it ranks channels within their group here, and "
        "no layer against another",
        "bisection by 0.1 over 32, 16 and 8 bits has three points; precision is found as in any other build",
    )),
    Preset("depgraphrl-paper", "DepGraphRL as printed, with a warning.", "a2c",
           _printed(_DEPGRAPHRL, reward="depgraphrl-paper"), (
        "−error · log(energy) changes its sign at one joule: below it, where small networks are, more error is paid "
        "more, and the agent learns to lose accuracy",
        "what it is worth depends on the unit of energy, and an error of 0 makes all plans equal",
        "energy is by its formula (theoretical-published): 640 pJ of a 32-bit word are multiplied by bytes, four times "
        "too dear; 2.3 pJ is half of a multiplication and an addition; activations move for free",
        "a continuous action rounded to 0 or 1 is drawn as 0 or 1",
    )),
)}  # fmt: skip


def preset(name: str) -> Preset:
    """Return a preset. Raises BadOption, naming the nearest."""
    if name not in PRESETS:
        raise BadOption(f"unknown preset {name!r}{nearest(name, PRESETS)}")
    return PRESETS[name]

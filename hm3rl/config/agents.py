"""Options of the agents and surrogates that ship: each has its own node `agent`, `surrogate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hm3rl.config.values import choice, number


@dataclass
class SurrogateSettings:
    """What every surrogate has; one of one's own adds its options in a subclass.

    Attributes:
        name: The surrogate; chosen by `surrogate=NAME`.
        fit_steps: Steps that maximise the marginal likelihood at the first fit.
        refit_steps: The same at later fits, which start from the last hyper-parameters.
    """

    name: str = ""
    fit_steps: int = number(60, least=1)
    refit_steps: int = number(12, least=0)


@dataclass
class GPSettings(SurrogateSettings):
    """A Gaussian process for each objective: `gp`."""

    name: str = "gp"


@dataclass
class LinearSettings(SurrogateSettings):
    """Bayesian linear regression on the same features: `linear`.

    It knows no interactions between layers, but is as fast with thousands of deep paths.
    """

    name: str = "linear"


@dataclass
class NoSurrogateSettings(SurrogateSettings):
    """No surrogate: `none`. What is evaluated and what is answered is the policy's alone."""

    name: str = "none"


@dataclass
class AgentSettings:
    """What every agent has; an agent of one's own adds its options in a subclass.

    Attributes:
        name: The agent; chosen by `agent=NAME`.
        scalarisation: `weighted_sum` or `tchebycheff`.
        utopia: z of Tchebycheff for every objective, in units of f / z*; no path should exceed it.
        length_cost: beta_1, subtracted for each layer of the path after scalarisation.
        offline_data: `minari:NAME`, a dataset that `hm3rl dataset` wrote: scored paths that are
            known and learned from before the first phase, at no evaluation. Empty: none.
    """

    name: str = ""
    scalarisation: str = choice("weighted_sum", "tchebycheff")
    utopia: float = number(1.1, least=0)
    length_cost: float = number(0.0, least=0)
    offline_data: str = ""


@dataclass
class PslSettings(AgentSettings):
    """Pareto set learning over blends: `psl`, `layerwise` (layer by layer, with rollouts), `none`.

    Attributes:
        network: From a preference to blends: `perceptron` (all places at once) or `autoregressive`
            (place by place, knowing the blends so far).
        rollouts: Share of the evaluations after the first that are models drawn from an
            autoregressive policy, whatever the surrogate says of them.
        ppo: Whether the policy learns from its rollouts, or the surrogate alone does.
        prior: File that `hm3rl pretrain` wrote, with what other pools taught; a search then begins
            with proposals, and `first` is of no account. Empty: nothing is known before.
        proposals: Who may propose what is evaluated: `policy` (the network's answers and variations
            of them), `variation` (of the best known), `hill_climbing` (gradient ascents under the
            surrogate from the best known).
        first: Uniform merges before the surrogate is asked, for each expert and one more; at most
            half of the budget.
        batch: Evaluations in one round.
        hidden: Width of the policy's two layers.
        learning_rate: Of the policy.
        first_steps: Gradient steps of the policy before its first proposals.
        steps: The same before each later round.
        optimism: Standard deviations of the surrogate added to what policy and ascents climb. Below
            0 they stay near what is known, and the acquisition alone explores.
        smoothness: Temperature of the smooth Tchebycheff utility, in units of f / z*.
        samples: Joint posterior samples by which a batch is chosen.
        fit_steps: Steps of the surrogate's hyper-parameters at its first fit.
        refit_steps: The same at later fits.
    """

    name: str = "psl"
    scalarisation: str = choice("tchebycheff", "weighted_sum")
    prior: str = ""
    network: str = choice("perceptron", "autoregressive")
    rollouts: float = number(0.0, least=0, most=1)
    ppo: bool = True
    proposals: list[str] = field(default_factory=lambda: ["policy", "variation"])
    first: float = number(2.0, above=0)
    batch: int = number(4, least=1)
    hidden: int = number(64, least=1)
    learning_rate: float = number(3e-3, above=0)
    first_steps: int = number(300, least=0)
    steps: int = number(60, least=0)
    optimism: float = number(-1.0)
    smoothness: float = number(0.02, above=0)
    samples: int = number(64, least=1)
    fit_steps: int = number(60, least=1)
    refit_steps: int = number(12, least=0)


@dataclass
class SB3Settings(AgentSettings):
    """An algorithm of Stable-Baselines3 or sb3-contrib: `sb3`.

    Attributes:
        algorithm: Its class: `MaskablePPO`, `PPO`, `A2C`, `TRPO`, `RecurrentPPO`, `DQN`, `QRDQN`;
            `SAC`, `TD3`, `DDPG`, `TQC`, which act on blends.
        kwargs: Arguments of its constructor, such as `agent.kwargs.learning_rate=1e-3`. Where they
            are not given the algorithm's defaults hold, but for those made for millions of steps:
            gamma 1 (the reward is terminal), rollouts of one episode in each environment as one
            minibatch, and off-policy a replay buffer of 50,000, exploration over half of the
            budget, target networks of DQN and its kin renewed every 200 steps.
            `action_noise` is a number, the standard deviation (0.2 for TD3 and DDPG).
        form: `discrete` (a member's layer at each step; algorithms without masks choose among the
            legal ones by number), `box` (the blend of each layer), or `auto`: the box for
            algorithms that know nothing else.
        envs: Episodes side by side, whose paths are scored in one call.
        stale: Episodes in a row without a new path after which random new ones are evaluated.
    """

    name: str = "sb3"
    algorithm: str = "MaskablePPO"
    kwargs: dict[str, Any] = field(default_factory=dict)
    form: str = choice("auto", "discrete", "box")
    envs: int = number(8, least=1, most=1024)
    stale: int = number(64, least=1)


@dataclass
class AcquisitionSettings:
    """How the surrogate decides what is really evaluated in the online phase.

    Attributes:
        enabled: Off: every online path is a plain rollout of the policy.
        function: `hypervolume` (expected improvement of the archive's hypervolume) or `utility`
            (scalarised upper confidence bound under sampled preferences).
        proposals: Paths that compete for one batch.
        samples: Posterior samples of the surrogate.
        explore_share: Share of each batch that is plain rollouts of the policy (PPO's data).
        offline_share: Share of the offline phase's evaluations that the surrogate chooses too;
            0 leaves the phase to plain behaviour paths.
    """

    enabled: bool = True
    function: str = choice("hypervolume", "utility")
    proposals: int = number(1500, least=8)
    samples: int = number(64, least=1)
    explore_share: float = number(0.125, least=0, most=1)
    offline_share: float = number(0.75, least=0, most=1)


@dataclass
class HM3AgentSettings(AgentSettings):
    """The preference-conditioned agent: `hm3`.

    Attributes:
        reward: `terminal`, or `spread` (R/T on every step, as in the paper).
        critic: `vector` (K values, linear utilities only) or `scalar`.
        conditioning: `concat` or `film`: how networks take the preference.
        head: `categorical` (masked) or `wolpertinger` (a Gaussian proto-action among the actions'
            embeddings, then the best of its nearest legal actions by the critic; HM3 (11)).
        neighbours: M', nearest legal actions that Wolpertinger compares.
        epsilon: Probability that Wolpertinger draws uniformly among them instead.
        embedding: Width of the layer and action embeddings.
        hidden: Width of the path encoder (GRU) and of the heads.
        gamma: Discount; 1 because the reward is terminal (see method.md section 3).
        gae_lambda: GAE's lambda.
        learning_rate: PPO's step size.
        clip_range: PPO's clip.
        entropy: PPO's entropy bonus.
        value_weight: PPO's value loss weight.
        likelihood_weight: Weight of the vector critic's auxiliary task in regression, to predict
            each task's negative log-likelihood of the finished path; 0: no such head.
        target_kl: PPO stops an update beyond 1.5 times this KL divergence.
        epochs: PPO epochs for one rollout.
        rollouts: Paths in one PPO rollout.
        critic_warm_up: Gradient steps of the critics alone before the online phase.
        stale: Rollouts in a row without a new path after which the online phase ends; 0: where
            rollouts bring nothing new, variations of the best paths are evaluated instead.
        anchor: What holds PPO near its training data after each update: `replay`, `kl` or `none`.
        pretrain_rate: Step size of regression (offline, replay anchor).
        pretrain_steps: Most gradient steps of the offline phase.
        replay_steps: Gradient steps of regression after each online batch.
        patience: Checks without improvement on held-out trajectories that end the offline phase.
        regression: `advantage` (advantage-weighted), `cloning` (behaviour cloning) or `iql`
            (advantage-weighted with an expectile critic; Kostrikov et al., 2022).
        expectile: Of IQL's critic, in (0, 1); towards 1 it becomes the best known continuation.
        weighting: `trajectory` or `step`: what one advantage belongs to.
        temperature: Of the advantage weights, in units of the utilities' spread.
        hindsight: Whether trajectories are relabelled with other preferences: any, or with
            `regression=cloning` ones that they serve well.
        model_generated: Paths improved under the surrogate that join the replay after each fit, as
            demonstrations; 0: none.
        distil_steps: Gradient steps after the online phase by which the policy learns, for every
            preference, the path the surrogate thinks best; 0: none.
        init_from: Run folder (or agent.zip) whose trained networks this run starts from; the sizes
            must agree. Empty: fresh networks.
        per_preference: Whether networks are initialised and trained anew for each of `preferences`
            preferences, among which the budget is divided (HM3's Algorithm 1), instead of once for
            all.
        preferences: N, preferences served by networks of their own, and for which
            `search.parameter.source=preference` merges.
        batch: Evaluations in one batch.
        acquisition: What is really evaluated.
    """

    name: str = "hm3"
    reward: str = choice("terminal", "spread")
    critic: str = choice("vector", "scalar")
    conditioning: str = choice("concat", "film")
    head: str = choice("categorical", "wolpertinger")
    neighbours: int = number(8, least=1)
    epsilon: float = number(0.1, least=0, most=1)
    embedding: int = number(32, least=1, most=65_536)
    hidden: int = number(64, least=1, most=65_536)
    gamma: float = number(1.0, least=0, most=1)
    gae_lambda: float = number(0.95, least=0, most=1)
    learning_rate: float = number(3e-4, above=0)
    clip_range: float = number(0.2, above=0)
    entropy: float = number(0.01, least=0)
    value_weight: float = number(0.5, least=0)
    likelihood_weight: float = number(0.0, least=0)
    target_kl: float = number(0.03, above=0)
    epochs: int = number(4, least=1)
    rollouts: int = number(8, least=1)
    critic_warm_up: int = number(40, least=0)
    stale: int = number(0, least=0)
    anchor: str = choice("replay", "kl", "none")
    pretrain_rate: float = number(1e-3, above=0)
    pretrain_steps: int = number(300, least=0)
    replay_steps: int = number(8, least=0)
    patience: int = number(5, least=1)
    regression: str = choice("advantage", "cloning", "iql")
    expectile: float = number(0.8, above=0, below=1)
    weighting: str = choice("trajectory", "step")
    temperature: float = number(0.3, above=0)
    hindsight: bool = True
    model_generated: int = number(64, least=0)
    distil_steps: int = number(600, least=0)
    init_from: str = ""
    per_preference: bool = False
    preferences: int = number(10, least=1)
    batch: int = number(8, least=1)
    acquisition: AcquisitionSettings = field(default_factory=AcquisitionSettings)

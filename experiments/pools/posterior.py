"""Whether posterior means serve better than scores, on held-out items, on finished searches.

    python -m experiments.pools.posterior --pools D01 D04 --method none --budget 100

Two questions of one search, which is made, or gone on with, where it is not finished. The front: by
means or by scores, the same number of models of each (what the smaller has, `MODELS` at most),
chosen by one rule, and the experts. A front by means has more models, and more models are worth
more whoever chose them, so whole fronts cannot be compared. The choice: what the model that has the
largest utility by means, or by scores, is worth, mean over a lattice of preferences.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from experiments.common.records import LATTICE
from experiments.pools import judgements
from experiments.pools.methods import overrides, words_of
from experiments.pools.plugin import N_SEARCH, N_TEST
from experiments.pools.pools import DEVELOPED, Pool, pools
from experiments.pools.results import Front, Key
from experiments.pools.search import MODELS, tested
from experiments.pools.statistics import ITEM_RESAMPLES, item_counts, volumes_over_items
from hm3rl import api
from hm3rl.files import RunFolder
from hm3rl.objectives.preferences import simplex_lattice
from hm3rl.objectives.utility import Utility
from hm3rl.run.finished import FinishedRun


class Gain(NamedTuple):
    """A figure of a search by scores and by means.

    Attributes:
        scores: By scores.
        means: By posterior means.
        error: Standard error of their difference if held-out items are drawn again, the same for
            both.
    """

    scores: float
    means: float
    error: float

    @property
    def gain(self) -> float:
        """By means less by scores."""
        return self.means - self.scores


OVER_BLENDS = ("none", "psl")
"""Methods whose agent says what it makes of noisy scores."""


@dataclass(frozen=True)
class Pair:
    """A search on held-out items.

    Attributes:
        scores: Its front by scores, what adds most first.
        means: Its front by posterior means, the same.
        z_star: z* of the search split, shape (K,).
        utility: What a model is worth.
    """

    scores: Front
    means: Front
    z_star: np.ndarray
    utility: Utility

    @property
    def count(self) -> int:
        """Models of each front that are compared, the experts not counted."""
        return min(MODELS, len(self.scores.models), len(self.means.models))

    def volumes(self, resamples: int = ITEM_RESAMPLES) -> Gain:
        """Held-out hypervolumes of as many models of each front, and the experts."""
        return self._gain(
            lambda front, counts: volumes_over_items(self.first(front), counts), resamples
        )

    def choices(self, resamples: int = ITEM_RESAMPLES) -> Gain:
        """Mean held-out utility of what is chosen for a preference."""
        goals = simplex_lattice(len(self.z_star), LATTICE)

        def worth(front: Front, counts: Mapping[str, np.ndarray]) -> np.ndarray:
            decisive = front.search / self.z_star
            chosen = self.utility(decisive[:, None], 0, goals[None]).argmax(axis=0)
            points = np.moveaxis(front.normalised(counts)[chosen], 2, 0)
            return self.utility(points, 0, goals[None]).mean(axis=1)

        return self._gain(worth, resamples)

    def first(self, front: Front) -> Front:
        """The experts and the first `count` models of a front."""
        rows = len(front.experts) + self.count
        return replace(
            front,
            models=front.models[: self.count],
            solved={task: row[:rows] for task, row in front.solved.items()},
            search=front.search[:rows],
        )

    def _gain(
        self, value: Callable[[Front, Mapping[str, np.ndarray]], np.ndarray], resamples: int
    ) -> Gain:
        sizes = {task: row.shape[1] for task, row in self.means.solved.items()}
        counts = item_counts(sizes, resamples)
        drawn = value(self.means, counts) - value(self.scores, counts)
        (means,), (scores,) = value(self.means, {}), value(self.scores, {})
        return Gain(float(scores), float(means), float(drawn.std(ddof=1)))


def finished(key: Key, pool: Pool, root: Path, items: tuple[int, int]) -> FinishedRun:
    """A finished search; one that is there is opened, one that was killed goes on.

    Args:
        key: Pool, method, seed and budget.
        pool: The pool.
        root: Folder of the run folders and of the stores.
        items: Search and held-out items of each task.
    """
    place = root.resolve() / pool.name
    folder = RunFolder(place / key.method / f"budget{key.budget}-seed{key.seed}-front")
    if folder.summary.is_file():
        return api.open_run(folder.path)
    if folder.config.is_file():
        return api.open_run(api.search(f"resume={folder.path}").folder.path)
    place.mkdir(parents=True, exist_ok=True)
    own = [f"budget={key.budget}", f"seed={key.seed}", f"output={folder.path}"]
    words = [
        *overrides(pool, n_search=items[0], n_test=items[1]),
        *words_of(key.method, pool),
        *own,
    ]
    result = api.search(*words, f"evaluation.store={place / 'evaluations.sqlite'}")
    return api.open_run(result.folder.path)


def compared(run: FinishedRun, key: Key, commit: str) -> Pair:
    """Both fronts of a run on held-out items."""
    assert run.posterior is not None  # all methods of `OVER_BLENDS` have one
    scores, means = (
        tested(run.problem, key, archive, run.candidates, commit, most=len(archive))
        for archive in (run.archive, run.posterior.means)
    )
    return Pair(scores, means, run.archive.z_star, run.utility)


def table(pairs: Sequence[Pair]) -> str:
    """Several searches, as Markdown."""
    head = [
        *("pool", "seed", "fronts", "models", "of both", "by scores", "by means", "gain"),
        *("chosen by scores", "chosen by means", "gain"),
    ]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    gains: tuple[list[float], list[float]] = ([], [])
    for pair in pairs:
        one, other = pair.first(pair.scores), pair.first(pair.means)
        cells = [one.key.pool, str(one.key.seed)]
        cells += [f"{len(pair.scores.models)}, {len(pair.means.models)}", str(pair.count)]
        cells.append(str(len({*one.models} & {*other.models})))
        for found, kept in zip((pair.volumes(), pair.choices()), gains, strict=True):
            kept.append(found.gain)
            cells += [f"{found.scores:.4f}", f"{found.means:.4f}"]
            cells.append(f"{found.gain:+.4f} ± {found.error:.4f}")
        lines.append(f"| {' | '.join(cells)} |")
    said = [
        f"{name} {np.mean(kept):+.4f}, above 0 in {sum(gain > 0 for gain in kept)} of {len(kept)}"
        for name, kept in zip(("front", "choice"), gains, strict=True)
    ]
    return "\n".join([*lines, "", f"Mean gain: {'; '.join(said)} ({pairs[0].utility})."])


def main(words: Sequence[str] | None = None) -> None:
    """Search where that is lacking, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pools", nargs="+", choices=[*pools(DEVELOPED)], required=True)
    parser.add_argument("--method", choices=OVER_BLENDS, default="none")
    parser.add_argument("--budget", type=int, default=100)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--root", type=Path, default=Path("runs/pools"), help="run folders")
    parser.add_argument(
        "--items", nargs=2, type=int, default=[N_SEARCH, N_TEST], help="of search and held-out"
    )
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    pairs = []
    for name in args.pools:
        for seed in args.seeds:
            key = Key(name, args.method, seed, args.budget)
            run = finished(key, pools(DEVELOPED)[name], args.root, tuple(args.items))
            pairs.append(compared(run, key, judgements.commit()))
            run.problem.evaluator.close()
            run.problem.evaluator.store.close()
            print(f"{name} seed {seed}: {pairs[-1].volumes().gain:+.4f}", flush=True)
    print(table(pairs))


if __name__ == "__main__":
    main()

"""THE OFFLINE SPINE: a data set goes in, a measured release comes out."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from candidfeed.data.checks import require_usable
from candidfeed.data.splits import make_split
from candidfeed.data.tables import Dataset
from candidfeed.evaluation.report import EvaluationReport, summarise, verdict
from candidfeed.evaluation.run import MAX_TEST_USERS, Evaluation, evaluate_once
from candidfeed.keras_backend import compiled_once
from candidfeed.release.bundle import REPORT, encode, encode_json
from candidfeed.release.export import export_pair
from candidfeed.release.figures import FIGURES, encode_figures, figures_of
from candidfeed.release.gate import Gate, pass_gate
from candidfeed.release.storage import (
    OpenedDirectory,
    refuse_foreign_folder,
    training_folder,
    write_directory,
)
from candidfeed.retrieval.large.resume import Resume
from candidfeed.training.two_stage import TwoStageSettings, refit_on_all

Report = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    """A release that was made.

    Attributes:
        report: how good the pair is that was fitted without the test rows.
        left_out: by model, why it is not in the report.
        gate: what it was held against before it was published.
        opened: where the release lies, read back and compared.
        size_bytes: of all its files.
        seconds: wall time by step, in order.
        curves: by stage, Keras' history of the released models.
    """

    report: EvaluationReport
    left_out: Mapping[str, str]
    gate: Gate
    opened: OpenedDirectory
    size_bytes: int
    seconds: Mapping[str, float]
    curves: Mapping[str, Mapping[str, list[float]]]


@compiled_once()
def build_release(
    dataset: Dataset,
    target: Path,
    *,
    protocol: str | None,
    seed: int,
    settings: TwoStageSettings,
    max_users: int = MAX_TEST_USERS,
    force: bool = False,
    report: Report = lambda _step: None,
    note: Report = lambda _line: None,
) -> Built:
    """Measure both stages on held-out rows, fit them again on every row, and make the release.

    Whatever fails, a release that was at `target` is still there, unchanged. Where a build was
    killed while a model of a large catalogue was trained, the same build goes on from there.

    Args:
        target: the release's folder: not there yet, empty, or a release.
        protocol: how to split for the report; the strictest that the data set allows where None.
        max_users: test users who are asked for; of more, this many are drawn.
        force: publish it although it is worse than what is live or than popularity.
        report: is told the name of each step as it begins.
        note: is told where a training that was killed goes on.

    Raises:
        DataError: the data set can't be used, or not with this protocol.
        ReleaseError: the folder holds something else, a model is not finite, the disk is full, or
            a file can't be written.
        GateError: it is significantly worse than the live release or than popularity.
    """
    steps = _Steps(report)
    refuse_foreign_folder(target)
    require_usable(dataset)
    split = make_split(dataset, protocol, seed=seed)
    with training_folder(target) as folder:
        settings = _resumed(settings, Resume(folder, note))
        measured = evaluate_once(
            dataset, split, settings=settings, seed=seed, max_users=max_users, report=steps.begin
        )
        summary = _summary(dataset, measured, seed)
        figures = figures_of(measured.run, split.users)
        gate = pass_gate(target, figures, split.test_rows_sha256, force=force)
        for line in gate.remarks:
            note(line)
        whole = refit_on_all(dataset, measured.pair, seed=seed, report=steps.begin_again)
        steps.begin("export")
        served = export_pair(dataset, whole)
        steps.begin("write")
        files = {
            **encode(served),
            REPORT: encode_json(summary.to_json()),
            FIGURES: encode_figures(figures),
        }
        opened = write_directory(target, files, _manifest(dataset, measured, summary, gate))
    steps.end()
    size_bytes = sum(path.stat().st_size for path in opened.path.iterdir())
    ranker = whole.ranker
    curves = {
        "retrieval": whole.tower.curves,
        "ranker": ranker.curves,
        "engagement": ranker.engagement_curves,
    }
    return Built(summary, measured.left_out, gate, opened, size_bytes, steps.seconds, curves)


def _resumed(settings: TwoStageSettings, resume: Resume) -> TwoStageSettings:
    return replace(settings, stage_one=replace(settings.stage_one, resume=resume))


def _summary(dataset: Dataset, measured: Evaluation, seed: int) -> EvaluationReport:
    return summarise(
        [measured.run],
        dataset=dataset.name,
        protocol=measured.pair.split.protocol,
        rng=np.random.default_rng(seed),
    )


def _manifest(
    dataset: Dataset, measured: Evaluation, summary: EvaluationReport, gate: Gate
) -> dict[str, object]:
    """What the release says of itself; the same build gives the same bytes, so no date."""
    split = measured.pair.split
    return {
        "dataset": dataset.name,
        "protocol": split.protocol,
        "seed": split.seed,
        "test_rows_sha256": split.test_rows_sha256,
        "n_events": len(dataset.events),
        "n_users": len(split.users),
        "n_items": len(split.items),
        "verdict": verdict(summary),
        "gate": gate.to_json(),
        "made_with": {name: version(name) for name in ("jax", "keras", "numpy")},
    }


@dataclass
class _Steps:
    """Tells each step as it begins, and how long it took."""

    report: Report
    seconds: dict[str, float] = field(default_factory=dict)
    _step: str = ""
    _since: float = 0.0

    def begin(self, step: str) -> None:
        self.end()
        self.report(step)
        self._step, self._since = step, time.perf_counter()

    def begin_again(self, step: str) -> None:
        self.begin(f"for the release: {step}")

    def end(self) -> None:
        if self._step:
            took = time.perf_counter() - self._since
            self.seconds[self._step] = self.seconds.get(self._step, 0.0) + took
        self._step = ""

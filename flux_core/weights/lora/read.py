"""Reads a LoRA file of any family into patches: names first, then shapes, values last.

Nothing is read before every tensor has a place and a shape that fits the model, so a hostile or foreign
file costs its header only. What had no place is reported; a file of which nothing has one is refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from flux_core import catalog
from flux_core.catalog import ModelSpec
from flux_core.errors import RequestInvalid
from flux_core.plan import Component
from flux_core.weights.header import shown
from flux_core.weights.lora import suspects
from flux_core.weights.lora.bundle import Bundle
from flux_core.weights.lora.layers import layers_of
from flux_core.weights.lora.metadata import Alphas
from flux_core.weights.lora.patches import Patch
from flux_core.weights.lora.roles import readings
from flux_core.weights.lora.table import targets_of
from flux_core.weights.lora.unread import TUCKER, refusal, unread_modules
from flux_core.weights.tensors import TensorSource

_SHOWN = 3
_THREADS = 4


@dataclass(frozen=True, slots=True)
class LoraReport:
    """What a file is and how much of it a model can use.

    Attributes:
        families: Whose spelling its names are.
        kinds: "LoRA", "LoHa", "LoKr", "difference", "norm", with "DoRA " before those that are.
        ranks: Of its matrices, each once, rising; 0 is a bias or a norm.
        layers: Number of layers that it changes, by component.
        matched: Names of its tensors that are used.
        unmatched: Names of those that are not.
        unread: Kinds that are known and not read, of modules that are therefore left out.
        suspicion: What the file seems to be instead, as the end of a sentence ("a LoRA of FLUX.2"); None
            if nothing speaks against a LoRA of this model.
        misfit: The first shape that does not fit the model, as a sentence without its end; None if all do.
    """

    families: tuple[str, ...]
    kinds: tuple[str, ...]
    ranks: tuple[int, ...]
    layers: Mapping[Component, int]
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    unread: tuple[str, ...]
    suspicion: str | None
    misfit: str | None

    def warning(self, what: str) -> str | None:
        """A sentence for the person about what was left out; None if nothing was."""
        if not self.unmatched:
            return None
        some = ", ".join(shown(name) for name in self.unmatched[:_SHOWN])
        rest = len(self.unmatched) - _SHOWN
        total = len(self.matched) + len(self.unmatched)
        more = f" and {rest} more" if rest > 0 else ""
        why = f", since {' and '.join(self.unread)} is not read" if self.unread else ""
        return f"{what}: {len(self.unmatched)} of its {total} tensors were left out ({some}{more}){why}."


class Lora:
    """A file whose names and shapes fit a model; its values are read when they are asked for.

    Attributes:
        what: Its name, for messages.
        report: What it is.
        channels: Columns that it needs img_in to have, 0 if it does not touch it: 128 of a control LoRA.
    """

    def __init__(self, what: str, report: LoraReport, bundles: tuple[Bundle, ...]) -> None:
        self.what = what
        self.report = report
        self._bundles = bundles
        self.channels = max((b.columns for b in bundles if b.target.layer.name == "img_in"), default=0)

    @property
    def components(self) -> frozenset[Component]:
        """The parts of a model that it changes."""
        return frozenset(self.report.layers)

    def patches(self, component: Component | None = None) -> Iterator[Patch]:
        """Reads a few patches ahead with several threads, so that a large file is never in memory as a whole.

        Args:
            component: Only those of this part; None for all.

        Raises:
            Corrupt: A value is not a number, or a tensor is of no floating kind.
        """
        wanted = [b for b in self._bundles if component is None or b.target.layer.component is component]
        reading: deque[Future[list[Patch]]] = deque()
        with ThreadPoolExecutor(_THREADS) as pool:
            for bundle in wanted:
                reading.append(pool.submit(_read, bundle))
                if len(reading) > _THREADS:
                    yield from reading.popleft().result()
            for read in reading:
                yield from read.result()


def _read(bundle: Bundle) -> list[Patch]:
    return list(bundle.patches())


def read_lora(source: TensorSource, spec: ModelSpec, what: str) -> Lora:
    """Matches a file with a model.

    Args:
        source: The file.
        spec: The model it is to change.
        what: The file's name, for messages.

    Raises:
        RequestInvalid: It was made for another model, is no LoRA, or nothing of it fits.
    """
    bundles, report = _matched(source, spec, what)
    if report.unread and not report.matched:
        raise refusal(what, report.unread)
    if report.suspicion is not None:
        raise RequestInvalid(
            f"{what} is not for {spec.title}: it seems to be {report.suspicion}.",
            "Choose a LoRA made for FLUX.1.",
        )
    if report.misfit is not None:
        raise RequestInvalid(
            f"{what} does not fit {spec.title}: {report.misfit}.",
            "Choose a LoRA that was made for this model.",
        )
    return Lora(what, report, bundles)


def describe(source: TensorSource, spec: ModelSpec = catalog.DEV) -> LoraReport:
    """What a file is, for those who inspect it; never refuses.

    Args:
        source: The file.
        spec: The model to match it with.
    """
    return _matched(source, spec, "the file")[1]


def _matched(source: TensorSource, spec: ModelSpec, what: str) -> tuple[tuple[Bundle, ...], LoraReport]:
    unread = unread_modules(source.names())
    bundles, unmatched = _by_module(source, spec, what, {m for m, kind in unread.items() if kind == TUCKER})
    usable = tuple(bundle for bundle in bundles if bundle.settle())
    for bundle in bundles:
        unmatched += bundle.left_out
    matched = tuple(name for bundle in usable for name in bundle.keys.values())
    suspicion = suspects.other_model(unmatched, source.metadata)
    if suspicion is None and not matched:
        suspicion = suspects.nature(unmatched)
    changed = {(bundle.target.layer.component, bundle.target.layer.name) for bundle in usable}
    order = [part for part in layers_of(spec) if any(part is component for component, _ in changed)]
    report = LoraReport(
        families=tuple(dict.fromkeys(bundle.family for bundle in usable)),
        kinds=tuple(dict.fromkeys(kind for bundle in usable for kind in bundle.kinds)),
        ranks=tuple(sorted({bundle.rank for bundle in usable})),
        layers={part: sum(part is component for component, _ in changed) for part in order},
        matched=matched,
        unmatched=tuple(unmatched),
        unread=tuple(dict.fromkeys(unread.values())),
        suspicion=suspicion,
        misfit=next((fault for bundle in usable if (fault := bundle.misfit()) is not None), None),
    )
    return usable, report


def _by_module(
    source: TensorSource, spec: ModelSpec, what: str, unread: Container[str]
) -> tuple[list[Bundle], list[str]]:
    """The tensors that have a place, together as they belong, and the names of the others.

    Modules of `unread` have none.
    """
    table, alphas, infos = targets_of(spec), Alphas(source.metadata), source.names()
    bundles: dict[str, Bundle] = {}
    unmatched: list[str] = []
    for name in infos:
        module, role = next(((m, r) for m, r in readings(name) if m in table), ("", None))
        if role is None or module in unread:
            unmatched.append(name)
            continue
        if module not in bundles:
            family, target = table[module]
            bundles[module] = Bundle(what, source, infos, family, target, alphas.of(module))
        if role in bundles[module].keys:
            unmatched.append(name)
        else:
            bundles[module].keys[role] = name
    return list(bundles.values()), unmatched

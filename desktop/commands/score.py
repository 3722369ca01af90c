"""`flowbrush score`: how well pictures show a prompt, or how well a model follows a fixed suite of prompts.

Pictures are ranked, and each phrase of the prompt has a score of its own. The suite paints every prompt with
one seed at each length of text that the model reads, so that its columns say what the longer text is worth.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from desktop.commands import look_job, options
from desktop.commands.options import Backend
from desktop.commands.screen import Screen
from flux_core.errors import RequestInvalid

if TYPE_CHECKING:
    from backends.remote.client import ServiceClient
    from flux_core.catalog import ModelSpec
    from flux_core.looking import ScoreFound
    from flux_core.scoring import SuitePrompt

MAX_PROMPTS = 1000


def score(
    pictures: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE... PROMPT", help="The pictures, and what they show.")
    ] = None,
    phrase: Annotated[
        list[str] | None, typer.Option(help="Score this instead of the prompt's phrases; may be given again.")
    ] = None,
    suite: Annotated[
        bool, typer.Option("--suite", help="Paint and score the fixed suite of prompts.")
    ] = False,
    prompts: Annotated[Path | None, typer.Option(help="A suite of your own, as JSON.")] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=MAX_PROMPTS, help="Take the suite's first prompts.")
    ] = MAX_PROMPTS,
    model: Annotated[str, typer.Option(help="Which model paints the suite.")] = "tiny",
    seed: Annotated[int, typer.Option(help="Noise seed of every picture of the suite.")] = 0,
    steps: options.Steps = None,
    keep: Annotated[Path | None, typer.Option(help="A folder that keeps the suite's pictures.")] = None,
    helper: look_job.Helper = "",
    backend: options.BackendOption = Backend.AUTO,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Score how well pictures follow their prompt, and rank them; or a model, by a suite of prompts."""
    if suite or prompts is not None:
        if pictures:
            raise RequestInvalid("The suite paints its own pictures.", "Leave the pictures out.")
        _score_suite(prompts, limit, model, seed, steps, keep, helper, backend, Screen(json))
        return
    if not pictures or len(pictures) < 2:
        raise RequestInvalid("There is nothing to score.", "Give pictures and a prompt, or --suite.")
    paths, prompt = [Path(each) for each in pictures[:-1]], pictures[-1]
    _score_pictures(paths, prompt, phrase or [], helper, backend, Screen(json))


def _score_pictures(
    paths: list[Path], prompt: str, phrases: list[str], helper: str, backend: Backend, screen: Screen
) -> None:
    from flux_core import scoring
    from flux_core.looking import Score, ScoreFound

    look = look_job.built(Score, prompt=prompt, phrases=tuple(phrases), model=helper)
    seen = look_job.look_at(paths, look, screen, backend)
    found = scoring.ranked(each for each in seen.findings if isinstance(each, ScoreFound))
    names = [str(paths[each.picture]) for each in found]
    rows: list[tuple[str, ...]] = [("RANK", *(str(each.rank) for each in found))]
    rows.append((prompt, *(f"{each.similarity:.4f}" for each in found)))
    for number, part in enumerate(found[0].phrases):
        rows.append((f"  {part.phrase}", *(f"{each.phrases[number].similarity:.4f}" for each in found)))
    screen.table(("COSINE", *names), rows)
    if found[0].is_prompt_cut:
        screen.note("The prompt is longer than CLIP reads; its phrases say more than its own score.")
    scores = [
        {
            "file": name,
            "rank": each.rank,
            "similarity": each.similarity,
            "clip_score": each.clip_score,
            "is_prompt_cut": each.is_prompt_cut,
            "phrases": [part.model_dump() for part in each.phrases],
        }
        for name, each in zip(names, found, strict=True)
    ]
    screen.result({"prompt": prompt, "scores": scores, **seen.summary})


def _score_suite(
    prompts: Path | None,
    limit: int,
    model: str,
    seed: int,
    steps: int | None,
    keep: Path | None,
    helper: str,
    backend: Backend,
    screen: Screen,
) -> None:
    from desktop.commands.run_job import connect
    from flux_core import catalog, scoring

    _check_helper(helper)
    if keep is not None and not keep.is_dir():
        raise RequestInvalid(f"There is no folder {keep}.", "Make it first, or leave --keep out.")
    spec = catalog.find(model)
    chosen = scoring.read_suite(prompts or scoring.SUITE_FILE)[:limit]
    lengths = [length for length in scoring.TEXT_LENGTHS if length <= spec.t5_tokens] or [spec.t5_tokens]
    with connect() as client:
        bench = _Bench(client, spec, seed, steps, keep, helper, backend, screen)
        report = scoring.run_suite(chosen, bench.score, spec.model, seed, lengths)
    heads = [f"{column.text_length} TOKENS" for column in report.columns]
    screen.table(("COSINE", *heads), report.rows())
    screen.result(report.as_json())


def _check_helper(helper: str) -> None:
    """Raises what the service would say of the helper, before a suite is painted for nothing."""
    from desktop.commands.model_files import models_dirs
    from flux_core.catalog import helpers
    from flux_core.looking import Score

    folders = models_dirs()
    look = look_job.built(Score, prompt="anything", model=helper)
    helpers.choose(look, lambda model: helpers.folder_of_helper(model, folders))


class _Bench:
    """Paints a prompt of the suite and scores the picture."""

    def __init__(
        self,
        client: ServiceClient,
        spec: ModelSpec,
        seed: int,
        steps: int | None,
        keep: Path | None,
        helper: str,
        backend: Backend,
        screen: Screen,
    ) -> None:
        self._client = client
        self._spec = spec
        self._seed = seed
        self._steps = steps
        self._keep = keep
        self._helper = helper
        self._backend = backend
        self._screen = screen

    def score(self, prompt: SuitePrompt, length: int) -> ScoreFound:
        from desktop.commands.run_job import run_job
        from flux_core.looking import Score, ScoreFound
        from flux_core.request import Task, build_request
        from flux_core.storage import write_atomically

        side = self._spec.working_side_px
        request = build_request(
            task=Task.GENERATE,
            model=self._spec.model,
            prompt=prompt.prompt,
            t5_tokens=length if length != self._spec.t5_tokens else None,
            seed=self._seed,
            num_steps=self._steps or self._spec.num_steps,
            guidance=self._spec.guidance,
            width_px=side,
            height_px=side,
        )
        picture = run_job(self._client, request, self._screen, backend=self._backend).pictures[0]
        if self._keep is not None:
            name = f"{prompt.name.replace(' ', '-').replace('/', '-')}-{length}.png"
            write_atomically(self._keep / name, picture)
        look = look_job.built(Score, prompt=prompt.prompt, phrases=prompt.phrases, model=self._helper)
        (found,) = look_job.look_through(self._client, [picture], look, self._screen, self._backend).findings
        if not isinstance(found, ScoreFound):
            raise AssertionError(f"a score was asked for, not {found.kind}")
        self._screen.note(f"{prompt.name}, {length} tokens: {found.similarity:.4f}")
        return found

"""Guidance distillation: what a lesson holds, how walks go on, and that the student learns guidance."""

import contextlib
import dataclasses

import pytest
import torch

from backends.torch_cuda.training import distil, flow
from backends.torch_cuda.training.clock import Stage
from backends.torch_cuda.training.data.word_ids import Words
from backends.torch_cuda.training.scenes import Captions
from flux_core.catalog import TINY, ClipTextConfig, T5Config, TransformerConfig

SMALL = dataclasses.replace(
    TINY,
    transformer=TransformerConfig(
        hidden_size=64,
        num_heads=2,
        depth=1,
        depth_single=1,
        mlp_hidden=64,
        context_in_dim=32,
        vec_in_dim=32,
        axes_dim=(8, 12, 12),
    ),
    t5=T5Config(vocab_size=2048, d_model=32, num_heads=2, d_kv=16, d_ff=32, num_layers=1),
    clip=ClipTextConfig(vocab_size=2048, hidden_size=32, num_heads=2, mlp_hidden=32, num_layers=1),
)
NUMBERS = distil.Distillation(
    lr=3e-3,
    warmup_steps=5,
    sizes_px=((32, 32), (16, 32)),
    small_count=8,
    large_count=8,
    walk_steps=(2, 5),
    texts=8,
    texts_chunk=4,
    texts_every=2,
)
CPU = torch.device("cpu")


def captions(*prompts: str) -> Captions:
    words = Words()
    columns = zip(*(words.encode(prompt) for prompt in prompts), strict=True)
    return Captions(*(torch.tensor(column) for column in columns))


def new_captions(count: int) -> Captions:
    return captions(*(("a red apple", "a cat", "a blue car", "two stars")[i % 4] for i in range(count)))


@pytest.fixture
def teacher() -> flow.FlowNets:
    """Not trained, but with a text, a noise level and a modulation that all change the answer."""
    torch.manual_seed(3)
    nets = flow.build(SMALL, CPU)
    nets.transformer.fill(("lin.weight", "adaLN_modulation.1.weight", "final_layer.linear.weight"), 0.15)
    return nets


@pytest.fixture
def tables() -> flow.Conditioner:
    return flow.Conditioner(SMALL, CPU)


def walks(teacher: flow.FlowNets, tables: flow.Conditioner, numbers: distil.Distillation) -> distil.Rounds:
    return distil.Rounds(teacher, tables, captions(""), new_captions, numbers, contextlib.nullcontext)


def test_a_target_is_the_guided_sum_of_two_answers(teacher, tables):
    source = walks(teacher, tables, NUMBERS)(0)
    lesson = source.next()
    ones, pe = torch.ones_like(lesson.sigma), tables.rotary(source.size)
    with torch.no_grad():
        no_txt, no_vec = tables.text(teacher, captions("").expand(8))
        told = teacher.transformer.model(lesson.x, lesson.txt, lesson.vec, lesson.sigma, ones, pe)
        untold = teacher.transformer.model(lesson.x, no_txt, no_vec, lesson.sigma, ones, pe)
    guidance = lesson.guidance[:, None, None]
    torch.testing.assert_close(lesson.target, untold + guidance * (told - untold), rtol=1e-4, atol=1e-4)
    assert (told - untold).abs().mean() > 1e-3


def test_walks_go_down_to_the_picture_and_begin_again_from_noise(teacher, tables):
    source = walks(teacher, tables, NUMBERS)(0)
    before = source.next()
    again = 0
    for _ in range(12):
        after = source.next()
        is_new = after.sigma == 1.0
        again += int(is_new.sum())
        assert bool((after.sigma > 0).all())
        assert bool((after.sigma <= 1).all())
        assert bool(((after.sigma < before.sigma) | is_new).all())
        kept = ~is_new
        stepped = before.x + (after.sigma - before.sigma)[:, None, None] * before.target
        torch.testing.assert_close(after.x[kept], stepped[kept], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(after.txt[kept], before.txt[kept])
        torch.testing.assert_close(after.guidance[kept], before.guidance[kept])
        before = after
    assert again >= 8


def test_guidance_is_the_usual_one_for_its_share_and_in_range_for_the_rest(teacher, tables):
    numbers = dataclasses.replace(NUMBERS, small_count=2000, usual_share=0.3)
    guidance = walks(teacher, tables, numbers)(0).next().guidance
    assert 0.25 < (guidance == numbers.usual_guidance).float().mean() < 0.35
    assert 1.0 <= guidance.min() < 1.1
    assert 5.9 < guidance.max() <= 6.0


def test_new_captions_come_in_and_old_ones_go(teacher, tables):
    asked: list[int] = []

    def counted(count: int) -> Captions:
        asked.append(count)
        return new_captions(count)

    texts = distil.Texts(teacher, tables, counted, captions(""), NUMBERS, contextlib.nullcontext)
    assert asked == [4, 4]
    for _ in range(6):
        texts.draw(3)
    assert asked == [4] * 5  # always of one size, whatever is drawn


def test_the_student_learns_what_guidance_does(teacher, tables):
    student = flow.build(SMALL, CPU)
    student.load(teacher.state())
    state = flow.RunState(student.transformer.parameters, NUMBERS.lr)
    source = walks(teacher, tables, NUMBERS)
    torch.manual_seed(4)
    lessons = [source(step).next() for step in range(2)]
    before = [_answers(student, tables, lesson, source(i).size) for i, lesson in enumerate(lessons)]
    stage = Stage("distil", 60.0, num_steps=90)
    distil.train(student, tables, source, NUMBERS, stage, contextlib.nullcontext, state)
    for index, lesson in enumerate(lessons):
        after = _answers(student, tables, lesson, source(index).size)
        assert _error(after, lesson) < 0.65 * _error(before[index], lesson)
    guided = [
        _answers(student, tables, lessons[0]._replace(guidance=torch.full((8,), value)), source(0).size)
        for value in (1.0, 5.0)
    ]
    assert (guided[1] - guided[0]).abs().mean() > 0.2 * (lessons[0].target - before[0]).abs().mean()
    for name, parameter in student.t5.parameters.items():
        assert torch.equal(parameter, teacher.t5.parameters[name])


@torch.no_grad()
def _answers(nets, tables, lesson, size):
    return nets.transformer.model(
        lesson.x, lesson.txt, lesson.vec, lesson.sigma, lesson.guidance, tables.rotary(size)
    )


def _error(answer, lesson):
    return (answer - lesson.target).pow(2).mean()


def test_one_text_encoder_may_be_silent_or_wrong_and_an_empty_caption_stays_empty(teacher, tables):
    told, empty = new_captions(2), captions("")
    txt, vec = tables.text(teacher, told)
    no_txt, no_vec = tables.text(teacher, empty)
    without_clip = tables.mixed_text(teacher, told, empty, flow.Mixing(1.0, 0.0, 0.0))
    assert torch.equal(without_clip[0], txt)
    assert torch.equal(without_clip[1], no_vec.expand(2, -1))
    other_clip = tables.mixed_text(teacher, told, empty, flow.Mixing(0.0, 1.0, 0.0))
    assert torch.equal(other_clip[0], txt)
    assert torch.equal(other_clip[1], vec.flip(0))
    mute_txt, kept_vec = tables.mixed_text(teacher, told, empty, flow.Mixing(0.0, 0.0, 1.0))
    assert torch.equal(kept_vec, vec)
    for row in mute_txt:
        assert torch.equal(row, torch.zeros_like(row)) or torch.equal(row, no_txt[0])
    nothing = tables.mixed_text(teacher, empty.expand(2), empty, flow.Mixing(0.2, 0.4, 0.2))
    assert torch.allclose(nothing[0], no_txt.expand(2, -1, -1), atol=1e-6)
    assert torch.allclose(nothing[1], no_vec.expand(2, -1), atol=1e-6)

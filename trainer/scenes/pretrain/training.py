"""The training loop of the small CLIP. On one machine, a seed decides the weights."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import open_clip
import torch

from trainer.scenes.pretrain.batches import Pictures, Tokens, batches
from trainer.scenes.pretrain.objective import AttributeHeads, Losses, compute_losses
from trainer.scenes.pretrain.options import Options
from trainer.scenes.scenes import make_scenes

_EVERY_WORD_SCENES: Final = 500  # enough to have every word in their captions
_LARGEST_GRADIENT: Final = 1.0


OnStep = Callable[[int, Losses], None]
"""Gets the number of the step, from 1, and its losses."""


def pretrain(config: Path, options: Options, on_step: OnStep) -> torch.nn.Module:
    """Return a trained open_clip model, in evaluation mode.

    Equal options give equal weights as long as machine, torch and its number of threads are the
    same. The caller's random generator is left alone.

    Args:
        config: A model config of open_clip whose image size is that of scenes.
        options: How to train.
        on_step: Called after every step.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        open_clip.add_model_config(config)
        model, _, preprocess = open_clip.create_model_and_transforms(config.stem, pretrained=None)
        model = model.to(memory_format=torch.channels_last).train()
        tokens = Tokens(open_clip.get_tokenizer(config.stem))
        _forget_other_words(model, tokens)
        heads = AttributeHeads(int(model.text_projection.shape[1]))
        _train(model, heads, Pictures(preprocess), tokens, options, on_step)
    trained: torch.nn.Module = model.eval().requires_grad_(False)
    return trained


def _train(
    model: Any,
    heads: AttributeHeads,
    pictures: Pictures,
    tokens: Tokens,
    options: Options,
    on_step: OnStep,
) -> None:
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=options.rate, betas=(0.9, 0.98), weight_decay=options.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.rate, total_steps=options.steps, pct_start=0.1
    )
    endless = batches(pictures, tokens, size=options.batch_size, seed=options.seed)
    for step, batch in zip(range(1, options.steps + 1), endless, strict=False):
        losses = compute_losses(model, heads, batch)
        optimizer.zero_grad()
        losses.total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, _LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
        on_step(step, losses)


def _forget_other_words(model: Any, tokens: Tokens) -> None:
    """Set the embedding of every word to zero that no scene's caption has.

    They would stay as random as they began; like this, an unknown word says nothing, and the file
    packs well.
    """
    scenes = make_scenes(_EVERY_WORD_SCENES, seed=0)
    captions: Sequence[str] = [caption for scene in scenes for caption in scene.captions()]
    weight = model.token_embedding.weight
    kept = torch.zeros(weight.shape[0], 1)
    kept[tokens(captions).flatten()] = 1
    with torch.no_grad():
        weight.mul_(kept)

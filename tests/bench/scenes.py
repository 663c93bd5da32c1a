"""How many captions of unseen scenes are exactly right, with the CLIP that ships.

`python -m tests.bench.scenes --seeds 3` fits the captioner on stored embeddings of 1,700 scenes and
judges its captions of 300 that show something else; one JSON line for each seed.
"""

import argparse
import json
import random
import time
from itertools import islice

import torch

from streams.models.clip import ClipEncoder
from streams.models.conditional_lm import ConditionalLM, autoregressive_loss
from streams.models.vocabulary import Vocabulary
from streams.settings import ClipSettings
from trainer.scenes.judge import is_right
from trainer.scenes.scenes import make_scenes

SEEN, FRESH, BATCH, RATE, BEAM = 1700, 300, 50, 1e-3, 5


def embed(encoder, scenes):
    """Return (B, D) as the pipeline stores it."""
    images = torch.stack([encoder.preprocess(scene.image()) for scene in scenes])
    return torch.cat([torch.from_numpy(encoder.encode(part)) for part in images.split(100)])


def fit(embeddings, scenes, *, hidden, epochs, seconds, seed):
    """Return a captioner, how many epochs it saw, and the seconds they took."""
    torch.manual_seed(seed)
    generator = random.Random(seed)  # noqa: S311 - no secret
    captions = [scene.captions() for scene in scenes]
    vocabulary = Vocabulary.from_captions(text for texts in captions for text in texts)
    model = ConditionalLM(vocabulary, n_condition=embeddings.shape[1], n_hidden=hidden)
    length = model.max_length
    targets = torch.tensor(
        [[vocabulary.encode(text, max_length=length) for text in texts] for texts in captions]
    )  # (N, 5, T)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    started, epoch = time.monotonic(), 0
    while epoch < epochs and time.monotonic() - started < seconds:
        order = torch.tensor(generator.sample(range(len(scenes)), len(scenes)))
        drawn = torch.tensor([generator.randrange(5) for _ in scenes])
        for rows in order.split(BATCH):
            wanted = targets[rows, drawn[rows]]  # (B, T)
            start = torch.full((len(rows), 1), vocabulary.start)
            logits = model.train_forward(
                embeddings[rows], torch.cat([start, wanted[:, :-1]], dim=1)
            )
            loss = autoregressive_loss(logits, wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        epoch += 1
    return model.eval(), epoch, time.monotonic() - started


def exact(model, embeddings, scenes, *, beam):
    """Return the share of right captions, and the wrong ones."""
    captions = [caption.text for caption in model.generate(embeddings, beam_width=beam)]
    wrong = [
        [caption, scene.captions()[0]]
        for caption, scene in zip(captions, scenes, strict=True)
        if not is_right(caption, scene)
    ]
    return 1 - len(wrong) / len(scenes), wrong


def main():
    """Measure with as many seeds as are asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    encoder = ClipEncoder(ClipSettings(model="scenes", pretrained="bundled"))
    for seed in range(options.seeds):
        seen = list(make_scenes(SEEN, seed=1000 + seed))
        known = {caption for scene in seen for caption in scene.captions()[:2]}
        drawn = make_scenes(10 * FRESH, seed=2000 + seed)
        fresh = list(islice((s for s in drawn if s.captions()[0] not in known), FRESH))
        model, epochs, seconds = fit(
            embed(encoder, seen),
            seen,
            hidden=options.hidden,
            epochs=options.epochs,
            seconds=options.seconds,
            seed=seed,
        )
        vectors = embed(encoder, fresh)
        greedy, wrong = exact(model, vectors, fresh, beam=1)
        row = {
            "seed": seed,
            "hidden": options.hidden,
            "epochs": epochs,
            "seconds": round(seconds, 1),
            "exact_match": round(greedy, 4),
            f"exact_match_beam_{BEAM}": round(exact(model, vectors, fresh, beam=BEAM)[0], 4),
            "wrong": wrong[:5],
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

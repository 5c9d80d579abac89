"""The text decoder in the middle of a batch, one row per choice: as a processor and as a GPU do it best.

Both call the decoder's layers directly, without the masks and bookkeeping around them that single-token steps have no
use for. `step` goes on with some of the rows that the call before it had, given the last token of each.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol, cast

import torch
from torch import Tensor
from transformers import BlipForConditionalGeneration, BlipTextConfig, DynamicCache, EncoderDecoderCache

SHORTEST: Final = 64  # positions that a recorded step looks at, at least


def text_config(model: BlipForConditionalGeneration) -> BlipTextConfig:
    """What is known of the model's text decoder."""
    return cast("BlipTextConfig", model.config.text_config)


class Decoder(Protocol):
    """Decodes one batch at a time."""

    def begin(self, seen: Tensor, prompts: Sequence[Sequence[int]], jobs: Sequence[int]) -> Tensor:
        """Reads the prompts, one per picture in `seen`; the next token's logits, a row for each entry of `jobs`."""

    def step(self, on: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Goes on with the rows `on`; the logits of their next tokens, which stand until the next call."""


class GrowingDecoder:
    """For a processor, and for one batch: caches grow with the caption, and rows that have ended leave them."""

    def __init__(self, model: BlipForConditionalGeneration) -> None:
        self._text = model.text_decoder
        self._config = text_config(model)

    @torch.inference_mode()
    def begin(self, seen: Tensor, prompts: Sequence[Sequence[int]], jobs: Sequence[int]) -> Tensor:
        """As in `Decoder`. The keys and values of the pictures are computed here, once."""
        self._seen = seen
        self._cache = EncoderDecoderCache(DynamicCache(config=self._config), DynamicCache(config=self._config))
        out = self._text(
            input_ids=torch.tensor(prompts, device=seen.device),
            encoder_hidden_states=seen,
            past_key_values=self._cache,
            use_cache=True,
            is_decoder=True,
            logits_to_keep=1,
        )
        self._rows = len(prompts)
        self._keep(jobs)
        return cast("Tensor", out.logits[:, -1][list(jobs)])

    @torch.inference_mode()
    def step(self, on: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """As in `Decoder`."""
        self._keep(on)
        bert = self._text.bert
        ids = torch.tensor(tokens, device=self._seen.device)[:, None]
        hidden = bert.embeddings(input_ids=ids, past_key_values_length=self._cache.get_seq_length())
        for layer in bert.encoder.layer:
            # `_seen` only says that there is a picture: its keys and values come from the cache.
            hidden = layer(hidden, self._seen, past_key_values=self._cache)
        return cast("Tensor", self._text.cls(hidden)[:, -1])

    def _keep(self, rows: Sequence[int]) -> None:
        if list(rows) != list(range(self._rows)):
            self._cache.batch_select_indices(torch.tensor(rows, device=self._seen.device))
            self._rows = len(rows)


class RecordedDecoder:
    """For a GPU, and for batch after batch: a step is one launch of what was recorded.

    A step is hundreds of kernels, and to launch them one by one takes ten times as long as to run them. What was
    recorded runs again on the same memory with the same shapes. So rows keep their places, those that have ended too;
    keys and values have memory for every position, and what is not written yet is masked. There is a recording for each
    power of two of rows, and of positions from `SHORTEST` on; it is made when it is first needed.
    """

    def __init__(self, model: BlipForConditionalGeneration) -> None:
        self._text: Any = model.text_decoder
        self._config = text_config(model)
        self._capacity = 0
        self._places: list[int] = []
        self._used = 0

    @torch.inference_mode()
    def begin(self, seen: Tensor, prompts: Sequence[Sequence[int]], jobs: Sequence[int]) -> Tensor:
        """As in `Decoder`."""
        if len(jobs) > self._capacity:
            self._make_room(_power(len(jobs)), seen)
        self._places = list(range(len(jobs)))
        self._tokens = [0] * _power(len(jobs))
        self._words[..., : self._used, :] = 0  # no weight, but not-a-number times nothing is not a number either
        self._used = 0
        self._look(seen, torch.tensor(jobs, device=seen.device))
        for column in zip(*prompts, strict=True):
            logits = self.step(self._places, [column[job] for job in jobs])
        return logits

    @torch.inference_mode()
    def step(self, on: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """As in `Decoder`."""
        self._places = [self._places[row] for row in on]
        for place, token in zip(self._places, tokens, strict=True):
            self._tokens[place] = token
        self._ids[: len(self._tokens), 0] = torch.tensor(self._tokens, device=self._ids.device)
        self._at.fill_(self._used)
        self._used += 1
        logits = self._recording(len(self._tokens), min(self._positions, max(SHORTEST, _power(self._used))))()
        return logits if self._places == [*range(len(logits))] else logits[self._places]

    def _make_room(self, rows: int, seen: Tensor) -> None:
        """Sets memory aside for so many rows. What was recorded on the memory before is worth nothing then."""
        config, place = self._config, seen.device
        self._recordings: dict[tuple[int, int], Callable[[], Tensor]] = {}
        self._capacity = 0
        self._positions = config.max_position_embeddings
        each = config.num_hidden_layers, 2, rows, config.num_attention_heads
        width = config.hidden_size // config.num_attention_heads
        self._words = self._pictures = torch.empty(0)  # the memory before, which may be needed for these
        self._words = torch.zeros(*each, self._positions, width, dtype=seen.dtype, device=place)
        self._pictures = torch.zeros(*each, seen.shape[1], width, dtype=seen.dtype, device=place)
        self._ids = torch.zeros(rows, 1, dtype=torch.long, device=place)
        self._at = torch.zeros(1, dtype=torch.long, device=place)
        self._order = torch.arange(self._positions, device=place)
        self._capacity = rows

    def _look(self, seen: Tensor, jobs: Tensor) -> None:
        """Writes the keys and values of the pictures, each for all its rows."""
        for layer, kept in zip(self._text.bert.encoder.layer, self._pictures, strict=True):
            attention = layer.crossattention.self
            for target, project in zip(kept, (attention.key, attention.value), strict=True):
                heads = project(seen).unflatten(-1, (target.shape[1], -1)).transpose(1, 2)
                target[: len(jobs)] = heads[jobs]

    def _recording(self, rows: int, positions: int) -> Callable[[], Tensor]:
        if (rows, positions) not in self._recordings:
            work = partial(self._work, rows, positions)
            self._recordings[rows, positions] = _recorded(work) if self._ids.is_cuda else work
        return self._recordings[rows, positions]

    def _work(self, rows: int, positions: int) -> Tensor:
        """One step of the first rows, all at the position `_at`, which looks at the first positions up to it."""
        cache = self._cache(rows, positions)
        bert = self._text.bert
        hidden = bert.embeddings(input_ids=self._ids[:rows], position_ids=self._at[None])
        unwritten = self._order[:positions] > self._at
        mask = torch.zeros(positions, dtype=hidden.dtype, device=hidden.device)
        mask = mask.masked_fill(unwritten, torch.finfo(hidden.dtype).min)
        for layer in bert.encoder.layer:
            # The second argument only says that there is a picture: its keys and values come from the cache.
            hidden = layer(hidden, hidden, attention_mask=mask, past_key_values=cache)
        return cast("Tensor", self._text.cls(hidden)[:, -1])

    def _cache(self, rows: int, positions: int) -> EncoderDecoderCache:
        """Our memory as the layers know it, that of the pictures as written."""
        pictures = DynamicCache(config=self._config)
        layers: list[Any] = pictures.layers
        for layer, (keys, values) in zip(layers, self._pictures[:, :, :rows], strict=True):
            layer.keys, layer.values = keys, values
        cache = EncoderDecoderCache(_Words(self._words[:, :, :rows, :, :positions], self._at), pictures)
        cache.is_updated = dict.fromkeys(range(len(layers)), True)
        return cache


class _Words(DynamicCache):
    """Keys and values of words, in memory set aside for them; what a step adds goes to one position."""

    def __init__(self, kept: Tensor, at: Tensor) -> None:
        super().__init__()
        self._kept = kept
        self._at = at

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Writes a layer's new ones; all of its keys and values, with what is not written yet."""
        keys, values = self._kept[layer_idx]
        return keys.index_copy_(2, self._at, key_states), values.index_copy_(2, self._at, value_states)


def _power(count: int) -> int:
    """The least power of two that is not less."""
    return 1 << (count - 1).bit_length()


def _recorded(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The work as one launch, its result in the same memory each time. It is done once before, to set itself up."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads have nothing to do with it
        result = work()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay

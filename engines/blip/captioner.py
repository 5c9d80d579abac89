"""The story of one caption: read the request, decode its picture, queue it, turn tokens into words as they come."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from engines.batcher import Batcher, Submission
from engines.blip import picture
from engines.blip.job import Facts, Job, Pixels, Token
from engines.blip.model import BlipModel
from engines.blip.request import NO_PICTURE, Wanted, has_picture, read
from engines.blip.text import Writer
from engines.serve import Answer, Health, Piece
from engines.structured import Filling
from gateway.wire import ChatRequest, CompletionTokensDetails, Fault, PromptTokensDetails, Usage

log = logging.getLogger(__name__)

DECODERS: Final = max(2, (os.cpu_count() or 1) // 4)  # where a GPU waits for pictures, two are too few


class Captioner:
    """The BLIP engine as `serve` knows it. Close it when done. Files of pictures are read out of `folder` alone."""

    def __init__(
        self, model: BlipModel, *, max_batch: int, max_queue: int, keep_artefacts: bool, folder: Path | None = None
    ) -> None:
        self._model = model
        self._folder = folder
        self._keep_artefacts = keep_artefacts
        self._pictures = ThreadPoolExecutor(DECODERS, thread_name_prefix="pictures")
        self._batcher = Batcher[Job, Token](
            model.captions,
            kind=lambda job: job.kind,
            cost=lambda job: job.choices,
            budget=max_batch,
            queue_limit=max_queue,
            failed=self._end_if_broken,
        )

    @property
    def health(self) -> Health:
        """What `/health` says of a ready engine."""
        facts = self._model.facts
        return Health("ready", device=facts.device, dtype=facts.dtype, max_model_len=facts.positions)

    async def answer(self, request: ChatRequest) -> Answer:
        """Begins to answer.

        Raises:
            Fault: the request or its picture cannot be used.
            QueueFull: too many requests wait.
        """
        if not has_picture(request):
            return _NoPicture(choices=request.n or 1, structured=request.response_format is not None)
        wanted = read(request, max_choices=self._batcher.budget)
        self._batcher.ensure_room()
        prompt = self._prompt(wanted)
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(self._pictures, self._see, wanted)
        limit = min(wanted.limit, self._model.facts.positions - len(prompt))
        job = Job(pixels, prompt, limit, wanted.sampling, wanted.choices)
        return _Caption(self._batcher.submit(job), job, wanted, self._model.facts, self._keep_artefacts)

    async def close(self) -> None:
        """Stops the model at its next step."""
        await self._batcher.close()
        self._pictures.shutdown()

    def _end_if_broken(self) -> None:
        """Ends the process when it can never caption again; whoever started it starts another."""
        if self._model.is_broken():
            log.critical("the GPU is lost to this process, which ends")
            os.kill(os.getpid(), signal.SIGTERM)

    def _see(self, wanted: Wanted) -> Pixels:
        return self._model.pixels(picture.decode(wanted.url, wanted.path, self._folder))

    def _prompt(self, wanted: Wanted) -> tuple[int, ...]:
        prompt = self._model.prompt_ids(wanted.beginning.text)
        if len(prompt) < self._model.facts.positions:
            return prompt
        raise Fault(
            f"The caption's beginning is {len(prompt)} tokens long; this model has room for "
            f"{self._model.facts.positions} with the caption. Shorten it.",
            param=wanted.beginning.param,
            code="context_length_exceeded",
        )


class _NoPicture:
    """The answer to a request without a picture: one fixed sentence, so that a client's set-up check succeeds."""

    def __init__(self, *, choices: int, structured: bool) -> None:
        self.choices = choices
        self.usage = Usage(0, 0, 0, PromptTokensDetails())
        self._refusal = NO_PICTURE if structured else None

    async def pieces(self) -> AsyncIterator[Piece]:
        for choice in range(self.choices):
            yield Piece(choice, NO_PICTURE, refusal=self._refusal)
            yield Piece(choice, finish="stop")

    def close(self) -> None:
        pass


class _Caption:
    """The answer to a request with a picture, one writer for each of its choices."""

    def __init__(
        self, tokens: Submission[Job, Token], job: Job, wanted: Wanted, facts: Facts, keep_artefacts: bool
    ) -> None:
        self.choices = job.choices
        self._tokens = tokens
        self._vocabulary = facts.vocabulary
        self._prompt_tokens = PromptTokensDetails(image_tokens=facts.image_tokens)
        self._prompt_length = len(job.prompt) + facts.image_tokens
        self._made = 0
        prefix = wanted.beginning.text if wanted.beginning.echoed else ""
        self._writing = {
            choice: _Choice(Writer(prefix=prefix, stops=wanted.stops, keep_artefacts=keep_artefacts), wanted.filling)
            for choice in range(job.choices)
        }

    @property
    def usage(self) -> Usage:
        """The tokens so far."""
        total = self._prompt_length + self._made
        return Usage(self._prompt_length, self._made, total, self._prompt_tokens, CompletionTokensDetails())

    async def pieces(self) -> AsyncIterator[Piece]:
        async for token in self._tokens:
            writing = self._writing.get(token.choice)
            if writing is None:
                continue  # it met a stop sequence; the model goes on with it while other choices are being made
            self._made += 1
            piece = writing.take(token, self._word(token.id))
            if piece.text or piece.finish:
                yield piece
            if piece.finish:
                del self._writing[token.choice]
            if not self._writing:
                return

    def close(self) -> None:
        self._tokens.close()

    def _word(self, id_: int) -> str | None:
        return self._vocabulary[id_] if id_ < len(self._vocabulary) else None


class _Choice:
    """One choice in the making. A structured one is given out at its end, for its object needs the whole caption."""

    def __init__(self, writer: Writer, filling: Filling | None) -> None:
        self._writer = writer
        self._filling = filling
        self._caption = ""

    def take(self, token: Token, word: str | None) -> Piece:
        """What the next token adds."""
        text = "" if word is None else self._writer.add(word)
        if token.finish:
            text += self._writer.finish()
        finish = "stop" if self._writer.stopped else token.finish
        if self._filling:
            self._caption += text
            text = self._filling.fill(self._caption) if finish else ""
        return Piece(token.choice, text, finish=finish)

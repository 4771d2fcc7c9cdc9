"""Batches of conversations answered, or scored, by one loaded model under one method.

Knows transformers and the engine; knows nothing of lmms-eval.
"""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature

import adaptinfer_eval as ae
from adaptinfer_eval.backbones import anatomy_of
from adaptinfer_eval.backbones.family import Family
from adaptinfer_eval.backbones.messages import Image, Message, Video
from adaptinfer_eval.methods.following import FollowingMethod
from adaptinfer_eval.methods.image import works_in_tower
from adaptinfer_eval.methods.method import Method
from adaptinfer_eval.models.batch import Answer, Batch, Prompt
from adaptinfer_eval.models.decoding import Ended, Only, StopAt, continued, cut, until_end
from adaptinfer_eval.models.features import Counts, Features, counts, joined, of_prompts
from adaptinfer_eval.models.generation import Generation, may_see_prompt
from adaptinfer_eval.models.kept import outlived
from adaptinfer_eval.models.limits import most_tokens, slides
from adaptinfer_eval.models.pictures import pad_behind, read_picture, shared_prefix
from adaptinfer_eval.models.questions import asked
from adaptinfer_eval.models.tally import Cost, Tally, costs
from adaptinfer_eval.models.videos import arguments, read_video
from adaptinfer_eval.pruning import observed
from adaptinfer_eval.pruning.finite import finite_logits
from adaptinfer_eval.pruning.observer import See
from adaptinfer_eval.pruning.trace import Trace, moved, together
from adaptinfer_eval.pruning.trunk import Trunk
from adaptinfer_eval.pruning.watched import by_prompt, watched

PREFILL: dict[str, Any] = {"max_new_tokens": 1, "do_sample": False, "num_beams": 1}
"""Options of `generate` with which it prefills, and decodes nothing."""


class Answering:
    """A vision-language model of a family with its processor, and the method that prunes it."""

    def __init__(self, method: Method, family: Family, model: Any, processor: Any) -> None:
        self.method, self.family, self.model, self.processor = method, family, model, processor
        self.anatomy = anatomy_of(model)
        if family.encodes and not self._takes_features():
            raise ValueError(f"{family} encodes images itself: use a newer transformers, which takes what it makes")
        processor.tokenizer.padding_side = "left"
        if processor.tokenizer.pad_token is None:  # any will do: padding is masked, and cut off behind an answer
            processor.tokenizer.pad_token = processor.tokenizer.convert_ids_to_tokens(self._end_tokens()[0])
        # Its own: a fast tokenizer cannot encode in one thread and decode in another.
        self.tokenizer = copy.deepcopy(processor.tokenizer)
        self.shares_prefixes = True  # questions of a batch about the same image: faster, with the same answers

    @property
    def method(self) -> Method:
        """May be replaced between runs, which starts a new tally; the model stays loaded."""
        return self._method

    @method.setter
    def method(self, method: Method) -> None:
        self._method, self.tally = method, Tally()

    def prompt(self, messages: Sequence[Message], continuation: str = "", counted: bool = True) -> Prompt:
        """Text and images of a conversation; ValueError when its text holds image tokens of its own."""
        parts = [part for _, content in messages for part in content]
        images = [part.source for part in parts if isinstance(part, Image)]
        videos = [part.source for part in parts if isinstance(part, Video)]
        frames = self.family.video_frames
        if videos and not frames:
            raise ValueError(f"{self.family.model_type} is shown no videos here: use Qwen-VL or LLaVA-OneVision")
        text = self.family.conversation(messages, self.processor, self._end)
        marks = {"images": (images, self.family.mark(self.processor))}
        if frames:
            marks["videos"] = (videos, str(self.processor.video_token))
        for kind, (shown, token) in marks.items():
            if text.count(token) != len(shown):
                raise ValueError(
                    f"the prompt has {len(shown)} {kind} and {text.count(token)} times {token!r}, which stands for "
                    "one: take it out of the text itself, or use a chat template that writes it once for each"
                )
        clips = [read_video(video, frames, self.family.repeats_frames) for video in videos]
        return Prompt(text, list(map(read_picture, images)), continuation, counted, clips, asked(messages))

    def encode(self, prompts: Sequence[Prompt]) -> Batch:
        """Tokens and pixels of some prompts. May run in another thread while a batch is being answered."""
        images = [prompt.images for prompt in prompts]
        texts = [self.family.spelled(prompt.text, self.processor) for prompt in prompts]
        # A chat template may have written what the tokenizer would put before every text.
        begun = {text.startswith(self.tokenizer.bos_token or "\0") for text in texts}
        if len(begun) > 1:
            begin = self.tokenizer.bos_token
            raise ValueError(f"the chat template begins some prompts with {begin}, others not: use batch_size=1")
        videos = arguments([clip for prompt in prompts for clip in prompt.videos])
        inputs = self.family.process(
            self.processor,
            texts,
            images,
            padding=True,
            return_tensors="pt",
            add_special_tokens=begun == {False},
            **videos,
        )
        text = self.model.config.get_text_config()
        lengths, limit = inputs["attention_mask"].sum(1).tolist(), most_tokens(text, self.tokenizer)
        for number, length in enumerate(lengths, 1):
            if length > limit:
                raise ValueError(
                    f"prompt {number} of {len(prompts)} has {length} tokens and the model takes {limit:.0f}: "
                    "show fewer images, ask less, or use a checkpoint for longer prompts"
                )
        shown, prefix = of_prompts(self.family, inputs, self._counts(prompts, inputs)), None
        shares = self.shares_prefixes and self.anatomy.shares_prefixes and not slides(text)
        if any(images) and len(prompts) > 1 and shares and not videos:
            pictures = [tuple((i.mode, i.size, i.tobytes()) for i in prompt.images) for prompt in prompts]
            prefix = shared_prefix(pictures, inputs, self.anatomy.is_vision(inputs["input_ids"]))
        if prefix is not None:
            pad_behind(prefix, inputs)
        return Batch(prompts, inputs, shown, prefix)

    def for_methods(self, batch: Batch, methods: Sequence[Method]) -> Batch:
        """`batch`, to be answered under several methods, in this order: what they have in common is computed once."""
        if not all(map(works_in_tower, methods)):
            batch = self.encode_images(batch, methods)
        if len(methods) < 2:
            return batch
        other = replace(batch.other, trunk=Trunk()) if isinstance(batch.other, Batch) else batch.other
        return replace(batch, trunk=Trunk(), other=other)

    def encode_images(self, batch: Batch, methods: Sequence[Method] = ()) -> Batch:
        """`batch` with its images encoded, each once, to be answered under several methods, which may look on.

        A method that works inside the vision tower encodes for itself all the same. Unchanged where there is nothing
        to encode, or where this release of transformers takes no features.
        """
        # Videos are encoded by each method for itself: two kinds of features would have to be put together.
        videos = any(prompt.videos for prompt in batch.prompts)
        if videos or not any(batch.shown) or not self._takes_features():
            return batch
        alike = range(len(batch.shown)) if batch.prefix is None else batch.prefix.first
        encoded = sorted(set(alike))
        images = BatchFeature(joined([batch.shown[prompt] for prompt in encoded]))
        with torch.inference_mode(), watched(self.anatomy, methods) as watch:
            output = self.family.encode(self.model, images.to(self.model.device, self.model.dtype))
        of_all = self._vision_tokens(batch.inputs)
        tokens = [of_all[prompt] for prompt in encoded]
        features = Features.read(output, tokens, by_prompt(watch.take(), tokens) if watch else ())
        return replace(batch, features=features.picked([encoded.index(prompt) for prompt in alike]))

    def answer(self, batch: Batch, generation: Generation) -> list[Answer]:
        """One answer per prompt, cut at the first stop string, without the white space around it."""
        return self.traced_answer(batch, generation)[0]

    def traced_answer(self, batch: Batch, generation: Generation) -> tuple[list[Answer], Trace]:
        """`answer`, and what happened to the vision tokens on the way."""
        if self.sees_prompt(generation) and not batch.inputs["attention_mask"].all():
            return self._one_by_one(batch, generation)
        length = batch.inputs["input_ids"].shape[1]
        ends = self._end_tokens(generation.options.get("eos_token_id"))
        greedy = generation.options["num_beams"] == 1
        stop = StopAt(generation.until, self.tokenizer, length, once=greedy) if generation.until else None
        options = {**generation.options, "eos_token_id": ends}
        output, trace, costs = self._generate(batch, ended=Ended(ends, stop), **options)
        answers = []
        for row, cost in zip(output.sequences[:, length:].tolist(), costs, strict=True):
            tokens = until_end(row, [*ends, self._pad_token()])
            text = cut(self.tokenizer.decode(tokens, skip_special_tokens=True), generation.until)
            answers.append(Answer(text.strip(), replace(cost, generated_tokens=len(tokens))))
        self._count(batch, [answer.cost for answer in answers])
        return answers, trace

    def observe(self, batch: Batch, see: See) -> None:
        """Prefill the prompts, with nothing pruned, and show `see` what their tokens receive in every layer."""
        if batch.features is None and (batch.prefix is not None or self.family.encodes):
            batch = self.encode_images(batch)
        self._generate_in(observed(self.model, see, prefix=batch.prefix), batch, **PREFILL)

    def logits(self, batch: Batch, method: Method) -> Tensor:
        """Behind every prompt, pruned by `method`, (B, vocabulary)."""
        return self._generate_under(method, batch, **PREFILL, output_logits=True)[0].logits[0]  # type: ignore[no-any-return]

    def score(self, batch: Batch) -> list[tuple[float, bool]]:
        """Sum of log-probabilities (natural log) of each continuation, and whether greedy decoding would choose it.

        The prompt is prefilled by itself, pruned, and the continuation then decoded token by token. One prefill over
        both would let the continuation choose the vision tokens, and methods that read the last token would read the
        wrong one.
        """
        targets = [continued(self.tokenizer, prompt.text, prompt.continuation) for prompt in batch.prompts]
        output, _, costs = self._generate(
            batch,
            max_new_tokens=max(map(len, targets)),
            do_sample=False,
            num_beams=1,
            logits_processor=[Only(targets, batch.inputs["input_ids"].shape[1], self._pad_token())],
            eos_token_id=self._pad_token(),
            output_logits=True,
        )
        self._count(batch, costs)
        logits = torch.stack(output.logits, 1)  # (B, steps, vocabulary), before anything was forced
        results = []
        for row, target in zip(logits, targets, strict=True):
            wanted = torch.tensor(target, device=row.device)
            steps = row[: len(target)].float()
            chosen = steps.log_softmax(-1).gather(1, wanted[:, None])
            results.append((float(chosen.sum()), bool((steps.argmax(-1) == wanted).all())))
        return results

    def sees_prompt(self, generation: Generation) -> tuple[str, ...]:
        """Options of a request or of the checkpoint that may look at the tokens of a prompt, its padding among them."""
        return may_see_prompt(vars(self.model.generation_config) | dict(generation.options))

    def _one_by_one(self, batch: Batch, generation: Generation) -> tuple[list[Answer], Trace]:
        """The prompts of a batch without the padding that it puts into them, wherever it is."""
        answers, traces = [], []
        for number, real in enumerate(batch.inputs["attention_mask"]):
            (answer,), trace = self.traced_answer(self._alone(batch, number), generation)
            answers.append(answer)
            traces.append(moved(trace, real))
        return answers, together(traces)

    def _alone(self, batch: Batch, number: int) -> Batch:
        """One prompt of a batch, with nothing that is encoded anew: that is the other thread's."""
        mask, shown, features = batch.inputs["attention_mask"], batch.shown[number], None
        real = mask[number].bool()
        text = {k: value[number, real][None] for k, value in batch.inputs.items() if k not in self.family.image_inputs}
        if shown and batch.features is not None:
            features = batch.features.picked([number])
        other = self._alone(batch.other, number) if isinstance(batch.other, Batch) else batch.other
        inputs = BatchFeature({**text, **shown})
        return Batch(batch.prompts[number : number + 1], inputs, [shown], None, features, other=other)

    def _vision_tokens(self, inputs: Mapping[str, Tensor]) -> list[int]:
        counts: list[int] = self.anatomy.is_vision(inputs["input_ids"]).sum(1).tolist()
        return counts

    def _takes_features(self) -> bool:
        """Whether this release of transformers takes what images have been encoded to before."""
        return "mm_encoder_outputs" in inspect.signature(self.model.forward).parameters

    def _counts(self, prompts: Sequence[Prompt], inputs: Mapping[str, Tensor]) -> Counts:
        of_videos: list[int] = self.anatomy.is_video(inputs["input_ids"]).sum(1).tolist()
        return counts(prompts, self._vision_tokens(inputs), of_videos)

    def _generate(self, batch: Batch, **options: Any) -> tuple[Any, Trace, list[Cost]]:
        method = self._after_leader(batch) if isinstance(self.method, FollowingMethod) else self.method
        started = time.perf_counter()
        output, trace = self._generate_under(method, batch, **options)
        return output, trace, self._costs(batch, trace, (time.perf_counter() - started) / len(batch.prompts))

    def _after_leader(self, batch: Batch) -> Method:
        """The method, told what its leader keeps of the batch's images under the other prompts."""
        assert isinstance(self.method, FollowingMethod)
        if isinstance(batch.other, Exception):
            raise batch.other
        if batch.other is None:
            raise ValueError(f"{self.method.name} needs other prompts about the same images: load the batch with them")
        other = replace(batch.other, features=batch.features)
        _, trace = self._generate_under(self.method.leader, other, **PREFILL)
        return self.method.following(outlived(trace, self.anatomy.is_vision(other.inputs["input_ids"])))

    def _generate_under(
        self, method: Method, batch: Batch, ended: Ended | None = None, **options: Any
    ) -> tuple[Any, Trace]:
        in_tower = works_in_tower(method)
        # With beams, GLM-4V in transformers gives a prompt's second image to the beams of its first.
        before = batch.prefix is not None or self.family.encodes or options["num_beams"] > 1
        if before and batch.features is None and not in_tower:
            batch = self.encode_images(batch, [method])
        attached = ae.pruned(
            self.model,
            method,
            prefix=batch.prefix,
            images=[len(prompt.images) + bool(prompt.videos) for prompt in batch.prompts],
            shown=batch.features.shown if batch.features else None,
            questions=[prompt.question for prompt in batch.prompts],
            tokenize=lambda text: self.tokenizer(text, add_special_tokens=False)["input_ids"],
            trunk=batch.trunk,
            ended=ended.rows if ended and options["num_beams"] == 1 else None,
        )
        if ended:
            options["stopping_criteria"] = [ended]
        return self._generate_in(attached, batch, in_tower, **options)

    def _generate_in(
        self, attached: AbstractContextManager[Trace], batch: Batch, in_tower: bool = False, **options: Any
    ) -> tuple[Any, Trace]:
        """Generate with what is `attached` to the model; `in_tower`: it has to see the images being encoded."""
        inputs = copy.copy(batch.inputs)
        if batch.features is not None and not in_tower:
            inputs.pop("pixel_values")  # what else is known of images, positions may be made from
            options["mm_encoder_outputs"] = {"image": batch.features.output()}
        inputs = inputs.to(self.model.device, self.model.dtype)
        if options.get("do_sample"):
            options["remove_invalid_values"] = True  # nothing can be drawn from NaN; finite_logits says what is wrong
        with (
            attached as trace,
            torch.inference_mode(),
            finite_logits(self.model),
        ):
            output = self.model.generate(
                **inputs,
                **options,
                tokenizer=self.tokenizer,  # for stop_strings
                pad_token_id=self._pad_token(),
                return_dict_in_generate=True,
            )
        beams = options["num_beams"]
        trace.entering = trace.entering[::beams]
        trace.images, trace.schedules = trace.images[::beams], trace.schedules[::beams]
        trace.kept = {layer: kept[::beams] for layer, kept in trace.kept.items()}
        trace.groups = {layer: groups[::beams] for layer, groups in trace.groups.items()}
        return output, trace

    def _costs(self, batch: Batch, trace: Trace, seconds: float) -> list[Cost]:
        real = batch.inputs["attention_mask"].sum(1).tolist()
        return costs(trace, self._vision_tokens(batch.inputs), real, self.model.config.get_text_config(), seconds)

    def _count(self, batch: Batch, costs: Sequence[Cost]) -> None:
        for prompt, cost in zip(batch.prompts, costs, strict=True):
            if prompt.counted:
                self.tally.add(cost)

    def _end_tokens(self, asked: int | list[int] | None = None) -> list[int]:
        """Tokens that end an answer: those a request asks for, else the model's, else the tokenizer's."""
        known = (asked, self.model.generation_config.eos_token_id, self.processor.tokenizer.eos_token_id)
        ends = next((end for end in known if end is not None), None)
        if ends is None:
            raise ValueError("the checkpoint names no token that ends an answer: give its tokenizer an eos_token")
        return ends if isinstance(ends, list) else [ends]

    def _end(self) -> str:
        """What an answer ends with, as text."""
        return str(self.tokenizer.decode(self._end_tokens()[:1]))

    def _pad_token(self) -> int:
        return int(self.tokenizer.pad_token_id)

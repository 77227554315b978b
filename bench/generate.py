"""Tokens per second, onehour's generation beside that of transformers: the same weights, float32, the same threads.

    python bench/generate.py              the model in pretrained/smollm2, which make pretrained fetches; without it,
                                          one of its size with random weights
    python bench/generate.py some/folder  another one

Rounds alternate between the two; medians, by the clock and, since other work may share the processor, by the processor's
time. The tokens have to be equal. At last the wait for an answer's first token in the sixth turn of a conversation, whose
beginning is read anew or was kept.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig

from onehour.data.chat import Chat
from onehour.data.tokens import Bytes
from onehour.models.decoding import Decoder
from onehour.models.gpt import GPT, Cache, GPTConfig
from onehour.models.huggingface import write_folder
from onehour.models.pretrained import open_pretrained
from onehour.models.sampling import begun, generate

FETCHED = Path(__file__).parents[1] / "pretrained" / "smollm2"
SIZE = dict(num_layers=30, width=576, num_heads=9, num_kv_heads=3, hidden_width=1536)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=FETCHED if FETCHED.is_dir() else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--num-tokens", type=int, default=64)
    parser.add_argument("--num-prompt", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = GPTConfig(vocab_size=49152, context=2048, tied=True, **SIZE)  # type: ignore[arg-type]
    model = open_pretrained(options.model).build() if options.model else GPT(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder) / "model", model, Bytes().json(), Chat())
        twin = AutoModelForCausalLM.from_pretrained(Path(folder) / "model", dtype=torch.float32).eval()
    name = options.model.name if options.model else "random weights"
    print(f"{name}, {torch.get_num_threads()} threads, {options.num_tokens} new tokens after {options.num_prompt}")
    for batch_size in (1, 8):
        random = torch.Generator().manual_seed(0)
        prompt = torch.randint(1000, 2000, (batch_size, options.num_prompt), generator=random)
        compare(model, twin, prompt, options.num_tokens, options.rounds)
    wait(model, options.rounds)


def compare(model: GPT, twin: torch.nn.Module, prompt: Tensor, num_tokens: int, rounds: int) -> None:
    """Print the tokens per second of both for a batch of prompts (B, T), and their ratio."""
    decoder = Decoder(model, len(prompt))
    plan = GenerationConfig(max_new_tokens=num_tokens, min_new_tokens=num_tokens, do_sample=False)

    def ours() -> Tensor:
        return torch.stack(list(generate(decoder, prompt, num_tokens, temperature=0)), dim=1)

    def theirs() -> Tensor:
        whole: Tensor = twin.generate(prompt, generation_config=plan, attention_mask=torch.ones_like(prompt))  # type: ignore
        return whole[:, prompt.shape[1] :]

    equal = torch.equal(ours(), theirs())  # and both are warm
    times = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    speeds = [
        len(prompt) * num_tokens / statistics.median(clock for clock, _ in column)
        for column in zip(*times, strict=True)
    ]
    what = f"batch {len(prompt)}"
    print(
        f"tokens/s, {what}, onehour / transformers: {spread([them[0] / us[0] for us, them in times])}, "
        f"{speeds[0]:.1f} / {speeds[1]:.1f}",
        flush=True,
    )
    print(f"processor time for them, {what}, transformers / onehour: {spread([them[1] / us[1] for us, them in times])}")
    print(f"the same tokens of both, {what}: {'yes' if equal else 'no'}", flush=True)


def wait(model: GPT, rounds: int, num_question: int = 20, num_answer: int = 80) -> None:
    """Print how much sooner the sixth answer begins when five questions and answers, and so many tokens, were read before."""
    decoder, random = Decoder(model, 1), torch.Generator().manual_seed(0)
    asked = torch.randint(1000, 2000, (1, 6 * num_question + 5 * num_answer), generator=random)
    before = begun(decoder, asked[:, :-num_question], num_answer)
    list(generate(decoder, asked[:, :-num_question], 1, temperature=0, cache=before))

    def first(before: Cache | None) -> Tensor:
        return next(
            generate(decoder, asked, num_answer, temperature=0, cache=begun(decoder, asked, num_answer, before))
        )

    equal = torch.equal(first(before), first(None))
    times = [(seconds(lambda: first(before)), seconds(lambda: first(None))) for _ in range(rounds)]
    kept, anew = (1000 * statistics.median(processor for _, processor in column) for column in zip(*times, strict=True))
    print(
        f"processor time to the first token of a sixth answer, {asked.shape[1]} tokens, read anew / from what was kept: "
        f"{spread([anew[1] / kept[1] for kept, anew in times])}, {anew:.0f} / {kept:.0f} ms"
    )
    print(f"the same token of both: {'yes' if equal else 'no'}", flush=True)


def spread(ratios: list[float]) -> str:
    """The median of some ratios, the lowest and the highest."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """How long it takes, by the clock and by the processor, whose cores add up."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


if __name__ == "__main__":
    main()

"""vLLM on each node, in an actor: every node answers the same prompts with a model with random weights.

    python vllm_on_each_node.py DIRECTORY

DIRECTORY is on a shared file system; the model is made there.
"""

import os
import pathlib
import socket
import sys
from importlib.metadata import version

import ray

MODEL = pathlib.Path(sys.argv[1]) / "model"


def make_model(place: pathlib.Path) -> None:
    """A Llama of 1 MB that knows bytes; its weights are random."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: number for number, word in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    words.save_pretrained(place)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(place)


@ray.remote
class Engine:
    """vLLM's engine on one node."""

    def __init__(self, model: str) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        from vllm import LLM

        self.engine = LLM(model, max_model_len=256, dtype="float32", enforce_eager=True)

    def answer(self, prompts: "list[str]") -> "tuple[str, list[int]]":
        """This host, and how many tokens each prompt got."""
        from vllm import SamplingParams

        found = self.engine.generate(prompts, SamplingParams(max_tokens=6, ignore_eos=True))
        return socket.gethostname(), [len(one.outputs[0].token_ids) for one in found]


if __name__ == "__main__":
    make_model(MODEL)
    ray.init()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    engines = [
        Engine.options(num_cpus=1, resources={f"node:{node['NodeManagerAddress']}": 0.01}).remote(str(MODEL))
        for node in nodes
    ]
    found = ray.get([engine.answer.remote(["hello", "a longer prompt"]) for engine in engines])
    assert all(tokens == [6, 6] for _, tokens in found), found
    print("LIBRARY vllm", version("vllm"), "NODES", len({host for host, _ in found}))

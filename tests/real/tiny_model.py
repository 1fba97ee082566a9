"""Make a tiny Llama with random weights, a tokenizer and a chat template: `tiny_model.py FOLDER`.

Runs with the Python of the vLLM environment. The answers are words in no order, the same ones each time;
the tokenizer has only words and pieces of words, so they can be read, and what JSON is written with.
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 512
JSON = '{}[]":,-0123456789'
POSITIONS = 512
START, END, UNKNOWN = "<s>", "</s>", "<unk>"

# What the tokenizer learns its words from.
TEXT = """
A notebook is a good place to try a language model. You write a question in a cell, run it, and read the
answer below it. The server which gives the answer runs beside the notebook, and holds the memory of a graphics
card for as long as it lives. When the work is done the server is stopped, and the memory is free again for
the next one. The river runs past the old town, under the stone bridge, and down to the sea. In the morning
the fishermen bring their boats home, and the market opens before the bells ring. Children walk to school
along the wall, and the baker puts warm bread in the window. It rains often in spring, and the hills turn
green in one week. In summer the evenings are long and people sit outside until the stars come out. Every
number from zero to nine has a name: zero, one, two, three, four, five, six, seven, eight, nine. Words are
made of letters, letters make sound, and sound carries a story from one person to another. What is the time?
Who is there? Where are we going, and why? How many birds are on the roof? Please tell me a short story about
a small red fox that wanted to see the ocean, and found a friend on the way.
"""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train byte-pair encoding on TEXT."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[START, END, UNKNOWN],
        initial_alphabet=list(JSON),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(TEXT.split())], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=POSITIONS,
        chat_template=CHAT_TEMPLATE,
    )


def make_model() -> LlamaForCausalLM:
    """Draw the weights, always the same ones."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=POSITIONS,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config)


def main() -> None:
    """Write both into the folder."""
    folder = Path(sys.argv[1])
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    make_model().save_pretrained(folder)


if __name__ == "__main__":
    main()

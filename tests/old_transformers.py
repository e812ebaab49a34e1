"""What the model in a folder answers and how texts are read, under any release of transformers.

Prints JSON: for each text the tokens, the loss and the greedy continuation; and the text that
the chat template makes of a question, where there is one.
"""

import json
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(folder: str, *texts: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            loss = model(**inputs, labels=inputs["input_ids"]).loss
            answer = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        length = inputs["input_ids"].shape[1]
        found.append(
            {
                "tokens": inputs["input_ids"][0].tolist(),
                "loss": loss.item(),
                "answer": answer[0, length:].tolist(),
            }
        )
    chat = None
    if tokenizer.chat_template:
        question = [{"role": "user", "content": "Who?"}]
        chat = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    print(json.dumps({"release": transformers.__version__, "texts": found, "chat": chat}))


if __name__ == "__main__":
    main(*sys.argv[1:])

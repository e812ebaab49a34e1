"""What a folder's model answers and how its texts are read, under any release of transformers.

    python tests/open_model.py FOLDER TEXT...

Prints JSON: the release, and for every text its tokens, its loss and its greedy continuation; and
what the chat template makes of a question, where there is one.
"""

import json
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(folder: str, *texts: str) -> None:
    # transformers 5 calls it dtype, and reads the older name as well.
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens, losses, answers = [], [], []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        ids = inputs["input_ids"]
        with torch.no_grad():
            losses.append(model(**inputs, labels=ids).loss.item())
            answer = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        tokens.append(ids[0].tolist())
        answers.append(answer[0, ids.shape[1] :].tolist())
    chat = None
    if tokenizer.chat_template:
        question = [{"role": "user", "content": "Who?"}]
        chat = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    found = {"tokens": tokens, "losses": losses, "answers": answers, "chat": chat}
    print(json.dumps({"release": transformers.__version__, **found}))


if __name__ == "__main__":
    main(*sys.argv[1:])

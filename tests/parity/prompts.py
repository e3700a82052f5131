"""Texts that the references are made on. Our own wording, synthetic throughout."""

# ruff: noqa: E501  (escapes make short texts long)

from __future__ import annotations

# Each at least 64 tokens: prose, a note with numbers, code, a chat turn, a list, broken spelling and other scripts.
LOGIT_PROMPTS = (
    "The harbour master kept two ledgers. In the first she wrote what the ships declared: salt, rope, barrels of tar, a "
    "crate of lemons for the infirmary. In the second, which nobody but her ever opened, she wrote what she thought they "
    "carried, and why. On quiet evenings she compared the two columns, counted the differences, and slept rather badly. "
    "One night in March the lamp went out, and when it was lit again the second ledger",
    "Synthetic note, no real patient. 54-year-old woman, 3 days of productive cough and fever to 38.7 C. History: type 2 "
    "diabetes (metformin 500 mg twice daily), hypertension (lisinopril 10 mg once daily). No known drug allergies. Chest: "
    "crackles at the right base. SpO2 94% on room air, HR 102, BP 128/76. Assessment: community-acquired pneumonia, mild. "
    "Plan: amoxicillin 1 g three times daily for 5 days, review in 48 hours. In plain words for the patient:",
    'def merge_intervals(intervals):\n    """[(1, 4), (3, 6), (8, 9)] -> [(1, 6), (8, 9)]."""\n    merged = []\n'
    "    for start, end in sorted(intervals):\n        if merged and start <= merged[-1][1]:\n"
    "            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))\n        else:\n"
    '            merged.append((start, end))\n    return merged\n\n\ndef total_length(intervals):\n    """How much the union covers."""\n    return',
    "<|im_start|>system\nYou answer in one short sentence.<|im_end|>\n<|im_start|>user\nA train leaves at 9:40 and arrives "
    "at 13:05. It stops twice on the way, for 12 minutes and for 8 minutes. For how many minutes was the train moving?"
    "<|im_end|>\n<|im_start|>assistant\nFrom 9:40 to 13:05 is 205 minutes; take away the 20 minutes of stops and the",
    "Things to pack for a week in the hills:\n\n1. Boots, already broken in.\n2. Two pairs of wool socks for every three "
    "days.\n3. A map on paper; batteries fail when it is cold.\n4. Oats, nuts, dried apricots, a small bag of salt.\n5. A "
    "whistle.\n\nThings to leave at home:\n\n1. A second book.\n2. The large umbrella.\n3. Anything that must not get wet."
    "\n\nThings people forget:\n\n1.",
    'Ils ont dit \u00ab bonjour \u00bb, puis "\u4f60\u597d", puis \u00b7\u00b7\u00b7 rien. teh quikc brwon fox jmups ovre 12,345.678 lzay dogs!! \u2014 na\u00efve caf\u00e9, '
    "\u00c5ngstr\u00f6m, \u03b1 \u2264 \u03b2, \U0001f642\U0001f9ea and CamelCaseIdentifiers_with_snakes, www.example.org/a?b=c&d=%20e, 0x7fff, 1e-5, "
    "3/4, \u00bd, 10\u207b\u00b3. After all of that noise the sentence goes back to being a perfectly ordinary one about",
)

GREEDY_PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "Water boils at",
    "Write a short poem about the first snow of winter.\n\n",
    "List three ways to save electricity at home:\n1.",
    "Question: What do bees make?\nAnswer:",
    "Translate to French: Good morning, my friend.\nFrench:",
    "def fibonacci(n):\n",
    'import json\n\n\ndef read_config(path):\n    """Reads a JSON file."""\n',
    "The patient was given 500 mg of paracetamol because",
    "Explain in plain words what high blood pressure is.\n\n",
    "12 + 30 = 42. 15 + 27 =",
    "A haiku about rivers:\n",
    "The three primary colours are",
    "<|im_start|>user\nName two planets.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>system\nYou are terse.<|im_end|>\n<|im_start|>user\nHow do I boil an egg?<|im_end|>\n<|im_start|>assistant\n",
    "Dear Sir or Madam,\n\nI am writing to complain about",
    "In 1969,",
    'The opposite of "hot" is',
)

# What tokenizers get wrong: digits after white space, runs of white space, other scripts, look-alikes of special tokens.
TOKEN_LINES = (
    "",
    " ",
    "\n",
    "Hello world",
    "  two leading spaces, two trailing  ",
    "tabs\tand\t\ttabs\r\nand carriage returns\r\n",
    "a\n\nb\n\n\nc \n d",
    "2024-11-22, 3.14159, 1,000,000 and 007",
    "\n\n1. first\n\n2. second\n   3. third",
    "dose: 500mg  2 tablets   3 times",
    "x=1;y= 22;z  =  333",
    "\u00bd cup, x\u00b2 + y\u00b3, \u2460\u2461, \u0663\u0664\u0665, \u4e09, \u2167",
    "half \u00bd  \u00bd and\u00a0nbsp\u00a07",
    "don't, I'll, we've, they're, it's, DON'T, 'tis",
    "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m \u00fcber stra\u00dfe \u0141\u00f3d\u017a",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u3053\u3093\u306b\u3061\u306f \ud55c\uad6d\uc5b4",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u03ba\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1, \u0645\u0631\u062d\u0628\u0627, \u05e9\u05dc\u05d5\u05dd, \u0928\u092e\u0938\u094d\u0924\u0947",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 \u2764\ufe0f \u2705",
    "e\u0301 combining, zero\u200bwidth, bom\ufeff, nul\x00, bell\x07, del\x7f, \ufffd",
    "for (int i = 0; i < 10; ++i) { a[i] += 0x1F; } // end",
    "    def f(self, *args, **kwargs) -> dict[str, int]:\n        return {'a': 1}  # 4 spaces",
    "SELECT * FROM t WHERE id >= 42 AND name LIKE '%x_';",
    "https://example.org/path?q=1&r=two#three user@example.org",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "text<|endoftext|>more<|endoftext|>",
    "<|im_start |> <|im_end|><|im_end|> <im_end> <| im_end |>",
    "a <|im_end|> b, <filename>x.py<gh_stars>12<reponame>",
    "<jupyter_start><jupyter_code>print(1)<empty_output>",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA " + "na" * 40,
    "-----=====*****_____.....!!!!!?????",
    "BP 120/80 mmHg; HbA1c 6.5%; K+ 4.1 mmol/L; T 37.2\u00b0C; q8h \u00d7 5d",
)

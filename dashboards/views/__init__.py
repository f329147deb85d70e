"""The pages, by the name in the URL: title, and a function of the selection. README.md says how to add one."""

from views import ablation, directions, generation, heads, introduction, lens, tokens

PAGES = {
    "heads": ("Heads", heads.page),
    "introduction": ("How a GPT works", introduction.page),
    "generation": ("Generation", generation.page),
    "ablation": ("Ablation", ablation.page),
    "lens": ("Logit lens", lens.page),
    "directions": ("Directions", directions.page),
    "tokens": ("Tokens and model", tokens.page),
}

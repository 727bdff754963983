"""The names of the files in a picked folder."""

WEIGHTS, RECIPE, POLICY = "model.safetensors", "recipe.json", "policy.json"
CARD_JSON, CARD = "card.json", "card.md"

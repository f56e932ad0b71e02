"""Pictures and captions: finding them, reading them, holding some out, choosing prompts from them."""

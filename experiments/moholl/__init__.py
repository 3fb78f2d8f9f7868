"""MOHOLLM's regions without a language model, beside other searches."""

"""HM3 on SmolLM2-135M: data and training of its three experts (see README.md)."""

"""One folder per question: its README, script and committed small results."""

"""What computes scores: jobs go in, outcomes come out in order. Storing them is not done here."""

"""HM3's Table 6: what each level is worth."""

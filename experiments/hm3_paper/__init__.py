"""HM3 and MM-MO as published, beside ours."""

"""Writes one page of the API reference for each module; run by mkdocs."""

from pathlib import Path

import mkdocs_gen_files

nav = mkdocs_gen_files.Nav()
package = Path(__file__).parent.parent / "hm3rl"
for source in sorted(package.rglob("*.py")):
    parts = source.relative_to(package.parent).with_suffix("").parts
    if parts[-1] == "__init__":
        continue
    page = Path("reference", *parts[1:]).with_suffix(".md")
    nav[parts[1:]] = page.relative_to("reference").as_posix()
    with mkdocs_gen_files.open(page, "w") as file:
        file.write(f"::: {'.'.join(parts)}\n")
        file.write("    options: {heading_level: 1, show_root_full_path: true}\n")
with mkdocs_gen_files.open("reference/SUMMARY.md", "w") as file:
    file.writelines(nav.build_literate_nav())
